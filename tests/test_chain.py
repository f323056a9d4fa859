"""The loop: its start, its noise, what it carries, and its graph."""

import langevin
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import estimators
from entropy_keras import samplers

SAMPLERS = [
    samplers.SGLD(momentum=0.0),
    samplers.SGLD(momentum=0.9),
    samplers.SplitSGLD(),
    samplers.SplitSGLD(average_noise=True),
    samplers.SGHMC(),
    samplers.SGNHT(),
    samplers.Santa(),
    samplers.GaussianPerturbation(),
]


def rotate(position, step):
    """Stands in for gradients that depend on the step."""
    return [tf.sin(p) * tf.cast(step, p.dtype) for p in position]


def slots_of(chain, anchor):
    variables = [tf.Variable(x) for x in anchor]
    return chain.sampler.initial_slots(variables), ()


def run_steps(chain, anchor, state, first_step, last_step, gradients=rotate):
    """Advances in a loop of the graph."""

    def step(number, *state):
        state = chain_lib.State(*state)
        found = gradients(state.position, number)
        return number + 1, *chain.advance(state, found, anchor, number)

    _, *state = tf.while_loop(
        lambda number, *_: number <= last_step,
        step,
        (tf.constant(first_step), *state),
    )
    return chain_lib.State(*state)


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
    slots = slots_of(chain, anchor)

    @tf.function
    def update():
        state = run_steps(chain, anchor, chain.start(anchor, slots), 1, 4)
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
    state = chain.start([anchor])
    np.testing.assert_array_equal(state.position[0], anchor)
    np.testing.assert_array_equal(state.mean[0], anchor)
    np.testing.assert_array_equal(state.memory[0][0], [0.0, 0.0])


@pytest.mark.parametrize("temperature", [2.0, 1.0, 1e-8])
def test_stationary_start_has_the_deviation_of_a_flat_loss(temperature):
    num_weights, scope = 100_000, 0.25
    chain = langevin.make_chain(
        scope=scope, temperature=temperature, stationary_start=True
    )
    anchor = tf.fill([num_weights], tf.constant(3.0, tf.float64))
    state = chain.start([anchor])
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
    state = chain.start([anchor])
    np.testing.assert_array_equal(state.position[0], anchor)


def test_the_velocity_starts_from_a_draw_of_its_own():
    # Its law is N(0, step_size * T), and the position's start shares no noise.
    chain = langevin.make_chain(
        sampler=samplers.SGHMC(),
        step_size=0.25,
        temperature=4.0,
        stationary_start=True,
    )
    anchor = tf.zeros([100_000], tf.float64)
    state = chain.start([anchor])
    velocity = state.memory[0][0].numpy()
    assert abs(velocity.std() - 1) < 4.5 / (2 * velocity.size) ** 0.5
    correlation = np.corrcoef(velocity, state.position[0])[0, 1]
    assert abs(correlation) < 4.5 / velocity.size**0.5


@pytest.mark.parametrize("split_after", [0, 3, 7])
@pytest.mark.parametrize(
    ("estimator", "averaging_rate"),
    [
        (estimators.Displacement(), 0.75),
        (estimators.Displacement(subtract_noise=True), None),
        (estimators.MeanGradient(), None),
    ],
)
def test_two_runs_equal_one(estimator, averaging_rate, split_after):
    chain = langevin.make_chain(
        sampler=samplers.SGLD(momentum=0.9),
        estimator=estimator,
        averaging_rate=averaging_rate,
        temperature=0.1,
        num_variables=2,
    )
    anchor = [
        tf.constant([1.0, -2.0], tf.float64),
        tf.constant(0.5, tf.float64),
    ]
    start = chain.start(anchor)
    whole = run_steps(chain, anchor, start, 1, 7)
    state = run_steps(chain, anchor, start, 1, split_after)
    halves = run_steps(chain, anchor, state, split_after + 1, 7)
    for a, b in zip(
        tf.nest.flatten(whole), tf.nest.flatten(halves), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for before, after in zip(anchor, whole.position, strict=True):
        assert np.all(before != after)


def test_advancing_by_hand_equals_the_loop():
    chain = langevin.make_chain(
        sampler=samplers.SGLD(momentum=0.9), temperature=0.1
    )
    anchor = [tf.constant([1.0, -2.0], tf.float64)]
    by_hand = chain.start(anchor)
    for step in (1, 2, 3):
        by_hand = chain.advance(
            by_hand, rotate(by_hand.position, step), anchor, step
        )

    @tf.function
    def loop():
        return run_steps(chain, anchor, chain.start(anchor), 1, 3)

    for a, b in zip(
        tf.nest.flatten(by_hand), tf.nest.flatten(loop()), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8)


@pytest.mark.parametrize("update", [0, 5])
def test_each_step_and_variable_has_noise_of_its_own(update):
    # Without loss and scope, the increment of step k is sqrt(2 h T) times the
    # draw of that step: here sqrt(2 * 0.5 * 4) = 2 of them.
    chain = langevin.make_chain(
        step_size=0.5,
        scope=0.0,
        temperature=4.0,
        update=update,
        num_variables=2,
    )
    anchor = [tf.zeros([50], tf.float64), tf.zeros([50], tf.float64)]
    state, positions = chain.start(anchor), [np.zeros([2, 50])]
    for step in (1, 2, 3, 4):
        state = chain.advance(state, anchor, anchor, step)
        positions.append(np.stack(state.position))
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
            for variable in (0, 1)
        ]
        for step in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(draws, expected, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_eager_graph_and_compiled_runs_agree(sampler, temperature):
    chain = langevin.make_chain(
        sampler=sampler,
        temperature=temperature,
        stationary_start=True,
        compiled=False,
        estimator=estimators.MeanGradient(),
        averaging_rate=None,
    )
    anchor = [tf.constant([-1.0, -0.5, 0.1, 0.8, 2.0], tf.float64)]
    slots = slots_of(chain, anchor)

    def update(anchor):
        state = run_steps(chain, anchor, chain.start(anchor, slots), 1, 5)
        return chain.entropy_gradient(anchor, state)[0], chain.finish(state)

    eager = update(anchor)
    graph = tf.function(update)(anchor)
    compiled = tf.function(update, jit_compile=True)(anchor)
    assert np.all(eager[0].numpy() != 0)
    for a, b, c in zip(*map(tf.nest.flatten, (eager, graph, compiled)),
                       strict=True):  # fmt: skip
        np.testing.assert_allclose(b, a, rtol=1e-13)
        # A compiler may round a logarithm otherwise, and the noise holds one.
        np.testing.assert_allclose(c, a, rtol=1e-8)
