"""The loop: its start, its noise, what it carries, and its graph."""

import langevin
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import samplers

SAMPLERS = [
    samplers.SGLD(momentum=0.0),
    samplers.SGLD(momentum=0.9),
    samplers.SplitSGLD(),
]


def rotate(position, step, carry):
    """Stands in for a gradient that depends on the step and moves the carry."""
    gradients = [tf.sin(p) * tf.cast(step, p.dtype) for p in position]
    return gradients, carry * 3 + step


def run_steps(chain, anchor, state, first_step, last_step, carry):
    @tf.function
    def run(anchor, state, carry):
        return chain.run(
            state,
            rotate,
            anchor,
            first_step=first_step,
            last_step=last_step,
            carry=carry,
        )

    return run(anchor, state, carry)


def operations(function):
    """Returns the kinds of operation in a function and all that it calls."""
    graph = function.get_concrete_function().graph.as_graph_def()
    nodes = list(graph.node)
    for called in graph.library.function:
        nodes.extend(called.node_def)
    return {node.op for node in nodes}


def random_operations(chain):
    """Returns the random ones among those of a whole update."""
    anchor = [tf.ones([3], tf.float64)]

    @tf.function
    def update():
        state, _ = chain.run(
            chain.initial_state(anchor),
            lambda position, step, carry: (position, carry),
            anchor,
            first_step=1,
            last_step=4,
            carry=(),
        )
        return chain.entropy_gradient(anchor, state)

    kinds = operations(update)
    assert kinds & {"While", "StatelessWhile"}
    return {kind for kind in kinds if "Random" in kind or "Philox" in kind}


