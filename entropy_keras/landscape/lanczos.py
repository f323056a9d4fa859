"""Lanczos iterations: the density and both ends of an operator's spectrum."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import aslinearoperator

from entropy_keras.landscape.density import Estimate
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.products import relative_precision
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

ENDS = ("both", "largest", "smallest")


class Extremes(NamedTuple):
    """Both ends of a spectrum; empty at the one that was not asked for.

    Attributes:
        largest: The k largest eigenvalues, descending.
        smallest: The k smallest, ascending.
        largest_errors: Bounds of the distance of each to an eigenvalue.
        smallest_errors: Likewise.
        num_products: Hessian-vector products that it took.
        reason: What is not known of them; empty if nothing is in doubt.
        largest_vectors: Unit eigenvectors of the k largest as rows, of shape
            `[k, n]`, or `None` if they were not asked for.
        smallest_vectors: Likewise.
    """

    largest: np.ndarray
    smallest: np.ndarray
    largest_errors: np.ndarray
    smallest_errors: np.ndarray
    num_products: int
    reason: str = ""
    largest_vectors: np.ndarray | None = None
    smallest_vectors: np.ndarray | None = None


# Relative error allowed of eigenvalues that are set aside, and the products for
# each of them.
_DEFLATED_TOLERANCE = 1e-5
_DEFLATED_PRODUCTS = 20


def density(
    operator: LinearOperator,
    num_steps: int,
    num_probes: int,
    seed: int,
    num_deflated: int = 0,
) -> Spectrum:
    """Returns the spectral density of an operator; see `spectral_density`.

    Args:
        operator: Symmetric.
        num_steps: Lanczos steps.
        num_probes: Random vectors.
        seed: Seed of them.
        num_deflated: Eigenvalues at each end to set aside first.

    Returns:
        The density.

    Raises:
        ValueError: If a count is out of its range.
    """
    check_counts(num_steps, num_probes)
    (count, _) = operator.shape
    require(
        is_integer(num_deflated, 0) and 4 * num_deflated <= count,
        "num_deflated",
        f"a non-negative integer, at most a quarter of the {count} weights",
        num_deflated,
    )
    if not num_deflated:
        found = runs(operator, num_steps, num_probes, seed)
        return quadrature(found, num_steps)
    pairs = _eigenpairs(
        operator,
        num_deflated,
        num_deflated,
        _DEFLATED_TOLERANCE,
        max(500, _DEFLATED_PRODUCTS * 2 * num_deflated),
        seed,
    )
    at_ends = np.r_[:num_deflated, -num_deflated:0]
    known, errors, beside = (found[at_ends] for found in pairs[:3])
    rest = quadrature(
        runs(operator, num_steps, num_probes, seed, beside), num_steps
    )
    share = 1 - len(known) / count
    shape = [num_probes, len(known)]
    return Spectrum(
        np.hstack([np.broadcast_to(known, shape), rest.nodes]),
        np.hstack([np.full(shape, 1 / count), share * rest.weights]),
        count,
        max(rest.resolution, float(errors.max())),
        "lanczos",
        len(known),
    )


def runs(
    operator: LinearOperator,
    num_steps: int,
    num_probes: int,
    seed: int,
    beside: np.ndarray | None = None,
) -> Iterator["Lanczos"]:
    """Yields runs from random signs, one after another.

    Args:
        operator: Symmetric.
        num_steps: Steps of each; there is room for as many again.
        num_probes: How many.
        seed: Seed of the signs.
        beside: Orthonormal rows that all vectors are kept orthogonal to.

    Yields:
        A run that has made its steps.
    """
    (count, _) = operator.shape
    space = count - (0 if beside is None else len(beside))
    rng = np.random.default_rng(seed)
    for _ in range(num_probes):
        start = rng.choice([-1.0, 1.0], count)
        run = Lanczos(operator, start, min(2 * num_steps, space), beside)
        run.advance(min(num_steps, space))
        yield run


def quadrature(probes: Iterable["Lanczos"], num_steps: int) -> Spectrum:
    """Returns the spectral density that runs from random signs have found.

    Args:
        probes: The runs.
        num_steps: Steps of each that count.

    Returns:
        The density.
    """
    found = []
    for run in probes:
        values, rows, _ = run.ritz(num_steps)
        count = run.space
        # A space that was exhausted early leaves nodes of no weight.
        rest = min(num_steps, count) - len(values)
        weights = np.pad(rows[0] ** 2, (0, rest))
        found.append((np.pad(values, (0, rest), mode="edge"), weights))
    nodes, weights = np.stack(found, axis=1)
    resolution = (nodes.max() - nodes.min()) / num_steps**2
    if num_steps >= count:
        resolution = relative_precision(run.operator) * np.abs(nodes).max()
    return Spectrum(nodes, weights, count, float(resolution), "lanczos")


def check_counts(num_steps: int, num_probes: int) -> None:
    """Checks the counts of a density.

    Args:
        num_steps: Lanczos steps.
        num_probes: Random vectors.

    Raises:
        ValueError: If one is out of its range.
    """
    require(
        is_integer(num_steps, 2),
        "num_steps",
        "an integer of at least 2",
        num_steps,
    )
    require(
        is_integer(num_probes, 1),
        "num_probes",
        "a positive integer",
        num_probes,
    )


def extremes(
    operator: LinearOperator,
    k: int,
    tolerance: float,
    max_steps: int,
    seed: int,
    *,
    ends: str = "both",
    vectors: bool = False,
) -> Extremes:
    """Returns the ends of an operator's spectrum; see `top_eigenvalues`.

    Args:
        operator: Symmetric.
        k: How many at each end.
        tolerance: Relative error allowed.
        max_steps: Limit of products.
        seed: Seed of the first vector.
        ends: One of `ENDS`.
        vectors: Whether to return the eigenvectors.

    Returns:
        The ends.
    """
    low, high = k * (ends != "largest"), k * (ends != "smallest")
    pairs = _eigenpairs(operator, low, high, tolerance, max_steps, seed)
    top = slice(max(len(pairs.values) - high, 0), None)
    return Extremes(
        pairs.values[top][::-1],
        pairs.values[:low],
        pairs.errors[top][::-1],
        pairs.errors[:low],
        pairs.num_products,
        pairs.reason,
        pairs.vectors[top][::-1].copy() if vectors else None,
        pairs.vectors[:low].copy() if vectors else None,
    )


class _Eigenpairs(NamedTuple):
    """Eigenvalues, ascending, and unit vectors, with what `Extremes` has."""

    values: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray
    num_products: int
    reason: str


def _eigenpairs(
    operator: LinearOperator,
    low: int,
    high: int,
    tolerance: float,
    max_steps: int,
    seed: int,
) -> _Eigenpairs:
    """Finds at least so many of the smallest and largest; see `extremes`.

    Returns:
        The smallest first and the largest last.
    """
    (count, _) = operator.shape
    k = max(low, high)
    rng = np.random.default_rng(seed)
    values, errors, known = np.zeros(0), np.zeros(0), np.zeros([0, count])
    products, reason = 0, ""
    while True:
        room = min(max_steps - products, count - len(known))
        run = Lanczos(operator, rng.standard_normal(count), room, known)
        found, scale = np.sort(values), np.abs(values).max(initial=0.0)
        # Beyond these nothing may be left.
        inner = None
        if len(found) >= k:
            inner = (
                found[low - 1] if low else -np.inf,
                found[-high] if high else np.inf,
            )
        new, rows, new_errors = _run_to_ends(
            run, low, high, tolerance, scale, inner
        )
        products += run.steps
        scale = max(scale, np.abs(new).max())
        slack = tolerance * scale
        is_whole = run.steps == run.space
        is_cut = run.finished and products == max_steps and not is_whole
        # One run sees one copy of each eigenvalue. The next one starts beside
        # what was found, where the twins show: it goes on until none does.
        beyond = inner is None or not (
            inner[0] - slack <= new[0] and new[-1] <= inner[1] + slack
        )
        if beyond:
            kept = (new_errors <= slack) | is_cut | is_whole
            kept[low : len(kept) - high] = False
            values = np.append(values, new[kept])
            doubt = errors.max(initial=0.0)
            errors = np.append(errors, np.hypot(new_errors[kept], doubt))
            known = np.vstack([known, run.vectors(rows[:, kept])])
        if is_cut and k > 1:
            reason = (
                f"{products} products do not tell how often an eigenvalue "
                "occurs; more `max_steps` do"
            )
        if is_cut or is_whole or not beyond or (k == 1 and len(values)):
            break
    order = np.argsort(values)
    values = values[order]
    errors = errors[order] + relative_precision(operator) * scale
    return _Eigenpairs(values, errors, known[order], products, reason)


def _run_to_ends(
    run: "Lanczos",
    low: int,
    high: int,
    tolerance: float,
    scale: float,
    inner: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs until the ends have converged, or are known to be of no interest.

    Args:
        run: What to advance.
        low: How many of the smallest.
        high: How many of the largest.
        tolerance: Relative error allowed.
        scale: The largest magnitude that is known.
        inner: What a single one at each end would have to exceed; `None` if
            there must be as many.

    Returns:
        What `ritz` returns.
    """
    if inner:
        low, high = min(low, 1), min(high, 1)
    while True:
        run.advance(max(4 * max(low, high), run.steps + 10))
        values, rows, errors = run.ritz()
        slack = tolerance * max(scale, np.abs(values).max())
        asked = np.append(errors[:low], errors[len(errors) - high :])
        if run.finished or asked.max() <= slack:
            return values, rows, errors
        if inner:
            gaps = values[0] - inner[0], inner[1] - values[-1]
            if 10.0 * errors[0] < gaps[0] and 10.0 * errors[-1] < gaps[1]:
                return values, rows, errors


