"""The report of flatness: its ranges hold the truth, and say what they are."""

import json
import math
import sys
import time

import keras
import matplotlib.image
import numpy as np
import pytest
import quadratic
import tensorflow as tf
from matplotlib.figure import Figure
from scipy.sparse.linalg import aslinearoperator

from entropy_keras import landscape
from entropy_keras.landscape import flatness
from entropy_keras.landscape import lanczos

MEASURED = (
    "largest", "smallest", "trace", "near_zero", "local_entropy", "sharpness"
)  # fmt: skip


def network():
    model = quadratic.dense([5], (20, "tanh"), (3, None))
    rng = np.random.default_rng(0)
    return model, (rng.normal(size=[30, 5]), rng.normal(size=[30, 3]))


@pytest.fixture(scope="module")
def of_network():
    return landscape.flatness_report(*network(), "mse", num_steps=30, verbose=0)


@pytest.fixture(scope="module")
def of_regression():
    regression = quadratic.Regression(at_minimum=True)
    return landscape.flatness_report(*regression.arguments, verbose=0)


def holds(measured, truth, rounding=1e-12):
    rounding *= abs(truth)
    return measured.low - rounding <= truth <= measured.high + rounding


def test_ranges_hold_the_eigenvalues(of_network):
    model, data = network()
    eigenvalues = np.linalg.eigvalsh(
        landscape.hessian_matrix(model, data, "mse", verbose=0)
    )
    assert of_network.num_parameters == len(eigenvalues) == 183
    near_zero = np.abs(eigenvalues) < of_network.threshold
    assert 0.0 < near_zero.mean() < 1.0
    for measured, truth, width in (
        (of_network.largest, eigenvalues.max(), 1e-3),
        (of_network.smallest, eigenvalues.min(), 1e-2),
        (of_network.trace, eigenvalues.sum(), 0.25),
        (of_network.near_zero, near_zero.mean(), 0.6),
    ):
        assert holds(measured, truth)
        assert measured.low <= measured.value <= measured.high
        assert measured.high - measured.low < width * max(1.0, abs(truth))


def test_threshold_is_a_power_of_ten_above_the_resolution(of_network):
    resolution = of_network.spectrum.resolution
    assert 3.0 * resolution <= of_network.threshold < 30.0 * resolution
    assert math.log10(of_network.threshold).is_integer()


def test_of_linear_regression(of_regression):
    regression = quadratic.Regression(at_minimum=True)
    eigenvalues = np.linalg.eigvalsh(regression.hessian)
    for name, truth in (
        ("largest", eigenvalues.max()),
        ("smallest", eigenvalues.min()),
        ("trace", eigenvalues.sum()),
        ("near_zero", 0.0),
    ):
        measured = getattr(of_regression, name)
        assert holds(measured, truth)
        assert measured.high - measured.low < 1e-9
    loss = regression.loss(regression.weights)
    assert of_regression.loss == pytest.approx(loss, rel=1e-12)
    assert of_regression.temperature == 1 / 8  # Of eight samples.
    entropy = -loss - np.log1p(eigenvalues / 10.0).sum() / 16.0
    assert holds(of_regression.local_entropy, entropy)
    assert of_regression.local_entropy.high - entropy < 0.05


def test_sharpness_is_a_lower_bound(of_regression):
    regression = quadratic.Regression(at_minimum=True)
    widths = 1e-3 * (np.abs(regression.weights) + 1.0)
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 4), axis=-1).reshape(-1, 4)
    rise = max(regression.rise(widths * corner) for corner in corners)
    truth = 100.0 * rise / (1.0 + regression.loss(regression.weights))
    measured = of_regression.sharpness
    assert measured.low <= measured.value <= truth * (1 + 1e-9)
    assert measured.low > 0.99 * truth
    assert measured.high == math.inf


