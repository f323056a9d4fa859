"""Lines and planes through the weights."""

import keras
import numpy as np
import pytest
import quadratic

from entropy_keras import landscape
from entropy_keras.landscape.slices import filter_normalized


def test_line_through_a_quadratic():
    regression = quadratic.Regression()
    direction = np.array([1.0, -2.0, 0.5, 3.0])
    distances = [-2.0, 0.0, 0.7]
    found = landscape.loss_slice(
        *regression.arguments, distances=distances, direction=direction
    )
    expected = [
        regression.loss(regression.weights + distance * direction)
        for distance in distances
    ]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.distances, distances)
    np.testing.assert_array_equal(found.directions, [direction])


def test_plane_through_a_quadratic():
    regression = quadratic.Regression()
    directions = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 4.0, -1.0]])
    distances = np.array([-1.0, 0.5, 2.0])
    found = landscape.loss_surface(
        *regression.arguments, distances=distances, directions=directions
    )
    expected = [
        [
            regression.loss(
                regression.weights + a * directions[0] + b * directions[1]
            )
            for b in distances
        ]
        for a in distances
    ]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)


def test_random_plane_of_a_network():
    model = quadratic.dense([3], (5, "tanh"), (2, None))
    rng = np.random.default_rng(0)
    data = rng.normal(size=[6, 3]), rng.normal(size=[6, 2])
    before = model.get_weights()
    found = landscape.loss_surface(model, data, "mse", seed=1)
    assert found.losses.shape == (21, 21)
    for direction in found.directions:
        first, bias, second, last = np.split(direction, [15, 20, 30])
        for part, kernel in ((first, before[0]), (second, before[2])):
            np.testing.assert_allclose(
                np.linalg.norm(part.reshape(kernel.shape), axis=0),
                np.linalg.norm(kernel, axis=0),
            )
        assert not bias.any()
        assert not last.any()
    value = float(
        landscape.Objective(model, data, "mse").value(
            landscape.Objective(model, data, "mse").position()
        )
    )
    assert found.losses[10, 10] == pytest.approx(value, rel=1e-12)
    # The axes of the plane are the lines along the two directions.
    line = landscape.loss_slice(
        model,
        data,
        "mse",
        distances=found.distances,
        direction=found.directions[1],
    )
    np.testing.assert_allclose(line.losses, found.losses[10], rtol=1e-12)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    again = landscape.loss_slice(model, data, "mse", seed=1)
    other = landscape.loss_slice(model, data, "mse", seed=2)
    np.testing.assert_array_equal(again.directions[0], found.directions[0])
    assert (again.directions != other.directions).any()
    assert again.losses.shape == (51,)


def test_filters_of_every_rank():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 2, 4), (5, 3), (3,), ()]
    weights = [rng.normal(size=shape) for shape in shapes]
    parts = [rng.normal(size=shape) for shape in shapes]
    found = filter_normalized(parts, weights, ignore_vectors=False)
    conv, dense, bias, scalar = np.split(found, [72, 87, 90])
    for unit in range(4):
        part = parts[0][..., unit]
        expected = part * np.linalg.norm(weights[0][..., unit].ravel())
        expected /= np.linalg.norm(part.ravel())
        np.testing.assert_allclose(
            conv.reshape(3, 3, 2, 4)[..., unit], expected
        )
    np.testing.assert_allclose(
        np.linalg.norm(dense.reshape(5, 3), axis=0),
        np.linalg.norm(weights[1], axis=0),
    )
    cosine = bias @ parts[2] / np.linalg.norm(bias) / np.linalg.norm(parts[2])
    assert cosine == pytest.approx(1.0)
    assert np.linalg.norm(bias) == pytest.approx(np.linalg.norm(weights[2]))
    assert scalar == pytest.approx(np.sign(parts[3]) * np.abs(weights[3]))
    ignoring = filter_normalized(parts, weights, ignore_vectors=True)
    np.testing.assert_array_equal(ignoring[:87], found[:87])
    assert not ignoring[87:].any()


def test_unused_unit_gets_no_direction():
    found = filter_normalized([np.ones([2, 2])], [np.diag([0.0, 1.0])], True)
    np.testing.assert_allclose(found, [0.0, 0.5**0.5, 0.0, 0.5**0.5])


def test_slices_do_not_change_when_layers_are_scaled():
    """What filter normalization is for: ReLUs make scales meaningless."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=[6, 3]), rng.normal(size=[6, 1])
    losses = []
    for scale in (1.0, 10.0):
        model = keras.Sequential([
            keras.Input([3], dtype="float64"),
            keras.layers.Dense(4, "relu", use_bias=False, dtype="float64"),
            keras.layers.Dense(1, use_bias=False, dtype="float64"),
        ])
        first, second = (
            np.random.default_rng(5).normal(size=shape)
            for shape in ([3, 4], [4, 1])
        )
        model.set_weights([first * scale, second / scale])
        losses.append(landscape.loss_slice(model, data, "mse").losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("loss_slice", {"distances": []}, "`distances` must be a sequence"),
        ("loss_slice", {"distances": 1.0}, "`distances` must be a sequence"),
        (
            "loss_slice",
            {"direction": np.ones(5)},
            r"`direction` must be of shape \(4,\).*of shape \(5,\)",
        ),
        (
            "loss_surface",
            {"directions": np.ones([1, 4])},
            r"`directions` must be of shape \(2, 4\).*of shape \(1, 4\)",
        ),
    ],
)
def test_bad_arguments_are_refused(function, arguments, message):
    regression = quadratic.Regression()
    with pytest.raises(ValueError, match=message):
        getattr(landscape, function)(*regression.arguments, **arguments)
