"""Log loss, calibration error and one temperature, by closed forms."""

import keras
import numpy as np
import pytest
import scipy.optimize

from entropy_keras import landscape

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=[500, 4])
# Labels drawn from the logits at temperature 2.5: they are too sure.
GUMBEL = RNG.gumbel(size=LOGITS.shape)
LABELS = (LOGITS / 2.5 + GUMBEL).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_loss_is_that_of_keras(temperature):
    expected = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, dtype="float64"
    )(LABELS, LOGITS / temperature)
    found = landscape.log_loss(LOGITS, LABELS, temperature)
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_the_fitted_temperature_is_the_least_of_the_log_loss():
    fitted = landscape.fit_temperature(LOGITS, LABELS)
    searched = scipy.optimize.minimize_scalar(
        lambda t: landscape.log_loss(LOGITS, LABELS, t),
        bounds=(0.1, 10.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fitted == pytest.approx(searched.x, rel=1e-5)
    assert fitted == pytest.approx(2.5, rel=0.25)
    # Twice the logits, twice the temperature.
    doubled = landscape.fit_temperature(2 * LOGITS, LABELS)
    assert doubled == pytest.approx(2 * fitted, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_search_is_wide_enough(scale):
    fitted = landscape.fit_temperature(scale * LOGITS, LABELS)
    reference = landscape.fit_temperature(LOGITS, LABELS)
    assert fitted / scale == pytest.approx(reference, rel=1e-6)


def test_calibration_error_by_hand():
    # Bins of width 1/4: confidences 0.6 and 0.7 in the third, 0.9 and 1 in the
    # last. |0.6 + 0.7 - 1| + |0.9 + 1 - 2| = 0.4 over four samples.
    confidences = np.array([0.6, 0.7, 0.9, 1.0])
    with np.errstate(divide="ignore"):
        logits = np.log(np.stack([confidences, 1 - confidences], axis=1))
    found = landscape.expected_calibration_error(
        np.maximum(logits, -700), np.array([0, 1, 0, 0]), num_bins=4
    )
    assert found == pytest.approx(0.1, rel=1e-9)
    # One bin of all: |3.2 - 3| / 4.
    one = landscape.expected_calibration_error(
        np.maximum(logits, -700), np.array([0, 1, 0, 0]), num_bins=1
    )
    assert one == pytest.approx(0.05, rel=1e-9)


def test_a_fitted_temperature_calibrates():
    fitted = landscape.fit_temperature(LOGITS, LABELS)
    before, after = (
        landscape.expected_calibration_error(LOGITS, LABELS, t)
        for t in (1.0, fitted)
    )
    assert after < before / 3


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (LOGITS, LOGITS.argmax(axis=1)),  # all right
        (LOGITS, LOGITS.argmin(axis=1)),  # all wrong
        (np.zeros([3, 2]), np.array([0, 1, 1])),  # nothing to scale
    ],
)
def test_no_temperature_is_fitted_where_none_is_best(logits, labels):
    with pytest.raises(ValueError, match=r"^`logits` must be better than"):
        landscape.fit_temperature(logits, labels)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_are_positive(temperature):
    for function in (
        landscape.log_loss,
        landscape.expected_calibration_error,
    ):
        with pytest.raises(ValueError, match="^`temperature` must be"):
            function(LOGITS, LABELS, temperature)


@pytest.mark.parametrize(
    ("logits", "labels", "argument"),
    [
        (np.zeros([3]), np.zeros([3], int), "logits"),
        (np.zeros([3, 2]), np.zeros([3]), "labels"),
        (np.zeros([3, 2]), np.array([0, 1, 2]), "labels"),
        (np.zeros([3, 2]), np.zeros([3, 1], int), "labels"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, argument):
    for function in (
        landscape.log_loss,
        landscape.expected_calibration_error,
        landscape.fit_temperature,
    ):
        with pytest.raises(ValueError, match=f"^`{argument}` must be"):
            function(logits, labels)
