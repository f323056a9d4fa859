"""An update compiled for a GPU, up to the outer step, which needs none."""

import re

import keras
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import batching
from entropy_keras import passes
from entropy_keras import update

MINIBATCHES, SIZE = 3, 4


def perceptron():
    return keras.Sequential([
        keras.Input([6]),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(3),
    ])


def convolutional():
    return keras.Sequential([
        keras.Input([8, 8, 2]),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ])


def recurrent():
    return keras.Sequential([
        keras.Input([5, 2]),
        keras.layers.LSTM(4),
        keras.layers.Dense(3),
    ])


def hlo(network, monkeypatch):
    """Returns the program for a GPU of one update as a pure function."""
    model = entropy_keras.EntropyModel.from_model(network)
    model.compile(
        entropy_keras.EntropySGD(
            0.1, num_langevin_steps=MINIBATCHES, temperature=1e-4, seed=0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    model.optimizer.build(model.trainable_variables)
    variables = [
        *model.variables, *model.metrics_variables, *model.optimizer.variables
    ]  # fmt: skip
    data = (
        tf.zeros([MINIBATCHES * SIZE, *model.input_shape[1:]]),
        tf.zeros([MINIBATCHES * SIZE], tf.int32),
    )

    @tf.function(jit_compile=True)
    def gradients(values, data):
        # The lowering takes no variables: tensors stand in for their values.
        with monkeypatch.context() as patch:
            for variable, value in zip(variables, values, strict=True):
                patch.setattr(variable, "_value", value)
            minibatch = batching.split(data, MINIBATCHES)
            gradient_at = passes.GradientAt(
                model, minibatch, model.optimizer.clip
            )
            change = update.compute(model, model.optimizer, gradient_at)
            return [value for _, value in change.changes]

    values = [tf.convert_to_tensor(variable) for variable in variables]
    lower = gradients.experimental_get_compiler_ir(values, data)
    return lower(stage="hlo", platform_name="GPU")


@pytest.mark.parametrize(
    ("build", "loops"),
    # That of the chain; and those of the LSTM forwards and backwards, at the
    # first step, which is outside of it, and inside.
    [(perceptron, 1), (convolutional, 1), (recurrent, 1 + 2 * 2)],
)
def test_one_loop_and_nothing_on_the_host(build, loops, monkeypatch):
    text = hlo(build(), monkeypatch)
    operations = re.findall(r" ([a-z][a-z0-9-]*)\(", text)
    assert {"dot", "rng-bit-generator", "while"} <= set(operations)
    # Host transfers, callbacks, and random numbers that are not stateless.
    assert not {
        "infeed", "outfeed", "send", "recv", "custom-call", "rng"
    } & set(operations)  # fmt: skip
    assert operations.count("while") == loops
    assert "f64[" not in text
