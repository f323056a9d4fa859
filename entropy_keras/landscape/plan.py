"""What to sample around the weights of a model, and how thoroughly."""

import dataclasses
import math

import numpy as np

from entropy_keras.validation import is_integer
from entropy_keras.validation import normalize
from entropy_keras.validation import require
from entropy_keras.validation import require_positive


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is sampled, and how thoroughly.

    Attributes:
        scope: Strength γ of the pull to the weights of the model, positive, in
            units of the loss per squared weight.
        temperature: Temperature T, positive, in units of the loss.
        num_chains: Independent chains per coupling, at least 2.
        num_steps: Steps of each chain, at least 12; the first third is
            discarded.
        step_size: Step size η' of every chain, positive, in units of the
            inverse scope; `None` for half the inverse of the largest curvature,
            pull included, that it meets.
        seed: Of the noise and of the minibatches, below 2**31.

    Raises:
        ValueError: If one of them is out of its range.

    Example:
    >>> Plan(scope=1.0, num_steps=300).num_discarded
    100
    """

    scope: float
    temperature: float = 1.0
    num_chains: int = 4
    num_steps: int = 500
    step_size: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(scope=self.scope, temperature=self.temperature)
        if self.step_size is not None:
            require_positive(step_size=self.step_size)
        minima = {"num_chains": 2, "num_steps": 12, "seed": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            require(
                is_integer(value, minimum),
                name,
                f"an integer from {minimum} on",
                value,
            )
        require(self.seed < 2**31, "seed", "below 2**31", self.seed)
        normalize(self)

    @property
    def num_discarded(self) -> int:
        """Steps at the beginning of each chain that do not count."""
        return self.num_steps // 3

    @property
    def deviation(self) -> float:
        """Standard deviation of each weight at coupling 0."""
        return math.sqrt(self.temperature / self.scope)

    def step_sizes(self, couplings: np.ndarray, curvature: float) -> np.ndarray:
        """Chooses the step size of each coupling.

        Args:
            couplings: Values of s, of shape `[couplings]`.
            curvature: The largest eigenvalue of the Hessian.

        Returns:
            Step sizes, of that shape.
        """
        if self.step_size is not None:
            return np.full(len(couplings), self.step_size)
        return 0.5 / (self.scope + couplings * curvature)

    def quadrature(
        self, count: int, curvature: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a rule for integrals over the coupling s from 0 to 1.

        It is Gauss and Legendre's in `log(scope + s * curvature)`: along
        directions of curvature l the mean loss falls as `1 / (scope + s * l)`,
        which in s itself is a peak at 0. With 8 nodes quadratic losses come
        out to 1e-4 up to curvatures of 10,000 times the scope.

        Args:
            count: Number of nodes.
            curvature: The largest eigenvalue of the Hessian.

        Returns:
            Nodes, ascending within (0, 1), and weights, of shape `[count]`.
        """
        places, weights = np.polynomial.legendre.leggauss(count)
        ratio = curvature / self.scope
        if not ratio > 1e-6:  # The limit of no curvature; NaN likewise.
            return (places + 1) / 2, weights / 2
        extent = np.log1p(ratio)
        nodes = np.expm1(extent * (places + 1) / 2) / ratio
        return nodes, weights / 2 * extent * (nodes + 1 / ratio)
