"""The laws of samplers and metrics, the noise's own path, and what lasts."""

import re

import keras
import langevin
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from test_samplers import HESSIAN
from test_samplers import SCOPE
from test_samplers import assert_equal_matrices
from test_samplers import setting_of
from test_samplers import spectral_radius
from test_samplers import stationary_covariance

import entropy_keras
from entropy_keras import estimators
from entropy_keras import geometry
from entropy_keras import kinetics
from entropy_keras import samplers


def momentum_variance(curvature, step_size, temperature, momentum, nesterov):
    """Solves for position and velocity of one mode, from the formulas."""
    kick = step_size * curvature
    carried = momentum**2 if nesterov else momentum
    moved = (1 + momentum) * kick if nesterov else kick
    transition = [[1 - moved - step_size * SCOPE, carried], [-kick, momentum]]
    gained = np.diag([2 * step_size * temperature, 0.0])
    return scipy.linalg.solve_discrete_lyapunov(transition, gained)[0, 0]


def split_variance(curvature, step_size, temperature):
    decay = np.exp(-step_size * SCOPE)
    b = decay - (1 - decay) / SCOPE * curvature
    return temperature * (1 - decay**2) / SCOPE / (1 - b**2)


# Variance of a mode of curvature c, at step size h and temperature t.
LINEAR = [
    (
        samplers.SGLD(0.0),
        lambda c, h, t: t / ((c + SCOPE) * (1 - h / 2 * (c + SCOPE))),
    ),
    (
        samplers.SGLD(0.75, nesterov=False),
        lambda c, h, t: momentum_variance(c, h, t, 0.75, False),
    ),
    (
        samplers.SGLD(0.75, nesterov=True),
        lambda c, h, t: momentum_variance(c, h, t, 0.75, True),
    ),
    (samplers.SplitSGLD(), split_variance),
    # Exact at every step size.
    (samplers.SplitSGLD(average_noise=True), lambda c, h, t: t / (c + SCOPE)),
    (samplers.SGHMC(0.0), lambda c, h, t: t / (c + SCOPE)),
    (samplers.SGHMC(0.9), lambda c, h, t: t / (c + SCOPE)),
    # It does not see the loss.
    (samplers.GaussianPerturbation(), lambda c, h, t: t / SCOPE),
]


def metric_values(metric):
    """Returns M of three weights."""
    kernel = tf.constant([[0.3, -0.8, 1.2], [0.5, 0.4, -0.9]], tf.float64)
    slots = metric.initial_slots([keras.Variable(kernel, dtype="float64")])
    slots = metric.observe(slots, [3 * kernel + 1], [100 * kernel])
    (values,) = metric.diagonal([kernel], slots)
    return None if values is None else values.numpy()[0]


@pytest.mark.parametrize("temperature", [2.0, 1.0, 0.1, 1 / 60000])
@pytest.mark.parametrize("metric", geometry.NAMES)
@pytest.mark.parametrize(
    ("sampler", "variance"), LINEAR, ids=[repr(s) for s, _ in LINEAR]
)
def test_covariance_of_every_sampler_and_metric(
    sampler, variance, metric, temperature
):
    values = metric_values(geometry.get(metric))
    root = np.diag(np.ones(3) if values is None else values**0.5)
    # In units of the metric: x = root y makes the Hessian root H root, and the
    # scope's pull the identity times the scope.
    curvatures, modes = np.linalg.eigh(root @ HESSIAN @ root)
    variances = [variance(c, 0.1, temperature) for c in curvatures]
    expected = root @ modes @ np.diag(variances) @ modes.T @ root
    actual = stationary_covariance(
        sampler,
        HESSIAN,
        step_size=0.1,
        scope=SCOPE,
        temperature=temperature,
        metric=values,
    )
    assert_equal_matrices(actual, expected)


