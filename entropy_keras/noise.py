"""The counter-based Gaussian noise of the Langevin chain.

Every draw is a pure function of (seed, update, inner step, variable, replica),
so there is no generator state to store: a resumed run continues with the same
noise.

`tf.random`'s stateless Philox generator turns these numbers into a 64-bit
key; a hash of the key and the index of each weight gives its random bits, and
the quantile function of the normal distribution turns those into a normal.
`tf.random`'s own normals are not used because under XLA they are other numbers
than outside of it, and cost several times as much. Everything after the key is
elementwise, so that a compiler computes it where the noise is added and no
tensor of noise exists.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

# Each field of the counter is a bit range of one 64-bit integer.
STEP_BITS = 16
VARIABLE_BITS = 16
MAXIMUM_STEPS = 2**STEP_BITS - 1
MAXIMUM_VARIABLES = 2**VARIABLE_BITS

# Coefficients from the constant on, of least maximum error (by Lawson's
# iteration): of 158 - DELTA + x - log2(x) for 1 <= x < 2, to 1.3e-5; and of the
# normal quantile at 1 - 2**-v in sqrt(v - DELTA), for 1 <= v <= 32, to 4.3e-5,
# where DELTA = 0.1575. More of them would not fit into the registers of a CPU
# beside what else the update holds there.
_LOGARITHM = (
    160.64286396,
    -4.09171054,
    3.55079254,
    -1.6311485,
    0.416563597,
    -0.0448735983,
)
_QUANTILE = (
    -1.64571254,
    2.0471655,
    -0.351288821,
    0.0940753698,
    -0.0156001788,
    0.00144222859,
    -5.66225722e-05,
)


def keys(
    variables: Sequence[int],
    *,
    seed: int,
    update: tf.Tensor,
    step: tf.Tensor,
    replica: tf.Tensor | int = 0,
    stream: int = 0,
) -> list[tf.Tensor]:
    """Returns the keys of the noise of some variables at one inner step.

    Args:
        variables: Index of each variable, below `MAXIMUM_VARIABLES`.
        seed: Seed of the whole run, a 64-bit signed integer.
        update: Number of the update, a scalar below 2**31.
        step: Number of the inner step, at most `MAXIMUM_STEPS`. Step 0 is the
            starting point of the chain.
        replica: Number of the replica, a scalar below 2**32.
        stream: Tells draws apart that all of the above have in common.

    Returns:
        One key for each variable: a tensor of two words, of type uint32.
    """
    counter = tf.cast(update, tf.int64)
    counter = counter * 2**STEP_BITS + tf.cast(step, tf.int64)
    counter = tf.cast(counter * 2**VARIABLE_BITS, tf.uint64)
    second = tf.cast(replica, tf.uint64) + stream * 2**32
    # Each block of Philox is four words; that of variable i is the i-th from
    # the counter on, however many are drawn.
    blocks = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[max(variables, default=0) + 1, 4],
        key=tf.constant([seed % 2**64], tf.uint64),
        counter=tf.stack([counter, second]),
        alg=1,  # Philox
        dtype=tf.uint32,
    )
    return [blocks[i, :2] for i in variables]


def standard_normal(
    shape: Sequence[int], dtype: tf.DType, key: tf.Tensor
) -> tf.Tensor:
    """Draws independent standard normals.

    In float32 a draw has 31 random bits, is off by at most 8e-5, and at most
    6.3; in float64 it has 53, is exact to rounding, and at most 8.2.

    Args:
        shape: Shape of the draw, at most 2**31 - 1 entries.
        dtype: Floating type of the draw. Half precisions are drawn in float32.
        key: One of `keys`.

    Returns:
        A tensor of the given shape and type.

    Example:
    >>> (key,) = keys([0], seed=7, update=0, step=1)
    >>> draw = standard_normal([2], tf.float32, key)
    >>> again = standard_normal([2], tf.float32, key)
    >>> bool(tf.reduce_all(draw == again))
    True
    """
    *leading, columns = [1, *shape]
    normal = _rows_of_normals(
        key[0], key[1], math.prod(leading), columns, dtype == tf.float64
    )
    return tf.cast(tf.reshape(normal, shape), dtype)


# A function of its own, since its graph of a hundred operations is then made
# once for each shape, not once for each variable and inner step; and it stays
# one, since a network of 150 variables took twenty seconds to optimize where it
# was put in place of each call.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _rows_of_normals(
    first: tf.Tensor, second: tf.Tensor, rows: int, columns: int, double: bool
) -> tf.Tensor:
    """Returns normals of shape [rows, columns] under a key of two words."""
    starts = tf.range(rows)[:, tf.newaxis] * columns

    def words(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        # Rows apart, so that a compiled loop over columns counts in 32 bits.
        row = tf.bitcast(starts, tf.uint32) + first
        return _hash(row + tf.bitcast(tf.range(columns), tf.uint32), second)

    if double:
        high = _odd_fraction(words(first, second), 26)
        low = _odd_fraction(words(second, first), 25)
        return math.sqrt(2.0) * tf.math.erfinv(high + low * 2.0**-27)
    return _normal(words(first, second))


def _hash(word: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns 32 bits for each index under a key of two words.

    Args:
        word: Indices plus the first word of the key, of type uint32.
        second: Second word. With one, draws would share their values.

    Returns:
        As many words, of which none occurs twice. The constants are those of
        C. Wellons's "triple32", found by search for the least bias.
    """
    word = (word ^ _shifted(word, 17)) * tf.constant(0xED5AD4BB, tf.uint32)
    word = (word ^ _shifted(word, 11)) * tf.constant(0xAC4C1B51, tf.uint32)
    word ^= second
    word = (word ^ _shifted(word, 15)) * tf.constant(0x31848BAB, tf.uint32)
    return word ^ _shifted(word, 14)


def _normal(word: tf.Tensor) -> tf.Tensor:
    """Returns the normal of each word: a bit of sign and 31 of its size.

    Args:
        word: Random words, of type uint32. The last bit does not count.

    Returns:
        Standard normals of type float32.
    """
    # The probability of a larger size, in units of 2**-32: an odd number.
    tail = tf.bitcast(word & tf.constant(0x7FFFFFFF, tf.uint32), tf.int32) | 1
    bits = tf.bitcast(tf.cast(tail, tf.float32), tf.int32)
    # As a number they are the exponent plus the mantissa less one.
    mantissa = tf.bitcast((bits & 0x7FFFFF) | 0x3F800000, tf.float32)
    surprise = (
        _polynomial(_LOGARITHM, mantissa) - tf.cast(bits, tf.float32) * 2.0**-23
    )
    size = _polynomial(_QUANTILE, tf.sqrt(surprise))
    sign = word & tf.constant(0x80000000, tf.uint32)
    return tf.bitcast(tf.bitcast(size, tf.uint32) ^ sign, tf.float32)


def _polynomial(coefficients: Sequence[float], x: tf.Tensor) -> tf.Tensor:
    """Returns the polynomial at x, by Horner's rule."""
    *others, value = coefficients
    for coefficient in reversed(others):
        value = value * x + coefficient
    return value


def _shifted(word: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(word, tf.constant(bits, tf.uint32))


def _odd_fraction(word: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns words as odd multiples of 2**-(bits + 1) in (-1, 1), exactly."""
    top = tf.bitcast(_shifted(word, 31 - bits), tf.int32)
    return (tf.cast(2 * top + 1, tf.float64) - 2.0 ** (bits + 1)) * 2.0 ** -(
        bits + 1
    )
