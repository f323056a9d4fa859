"""Operations of TensorFlow whose derivatives would be wrong, done otherwise."""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from unittest import mock

import tensorflow as tf

_HALVES = (tf.float16, tf.bfloat16)


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Puts the substitutes where layers of Keras look, while it is entered.

    Keras has no place to say it: its backend calls them by name.
    """
    with (
        mock.patch.object(tf, "gather", _gather),
        mock.patch.multiple(tf.nn, **_SUBSTITUTES),
    ):
        yield


def _moments(
    x: tf.Tensor, axes: Any, shift: Any = None, keepdims: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and variance, differentiable twice.

    `tf.nn.moments` hides from differentiation that the variance depends on the
    mean. The first derivative has no such term; the second one has, so
    Hessians through normalization layers would be wrong.

    Args:
        x: The tensor.
        axes: Axes to reduce.
        shift: Not used, as in `tf.nn.moments`.
        keepdims: Whether the reduced axes stay.

    Returns:
        Mean and variance.
    """
    del shift
    mean = tf.reduce_mean(x, axes, keepdims=True)
    squares = tf.math.squared_difference(x, mean)
    variance = tf.reduce_mean(squares, axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def _in_single(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns a function that computes in float32 where it is given less.

    Its value, rounded again, is the same. Its derivative by what all samples
    have in common is a sum over them, which TensorFlow takes in the type of
    the terms: bfloat16, of 8 bits, stops to grow after some 256 of them, so
    that of a thousand samples a bias has a third of its gradient.

    Args:
        function: A function of TensorFlow.

    Returns:
        Its substitute.
    """

    @functools.wraps(function)
    def computed(*arguments: Any, **options: Any) -> tf.Tensor:
        given = arguments, options
        types = [getattr(x, "dtype", None) for x in tf.nest.flatten(given)]
        half = next((kind for kind in _HALVES if kind in types), None)
        if half is None:
            return function(*arguments, **options)
        arguments, options = tf.nest.map_structure(
            lambda x: (
                tf.cast(x, tf.float32)
                if getattr(x, "dtype", None) == half
                else x
            ),
            given,
        )
        return tf.cast(function(*arguments, **options), half)

    return computed


# What layers of Keras sum up over samples with, by the name in `tf.nn`.
_SUMS = (
    "bias_add",
    "depthwise_conv2d",
    "embedding_lookup",
    "safe_embedding_lookup_sparse",
    "separable_conv2d",
)
_SUBSTITUTES: dict[str, Any] = {
    name: _in_single(getattr(tf.nn, name)) for name in _SUMS
}
_SUBSTITUTES["moments"] = _moments
_gather = _in_single(tf.gather)
