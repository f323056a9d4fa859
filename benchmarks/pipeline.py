"""What it costs to put mini-batches together to groups.

    python -m benchmarks.pipeline --network=mnistfc

One model, compiled once, makes the same updates from inputs that take turns:
groups that lie ready, which `keras.Model.fit` passes on as they are;
mini-batches, which `EntropyModel.fit` groups, more easily if they are known to
have the same size; and arrays, of which Keras gathers a group at a time.
Printed is the median over the rounds of the time over that with ready groups,
with the smallest and largest.
"""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import networks
from trainers import usage

NUM_STEPS = 5

_NETWORK = flags.DEFINE_enum(
    "network", "mnistfc", list(networks.NAMES), "Network to train."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Size of a mini-batch.", lower_bound=1
)
_UPDATES = flags.DEFINE_integer(
    "updates", 94, "Updates in a round.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds.", lower_bound=3)
_OUTPUT = common.output_file()


def inputs() -> dict[str, Callable[[], Any]]:
    """Returns functions that make all updates of a round.

    Returns:
        A function by the name of what it reads.
    """
    keras.utils.set_random_seed(0)
    network = networks.build(_NETWORK.value)
    model: Any = entropy_keras.EntropyModel.from_model(network)
    model.compile(
        entropy_keras.EntropySGD(0.1, num_langevin_steps=NUM_STEPS, seed=0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    size, group = _BATCH_SIZE.value, NUM_STEPS * _BATCH_SIZE.value
    x, y = common.samples(_NETWORK.value, group * _UPDATES.value)
    rows = tf.data.Dataset.from_tensors((x, y)).unbatch()
    groups = common.cached_batches(rows, group, drop_remainder=False)
    batches = common.cached_batches(rows, size, drop_remainder=False)
    equal = common.cached_batches(rows, size, drop_remainder=True)
    arguments = {"shuffle": False, "verbose": 0}
    return {
        "ready groups": lambda: keras.Model.fit(model, groups, **arguments),
        "mini-batches": lambda: model.fit(batches, **arguments),
        "of a known size": lambda: model.fit(equal, **arguments),
        "arrays": lambda: model.fit(x, y, size, **arguments),
    }


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    runs = inputs()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS.value + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name, times in seconds.items():
        references = seconds["ready groups"][2:]
        rows[name] = common.ratios(times[2:], references) | {
            "milliseconds_per_update": round(
                1e3 * statistics.median(times[2:]) / _UPDATES.value, 3
            ),
        }
        print(
            f"{name:16} {rows[name]['ratio']:6.3f} "
            f"[{rows[name]['smallest']:.3f}, {rows[name]['largest']:.3f}]  "
            f"{rows[name]['milliseconds_per_update']:8.2f} ms per update"
        )
    common.write(
        _OUTPUT.value, "pipeline", __name__, {"time_over_ready_groups": rows}
    )


if __name__ == "__main__":
    app.run(main)