def trace_from(run: "Lanczos", num_products: int, seed: int) -> Estimate:
    """Estimates the trace from a run, and from random signs beside it.

    This is Hutch++ with the space of the run in place of its own: the large
    eigenvalues are in it, and little is left to chance.

    Args:
        run: The run.
        num_products: Further products to spend, at least 2.
        seed: Seed of the signs, not that of the run's start.

    Returns:
        The trace.
    """
    rng = np.random.default_rng(seed)
    left = []
    for _ in range(num_products):
        probe = rng.choice([-1.0, 1.0], run.dimension)
        probe -= run.basis.T @ (run.basis @ probe)
        left.append(probe @ run.operator.matvec(probe))
    values, _, _ = run.ritz()
    error = np.hypot(
        np.std(left, ddof=1) / np.sqrt(num_products),
        trace_rounding(run.operator, [*values, np.mean(left)]),
    )
    return Estimate(float(values.sum() + np.mean(left)), float(error))


def trace_rounding(operator: LinearOperator, parts: Sequence[float]) -> float:
    """Returns how far rounding takes a trace from the true one.

    Args:
        operator: The matrix.
        parts: What adds up to its trace.

    Returns:
        0 where products are of single precision or finer.
    """
    precision = relative_precision(operator)
    if precision <= np.finfo("float32").eps:
        return 0.0
    return precision * float(np.abs(parts).sum())