def test_sghmc_is_stable_up_to_the_stated_step_size():
    largest = 4 / (10 + SCOPE)  # the sharpest curvature, pull included
    for momentum in (0.0, 0.5, 0.99):
        radii = [
            spectral_radius(
                samplers.SGHMC(momentum),
                HESSIAN,
                step_size=share * largest,
                scope=SCOPE,
                temperature=1.0,
            )
            for share in (0.999, 1.001)
        ]
        assert radii[0] < 1 < radii[1]


@pytest.mark.parametrize(
    "sampler", [samplers.SGHMC(), samplers.SGNHT(), samplers.Santa()], ids=repr
)
def test_pulls_that_diverge_are_refused(sampler):
    sampler.check_stability(0.1, 39.9)
    name = type(sampler).__name__
    with pytest.raises(ValueError, match=f"must stay below 4.*{name} sampler"):
        sampler.check_stability(0.1, 40.0)


def test_without_a_rate_the_thermostats_are_sghmc():
    chains = []
    for sampler in (
        samplers.SGHMC(0.8),
        samplers.SGNHT(0.8, thermostat_rate=0.0),
        samplers.Santa(0.8, thermostat_rate=0.0),
    ):
        anchor = tf.constant([1.0, -2.0, 0.5], tf.float64)
        chain = langevin.make_chain(
            sampler=sampler,
            temperature=0.3,
            metric=tf.constant([1.0, 4.0, 0.25], tf.float64),
        )
        slots = sampler.initial_slots([keras.Variable(anchor, dtype="float64")])
        state = chain.start([anchor], (slots, ()))
        state = langevin.run(chain, tf.sin, anchor, 6, state=state)
        chains.append(state.position[0].numpy())
    np.testing.assert_allclose(chains[1], chains[0], rtol=1e-12)
    np.testing.assert_allclose(chains[2], chains[0], rtol=1e-12)


def variances_under_noisy_gradients(sampler, heat):
    """Simulates many copies of three modes, and returns their variances.

    Gradients have the noise of a mini-batch that would add `heat` to the
    temperature, which is 1, of SGHMC. The copies of a mode are independent, so
    their number is the effective sample size.
    """
    copies, step_size = 15_000, 0.05
    curvatures = tf.constant([[0.5], [2.0], [5.0]], tf.float64)
    metric = tf.constant([[1.0], [1.0], [0.5]], tf.float64)
    setting = setting_of(
        step_size=step_size, scope=SCOPE, temperature=1.0, metric=metric
    )
    shape = [3, copies]
    # In units of the metric all modes are heated alike.
    deviation = tf.sqrt(2 * 0.1 * heat / step_size / metric)

    def normal(number, stream):
        return tf.random.stateless_normal(
            shape, tf.stack([number, stream]), dtype=tf.float64
        )

    zeros = tf.zeros(shape, tf.float64)
    slots = sampler.initial_slots([keras.Variable(zeros, dtype="float64")])

    @tf.function
    def simulate():
        memory = sampler.start([zeros], [normal(0, 0)], [setting], slots)

        def step(number, position, memory):
            gradient = curvatures * position + deviation * normal(number, 1)
            moved, memory = sampler.step(
                [position], [gradient], [zeros], [normal(number, 0)],
                memory, [setting],
            )  # fmt: skip
            return number + 1, moved[0], memory

        return tf.while_loop(
            lambda number, *_: number <= 500,
            step,
            (tf.constant(1), zeros, memory),
        )[1]

    found = simulate().numpy().var(axis=1)
    exact = 1 / (curvatures + SCOPE / metric)
    return found / exact.numpy()[:, 0], (2 / copies) ** 0.5


def test_thermostats_take_out_the_heat_of_mini_batches():
    hot, error = variances_under_noisy_gradients(samplers.SGHMC(0.9), heat=1.0)
    assert hot.min() > 1.7
    for sampler in (samplers.SGNHT(0.9), samplers.Santa(0.9)):
        right, _ = variances_under_noisy_gradients(sampler, heat=1.0)
        # And 2 % for the step size.
        assert abs(right - 1).max() < 4.5 * error + 0.02, sampler


