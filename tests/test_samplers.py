"""One step by hand, and the law of many steps from linear algebra alone."""

import json
import re

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from entropy_keras import samplers

TEMPERATURES = (2.0, 1.0, 1e-8)
SCOPE = 0.5
CURVATURES = np.array([0.1, 1.0, 10.0])
ROTATION = scipy.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
HESSIAN = ROTATION @ np.diag(CURVATURES) @ ROTATION.T


def from_modes(values):
    """Returns a matrix with these eigenvalues and the vectors of HESSIAN."""
    return ROTATION @ np.diag(values) @ ROTATION.T


def setting_of(*, step_size, scope, temperature, metric=None):
    return samplers.Setting(
        tf.constant(step_size, tf.float64),
        tf.constant(scope, tf.float64),
        temperature,
        None if metric is None else tf.constant(metric, tf.float64),
    )


def take_step(
    sampler, position, gradient, anchor, noise, memory=None, **arguments
):
    """Takes one step in float64, in and out of NumPy."""
    setting = setting_of(**arguments)
    position = tf.constant(position, tf.float64)
    noise = None if noise is None else tf.constant(noise, tf.float64)
    if memory is None:
        memory = sampler.begin(position, noise, setting)
    position, memory = sampler.move(
        position,
        tf.constant(gradient, tf.float64),
        tf.constant(anchor, tf.float64),
        noise,
        memory,
        setting,
    )
    return position.numpy(), memory


def linear_map(sampler, hessian, *, center=0.0, anchor=0.0, **arguments):
    """Finds the step `s -> transition s + diffusion noise + offset`.

    The loss is `(x - center)' hessian (x - center) / 2`; `s` holds the position
    and what the sampler remembers.
    """
    size = len(hessian)
    zeros = tf.zeros([size], tf.float64)
    memory = len(sampler.begin(zeros, zeros, setting_of(**arguments)))
    anchor = np.broadcast_to(anchor, [size])

    def step(s, noise):
        parts = np.split(s, 1 + memory)
        position, state = take_step(
            sampler,
            parts[0],
            hessian @ (parts[0] - center),
            anchor,
            noise,
            tuple(tf.constant(part) for part in parts[1:]),
            **arguments,
        )
        return np.concatenate([position, *(part.numpy() for part in state)])

    rest, quiet = np.zeros(size * (1 + memory)), np.zeros(size)
    offset = step(rest, quiet)
    transition = [step(unit, quiet) - offset for unit in np.eye(len(rest))]
    diffusion = [step(rest, unit) - offset for unit in np.eye(size)]
    return np.transpose(transition), np.transpose(diffusion), offset


def stationary_covariance(sampler, hessian, **arguments):
    """Solves S = M S M' + N N' for the covariance of the position."""
    transition, diffusion, offset = linear_map(sampler, hessian, **arguments)
    assert not offset.any()
    covariance = scipy.linalg.solve_discrete_lyapunov(
        transition, diffusion @ diffusion.T
    )
    return covariance[: len(hessian), : len(hessian)]


def mode_variances(sampler, **arguments):
    covariance = stationary_covariance(sampler, HESSIAN, **arguments)
    return np.diag(ROTATION.T @ covariance @ ROTATION)


def assert_equal_matrices(actual, expected, tolerance=1e-10):
    """Compares with the smallest variance, so that each mode counts."""
    scale = np.linalg.eigvalsh(expected).min()
    assert abs(actual - expected).max() < tolerance * scale


def spectral_radius(sampler, hessian, **arguments):
    transition, _, _ = linear_map(sampler, hessian, **arguments)
    return abs(np.linalg.eigvals(transition)).max()


def test_sgld_without_momentum_takes_the_step_by_hand():
    # The deviation is sqrt(2 * 0.5 * 4) = 2:
    # 2 - 0.5 * 1 - 0.5 * 0.25 * (2 - 0.5) + 2 * 3 = 7.3125.
    position, state = take_step(
        samplers.SGLD(momentum=0.0),
        [2.0],
        [1.0],
        [0.5],
        [3.0],
        step_size=0.5,
        scope=0.25,
        temperature=4.0,
    )
    assert position.tolist() == [7.3125]
    assert state == ()


