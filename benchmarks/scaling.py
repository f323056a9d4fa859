"""Time of one update against the number of weights and of inner steps.

    python -m benchmarks.scaling

A network of two dense layers of equal width is trained on mini-batches of 8,
compiled with XLA and with noise. All sizes alternate, round by round; printed
are the medians, also per weight and inner step, which proportional growth keeps
constant, and the time of the first update, which traces and compiles.
"""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import usage

BATCH_SIZE = 8

_WIDTHS = flags.DEFINE_multi_integer(
    "widths", [70, 223, 706, 2235], "Widths; the weights are twice the squares."
)
_STEPS = flags.DEFINE_multi_integer(
    "steps", [1, 5, 10, 50], "Numbers of inner steps, at the second width."
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds.", lower_bound=3)
_OUTPUT = common.output_file()

Update = Callable[[], None]


def prepare(width: int, num_steps: int) -> tuple[Update, int, float]:
    """Builds and compiles a network.

    Args:
        width: Width of its two layers.
        num_steps: Inner steps per update.

    Returns:
        A function that makes one update, the number of weights, and the
        seconds of the first update.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.Input([width])
    hidden = keras.layers.Dense(width, "relu")(inputs)
    model = entropy_keras.EntropyModel(
        inputs, keras.layers.Dense(width)(hidden)
    )
    model.compile(
        entropy_keras.EntropySGD(0.01, num_langevin_steps=num_steps, seed=0),
        loss="mse",
        jit_compile=True,
    )
    rows = BATCH_SIZE * num_steps
    batch = np.ones([rows, width], "float32")
    updates = common.make_updates(model, (batch, batch))

    def update() -> None:
        updates(1)

    start = time.perf_counter()
    update()
    return update, model.count_params(), time.perf_counter() - start


def _median_times(updates: Sequence[Update], rounds: int) -> list[float]:
    times: list[list[float]] = [[] for _ in updates]
    for _ in range(rounds + 1):
        for update, seconds in zip(updates, times, strict=True):
            repetitions = max(1, round(0.1 / seconds[0])) if seconds else 1
            start = time.perf_counter()
            for _ in range(repetitions):
                update()
            seconds.append((time.perf_counter() - start) / repetitions)
    return [statistics.median(seconds[1:]) for seconds in times]


def measure(
    widths: Sequence[int], steps: Sequence[int], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Times updates of all sizes.

    Args:
        widths: Widths of the networks, ascending, which make 5 inner steps.
        steps: Numbers of inner steps, ascending, of a network of the second
            width.
        rounds: Rounds.

    Returns:
        Rows of two tables, `weights` and `inner_steps`.
    """
    cases = [(width, 5) for width in widths] + [(widths[1], n) for n in steps]
    prepared = [prepare(*case) for case in cases]
    seconds = _median_times([update for update, _, _ in prepared], rounds)
    rows = [
        {
            "weights": weights,
            "inner_steps": num_steps,
            "milliseconds": 1e3 * time_of_update,
            "nanoseconds_per_weight_and_step": 1e9
            * time_of_update
            / (weights * num_steps),
            "first_update_seconds": first,
        }
        for (_, num_steps), (_, weights, first), time_of_update in zip(
            cases, prepared, seconds, strict=True
        )
    ]
    return {"weights": rows[: len(widths)], "inner_steps": rows[len(widths) :]}


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    tables = measure(_WIDTHS.value, _STEPS.value, _ROUNDS.value)
    for rows in tables.values():
        print("   weights  steps  ms/update  ns/weight/step  first update [s]")
        for row in rows:
            print(
                f"{row['weights']:10,} {row['inner_steps']:6} "
                f"{row['milliseconds']:10.3f} "
                f"{row['nanoseconds_per_weight_and_step']:15.2f} "
                f"{row['first_update_seconds']:17.2f}"
            )
    common.write(_OUTPUT.value, "scaling", __name__, tables)


if __name__ == "__main__":
    app.run(main)