def test_thermostats_stay_as_they_are_without_noise():
    for sampler in (samplers.SGNHT(), samplers.Santa()):
        anchor = tf.constant([1.0, -2.0], tf.float64)
        chain = langevin.make_chain(sampler=sampler)
        slots = sampler.initial_slots([keras.Variable(anchor, dtype="float64")])
        state = chain.start([anchor], (slots, ()))
        state = langevin.run(chain, tf.sin, anchor, 3, state=state)
        kept, _ = chain.finish(state)
        np.testing.assert_array_equal(kept[0], slots[0])


class OwnSampler(kinetics.ElementwiseSampler):
    """That of a user who says nothing of the noise's path."""

    def move(self, position, gradient, anchor, noise, memory, setting):
        return position - setting.step_size * gradient, memory


@pytest.mark.parametrize(
    "sampler", ["sgnht", "santa", OwnSampler()], ids=["sgnht", "santa", "own"]
)
def test_subtract_noise_is_refused_where_noise_moves_otherwise(sampler):
    name = type(samplers.get(sampler)).__name__
    message = (
        "`estimator` must be without subtract_noise with the sampler "
        f"{name}, whose noise does not move linearly: take another sampler or "
        "the plain `Displacement()`. "
        "Received: estimator=Displacement(subtract_noise=True)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        entropy_keras.EntropySGD(
            sampler=sampler, estimator=estimators.Displacement(True)
        )


def test_a_displacement_of_perturbations_alone_is_refused():
    with pytest.raises(ValueError, match=r"must be 'mean_gradient'"):
        entropy_keras.EntropySGD(sampler="gaussian_perturbation")


