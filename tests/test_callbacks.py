"""RecalibrateBatchNorm, against statistics by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import callbacks

X = np.random.default_rng(0).normal(2.0, 3.0, [50, 4]).astype("float32")


def network():
    inputs = keras.Input([4])
    x = keras.layers.Dropout(0.5)(inputs)
    x = keras.layers.Dense(3)(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def recalibrated(model, data, **arguments):
    callback = callbacks.RecalibrateBatchNorm(data, **arguments)
    callback.set_model(model)
    callback.recalibrate()
    return model.get_layer("norm")


def expected_statistics(model, batches):
    dense = model.layers[2]
    hidden = [b @ dense.kernel.numpy() + dense.bias.numpy() for b in batches]
    sizes = [len(b) for b in batches]
    return (
        np.average([h.mean(0) for h in hidden], 0, sizes),
        np.average([h.var(0) for h in hidden], 0, sizes),
    )


@pytest.mark.parametrize("kind", ["array", "pair", "dataset"])
def test_statistics_are_those_of_the_batches_without_dropout(kind):
    data = {
        "array": X,
        "pair": (X, X[:, :1]),
        "dataset": tf.data.Dataset.from_tensor_slices((X, X)).batch(20),
    }[kind]
    model = network()
    norm = recalibrated(model, data, batch_size=20)
    # Batches of 20, 20 and 10, weighted by their sizes.
    mean, variance = expected_statistics(model, [X[:20], X[20:40], X[40:]])
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


def test_everything_else_is_left_alone():
    model = network()
    norm = model.get_layer("norm")
    kept = [v for v in model.variables if "moving" not in v.path]
    before = [v.numpy() for v in kept]
    recalibrated(model, X)
    for variable, value in zip(kept, before, strict=True):
        assert (variable.numpy() == value).all()
    assert norm.momentum == 0.99
    assert "call" not in vars(norm)
    # Inference uses the statistics and does not move them.
    statistics = norm.moving_mean.numpy()
    model(X)
    assert (norm.moving_mean.numpy() == statistics).all()


def test_a_frozen_layer_keeps_its_statistics():
    model = network()
    model.get_layer("norm").trainable = False
    norm = recalibrated(model, X)
    assert (norm.moving_mean.numpy() == 0).all()


def test_statistics_are_fresh_at_each_evaluation_and_at_the_end():
    model = entropy_keras.EntropyModel.from_model(network())
    model.compile(
        entropy_keras.EntropySGD(langevin_learning_rate=1e-3), loss="mse"
    )
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            seen.append(model.get_layer("norm").moving_mean.numpy())
            seen.append(expected_statistics(model, [X])[0])

    model.fit(
        X,
        X[:, :1],
        batch_size=5,
        epochs=2,
        validation_data=(X, X[:, :1]),
        callbacks=[callbacks.RecalibrateBatchNorm(X, batch_size=50), Spy()],
        verbose=0,
    )
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-4)
    np.testing.assert_allclose(seen[2], seen[3], rtol=1e-4)
    assert abs(seen[2] - seen[0]).max() > 1e-4
    np.testing.assert_allclose(
        model.get_layer("norm").moving_mean,
        expected_statistics(model, [X])[0],
        rtol=1e-4,
    )


def test_without_batch_normalization_nothing_happens():
    inputs = keras.Input([4])
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    before = model.get_weights()
    callback = callbacks.RecalibrateBatchNorm(X)
    callback.set_model(model)
    callback.recalibrate()
    assert (model.get_weights()[0] == before[0]).all()


def test_no_data_is_an_error():
    callback = callbacks.RecalibrateBatchNorm(
        tf.data.Dataset.from_tensor_slices(X[:0]).batch(5)
    )
    callback.set_model(network())
    with pytest.raises(ValueError, match="`data` must be a data set of at"):
        callback.recalibrate()
