"""Clipping of a gradient, as Keras's optimizers define it."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def clip(
    gradients: Sequence[Any],
    *,
    clipnorm: float | None,
    clipvalue: float | None,
    global_clipnorm: float | None,
) -> list[Any]:
    """Clips one gradient of the loss.

    Args:
        gradients: One tensor per variable, or `None` in its place.
        clipnorm: Largest norm of each tensor.
        clipvalue: Largest absolute value of each entry.
        global_clipnorm: Largest norm of all tensors together.

    Returns:
        The clipped gradients in the same order.

    Example:
    >>> gradient = clip(
    ...     [tf.constant([-2.0, 0.25])],
    ...     clipnorm=None,
    ...     clipvalue=0.5,
    ...     global_clipnorm=None,
    ... )
    >>> gradient[0].numpy().tolist()
    [-0.5, 0.25]
    """
    if global_clipnorm is not None:
        return tf.clip_by_global_norm(gradients, global_clipnorm)[0]
    if clipnorm is not None:
        return [
            None if g is None else tf.clip_by_norm(g, clipnorm)
            for g in gradients
        ]
    if clipvalue is not None:
        return [
            None if g is None else _clipped_by_value(g, clipvalue)
            for g in gradients
        ]
    return list(gradients)


def _clipped_by_value(gradient: tf.Tensor, limit: float) -> tf.Tensor:
    clipped = tf.clip_by_value(gradient, -limit, limit)
    # An infinite entry stays: loss scaling and the guard must see it.
    return tf.where(tf.math.is_finite(gradient), clipped, gradient)
