"""The counter-based Gaussian noise of the Langevin chain.

Every draw is a pure function of (seed, update, inner step, variable), so there
is no generator state to store: a resumed run continues with the same noise.
The four numbers fill the 128-bit counter that `tf.random`'s stateless
generators scramble into a key, which is a bijection: distinct draws never
share a stream.
"""

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

    The generator algorithm is named because the automatic choice is 27 times
    slower than Philox under XLA on a CPU and yields the same numbers.

    Args:
        shape: Shape of the draw.
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
    draw_dtype = dtype if dtype.size >= tf.float32.size else tf.float32
    draw = tf.random.stateless_normal(
        shape,
        seed=tf.stack([tf.constant(seed, tf.int64), counter]),
        dtype=draw_dtype,
        alg="philox",
    )
    return tf.cast(draw, dtype)
