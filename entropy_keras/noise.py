"""The counter-based Gaussian noise of the Langevin chain.

Every draw is a pure function of (seed, update, inner step, variable), so there
is no generator state to store: a resumed run continues with the same noise.

`tf.random`'s stateless Philox generator turns the four numbers into a 64-bit
key; a hash of the key and the index of each weight gives its random bits, and
the inverse error function turns those into a normal. `tf.random`'s own normals
are not used because under XLA they are other numbers than outside of it, and
cost several times as much.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

# Each field of the counter is a bit range of one 64-bit integer.
STEP_BITS = 16
VARIABLE_BITS = 16
MAXIMUM_STEPS = 2**STEP_BITS - 1
MAXIMUM_VARIABLES = 2**VARIABLE_BITS


def standard_normal(
    shape: Sequence[int],
    dtype: tf.DType,
    *,
    seed: int,
    update: tf.Tensor,
    step: tf.Tensor,
    variable: int,
) -> tf.Tensor:
    """Draws independent standard normals for one variable at one inner step.

    In float32 a draw takes 2**23 values, the largest 5.3; in float64, 2**53.

    Args:
        shape: Shape of the draw, at most 2**31 - 1 entries.
        dtype: Floating type of the draw. Half precisions are drawn in float32.
        seed: Seed of the whole run, a 64-bit signed integer.
        update: Number of the update, a scalar below 2**31.
        step: Number of the inner step, at most `MAXIMUM_STEPS`. Step 0 is the
            starting point of the chain.
        variable: Index of the variable, below `MAXIMUM_VARIABLES`.

    Returns:
        A tensor of the given shape and type.

    Example:
    >>> draw = standard_normal(
    ...     [2], tf.float32, seed=7, update=0, step=1, variable=0
    ... )
    >>> again = standard_normal(
    ...     [2], tf.float32, seed=7, update=0, step=1, variable=0
    ... )
    >>> bool(tf.reduce_all(draw == again))
    True
    """
    counter = tf.cast(update, tf.int64)
    counter = counter * 2**STEP_BITS + tf.cast(step, tf.int64)
    counter = counter * 2**VARIABLE_BITS + variable
    key = tf.random.stateless_uniform(
        [2],
        seed=tf.stack([tf.constant(seed, tf.int64), counter]),
        minval=None,
        maxval=None,
        dtype=tf.uint32,
        alg="philox",  # the automatic choice depends on the device
    )
    index = tf.bitcast(tf.range(math.prod(shape)), tf.uint32)
    # Both words of the key enter: with one, draws would share their values.
    high = _mix(_mix(index + key[0]) ^ key[1])
    if dtype == tf.float64:
        low = _mix(_mix(index + key[1]) ^ key[0])
        uniform = _odd_fraction(high, 26, dtype)
        uniform += _odd_fraction(low, 25, dtype) * 2.0**-27
    else:
        uniform = _odd_fraction(high, 22, tf.float32)
    normal = math.sqrt(2.0) * tf.math.erfinv(uniform)
    return tf.cast(tf.reshape(normal, shape), dtype)


def _mix(word: tf.Tensor) -> tf.Tensor:
    """Returns a permutation of 32-bit words that looks random.

    Args:
        word: Any words, of type uint32.

    Returns:
        As many words. The constants are those of C. Wellons's "lowbias32",
        found by search for the least bias.
    """
    word = (word ^ _shifted(word, 16)) * tf.constant(0x7FEB352D, tf.uint32)
    word = (word ^ _shifted(word, 15)) * tf.constant(0x846CA68B, tf.uint32)
    return word ^ _shifted(word, 16)


def _shifted(word: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(word, tf.constant(bits, tf.uint32))


def _odd_fraction(word: tf.Tensor, bits: int, dtype: tf.DType) -> tf.Tensor:
    """Returns words as odd multiples of 2**-(bits + 1) in (-1, 1), exactly."""
    top = tf.bitcast(_shifted(word, 31 - bits), tf.int32)
    return (tf.cast(2 * top + 1, dtype) - 2.0 ** (bits + 1)) * 2.0 ** -(
        bits + 1
    )