# The velocities are -0.5 * 1 = -0.5 and 0.75 * -0.5 - 0.5 * 2 = -1.375.
@pytest.mark.parametrize(
    ("nesterov", "expected"),
    [
        # move = velocity: 2 - 0.5 - 0.125 * 1.5 + 2 = 3.3125, then
        # 3.3125 - 1.375 - 0.125 * 2.8125 - 2 = -0.4140625.
        (False, [3.3125, -0.4140625]),
        # move = 0.75 * velocity - 0.5 * gradient, so -0.875 and -2.03125:
        # 2 - 0.875 - 0.125 * 1.5 + 2 = 2.9375, then
        # 2.9375 - 2.03125 - 0.125 * 2.4375 - 2 = -1.3984375.
        (True, [2.9375, -1.3984375]),
    ],
)
def test_sgld_with_momentum_takes_two_steps_by_hand(nesterov, expected):
    sampler = samplers.SGLD(momentum=0.75, nesterov=nesterov)
    position, state = [2.0], None
    positions = []
    for gradient, noise in ((1.0, 1.0), (2.0, -1.0)):
        position, state = take_step(
            sampler,
            position,
            [gradient],
            [0.5],
            [noise],
            state,
            step_size=0.5,
            scope=0.25,
            temperature=4.0,
        )
        positions.append(position.item())
    assert positions == expected
    assert state[0].numpy().tolist() == [-1.375]


def test_split_sgld_takes_two_steps_by_hand():
    # With scope ln 2 and step size 1 the decay is 1/2, the gain of the
    # gradient 1 / (2 ln 2) and, at temperature 3 ln 2, the deviation
    # sqrt(3 ln 2 * (1 - 1/4) / ln 2) = 1.5.
    # 1 + (5 - 1) / 2 - 1 + 1.5 * 2 = 5, then 1 + (5 - 1) / 2 - 2 - 1.5 = -0.5.
    sampler, position = samplers.SplitSGLD(), [5.0]
    positions = []
    for gradient, noise in ((2.0, 2.0), (4.0, -1.0)):
        position, state = take_step(
            sampler,
            position,
            [gradient * np.log(2)],
            [1.0],
            [noise],
            step_size=1.0,
            scope=np.log(2),
            temperature=3 * np.log(2),
        )
        positions.append(position.item())
    np.testing.assert_allclose(positions, [5.0, -0.5], rtol=1e-14)
    assert state == ()


@pytest.mark.parametrize(
    "sampler",
    [samplers.SGLD(0.0), samplers.SGLD(0.9), samplers.SplitSGLD()],
    ids=repr,
)
def test_without_noise_a_step_equals_one_with_noise_zero(sampler):
    arguments = {"step_size": 0.3, "scope": 0.7}
    point = ([1.0], [2.0], [-3.0])
    quiet, _ = take_step(sampler, *point, None, **arguments, temperature=0.0)
    zero, _ = take_step(sampler, *point, [0.0], **arguments, temperature=1.0)
    assert quiet == zero


@pytest.mark.parametrize(
    "sampler", [samplers.SGLD(0.0), samplers.SplitSGLD()], ids=repr
)
def test_deviation_does_not_underflow_in_float16(sampler):
    # 2 * step_size * temperature = 2e-11 is 0 in float16, its root is not.
    zero, one = tf.zeros([1], tf.float16), tf.ones([1], tf.float16)
    setting = samplers.Setting(tf.constant(1e-3), tf.constant(0.0), 1e-8)
    position, _ = sampler.move(zero, zero, zero, one, (), setting)
    assert position.dtype == tf.float16
    # The spacing of float16 numbers is 6e-8 there.
    assert position.numpy().item() == pytest.approx(2e-11**0.5, abs=6e-8)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_covariance_of_sgld(temperature):
    # Sigma = s**2 (2 h A - h**2 A**2)^-1 with s**2 = 2 h T, where each step
    # multiplies the deviation by I - h A and A = H + scope I.
    step_size = 0.1
    pull = HESSIAN + SCOPE * np.eye(3)
    expected = temperature * np.linalg.inv(
        pull @ (np.eye(3) - step_size / 2 * pull)
    )
    actual = stationary_covariance(
        samplers.SGLD(momentum=0.0),
        HESSIAN,
        step_size=step_size,
        scope=SCOPE,
        temperature=temperature,
    )
    assert_equal_matrices(actual, expected)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("step_size", "scope"), [(0.1, 0.5), (2.0, 25.0)])
