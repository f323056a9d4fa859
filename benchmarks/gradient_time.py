"""Time per gradient evaluation of Entropy-SGD against Keras's SGD.

    python -m benchmarks.gradient_time --network=small_mnistfc

All variants train the same network on the same batches and alternate, round by
round; printed is the median over the rounds of each variant's time per gradient
over that of SGD with its better jit setting in the same round, with the
smallest and largest. `--output` writes the same as JSON.
"""

import pathlib
import statistics
import sys
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
from trainers import report

_NETWORK = flags.DEFINE_enum(
    "network",
    "small_mnistfc",
    [name for name in networks.NAMES if name != "char_lstm"],
    "Network to time, of those that take images.",
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "Multiplier of its channels and units.", lower_bound=0.01
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Size of a mini-batch.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "num_langevin_steps", 5, "Inner steps per update.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Rounds.", lower_bound=3)
_UPDATES = flags.DEFINE_integer(
    "updates", 60, "Updates of each variant in a round.", lower_bound=1
)
_JIT = flags.DEFINE_bool("jit", True, "Whether to time XLA as well.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def _variants() -> dict[str, Callable[[], keras.optimizers.Optimizer]]:
    def entropy(**arguments: Any) -> Callable[[], Any]:
        return lambda: entropy_keras.EntropySGD(
            0.1, num_langevin_steps=_STEPS.value, seed=0, **arguments
        )

    return {
        "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        "entropy_sgd, no noise": entropy(temperature=0.0),
        "entropy_sgd": entropy(),
        "entropy_sgd, diagnostics": entropy(diagnostics=True),
    }


def _seconds_per_gradient(
    model: keras.Model, dataset: tf.data.Dataset, num_gradients: int
) -> float:
    start = time.perf_counter()
    model.fit(dataset, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / num_gradients


def _models() -> dict[str, keras.Model]:
    models = {}
    for jit_compile in (False, True) if _JIT.value else (False,):
        for name, make in _variants().items():
            keras.utils.set_random_seed(0)
            network = networks.build(_NETWORK.value, width=_WIDTH.value)
            model = entropy_keras.EntropyModel.from_model(network)
            model.compile(
                make(),
                loss=keras.losses.SparseCategoricalCrossentropy(True),
                jit_compile=jit_compile,
            )
            models[name + (", jit" if jit_compile else "")] = model
    return models


def measure() -> dict[str, list[float]]:
    """Times all variants.

    Returns:
        Seconds per gradient evaluation in each round, by variant.
    """
    num_gradients = _STEPS.value * _UPDATES.value
    rng = np.random.default_rng(0)
    size = num_gradients * _BATCH_SIZE.value
    shape = networks.input_shape(_NETWORK.value)
    dataset = tf.data.Dataset.from_tensors((
        rng.normal(size=(size, *shape)).astype("float32"),
        rng.integers(0, 10, size),
    ))
    dataset = dataset.unbatch().batch(_BATCH_SIZE.value).cache()
    # The thread that tunes a pipeline wakes up at 10, 30, 70, 150 ms and so on,
    # and some calls of `fit` wait for it: they take up to twice their time.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    models = _models()
    times: dict[str, list[float]] = {name: [] for name in models}
    for round_number in range(_ROUNDS.value + 2):  # two to warm up
        for name, model in models.items():
            seconds = _seconds_per_gradient(model, dataset, num_gradients)
            if round_number >= 2:
                times[name].append(seconds)
    return times


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")
    times = measure()
    references = [
        min(pair)
        for pair in zip(
            *(times[n] for n in ("sgd", "sgd, jit") if n in times), strict=True
        )
    ]
    rows = {}
    for name, seconds in times.items():
        ratios = sorted(
            s / reference
            for s, reference in zip(seconds, references, strict=True)
        )
        rows[name] = {
            "ratio": round(statistics.median(ratios), 3),
            "smallest": round(ratios[0], 3),
            "largest": round(ratios[-1], 3),
            "milliseconds": round(1e3 * statistics.median(seconds), 3),
        }
        print(
            f"{name:32} {rows[name]['ratio']:6.2f} [{ratios[0]:.2f}, "
            f"{ratios[-1]:.2f}]  {rows[name]['milliseconds']:8.2f} ms"
        )
    if _OUTPUT.value:
        report.write_results(
            pathlib.Path(_OUTPUT.value),
            {
                "command": "python -m benchmarks.gradient_time",
                "settings": common.settings(__name__),
                "time_per_gradient_over_sgd": rows,
            },
        )


if __name__ == "__main__":
    app.run(main)