@pytest.mark.parametrize(
    ("sampler", "averaging_rate"),
    [
        (samplers.SGLD(0.0), None),
        (samplers.SGLD(0.9), 0.75),
        (samplers.SplitSGLD(), 0.75),
        (samplers.SplitSGLD(average_noise=True), None),
        (samplers.SGHMC(), 0.75),
    ],
)
def test_subtracting_noise_keeps_the_mean_and_loses_the_variance(
    sampler, averaging_rate
):
    # A network of 4-8-1, tanh, on 32 samples.
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[32, 4]))
    y = tf.sin(x[:, :1])
    anchor = [
        tf.constant(rng.normal(size=[4, 8]) / 2),
        tf.constant(rng.normal(size=[8, 1]) / 3),
    ]

    def gradients(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = tf.tanh(x @ weights[0]) @ weights[1]
            loss = tf.reduce_mean(tf.square(outputs - y))
        return tape.gradient(loss, weights)

    @tf.function
    def estimate(update):
        found = []
        for subtract_noise in (False, True):
            chain = langevin.make_chain(
                sampler=sampler,
                step_size=0.01,
                scope=0.03,
                temperature=1e-4,
                num_variables=2,
                averaging_rate=averaging_rate,
                estimator=estimators.Displacement(subtract_noise),
                update=update,
                compiled=False,
            )
            state = chain.start(anchor)
            for step in range(1, 6):
                moved = gradients(state.position)
                state = chain.advance(state, moved, anchor, step)
            force = chain.entropy_gradient(anchor, state)
            found.append(tf.concat([tf.reshape(f, [-1]) for f in force], 0))
        return tf.stack(found)

    draws = np.stack([estimate(tf.constant(i)) for i in range(200)])
    variances = draws.var(axis=0).sum(axis=-1)
    assert 0 < variances[1] < 0.01 * variances[0]
    # The same expectation: 4.5 standard errors over the 40 weights.
    difference = draws[:, 0] - draws[:, 1]
    error = difference.std(axis=0) / len(draws) ** 0.5
    assert (abs(difference.mean(axis=0)) < 4.5 * error).all()


MODES = {
    "eager": {"run_eagerly": True},
    "graph": {},
    "xla": {"jit_compile": True},
}
PERSISTENT = {
    "sgnht": {"sampler": "sgnht"},
    "santa": {"sampler": "santa", "metric": "rms_gradients"},
    "perturbation": {
        "sampler": entropy_keras.GaussianPerturbation(),
        "metric": "learned",
        "estimator": "mean_gradient",
        "start": "stationary",
    },
    "adam": {
        "sampler": entropy_keras.InnerOptimizer(keras.optimizers.Adam(0.01)),
        "metric": "rms_gradients",
        "estimator": estimators.Displacement(subtract_noise=True),
    },
}


def small_model(mode, arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([5])
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(hidden))
    model.compile(
        entropy_keras.EntropySGD(
            0.5, num_langevin_steps=3, temperature=1e-3, seed=4, **arguments
        ),
        loss="mse",
        **MODES[mode],
    )
    return model


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("xla", "sgnht"),
        ("eager", "santa"),
        ("graph", "adam"),
        pytest.param("graph", "perturbation", marks=pytest.mark.nightly),
    ],
)
def test_what_lasts_is_resumed_bit_for_bit(mode, name, tmp_path):
    x = np.random.default_rng(0).normal(size=[60, 5]).astype("float32")
    arguments = {"batch_size": 10, "shuffle": False, "verbose": 0}
    whole = small_model(mode, PERSISTENT[name])
    whole.fit(x, x[:, :1], epochs=4, **arguments)
    first = small_model(mode, PERSISTENT[name])
    first.fit(x, x[:, :1], epochs=2, **arguments)
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    slots = [v.numpy() for v in second.optimizer.slot_variables]
    second.fit(x, x[:, :1], epochs=4, initial_epoch=2, **arguments)
    for a, b in zip(
        [*whole.get_weights(), *whole.optimizer.slot_variables],
        [*second.get_weights(), *second.optimizer.slot_variables],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # There was something to resume, and it went on.
    for before, after in zip(
        slots, second.optimizer.slot_variables, strict=True
    ):
        assert np.any(before != after.numpy())


def test_relative_steps_leave_biases_alone_and_can_leave_zero():
    rng = np.random.default_rng(0)
    gru = keras.layers.GRU(2)
    gru.build([None, 3, 4])
    zeros = keras.layers.Dense(3, kernel_initializer="zeros")
    zeros.build([None, 2])
    variables = [*gru.trainable_variables, *zeros.trainable_variables]
    weights = [v.numpy() for v in variables]
    weights[2] += rng.normal(size=weights[2].shape)  # GRU's bias, of rank 2
    found = geometry.Relative().diagonal(
        [tf.constant(w) for w in weights], (), variables
    )
    assert [v.name for v in variables].count("bias") == 2
    assert found[2] is None
    assert found[4] is None
    for i in (0, 1):
        np.testing.assert_allclose(
            found[i][0], np.mean(weights[i] ** 2, 0), rtol=1e-6
        )
    np.testing.assert_array_equal(found[3], np.ones([1, 3]))
    # A weight that is not 0 has a relative step, however small it is.
    small = tf.constant([[1e-3, 0.0], [0.0, 0.0]])
    (of_small,) = geometry.Relative().diagonal([small], ())
    np.testing.assert_allclose(of_small, [[5e-7, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("name", ["bias", "beta", "gamma", "kernel"])
def test_biases_and_scales_have_no_relative_metric(name):
    variable = keras.Variable(tf.ones([2, 2]), name=name)
    (metric,) = geometry.Relative().diagonal([tf.ones([2, 2])], (), [variable])
    assert (metric is None) == (name != "kernel")


def test_a_relative_metric_has_a_floor_but_at_zero():
    x = tf.constant([[0.1, 3.0, 0.0]])
    (metric,) = geometry.Relative(floor=0.5).diagonal([x], ())
    np.testing.assert_allclose(metric, [[0.5, 9.0, 1.0]])


def test_a_thermostat_feels_the_heat_of_each_variable():
    settings = [
        samplers.Setting(tf.constant(0.1), tf.constant(1.0), temperature)
        for temperature in (2.0, 0.5)
    ]
    velocity = [tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0])]
    (found,) = samplers.SGNHT().excess(velocity, settings)
    heat = 0.1 * (3 * 2.0 + 1 * 0.5) / 4
    assert float(found) == pytest.approx(18.0 / 4 - heat, rel=1e-6)
