"""The loss along lines and planes through the weights."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import objective_of
from entropy_keras.validation import require


@dataclasses.dataclass(frozen=True)
class Slice:
    """Losses along one or two directions.

    Attributes:
        distances: Multiples of each direction, of shape `[m]`.
        directions: The directions, of shape `[1, n]` or `[2, n]`.
        losses: Of shape `[m]` or `[m, m]`, the first direction first.
    """

    distances: np.ndarray
    directions: np.ndarray
    losses: np.ndarray


def loss_slice(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    distances: Any = None,
    direction: Any = None,
    ignore_vectors: bool = True,
    seed: int = 0,
    **options: Any,
) -> Slice:
    """Computes the loss along a line through the weights.

    A random direction is Gaussian and normalized filter by filter: what leads
    to one unit has the norm of the weights that lead to it. Slices of
    different networks can be compared then, however their layers are scaled.
    Units are those of the last axis, which is right for dense layers and
    ordinary convolutions; a depthwise kernel is one filter, a transposed one
    goes by its input channels, an embedding by its columns.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        distances: Multiples of the direction; `None` for 51 from -1 to 1.
        direction: A vector of shape `[n]`, taken as it is; `None` for a random
            one. The difference of two solutions shows what is between them.
        ignore_vectors: Whether a random direction leaves biases and the
            weights of normalization layers as they are, as is usual.
        seed: Seed of the direction.
        **options: `batch_size` and `training`.

    Returns:
        The losses.

    Raises:
        ValueError: If an argument is not of its form; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([1]),
    ...     keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ... ])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> landscape.loss_slice(
    ...     model, data, "mse", distances=[-1.0, 0.0, 1.0], direction=[1.0]
    ... ).losses
    array([0., 1., 4.])

    References:
        Li et al., "Visualizing the loss landscape of neural nets",
        arXiv:1712.09913, section 4.
    """
    directions = None if direction is None else [direction]
    objective = objective_of(model, data, loss, **options)
    return along(objective, 1, distances, directions, ignore_vectors, seed)


def loss_surface(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    distances: Any = None,
    directions: Any = None,
    ignore_vectors: bool = True,
    seed: int = 0,
    **options: Any,
) -> Slice:
    """Computes the loss on a plane through the weights; see `loss_slice`.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        distances: Multiples of both directions; `None` for 21 from -1 to 1.
        directions: Two vectors of shape `[n]`, taken as they are; `None` for
            random ones.
        ignore_vectors: As for `loss_slice`.
        seed: Seed of the directions.
        **options: `batch_size` and `training`.

    Returns:
        The losses.

    Raises:
        ValueError: If an argument is not of its form; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> landscape.loss_surface(model, data, "mse").losses.shape
    (21, 21)
    """
    objective = objective_of(model, data, loss, **options)
    return along(objective, 2, distances, directions, ignore_vectors, seed)


def along(
    objective: Objective,
    count: int,
    distances: Any,
    directions: Any,
    ignore_vectors: bool,
    seed: int,
) -> Slice:
    """Returns the losses along as many directions as there are to be.

    Args:
        objective: The loss.
        count: Number of directions.
        distances: Multiples of them, or `None`.
        directions: Vectors, or `None`.
        ignore_vectors: As for `loss_slice`.
        seed: Seed of the directions.

    Returns:
        The losses.

    Raises:
        ValueError: If an argument is not of its form.
    """
    if distances is None:
        distances = np.linspace(-1.0, 1.0, 51 if count == 1 else 21)
    distances = np.asarray(distances, "float64")
    require(
        distances.ndim == 1 and distances.size > 0,
        "distances",
        "a sequence of numbers",
        distances,
    )
    if directions is None:
        rng = np.random.default_rng(seed)
        weights = [np.asarray(variable) for variable in objective.variables]
        directions = [
            filter_normalized(
                [rng.standard_normal(w.shape) for w in weights],
                weights,
                ignore_vectors,
            )
            for _ in range(count)
        ]
    directions = np.asarray(directions, "float64")
    shape = (count, objective.num_parameters)
    require(
        directions.shape == shape,
        "direction" if count == 1 else "directions",
        f"of shape {shape[count == 1 :]}: one entry per trainable weight",
        f"an array of shape {directions.shape[count == 1 :]}",
    )
    points = itertools.product(distances, repeat=count)
    losses = losses_at(objective, objective.position(), directions, points)
    return Slice(
        distances, directions, losses.reshape([len(distances)] * count)
    )


def losses_at(
    objective: Objective,
    center: Any,
    directions: np.ndarray,
    points: Iterable[Any],
) -> np.ndarray:
    """Returns the losses at points of a line or plane.

    Args:
        objective: The loss.
        center: Where the line or plane goes through, of shape `[n]`.
        directions: Of shape `[count, n]`.
        points: Multiples of the directions, each of length `count`.

    Returns:
        As many losses.
    """
    center = tf.constant(center, objective.dtype)
    return np.array([
        float(
            objective.value(
                center + tf.constant(point @ directions, objective.dtype)
            )
        )
        for point in points
    ])


def filter_normalized(
    parts: list[np.ndarray], weights: list[np.ndarray], ignore_vectors: bool
) -> np.ndarray:
    """Scales a direction to the norms of a network's filters.

    A filter is what shares an index of the last axis: a column of a dense
    kernel, or `kernel[..., unit]` of a convolution. A bias is one as a whole.

    Args:
        parts: The direction, one array per variable.
        weights: The variables' values.
        ignore_vectors: Whether arrays of one axis or none become zero.

    Returns:
        The direction in one vector, of shape `[n]`.
    """
    scaled = []
    for part, weight in zip(parts, weights, strict=True):
        if ignore_vectors and weight.ndim <= 1:
            scaled.append(np.zeros(weight.size))
            continue
        axes = tuple(range(max(weight.ndim - 1, 1))) if weight.ndim else None
        norms, lengths = (
            np.sqrt(np.sum(np.square(a, dtype="float64"), axes, keepdims=True))
            for a in (weight, part)
        )
        scaled.append(np.ravel(part * norms / lengths))
    return np.concatenate(scaled)
