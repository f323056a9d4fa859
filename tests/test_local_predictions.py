"""Predictions of the local Gibbs measure are those of the closed form."""

import warnings

import keras
import numpy as np
import pytest
from test_local_entropy import UNEVEN

import entropy_keras
from entropy_keras import landscape
from entropy_keras.landscape import mixing
from entropy_keras.landscape import predictions

RNG = np.random.default_rng(0)
X = RNG.normal(size=[40, 3])
Y = X @ [[1.0], [-2.0], [0.5]] + 0.3 * RNG.normal(size=[40, 1])
WEIGHTS = np.array([[0.8], [-1.5], [0.0]])
SCOPE, TEMPERATURE = 0.5, 0.05


def linear_model(dtype="float64"):
    model = keras.Sequential([
        keras.Input([3], dtype=dtype),
        keras.layers.Dense(1, use_bias=False, dtype=dtype),
    ])
    model.compile(loss="mse")
    model.set_weights([WEIGHTS])
    return model


def closed_form(diagonal=1.0):
    """Returns mean and deviation of the predictions at X."""
    pull = SCOPE / diagonal * np.eye(3)
    precision = 2 * X.T @ X / len(X) + pull
    mean = np.linalg.solve(precision, 2 * X.T @ Y / len(X) + pull @ WEIGHTS)
    covariance = TEMPERATURE * np.linalg.inv(precision)
    return X @ mean, np.sqrt(np.diag(X @ covariance @ X.T))[:, None]


def rms_gradients():
    """Returns the metric that gradients of all data make of the weights."""
    gradient = 2 * X.T @ (X @ WEIGHTS - Y) / len(X)
    return 1 / (1e-5 + abs(gradient[:, 0]))


@pytest.mark.parametrize(
    ("arguments", "diagonal"),
    [
        ({}, 1.0),
        ({"sampler": "split_sgld", "step_size": 0.05}, 1.0),
        ({"sampler": entropy_keras.SGLD(0.0), "step_size": 0.05}, 1.0),
        ({"sampler": "sgnht"}, 1.0),
        ({"sampler": "santa", "step_size": 0.05}, 1.0),
        ({"metric": "relative"}, np.mean(WEIGHTS**2)),
        ({"metric": "rms_gradients"}, rms_gradients()),
        ({"minibatch_size": 20, "step_size": 0.002}, 1.0),
    ],
)
def test_linear_regression_has_the_closed_form(arguments, diagonal):
    model = linear_model()
    before = model.get_weights()
    found = landscape.local_predictions(
        model, X, (X, Y), SCOPE, TEMPERATURE, num_samples=60,
        steps_per_sample=20, seed=1, batch_size=25, **arguments,
    )  # fmt: skip
    assert found.reason == ""
    assert 50 < found.effective_sample_size <= 240
    mean, deviation = closed_form(diagonal)
    error = deviation / found.effective_sample_size**0.5
    assert (abs(found.mean - mean) < 4 * error).all()
    np.testing.assert_allclose(found.deviation, deviation, rtol=0.2)
    assert found.temperature == pytest.approx(TEMPERATURE, rel=0.2)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_the_heat_of_minibatches_is_said():
    with pytest.warns(UserWarning, match="not .* trusted: their temperature"):
        found = landscape.local_predictions(
            linear_model(), X, (X, Y), SCOPE, 1e-3, minibatch_size=2,
            step_size=0.02, num_samples=100,
        )  # fmt: skip
    assert found.temperature > 2e-3


def classifier(from_logits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([3]),
        keras.layers.Dense(4, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2, None if from_logits else "softmax"),
    ])
    # Statistics that are neither those of the data nor the initial ones.
    model.layers[1].moving_mean.assign([0.1, -0.2, 0.3, 0.0])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    )
    return model


