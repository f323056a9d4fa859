"""Log-determinants and inverse products of curvature."""

import math
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg

from entropy_keras.landscape.density import Estimate
from entropy_keras.landscape.lanczos import check_counts
from entropy_keras.landscape.lanczos import density
from entropy_keras.landscape.products import relative_precision
from entropy_keras.landscape.products import symmetric_operator
from entropy_keras.validation import is_integer
from entropy_keras.validation import is_number
from entropy_keras.validation import require
from entropy_keras.validation import require_positive


def log_determinant(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    shift: float = 0.0,
    num_steps: int = 100,
    num_probes: int = 4,
    seed: int = 0,
    **options: Any,
) -> Estimate:
    """Estimates the logarithm of the determinant of curvature.

    Stochastic Lanczos quadrature of `log(eigenvalue + shift)`, as in Laplace's
    approximation of the evidence, where the shift is the precision of the
    prior. With no more weights than `num_steps * num_probes` products the
    matrix is formed, and the value exact.

    Args:
        model: A model with data, an `Objective`, or any symmetric operator:
            see `symmetric_operator`, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        shift: What is added to each eigenvalue, a finite number.
        num_steps: Lanczos steps, at least 2; the error of too few is not in the
            standard error.
        num_probes: Random vectors, at least 1.
        seed: Seed of them.
        **options: `batch_size` and `training`.

    Returns:
        `log det(A + shift I)`, in nats, with a bound of the standard error over
        the random vectors.

    Raises:
        ValueError: If an eigenvalue that was found is not above `-shift`, where
            there is no logarithm; see also `Objective`.

    Example:
    >>> found = log_determinant(np.diag([1.0, 2.0, 4.0]))
    >>> round(float(np.exp(found.value)), 6), found.standard_error
    (8.0, 0.0)

    References:
        Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic
        Lanczos quadrature", 2017.
    """
    require(is_number(shift), "shift", "a finite number", shift)
    operator = symmetric_operator(model, data, loss, **options)
    (count, _) = operator.shape
    check_counts(num_steps, num_probes)
    if count <= num_steps * num_probes:
        matrix = operator.matmat(np.eye(count, dtype=operator.dtype))
        values = np.linalg.eigvalsh((matrix + matrix.T).astype("float64") / 2)
        rounding = count * relative_precision(operator) * np.abs(values).max()
        require(
            abs(values.min() + shift) > rounding,
            "shift",
            "one with which no eigenvalue is 0 but for rounding: there is no "
            f"logarithm of {values.min() + shift:.3g} +- {rounding:.1g}",
            shift,
        )
        _require_positive_definite(values.min(), shift)
        return Estimate(float(np.log(values + shift).sum()), 0.0)
    spectrum = density(operator, num_steps, num_probes, seed)
    _require_positive_definite(spectrum.smallest, shift)
    mean = spectrum.mean(lambda nodes: np.log(nodes.astype(float) + shift))
    return Estimate(count * mean.value, count * mean.standard_error)


def _require_positive_definite(smallest: float, shift: float) -> None:
    require(
        smallest + shift > 0.0,
        "shift",
        f"above {-smallest:.6g}, the negative of the smallest eigenvalue that "
        "was found: there is no logarithm otherwise. A Gauss-Newton matrix, "
        "`gauss_newton_operator`, has no negative ones for convex losses",
        shift,
    )


def inverse_vector_product(
    model: Any,
    data: Any = None,
    vector: Any = None,
    loss: Any = None,
    *,
    shift: float = 0.0,
    tolerance: float = 1e-4,
    max_steps: int = 1000,
    **options: Any,
) -> np.ndarray:
    """Multiplies the inverse of curvature by a vector: conjugate gradients.

    As natural gradients, Newton steps and influence functions have it. The
    curvature has to be positive: that of a network's Hessian rarely is without
    a shift, that of its Gauss-Newton matrix with any positive one.

    Args:
        model: A model with data, an `Objective`, or any symmetric operator:
            see `symmetric_operator`, as for `data`, `loss` and the options.
        data: The samples.
        vector: Of shape `[n]`: entries in the order of
            `model.trainable_variables`, each flattened.
        loss: The loss; `None` for the compiled one.
        shift: What is added to each eigenvalue, a non-negative number.
        tolerance: Norm of the residual sought, relative to that of the vector;
            at least the precision of the products, and in single precision
            hardly less than 1e-5. What rounding adds is accepted up to ten
            times the tolerance.
        max_steps: Limit of the steps, one product each, at least 1.
        **options: `batch_size` and `training`.

    Returns:
        `(A + shift I)^-1 vector`, of shape `[n]`, in float64.

    Raises:
        ValueError: If the curvature along a direction is not positive, if the
            steps did not suffice, or if an argument is out of its range; see
            also `Objective`.

    Example:
    >>> curvature = np.diag([1.0, 4.0])
    >>> inverse_vector_product(curvature, vector=[1.0, 1.0], shift=1.0)
    array([0.5, 0.2])

    References:
        Hestenes and Stiefel, "Methods of conjugate gradients for solving
        linear systems", 1952; Martens, "Deep learning via Hessian-free
        optimization", 2010.
    """
    require(is_number(shift, 0.0), "shift", "a non-negative number", shift)
    require_positive(tolerance=tolerance)
    require(
        is_integer(max_steps, 1), "max_steps", "a positive integer", max_steps
    )
    operator = symmetric_operator(model, data, loss, **options)
    (count, _) = operator.shape
    precision = relative_precision(operator)
    require(
        tolerance >= precision,
        "tolerance",
        f"at least {precision:.1g}, the precision of the products, or the "
        "model a copy of it in float32",
        tolerance,
    )
    known = np.asarray(vector, float)
    require(
        known.shape == (count,) and np.isfinite(known).all(),
        "vector",
        f"{count} finite numbers: one for each trainable weight",
        f"an array of shape {known.shape}",
    )

    def multiply(direction: np.ndarray) -> np.ndarray:
        direction = direction.reshape(-1)
        product = operator.matvec(direction.astype(operator.dtype))
        shifted = product.astype(float) + shift * direction
        curvature = direction @ shifted / (direction @ direction)
        require(
            curvature > 0.0,
            "shift",
            "larger: there is a direction whose curvature, shift included, is "
            f"{curvature:.3g}, and conjugate gradients need it positive in "
            "all. See `top_eigenvalues` for the smallest eigenvalue",
            shift,
        )
        return shifted

    positive = LinearOperator((count, count), matvec=multiply, dtype=float)
    if not known.any():
        return np.zeros(count)
    found, _ = cg(positive, known, rtol=tolerance, maxiter=max_steps)
    residual = np.linalg.norm(known - multiply(found)) / np.linalg.norm(known)
    # The recurrence takes products for exact, which they are not.
    rounding = 10 * math.sqrt(count) * precision
    require(
        bool(residual <= tolerance + min(rounding, 9 * tolerance)),
        "max_steps",
        "more, or `shift` or `tolerance` larger: the residual is "
        f"{residual:.3g} of the vector, with {tolerance:g} allowed",
        max_steps,
    )
    return found
