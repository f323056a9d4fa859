"""Eigenvalues with weights, and what can be said of them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from entropy_keras.validation import is_number
from entropy_keras.validation import require


class Estimate(NamedTuple):
    """A number and its standard error, 0 if it is exact."""

    value: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with weights: a density, or the spectrum itself.

    Attributes:
        nodes: Eigenvalues, ascending in each row, of shape `[num_probes, m]`;
            if exact one row of all n.
        weights: Share of the spectrum that each node stands for; each row sums
            to 1.
        num_parameters: Dimension n of the Hessian.
        resolution: The smallest magnitude that is told apart from zero. For
            Lanczos quadrature of m steps it is the width of the spectrum over
            m squared; for exact spectra a multiple of the rounding error.
        method: `"exact"` or `"lanczos"`.
        num_deflated: How many of the first nodes of each row are eigenvalues
            that were set aside, each standing for itself; the rest ascends.
    """

    nodes: np.ndarray
    weights: np.ndarray
    num_parameters: int
    resolution: float
    method: str
    num_deflated: int = 0

    @property
    def largest(self) -> float:
        """The largest eigenvalue, or the lower bound of it that was found."""
        return float(self.nodes.max())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue, or the upper bound of it that was found."""
        return float(self.nodes.min())

    @property
    def counts(self) -> np.ndarray:
        """How many eigenvalues each node stands for: all together are n."""
        return self.weights * (self.num_parameters / len(self.nodes))

    def share_below(self, threshold: float) -> Estimate:
        """Returns the share of eigenvalues smaller in magnitude than a number.

        Args:
            threshold: At least `resolution`.

        Returns:
            The share, between 0 and 1, with a bound of its standard error
            over probes. Within a few times the resolution the quadrature
            itself has been seen to be off by two points.

        Raises:
            ValueError: If the threshold is below the resolution, where the
                share could be wrong by half.
        """
        cure = (
            'use `method="exact"` or more `num_steps`'
            if self.method == "lanczos"
            else "use float64"
        )
        require(
            is_number(threshold) and threshold >= self.resolution,
            "threshold",
            f"a number of at least the resolution, {self.resolution:.2g}; "
            f"below it, {cure}",
            threshold,
        )
        return self.mean(lambda nodes: np.abs(nodes) < threshold)

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Returns the mean of a function over the eigenvalues.

        Times n it is the trace of that function of the Hessian: with the
        identity the trace, with the square the squared Frobenius norm.

        Args:
            function: Elementwise function of an array.

        Returns:
            The mean, and a bound of its standard error. The few probes of a
            quadrature scatter too little to tell theirs.
        """
        values = function(self.nodes)
        probes = len(values)
        mean = (values * self.weights).sum() / probes
        error = 0.0
        if self.method == "lanczos":
            # Random signs see the entries beside the diagonal only, so the
            # sum of squares about the mean bounds their variance.
            rest = values[:, self.num_deflated :]
            weights = self.weights[:, self.num_deflated :]
            center = (rest * weights).sum() / weights.sum()
            variance = ((rest - center) ** 2 * weights).sum() / probes
            error = np.sqrt(2 * variance / (probes * self.num_parameters))
        return Estimate(float(mean), float(error))
