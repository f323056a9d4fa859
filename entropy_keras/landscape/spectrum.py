"""The Hessian's eigenvalues: all of them, both ends, or their density."""

import pathlib
from typing import Any

import numpy as np
import psutil
import scipy.linalg

from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.hessian import assemble
from entropy_keras.landscape.lanczos import ENDS
from entropy_keras.landscape.lanczos import Extremes
from entropy_keras.landscape.lanczos import density
from entropy_keras.landscape.lanczos import extremes
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.products import hessian_product
from entropy_keras.landscape.products import operator as operator_of
from entropy_keras.landscape.products import symmetric_operator
from entropy_keras.validation import is_integer
from entropy_keras.validation import is_number
from entropy_keras.validation import require

METHODS = ("auto", "exact", "lanczos")
# Up to here all eigenvalues take less time than a useful density does.
_EXACT_UP_TO = 12_000


def hessian_spectrum(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    method: str = "auto",
    num_steps: int = 100,
    num_probes: int = 4,
    seed: int = 0,
    path: str | pathlib.Path | None = None,
    verbose: int = 1,
    **options: Any,
) -> Spectrum:
    """Computes the spectrum of the Hessian of the mean loss.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        method: `"exact"` for all eigenvalues of the explicit matrix, in time
            that grows as n cubed: about 5 seconds for n = 5,000 and an hour
            for n = 50,000; `"lanczos"` for a density, see `spectral_density`;
            `"auto"` for the former up to n = 12,000 if memory allows.
        num_steps: Steps of Lanczos quadrature.
        num_probes: Random vectors of Lanczos quadrature.
        seed: Seed of them.
        path: Where the explicit matrix is kept, see `hessian_matrix`.
        verbose: 1 for progress, 0 for silence.
        **options: `batch_size` and `training`.

    Returns:
        The spectrum.

    Raises:
        ValueError: If there is no such method; see also `hessian_matrix` and
            `spectral_density`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> spectrum = landscape.hessian_spectrum(model, data, "mse", verbose=0)
    >>> np.round(np.abs(spectrum.nodes), 3)
    array([[0., 1., 3.]], dtype=float32)

    References:
        Chaudhari et al., arXiv:1611.01838v1, section 3; Sagun et al.,
        "Eigenvalues of the Hessian in deep learning", arXiv:1611.07476.
    """
    require(method in METHODS, "method", f"one of {METHODS}", method)
    objective = objective_of(model, data, loss, **options)
    count = objective.num_parameters
    if method == "auto":
        needed = count * count * np.dtype(objective.dtype).itemsize
        fits = needed < psutil.virtual_memory().available / 2
        method = "exact" if count <= _EXACT_UP_TO and fits else "lanczos"
    if method == "lanczos":
        operator = operator_of(objective, hessian_product(objective))
        return density(operator, num_steps, num_probes, seed)
    matrix = assemble(objective, path, verbose=verbose)
    return exact(matrix, overwrite=path is None)


def top_eigenvalues(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    num_eigenvalues: int = 10,
    tolerance: float = 1e-3,
    max_steps: int = 500,
    seed: int = 0,
    ends: str = "both",
    vectors: bool = False,
    **options: Any,
) -> Extremes:
    """Computes the largest and the smallest eigenvalues of the Hessian.

    Args:
        model: A model with data, an `Objective`, or any symmetric operator:
            see `symmetric_operator`, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        num_eigenvalues: How many at each end; at most half of the number of
            weights.
        tolerance: Error allowed, relative to the eigenvalue of the largest
            magnitude.
        max_steps: Limit of Lanczos steps, one product each. What has not
            converged by then shows in the errors and the reason.
        seed: Seed of the first vector.
        ends: `"both"`, or the one that matters, `"largest"` or `"smallest"`,
            which takes a third of the products where the other end is crowded,
            as the negative one of networks is.
        vectors: Whether to return the eigenvectors too, each as large as the
            weights and in their order.
        **options: `batch_size` and `training`.

    Returns:
        The ends with error bounds. An eigenvalue counts as often as it
        occurs; where `max_steps` did not suffice to tell, `reason` says so.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> ends = landscape.top_eigenvalues(
    ...     model, data, "mse", num_eigenvalues=1
    ... )
    >>> round(float(ends.largest[0]), 3)
    3.0
    """
    operator = symmetric_operator(model, data, loss, **options)
    (count, _) = operator.shape
    k = num_eigenvalues
    require(
        is_integer(k, 1) and 2 * k <= count,
        "num_eigenvalues",
        f"a positive integer, at most half of the {count} weights",
        k,
    )
    require(is_number(tolerance, 0.0), "tolerance", "non-negative", tolerance)
    require(
        is_integer(max_steps, 2 * k),
        "max_steps",
        f"at least {2 * k}",
        max_steps,
    )
    require(ends in ENDS, "ends", f"one of {ENDS}", ends)
    return extremes(
        operator, k, tolerance, max_steps, seed, ends=ends, vectors=vectors
    )


