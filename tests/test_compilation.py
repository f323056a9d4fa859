"""`jit_compile="auto"`: XLA on a CPU where it was measured to be faster."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import compilation

pytestmark = pytest.mark.automatic_xla
layers = keras.layers


def perceptron(*between, dtype=None):
    inputs = keras.Input([6])
    hidden = layers.Dense(4, "relu", dtype=dtype)(inputs)
    for layer in between:
        hidden = layer(hidden)
    return keras.Model(inputs, layers.Dense(2, dtype=dtype)(hidden))


def on_sequences(layer):
    inputs = keras.Input([5, 3])
    return keras.Model(inputs, layers.Dense(2)(layer(inputs)))


def attention():
    inputs = keras.Input([5], dtype="int32")
    hidden = layers.Embedding(7, 4)(inputs)
    hidden = layers.LayerNormalization()(
        hidden + layers.MultiHeadAttention(2, 2)(hidden, hidden)
    )
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(hidden))


def convolution():
    inputs = keras.Input([6, 6, 1])
    hidden = layers.Flatten()(layers.Conv2D(2, 3)(inputs))
    return keras.Model(inputs, layers.Dense(2)(hidden))


class OwnLayer(layers.Layer):
    def call(self, x):
        return x


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def compiled(model, optimizer=None, **arguments):
    model = entropy_keras.EntropyModel.from_model(model)
    optimizer = optimizer or entropy_keras.EntropySGD(0.1, seed=0)
    model.compile(optimizer, loss="mse", **arguments)
    return model


@pytest.mark.parametrize(
    ("expected", "make"),
    [
        (True, perceptron),
        (True, lambda: perceptron(layers.BatchNormalization())),
        (True, lambda: perceptron(layers.Dropout(0.0))),
        (True, lambda: keras.Sequential([keras.Input([2]), layers.Dense(2)])),
        (True, lambda: on_sequences(layers.LSTM(4))),
        (True, lambda: on_sequences(layers.Bidirectional(layers.GRU(4)))),
        (True, attention),
        (False, convolution),
        (False, lambda: perceptron(layers.Dropout(0.5))),
        (False, lambda: on_sequences(layers.LSTM(4, dropout=0.1))),
        (False, lambda: on_sequences(layers.GRU(4, recurrent_dropout=0.1))),
        (False, lambda: perceptron(OwnLayer())),
        (False, OwnModel),
        (False, lambda: perceptron(dtype="float64")),
        (False, lambda: perceptron(dtype="mixed_bfloat16")),
    ],
)
def test_auto_depends_on_the_layers(expected, make):
    model = compiled(make())
    assert model.jit_compile is expected
    # A nested model counts as its layers.
    if not isinstance(model, OwnModel):
        outer = keras.Model(model.inputs, model(model.inputs))
        assert compiled(outer).jit_compile is expected


def test_sparse_inputs_are_left_to_tensorflow():
    inputs = keras.Input([6], sparse=True)
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert not compiled(model).jit_compile


@pytest.mark.parametrize("choice", [True, False])
def test_what_the_user_says_holds(choice):
    for make in (perceptron, convolution):
        assert compiled(make(), jit_compile=choice).jit_compile is choice


def test_keras_decides_for_other_optimizers_and_eager_mode():
    assert not compiled(perceptron(), keras.optimizers.SGD()).jit_compile
    assert not compiled(perceptron(), run_eagerly=True).jit_compile


def test_keras_decides_where_there_is_a_gpu(monkeypatch):
    gpu = types.SimpleNamespace(device_type="GPU")
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda device_type=None: [gpu]
    )
    assert compiled(convolution()).jit_compile
    assert compiled(perceptron()).jit_compile


def test_a_loaded_model_decides_again(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model = compiled(perceptron())
    model.optimizer.build(model.trainable_variables)
    model.save(path)
    assert keras.models.load_model(path).jit_compile
    monkeypatch.setattr(compilation, "prefers_xla", lambda model: False)
    assert not keras.models.load_model(path).jit_compile


def test_training_with_auto_equals_training_with_xla():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 2))
    weights = []
    for choice in ("auto", True):
        keras.utils.set_random_seed(0)
        model = compiled(perceptron(), jit_compile=choice)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_replicas_of_a_strategy_are_not_compiled():
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = entropy_keras.EntropyModel.from_model(
            keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
        )
        assert compilation.prefers_xla(model)
        model.compile(entropy_keras.EntropySGD(1.0), loss="mse")
    assert model.jit_compile is False
