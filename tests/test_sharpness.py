"""Flatness of quadratics, where each measure is known."""

import functools
import itertools
import math
import statistics

import keras
import numpy as np
import pytest
import quadratic
import tensorflow as tf

from entropy_keras import landscape


@pytest.fixture(scope="module")
def slope():
    """A quadratic away from its minimum."""
    return quadratic.Regression()


@pytest.fixture(scope="module")
def minimum():
    return quadratic.Regression(at_minimum=True)


def corner_sharpness(regression, epsilon):
    """Returns the exact value: a convex function is largest at a corner."""
    widths = epsilon * (np.abs(regression.weights) + 1.0)
    rises = [
        regression.rise(widths * signs)
        for signs in itertools.product([-1.0, 1.0], repeat=4)
    ]
    return 100.0 * max(rises) / (1.0 + regression.loss(regression.weights))


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_epsilon_sharpness_on_a_slope(slope, epsilon):
    found = landscape.epsilon_sharpness(*slope.arguments, epsilon=epsilon)
    assert found == pytest.approx(corner_sharpness(slope, epsilon), rel=1e-9)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_epsilon_sharpness_at_a_minimum(epsilon):
    # Along the axes of the box each corner is a maximum, and the same.
    regression = quadratic.Regression(at_minimum=True, axes=True)
    found = landscape.epsilon_sharpness(*regression.arguments, epsilon=epsilon)
    expected = corner_sharpness(regression, epsilon)
    assert found == pytest.approx(expected, rel=1e-9)


def test_epsilon_sharpness_is_a_lower_bound_that_starts_raise(minimum):
    exact = corner_sharpness(minimum, 0.1)
    few, many = (
        landscape.epsilon_sharpness(
            *minimum.arguments, epsilon=0.1, num_starts=starts
        )
        for starts in (1, 20)
    )
    assert 0.0 < few <= many
    assert many == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize(
    ("dtype", "rel"), [("float32", 2e-4), ("float64", 1e-9)]
)
def test_a_box_is_judged_alike_at_any_size(dtype, rel, epsilon):
    regression = quadratic.Regression(axes=True, dtype=dtype)
    found = landscape.epsilon_sharpness(*regression.arguments, epsilon=epsilon)
    expected = corner_sharpness(regression, epsilon)
    assert found == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("rho", [1.0, 0.05, 1e-5])
@pytest.mark.parametrize(
    ("dtype", "rel"), [("float32", 2e-3), ("float64", 1e-8)]
)
def test_a_ball_is_judged_alike_at_any_size(dtype, rel, rho):
    regression = quadratic.Regression(dtype=dtype)
    found = landscape.sam_sharpness(
        *regression.arguments, rho=rho, num_steps=60
    )
    assert found == pytest.approx(ball_sharpness(regression, rho), rel=rel)


