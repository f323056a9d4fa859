"""What theory says of the local entropy: constants and bounds.

Pure functions in NumPy. Throughout, for a loss f in n dimensions,

    F(x) = T * log ∫ exp(-(f(x') + scope / 2 * |x - x'|**2) / T) dx'

is the local entropy at temperature T; the paper has T = 1. What is minimised
is -F, the smoothed loss.
"""

from typing import Any
from typing import NamedTuple

import numpy as np

from entropy_keras.validation import is_integer
from entropy_keras.validation import is_number
from entropy_keras.validation import require
from entropy_keras.validation import require_positive

FORMS = ("exact", "paper")


class Constants(NamedTuple):
    """How fast a function and its gradient change at most.

    Attributes:
        lipschitz: Largest norm of the gradient.
        smoothness: Largest norm of the Hessian.
    """

    lipschitz: float
    smoothness: float


def smoothed_curvature(curvature: Any, scope: float) -> Any:
    """Returns the curvature of -F where the loss has the given curvature.

    For a quadratic loss with eigenvalue l that of -F is `scope * l / (scope +
    l)`. For any other loss, whose Hessian lies between l and u everywhere, the
    Hessian of -F lies between their images, at every temperature: the lower
    side by the inequality of Brascamp and Lieb, the upper one by that of Cramér
    and Rao. So whatever the loss, even if not smooth at all (u infinite), the
    Hessian of -F never exceeds the scope; downwards it has no bound.

    Args:
        curvature: Eigenvalues of the Hessian or bounds of them, of any shape,
            each more than `-scope`, or else the integral diverges for a
            quadratic.
        scope: The scope, positive.

    Returns:
        Curvatures of -F, of the same shape, each at most `scope`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> landscape.smoothed_curvature([-0.5, 0.0, 1.0, np.inf], scope=1.0)
    array([-1. ,  0. ,  0.5,  1. ])

    References:
        Brascamp and Lieb, "On extensions of the Brunn-Minkowski and
        Prékopa-Leindler theorems", 1976, theorem 4.1.
    """
    require_positive(scope=scope)
    curvature = np.asarray(curvature, np.float64)
    require(
        bool((curvature > -scope).all()),
        "curvature",
        f"more than -scope={-scope} everywhere",
        curvature,
    )
    finite = np.where(np.isinf(curvature), 0.0, curvature)
    return np.where(
        np.isinf(curvature), scope, scope * finite / (scope + finite)
    )


def smoothed_constants(
    lipschitz: float,
    smoothness: float,
    *,
    scope: float,
    gap: float,
    form: str = "exact",
) -> Constants:
    """Returns the constants of -F that Lemma 2 is about.

    The lemma takes a loss with constants α and β whose Hessian has no
    eigenvalue in [-2 * scope - c, c], and prints α / (1 + c / scope) and β / (1
    + c / scope). For a quadratic loss with eigenvalues in [c, β] the first is
    exact; the exact second is β / (1 + β / scope), which is at most the printed
    one, with equality for c = β. Eigenvalues below -2 * scope, which the lemma
    allows, have an infinite local entropy if the loss is quadratic. Without any
    assumption, the gradient of -F is at most α and its Hessian at most the
    scope.

    Args:
        lipschitz: α of the loss, positive.
        smoothness: β of the loss, positive.
        scope: The scope, positive.
        gap: c, from 0 to `smoothness`: how far the eigenvalues stay from zero.
        form: `"exact"`, or `"paper"` for what is printed.

    Returns:
        Both constants.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> landscape.smoothed_constants(1.0, 8.0, scope=2.0, gap=2.0)
    Constants(lipschitz=0.5, smoothness=1.6)
    >>> landscape.smoothed_constants(
    ...     1.0, 8.0, scope=2.0, gap=2.0, form="paper"
    ... )
    Constants(lipschitz=0.5, smoothness=4.0)

    References:
        Chaudhari et al., arXiv:1611.01838v1, Lemma 2.
    """
    _check_constants(lipschitz, smoothness, scope, gap, form)
    damping = 1.0 + (smoothness if form == "exact" else gap) / scope
    return Constants(lipschitz / (1.0 + gap / scope), smoothness / damping)


