"""What the estimators estimate: closed forms, and quadrature."""

import dataclasses

import langevin
import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import samplers

CURVATURES = np.array([0.0, 0.01, 0.1, 1.0, 10.0])
CENTER = np.array([7.0, 1.0, -2.0, 3.0, 0.5])
ANCHOR = np.array([1.0, 0.5, 2.0, -1.0, 0.25])
# averaging_rate, num_steps, scope, step_size
SETTINGS = {
    "paper_mnistfc": (0.9, 5, 1.0, 1e-4),
    "paper_lenet": (0.9, 20, 0.1, 1e-4),
    "paper_cifar": (0.9, 20, 0.03, 0.01),
    "published": (0.75, 20, 0.03, 0.1),
    "released": (0.25, 20, 1e-4, 0.1),
    "near_equilibrium": (0.1, 200, 0.5, 0.1),
    "last_sample": (1.0, 7, 0.5, 0.1),
    "one_step": (0.75, 1, 0.5, 0.1),
    "plain_mean": (None, 20, 0.5, 0.1),
    "plain_mean_one_step": (None, 1, 0.5, 0.1),
}


def run_on_quadratic(num_steps, scope, step_size, **arguments):
    """Returns the estimate on `sum(curvature * (x - center)**2) / 2`."""
    chain = langevin.make_chain(step_size=step_size, scope=scope, **arguments)
    anchor = tf.constant(ANCHOR)
    state = langevin.run(
        chain, lambda x: CURVATURES * (x - CENTER), anchor, num_steps
    )
    return chain.entropy_gradient([anchor], state)[0].numpy()


def displacement_in_equilibrium(scope):
    # <x'> = (curvature * center + scope * anchor) / (curvature + scope).
    return ANCHOR - (CURVATURES * CENTER + scope * ANCHOR) / (
        CURVATURES + scope
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_displacement_of_a_quadratic(name):
    averaging_rate, num_steps, scope, step_size = SETTINGS[name]
    ratio = langevin.displacement_ratio(
        CURVATURES,
        averaging_rate=averaging_rate,
        num_steps=num_steps,
        scope=scope,
        step_size=step_size,
    )
    actual = run_on_quadratic(
        num_steps, scope, step_size, averaging_rate=averaging_rate
    )
    expected = ratio * displacement_in_equilibrium(scope)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=0)


# The values of r that are known for the paper's settings, to two digits.
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("paper_mnistfc", [4.9e-4, 9.8e-4, 5.4e-3]),
        ("paper_lenet", [2.2e-4, 2.2e-3, 2.0e-2]),
        ("paper_cifar", [7.9e-3, 0.19, 0.88]),
    ],
)
def test_the_closed_form_has_the_known_values(name, known):
    averaging_rate, num_steps, scope, step_size = SETTINGS[name]
    ratio = langevin.displacement_ratio(
        [0.01, 1.0, 10.0],
        averaging_rate=averaging_rate,
        num_steps=num_steps,
        scope=scope,
        step_size=step_size,
    )
    np.testing.assert_allclose(ratio, known, rtol=0.03)


def test_scale_by_scope_multiplies_the_displacement():
    plain, scaled = (
        run_on_quadratic(5, 0.25, 0.1, scale_by_scope=scale)
        for scale in (False, True)
    )
    np.testing.assert_array_equal(scaled, 0.25 * plain)


def test_averaging_rate_weighs_the_new_sample():
    # From 0, samples 1 and 2: 0.75 * 1 = 0.75, 0.25 * 0.75 + 0.75 * 2 = 1.6875.
    # Were it the weight of the old mean, they would be 0.25 and 1.5625.
    estimator = estimators.Displacement()
    mean = estimator.initial_mean([tf.constant(0.0)])
    means = []
    for step, position in enumerate((1.0, 2.0), start=1):
        mean = estimator.update_mean(
            mean,
            [tf.constant(position)],
            [tf.constant(100.0)],
            tf.constant(step),
            0.75,
        )
        means.append(float(mean[0]))
    assert means == [0.75, 1.6875]


