"""Whether predictions are as sure as they are right: of logits and labels.

Predictions averaged over several weights have no logits; the logarithms of
their probabilities serve as such everywhere here.
"""

import numpy as np
import scipy.optimize
import scipy.special

from entropy_keras.validation import is_integer
from entropy_keras.validation import require
from entropy_keras.validation import require_positive

# Temperatures within which `fit_temperature` searches, as factors.
_WIDEST = 1e6


def log_loss(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> float:
    """Returns the mean negative log-likelihood of the labels.

    Args:
        logits: Of shape `[samples, classes]`.
        labels: Classes, integers of shape `[samples]`.
        temperature: What the logits are divided by, a positive float.

    Returns:
        A float in nats.

    Raises:
        ValueError: If shapes or labels do not fit, or `temperature` is not
            positive.

    Example:
    >>> round(log_loss(np.zeros([3, 4]), np.array([0, 1, 3])), 6)  # log 4
    1.386294
    """
    logits, labels = _checked(logits, labels)
    require_positive(temperature=temperature)
    logs = scipy.special.log_softmax(logits / temperature, axis=1)
    return float(-np.mean(logs[np.arange(len(labels)), labels]))


def expected_calibration_error(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float = 1.0,
    num_bins: int = 15,
) -> float:
    """Returns how far confidence is from accuracy, on average over bins.

    Samples are put into bins of equal width by the probability of the class
    that is predicted; the error is the mean over samples of the distance
    between mean probability and accuracy of their bin.

    Args:
        logits: Of shape `[samples, classes]`.
        labels: Classes, integers of shape `[samples]`.
        temperature: What the logits are divided by, a positive float.
        num_bins: Number of bins, a positive integer.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If shapes or labels do not fit, or `temperature` or
            `num_bins` is not positive.

    Example:
    >>> logits = np.log([[0.8, 0.2]] * 4)  # 80 % sure, right in half
    >>> round(expected_calibration_error(logits, np.array([0, 0, 1, 1])), 6)
    0.3

    References:
        Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural
        networks", ICML 2017, equation 3.
    """
    logits, labels = _checked(logits, labels)
    require(is_integer(num_bins, 1), "num_bins", "a positive integer", num_bins)
    require_positive(temperature=temperature)
    probabilities = scipy.special.softmax(logits / temperature, axis=1)
    confidence = probabilities.max(axis=1)
    excess = confidence - (probabilities.argmax(axis=1) == labels)
    # Bins are open below: a confidence of 1 belongs to the last.
    bins = np.ceil(confidence * num_bins).astype(int)
    totals = np.bincount(bins, weights=excess)
    return float(abs(totals).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes the log loss least.

    The log loss is convex in the inverse of the temperature, whose derivative
    `mean(<logit> - logit of the label)` is followed to its only root.

    Args:
        logits: Of held-out samples, of shape `[samples, classes]`.
        labels: Classes, integers of shape `[samples]`.

    Returns:
        A positive float: above 1 if the predictions are too sure.

    Raises:
        ValueError: If there is no such temperature, since every prediction is
            right, or all are worse than chance.

    Example:
    >>> logits = 3 * np.log([[0.8, 0.2]] * 5)  # three times too sure
    >>> round(fit_temperature(logits, np.array([0, 0, 0, 0, 1])), 6)
    3.0

    References:
        Guo et al., ICML 2017, section 4.2.
    """
    logits, labels = _checked(logits, labels)
    chosen = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        probabilities = scipy.special.softmax(inverse * logits, axis=1)
        # Where a class is ruled out its logit is -inf, and 0 * -inf is 0.
        terms = np.where(probabilities > 0, probabilities * logits, 0.0)
        return float(np.mean(terms.sum(axis=1) - chosen))

    lowest, highest = 1 / _WIDEST, _WIDEST
    require(
        slope(lowest) < 0 < slope(highest),
        "logits",
        "better than chance and wrong for some sample, or no temperature is "
        "the best",
        f"logits of {len(labels)} samples",
    )
    return 1 / float(scipy.optimize.brentq(slope, lowest, highest, rtol=1e-12))


def _checked(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays that fit."""
    logits, labels = np.asarray(logits, float), np.asarray(labels)
    require(
        logits.ndim == 2 and logits.size > 0,
        "logits",
        "of shape [samples, classes]",
        f"an array of shape {logits.shape}",
    )
    require(
        labels.shape == logits.shape[:1]
        and np.issubdtype(labels.dtype, np.integer)
        and labels.min() >= 0
        and labels.max() < logits.shape[1],
        "labels",
        f"one integer from 0 to {logits.shape[1] - 1} for each of the "
        f"{len(logits)} samples",
        f"an array of shape {labels.shape} and type {labels.dtype}",
    )
    return logits, labels
