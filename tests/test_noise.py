"""The noise: standard normal, uncorrelated, and a pure function of its key."""

import itertools

import langevin
import ml_dtypes
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from entropy_keras import noise
from entropy_keras import samplers

MILLION = 1_000_000
TENSORS = ("update", "step")
KEY = {"seed": 11, "update": 3, "step": 2, "variable": 1}
# Every field at the ends of its range, next to zero, and next to KEY.
OTHER_KEYS = [
    {"seed": 12},
    {"seed": 10},
    {"seed": -11},
    {"seed": 11 + 2**32},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
    {"update": 0},
    {"update": 4},
    {"update": 2**31 - 1},
    {"step": 0},
    {"step": 3},
    {"step": noise.MAXIMUM_STEPS},
    {"variable": 0},
    {"variable": 2},
    {"variable": noise.MAXIMUM_VARIABLES - 1},
]


def draw(size, dtype=tf.float64, compiled=False, **key):
    """Draws at KEY, but for the fields given."""
    key = KEY | key

    # Update and step are tensors, as they are in training: constants would let
    # the compiler see through the key.
    def function(update, step):
        return langevin.draw(
            [size],
            dtype,
            seed=key["seed"],
            update=update,
            step=step,
            variable=key["variable"],
        )

    if compiled:
        function = tf.function(function, jit_compile=True)
    update, step = (tf.convert_to_tensor(key[name]) for name in TENSORS)
    return function(update, step)


def assert_uncorrelated(first, second):
    # The correlation of n independent pairs has deviation 1 / sqrt(n).
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / len(first) ** 0.5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_moments_are_those_of_a_standard_normal(dtype, compiled):
    draws = draw(MILLION, tf.as_dtype(dtype), compiled).numpy()
    draws = draws.astype("float64")
    # Sums of n powers of normals: the standard errors of the mean, variance,
    # skewness and excess kurtosis are sqrt(1, 2, 6 and 24, over n). Rounding to
    # a half precision adds (spacing / 12 <= 2**-14) to no moment visibly.
    assert abs(draws.mean()) < 4.5 * (1 / MILLION) ** 0.5
    assert abs(draws.var() - 1) < 4.5 * (2 / MILLION) ** 0.5
    assert abs(scipy.stats.skew(draws)) < 4.5 * (6 / MILLION) ** 0.5
    assert abs(scipy.stats.kurtosis(draws)) < 4.5 * (24 / MILLION) ** 0.5


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distribution_is_standard_normal(dtype, compiled):
    draws = draw(MILLION, tf.as_dtype(dtype), compiled).numpy()
    # sqrt(n) times the Kolmogorov-Smirnov statistic exceeds 1.95 with
    # probability 2 * exp(-2 * 1.95**2) = 0.001.
    statistic = scipy.stats.kstest(draws.astype("float64"), "norm").statistic
    assert statistic < 1.95 / MILLION**0.5
    # Of a million normals, 0.57 lie beyond 5 and 63 beyond 4 on average.
    assert (abs(draws) > 4).sum() in range(32, 100)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_uncorrelated(dtype, compiled):
    draws = draw(MILLION, tf.as_dtype(dtype), compiled).numpy()
    for lag in (1, 2, 3, 4, 8, 64, 256, 1024):
        assert_uncorrelated(draws[:-lag], draws[lag:])
        # Nor are their sizes.
        assert_uncorrelated(draws[:-lag] ** 2, draws[lag:] ** 2)


