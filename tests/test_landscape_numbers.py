"""Half precision is as right as it claims; what is not finite is named."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=[600, 6]).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HALVES = ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"]


def network(policy, weights=None):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([
            keras.Input([6]),
            layers.Dense(8, "tanh"),
            layers.Dense(2, dtype="float32"),
        ])
    finally:
        keras.config.set_dtype_policy("float32")
    if weights is not None:
        model.set_weights(weights)
    return model


def difference(found, expected):
    found, expected = (np.asarray(a, "float64") for a in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("policy", HALVES)
def test_half_precision_is_as_right_as_it_says(policy):
    single = network("float32")
    half = network(policy, single.get_weights())
    eps = 2.0**-10 if "b" not in policy else 2.0**-7
    vector = RNG.normal(size=single.count_params())
    for function in (
        lambda m: landscape.hessian_vector_product(m, (X, Y), vector, LOSS),
        lambda m: landscape.gauss_newton_vector_product(
            m, (X, Y), vector, LOSS
        ),
        lambda m: landscape.hessian_matrix(m, (X, Y), LOSS, verbose=0),
        lambda m: landscape.fisher_diagonal(m, (X, Y), LOSS),
    ):
        found = function(half)
        assert found.dtype == "float32"
        assert 0 < difference(found, function(single)) < 2 * eps
    ends, expected = (
        landscape.top_eigenvalues(m, (X, Y), LOSS, num_eigenvalues=2)
        for m in (half, single)
    )
    error = np.abs(ends.largest - expected.largest)
    assert (error < ends.largest_errors).all()
    assert error.max() > 10 * expected.largest_errors.max()
    assert ends.largest_errors.max() < 3 * eps * ends.largest[0]


def test_small_gradients_do_not_vanish_in_float16():
    # A sample that is right and sure of it, 4,096 times: the derivatives of
    # the mean by the logits are of 6e-6 / 4,096, beyond where float16 ends.
    single = network("float32")
    weights = single.get_weights()
    ((low, high),) = single.predict(X[:1], verbose=0)
    weights[2] *= 12 / abs(high - low)
    data = np.repeat(X[:1], 4096, 0), np.full(4096, int(high > low))
    vector = np.random.default_rng(1).normal(size=single.count_params())
    found, expected = (
        landscape.hessian_vector_product(
            network(policy, weights), data, vector, LOSS, batch_size=4096
        )
        for policy in ("mixed_float16", "float32")
    )
    assert difference(found, expected) < 0.02


class Logarithm(layers.Layer):
    def call(self, x):
        return keras.ops.log(x)


DERIVATIVES = {
    "top": lambda *of: landscape.top_eigenvalues(*of, num_eigenvalues=1),
    "gauss_newton": lambda m, data: landscape.gauss_newton_vector_product(
        m, data, np.ones(m.count_params())
    ),
    "fisher": landscape.fisher_diagonal,
    "box": landscape.epsilon_sharpness,
    "ball": landscape.sam_sharpness,
    "report": lambda *of: landscape.flatness_report(*of, budget=5, verbose=0),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_what_is_not_finite_is_named(name):
    model = keras.Sequential([
        keras.Input([6]),
        layers.Dense(2, "relu"),
        Logarithm(),
    ])
    model.compile(loss="mse")
    data = X[:8], np.ones([8, 2], "float32")
    with pytest.raises(ValueError, match="`model` must be .* finite at its"):
        DERIVATIVES[name](model, data)
    kernel, _ = model.trainable_variables
    kernel.assign(keras.ops.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="numbers in .*kernel that are NaN"):
        DERIVATIVES[name](model, data)


def test_statistics_that_are_not_finite_are_named():
    model = keras.Sequential([
        keras.Input([6]),
        layers.BatchNormalization(),
        layers.Dense(2),
    ])
    model.compile(loss=LOSS)
    model.layers[0].moving_mean.assign(np.full(6, np.inf))
    with pytest.raises(ValueError, match="moving_mean that are NaN"):
        landscape.Objective(model, (X, Y))


def test_gradients_that_vectorization_changes_are_refused(monkeypatch):
    right = tf.vectorized_map

    def wrong(function, batch):
        losses, squares = right(function, batch)
        return losses, 1.01 * squares

    model = network("float32")
    landscape.fisher_diagonal(model, (X, Y), LOSS)
    monkeypatch.setattr(tf, "vectorized_map", wrong)
    with pytest.raises(ValueError, match="vectorizes rightly"):
        landscape.fisher_diagonal(model, (X, Y), LOSS)
