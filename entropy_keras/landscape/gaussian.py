"""The Gaussian that a loss looks like along few directions."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from entropy_keras.landscape.lanczos import Lanczos
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.plan import Plan

# In units of the scope: curvatures that change the Gaussian too little.
_FLAT = 0.02


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The law `exp(-(q(d) + scope/2 |d|**2) / temperature)` of displacements d.

    Here q is `gradient @ d + sum(curvatures * (directions @ d)**2) / 2`. Draws
    of it, reweighted by what the loss and q differ by, are draws of the law
    around the weights: how well q fits decides how many count, and not whether
    they are right.

    Args:
        gradient: Of the loss, of shape `[n]`.
        directions: Orthonormal, of shape `[k, n]`.
        curvatures: Along them, of shape `[k]`; above minus the scope.
        plan: Scope and temperature.

    Example:
    >>> law = Gaussian(np.array([2.0]), np.eye(1), np.array([3.0]), Plan(1.0))
    >>> round(law.local_entropy, 6)  # (2**2 / (3 + 1) - log(1 + 3)) / 2
    -0.193147
    """

    gradient: np.ndarray
    directions: np.ndarray
    curvatures: np.ndarray
    plan: Plan

    @functools.cached_property
    def _mean_along(self) -> np.ndarray:
        stiffness = self.curvatures + self.plan.scope
        return -(self.directions @ self.gradient) / stiffness

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean, where `q + scope/2 |d|**2` is smallest."""
        scope = self.plan.scope
        along = self.directions @ self.gradient / scope + self._mean_along
        return along @ self.directions - self.gradient / scope

    @property
    def local_entropy(self) -> float:
        """Local entropy of the loss q, less that of a flat loss."""
        volume = np.log1p(self.curvatures / self.plan.scope).sum()
        depth = -self.gradient @ self.mean
        return float(depth - self.plan.temperature * volume) / 2

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Returns a displacement and q of it.

        Args:
            rng: Where the noise comes from.
        """
        scale = np.sqrt(self.plan.temperature)
        stiffness = self.curvatures + self.plan.scope
        noise = rng.standard_normal(len(self.gradient))
        along = self.directions @ noise
        narrower = 1.0 / np.sqrt(stiffness) - 1.0 / np.sqrt(self.plan.scope)
        moved = noise / np.sqrt(self.plan.scope)
        moved += (along * narrower) @ self.directions
        moved = self.mean + scale * moved
        along = self._mean_along + scale * along / np.sqrt(stiffness)
        curved = 0.5 * self.curvatures @ along**2
        return moved, float(self.gradient @ moved + curved)


def fit(objective: Objective, run: Lanczos, plan: Plan) -> Gaussian:
    """Returns the Gaussian that touches the loss where Lanczos has been.

    Args:
        objective: The loss.
        run: Lanczos of its Hessian at the current weights.
        plan: Scope and temperature.

    Returns:
        The Gaussian. Curvatures below minus half of the scope, along which
        there is none, are raised to it.
    """
    curvatures, rows, _ = run.ritz()
    bent = np.abs(curvatures) > _FLAT * plan.scope
    gradient = objective.gradient(objective.position()).numpy()
    return Gaussian(
        gradient.astype("float64"),
        run.vectors(rows[:, bent]),
        np.maximum(curvatures[bent], -plan.scope / 2),
        plan,
    )


def excess_losses(
    objective: Objective,
    law: Gaussian,
    num_draws: int,
) -> np.ndarray:
    """Returns losses at draws of a Gaussian, less what it accounts for.

    The mean of `exp(-losses / temperature)` is the exponential of the local
    entropy over the temperature, less that of a flat loss, whatever the
    Gaussian.

    Args:
        objective: The loss.
        law: The Gaussian.
        num_draws: How many.

    Returns:
        Losses, of shape `[draws]`.
    """
    rng = np.random.default_rng(law.plan.seed)
    center = objective.position().numpy().astype("float64")
    offset = law.local_entropy
    losses: list[float] = []
    for _ in range(num_draws):
        moved, quadratic = law.draw(rng)
        position = tf.constant(center + moved, objective.dtype)
        loss = float(objective.value(position))
        losses.append(loss - quadratic - offset)
    return np.array(losses)
