"""Predictions of the local Gibbs measure are those of the closed form."""

import warnings

import keras
import numpy as np
import pytest

import entropy_keras
from entropy_keras import landscape

RNG = np.random.default_rng(0)
X = RNG.normal(size=[40, 3])
Y = X @ [[1.0], [-2.0], [0.5]] + 0.3 * RNG.normal(size=[40, 1])
WEIGHTS = np.array([[0.8], [-1.5], [0.0]])
SCOPE, TEMPERATURE = 0.5, 0.05


def linear_model():
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(1, use_bias=False)],
    )
    model.compile(loss="mse")
    model.set_weights([WEIGHTS])
    return model


def closed_form(spread=1.0):
    """Returns mean and deviation of the predictions at X."""
    precision = 2 * X.T @ X / len(X) + SCOPE / spread * np.eye(3)
    pull = 2 * X.T @ Y / len(X) + SCOPE / spread * WEIGHTS
    mean = X @ np.linalg.solve(precision, pull)
    covariance = TEMPERATURE * np.linalg.inv(precision)
    return mean, np.sqrt(np.diag(X @ covariance @ X.T))[:, None]


@pytest.mark.parametrize(
    ("sampler", "metric", "minibatch_size"),
    [
        (None, "identity", None),
        ("sghmc", "relative", None),
        (None, "identity", 20),
    ],
)
def test_of_linear_regression(sampler, metric, minibatch_size):
    keras.config.set_dtype_policy("float64")
    try:
        model = linear_model()
    finally:
        keras.config.set_dtype_policy("float32")
    before = model.get_weights()
    found = landscape.local_predictions(
        model, X, (X, Y), SCOPE, TEMPERATURE, activation="linear",
        num_samples=100, sampler=sampler, metric=metric, seed=1,
        minibatch_size=minibatch_size,
        step_size=0.02 if minibatch_size else None, steps_per_sample=20,
    )  # fmt: skip
    assert found.reason == ""
    assert 50 < found.effective_sample_size <= 400
    spread = np.mean(WEIGHTS**2) if metric == "relative" else 1.0
    mean, deviation = closed_form(spread)
    error = deviation / found.effective_sample_size**0.5
    assert (abs(found.mean - mean) < 4 * error).all()
    # Gradients of mini-batches are noise of their own.
    slack = 0.35 if minibatch_size else 0.15
    np.testing.assert_allclose(found.deviation, deviation, rtol=slack)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def classifier(from_logits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([3]),
        keras.layers.Dense(4, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2, None if from_logits else "softmax"),
    ])
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
    assert "independent samples" in found.reason or "R-hat" in found.reason


def test_what_is_not_mixed_is_said():
    model = linear_model()
    with pytest.warns(UserWarning, match="not to be trusted"):
        found = landscape.local_predictions(
            model, X, (X, Y), 1e-3, 1.0, activation="linear", num_samples=8,
            steps_per_sample=1, step_size=1e-3,
        )  # fmt: skip
    assert found.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": None}, "`activation` must be one of .*loss does not"),
        ({"num_samples": 7}, "`num_samples` must be an integer from 8 on"),
        ({"steps_per_sample": 0}, "`steps_per_sample` must be"),
        ({"temperature": 0.0}, "`temperature` must be a positive number"),
        ({"metric": "learned"}, "`metric` must be one that does not learn"),
        (
            {"sampler": entropy_keras.GaussianPerturbation()},
            "`sampler` must be one that moves by gradients",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    arguments = {
        "scope": 1.0, "temperature": 1.0, "activation": "linear"
    } | arguments  # fmt: skip
    with pytest.raises(ValueError, match=message):
        landscape.local_predictions(linear_model(), X, (X, Y), **arguments)


def test_several_outputs_are_refused():
    inputs = keras.Input([3])
    heads = [keras.layers.Dense(1)(inputs), keras.layers.Dense(1)(inputs)]
    model = keras.Model(inputs, heads)
    model.compile(loss=["mse", "mse"])
    with pytest.raises(ValueError, match="`model` must be one with a single"):
        landscape.local_predictions(model, X, (X, [Y, Y]), 1.0, 1.0)
