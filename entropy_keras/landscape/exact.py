"""The local entropy where it is known: quadratic losses, and one weight.

Pure functions in NumPy. For a loss f of n weights,

    F(x) = T * log ∫ exp(-(f(x') + scope / 2 * |x - x'|**2) / T) dx'

is the local entropy at temperature T; the paper has T = 1. What is minimised
is -F, the smoothed loss.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np

from entropy_keras.landscape.theory import smoothed_curvature
from entropy_keras.validation import is_integer
from entropy_keras.validation import require
from entropy_keras.validation import require_positive


class LocalEntropy(NamedTuple):
    """The local entropy F, with gradient and Hessian of the smoothed loss -F.

    For `local_entropy_1d` each is an array with one entry per position.

    Example:
    >>> from entropy_keras import landscape
    >>> landscape.LocalEntropy(value=-1.0, gradient=0.5, hessian=0.1).value
    -1.0
    """

    value: Any
    gradient: Any
    hessian: Any


def flat_local_entropy(
    num_parameters: int, scope: float, temperature: float = 1.0
) -> float:
    """Returns the local entropy of the loss zero, `T n / 2 log(2 π T / scope)`.

    It is a constant that has nothing to do with the loss; F less this value is
    what to compare between scopes. It tends to -f(x) as the scope grows.

    Args:
        num_parameters: Number of weights n.
        scope: The scope, positive.
        temperature: The temperature T, positive.

    Returns:
        The constant.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> round(landscape.flat_local_entropy(2, scope=2 * np.pi), 6)
    0.0

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 4, of the loss zero.
    """
    require(
        is_integer(num_parameters, 1),
        "num_parameters",
        "an integer from 1 on",
        num_parameters,
    )
    require_positive(scope=scope, temperature=temperature)
    area = 2.0 * np.pi * temperature / scope
    return float(0.5 * temperature * num_parameters * np.log(area))


def quadratic_local_entropy(
    hessian: Any, displacement: Any, scope: float, temperature: float = 1.0
) -> LocalEntropy:
    """Returns the local entropy of a quadratic loss, in closed form.

    The loss is `1/2 (x - a)' H (x - a)`. Its gradient and Hessian do not depend
    on the temperature.

    Args:
        hessian: H, of shape `[n, n]`, symmetric.
        displacement: x - a, of shape `[n]`.
        scope: The scope, positive; H + scope I must be positive definite.
        temperature: The temperature T, positive.

    Returns:
        F at x, a float, and gradient and Hessian of -F.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> entropy = landscape.quadratic_local_entropy([[1.0]], [2.0], scope=1.0)
    >>> entropy.gradient, entropy.hessian
    (array([1.]), array([[0.5]]))

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 4, a Gaussian integral here.
    """
    require_positive(scope=scope, temperature=temperature)
    hessian = np.asarray(hessian, np.float64)
    displacement = np.asarray(displacement, np.float64)
    (n,) = displacement.shape
    require(
        hessian.shape == (n, n) and np.allclose(hessian, hessian.T),
        "hessian",
        f"a symmetric matrix of shape {(n, n)}",
        hessian,
    )
    eigenvalues, basis = np.linalg.eigh(hessian)
    curved = smoothed_curvature(eigenvalues, scope)
    along = basis.T @ displacement
    volume = np.log1p(eigenvalues / scope).sum()
    value = flat_local_entropy(n, scope, temperature)
    value -= 0.5 * float(temperature * volume + curved @ along**2)
    return LocalEntropy(
        value, basis @ (curved * along), basis * curved @ basis.T
    )


def local_entropy_1d(
    loss: Callable[[np.ndarray], np.ndarray],
    x: Any,
    scope: float,
    temperature: float = 1.0,
    *,
    grid: np.ndarray,
) -> LocalEntropy:
    """Integrates the local entropy of a loss of one weight numerically.

    Sums by the trapezoidal rule, which for smooth losses converges faster than
    any power of the spacing, and in logarithms, so that nothing overflows.

    Args:
        loss: Function of an array of any shape.
        x: Positions, an array of shape `[m]`.
        scope: The scope, positive.
        temperature: The temperature T, positive.
        grid: Increasing points x' to sum over, of shape `[k]`; the integrand
            must have died away at both ends and be several points wide.

    Returns:
        F, and first and second derivative of -F, each of shape `[m]`.

    Raises:
        ValueError: If an argument is out of its range, or if the grid is too
            short or too coarse for one of the positions.

    Example:
    >>> from entropy_keras import landscape
    >>> entropy = landscape.local_entropy_1d(
    ...     lambda x: x**2 / 2, [2.0], scope=1.0, grid=np.linspace(-9, 9, 99)
    ... )
    >>> entropy.gradient.round(6), entropy.hessian.round(6)
    (array([1.]), array([0.5]))

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 4; Trefethen and Weideman,
        "The exponentially convergent trapezoidal rule", 2014.
    """
    require_positive(scope=scope, temperature=temperature)
    x, grid, energy = _energy(loss, x, scope, grid)
    exponent = np.log(np.gradient(grid)) - energy / temperature
    largest = exponent.max(axis=1, keepdims=True)
    weights = np.exp(exponent - largest)
    total = weights.sum(axis=1, keepdims=True)
    weights /= total
    received = f"{len(grid)} points from {grid[0]} to {grid[-1]}"
    require(
        bool((weights[:, [0, -1]] < 1e-9).all()),
        "grid",
        "so long that the integrand dies away at both ends",
        received,
    )
    require(
        bool(((weights**2).sum(axis=1) < 0.25).all()),
        "grid",
        "so fine that the integrand is several points wide",
        received,
    )
    value = temperature * (largest + np.log(total))[:, 0]
    mean = weights @ grid
    variance = (weights * (grid - mean[:, np.newaxis]) ** 2).sum(axis=1)
    return LocalEntropy(
        value,
        scope * (x - mean),
        scope - scope**2 * variance / temperature,
    )


def moreau_envelope_1d(
    loss: Callable[[np.ndarray], np.ndarray],
    x: Any,
    scope: float,
    *,
    grid: np.ndarray,
) -> np.ndarray:
    """Returns what -F tends to as the temperature goes to zero.

    That is the smallest of `loss(x') + scope / 2 * (x - x')**2` over x'. Its
    minimum is that of the loss and lies at the same place: without temperature
    the local entropy does not prefer wide valleys.

    Args:
        loss: Function of an array of any shape.
        x: Positions, an array of shape `[m]`.
        scope: The scope, positive.
        grid: Increasing points x' to search, of shape `[k]`.

    Returns:
        The envelope, of shape `[m]`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> landscape.moreau_envelope_1d(  # Huber's function
    ...     np.abs, [0.0, 1.0, 2.0], scope=1.0, grid=np.linspace(-4, 4, 801)
    ... ).round(6)
    array([0. , 0.5, 1.5])

    References:
        Parikh and Boyd, "Proximal algorithms", 2014, section 3.1.
    """
    require_positive(scope=scope)
    _, _, energy = _energy(loss, x, scope, grid)
    return energy.min(axis=1)


def _energy(
    loss: Callable[[np.ndarray], np.ndarray], x: Any, scope: float, grid: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions, grid, and loss plus pull, of shape `[m, k]`."""
    x, grid = np.asarray(x, np.float64), np.asarray(grid, np.float64)
    require(x.ndim == 1, "x", "an array of shape [m]", x)
    require(
        grid.ndim == 1 and len(grid) > 2 and bool((np.diff(grid) > 0).all()),
        "grid",
        "an array of at least three increasing points",
        grid,
    )
    pull = 0.5 * scope * (x[:, np.newaxis] - grid) ** 2
    return x, grid, np.asarray(loss(grid)) + pull
