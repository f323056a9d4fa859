"""`class_weight` of `fit`, where Keras cannot apply it: to packed groups."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import validation


def weighting(class_weight: dict[int, float], specs: Any) -> Callable[..., Any]:
    """Returns what adds the weight of its class to each sample of a batch.

    Args:
        class_weight: Weights by class, 1 where there is none below the largest
            class that has one. A larger label is an error, as in Keras.
        specs: Structure of the `tf.TypeSpec` of a batch.

    Returns:
        A function for `tf.data.Dataset.map`.

    Example:
    >>> pairs = tf.data.Dataset.from_tensors(([[3.0], [4.0]], [0, 1]))
    >>> pairs = pairs.map(weighting({1: 2.5}, pairs.element_spec))
    >>> next(iter(pairs))[2].numpy().tolist()
    [1.0, 2.5]
    """
    count = max(class_weight) + 1
    table = tf.constant([class_weight.get(c, 1.0) for c in range(count)])

    def weigh(*batch: Any) -> tuple[Any, Any, tf.Tensor]:
        batch = tf.nest.pack_sequence_as(specs, tf.nest.flatten(batch))
        x, y = _weighable(batch)
        rounded = tf.cast(tf.round(y), tf.int32)
        if y.shape.rank > 1:
            rounded = tf.where(
                tf.shape(y)[-1] > 1,
                tf.argmax(y, -1, output_type=tf.int32),
                rounded[..., 0],
            )
        return x, y, tf.gather(table, rounded)

    return weigh


def weighted(batch: Any, class_weight: dict[int, float]) -> Any:
    """Returns a batch of arrays with the weight of its class for each sample.

    Args:
        batch: A pair (x, y).
        class_weight: Weights by class, 1 where there is none.

    Returns:
        A triple (x, y, sample_weight).

    Example:
    >>> weighted((np.ones([2, 3]), np.array([0, 1])), {1: 2.5})[2].tolist()
    [1.0, 2.5]
    """
    x, y = _weighable(batch)
    labels = np.asarray(y)
    if labels.ndim > 1:
        one = labels.shape[-1] == 1
        labels = labels[..., 0] if one else labels.argmax(-1)
    weights = [class_weight.get(round(float(c)), 1.0) for c in labels]
    return x, y, np.array(weights, keras.config.floatx())


def _weighable(batch: Any) -> tuple[Any, Any]:
    """Returns x and y, where `class_weight` applies."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    validation.require(
        sample_weight is None and not tf.nest.is_nested(y),
        "class_weight",
        "None unless the data are pairs (x, y), with y a single tensor",
        "class_weight of data of another form",
    )
    return x, y