@pytest.mark.parametrize("stationary_start", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_temperature_zero_leaves_no_random_operation(sampler, stationary_start):
    arguments = {"sampler": sampler, "stationary_start": stationary_start}
    cold = langevin.make_chain(temperature=0.0, **arguments)
    warm = langevin.make_chain(temperature=1e-8, **arguments)
    assert random_operations(cold) == set()
    # Where there is noise it is found, and comes from no generator with state.
    kinds = random_operations(warm)
    assert kinds
    assert all(kind.startswith("StatelessRandom") for kind in kinds)


def test_the_chain_starts_at_the_anchor():
    chain = langevin.make_chain(
        temperature=1.0, sampler=samplers.SGLD(momentum=0.9)
    )
    anchor = tf.constant([1.0, -2.0], tf.float64)
    state = chain.initial_state([anchor])
    np.testing.assert_array_equal(state.position[0], anchor)
    np.testing.assert_array_equal(state.mean[0], anchor)
    np.testing.assert_array_equal(state.kinetics[0][0], [0.0, 0.0])


@pytest.mark.parametrize("temperature", [2.0, 1.0, 1e-8])
def test_stationary_start_has_the_deviation_of_a_flat_loss(temperature):
    num_weights, scope = 100_000, 0.25
    chain = langevin.make_chain(
        scope=scope, temperature=temperature, stationary_start=True
    )
    anchor = tf.fill([num_weights], tf.constant(3.0, tf.float64))
    state = chain.initial_state([anchor])
    np.testing.assert_array_equal(state.mean[0], anchor)
    # exp(-scope / 2 * |x' - x|**2 / T) is normal with variance T / scope. The
    # mean and the deviation of n normals err by 1 / sqrt(n), 1 / sqrt(2 n).
    start = (state.position[0] - anchor).numpy() / (temperature / scope) ** 0.5
    assert abs(start.mean()) < 4.5 / num_weights**0.5
    assert abs(start.std() - 1) < 4.5 / (2 * num_weights) ** 0.5
    # It is a draw of its own, that of step 0.
    draw = langevin.draw(
        [num_weights], tf.float64, seed=7, update=0, step=0, variable=0
    )
    np.testing.assert_allclose(start, draw, atol=1e-10)


def test_stationary_start_at_temperature_zero_is_the_anchor():
    chain = langevin.make_chain(temperature=0.0, stationary_start=True)
    anchor = tf.constant([1.0, -2.0], tf.float64)
    state = chain.initial_state([anchor])
    np.testing.assert_array_equal(state.position[0], anchor)


@pytest.mark.parametrize("split_after", [0, 3, 7])
@pytest.mark.parametrize(
    "estimator",
    [
        estimators.Displacement(0.75, scale_by_scope=False),
        estimators.Displacement(None, scale_by_scope=False),
        estimators.MeanGradient(),
    ],
    ids=repr,
)
def test_two_runs_equal_one(estimator, split_after):
    chain = langevin.make_chain(
        sampler=samplers.SGLD(momentum=0.9),
        estimator=estimator,
        temperature=0.1,
        variable_indices=(0, 1),
    )
    anchor = [
        tf.constant([1.0, -2.0], tf.float64),
        tf.constant(0.5, tf.float64),
    ]
    start, carry = chain.initial_state(anchor), tf.constant(1)
    whole = run_steps(chain, anchor, start, 1, 7, carry)
    state, carry = run_steps(chain, anchor, start, 1, split_after, carry)
    halves = run_steps(chain, anchor, state, split_after + 1, 7, carry)
    for a, b in zip(
        tf.nest.flatten(whole), tf.nest.flatten(halves), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # Seven steps moved it all: carry_k = 3 carry + k from 1 gives 3823.
    assert int(whole[1]) == 3823
    for before, after in zip(anchor, whole[0].position, strict=True):
        assert np.all(before != after)


def test_advancing_by_hand_equals_the_loop():
    chain = langevin.make_chain(
        sampler=samplers.SGLD(momentum=0.9), temperature=0.1
    )
    anchor = [tf.constant([1.0, -2.0], tf.float64)]
    by_hand, carry = chain.initial_state(anchor), tf.constant(1)
    for step in (1, 2, 3):
        gradients, carry = rotate(by_hand.position, step, carry)
        by_hand = chain.advance(by_hand, gradients, anchor, step)
    start = chain.initial_state(anchor)
    loop = run_steps(chain, anchor, start, 1, 3, tf.constant(1))
    for a, b in zip(
        tf.nest.flatten((by_hand, carry)), tf.nest.flatten(loop), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_gradients_are_asked_for_where_each_step_begins():
    # f = -3 x, no noise, no scope: positions 0, 0.3, 0.6, 0.9.
    chain = langevin.make_chain(scope=0.0)
    anchor = [tf.zeros([1], tf.float64)]

    def gradient_function(position, step, seen):
        seen = tf.tensor_scatter_nd_update(
            seen, [[step - 1]], [[tf.cast(step, tf.float64), position[0][0]]]
        )
        return [tf.constant([-3.0], tf.float64)], seen

    _, seen = tf.function(chain.run)(
        chain.initial_state(anchor),
        gradient_function,
        anchor,
        first_step=1,
        last_step=4,
        carry=tf.zeros([4, 2], tf.float64),
    )
    expected = [[1, 0.0], [2, 0.3], [3, 0.6], [4, 0.9]]
    np.testing.assert_allclose(seen, expected, atol=1e-15)


@pytest.mark.parametrize("update", [0, 5])
def test_each_step_and_variable_has_noise_of_its_own(update):
    # Without loss and scope, the increment of step k is sqrt(2 h T) times the
    # draw of that step: here sqrt(2 * 0.5 * 4) = 2 of them.
    chain = langevin.make_chain(
        step_size=0.5,
        scope=0.0,
        temperature=4.0,
        update=tf.constant(update),
        variable_indices=(2, 9),
    )
    anchor = [tf.zeros([50], tf.float64), tf.zeros([50], tf.float64)]

    def gradient_function(position, step, seen):
        seen = tf.tensor_scatter_nd_update(
            seen, [[step - 1]], [tf.stack(position)]
        )
        return [tf.zeros([50], tf.float64)] * 2, seen

    state, seen = tf.function(chain.run)(
        chain.initial_state(anchor),
        gradient_function,
        anchor,
        first_step=1,
        last_step=4,
        carry=tf.zeros([4, 2, 50], tf.float64),
    )
    positions = np.concatenate([seen, [np.stack(state.position)]])
    draws = np.diff(positions, axis=0) / 2
    assert len(np.unique(draws.round(12))) == draws.size
    expected = [
        [
            langevin.draw(
                [50],
                tf.float64,
                seed=7,
                update=update,
                step=step,
                variable=variable,
            )
            for variable in (2, 9)
        ]
        for step in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(draws, expected, atol=1e-14)


def test_a_restricted_chain_moves_its_variables_alike():
    chain = langevin.make_chain(
        sampler=samplers.SGLD(momentum=0.9),
        temperature=0.1,
        variable_indices=(0, 1, 2),
    )
    anchor = [tf.fill([4], tf.constant(v, tf.float64)) for v in (1.0, 2.0, 3.0)]
    start = chain.initial_state(anchor)
    whole, _ = run_steps(chain, anchor, start, 1, 5, tf.constant(1))
    kept = [0, 2]
    part, _ = run_steps(
        chain.of(kept),
        [anchor[i] for i in kept],
        start.of(kept),
        1,
        5,
        tf.constant(1),
    )
    for a, b in zip(
        tf.nest.flatten(whole.of(kept)),
        tf.nest.flatten(part),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_eager_graph_and_compiled_runs_agree(sampler, temperature):
    chain = langevin.make_chain(
        sampler=sampler, temperature=temperature, stationary_start=True
    )
    anchor = [tf.constant([-1.0, -0.5, 0.1, 0.8, 2.0], tf.float64)]

    def update(anchor):
        state, _ = chain.run(
            chain.initial_state(anchor),
            rotate,
            anchor,
            first_step=1,
            last_step=5,
            carry=tf.constant(1),
        )
        return chain.entropy_gradient(anchor, state)[0]

    eager = update(anchor)
    graph = tf.function(update)(anchor)
    compiled = tf.function(update, jit_compile=True)(anchor)
    assert np.all(eager.numpy() != 0)
    np.testing.assert_allclose(graph, eager, rtol=1e-13)
    # A compiler may round a logarithm otherwise, and the noise holds one.
    np.testing.assert_allclose(compiled, eager, rtol=1e-8)
