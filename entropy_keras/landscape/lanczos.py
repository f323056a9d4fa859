"""Lanczos iterations: the density and both ends of an operator's spectrum."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import aslinearoperator

from entropy_keras.landscape.density import Spectrum
from entropy_keras.validation import is_integer
from entropy_keras.validation import require


class Extremes(NamedTuple):
    """Both ends of a spectrum.

    Attributes:
        largest: The k largest eigenvalues, descending.
        smallest: The k smallest, ascending.
        largest_errors: Bounds of the distance of each to an eigenvalue.
        smallest_errors: Likewise.
        products: Hessian-vector products that it took.
    """

    largest: np.ndarray
    smallest: np.ndarray
    largest_errors: np.ndarray
    smallest_errors: np.ndarray
    products: int


def density(
    operator: LinearOperator, steps: int, probes: int, seed: int
) -> Spectrum:
    """Returns the spectral density of an operator; see `spectral_density`.

    Args:
        operator: Symmetric.
        steps: Lanczos steps.
        probes: Random vectors.
        seed: Seed of them.

    Returns:
        The density.

    Raises:
        ValueError: If `steps` or `probes` is out of its range.
    """
    require(is_integer(steps, 2), "steps", "an integer of at least 2", steps)
    require(is_integer(probes, 1), "probes", "a positive integer", probes)
    (count, _) = operator.shape
    rng = np.random.default_rng(seed)
    steps = min(steps, count)
    nodes = np.zeros((probes, steps))
    weights = np.zeros((probes, steps))
    for probe in range(probes):
        run = Lanczos(operator, rng.choice([-1.0, 1.0], count), steps)
        run.advance(steps)
        values, vectors, _ = run.ritz()
        # A space that was exhausted early leaves nodes of no weight.
        nodes[probe] = np.pad(values, (0, steps - len(values)), mode="edge")
        weights[probe, : len(values)] = vectors[0] ** 2
    resolution = (nodes.max() - nodes.min()) / steps**2
    if steps == count:
        resolution = np.finfo(operator.dtype).eps * np.abs(nodes).max()
    return Spectrum(nodes, weights, count, float(resolution), "lanczos")


def extremes(
    operator: LinearOperator,
    k: int,
    tolerance: float,
    max_steps: int,
    seed: int,
) -> Extremes:
    """Returns both ends of an operator's spectrum; see `top_eigenvalues`.

    Args:
        operator: Symmetric.
        k: How many at each end.
        tolerance: Relative error allowed.
        max_steps: Limit of products.
        seed: Seed of the first vector.

    Returns:
        Both ends.
    """
    (count, _) = operator.shape
    limit = min(max_steps, count)
    start = np.random.default_rng(seed).standard_normal(count)
    run = Lanczos(operator, start, limit)
    while True:
        run.advance(min(limit, max(4 * k, run.steps + 10)))
        values, _, errors = run.ritz()
        scale = np.abs(values).max()
        worst = max(errors[:k].max(), errors[-k:].max())
        if run.finished or worst <= tolerance * scale:
            break
    errors = errors + np.finfo(operator.dtype).eps * scale
    return Extremes(
        values[-k:][::-1], values[:k], errors[-k:][::-1], errors[:k], run.steps
    )


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
    for nodes, weights in zip(spectrum.nodes, spectrum.weights, strict=True):
        if len(nodes) == spectrum.num_parameters or not weights.all():
            total += weights[np.abs(nodes) < threshold].sum()  # All is known.
            continue
        # Lanczos of the nodes themselves gives their recurrence back.
        operator = aslinearoperator(np.diag(nodes))
        run = Lanczos(operator, np.sqrt(weights), len(nodes))
        run.advance(len(nodes))
        low, high = run.distribution(-threshold), run.distribution(threshold)
        total += high[0] - low[1], high[1] - low[0]
    lower, upper = np.clip(total / len(spectrum.nodes), 0.0, 1.0)
    return float(lower), float(upper)


class Lanczos:
    """Tridiagonalization of a symmetric operator, fully reorthogonalized.

    The recurrence is in float64, whatever the dtype of the products.

    Args:
        operator: Symmetric.
        start: First vector; normalized here.
        max_steps: Room for so many steps.
    """

    def __init__(
        self, operator: LinearOperator, start: np.ndarray, max_steps: int
    ) -> None:
        self._operator = operator
        self._basis = np.zeros((max_steps + 1, len(start)))
        self._basis[0] = start / np.linalg.norm(start)
        self._diagonal = np.zeros(max_steps)
        self._beside = np.zeros(max_steps)
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
            vector = self._operator.matvec(basis[-1]).astype("float64")
            self._diagonal[step] = vector @ basis[-1]
            for _ in range(2):  # Once leaves rounding errors that grow.
                vector -= basis.T @ (basis @ vector)
            self._beside[step] = np.linalg.norm(vector)
            self.steps += 1
            scale = np.abs(self._diagonal).max() + self._beside.max()
            tiny = np.finfo(self._operator.dtype).eps * scale
            exhausted = self._beside[step] <= tiny
            self.finished = exhausted or self.steps == self._max_steps
            if not exhausted:
                self._basis[step + 1] = vector / self._beside[step]

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the Ritz values, their vectors, and bounds of the errors."""
        values, vectors = scipy.linalg.eigh_tridiagonal(
            self._diagonal[: self.steps], self._beside[: self.steps - 1]
        )
        return (
            values,
            vectors,
            np.abs(self._beside[self.steps - 1] * vectors[-1]),
        )

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