def test_table_is_aligned_and_names_its_ranges(of_network):
    title, head, *rows = str(of_network).splitlines()
    assert title == (
        f"Flatness of {of_network.name}: 183 weights, 30 samples, "
        f"loss {of_network.loss:.6g}"
    )
    assert head.split() == ["value", "from", "to", "the", "range"]
    assert len(rows) == len(MEASURED)
    end = head.index("to") + len("to")
    for row, name in zip(rows, MEASURED, strict=True):
        measured = getattr(of_network, name)
        cells = [
            f"{number:.6g}" if math.isfinite(number) else "-"
            for number in measured[:3]
        ]
        assert row[:end].split()[-3:] == cells
        assert row[end:] == f"  {measured.meaning}"
    assert f"|eigenvalue| < {of_network.threshold:g} " in rows[3]
    assert "(scope 10, temperature 0.0333333)" in rows[4]


def test_dictionary_survives_json(of_network):
    content = of_network.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["trace"] == of_network.trace._asdict()
    assert content["sharpness"]["high"] is None
    assert content["num_samples"] == 30
    assert set(content) == {
        *MEASURED, "name", "num_parameters", "num_samples", "loss",
        "threshold", "scope", "temperature",
    }  # fmt: skip


def test_picture_shows_spectrum_ends_and_line(of_network, monkeypatch):
    figures = []
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, dpi: figures.append(self)
    )
    of_network.plot("unused.png")
    left, right = figures[0].axes
    heights = sum(bar.get_height() for bar in left.containers[0])
    assert heights == pytest.approx(183)  # Every eigenvalue is in a bar.
    ends = [line.get_xdata()[0] for line in left.lines]
    assert ends == [of_network.smallest.value, of_network.largest.value]
    low, high = left.get_xlim()
    assert low < ends[0] < ends[1] < high
    assert any(
        "% below" in text.get_text() for text in left.get_legend().get_texts()
    )
    losses, here = (line.get_ydata() for line in right.lines)
    np.testing.assert_array_equal(losses, of_network.line.losses)
    assert here[0] == of_network.loss == pytest.approx(losses[25], rel=1e-9)