@pytest.mark.parametrize("field", ["seed", "update", "step", "variable"])
def test_draws_of_different_keys_are_uncorrelated(field):
    draws = [draw(MILLION // 5, **{field: value}) for value in range(5)]
    for first, second in itertools.combinations(np.stack(draws), 2):
        assert_uncorrelated(first, second)
        assert_uncorrelated(first[1:], second[:-1])
        assert_uncorrelated(first**2, second**2)


@pytest.mark.parametrize("lag", [1, 2, 4, 1024, "step"])
def test_pairs_fill_the_plane_evenly(lag):
    if lag == "step":
        first, second = draw(MILLION).numpy(), draw(MILLION, step=3).numpy()
    else:
        first, second = (
            draw(MILLION).numpy()[:-lag],
            draw(MILLION).numpy()[lag:],
        )
    # Into 32 x 32 cells of equal probability.
    cells = [
        (32 * scipy.stats.norm.cdf(draws)).astype(int)
        for draws in (first, second)
    ]
    counts = np.bincount(32 * cells[0] + cells[1], minlength=1024)
    # Chi-squared has mean 1023 and variance 2 * 1023.
    mean = len(first) / 1024
    statistic = ((counts - mean) ** 2 / mean).sum()
    assert abs(statistic - 1023) < 4.5 * (2 * 1023) ** 0.5


@pytest.mark.parametrize("field", ["seed", "update", "step", "variable"])
def test_one_weight_is_uncorrelated_over_keys(field):
    # The course of 4 weights over 256 consecutive keys.
    courses = np.stack([draw(4, **{field: key}) for key in range(256)])
    for lag in (1, 2, 16):
        assert_uncorrelated(courses[:-lag].ravel(), courses[lag:].ravel())
    # Their sums over the keys have the deviation of a random walk.
    assert np.all(abs(courses.sum(0)) < 4.5 * 256**0.5)
    assert abs(courses.var() - 1) < 4.5 * (2 / courses.size) ** 0.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_draws_are_the_same_in_eager_graph_and_compiled_mode(dtype):
    @tf.function
    def graph_draw(update, step):
        return draw(10_001, tf.as_dtype(dtype), update=update, step=step)

    eager = draw(10_001, tf.as_dtype(dtype))
    others = [
        graph_draw(tf.constant(3, integer), tf.constant(2, integer))
        for integer in (tf.int32, tf.int64)
    ]
    others.append(draw(10_001, tf.as_dtype(dtype), compiled=True))
    for other in others:
        # A compiler may round otherwise: half of the digits will do.
        difference = tf.cast(other, tf.float64) - tf.cast(eager, tf.float64)
        limit = float(ml_dtypes.finfo(dtype).eps) ** 0.5
        assert np.abs(difference).max() < limit


def test_float32_draws_are_quantiles_of_the_normal_distribution():
    # All sizes of small and large tails, and a million between.
    words = np.random.default_rng(0).integers(0, 2**31, MILLION)
    words[:10_000] = np.arange(10_000)
    words[-10_000:] = 2**31 - 1 - np.arange(10_000)
    expected = scipy.stats.norm.isf((words | 1) / 2**32)
    for sign, first_bit in ((1, 0), (-1, 2**31)):
        draws = noise._normal(tf.constant(words + first_bit, tf.uint32))
        error = np.abs(sign * draws.numpy() - expected)
        assert error.max() < 8e-5


def test_no_word_of_the_hash_occurs_twice():
    half = np.arange(MILLION // 2)
    index = tf.constant([half, half + 2**31], tf.uint32)
    for key in ((0, 0), (2**32 - 1, 1), (123, 2**31)):
        first, second = tf.constant(key, tf.uint32)
        words = noise._hash(index + first, second)
        assert len(np.unique(words)) == MILLION


def test_the_key_of_a_variable_does_not_depend_on_the_others():
    counter = {"seed": -3, "update": 5, "step": 9}
    together = noise.keys([4, 0, 300], **counter)
    alone = [noise.keys([i], **counter)[0] for i in (4, 0, 300)]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together)) == 6


@pytest.mark.parametrize("num_steps", [2, 5])
def test_sums_over_an_update_have_the_fourth_moment_of_a_normal(num_steps):
    # Steps that shared their magnitudes would have up to 9 instead of 3.
    total = sum(draw(MILLION, tf.float32, step=k) for k in range(num_steps))
    total = total.numpy().astype("float64") / num_steps**0.5
    # The variance of the fourth power of a normal is 105 - 9.
    assert abs((total**4).mean() - 3) < 4.5 * (96 / MILLION) ** 0.5


def test_a_draw_is_a_pure_function_of_its_key():
    first = draw(1000)
    tf.random.set_seed(99)
    draw(1000, step=5)
    np.testing.assert_array_equal(draw(1000), first)


@pytest.mark.parametrize("key", OTHER_KEYS, ids=repr)
def test_another_key_changes_every_number(key):
    first, second = draw(1000).numpy(), draw(1000, **key).numpy()
    # Not one in common, at any lag.
    assert not np.intersect1d(first, second).size


def test_no_two_keys_share_a_stream():
    # Each bit of each field alone would find a field that runs into another.
    bits = {"seed": 63, "update": 31, "step": 16, "variable": 16}
    zero = dict.fromkeys(bits, 0)
    keys = [
        zero | {field: 2**bit}
        for field, width in bits.items()
        for bit in range(width)
    ]
    keys += [
        dict(zip(bits, values, strict=True))
        for values in itertools.product((-1, 0, 3), (0, 3), (0, 3), (0, 3))
    ]
    assert len(np.unique([draw(1, **key) for key in keys])) == len(keys)


def test_no_two_draws_consist_of_the_same_numbers():
    @tf.function
    def largest(step):
        return tf.math.top_k(draw(2**16, tf.float32, step=step), 8).values

    # Two draws of the same numbers in another order would agree in these.
    tops = np.stack([largest(tf.constant(step)) for step in range(1000)])
    assert len(np.unique(tops, axis=0)) == len(tops)


def test_float64_draws_have_the_resolution_of_float64():
    draws = draw(1000).numpy()
    # One in 2**29 doubles is a float32 number.
    assert np.all(draws.astype("float32") != draws)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precisions_round_the_draw_of_float32(dtype):
    draws = draw(1000, dtype)
    assert draws.dtype == dtype
    expected = tf.cast(draw(1000, tf.float32), dtype)
    np.testing.assert_array_equal(draws.numpy(), expected.numpy())


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3, 4)])
def test_draws_have_the_shape_asked_for(shape):
    draws = langevin.draw(shape, tf.float32, **KEY)
    assert draws.shape == shape


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("temperature", [2.0, 1.0, 1e-8])
def test_sgld_adds_noise_of_the_stated_deviation(temperature, dtype):
    step_size = 0.01
    zero = tf.zeros([1000], dtype)
    draws = draw(1000, dtype)
    setting = samplers.Setting(
        tf.constant(step_size, dtype), tf.constant(0.3, dtype), temperature
    )
    position, _ = samplers.SGLD(momentum=0.0).move(
        zero, zero, zero, draws, (), setting
    )
    expected = (2 * step_size * temperature) ** 0.5 * draws.numpy()
    resolution = {tf.float32: 4e-7, tf.float64: 8e-16}[dtype]
    np.testing.assert_allclose(position, expected, rtol=resolution)


