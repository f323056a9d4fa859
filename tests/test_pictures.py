"""Pictures show the numbers that they are given."""

import keras
import numpy as np
import pytest
import quadratic
from matplotlib.axes import Axes

from entropy_keras import landscape


def of_known(eigenvalues):
    return landscape.spectral_density(
        np.diag(eigenvalues), num_steps=len(eigenvalues), num_probes=1
    )


def test_spectra_are_drawn_with_their_counts():
    figure = landscape.plot_spectra({
        "one": of_known([-1.0, 0.0, 2.0, 5.0]), "other": of_known([1.0, 3.0])
    })  # fmt: skip
    linear, logarithmic = figure.axes
    for axes in (linear, logarithmic):
        assert len(axes.patches) == 2
        low, high = axes.get_xlim()
        assert low < -1 < 5 < high
    texts = [text.get_text() for text in linear.get_legend().get_texts()]
    assert texts == ["one: -1 to 5", "other: 1 to 3"]
    # Each of the four eigenvalues is one of the counts.
    heights = linear.patches[-1].get_xy()[:, 1]
    assert heights.max() == pytest.approx(1.0)
    assert logarithmic.get_xscale() == "symlog"


def test_traces_of_variables_are_those_of_the_blocks():
    model = quadratic.dense([5], (6, "tanh"), (2, None))
    rng = np.random.default_rng(0)
    data = rng.normal(size=[30, 5]), rng.normal(size=[30, 2])
    hessian = landscape.hessian_matrix(model, data, "mse", verbose=0)
    found = landscape.layer_traces(model, data, "mse", num_products=60)
    assert list(found) == [v.path for v in model.trainable_variables]
    ends = np.cumsum([0, 30, 6, 12, 2])
    for trace, start, end in zip(found.values(), ends, ends[1:], strict=False):
        expected = np.trace(hessian[start:end, start:end])
        assert trace.value == pytest.approx(expected, rel=1e-6)
    (axes,) = landscape.plot_layer_traces({"a": found, "b": found}).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([t.value for t in found.values()] * 2)


def test_a_path_in_a_plane_keeps_its_distances(monkeypatch):
    contours = []

    def watched(axes, *arguments, contourf=Axes.contourf, **options):
        contours.append(arguments)
        return contourf(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "contourf", watched)
    model = quadratic.dense([2], (1, None))
    rng = np.random.default_rng(0)
    data = rng.normal(size=[20, 2]), rng.normal(size=[20, 1])
    # The bias stays, so all points are in a plane.
    points = np.array([[2.0, -1.0], [1.0, 0.5], [0.2, 0.3], [0.0, 0.4]])
    path = [[np.reshape(p, [2, 1]), np.zeros(1)] for p in points]
    figure = landscape.plot_training_path(model, data, path, "mse")
    axes, colors = figure.axes
    places = np.stack(axes.lines[0].get_data(), 1)
    expected = np.linalg.norm(points[:, None] - points, axis=-1)
    found = np.linalg.norm(places[:, None] - places, axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert places[-1] == pytest.approx([0, 0])
    shares = [
        float(text.split(": ")[1].split(" %")[0])
        for text in (axes.get_xlabel(), axes.get_ylabel())
    ]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert "log10 of the loss" in colors.get_ylabel()
    # The weights at each point of the picture, by where the path lies in it.
    ones = np.ones([len(places), 1])
    plane, *_ = np.linalg.lstsq(np.hstack([places, ones]), points, rcond=None)
    ((first, second, heights, *_),) = contours
    grid = np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)
    weights = np.hstack([grid, np.ones([len(grid), 1])]) @ plane
    losses = np.mean((data[0] @ weights.T - data[1]) ** 2, 0)
    expected = np.log10(losses - losses.min() + 1e-3 * np.ptp(losses))
    np.testing.assert_allclose(heights.ravel(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *of: landscape.plot_spectra({}), "`spectra` must be one or"),
        (lambda *of: landscape.plot_layer_traces({}), "`traces` must be one"),
        (
            lambda *of: landscape.plot_layer_traces({"a": {}, "b": {"x": 1}}),
            "`traces` must be of networks of one architecture",
        ),
        (
            lambda model, data: landscape.plot_training_path(
                model, data, [model.get_weights()] * 2, "mse"
            ),
            "`path` must be three or more lists of 2 arrays",
        ),
        (
            lambda model, data: landscape.layer_traces(
                model, data, "mse", num_products=5
            ),
            "`num_products` must be an integer of at least 6",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    data = np.eye(2), np.zeros([2, 1])
    with pytest.raises(ValueError, match=message):
        call(model, data)


def test_traces_of_variables_of_one_path_are_told_apart():
    inputs = keras.Input([2])

    @keras.saving.register_keras_serializable()
    class Twins(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.parts = [keras.layers.Dense(2, name="d") for _ in range(2)]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    model = keras.Model(inputs, Twins()(inputs))
    rng = np.random.default_rng(0)
    data = rng.normal(size=[2, 20, 2])
    traces = landscape.layer_traces(model, tuple(data), "mse", num_products=60)
    assert len(traces) == 4
    hessian = landscape.hessian_matrix(model, tuple(data), "mse", verbose=0)
    total = sum(trace.value for trace in traces.values())
    assert total == pytest.approx(np.trace(hessian), rel=1e-5)