def test_picture_is_written(of_network, tmp_path):
    of_network.plot(tmp_path / "flatness.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "flatness.png").shape
    assert width > height > 300


def test_picture_needs_matplotlib(of_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"entropy_keras\[landscape\]"):
        of_network.plot("unused.png")


def test_bounds_where_the_local_entropy_fails():
    model, data = network()
    with pytest.warns(UserWarning, match="only bounded"):
        found = landscape.flatness_report(
            model,
            data,
            "mse",
            scope=1e-3,
            num_steps=10,
            num_probes=1,
            verbose=0,
        )
    entropy = found.local_entropy
    assert math.isnan(entropy.value)
    assert -np.inf < entropy.low < entropy.high <= 0.0
    assert entropy.meaning.startswith("bounds only: ")
    assert found.to_dict()["local_entropy"]["value"] is None
    (row,) = [line for line in str(found).splitlines() if "entropy" in line]
    assert row.split(")")[1].split()[0] == "-"


def test_dataset_with_ragged_last_batch_is_read_once(of_regression):
    regression = quadratic.Regression(at_minimum=True)
    passes = []

    def samples():
        passes.append(1)
        yield from zip(*regression.data, strict=True)

    signature = (tf.TensorSpec([3], "float64"), tf.TensorSpec([1], "float64"))
    dataset = tf.data.Dataset.from_generator(
        samples, output_signature=signature
    ).batch(3)
    found = landscape.flatness_report(
        regression.model, dataset, "mse", verbose=0
    )
    assert len(passes) == 1
    assert found.num_samples == 8
    for name in MEASURED:
        np.testing.assert_allclose(
            getattr(found, name)[:3], getattr(of_regression, name)[:3], 1e-6
        )


def test_as_a_callback_of_the_compiled_loss():
    regression = quadratic.Regression()
    model, data = regression.model, regression.data
    model.compile("sgd", "mse")
    reports = []
    model.fit(
        *data,
        verbose=0,
        callbacks=keras.callbacks.LambdaCallback(
            on_train_end=lambda logs: reports.append(
                landscape.flatness_report(model, data, verbose=0)
            )
        ),
    )
    (found,) = reports
    loss = model.evaluate(*data, verbose=0)
    assert found.loss == pytest.approx(loss, rel=1e-6)


def test_a_missed_end_widens_the_range(monkeypatch):
    # A first start without the last weight, along which the curvature is.
    curvatures = np.array([1.0, 2.0, 3.0, 50.0])
    operator = aslinearoperator(np.diag(curvatures))
    blind = lanczos.Lanczos(operator, np.array([1.0, 1.0, 1.0, 0.0]), 4)
    blind.advance(4)
    whole = lanczos.Lanczos(operator, np.ones(4), 4)
    whole.advance(4)
    model, data = quadratic.dense([3], (1, None)), (np.eye(3), np.ones([3, 1]))
    survey = flatness._Survey(
        landscape.Objective(model, data, "mse"),
        landscape.Plan(1.0),
        flatness.Clock(math.inf, 0),
        0.0,
    )
    survey._first = blind
    largest, smallest = survey.ends(lanczos.quadrature([blind, whole], 4))
    assert largest.value == pytest.approx(3.0)
    assert holds(largest, 50.0)
    assert holds(smallest, 1.0)
    assert smallest.high - smallest.low < 1e-9


def test_what_is_not_afforded_is_said(tmp_path, capsys):
    found = landscape.flatness_report(*network(), "mse", budget=1e-3)
    for name in MEASURED:
        measured = getattr(found, name)
        assert math.isnan(measured.value)
        assert (measured.low, measured.high) == (-math.inf, math.inf)
        assert measured.meaning.startswith("not afforded: about ")
        assert measured.meaning.endswith(" s of a budget of 0.001 s")
    assert str(found).count("not afforded") == len(MEASURED)
    assert found.loss > 0.0
    assert (found.spectrum, found.line, found.threshold) == (None, None, None)
    content = found.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    found.plot(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 5_000
    assert capsys.readouterr().out == ""


def test_less_is_done_where_time_is_short(monkeypatch, capsys):
    # A machine on which losses, gradients and products all take a second.
    monkeypatch.setattr(flatness, "_seconds", lambda function: 1.0)
    found = landscape.flatness_report(*network(), "mse", budget=100)
    printed = capsys.readouterr().out
    # Of the 85 s that are planned for, 40 % are for the first probe.
    assert "Spectrum, 33 products: about 33 s." in printed
    assert "Trace, 50 products: about 50 s." in printed
    assert found.spectrum.nodes.shape[1] == 33
    assert math.isfinite(found.largest.value)
    assert found.sharpness.meaning == (
        "not afforded: about 60 s of a budget of 100 s"
    )
    assert "not afforded" in found.local_entropy.meaning


def test_a_budget_is_kept():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([16, 16, 3]),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ])
    rng = np.random.default_rng(0)
    data = rng.normal(size=[300, 16, 16, 3]), rng.integers(0, 10, 300)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    start = time.monotonic()
    found = landscape.flatness_report(model, data, loss, budget=4, verbose=0)
    assert time.monotonic() - start < 6.0  # Others may use the machine.
    largest = found.largest  # which a busy machine has no time for
    assert math.isfinite(largest.value) or "not afforded" in largest.meaning


def test_trace_beside_a_run_has_no_bias_and_a_true_error():
    eigenvalues = np.concatenate([[50.0, -20.0], np.linspace(-1.0, 3.0, 60)])
    _, operator = symmetric(eigenvalues)
    (run,) = lanczos.runs(operator, 10, 1, seed=0)
    found = np.array([lanczos.trace_from(run, 20, s) for s in range(1, 301)])
    spread = found[:, 0].std()
    assert abs(found[:, 0].mean() - eigenvalues.sum()) < 4 * spread / 300**0.5
    claimed = np.sqrt(np.mean(found[:, 1] ** 2))
    assert claimed == pytest.approx(spread, rel=0.12)
    assert spread < 3.0  # Without the run it would be 17.