@pytest.mark.parametrize("temperature", [2.0, 1.0, 1e-8])
def test_noise_of_a_chain_has_the_stated_deviation(temperature):
    # Four steps without loss and scope: the variance is 4 * 2 h T.
    size, step_size = 100_000, 0.01
    chain = langevin.make_chain(
        step_size=step_size, scope=0.0, temperature=temperature
    )
    anchor = tf.zeros([size], tf.float64)
    state = langevin.run(chain, tf.zeros_like, anchor, 4)
    deviation = state.position[0].numpy().std()
    expected = (8 * step_size * temperature) ** 0.5
    # A deviation over n draws has relative error 1 / sqrt(2 n).
    assert abs(deviation / expected - 1) < 4.5 / (2 * size) ** 0.5


def test_a_draw_is_one_operation_of_the_graph():
    # In place of each call its hundred take long to optimize.
    @tf.function
    def draws():
        return [draw(5), draw(5, variable=1)]

    graph = draws.get_concrete_function().graph.as_graph_def()
    assert sum(node.op.endswith("PartitionedCall") for node in graph.node) == 2
    (function,) = (
        f
        for f in graph.library.function
        if "rows_of_normals" in f.signature.name
    )
    assert len(function.node_def) > 50
    assert function.attr["_noinline"].b


def test_replicas_and_streams_do_not_meet():
    found = {
        tuple(
            noise.keys(
                [0], seed=7, update=0, step=0, replica=replica, stream=stream
            )[0].numpy()
        )
        for replica in (0, 1)
        for stream in (0, 1)
    }
    assert len(found) == 4
