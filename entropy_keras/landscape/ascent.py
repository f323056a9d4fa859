"""The largest rise of a loss within a box or a ball around the weights."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from entropy_keras.landscape import selfcheck
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import made_once

# In units of the precision times the loss: rounding of a mean over samples,
# and what is well above it.
_ROUNDING, _CLEAR = 8.0, 100.0
# Parts of a step that are tried in turn until one ascends.
_PARTS = (1.0, 0.5, 0.25, 0.1)
# Pairs of gradients that look for the direction of the largest curvature.
_POWER_STEPS = 4


class Rise(NamedTuple):
    """The largest rise of the loss that was found.

    Attributes:
        value: The rise.
        error: How much of it rounding may be.
    """

    value: float
    error: float

    @property
    def reason(self) -> str:
        """Why the value says little; empty where it is above rounding."""
        if abs(self.value) > self.error:
            return ""
        if not self.error:
            return "no rise was found"
        return (
            f"a change of {self.value:.2g} is not above the rounding of the "
            f"loss, {self.error:.2g}; use float64 or a larger region"
        )


class Point(NamedTuple):
    """A point of the region: its place, the loss, and the slope there."""

    place: np.ndarray
    value: float
    slope: np.ndarray


def precision(objective: Objective) -> float:
    """Returns the relative precision of a loss.

    Args:
        objective: The loss.

    Returns:
        That of the coarsest dtype that a layer computes in, at best that of
        float32, in which Keras computes most losses.
    """
    return max(objective.precision, selfcheck.EPS["float32"])


class Region(NamedTuple):
    """A convex region of size 1 around zero.

    Attributes:
        farthest: Returns the point of the region that a slope looks to.
        size: Returns by how much a vector exceeds the region.
    """

    farthest: Callable[[np.ndarray], np.ndarray]
    size: Callable[[np.ndarray], Any]


def _pole(slope: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(slope)
    return slope / length if length else slope


BOX = Region(np.sign, lambda vector: np.abs(vector).max())
BALL = Region(_pole, np.linalg.norm)


@made_once
def _loss_and_slope(objective: Objective) -> Callable[..., tf.Tensor]:
    """Returns a compiled function from position to loss and slope in one."""

    def of_batch(position: tf.Tensor, batch: Any) -> tf.Tensor:
        loss, slope = objective.batch_loss_and_gradient(position, batch)
        return tf.concat([loss[None], slope], 0)

    return objective.mean(of_batch)


class Ascent:
    """Looks for the largest rise of a loss within a box or a ball.

    A step goes from a point towards the one of the region that the slope there
    looks to (Frank and Wolfe's), all the way if that ascends. Places and slopes
    are in units of the region, so that neither its size nor that of the slopes
    matters, and where rounding would hide a difference between two losses, the
    slopes between them tell it.

    Args:
        objective: The loss.
        scale: Half the widths of the box, of shape `[n]`, or the radius.
        region: `BOX` or `BALL`.
        eps: The relative precision of the loss, see `precision`.
    """

    def __init__(
        self,
        objective: Objective,
        scale: Any,
        region: Region,
        eps: float,
    ) -> None:
        self._scale = scale
        self._region = region
        self._eps = eps
        self._dtype = objective.dtype
        self._origin = objective.position().numpy().astype("float64")

        self._evaluate = _loss_and_slope(objective)
        self.start = self.at(np.zeros_like(self._origin))
        selfcheck.require_finite(
            np.append(self.start.slope, self.start.value),
            "the loss and its gradient",
        )

    def at(self, place: np.ndarray) -> Point:
        """Evaluates the loss.

        Args:
            place: Where, in units of the region, from its center.

        Returns:
            The point. Rounding moves the weights, and hardly the slope.
        """
        position = tf.constant(self._origin + self._scale * place, self._dtype)
        found = self._evaluate(position).numpy().astype("float64")
        return Point(place, float(found[0]), self._scale * found[1:])

    def run(self, num_steps: int, num_starts: int, seed: int) -> Rise:
        """Looks for the largest rise.

        Args:
            num_steps: Limit of the steps from each start.
            num_starts: Random points to start at.
            seed: Seed of them.

        Returns:
            The largest rise of the points where it ended.
        """
        rng = np.random.default_rng(seed)
        slope, count = self.start.slope, len(self._origin)
        curved = self._most_curved(rng.standard_normal(count))
        randoms = (rng.standard_normal(count) for _ in range(num_starts))
        farthest = [
            self._region.farthest(direction)
            for direction in (slope, curved, -curved, *randoms)
        ]
        # What is simple stays simple: along the signs, along the gradient.
        simple = np.sign(slope), slope / np.square(self._scale)
        points = [self._climb(self.at(place), num_steps) for place in farthest]
        points += [self.at(self._within(place)) for place in simple]
        found = max(self.rise(point) for point in points)
        if found.value < -found.error:
            return Rise(0.0, 0.0)  # All points are lower, without doubt.
        # The center is a point of the region, too.
        return found._replace(value=max(found.value, 0.0))

    def rise(self, point: Point) -> Rise:
        """Returns the rise from the center to a point."""
        if self._is_clear(point, self.start):
            rise = point.value - self.start.value
            return Rise(rise, self._rounding(self.start.value))
        nodes, weights = np.polynomial.legendre.leggauss(5)
        slopes = [self.at((1 + x) / 2 * point.place).slope for x in nodes]
        terms = (weights / 2 @ slopes) * point.place
        error = _ROUNDING * self._eps * np.abs(terms).sum()
        return Rise(float(terms.sum()), float(error))

    def _climb(self, point: Point, num_steps: int) -> Point:
        for _ in range(num_steps):
            step = self._region.farthest(point.slope) - point.place
            for part in _PARTS:
                found = self.at(point.place + part * step)
                if self._ascent(point, found) > 0.0:
                    break
            else:
                return point
            point = found
        return point

    def _ascent(self, start: Point, end: Point) -> float:
        """Returns the rise of a step: by its ends' slopes if it is small."""
        if self._is_clear(end, start):
            return end.value - start.value
        mean = (start.slope + end.slope) / 2
        return float(mean @ (end.place - start.place))

    def _most_curved(self, direction: np.ndarray) -> np.ndarray:
        """Returns where power iteration leads to, of either sign."""
        for _ in range(_POWER_STEPS):
            place = self._within(direction)
            turned = self.at(place).slope - self.at(-place).slope
            if not turned.any():
                break
            direction = turned
        return direction

    def _within(self, vector: np.ndarray) -> np.ndarray:
        """Returns a vector scaled to the boundary of the region."""
        size = self._region.size(vector)
        return vector / size if size else vector

    def _is_clear(self, end: Point, start: Point) -> bool:
        scale = max(abs(end.value), abs(start.value))
        difference = abs(end.value - start.value)
        return difference > _CLEAR * self._rounding(scale)

    def _rounding(self, value: float) -> float:
        return _ROUNDING * self._eps * abs(value)
