"""Presets of other methods against their formulas, written out in NumPy."""

import keras
import numpy as np
import pytest
from test_presets import NUM_STEPS
from test_presets import SEED
from test_presets import _float64  # noqa: F401 (a fixture)
from test_presets import gradient
from test_presets import normal
from test_presets import train

from entropy_keras import presets

PRESETS = [
    presets.lookahead,
    presets.diloco,
    presets.lpf_sgd,
    presets.perturbed_averaging,
    presets.long_loop,
    presets.real_temperature,
]
OURS = {"num_langevin_steps": NUM_STEPS, "seed": SEED}


def assert_moved(actual, expected, start):
    """Compares what was moved; Keras holds constants of a rule in float32."""
    np.testing.assert_allclose(actual - start, expected - start, rtol=1e-6)


@pytest.mark.usefixtures("_float64")
def test_lookahead_goes_half_the_way():
    weights, groups = train(presets.lookahead(**OURS))
    x, velocity = weights[0], 0.0
    for expected, batches in zip(weights[1:], groups, strict=True):
        position = start = x
        for batch in batches:
            velocity = 0.9 * velocity - 0.1 * gradient(position, batch)
            position = position + velocity
        x = x + 0.5 * (position - x)
        assert_moved(x, expected, start)


@pytest.mark.usefixtures("_float64")
def test_a_real_temperature_leaves_its_noise_out_of_the_mean():
    weights, groups = train(presets.real_temperature(**OURS))
    x = weights[0]
    for update, (expected, batches) in enumerate(
        zip(weights[1:], groups, strict=True)
    ):
        position = mean = start = x
        path = velocity = 0.0
        for step, batch in enumerate(batches, 1):
            g = gradient(position, batch)
            noise = np.sqrt(2 * 0.15 * 5e-4) * normal(update, step)
            velocity = 0.9 * velocity - 0.15 * g
            move = 0.9 * velocity - 0.15 * g + noise
            position = position + move - 0.15 * 0.005 * (position - x)
            path = path + noise - 0.15 * 0.005 * path
            mean = 0.25 * mean + 0.75 * (position - path)
        x = x - 0.9 * (x - mean)
        assert_moved(x, expected, start)
        x = expected


@pytest.mark.usefixtures("_float64")
def test_a_long_loop_follows_a_tenth_of_the_gradient_too():
    assert presets.long_loop().minibatches_per_update == 51
    weights, groups = train(presets.long_loop(**OURS))
    x = weights[0]
    for expected, batches in zip(weights[1:], groups, strict=True):
        position = mean = start = x
        velocity = 0.0
        *inner, last = batches
        for batch in inner:
            g = gradient(position, batch)
            velocity = 0.9 * velocity - 0.15 * g
            move = 0.9 * velocity - 0.15 * g - 0.15 * 0.3 * (position - x)
            position = position + move
            mean = 0.25 * mean + 0.75 * position
        x = x - 0.6 * (x - mean + 0.1 * gradient(x, last))
        assert_moved(x, expected, start)


@pytest.mark.usefixtures("_float64")
def test_diloco_is_adamw_inside_and_nesterov_outside():
    weights, groups = train(presets.diloco(**OURS))
    x, outer = weights[0], 0.0
    first = second = count = 0
    for expected, batches in zip(weights[1:], groups, strict=True):
        position = start = x
        for batch in batches:
            g = gradient(position, batch)
            count += 1
            first = 0.9 * first + 0.1 * g
            second = 0.999 * second + 0.001 * g**2
            slow, fast = (float(np.float32(b)) ** count for b in (0.999, 0.9))
            rate = 4e-4 * np.sqrt(1 - slow) / (1 - fast)
            position = position - 4e-4 * 0.1 * position
            # Keras adds its epsilon to the root before the bias correction.
            position = position - rate * first / (np.sqrt(second) + 1e-7)
        difference = x - position
        outer = 0.9 * outer - 0.7 * difference
        x = x + 0.9 * outer - 0.7 * difference
        assert_moved(x, expected, start)


def mean_gradient(x, batches, update, deviation):
    """Starts at a perturbation; that of the last step is of no use."""
    return np.mean(
        [
            gradient(x + deviation * normal(update, step), batch)
            for step, batch in enumerate(batches)
        ],
        axis=0,
    )


@pytest.mark.usefixtures("_float64")
def test_lpf_sgd_perturbs_by_a_share_of_the_weights():
    weights, groups = train(presets.lpf_sgd(**OURS))
    x, velocity = weights[0], 0.0
    for update, batches in enumerate(groups):
        deviation = 0.02 * np.sqrt(np.mean(x**2))
        g = mean_gradient(x, batches, update, deviation)
        velocity = 0.9 * velocity - 0.1 * g
        x = x + velocity
        np.testing.assert_allclose(x, weights[update + 1], rtol=1e-8)


@pytest.mark.usefixtures("_float64")
def test_perturbed_averaging_takes_one_mini_batch():
    optimizer = presets.perturbed_averaging(**OURS)
    assert optimizer.minibatches_per_update == 1
    weights, groups = train(optimizer)
    x = weights[0]
    for update, (batch,) in enumerate(groups):
        g = mean_gradient(x, [batch] * NUM_STEPS, update, 0.01)
        x = x - 0.1 * g
        np.testing.assert_allclose(x, weights[update + 1], rtol=1e-8)


@pytest.mark.parametrize("preset", PRESETS)
def test_overrides_and_outer_optimizers_replace_what_they_name(preset):
    outer = keras.optimizers.Adam(0.02)
    optimizer = preset(num_langevin_steps=2, scope=0.25, outer_optimizer=outer)
    assert optimizer.outer_optimizer is outer
    assert optimizer.num_langevin_steps == 2
    assert optimizer.scope == 0.25
    assert optimizer.sampler == preset().sampler or hasattr(
        optimizer.sampler, "rule"
    )
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