def stability_bound(
    lipschitz: float,
    smoothness: float,
    *,
    num_samples: int,
    num_updates: int,
    step_scale: float = 1.0,
) -> float:
    """Bounds by how much one training sample can change the loss of SGD.

    Args:
        lipschitz: Lipschitz constant L of the loss of every sample, which lies
            in [0, 1].
        smoothness: Smoothness β of the same.
        num_samples: Training samples n, at least 2.
        num_updates: Updates T of one sample each.
        step_scale: c, where the learning rate of update t is at most c / t.

    Returns:
        ε such that SGD is ε-uniformly stable, which bounds its expected
        generalization gap: (1 + 1 / (β c)) / (n - 1) times
        (2 c L**2)**(1 / (β c + 1)) T**(β c / (β c + 1)).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> bound = landscape.stability_bound(
    ...     1.0, 1.0, num_samples=1001, num_updates=5000
    ... )
    >>> round(bound, 6)  # 2 / 1000 * sqrt(2 * 5000)
    0.2

    References:
        Hardt, Recht, Singer, "Train faster, generalize better",
        arXiv:1509.01240, theorem 3.12.
    """
    require_positive(
        lipschitz=lipschitz, smoothness=smoothness, step_scale=step_scale
    )
    require(
        is_integer(num_samples, 2),
        "num_samples",
        "an integer from 2 on",
        num_samples,
    )
    require(
        is_integer(num_updates, 1),
        "num_updates",
        "an integer from 1 on",
        num_updates,
    )
    growth = smoothness * step_scale
    return (
        (1.0 + 1.0 / growth)
        / (num_samples - 1)
        * (2.0 * step_scale * lipschitz**2) ** (1.0 / (growth + 1.0))
        * num_updates ** (growth / (growth + 1.0))
    )


def stability_ratio(
    lipschitz: float,
    smoothness: float,
    *,
    num_updates: int,
    scope: float,
    gap: float,
    form: str = "exact",
) -> float:
    """Returns eq. 10: the stability of Entropy-SGD over that of SGD.

    Both stand for the bound α**(1 / (1 + β)) T**(1 - 1 / (1 + β)) / N of the
    paper's theorem 3, with the constants of the loss and of -F as Lemma 2
    prints them. With k = 1 + c / scope that substitution gives

        k**(-1 / (1 + β / k)) * (α / T)**D,
        D = β (1 - 1 / k) / ((1 + β / k) (1 + β)),

    while the paper prints (α / T)**(β (1 - 1 / k)), which is the limit of small
    β and far smaller elsewhere. It compares two upper bounds, at an equal
    number of updates: it promises nothing about the algorithms.

    Args:
        lipschitz: α of the loss, positive.
        smoothness: β of the loss, positive.
        num_updates: Updates T.
        scope: The scope, positive.
        gap: c, see `smoothed_constants`.
        form: `"exact"` for the substitution, `"paper"` for what is printed.

    Returns:
        The ratio; below 1 the bound of Entropy-SGD is the smaller one.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> from entropy_keras import landscape
    >>> ratio = landscape.stability_ratio(
    ...     10.0, 10.0, num_updates=10_000, scope=1.0, gap=1.0
    ... )
    >>> round(ratio, 2)
    0.53

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 10.
    """
    _check_constants(lipschitz, smoothness, scope, gap, form)
    require(
        is_integer(num_updates, 1),
        "num_updates",
        "an integer from 1 on",
        num_updates,
    )
    damping = 1.0 + gap / scope
    exponent = smoothness * (1.0 - 1.0 / damping)
    if form == "paper":
        return (lipschitz / num_updates) ** exponent
    damped = 1.0 + smoothness / damping
    exponent /= damped * (1.0 + smoothness)
    return damping ** (-1.0 / damped) * (lipschitz / num_updates) ** exponent


def _check_constants(
    lipschitz: float, smoothness: float, scope: float, gap: float, form: str
) -> None:
    require_positive(lipschitz=lipschitz, smoothness=smoothness, scope=scope)
    require(
        is_number(gap, 0.0) and gap <= smoothness,
        "gap",
        f"a number from 0 to smoothness={smoothness}",
        gap,
    )
    require(form in FORMS, "form", f"one of {FORMS}", repr(form))