def test_range_of_a_share_stays_within_none_and_all():
    nodes, weights = np.array([[-2.0, -0.1, 0.1, 2.0]]), np.full([1, 4], 0.25)
    spectrum = landscape.Spectrum(nodes, weights, 8, 0.01, "lanczos")
    assert spectrum.share_below(1.0) == (0.5, 0.25)
    assert flatness._near_zero(spectrum, 1.0)[:3] == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": 0.0}, r"`scope` must be a positive number.*scope=0\.0"),
        ({"temperature": -1.0}, r"`temperature` must be a posi.*=-1\.0"),
        ({"budget": 0.0}, r"`budget` must be a positive number.*budget=0\.0"),
        ({"threshold": 0.0}, r"`threshold` must be a positive .*=0\.0"),
        ({"minimum_loss": "low"}, "`minimum_loss` must be a number.*=low"),
        ({"seed": -1}, "`seed` must be an integer from 0 on.*seed=-1"),
    ],
)
def test_bad_input_is_refused_before_the_data_are_read(arguments, message):
    with pytest.raises(ValueError, match=message):
        landscape.flatness_report(None, None, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minimum_loss": 9e9}, "`minimum_loss` must be at most .*=9000"),
        ({"num_steps": 1}, "`num_steps` must be an integer of at l.*steps=1"),
        ({"num_probes": 0}, "`num_probes` must be a positive int.*probes=0"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer.*=0"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    regression = quadratic.Regression()
    with pytest.raises(ValueError, match=message):
        landscape.flatness_report(
            *regression.arguments, **{"verbose": 0} | arguments
        )


def test_below_the_resolution_the_share_is_bounded():
    model, data = network()
    report = landscape.flatness_report(
        model, data, "mse", num_steps=10, threshold=1e-6, verbose=0
    )
    eigenvalues = np.linalg.eigvalsh(
        landscape.hessian_matrix(model, data, "mse", verbose=0)
    )
    share = report.near_zero
    assert math.isnan(share.value)
    assert share.low <= np.mean(np.abs(eigenvalues) < 1e-6) <= share.high
    assert "below the resolution" in share.meaning
    json.dumps(report.to_dict())


def symmetric(eigenvalues):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=[len(eigenvalues)] * 2))
    return basis, aslinearoperator(basis * eigenvalues @ basis.T)


def test_share_bounds_hold_for_each_probe():
    rng = np.random.default_rng(1)
    eigenvalues = rng.normal(size=300) * np.exp(2.0 * rng.normal(size=300))
    basis, operator = symmetric(eigenvalues)
    tight = 0
    for seed in range(20):
        found = lanczos.density(operator, num_steps=40, num_probes=1, seed=seed)
        probe = np.random.default_rng(seed).choice([-1.0, 1.0], 300)
        measure = (basis.T @ probe) ** 2 / 300
        for threshold in (0.3, 1.0, 3.0, 10.0):
            low, high = lanczos.share_bounds(found, threshold)
            truth = measure[np.abs(eigenvalues) < threshold].sum()
            assert low <= truth <= high
            counted, _ = found.mean(lambda x, t=threshold: np.abs(x) < t)
            assert low <= counted <= high
            tight += high - low < 0.2
    assert tight >= 40


def test_distribution_bounds_are_weights_of_a_rule_through_the_point():
    # One step from a mean of 0 and a variance of 1: Chebyshev, one-sided.
    _, operator = symmetric(np.repeat([-1.0, 1.0], 50))
    run = lanczos.Lanczos(operator, np.ones(100), 2)
    run.advance(2)
    mean, beside = run._diagonal[0], run._beside[0]
    low, high = run.distribution(mean + 2.0 * beside)
    assert low == pytest.approx(1.0 - 1.0 / (1.0 + 4.0))
    assert high == pytest.approx(1.0)


def test_share_bounds_of_an_exhausted_space_are_tight():
    operator = aslinearoperator(np.diag([1.0] * 30 + [4.0] * 10))
    found = lanczos.density(operator, num_steps=20, num_probes=4, seed=0)
    low, high = lanczos.share_bounds(found, 2.0)
    assert low == high == pytest.approx(0.75, abs=1e-12)


