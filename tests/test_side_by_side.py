"""Chains in one tensor are what each would be by itself."""

import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import samplers
from entropy_keras.side_by_side import SideBySide

STEP_SIZES = np.array([[0.1], [0.3]])


def run(sampler, rows, step_sizes):
    """Returns positions and memory after three steps on a quadratic."""
    settings = [
        samplers.Setting(
            tf.constant(step_sizes, tf.float64),
            tf.constant(0.5, tf.float64),
            tf.constant(0.7, tf.float64),
            tf.constant([1.0, 2.0, 0.5], tf.float64),
        )
    ]

    def noise(step):
        draws = np.random.default_rng(step).normal(size=[2, 3])
        return [tf.constant(draws[rows])]

    anchor = [tf.zeros_like(noise(0)[0])]
    position = noise(0)
    slots = sampler.initial_slots(position)
    memory = sampler.start(position, noise(1), settings, slots)
    for step in (2, 3, 4):
        gradients = [1.5 * position[0]]
        position, memory = sampler.step(
            position, gradients, anchor, noise(step), memory, settings
        )
    return position[0].numpy(), tf.nest.flatten(memory)


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.SplitSGLD(average_noise=True),
        samplers.SGHMC(),
        samplers.SGNHT(thermostat_rate=3.0),
        samplers.Santa(thermostat_rate=3.0),
    ],
)
def test_each_row_is_a_chain(sampler):
    together, memory = run(SideBySide(sampler), slice(None), STEP_SIZES)
    for row in (0, 1):
        alone, own = run(sampler, row, STEP_SIZES[row, 0])
        np.testing.assert_allclose(together[row], alone, rtol=1e-12)
        for kept, expected in zip(memory, own, strict=True):
            np.testing.assert_allclose(kept[row], expected, rtol=1e-12)


def test_a_law_that_is_another_is_known():
    known = {name: samplers.get(name) for name in samplers.NAMES}
    other = {n for n, s in known.items() if not s.samples_gibbs_law}
    assert other == {"sgld", "gaussian_perturbation"}
    assert samplers.SGLD(momentum=0.0).samples_gibbs_law
    assert not entropy_keras.InnerOptimizer.samples_gibbs_law
