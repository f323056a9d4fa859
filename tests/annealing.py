"""Annealed importance sampling, for local entropies without closed form.

Between the normal law about the weights and the Gibbs law lie 1,000 steps, each
followed by a Metropolis-adjusted Langevin step. The mean of the importance
weights is the ratio of the normalizers, without bias, however well the chains
mix: its spread over independent chains is its error.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp


def annealed_importance(
    loss, anchor, scope, temperature, *, step_size, num_chains=400
):
    """Returns the local entropy less that of a flat loss, and its error.

    The loss maps positions of shape `[chains, n]` to `[chains]`, in float64.
    """
    anchor = tf.constant(anchor, tf.float64)

    def start_exponent(positions):
        squares = tf.reduce_sum((positions - anchor) ** 2, axis=-1)
        return -0.5 * scope / temperature * squares

    def end_exponent(positions):
        return start_exponent(positions) - loss(positions) / temperature

    @tf.function(autograph=False)
    def exponents():
        normal = tf.random.stateless_normal(
            [num_chains, len(anchor)], [0, 1], dtype=tf.float64
        )
        _, exponents, _ = tfp.mcmc.sample_annealed_importance_chain(
            1000,
            start_exponent,
            end_exponent,
            anchor + np.sqrt(temperature / scope) * normal,
            lambda exponent: tfp.mcmc.MetropolisAdjustedLangevinAlgorithm(
                exponent, step_size=step_size
            ),
            seed=[0, 2],
        )
        return exponents

    found = exponents().numpy()
    weights = np.exp(found - found.max())
    value = found.max() + np.log(weights.mean())
    error = weights.std() / weights.mean() / np.sqrt(num_chains)
    return temperature * value, temperature * error