@pytest.mark.parametrize(
    ("estimator", "factor", "expected"),
    [
        # The plain mean of the positions 10, 13, 4 is 9, and 5 - 9 = -4.
        (estimators.Displacement(), None, -4.0),
        # (5 - 9) * scope 0.5.
        (estimators.Displacement(), 0.5, -2.0),
        # The mean of the gradients 1, 4, -2, whatever the scope.
        (estimators.MeanGradient(), 0.5, 1.0),
    ],
)
def test_plain_means_by_hand(estimator, factor, expected):
    anchor = [tf.constant(5.0)]
    mean = estimator.initial_mean(anchor)
    samples = ((10.0, 1.0), (13.0, 4.0), (4.0, -2.0))
    for step, (position, gradient) in enumerate(samples, start=1):
        mean = estimator.update_mean(
            mean,
            [tf.constant(position)],
            [tf.constant(gradient)],
            tf.constant(step),
            None,
        )
    (result,) = estimator.entropy_gradient(anchor, mean, [factor])
    assert float(result) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_mean_gradient_of_a_quadratic(num_steps):
    # Before step k the position is b**(k - 1) of its initial distance from <x'>
    # away, where b = 1 - step_size * (curvature + scope). The gradient at <x'>
    # is scope * (anchor - <x'>).
    scope, step_size = 0.5, 0.1
    distance = displacement_in_equilibrium(scope)
    b = 1 - step_size * (CURVATURES[:, None] + scope)
    excess = (b ** np.arange(num_steps)).mean(1)
    expected = (scope + CURVATURES * excess) * distance
    actual = run_on_quadratic(
        num_steps, scope, step_size, estimator=estimators.MeanGradient()
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_estimators_agree_in_equilibrium_from_opposite_sides():
    scope, step_size = 0.5, 0.1
    curved = CURVATURES > 0  # both are exactly 0 where the loss is flat
    exact = scope * displacement_in_equilibrium(scope)

    def ratios(num_steps, averaging_rate):
        for estimator in (
            estimators.Displacement(),
            estimators.MeanGradient(),
        ):
            found = run_on_quadratic(
                num_steps,
                scope,
                step_size,
                estimator=estimator,
                averaging_rate=averaging_rate,
                scale_by_scope=True,
            )
            assert found[~curved] == 0
            yield found[curved] / exact[curved]

    below, above = ratios(5, 0.75)
    assert below.max() < 1 < above.min()
    # 500 steps leave at most (1 - 0.1 * 0.5)**500 < 1e-11 of any distance. The
    # mean of the gradients forgets its start as 1 / num_steps: the excess is
    # curvature / scope / (500 * 0.1 * (curvature + scope)), below 0.04.
    displacement, gradient = ratios(500, 0.1)
    np.testing.assert_allclose(displacement, 1, rtol=1e-10)
    np.testing.assert_allclose(gradient, 1, rtol=0.04)


def skewed_gradient(x):
    """Returns that of `f(x) = 2 * log(1 + exp(3 x)) - x`."""
    return 6 * tf.sigmoid(3 * x) - 1


def gibbs_mean(function, anchor, scope, temperature):
    """Integrates a function over exp(-(f + scope / 2 (x' - x)**2) / T)."""

    def density(x):
        energy = 2 * np.logaddexp(0, 3 * x) - x + scope / 2 * (x - anchor) ** 2
        return np.exp(-energy / temperature)

    def integral(integrand):
        return scipy.integrate.quad(integrand, -12, 12, epsabs=1e-12)[0]

    return integral(lambda x: function(x) * density(x)) / integral(density)


# The law of the discretised chain is off by `order * step_size`, found by
# iterating its transition density on a grid.
@pytest.mark.parametrize(("temperature", "order"), [(1.0, 0.13), (0.25, 0.05)])
def test_both_estimators_equal_quadrature(temperature, order):
    scope, at, step_size, num_chains = 1.0, -1.0, 0.02, 10000

    def exact(temperature):
        mean = gibbs_mean(lambda x: x, at, scope, temperature)
        return scope * (at - mean)

    expected = exact(temperature)
    mean_gradient = gibbs_mean(
        lambda x: 6 / (1 + np.exp(-3 * x)) - 1, at, scope, temperature
    )
    assert mean_gradient == pytest.approx(expected, rel=1e-8)

    chain = langevin.make_chain(
        sampler=samplers.SplitSGLD(),
        step_size=step_size,
        scope=scope,
        temperature=temperature,
        stationary_start=True,
        averaging_rate=None,
        scale_by_scope=True,
    )
    anchor = tf.fill([num_chains], tf.constant(at, tf.float64))
    # Relaxation takes 1 / (scope + f'') < 1 / 1.8, or 28 steps, from a start
    # that is off by the displacement: exp(-7) of it is left.
    burnt = langevin.run(chain, skewed_gradient, anchor, 200)
    for estimator in (
        estimators.Displacement(),
        estimators.MeanGradient(),
    ):
        chain = dataclasses.replace(
            chain,
            estimator=estimator,
            noise=chain.noise._replace(update=tf.constant(1)),
        )
        state = chain.start([anchor])._replace(position=burnt.position)
        state = langevin.run(chain, skewed_gradient, anchor, 100, state=state)
        values = chain.entropy_gradient([anchor], state)[0].numpy()
        error = values.std() / num_chains**0.5
        tolerance = order * step_size + 4 * error
        assert abs(values.mean() - expected) < tolerance
        # It would notice half or twice the temperature.
        for other in (exact(temperature / 2), exact(temperature * 2)):
            assert abs(other - expected) > 2 * tolerance
