"""A chain with plain settings, for tests to vary, and what it must compute."""

import numpy as np
import tensorflow as tf

from entropy_keras import chain
from entropy_keras import estimators
from entropy_keras import noise
from entropy_keras import samplers


def make_chain(**arguments):
    """Returns a noiseless chain of one float64 variable, unless told else."""
    for scalar in ("step_size", "scope"):
        if scalar in arguments:
            arguments[scalar] = tf.constant(arguments[scalar], tf.float64)
    defaults = {
        "sampler": samplers.SGLD(momentum=0.0),
        "estimator": estimators.Displacement(0.75, scale_by_scope=False),
        "step_size": tf.constant(0.1, tf.float64),
        "scope": tf.constant(0.5, tf.float64),
        "temperature": 0.0,
        "stationary_start": False,
        "seed": 7,
        "update": tf.constant(0),
        "variable_indices": (0,),
    }
    return chain.Chain(**(defaults | arguments))


def draw(shape, dtype, *, variable, **counter):
    """Returns the noise of one variable."""
    (key,) = noise.keys([variable], **counter)
    return noise.standard_normal(shape, dtype, key)


def run(langevin, gradient, anchor, num_steps, state=None):
    """Returns the state after some steps of a chain of one variable."""
    if state is None:
        state = langevin.initial_state([anchor])

    def gradient_function(position, step, carry):
        del step
        return [gradient(position[0])], carry

    return langevin.run(
        state,
        gradient_function,
        [anchor],
        first_step=1,
        last_step=num_steps,
        carry=(),
    )[0]


def displacement_ratio(
    curvature, *, averaging_rate, num_steps, scope, step_size
):
    """Returns r in `anchor - E mean = r * (anchor - <x'>)` on a quadratic.

    Each step without momentum multiplies the distance of the position from the
    equilibrium <x'> by b = 1 - step_size * (curvature + scope). The mean is a
    weighted sum of the positions: (1 - averaging_rate)**L of the anchor and
    averaging_rate * (1 - averaging_rate)**(L - k) of the position after step k.
    """
    b = 1 - step_size * (np.asarray(curvature) + scope)
    steps = np.arange(1, num_steps + 1)
    if averaging_rate is None:
        weights = np.full(num_steps, 1 / num_steps)
    else:
        weights = averaging_rate * (1 - averaging_rate) ** (num_steps - steps)
    remembered = 1 - weights.sum()
    return 1 - remembered - (weights * b[..., None] ** steps).sum(-1)
