"""Whether XLA makes the inner loop faster, by kind of layer.

    python -m benchmarks.compilation

Times updates of small networks with noise, by TensorFlow's own kernels and by
XLA, which take turns. `entropy_keras.compilation` chooses from this.
"""

import pathlib
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
from trainers import report
from trainers import usage

BATCH_SIZE, NUM_STEPS, UPDATES = 64, 5, 8
layers = keras.layers

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds.", lower_bound=3)
_OUTPUT = common.output_file()


def _dense(*between: Callable[[], keras.Layer]) -> keras.Model:
    """Returns a network of two hidden layers with others after each."""
    inputs = hidden = keras.Input([784])
    for _ in range(2):
        hidden = layers.Dense(256)(hidden)
        for make in between:
            hidden = make()(hidden)
    return keras.Model(inputs, layers.Dense(10)(hidden))


def _sequence(*body: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input([32, 32]), *body, layers.Dense(10)])


def _tokens(attention: bool) -> keras.Model:
    inputs = keras.Input([32], dtype="int32")
    hidden = layers.Embedding(2000, 64)(inputs)
    if attention:
        seen = layers.MultiHeadAttention(2, 32)(hidden, hidden)
        hidden = layers.LayerNormalization()(hidden + seen)
        change = layers.Dense(64)(layers.Dense(128, "relu")(hidden))
        hidden = layers.LayerNormalization()(hidden + change)
    hidden = layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(inputs, layers.Dense(10)(hidden))


def _images() -> keras.Model:
    return keras.Sequential([
        keras.Input([28, 28, 1]),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(10),
    ])


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "dense": lambda: _dense(layers.ReLU),
    "batch normalization": lambda: _dense(layers.BatchNormalization),
    "layer normalization": lambda: _dense(layers.LayerNormalization),
    "dropout": lambda: _dense(lambda: layers.Dropout(0.2)),
    "Gaussian noise": lambda: _dense(lambda: layers.GaussianNoise(0.2)),
    "LSTM": lambda: _sequence(layers.LSTM(64)),
    "GRU": lambda: _sequence(layers.GRU(64)),
    "bidirectional LSTM": lambda: _sequence(
        layers.Bidirectional(layers.LSTM(32))
    ),
    "embedding": lambda: _tokens(attention=False),
    "transformer": lambda: _tokens(attention=True),
    "convolution in 1-D": lambda: _sequence(
        layers.Conv1D(32, 3), layers.GlobalAveragePooling1D()
    ),
    "convolution in 2-D": _images,
}


def prepare(
    make: Callable[[], keras.Model], jit_compile: bool
) -> Callable[[], float]:
    """Builds a network and makes a first update.

    Args:
        make: Builds it.
        jit_compile: Whether to use XLA.

    Returns:
        A function that times a round: seconds per gradient evaluation.
    """
    keras.utils.set_random_seed(0)
    model = entropy_keras.EntropyModel.from_model(make())
    model.compile(
        entropy_keras.EntropySGD(0.1, num_langevin_steps=NUM_STEPS, seed=0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    rng = np.random.default_rng(0)
    shape = (NUM_STEPS * BATCH_SIZE, *model.input_shape[1:])
    x: Any = rng.normal(size=shape).astype("float32")
    if model.inputs[0].dtype == "int32":
        x = rng.integers(0, 2000, shape)
    update = common.make_updates(model, (x, rng.integers(0, 10, shape[0])))

    def seconds() -> float:
        start = time.perf_counter()
        update(UPDATES)
        return (time.perf_counter() - start) / (UPDATES * NUM_STEPS)

    seconds()
    return seconds


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    rows = {}
    print("milliseconds per gradient    graph     XLA   ratio")
    for name, make in NETWORKS.items():
        pair = [prepare(make, jit_compile) for jit_compile in (False, True)]
        rounds = [[seconds() for seconds in pair] for _ in range(_ROUNDS.value)]
        graph, xla = (
            1e3 * statistics.median(times)
            for times in zip(*rounds, strict=True)
        )
        ratio = statistics.median(b / a for a, b in rounds)
        print(f"{name:25} {graph:8.2f} {xla:7.2f} {ratio:7.2f}", flush=True)
        rows[name] = {
            "milliseconds_graph": round(graph, 3),
            "milliseconds_xla": round(xla, 3),
            "ratio": round(ratio, 3),
        }
    if _OUTPUT.value:
        report.write_results(
            pathlib.Path(_OUTPUT.value),
            {
                "command": "python -m benchmarks.compilation",
                "rounds": _ROUNDS.value,
                "networks": rows,
            },
        )


if __name__ == "__main__":
    app.run(main)
