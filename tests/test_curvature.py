"""The binary that draws spectra, and the numbers that it reports."""

import json
import shlex
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape
from trainers.experiments.spectrum import curvature


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Returns a small set of images of noise."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, [40, 28, 28]).astype("uint8")
    labels = np.arange(40) % 3
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


def test_numbers_of_an_exact_spectrum():
    nodes = np.array([[-0.5, -2e-4, 0.0, 0.0, 5e-6, 5e-5, 0.5, 2.0]])
    spectrum = landscape.Spectrum(
        nodes, np.full([1, 8], 1 / 8), 8, 2e-5, "exact"
    )
    numbers = curvature.numbers(spectrum)
    assert (numbers["smallest"], numbers["largest"]) == (-0.5, 2.0)
    assert numbers["share_exactly_zero"] == 0.25
    assert numbers["trace"] == pytest.approx(nodes.sum())
    shares = numbers["share_below"]
    assert shares["1e-05"] is None  # Below the resolution.
    assert shares["0.0001"]["value"] == 0.5
    assert shares["0.001"]["value"] == 0.625


def test_measure_writes_figure_and_eigenvalues(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    samples = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    found, draw = curvature.measure(model, samples, "exact", tmp_path)
    draw()
    assert found["largest"] == pytest.approx(3.0, abs=1e-5)
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000
    with np.load(tmp_path / "eigenvalues.npz") as arrays:
        np.testing.assert_allclose(arrays["nodes"], [[0, 1, 3]], atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [[0.5, 1.0, 2.0], [-2.0, -1.0, -0.5], [0.0, 0.0], [3.0, 3.0], [-1.0, 2.0]],
    ids=["positive", "negative", "zero", "constant", "both"],
)
def test_every_spectrum_is_drawn(tmp_path, nodes, monkeypatch):
    figures = []
    monkeypatch.setattr(
        curvature.plt.Figure,
        "savefig",
        lambda self, path, dpi: figures.append(self),
    )
    count = len(nodes)
    spectrum = landscape.Spectrum(
        np.array([nodes]), np.full([1, count], 1 / count), count, 1e-6, "exact"
    )
    curvature.plot(tmp_path / "unused.png", spectrum, "model")
    drawn = [
        sum(bar.get_height() for bar in axes.patches)
        for axes in figures[0].axes
    ]
    at_or_below, at_or_above = (
        sum(node <= 0.0 for node in nodes),
        sum(node >= 0.0 for node in nodes),
    )
    assert drawn[0] == pytest.approx(at_or_below * (min(nodes) < 0.0))
    assert drawn[2] == pytest.approx(at_or_above * (max(nodes) > 0.0))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_diagonals_are_drawn(tmp_path, value):
    path = tmp_path / "fisher.png"
    curvature.plot_fisher(path, {"true": np.full(5, value)}, "model")
    assert path.stat().st_size > 10_000


def test_numbers_are_safe_before_the_picture(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    samples = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    curvature.measure(model, samples, "exact", tmp_path)
    assert (tmp_path / "eigenvalues.npz").exists()
    assert not (tmp_path / "spectrum.png").exists()


def test_measure_fisher_of_a_logistic_model(tmp_path):
    model = keras.Sequential([
        keras.Input([2]),
        keras.layers.Dense(1, "sigmoid"),
    ])
    model.compile("sgd", "binary_crossentropy")
    model.set_weights([np.zeros([2, 1]), np.log([3.0])])  # It predicts 3/4.
    samples = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    found, draw = curvature.measure_fisher(model, samples, tmp_path)
    draw()
    assert (found["parameters"], found["samples"]) == (3, 2)
    assert set(found["estimates"]) == {"empirical", "true"}
    for kind, bias in (("empirical", 9 / 16), ("true", 3 / 16)):
        numbers = found["estimates"][kind]
        assert numbers["smallest"] == pytest.approx(bias / 2)
        assert numbers["largest"] == pytest.approx(bias)
        assert numbers["trace"] == pytest.approx(2 * bias)
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000
    with np.load(tmp_path / "diagonals.npz") as arrays:
        np.testing.assert_allclose(
            arrays["true"], [3 / 32, 3 / 32, 3 / 16], rtol=1e-5
        )


def test_measure_fisher_takes_sequences(tmp_path):
    model = keras.Sequential([
        keras.Input([3, 2]),
        keras.layers.Dense(2, "softmax"),
    ])
    model.compile("sgd", "sparse_categorical_crossentropy")
    samples = np.ones([4, 3, 2], "float32"), np.zeros([4, 3], "int32")
    found, draw = curvature.measure_fisher(model, samples, tmp_path)
    draw()
    assert set(found["estimates"]) == {"empirical"}


def test_numbers_of_a_diagonal():
    diagonal = np.array([-0.5, -2e-4, 0.0, 0.0, 5e-6, 5e-5, 0.5, 2.0])
    numbers = curvature.fisher_numbers(diagonal)
    assert (numbers["smallest"], numbers["largest"]) == (-0.5, 2.0)
    assert numbers["trace"] == pytest.approx(diagonal.sum())
    assert numbers["share_exactly_zero"] == numbers["share_negative"] == 0.25
    assert numbers["share_below"] == {
        "1e-05": 0.375, "0.0001": 0.5, "0.001": 0.625, "0.01": 0.625
    }  # fmt: skip


def run_binary(*flags):
    return subprocess.run(
        [sys.executable, "-m", "trainers.experiments.spectrum", *flags],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.nightly
def test_the_binary_trains_and_loads(npz, tmp_path):
    flags = [
        f"--npz={npz}",
        f"--results={tmp_path}/spectrum",
        "--network=small_mnistfc",
        "--width=0.05",
        "--samples=30",
    ]
    trained = run_binary(*flags, f"--workdir={tmp_path}/run", "--epochs=1")
    assert trained.returncode == 0, trained.stderr
    written = json.loads((tmp_path / "spectrum/spectrum.json").read_text())
    assert written["method"] == "exact"
    assert written["parameters"] == 784 * 3 + 3 + 3 * 3 + 3
    assert written["samples"] == 30
    assert written["config"]["width"] == 0.05
    assert {"date", "versions"} < set(written)

    (tmp_path / "spectrum" / "spectrum.json").unlink()
    loaded = run_binary(*flags, f"--model={tmp_path}/run/model.keras")
    assert loaded.returncode == 0, loaded.stderr
    again = json.loads((tmp_path / "spectrum/spectrum.json").read_text())
    assert again["largest"] == written["largest"]


@pytest.mark.nightly
def test_the_binary_estimates_the_fisher_information(npz, tmp_path):
    flags = [
        f"--npz={npz}",
        f"--workdir={tmp_path}/run",
        f"--results={tmp_path}/fisher",
        "--network=small_mnistfc",
        "--width=0.2",
        "--optimizer=adam",
        "--epochs=1",
        "--batch_size=10",
        "--samples=30",
        "--method=fisher",
    ]
    result = run_binary(*flags)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "fisher/spectrum.json").read_text())
    command = written["command"]
    program = ["python", "-m", "trainers.experiments.spectrum"]
    assert command == shlex.join([*program, *flags])
    assert written["samples"] == 30
    assert written["training"]["updates"] == 4
    estimates = written["estimates"]
    assert set(estimates) == {"empirical", "true", "adam"}

    model = keras.models.load_model(tmp_path / "run/model.keras")
    with np.load(npz) as arrays:
        images = arrays["x_train"][:30, ..., np.newaxis] / np.float32(255)
        labels = arrays["y_train"][:30]
    trace = 0.0
    for sample in zip(images, labels, strict=True):
        with tf.GradientTape() as tape:
            image, label = (part[np.newaxis] for part in sample)
            loss = model.compute_loss(y=label, y_pred=model(image))
        gradients = tape.gradient(loss, model.trainable_weights)
        trace += sum(float(tf.reduce_sum(g**2)) for g in gradients) / 30
    assert estimates["empirical"]["trace"] == pytest.approx(trace, rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That some entries are negative.
        of_adam = landscape.fisher_from_adam(model.optimizer, 10, 40)
    assert estimates["adam"]["largest"] == pytest.approx(of_adam.max())


@pytest.mark.nightly
def test_the_binary_refuses_with_a_sentence(npz, tmp_path):
    result = run_binary(
        f"--npz={npz}",
        f"--results={tmp_path}/spectrum",
        f"--model={tmp_path}/missing.keras",
    )
    assert result.returncode != 0
    assert "error: File not found" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "spectrum").exists()


@pytest.mark.parametrize(
    "nodes",
    [[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]],
    ids=["positive", "negative", "zero", "constant"],
)
def test_spectra_of_any_sign_are_drawn(tmp_path, nodes):
    spectrum = landscape.Spectrum(
        np.array([nodes]), np.full([1, 3], 1 / 3), 3, 1e-6, "exact"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of logarithms of nothing
        curvature.plot(tmp_path / "spectrum.png", spectrum, "a test")
        curvature.plot_fisher(
            tmp_path / "fisher.png", {"empirical": np.array(nodes)}, "a test"
        )
    for name in ("spectrum.png", "fisher.png"):
        assert (tmp_path / name).stat().st_size > 5_000
