"""Time per gradient of every sampler, metric and estimator.

    python -m benchmarks.samplers --network=mnistfc

All variants train the same network on the same group of mini-batches and
alternate, round by round. Printed is the median over the rounds of each
variant's time per gradient over that of `SGLD`, with the smallest and the
largest, and what tracing and compiling took. `--output` writes the same as
JSON.
"""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import networks
from trainers import usage

_NETWORK = flags.DEFINE_enum(
    "network", "mnistfc", list(networks.NAMES), "Network to time."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Size of a mini-batch.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds.", lower_bound=3)
_UPDATES = flags.DEFINE_integer(
    "updates", 20, "Updates of each variant in a round.", lower_bound=1
)
_JIT_COMPILE = flags.DEFINE_enum(
    "jit_compile", "on", list(common.JIT_COMPILE), "How to compile."
)
_OUTPUT = common.output_file()

REFERENCE = "sgld"
# Small steps, in proportion to the learning rate.
_TIED = {"temperature": 1e-8, "langevin_learning_rate": None}
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "sgld, no noise": {"temperature": 0.0},
    "sgld, no momentum": {"sampler": entropy_keras.SGLD(0.0)},
    "split_sgld": {"sampler": "split_sgld"},
    "split_sgld, average_noise": {
        "sampler": entropy_keras.SplitSGLD(average_noise=True)
    },
    "sghmc": {"sampler": "sghmc"},
    "sgnht": {"sampler": "sgnht"},
    "santa": {"sampler": "santa"},
    "gaussian_perturbation": {
        "sampler": "gaussian_perturbation", "estimator": "mean_gradient"
    },
    "InnerOptimizer(Adam)": {
        "sampler": entropy_keras.InnerOptimizer(keras.optimizers.Adam(1e-3)),
    },
    "sgld, relative": {"metric": "relative"},
    "sgld, rms_gradients": {"metric": "rms_gradients"},
    "sgld, learned": {"metric": "learned", "start": "stationary", "scope": 1.0},
    "sgld, subtract_noise": {
        "estimator": entropy_keras.Displacement(subtract_noise=True)
    },
    "sgld, mean_gradient": {"estimator": "mean_gradient"},
}  # fmt: skip


def measure() -> tuple[dict[str, list[float]], dict[str, float]]:
    """Times all variants.

    Returns:
        Seconds per gradient of each round, and the seconds of the first call.
    """
    updates: dict[str, Callable[[int], None]] = {}
    first, gradients = {}, {}
    for name, arguments in VARIANTS.items():
        keras.utils.set_random_seed(0)
        model = entropy_keras.EntropyModel.from_model(
            networks.build(_NETWORK.value)
        )
        optimizer = entropy_keras.EntropySGD(
            **({"learning_rate": 0.01, "seed": 0} | _TIED | arguments)
        )
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=common.JIT_COMPILE[_JIT_COMPILE.value],
        )
        rows = optimizer.minibatches_per_update * _BATCH_SIZE.value
        group = tuple(map(tf.constant, common.samples(_NETWORK.value, rows)))
        gradients[name] = optimizer.gradients_per_update * _UPDATES.value
        start = time.perf_counter()
        updates[name] = common.make_updates(model, group)
        updates[name](1)
        first[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(_ROUNDS.value):
        for name, update in updates.items():
            start = time.perf_counter()
            update(_UPDATES.value)
            taken = time.perf_counter() - start
            seconds[name].append(taken / gradients[name])
    return seconds, first


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    seconds, first = measure()
    rows = {}
    for name, times in seconds.items():
        rows[name] = common.ratios(times, seconds[REFERENCE]) | {
            "milliseconds": round(1e3 * statistics.median(times), 3),
            "first_call_seconds": round(first[name], 2),
        }
        row = rows[name]
        print(
            f"{name:28} {row['ratio']:5.2f} [{row['smallest']:.2f}, "
            f"{row['largest']:.2f}]  {row['milliseconds']:8.3f} ms  "
            f"(first call {row['first_call_seconds']:.1f} s)"
        )
    weights = sum(
        int(np.prod(v.shape))
        for v in networks.build(_NETWORK.value).trainable_variables
    )
    common.write(
        _OUTPUT.value,
        "samplers",
        __name__,
        {"weights": weights, "time_per_gradient_over_sgld": rows},
    )


if __name__ == "__main__":
    app.run(main)
