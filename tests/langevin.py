"""A chain with plain settings, for tests to vary, and what it must compute."""

import functools

import numpy as np
import tensorflow as tf

from entropy_keras import chain
from entropy_keras import estimators
from entropy_keras import noise
from entropy_keras import samplers


def make_chain(
    *,
    step_size=0.1,
    scope=0.5,
    temperature=0.0,
    num_variables=1,
    metric=None,
    seed=7,
    update=0,
    replica=0,
    **arguments,
):
    """Returns a noiseless chain of float64 variables, unless told else."""
    setting = samplers.Setting(
        tf.constant(step_size, tf.float64),
        tf.constant(scope, tf.float64),
        temperature,
        metric,
    )
    defaults = {
        "sampler": samplers.SGLD(momentum=0.0),
        "settings": [setting] * num_variables,
        "noise": chain.Noise(seed, tf.convert_to_tensor(update), replica),
        "estimator": estimators.Displacement(),
        "averaging_rate": 0.75,
    }
    return chain.Chain(**(defaults | arguments))


def draw(shape, dtype, *, variable, **counter):
    """Returns the noise of one variable."""
    (key,) = noise.keys([variable], **counter)
    return noise.standard_normal(shape, dtype, key)


@functools.cache
def compiled_draws(shapes, dtype, seed, stream):
    """Returns a function of update and step to the noise of all variables."""

    @tf.function(reduce_retracing=True)
    def draws(update, step):
        return [
            draw(
                shape, dtype, variable=i, seed=seed, update=update, step=step,
                stream=stream,
            )
            for i, shape in enumerate(shapes)
        ]  # fmt: skip

    return lambda update, step: [
        d.numpy().astype("float64")
        for d in draws(tf.constant(update), tf.constant(step))
    ]


def run(langevin, gradient, anchor, num_steps, state=None):
    """Returns the state after some steps of a chain of one variable."""
    if state is None:
        state = langevin.start([anchor])

    def step(number, *state):
        state = chain.State(*state)
        gradients = [gradient(state.position[0])]
        return number + 1, *langevin.advance(state, gradients, [anchor], number)

    @tf.function
    def loop(state):
        _, *state = tf.while_loop(
            lambda number, *_: number <= num_steps,
            step,
            (tf.constant(1), *state),
        )
        return chain.State(*state)

    return loop(state)


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