def test_covariance_of_split_sgld(temperature, step_size, scope):
    # A mode of curvature l is multiplied by b = decay - (1 - decay) / scope * l
    # at each step and gains T (1 - decay**2) / scope in variance.
    decay = np.exp(-step_size * scope)
    b = decay - (1 - decay) / scope * CURVATURES
    gained = temperature * (1 - decay**2) / scope
    actual = stationary_covariance(
        samplers.SplitSGLD(),
        HESSIAN,
        step_size=step_size,
        scope=scope,
        temperature=temperature,
    )
    assert_equal_matrices(actual, from_modes(gained / (1 - b**2)))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("step_size", [0.01, 1.0, 100.0])
def test_split_sgld_is_exact_under_a_flat_loss(temperature, step_size):
    # The law of exp(-scope / 2 |x' - x|**2 / T) has variance T / scope.
    actual = stationary_covariance(
        samplers.SplitSGLD(),
        np.zeros((3, 3)),
        step_size=step_size,
        scope=SCOPE,
        temperature=temperature,
    )
    assert_equal_matrices(actual, temperature / SCOPE * np.eye(3))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("sampler", "weight"),
    [
        (samplers.SGLD(momentum=0.0), 1.0),
        (samplers.SplitSGLD(), 1.0),
        # Momentum multiplies the loss by 1 / (1 - momentum), not the pull.
        (samplers.SGLD(0.75, nesterov=False), 4.0),
        (samplers.SGLD(0.75, nesterov=True), 4.0),
    ],
    ids=repr,
)
def test_small_steps_sample_the_gibbs_law(sampler, weight, temperature):
    # The variance of mode l under exp(-(weight f + scope / 2 |x'|**2) / T).
    expected = temperature / (weight * CURVATURES + SCOPE)
    errors = []
    for step_size in (1e-4, 1e-5):
        actual = mode_variances(
            sampler,
            step_size=step_size,
            scope=SCOPE,
            temperature=temperature,
        )
        errors.append(abs(actual / expected - 1))
    # Velocities forget within 1 / (1 - momentum) <= 4 steps, in which the
    # sharpest mode of the weighted loss moves by 4 * 40 * 1e-5 = 1.6e-3.
    assert errors[1].max() < 2e-3
    # The error is of first order in the step size.
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.05)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("sampler", "weight"),
    [
        (samplers.SGLD(momentum=0.0), 1.0),
        (samplers.SplitSGLD(), 1.0),
        (samplers.SGLD(0.75, nesterov=False), 4.0),
        (samplers.SGLD(0.75, nesterov=True), 4.0),
    ],
    ids=repr,
)
def test_mean_of_the_chain_at_any_temperature(sampler, weight, temperature):
    # The Gibbs law of a quadratic is normal around its minimum, where
    # weight H (x' - a) + scope (x' - x) = 0, whatever the temperature.
    center, anchor = np.array([1.0, -2.0, 3.0]), np.array([0.5, 4.0, -1.0])
    hessian = weight * HESSIAN
    expected = np.linalg.solve(
        hessian + SCOPE * np.eye(3), hessian @ center + SCOPE * anchor
    )
    transition, _, offset = linear_map(
        sampler,
        HESSIAN,
        center=center,
        anchor=anchor,
        step_size=0.1,
        scope=SCOPE,
        temperature=temperature,
    )
    mean = np.linalg.solve(np.eye(len(transition)) - transition, offset)[:3]
    np.testing.assert_allclose(mean, expected, rtol=1e-10)