@pytest.mark.parametrize("from_logits", [True, False])
def test_probabilities_are_averaged_not_logits(from_logits):
    x, y = X.astype("float32"), (Y[:, 0] > 0).astype("int32")
    arguments = {"num_samples": 8, "steps_per_sample": 2, "num_chains": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few are not to be trusted
        found = landscape.local_predictions(
            classifier(from_logits), x, (x, y), 1e4, 1e-3, **arguments
        )
    np.testing.assert_allclose(found.mean.sum(1), 1.0, rtol=1e-5)
    # So strong a pull leaves the weights where they are.
    model = classifier(from_logits)
    expected = model(x).numpy()
    if from_logits:
        expected = keras.ops.softmax(expected)
    np.testing.assert_allclose(found.mean, expected, atol=2e-3)
    # What calibration takes for logits are the logarithms of these.
    chosen = found.mean[np.arange(len(y)), y]
    assert landscape.log_loss(found.logits, y) == pytest.approx(
        -np.log(chosen).mean()
    )
    assert "independent samples" in found.reason or "R-hat" in found.reason


def test_steps_suit_the_curvature_on_the_way():
    # The loss w**4 is flat at the weight 0, and curved wherever it leads.
    model = keras.Sequential([
        keras.Input([1], dtype="float64"),
        keras.layers.Dense(1, use_bias=False, dtype="float64"),
    ])
    model.set_weights([np.zeros([1, 1])])
    ones = np.ones([1, 1])
    found = landscape.local_predictions(
        model, ones, (ones, 0 * ones), 0.01, 1.0,
        lambda _, prediction: prediction**4, activation="linear",
        num_samples=200, seed=1,
    )  # fmt: skip
    grid = np.linspace(-4, 4, 10_001)
    density = np.exp(-(grid**4) - 0.005 * grid**2)
    expected = (density * grid**2).sum() / density.sum()
    assert found.reason == ""
    assert found.step_size < 1  # not 0.5 / scope = 50
    error = (2 / found.effective_sample_size) ** 0.5
    assert found.deviation.item() ** 2 == pytest.approx(expected, rel=4 * error)
    assert error < 0.1


def test_what_is_not_mixed_is_said():
    with pytest.warns(UserWarning, match="not to be trusted: split R-hat"):
        landscape.local_predictions(
            linear_model(), X, (X, Y), 1e-3, 1.0, num_samples=8,
            steps_per_sample=1, step_size=1e-3,
        )  # fmt: skip


def test_what_is_compiled_serves_other_weights_and_settings():
    model = linear_model()
    traced = []

    def loss(target, prediction):
        traced.append("loss")
        return keras.ops.mean((target - prediction) ** 2, -1)

    chains = landscape.Chains(landscape.Objective(model, (X, Y), loss))
    predictor = landscape.Predictor(chains, X, "linear")
    first = predictor.predict(landscape.Plan(SCOPE, TEMPERATURE), 8, 2)
    compiled = len(traced)
    model.set_weights([0.0 * WEIGHTS])
    other = predictor.predict(landscape.Plan(1e6, TEMPERATURE, seed=1), 8, 2)
    np.testing.assert_allclose(other.mean, 0.0 * Y, atol=1e-3)
    model.set_weights([WEIGHTS])
    again = predictor.predict(landscape.Plan(SCOPE, TEMPERATURE), 8, 2)
    np.testing.assert_array_equal(again.mean, first.mean)
    assert len(traced) == compiled


def abs_error(target, prediction):
    return keras.ops.mean(abs(target - prediction), -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": abs_error}, "`activation` must be one of .*loss does not"),
        ({"activation": "tanh"}, "`activation` must be one of"),
        ({"num_samples": 7}, "`num_samples` must be an integer from 8 on"),
        ({"steps_per_sample": 0}, "`steps_per_sample` must be"),
        ({"temperature": 0.0}, "`temperature` must be a positive number"),
        ({"metric": "learned"}, "`metric` must be one that does not learn"),
        (
            {"sampler": entropy_keras.GaussianPerturbation()},
            "`sampler` must be one that samples the Gibbs law",
        ),
        ({"sampler": "sgld"}, "`sampler` must be one that samples the Gibbs"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    arguments = {"scope": 1.0, "temperature": 1.0} | arguments
    with pytest.raises(ValueError, match=message):
        landscape.local_predictions(linear_model(), X, (X, Y), **arguments)


def test_several_outputs_are_refused():
    inputs = keras.Input([3])
    heads = [keras.layers.Dense(1)(inputs), keras.layers.Dense(1)(inputs)]
    model = keras.Model(inputs, heads)
    model.compile(loss=["mse", "mse"])
    with pytest.raises(ValueError, match="`model` must be one with a single"):
        landscape.local_predictions(model, X, (X, [Y, Y]), 1.0, 1.0)


@pytest.mark.parametrize(
    "loss",
    [keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy],
)
def test_logits_of_two_classes_become_probabilities(loss):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(loss=loss(from_logits=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = landscape.local_predictions(
            model,
            X,
            (X, (X[:, :1] > 0).astype("float32")),
            1e4,
            1e-3,
            num_samples=8,
            steps_per_sample=2,
            num_chains=2,
        )
    expected = keras.ops.sigmoid(model(X))
    np.testing.assert_allclose(found.mean, expected, atol=2e-3)


def test_the_worst_prediction_is_judged(monkeypatch):
    monkeypatch.setattr(mixing, "diagnose", lambda *of: UNEVEN)
    total = predictions._Total()
    for number in range(16):
        total.add(np.array([float(number)]))
    result = total.result(
        landscape.Plan(1.0), np.ones([8, 2]), np.ones([8, 2]), 0.1
    )
    assert (result.effective_sample_size, result.r_hat) == (60.0, 1.1)
