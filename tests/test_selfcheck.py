"""Second derivatives that TensorFlow lacks are right, or refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape
from entropy_keras.landscape import selfcheck

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=[6, 6, 6, 4]).astype("float32")
Y = RNG.normal(size=[6, 2]).astype("float32")


def network(*middle):
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input([6, 6, 4]), layers.Conv2D(4, 2, activation="tanh"), *middle,
        layers.Activation("tanh"), layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    ])  # fmt: skip


def by_differences(model, vector, step=1e-4):
    """Returns Hessian times vector in float64, from gradients alone."""
    keras.config.set_dtype_policy("float64")
    try:
        wide = keras.models.clone_model(
            model, clone_function=lambda layer: type(layer).from_config(
                layer.get_config() | {"dtype": "float64"}
            ),
        )  # fmt: skip
    finally:
        keras.config.set_dtype_policy("float32")
    wide.set_weights(model.get_weights())
    data = X.astype("float64"), Y.astype("float64")
    objective = landscape.Objective(wide, data, "mse")
    at = objective.position()
    ahead, behind = (
        objective.gradient(at + sign * step * vector).numpy()
        for sign in (1, -1)
    )
    return (ahead - behind) / (2 * step)


RIGHT = {
    "grouped": lambda: [layers.Conv2D(4, 2, groups=2)],
    "depthwise": lambda: [layers.DepthwiseConv2D(2)],
    "separable": lambda: [layers.SeparableConv2D(4, 2)],
    "transposed": lambda: [layers.Conv2DTranspose(4, 2)],
    "nearest": lambda: [layers.UpSampling2D(2, interpolation="nearest")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_hessian_is_that_of_differences(name):
    model = network(*RIGHT[name]())
    matrix = landscape.hessian_matrix(model, (X, Y), "mse", verbose=0)
    vector = RNG.normal(size=len(matrix))
    expected = by_differences(model, vector)
    scale = np.linalg.norm(expected)
    assert scale > 0.05
    np.testing.assert_allclose(matrix @ vector, expected, atol=1e-3 * scale)
    product = landscape.hessian_vector_product(model, (X, Y), vector, "mse")
    np.testing.assert_allclose(product, expected, atol=1e-3 * scale)


def test_a_loss_whose_loops_have_no_second_derivative_is_refused():
    model = keras.Sequential([keras.Input([4, 3]), layers.Dense(5)])
    data = RNG.normal(size=[2, 4, 3]).astype("float32"), np.array([[1], [2]])
    with pytest.raises(ValueError, match="`model` must be one without .*CTC"):
        landscape.hessian_vector_product(
            model, data, np.ones(20), keras.losses.CTC()
        )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("function", ["product", "matrix", "gauss_newton"])
def test_resizing_without_second_derivative_is_refused(interpolation, function):
    model = network(layers.UpSampling2D(2, interpolation=interpolation))
    compute = {
        "product": lambda: landscape.hessian_vector_product(
            model, (X, Y), np.ones(model.count_params()), "mse"
        ),
        "matrix": lambda: landscape.hessian_matrix(
            model, (X, Y), "mse", verbose=0
        ),
        "gauss_newton": lambda: landscape.gauss_newton_vector_product(
            model, (X, Y), np.ones(model.count_params()), "mse"
        ),
    }[function]
    with pytest.raises(ValueError, match=r"^`model` must be .*Resize.*Grad"):
        compute()


class Custom(layers.Layer):
    """Scales the gradient, as no loss could."""

    def call(self, inputs):
        @tf.custom_gradient
        def scaled(x):
            return x**2, lambda upstream: upstream * tf.cos(x)

        return scaled(inputs)


class Reversed(layers.Layer):
    def call(self, inputs):
        @keras.ops.custom_gradient
        def backwards(x):
            return x * 1.0, lambda upstream: -upstream * tf.abs(x)

        return backwards(inputs)


@pytest.mark.parametrize("layer", [Custom, Reversed])
def test_gradients_that_are_of_no_loss_are_refused(layer):
    model = network(layer())
    with pytest.raises(ValueError, match="^`model` must be .*custom gradient"):
        landscape.top_eigenvalues(model, (X, Y), loss="mse")


def test_what_is_refused_once_is_refused_again():
    objective = landscape.Objective(network(Custom()), (X, Y), "mse")
    for compute in (
        landscape.top_eigenvalues, landscape.trace, landscape.trace
    ):  # fmt: skip
        with pytest.raises(ValueError, match="^`model` must be .*custom grad"):
            compute(objective)


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [layers.ReLU(), layers.MaxPooling2D(2)],
        lambda: [layers.BatchNormalization(), layers.LeakyReLU()],
        lambda: [layers.Dropout(0.5), layers.ReLU(6.0)],
        lambda: [layers.Activation("silu"), layers.Activation("gelu")],
    ],
)
def test_kinks_raise_no_alarm(middle):
    model = network(*middle())
    found = landscape.top_eigenvalues(model, (X, Y), loss="mse")
    assert np.isfinite(found.largest).all()


def test_products_of_no_symmetric_matrix_are_refused():
    matrix = tf.constant(np.triu(np.ones([5, 5])))

    def check(matrix):
        selfcheck.require_symmetric(
            lambda position, vector: tf.linalg.matvec(matrix, vector),
            tf.zeros([5], tf.float64),
            selfcheck.EPS["float64"],
        )

    check(matrix + tf.transpose(matrix))
    with pytest.raises(ValueError, match="can be differentiated again"):
        check(matrix)