def test_split_sgld_tends_to_sgld_as_the_pull_vanishes():
    errors = []
    for scope in (1e-4, 1e-5):
        arguments = {"step_size": 0.1, "scope": scope, "temperature": 1.0}
        maps = [
            linear_map(s, HESSIAN, center=[1.0, 2.0, 3.0], **arguments)
            for s in (samplers.SplitSGLD(), samplers.SGLD(momentum=0.0))
        ]
        errors.append([
            abs(a - b).max() / abs(b).max() for a, b in zip(*maps, strict=True)
        ])
    # Transition, diffusion and offset differ by less than step_size * scope,
    # in first order for what the gradient and the noise are multiplied with.
    assert np.max(errors[1]) < 1e-6
    assert np.min(errors[1]) > 0
    np.testing.assert_allclose(np.divide(errors[0], errors[1]), 10, rtol=1e-3)


def test_split_sgld_is_stable_where_sgld_is_not():
    # scope * step_size = 50: a step leaves exp(-50) of the distance to the
    # anchor and moves by gradient / scope, a factor of -10 / 25 on the
    # sharpest mode. SGLD multiplies it by 1 - 2 * (10 + 25) = -69.
    arguments = {"step_size": 2.0, "scope": 25.0, "temperature": 1.0}
    split = spectral_radius(samplers.SplitSGLD(), HESSIAN, **arguments)
    plain = spectral_radius(samplers.SGLD(momentum=0.0), HESSIAN, **arguments)
    assert split == pytest.approx(0.4, rel=1e-10)
    assert plain == pytest.approx(69, rel=1e-10)


@pytest.mark.parametrize("noise", [None, [1.5]])
def test_split_sgld_without_scope_is_plain_langevin(noise):
    # 2 - 0.25 * 3 = 1.25, and the deviation is sqrt(2 * 0.25 * 8) = 2.
    expected = 1.25 if noise is None else 1.25 + 2 * 1.5
    position, _ = take_step(
        samplers.SplitSGLD(),
        [2.0],
        [3.0],
        [7.0],
        noise,
        step_size=0.25,
        scope=0.0,
        temperature=0.0 if noise is None else 8.0,
    )
    assert position.item() == expected


@pytest.mark.parametrize("scope", [20.0, 500.0])
def test_sgld_refuses_a_pull_that_diverges(scope):
    message = (
        "`langevin_learning_rate` times `scope` must stay below 2, or the "
        "inner loop of the SGLD sampler diverges: lower one of them, cap the "
        "schedule of the scope, or use sampler='split_sgld', which is stable "
        "for every scope. "
        f"Received: langevin_learning_rate=0.1, scope={scope}"
    )
    for sampler in (samplers.SGLD(momentum=0.0), samplers.SGLD(momentum=0.9)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sampler.check_stability(0.1, scope)


def test_stable_pulls_are_accepted():
    # The flat mode is multiplied by 1 - 1.99 there: it still shrinks.
    samplers.SGLD().check_stability(0.1, 19.9)
    samplers.SplitSGLD().check_stability(0.1, 500.0)


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.SGLD(),
        samplers.SGLD(momentum=0.0),
        samplers.SGLD(momentum=0.5, nesterov=False),
        samplers.SplitSGLD(),
    ],
    ids=repr,
)
def test_config_round_trip(sampler):
    config = keras.saving.serialize_keras_object(sampler)
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert restored == sampler
    name = type(sampler).__name__
    assert config["registered_name"] == f"entropy_keras>{name}"


def test_get_returns_what_a_name_stands_for():
    assert samplers.get("sgld") == samplers.SGLD(momentum=0.9, nesterov=True)
    assert samplers.get("split_sgld") == samplers.SplitSGLD()
    sampler = samplers.SGLD(momentum=0.3)
    assert samplers.get(sampler) is sampler


@pytest.mark.parametrize("sampler", ["adam", "SGLD", None, samplers.SGLD])
def test_get_refuses_what_is_not_a_sampler(sampler):
    message = (
        f"`sampler` must be a `Sampler` or one of {sorted(samplers.NAMES)}. "
        f"Received: sampler={sampler!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        samplers.get(sampler)


@pytest.mark.parametrize(
    "momentum", [-0.1, 1.0, 1.5, float("nan"), True, "0.9", None]
)
def test_sgld_refuses_a_momentum_out_of_range(momentum):
    message = (
        f"`momentum` must be a float in [0, 1). Received: momentum={momentum}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        samplers.SGLD(momentum=momentum)
