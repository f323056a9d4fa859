"""Curvature of adapters and transformers: of the trained weights alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape

RNG = np.random.default_rng(0)
LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, dtype="float64"
)
# Exact in float32, and as large as its rounding of a gradient asks for.
STEP, ERROR = 2.0**-8, 1e-3


@pytest.fixture(autouse=True)
def double_precision():
    """But for adapters, which Keras keeps in float32."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def adapted():
    """A network with an adapter of rank 1 in one layer, the others frozen."""
    layers = [
        keras.layers.Dense(6, "tanh"),
        keras.layers.Dense(5, "tanh"),
        keras.layers.Dense(3, trainable=False),
    ]
    model = keras.Sequential([keras.Input([4]), *layers])
    layers[1].enable_lora(1)
    layers[0].trainable = False
    data = RNG.normal(size=[12, 4]), RNG.integers(0, 3, 12)
    # The adapter, of 6 + 5 weights, and the bias beside it.
    return model, data, 16


def transformer():
    """Attention and normalization, of which the embedding is frozen."""
    inputs = keras.Input([4], dtype="int32")
    x = keras.layers.Embedding(5, 4, trainable=False)(inputs)
    attended = keras.layers.MultiHeadAttention(2, 2)(x, x)
    x = keras.layers.LayerNormalization()(x + attended)
    x = keras.layers.Dense(4, "gelu")(x)
    pooled = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    data = RNG.integers(0, 5, [9, 4]), RNG.integers(0, 3, 9)
    return model, data, 4 * 20 + 8 + 20 + 15


def differences(model, data):
    """Returns the Hessian by differences of gradients, column by column."""
    inputs, labels = data
    variables = [v.value for v in model.trainable_variables]
    start = [variable.numpy() for variable in variables]

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(inputs))
        found = tape.gradient(loss, variables)
        flat = [tf.cast(tf.reshape(part, [-1]), "float64") for part in found]
        return tf.concat(flat, 0)

    columns = []
    for variable, value in zip(variables, start, strict=True):
        for place in range(value.size):
            sides = []
            for step in (STEP, -STEP):
                moved = value.copy()
                moved.flat[place] += step
                variable.assign(moved)
                sides.append(gradient().numpy())
            variable.assign(value)
            columns.append((sides[0] - sides[1]) / (2 * STEP))
    return np.stack(columns)


@pytest.mark.parametrize("make", [adapted, transformer])
def test_curvature_is_that_of_the_trained_weights(make):
    keras.utils.set_random_seed(0)
    model, data, count = make()
    for variable in model.trainable_variables:  # half of an adapter is zero
        places = RNG.integers(-200, 200, variable.shape)
        variable.assign(STEP * places)
    before = [np.copy(variable) for variable in model.variables]
    hessian = differences(model, data)
    assert hessian.shape == (count, count)
    scale = np.abs(hessian).max()

    objective = landscape.Objective(model, data, LOSS)
    operator = landscape.hessian_operator(objective)
    products = operator @ np.eye(count)
    np.testing.assert_allclose(products, hessian, atol=ERROR * scale)
    ends = landscape.top_eigenvalues(objective, num_eigenvalues=2)
    eigenvalues = np.linalg.eigvalsh(hessian)
    slack = 2 * ERROR * np.abs(eigenvalues).max()
    np.testing.assert_allclose(ends.largest, eigenvalues[:-3:-1], atol=slack)
    np.testing.assert_allclose(ends.smallest, eigenvalues[:2], atol=slack)
    trace = landscape.trace(objective, num_products=count)
    assert trace.value == pytest.approx(
        eigenvalues.sum(), abs=count * ERROR * scale / 10
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