def test_a_callback_measures_along_the_training(tmp_path):
    model, (x, y) = network()

    def train(callbacks):
        keras.utils.set_random_seed(1)
        other = keras.models.clone_model(model)
        other.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss="mse")
        history = other.fit(
            x, y, epochs=3, verbose=0, callbacks=callbacks
        ).history
        return other, history

    measuring = landscape.FlatnessCallback((x, y), every=2, num_steps=20)
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    watched, history = train([measuring, board])
    plain, _ = train([])
    for one, other in zip(watched.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(measuring.reports) == [1, 2]  # the last one in any case
    hessian = landscape.hessian_matrix(watched, (x, y), verbose=0)
    largest = np.linalg.eigvalsh(hessian).max()
    assert len(history["flatness_largest"]) == 2
    assert history["flatness_largest"][-1] == pytest.approx(largest, rel=1e-3)
    assert {f"flatness_{name}" for name in MEASURED} < set(history)
    (events,) = tmp_path.glob("train/*tfevents*")
    assert b"epoch_flatness_largest" in events.read_bytes()


def test_a_callback_of_no_epoch_is_refused():
    with pytest.raises(ValueError, match=r"`every` must be an integer from 1"):
        landscape.FlatnessCallback(None, every=0)


def test_an_objective_and_a_callback_compile_once():
    """Whatever the weights: with the chains, which small scopes need."""
    model, (x, y) = network()
    traces = []

    def loss(target, prediction):
        traces.append(1)
        return keras.ops.mean((target - prediction) ** 2, -1)

    options = {"scope": 1e-3, "num_steps": 10, "num_probes": 1, "verbose": 0}
    objective = landscape.Objective(model, (x, y), loss)
    with pytest.warns(UserWarning, match="only bounded"):
        first = landscape.flatness_report(objective, budget=None, **options)
    count = len(traces)
    model.set_weights([0.5 * weight for weight in model.get_weights()])
    with pytest.warns(UserWarning, match="only bounded"):
        second = landscape.flatness_report(objective, budget=None, **options)
    identity = np.eye(objective.num_parameters)
    hessian = landscape.hessian_operator(objective) @ identity
    assert len(traces) == count > 0
    assert first.loss != second.loss
    largest = np.linalg.eigvalsh(hessian).max()
    assert second.largest.value == pytest.approx(largest, rel=1e-3)

    landscape.gauss_newton_operator(objective) @ identity[0]
    count = len(traces)
    landscape.gauss_newton_operator(objective) @ identity[0]
    assert len(traces) == count

    model.compile(keras.optimizers.SGD(0.1), "mse")
    watching = landscape.FlatnessCallback(
        (x, y), loss=loss, num_steps=5, num_probes=1
    )
    counts = []
    counting = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(len(traces))
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[watching, counting])
    assert count < counts[0] == counts[1]
    assert watching.reports[0].loss > watching.reports[1].loss


def test_a_callback_follows_what_is_compiled_between_fits():
    model, (x, y) = network()
    watching = landscape.FlatnessCallback((x, y), num_steps=5, num_probes=1)
    for loss, count in (("mse", 183), ("mae", 63)):
        model.layers[0].trainable = loss == "mse"
        model.compile(keras.optimizers.SGD(0.0), loss)
        model.fit(x, y, verbose=0, callbacks=[watching])
        report = watching.reports[0]
        expected = model.evaluate(x, y, verbose=0)
        assert report.loss == pytest.approx(expected, rel=1e-6)
        assert report.num_parameters == count


def test_weights_that_diverged_are_named_by_what_is_compiled():
    model, data = network()
    objective = landscape.Objective(model, data, "mse")
    model.layers[0].bias.assign(np.full(20, np.nan))
    with pytest.raises(ValueError, match=r"`model` must be one with finite w"):
        landscape.flatness_report(objective)
    with pytest.raises(ValueError, match="`loss` must be left out with a Obj"):
        landscape.flatness_report(objective, loss="mse")


def test_signs_of_the_trace_are_not_those_of_the_spectrum(monkeypatch):
    seeds = []

    def noted(name, place):
        function = getattr(flatness, name)

        def call(*arguments):
            seeds.append(arguments[place])
            return function(*arguments)

        monkeypatch.setattr(flatness, name, call)

    noted("runs", 3)
    noted("trace_from", 2)
    model = keras.Sequential([keras.Input([20]), keras.layers.Dense(10)])
    rng = np.random.default_rng(0)
    data = rng.normal(size=[30, 20]), rng.normal(size=[30, 10])
    landscape.flatness_report(
        model, data, "mse", num_steps=10, num_probes=1, verbose=0
    )
    assert len(set(seeds)) == 2
