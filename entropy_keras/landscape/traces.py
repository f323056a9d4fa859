"""The trace of the Hessian."""

import math
from typing import Any
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from entropy_keras.landscape.lanczos import trace_rounding
from entropy_keras.landscape.products import symmetric_operator
from entropy_keras.validation import is_integer
from entropy_keras.validation import require


class Trace(NamedTuple):
    """A trace that was estimated.

    Attributes:
        value: The trace.
        standard_error: Its standard error; 0 where the trace is exact. In half
            precision the rounding of the products is in it.
        num_products: Hessian-vector products that it took.
    """

    value: float
    standard_error: float
    num_products: int


def trace(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    num_products: int = 150,
    seed: int = 0,
    **options: Any,
) -> Trace:
    """Estimates the trace of the Hessian of the mean loss, by Hutch++.

    A third of the products finds the directions of large curvature, a third
    adds that up exactly, and the rest samples what is left with random signs.
    Networks have few large eigenvalues, so little is left.

    Args:
        model: A model with data, an `Objective`, or any symmetric operator:
            see `symmetric_operator`, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        num_products: Products to spend, at least 6. If there are no more
            weights than that, the trace is exact.
        seed: Seed of the random vectors.
        **options: `batch_size` and `training`.

    Returns:
        The trace with its standard error.

    Raises:
        ValueError: If `num_products` is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> landscape.trace(model, data, loss="mse")
    Trace(value=4.0, standard_error=0.0, num_products=3)

    References:
        Meyer, Musco, Musco and Woodruff, "Hutch++: optimal stochastic trace
        estimation", arXiv:2010.09649, algorithm 1.
    """
    require(
        is_integer(num_products, 6),
        "num_products",
        "an integer of at least 6",
        num_products,
    )
    operator = symmetric_operator(model, data, loss, **options)
    return hutch_plus_plus(operator, num_products, seed)


def hutch_plus_plus(
    operator: LinearOperator, num_products: int, seed: int
) -> Trace:
    """Estimates the trace of a symmetric operator; see `trace`.

    Args:
        operator: Of shape `[n, n]`.
        num_products: Products to spend.
        seed: Seed of the random vectors.

    Returns:
        The trace with its standard error.
    """
    (count, _) = operator.shape
    if num_products >= count:
        diagonal = [operator.matvec(unit) @ unit for unit in np.eye(count)]
        error = trace_rounding(operator, diagonal)
        return Trace(float(np.sum(diagonal)), error, count)
    rng = np.random.default_rng(seed)
    rank = num_products // 3
    basis, _ = np.linalg.qr(
        operator.matmat(rng.choice([-1.0, 1.0], [count, rank])).astype(
            "float64"
        )
    )
    found = np.sum(basis * operator.matmat(basis), axis=0)
    probes = rng.choice([-1.0, 1.0], [count, num_products - 2 * rank])
    probes -= basis @ (basis.T @ probes)
    left = np.sum(probes * operator.matmat(probes), axis=0)
    error = math.hypot(
        left.std(ddof=1) / math.sqrt(len(left)),
        trace_rounding(operator, [*found, left.mean()]),
    )
    return Trace(float(found.sum() + left.mean()), error, num_products)