def share_bounds(spectrum: Spectrum, threshold: float) -> tuple[float, float]:
    """Bounds the share of eigenvalues smaller in magnitude than a number.

    No spectrum that gives the same quadrature, with whatever shape between the
    nodes, has a share outside. The few probes scatter besides, see
    `Spectrum.mean`.

    Args:
        spectrum: Of Lanczos quadrature, at any resolution.
        threshold: Positive.

    Returns:
        Lower and upper bound, each the mean over the probes.

    References:
        Golub and Meurant, "Matrices, moments and quadrature with
        applications", 2010, chapter 6, for the rule with a given node, whose
        weights bound the distribution by Chebyshev, Markov and Stieltjes.
    """
    total = np.zeros(2)
    aside = spectrum.num_deflated
    space = spectrum.num_parameters - aside
    for all_nodes, all_weights in zip(
        spectrum.nodes, spectrum.weights, strict=True
    ):
        total += all_weights[:aside] @ (np.abs(all_nodes[:aside]) < threshold)
        nodes, weights = all_nodes[aside:], all_weights[aside:]
        if len(nodes) == space or not weights.all():
            total += weights[np.abs(nodes) < threshold].sum()  # All is known.
            continue
        # Lanczos of the nodes themselves gives their recurrence back.
        operator = aslinearoperator(np.diag(nodes))
        run = Lanczos(operator, np.sqrt(weights), len(nodes))
        run.advance(len(nodes))
        low, high = run.distribution(-threshold), run.distribution(threshold)
        share = weights.sum()
        total += share * (high[0] - low[1]), share * (high[1] - low[0])
    lower, upper = np.clip(total / len(spectrum.nodes), 0.0, 1.0)
    return float(lower), float(upper)


