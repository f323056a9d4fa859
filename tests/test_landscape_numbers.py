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
    # 2 % by rounding; if they vanish, or some of them, 100 %, or tens.
    assert difference(found, expected) < 0.05


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones")

    def call(self, x):
        return x * self.scale


# Layers whose derivatives by weights are sums over the samples.
SUMS = {
    "dense": ([3], lambda: [layers.Dense(4, "tanh")]),
    "conv": ([30, 2], lambda: [layers.Conv1D(3, 3, activation="tanh")]),
    "depthwise": ([6, 6, 2], lambda: [layers.DepthwiseConv2D(3)]),
    "separable": ([6, 6, 2], lambda: [layers.SeparableConv2D(3, 3)]),
    "embedding": ([5], lambda: [layers.Embedding(3, 2)]),
    "scale": ([3], lambda: [Scale()]),
}


def summing(policy, shape, make):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([
            keras.Input(shape),
            *make(),
            layers.Flatten(),
            layers.Dense(2),
        ])
    finally:
        keras.config.set_dtype_policy("float32")
    return model


@pytest.mark.parametrize(
    ("name", "policy"),
    [(name, "mixed_bfloat16") for name in SUMS]
    + [("embedding", "mixed_float16")],
)
def test_sums_over_many_samples_are_right_in_half_precision(name, policy):
    rng = np.random.default_rng(0)
    shape, make = SUMS[name]
    x = rng.normal(0.5, 1.0, [1000, *shape]).astype("float32")
    if name == "embedding":
        x = rng.integers(0, 3, [1000, *shape])
    data = x, np.abs(rng.normal(size=[1000, 2])).astype("float32") + 0.5
    single = landscape.Objective(summing("float32", shape, make), data, "mse")
    half = landscape.Objective(summing(policy, shape, make), data, "mse")
    position = single.position()
    vector = rng.normal(size=single.num_parameters)
    for function in (
        lambda objective: objective.gradient(position),
        lambda objective: landscape.gauss_newton_operator(objective) @ vector,
    ):
        error = difference(function(half), function(single))
        assert 0 < error < half.precision_of_products


class Shift(layers.Layer):
    """Adds a weight to every step, by an operation of TensorFlow itself."""

    def build(self, shape):
        self.shift = self.add_weight(shape=[shape[-1]])

    def call(self, x):
        return tf.raw_ops.BiasAdd(value=x, bias=self.shift)


def test_sums_that_are_wrong_in_half_precision_are_named():
    model = summing("mixed_bfloat16", [3], lambda: [Shift()])
    x, y = np.ones([1000, 3], "float32"), np.ones([1000, 2], "float32")
    with pytest.raises(ValueError, match="`batch_size` must be smaller.*off"):
        landscape.Objective(model, (x, y), "mse")
    landscape.Objective(model, (x, y), "mse", batch_size=100)
    landscape.Objective(
        summing("float32", [3], lambda: [Shift()]), (x, y), "mse"
    )


@pytest.mark.parametrize("kind", ["sequential", "nested"])
def test_a_copy_in_float32_has_the_curvature_of_float32(kind):
    def in_float32(layer):
        return type(layer).from_config({
            **layer.get_config(),
            "dtype": "float32",
        })

    half = network("mixed_bfloat16")
    if kind == "nested":
        inputs = keras.Input([6])
        half = keras.Model(inputs, half(inputs))
    copy = keras.models.clone_model(
        half, clone_function=in_float32, recursive=True
    )
    copy.set_weights(half.get_weights())
    single = network("float32", half.get_weights())
    vector = RNG.normal(size=single.count_params())
    found, expected = (
        landscape.gauss_newton_vector_product(m, (X, Y), vector, LOSS)
        for m in (copy, single)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("num_products", [30, 150])
@pytest.mark.parametrize("policy", HALVES)
def test_the_rounding_of_a_trace_is_in_its_error(policy, num_products):
    single = network("float32")
    half = network(policy, single.get_weights())
    single.set_weights(half.get_weights())
    found = [
        landscape.trace(m, (X, Y), LOSS, num_products=num_products)
        for m in (half, single)
    ]
    report, expected = (
        landscape.flatness_report(
            m, (X, Y), LOSS, budget=None, num_steps=10, verbose=0
        ).trace
        for m in (half, single)
    )
    (value, error, _), (true, sampling, _) = found
    assert 0 < abs(value - true) < 3 * error
    assert sampling < error < 0.05 * true + 2 * sampling
    assert report.low < expected.value < report.high


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


@pytest.mark.parametrize(
    "function",
    [
        landscape.trace,
        landscape.spectral_density,
        lambda objective: landscape.hessian_matrix(objective, verbose=0),
        lambda objective: landscape.top_eigenvalues(
            objective, num_eigenvalues=1
        ),
    ],
)
def test_weights_that_move_to_where_the_curvature_is_infinite(function):
    model = keras.Sequential([keras.Input([6]), layers.Dense(2)])
    objective = landscape.Objective(
        model,
        (X[:8], np.zeros([8, 2], "float32")),
        lambda y, p: keras.ops.sqrt(keras.ops.sum((y - p) ** 2, -1)),
    )
    function(objective)
    model.set_weights([0 * w for w in model.get_weights()])
    with pytest.raises(ValueError, match="`model` must be .* finite at its"):
        function(objective)