@functools.cache
def trained(kind):
    """Returns a trained network of float32 and its data."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    if kind == "dense":
        inputs = rng.normal(size=[100, 6])
        labels = np.argmax(inputs[:, :3] + 0.5 * inputs[:, 3:], axis=1)
        layers = [keras.layers.Dense(12, "relu"), keras.layers.Dense(8, "tanh")]
    else:
        inputs = rng.normal(size=[100, 8, 8, 1])
        labels = (inputs[:, 2:6, 2:6].sum(axis=(1, 2, 3)) > 0).astype("int32")
        layers = [
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
        ]
    model = keras.Sequential([
        keras.Input(inputs.shape[1:]),
        *layers,
        keras.layers.Dense(3),
    ])
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(inputs, labels, epochs=15, verbose=0)
    return model, (inputs.astype("float32"), labels)


def long_search(objective, scale, is_box):
    """Returns the largest rise that 8 long ascents with momentum find."""
    center = objective.position().numpy().astype("float64")
    rng = np.random.default_rng(5)
    best = -math.inf

    def rise(place):
        position = tf.constant(center + scale * place, "float32")
        return float(objective.value(position)) - start

    start = 0.0
    start = rise(np.zeros_like(center))
    for _ in range(8):
        place = rng.uniform(-1.0, 1.0, len(center))
        momentum = np.zeros_like(center)
        for step in range(150):
            position = tf.constant(center + scale * place, "float32")
            slope = scale * objective.gradient(position).numpy()
            size = np.abs(slope).max() if is_box else np.linalg.norm(slope)
            momentum = 0.7 * momentum + 0.3 * slope / size
            move = np.sign(momentum) if is_box and step % 2 else momentum
            place = place + (0.3 * (1.0 - step / 150) + 0.01) * move
            if is_box:
                place = np.clip(place, -1.0, 1.0)
            else:
                place /= max(np.linalg.norm(place), 1.0)
        best = max(best, rise(place), rise(np.sign(place)) if is_box else 0.0)
    return best, start


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_boxes_of_networks_against_a_long_search(kind, size):
    model, data = trained(kind)
    objective = landscape.Objective(model, data)
    scale = size * (np.abs(objective.position().numpy()) + 1.0)
    rise, start = long_search(objective, scale, is_box=True)
    found = landscape.epsilon_sharpness(model, data, epsilon=size)
    assert found >= 0.98 * 100.0 * rise / (1.0 + start)
    sign = np.sign(objective.gradient(objective.position()).numpy())
    step = objective.value(objective.position() + sign * scale) - start
    assert found >= 100.0 * float(step) / (1.0 + start) * (1.0 - 1e-5)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("size", [0.05, 0.5])
def test_balls_of_networks_against_a_long_search(kind, size):
    model, data = trained(kind)
    objective = landscape.Objective(model, data)
    rise, _ = long_search(objective, size, is_box=False)
    found = landscape.sam_sharpness(model, data, rho=size)
    assert found >= 0.98 * rise
    assert found >= landscape.sam_sharpness(model, data, rho=size, num_steps=1)


@pytest.mark.parametrize(
    "measure", [landscape.epsilon_sharpness, landscape.sam_sharpness]
)
def test_a_loss_that_never_rises_says_so(measure, slope):
    with pytest.warns(UserWarning, match="says little: no rise was found"):
        assert measure(slope.model, slope.data, lambda y, p: 0.0 * p) == 0.0


def test_a_maximum_is_not_a_rise():
    regression = quadratic.Regression(at_minimum=True)
    with pytest.warns(UserWarning, match="says little: no rise was found"):
        found = landscape.epsilon_sharpness(
            regression.model,
            regression.data,
            lambda y, p: 0.5 - 0.01 * (y - p) ** 2,
        )
    assert found == 0.0


def test_what_half_precision_rounds_away_is_said():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([3]),
        keras.layers.Dense(4, "tanh", dtype="mixed_bfloat16"),
        keras.layers.Dense(1, dtype="mixed_bfloat16"),
    ])
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=[20, 3]).astype("float32")
    data = inputs, inputs.sum(axis=1, keepdims=True)
    energy = landscape.local_energy(model, data, "mse", sigma=1e-4)
    assert energy.standard_error > abs(energy.value)
    full = keras.Sequential([
        keras.Input([3]),
        keras.layers.Dense(4, "tanh"),
        keras.layers.Dense(1),
    ])
    full.set_weights(model.get_weights())
    truth = landscape.epsilon_sharpness(full, data, "mse", epsilon=1e-2)
    found = landscape.epsilon_sharpness(model, data, "mse", epsilon=1e-2)
    assert found == pytest.approx(truth, rel=0.1)


def test_sam_takes_one_step_along_the_gradient(slope):
    gradient = slope.gradient
    expected = slope.rise(0.3 * gradient / np.linalg.norm(gradient))
    found = landscape.sam_sharpness(*slope.arguments, rho=0.3, num_steps=1)
    assert found == pytest.approx(expected, rel=1e-12)


def ball_sharpness(regression, rho):
    """Returns the largest rise in a ball, by the secular equation."""
    values, vectors = np.linalg.eigh(regression.hessian)
    gradient = vectors.T @ regression.gradient
    low, high = values[-1], values[-1] + np.linalg.norm(gradient) / rho
    for _ in range(200):
        middle = (low + high) / 2.0
        length = np.linalg.norm(gradient / (middle - values))
        low, high = (middle, high) if length > rho else (low, middle)
    return regression.rise(vectors @ (gradient / (high - values)))


def test_more_steps_find_the_largest_rise_in_the_ball(slope):
    rises = [
        landscape.sam_sharpness(*slope.arguments, rho=0.3, num_steps=steps)
        for steps in (1, 2, 5, 60)
    ]
    assert rises == sorted(rises)
    assert rises[0] < rises[-1]
    assert rises[-1] == pytest.approx(ball_sharpness(slope, 0.3), rel=1e-9)


def test_ball_around_a_minimum_sees_the_largest_eigenvalue():
    # All zero: not even rounding gives the gradient a direction.
    model = quadratic.dense([3], (1, None), scale=0.0)
    inputs = np.random.default_rng(0).normal(size=[8, 3])
    data = inputs, np.zeros([8, 1])
    largest = np.linalg.eigvalsh(
        landscape.hessian_matrix(model, data, "mse", verbose=0)
    )[-1]
    found = landscape.sam_sharpness(model, data, "mse", rho=0.3, num_steps=100)
    assert found == pytest.approx(largest * 0.3**2 / 2.0, rel=1e-9)


def test_sam_may_descend():
    # One sample is steep here and has had its rise far away, where the three
    # others, which are gentle here, have lost all of theirs.
    model = keras.Sequential([
        keras.Input([1], dtype="float64"),
        keras.layers.Dense(1, "tanh", use_bias=False, dtype="float64"),
    ])
    model.set_weights([np.array([[-0.5]])])
    data = np.array([[1.0], [-0.1], [-0.1], [-0.1]]), np.ones([4, 1])
    found = landscape.sam_sharpness(model, data, "mse", rho=30.0, num_steps=1)
    objective = landscape.Objective(model, data, "mse")
    value = float(objective.value(objective.position()))
    sign = np.sign(objective.gradient(objective.position()).numpy())
    after = np.mean((np.tanh((-0.5 + 30.0 * sign) * data[0]) - 1.0) ** 2)
    assert found == pytest.approx(after - value, rel=1e-9)
    assert found < 0.0


@pytest.mark.parametrize("multiplicative", [False, True])
def test_local_energy_of_a_quadratic(slope, multiplicative):
    scales = slope.weights if multiplicative else np.ones(4)
    expected = 0.2**2 / 2.0 * np.sum(scales**2 * np.diag(slope.hessian))
    found = landscape.local_energy(
        *slope.arguments,
        sigma=0.2,
        multiplicative=multiplicative,
        num_pairs=400,
    )
    assert abs(found.value - expected) < 3.0 * found.standard_error
    # One pair gives sigma^2 z'Bz / 2, of variance sigma^4 |B|^2 / 2.
    scaled = slope.hessian * np.outer(scales, scales)
    error = 0.2**2 * np.linalg.norm(scaled) / math.sqrt(2.0 * 400)
    assert found.standard_error == pytest.approx(error, rel=0.2)


def test_local_energy_of_a_quadratic_grows_with_its_square(slope):
    small, large = (
        landscape.local_energy(*slope.arguments, sigma=sigma, num_pairs=5)
        for sigma in (0.1, 0.3)
    )
    assert large.value == pytest.approx(9.0 * small.value, rel=1e-9)


def classifier(margin, scale=1.0):
    """Returns two classes at (margin, 0) and (0, margin)."""
    model = keras.Sequential([
        keras.Input([2], dtype="float64"),
        keras.layers.Dense(2, use_bias=False, dtype="float64"),
    ])
    model.set_weights([scale * np.eye(2)])
    return model, margin * np.eye(2)


@pytest.mark.parametrize(
    ("scale", "drop", "one_hot"), [(1.0, 0.1, False), (0.2, 0.25, True)]
)
def test_pac_bayes_sigma_is_a_standard_deviation(one_hot, scale, drop):
    model, inputs = classifier(3.0, scale)
    labels = np.eye(2) if one_hot else np.array([[0], [1]])
    found = landscape.pac_bayes_sigma(
        model, (inputs, labels), "mse", drop=drop, num_noises=600
    )
    # A row errs where sigma (z1 - z2) > scale, whatever the inputs' length.
    quantile = statistics.NormalDist().inv_cdf(1.0 - drop)
    assert found == pytest.approx(scale / math.sqrt(2) / quantile, rel=0.15)


def test_pac_bayes_sigma_is_where_the_accuracy_has_fallen():
    model, inputs = classifier(1.0)
    data = inputs, np.array([0, 1])
    sigma = landscape.pac_bayes_sigma(
        model, data, "mse", drop=0.2, num_noises=50, precision=1e-3, seed=3
    )
    rng = np.random.default_rng(3)
    noises = [rng.standard_normal(4).reshape(2, 2) for _ in range(50)]

    def accuracy(sigma):
        return np.mean([
            np.argmax(np.eye(2) + sigma * noise, axis=1) == [0, 1]
            for noise in noises
        ])

    assert accuracy(sigma) >= 0.8 > accuracy(sigma * 1.001)


def test_pac_bayes_sigma_relative_to_the_weights():
    found = [
        landscape.pac_bayes_sigma(
            *(lambda model, x: (model, (x, np.array([0, 1]))))(
                *classifier(1.0, scale)
            ),
            "mse",
            multiplicative=True,
        )
        for scale in (1.0, 50.0)
    ]
    assert found[0] == pytest.approx(found[1])


def test_pac_bayes_sigma_without_bounds():
    model, inputs = classifier(1.0)
    # What is wrong already cannot fall by half.
    wrong = inputs, np.array([1, 0])
    assert landscape.pac_bayes_sigma(model, wrong, "mse") == math.inf
    model.set_weights([1e-9 * np.eye(2)])
    right = inputs, np.array([0, 1])
    assert landscape.pac_bayes_sigma(model, right, "mse") == 0.0


MEASURES = [
    landscape.epsilon_sharpness,
    landscape.sam_sharpness,
    landscape.local_energy,
    landscape.pac_bayes_sigma,
]


@pytest.mark.parametrize("measure", MEASURES)
def test_model_is_left_as_it_was(measure):
    model, inputs = classifier(1.0)
    model.compile("adam", loss="mse", metrics=["accuracy"])
    labels = np.array([[0], [1]])
    data = inputs, labels if measure is MEASURES[-1] else np.eye(2)
    before = [np.copy(v) for v in model.variables]
    first = measure(model, data)
    assert measure(model, data) == first  # Seeded.
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        ("epsilon_sharpness", {"epsilon": 0.0}),
        ("epsilon_sharpness", {"num_steps": 0}),
        ("epsilon_sharpness", {"num_starts": 1.5}),
        ("sam_sharpness", {"rho": -1.0}),
        ("sam_sharpness", {"num_steps": 0}),
        ("local_energy", {"sigma": 0.0}),
        ("local_energy", {"num_pairs": 1}),
        ("pac_bayes_sigma", {"drop": 0.0}),
        ("pac_bayes_sigma", {"drop": 1.0}),
        ("pac_bayes_sigma", {"drop": None}),
        ("pac_bayes_sigma", {"num_noises": 0}),
        ("pac_bayes_sigma", {"precision": 0}),
    ],
)
def test_bad_arguments_are_refused(slope, measure, arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(
        ValueError, match=rf"`{name}` must be .* Received: {name}={value}"
    ):
        getattr(landscape, measure)(*slope.arguments, **arguments)


def test_accuracy_needs_a_classifier(slope):
    with pytest.raises(ValueError, match="`model` must be a classifier with"):
        landscape.pac_bayes_sigma(*slope.arguments)


def test_epsilon_sharpness_needs_a_loss_above_minus_one(slope):
    with pytest.raises(ValueError, match="`loss` must be larger than -1"):
        landscape.epsilon_sharpness(
            slope.model, slope.data, lambda y, p: (p - y)[..., 0] ** 2 - 10.0
        )


def test_more_starts_find_the_best_corner():
    """Of all corners of a box in ten dimensions."""
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=10)))
    found = []
    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=[6, 10])
        model = quadratic.dense([10], (1, None), scale=0.0)
        model.layers[-1].bias.trainable = False
        exact = 100 * 0.01 * np.mean((corners @ x.T) ** 2, axis=1).max()
        of_starts = [
            landscape.epsilon_sharpness(
                model,
                (x, np.zeros([6, 1])),
                "mse",
                epsilon=0.1,
                num_starts=number,
            )
            for number in (1, 60)
        ]
        found.append(np.array(of_starts) / exact)
    few, many = np.transpose(found)
    np.testing.assert_allclose(many, 1.0, rtol=1e-5)
    assert (few < 0.999).any()
