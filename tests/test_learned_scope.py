"""The scope of each weight that is learned is 1 + curvature / scope."""

import langevin
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import geometry
from entropy_keras import samplers

CURVATURES = np.array([0.0, 0.5, 4.0])
SCOPE, TEMPERATURE = 0.5, 1e-3
COPIES = 200


def test_an_observation_by_hand():
    # target = 1 + 3 * 2 = 7; change = 0.5 * (4 - 7) / 4 = -0.375;
    # 4 * (1 + 0.375 + 0.0703125) = 5.78125
    metric = geometry.LearnedScope(decay=0.5)
    slots = [tf.constant([4.0]), tf.constant([4.0])]
    found, quiet = metric.observe(
        slots, [tf.constant([3.0])] * 2, [tf.constant([2.0]), None]
    )
    assert found.numpy().tolist() == [5.78125]
    assert quiet.numpy().tolist() == [4.0]
    diagonal, _ = metric.diagonal([], [found, quiet])
    assert diagonal.numpy().tolist() == pytest.approx([1 / 5.78125])


@pytest.mark.parametrize(
    ("sampler", "num_steps"),
    [(samplers.GaussianPerturbation(), 4), (samplers.SGLD(), 2)],
)
def test_on_a_quadratic_it_finds_the_curvature(sampler, num_steps):
    # A minimum off the anchor must not be taken for curvature.
    anchor = tf.zeros([COPIES, 3], tf.float64)
    metric = geometry.LearnedScope(decay=0.99)

    def update(number, factors):
        chain = langevin.make_chain(
            sampler=sampler,
            step_size=0.05,
            scope=SCOPE,
            temperature=TEMPERATURE,
            metric=metric.diagonal([anchor], [factors])[0],
            update=number,
            stationary_start=True,
        )
        chain = chain.__class__(**{**vars(chain), "metric": metric})
        state = chain.start([anchor], ((), [factors]))
        for step in range(1, num_steps + 1):
            gradient = CURVATURES * (state.position[0] - 0.02)
            state = chain.advance(state, [gradient], [anchor], step)
        _, (factors,) = chain.finish(state)
        return number + 1, factors

    @tf.function
    def run(number, factors, count):
        return tf.while_loop(
            lambda number, _: number < count, update, (number, factors)
        )[1]

    factors, found = tf.ones([COPIES, 3], tf.float64), []
    for start in range(400, 900, 50):
        begin = 0 if start == 400 else start - 50
        factors = run(tf.constant(begin), factors, tf.constant(start))
        found.append(factors.numpy().mean(0))
    expected = 1 + CURVATURES / SCOPE
    # The gradient off the minimum is noise of the product, and its square errs
    # upwards by (1 - decay) / 2 times the relative variance, about 2 %.
    np.testing.assert_allclose(np.mean(found[1:], 0), expected, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`start` must be 'stationary' with metric='learned'"),
        (
            {"start": "stationary", "temperature": 0.0},
            "`temperature` must be positive with metric='learned'",
        ),
    ],
)
def test_without_draws_it_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        entropy_keras.EntropySGD(metric="learned", **arguments)


@pytest.mark.parametrize("decay", [-0.1, 1.0, np.nan])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="`decay` must be"):
        geometry.LearnedScope(decay=decay)
