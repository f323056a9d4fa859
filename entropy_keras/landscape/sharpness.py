"""How much the loss rises around the weights: worst case and on average."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras.landscape.ascent import BALL
from entropy_keras.landscape.ascent import BOX
from entropy_keras.landscape.ascent import Ascent
from entropy_keras.landscape.ascent import Rise
from entropy_keras.landscape.ascent import precision
from entropy_keras.landscape.density import Estimate
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import objective_of
from entropy_keras.validation import is_integer
from entropy_keras.validation import is_number
from entropy_keras.validation import require
from entropy_keras.validation import require_positive

# Standard deviations between which `pac_bayes_sigma` looks.
_SMALLEST, _LARGEST = 1e-6, 1e3


def epsilon_sharpness(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    epsilon: float = 1e-3,
    num_steps: int = 10,
    num_starts: int = 4,
    seed: int = 0,
    **options: Any,
) -> float:
    """Measures the largest rise of the loss in a box around the weights.

    The box is |d_i| <= epsilon (|x_i| + 1), and the value, in per cent,
    100 (max f(x + d) - f(x)) / (1 + f(x)). What is found is a lower bound, as
    in the paper. Where the paper has L-BFGS-B, each step here goes to, or
    towards, the corner that the gradient looks to: from the weights, from where
    the curvature is largest, and from random corners, since at a minimum of f
    there is no slope to follow. See `Ascent` for how it looks.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss, larger than -1; `None` for the compiled one.
        epsilon: Half the width of the box.
        num_steps: Limit of the steps from each start; most need fewer.
        num_starts: Number of random corners to start at.
        seed: Seed of them.
        **options: `batch_size` and `training`.

    Returns:
        The sharpness, at least 0. It comes with a warning where it is not well
        above rounding, and is taken from the slopes there.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([1]),
    ...     keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
    ... ])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> sharp = landscape.epsilon_sharpness(model, data, "mse", epsilon=0.1)
    >>> round(sharp, 4)  # 100 * 0.1**2
    1.0

    References:
        Keskar et al., "On large-batch training for deep learning",
        arXiv:1609.04836, metric 2.1 with A the identity.
    """
    require_positive(epsilon=epsilon)
    _check_counts(num_steps=num_steps, num_starts=num_starts)
    objective = objective_of(model, data, loss, **options)
    eps = precision(objective)
    found = box_sharpness(objective, epsilon, num_steps, num_starts, seed, eps)
    _warn(found)
    return found.value


def box_sharpness(
    objective: Objective,
    epsilon: float,
    num_steps: int,
    num_starts: int,
    seed: int,
    eps: float,
) -> Rise:
    """Returns the sharpness in a box; see `epsilon_sharpness`.

    Args:
        objective: The loss.
        epsilon: Half the width of the box.
        num_steps: Limit of the steps from each start.
        num_starts: Random corners to start at.
        seed: Seed of them.
        eps: The precision of the loss.

    Returns:
        The sharpness, in per cent.

    Raises:
        ValueError: If the loss is not larger than -1.
    """
    origin = objective.position().numpy().astype("float64")
    ascent = Ascent(objective, epsilon * (np.abs(origin) + 1.0), BOX, eps)
    value = ascent.start.value
    require(value > -1.0, "loss", "larger than -1", value)
    found = ascent.run(num_steps, num_starts, seed)
    return Rise(*(100.0 * number / (1.0 + value) for number in found))


def sam_sharpness(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    rho: float = 0.05,
    num_steps: int = 20,
    seed: int = 0,
    **options: Any,
) -> float:
    """Measures the largest rise of the loss in a ball around the weights.

    One step is the ascent of sharpness-aware minimization, to
    x + rho g / |g| with the gradient g at x. More steps look for the maximum:
    each goes to, or towards, the point of the sphere that the gradient at the
    last point looks to, which never descends where f is convex (on a quadratic
    it is a power iteration), from the weights, from where the curvature is
    largest, and from a random point.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        rho: Radius of the ball.
        num_steps: 1 for the value that SAM adds to the loss, more for the
            limit of the steps from each start.
        seed: Seed of the random directions.
        **options: `batch_size` and `training`.

    Returns:
        The largest f(x + d) - f(x) of the points visited. With one step it may
        be negative, if the ball is too large for the slope to tell. It comes
        with a warning where it is not well above rounding, and is taken from
        the slopes there.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([1]),
    ...     keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ... ])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> round(landscape.sam_sharpness(model, data, "mse", rho=0.1), 4)
    0.21

    References:
        Foret et al., "Sharpness-aware minimization for efficiently improving
        generalization", arXiv:2010.01412, equation 2.
    """
    require_positive(rho=rho)
    _check_counts(num_steps=num_steps)
    objective = objective_of(model, data, loss, **options)
    ascent = Ascent(objective, rho, BALL, precision(objective))
    if num_steps == 1 and ascent.start.slope.any():
        found = ascent.rise(ascent.at(BALL.farthest(ascent.start.slope)))
    else:
        found = ascent.run(num_steps, 1, seed)
    _warn(found)
    return found.value


def _check_counts(**counts: int) -> None:
    for name, number in counts.items():
        require(is_integer(number, 1), name, "a positive integer", number)


def _warn(found: Rise) -> None:
    if found.reason:
        warnings.warn(
            f"The sharpness says little: {found.reason}", stacklevel=3
        )


def local_energy(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    sigma: float = 0.1,
    multiplicative: bool = True,
    num_pairs: int = 50,
    seed: int = 0,
    **options: Any,
) -> Estimate:
    """Estimates the mean rise of the loss under Gaussian noise on the weights.

    It is the mean of f(x + sigma z) - f(x), or of f(x + sigma x z) - f(x) with
    the product taken entry by entry. The noise comes in pairs z, -z, which
    takes the slope of f out of the error.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        sigma: Standard deviation of the noise, absolute or relative.
        multiplicative: Whether it is relative to each weight. Then a network
            of ReLUs is judged alike however its layers are scaled.
        num_pairs: Pairs of noises, two losses each, at least 2.
        seed: Seed of the noise.
        **options: `batch_size` and `training`.

    Returns:
        The mean with its standard error, in which the rounding of f is.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([1]),
    ...     keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ... ])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> energy = landscape.local_energy(model, data, "mse", num_pairs=500)
    >>> abs(energy.value - 0.1**2) < 3 * energy.standard_error
    True

    References:
        Pittorino et al., "Entropic gradient descent algorithms and wide flat
        minima", arXiv:2006.07897, equation 9, multiplicative.
    """
    require_positive(sigma=sigma)
    require(
        is_integer(num_pairs, 2),
        "num_pairs",
        "an integer of at least 2",
        num_pairs,
    )
    objective = objective_of(model, data, loss, **options)
    center = objective.position()
    value = float(objective.value(center))
    rises = []
    for noise in _noise(center, multiplicative, num_pairs, seed):
        both = [objective.value(center + s * noise) for s in (sigma, -sigma)]
        rises.append((float(both[0]) + float(both[1])) / 2.0 - value)
    sampling = np.std(rises, ddof=1) / math.sqrt(num_pairs)
    # That of f(x) is the same in all pairs.
    rounding = precision(objective) * abs(value)
    return Estimate(float(np.mean(rises)), math.hypot(sampling, rounding))


def pac_bayes_sigma(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    drop: float = 0.1,
    multiplicative: bool = False,
    num_noises: int = 20,
    precision: float = 0.02,
    seed: int = 0,
    **options: Any,
) -> float:
    """Finds the noise on the weights that costs a given part of the accuracy.

    It is the standard deviation sigma, not the variance, of Gaussian noise at
    which the mean accuracy is lower by `drop` than that of the weights
    themselves; larger is flatter. Bisection with the same random numbers at
    each sigma.

    Args:
        model: See `Objective`, as for `data`, `loss` and the options; a
            classifier with one output per class.
        data: The samples, with integer labels or rows of a unit matrix.
        loss: The loss; `None` for the compiled one.
        drop: Accuracy lost, a part of 1.
        multiplicative: Whether the noise is relative to each weight.
        num_noises: Number of noises.
        precision: Relative precision of the result.
        seed: Seed of the noise.
        **options: `batch_size` and `training`.

    Returns:
        The standard deviation; infinite if 1,000 costs less, and 0 if a
        millionth costs more.

    Raises:
        ValueError: If an argument is out of its range, or the outputs and
            labels are not those of classes; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([2]),
    ...     keras.layers.Dense(
    ...         2, use_bias=False, kernel_initializer="identity"
    ...     ),
    ... ])
    >>> data = np.eye(2, dtype="float32"), np.array([0, 1])
    >>> sigma = landscape.pac_bayes_sigma(model, data, "mse", num_noises=200)
    >>> 0.45 < sigma < 0.65  # 1 / (sqrt(2) 1.2816)
    True

    References:
        Jiang et al., "Fantastic generalization measures and where to find
        them", arXiv:1912.02178, appendix C.
    """
    require(
        is_number(drop, 0.0) and 0.0 < drop < 1.0,
        "drop",
        "a number between 0 and 1",
        drop,
    )
    require_positive(precision=precision)
    _check_counts(num_noises=num_noises)
    objective = objective_of(model, data, loss, **options)
    accuracy = _accuracy(objective)
    center = objective.position()
    allowed = float(accuracy(center)) - drop
    noises = list(_noise(center, multiplicative, num_noises, seed))

    def too_much(sigma: float) -> bool:
        found = [float(accuracy(center + sigma * noise)) for noise in noises]
        return float(np.mean(found)) < allowed

    if not too_much(_LARGEST):
        return math.inf
    if too_much(_SMALLEST):
        return 0.0
    low, high = _SMALLEST, _LARGEST
    while high / low > 1.0 + precision:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if too_much(middle) else (middle, high)
    return low


def _noise(
    center: tf.Tensor, multiplicative: bool, count: int, seed: int
) -> Any:
    """Yields Gaussian vectors, of unit variance or relative to the weights."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        noise = tf.constant(rng.standard_normal(len(center)), center.dtype)
        yield noise * center if multiplicative else noise


def _accuracy(objective: Objective) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the share of right classes, as a function of the weights."""

    def of_batch(position: tf.Tensor, batch: Any) -> tf.Tensor:
        _, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        scores, _ = objective.forward(objective.split(position), batch)
        require(
            tf.is_tensor(scores) and scores.shape[-1] >= 2,
            "model",
            "a classifier with one output per class",
            scores,
        )
        if labels.shape == scores.shape:
            labels = tf.argmax(labels, -1)
        labels = tf.reshape(tf.cast(labels, tf.int64), scores.shape[:-1])
        right = tf.equal(tf.argmax(scores, -1), labels)
        return tf.reduce_mean(tf.cast(right, objective.dtype))

    return objective.mean(of_batch)
