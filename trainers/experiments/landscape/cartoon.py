"""The cartoon of figure 2: a wide and a deeper, sharp valley of one weight."""

from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import estimators
from entropy_keras import landscape
from entropy_keras import samplers

WIDE, SHARP = -2.0, 3.0
# Curvature at the bottom of the sharp valley, depth over squared width.
_LARGEST_CURVATURE = 6.0 / 0.05**2


class Sampled(NamedTuple):
    """Local entropies that chains found, less that of a flat loss.

    Attributes:
        value: One per position.
        error: Standard errors, from the spread between chains.
    """

    value: np.ndarray
    error: np.ndarray


def loss(x: Any) -> Any:
    """Returns the loss: a wide valley at -2 and a sharp, deeper one at 3.

    Args:
        x: The weight, a tensor or array of any shape.

    Returns:
        Losses, a tensor of that shape.

    Example:
    >>> loss(np.array([-2.0, 3.0])).numpy().round(2)
    array([2.08, 0.08])
    """
    wide = 4.0 * tf.exp(-0.5 * (x - WIDE) ** 2)
    sharp = 6.0 * tf.exp(-0.5 * _LARGEST_CURVATURE / 6.0 * (x - SHARP) ** 2)
    return 6.0 - wide - sharp + 0.002 * (x - 0.5) ** 4


def integrate(
    x: np.ndarray, scope: float, temperature: float
) -> landscape.LocalEntropy:
    """Returns the local entropy by quadrature, less that of a flat loss.

    Args:
        x: Positions, of shape `[m]`.
        scope: The scope, positive.
        temperature: The temperature, positive.

    Returns:
        Value, gradient and Hessian, each of shape `[m]`.

    Example:
    >>> entropy = integrate(np.array([WIDE, SHARP]), 10.0, temperature=1.0)
    >>> int(entropy.value.argmax())  # -F is smaller in the wide valley
    0
    """
    narrowest = np.sqrt(temperature / (_LARGEST_CURVATURE + scope))
    reach = 7.0 * np.sqrt(temperature / scope)
    low, high = x.min() - reach, x.max() + reach
    count = int((high - low) / min(0.5 * narrowest, 0.01)) + 2
    entropy = landscape.local_entropy_1d(
        loss, x, scope, temperature, grid=np.linspace(low, high, count)
    )
    flat = landscape.flat_local_entropy(1, scope, temperature)
    return entropy._replace(value=entropy.value - flat)


def sample(
    x: np.ndarray,
    scope: float,
    temperature: float,
    *,
    num_chains: int,
    num_steps: int,
    step_size: float,
    num_couplings: int = 8,
    seed: int = 0,
) -> Sampled:
    """Returns the same as `integrate`, by chains.

    The chains of the optimizer, with `SplitSGLD(average_noise=True)`, sample
    `exp(-(s f(x') + scope/2 |x - x'|**2) / T)` for couplings s between 0 and 1;
    F is minus the integral of their mean loss over s. Each starts from its law
    at coupling 0, and its first quarter is discarded.

    Args:
        x: Positions, of shape `[m]`.
        scope: The scope, positive.
        temperature: The temperature, positive.
        num_chains: Chains per position and coupling, at least 2.
        num_steps: Steps of each, at most 65,535.
        step_size: Step size; it must stay below 2 / 2400, the inverse of the
            largest curvature times 2, for chains not to leave the sharp valley.
        num_couplings: Nodes of the integral over s.
        seed: Seed of the noise.

    Returns:
        Values with standard errors.

    Example:
    >>> sampled = sample(
    ...     np.array([WIDE]), 30.0, 1.0, num_chains=8, num_steps=400,
    ...     step_size=2e-3,
    ... )
    >>> exact = integrate(np.array([WIDE]), 30.0, 1.0)
    >>> bool(abs(sampled.value - exact.value) < 0.2)
    True
    """
    nodes, weights = np.polynomial.legendre.leggauss(num_couplings)
    nodes, weights = (nodes + 1.0) / 2.0, weights / 2.0
    # The mean loss changes fastest at small s = node**3.
    weights = 3.0 * nodes**2 * weights
    losses = _mean_losses(
        tf.tile(tf.constant(x)[None, None], [num_couplings, num_chains, 1]),
        tf.constant(nodes**3)[:, None, None],
        tf.constant(scope, tf.float64),
        tf.constant(temperature, tf.float64),
        tf.constant(step_size, tf.float64),
        tf.constant(num_steps),
        seed,
    )
    values = -np.einsum("s,scm->cm", weights, losses)
    return Sampled(
        values.mean(axis=0),
        values.std(axis=0, ddof=1) / np.sqrt(num_chains),
    )


@tf.function(autograph=False)
def _mean_losses(
    anchor: tf.Tensor,
    couplings: tf.Tensor,
    scope: tf.Tensor,
    temperature: tf.Tensor,
    step_size: tf.Tensor,
    num_steps: tf.Tensor,
    seed: int,
) -> tf.Tensor:
    """Returns the mean loss along each chain after its first quarter."""
    chain = chain_lib.Chain(
        samplers.SplitSGLD(average_noise=True),
        [samplers.Setting(step_size, scope, temperature)],
        chain_lib.Noise(seed, tf.constant(0)),
        estimators.Nothing(),
        stationary_start=True,
        compiled=False,
    )
    num_discarded = num_steps // 4

    def body(
        step: tf.Tensor, state: chain_lib.State, total: tf.Tensor
    ) -> tuple[tf.Tensor, chain_lib.State, tf.Tensor]:
        (position,) = state.position
        with tf.GradientTape() as tape:
            tape.watch(position)
            value = loss(position)
        gradient = couplings * tape.gradient(value, position)
        total += tf.cast(step > num_discarded, value.dtype) * value
        state = chain.advance(state, [gradient], [anchor], step)
        return step + 1, state, total

    *_, total = tf.while_loop(
        lambda step, *_: step <= num_steps,
        body,
        (tf.constant(1), chain.start([anchor]), tf.zeros_like(anchor)),
    )
    return total / tf.cast(num_steps - num_discarded, total.dtype)