def spectral_density(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    num_steps: int = 100,
    num_probes: int = 4,
    seed: int = 0,
    num_deflated: int = 0,
    **options: Any,
) -> Spectrum:
    """Estimates the density of the Hessian's spectrum.

    Stochastic Lanczos quadrature with full reorthogonalization: `num_steps`
    times `num_probes` Hessian-vector products, whatever the size of the
    network. The ends come out to many digits. What lies closer to zero than the
    resolution, the width of the spectrum over the square of the steps, is
    blurred, and `share_below` refuses to count it; `share_bounds` tells what is
    known of it all the same, and more steps are the cheapest way to know more.
    Eigenvalues that stand out make that width, and most of the error of the
    trace and of other means: set aside by `num_deflated`, they are exact.

    Args:
        model: A model with data, an `Objective`, or any symmetric operator:
            see `symmetric_operator`, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        num_steps: Lanczos steps, at least 2.
        num_probes: Random vectors, at least 1.
        seed: Seed of them.
        num_deflated: How many eigenvalues at each end to find first, with
            `top_eigenvalues`, and to set aside; at most a quarter of the
            weights. Each takes 20 products or so, and memory as the weights.
        **options: `batch_size` and `training`.

    Returns:
        Nodes and weights.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> found = landscape.spectral_density(model, data, "mse", num_steps=3)
    >>> round(found.largest, 3)
    3.0

    References:
        Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic
        Lanczos quadrature", 2017; Ghorbani, Krishnan and Xiao, "An
        investigation into neural net optimization via Hessian eigenvalue
        density", arXiv:1901.10159.
    """
    operator = symmetric_operator(model, data, loss, **options)
    return density(operator, num_steps, num_probes, seed, num_deflated)


def exact(matrix: np.ndarray, overwrite: bool = False) -> Spectrum:
    """Returns all eigenvalues of a symmetric matrix.

    Rows of zeros, as dead units leave, are eigenvalues of zero and are set
    aside first: the time is cubic in the rest.

    Args:
        matrix: Of shape `[n, n]`.
        overwrite: Whether the matrix may be destroyed, which saves a copy.

    Returns:
        The spectrum.
    """
    count = len(matrix)
    kept = np.flatnonzero([row.any() for row in matrix])
    size = len(kept)
    if overwrite:
        # In place: each row moves to the front, never past an unread one.
        flat = matrix.reshape(-1)
        for row, index in enumerate(kept):
            flat[row * size : (row + 1) * size] = matrix[index][kept]
        reduced = flat[: size * size].reshape(size, size)
    else:
        reduced = np.empty((size, size), matrix.dtype)
        for row, index in enumerate(kept):
            reduced[row] = matrix[index][kept]
    nodes = np.zeros(count, matrix.dtype)
    if size:
        # Transposed, it is in the order of memory that LAPACK wants.
        nodes[:size] = scipy.linalg.eigh(
            reduced.T,
            eigvals_only=True,
            overwrite_a=True,
            check_finite=False,
            driver="evd",
        )
        nodes.sort()
    # Measured at n = 8,000: errors of 23 times this in a spectrum without a
    # peak, of half of it in those of trained networks.
    rounding = np.finfo(matrix.dtype).eps * np.linalg.norm(nodes)
    return Spectrum(
        nodes[np.newaxis],
        np.full((1, count), 1 / count),
        count,
        float(32 * rounding),
        "exact",
    )