class Lanczos:
    """Tridiagonalization of a symmetric operator, fully reorthogonalized.

    The recurrence is in float64, whatever the dtype of the products.

    Args:
        operator: Symmetric.
        start: First vector; normalized here.
        max_steps: Room for so many steps, at least 1.
        beside: Orthonormal rows that all vectors are kept orthogonal to.
    """

    def __init__(
        self,
        operator: LinearOperator,
        start: np.ndarray,
        max_steps: int,
        beside: np.ndarray | None = None,
    ) -> None:
        self.operator = operator
        self.dimension = len(start)
        self._known = np.zeros([0, len(start)]) if beside is None else beside
        self._basis = np.zeros((max_steps + 1, len(start)))
        start = start - self._known.T @ (self._known @ start)
        self._basis[0] = start / np.linalg.norm(start)
        self._diagonal = np.zeros(max_steps)
        self._beside = np.zeros(max_steps)
        self.space = self.dimension - len(self._known)
        self._max_steps = max_steps
        self.steps = 0
        self.finished = False

    def advance(self, steps: int) -> None:
        """Goes on until so many steps are made, or the space is exhausted.

        Args:
            steps: In all, at most the room.
        """
        while self.steps < steps and not self.finished:
            step = self.steps
            basis = self._basis[: step + 1]
            vector = self.operator.matvec(basis[-1]).astype("float64")
            self._diagonal[step] = vector @ basis[-1]
            vector -= self._diagonal[step] * basis[-1]
            if step:
                vector -= self._beside[step - 1] * basis[-2]
            # Next to nothing is left along the others, so that a single pass
            # leaves no more than rounding.
            for rows in (basis, self._known):
                vector -= rows.T @ (rows @ vector)
            self._beside[step] = np.linalg.norm(vector)
            self.steps += 1
            scale = np.abs(self._diagonal).max() + self._beside.max()
            tiny = np.finfo(self.operator.dtype).eps * scale
            exhausted = self._beside[step] <= tiny
            self.finished = exhausted or self.steps == self._max_steps
            if not exhausted:
                self._basis[step + 1] = vector / self._beside[step]

    def ritz(
        self, steps: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the Ritz values, their vectors, and bounds of the errors.

        Args:
            steps: How many of the first steps count; `None` for all.
        """
        steps = min(steps or self.steps, self.steps)
        values, vectors = scipy.linalg.eigh_tridiagonal(
            self._diagonal[:steps], self._beside[: steps - 1]
        )
        return values, vectors, np.abs(self._beside[steps - 1] * vectors[-1])

    @property
    def basis(self) -> np.ndarray:
        """The orthonormal vectors so far, of shape `[steps, n]`."""
        return self._basis[: self.steps]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Returns Ritz vectors as rows.

        Args:
            rows: Columns of what `ritz` returns.
        """
        return rows.T @ self._basis[: len(rows)]

    def distribution(self, point: float) -> tuple[float, float]:
        """Returns bounds of the spectrum's weight below a point."""
        values, vectors, _ = self.ritz()
        diagonal = self._diagonal[: self.steps].copy()
        # Makes the point an eigenvalue.
        diagonal[-1] -= 1.0 / np.sum(vectors[-1] ** 2 / (values - point))
        values, vectors = scipy.linalg.eigh_tridiagonal(
            diagonal, self._beside[: self.steps - 1]
        )
        place = np.argmin(np.abs(values - point))
        weights = vectors[0] ** 2
        return float(weights[:place].sum()), float(weights[: place + 1].sum())
