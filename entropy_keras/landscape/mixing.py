"""Whether chains have mixed, and what their means are worth."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

# What the chains must reach before their mean is trusted.
_LARGEST_R_HAT = 1.2
_FEWEST_SAMPLES = 50


class Diagnosis(NamedTuple):
    """Means of the losses at each coupling, and whether to trust them.

    Attributes:
        mean: Of shape `[couplings]`, as the others.
        standard_error: Of the means.
        effective_sample_size: Independent samples that the chains are worth.
        r_hat: Split R-hat of ranks: the deviation within all half chains
            together over that within each, 1 where they agree.
        faults: What is wrong at each coupling, empty where nothing is.
    """

    mean: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    r_hat: np.ndarray
    faults: list[str]


def diagnose(losses: np.ndarray, rates: np.ndarray) -> Diagnosis:
    """Returns means of chains and how far they can be trusted.

    Args:
        losses: Of shape `[steps, chains, couplings]`.
        rates: Step size times coupling times largest curvature, of shape
            `[couplings]`.

    Returns:
        The diagnosis. A constant counts as well mixed.

    References:
        Vehtari et al., "Rank-normalization, folding, and localization: an
        improved R-hat", 2021. Without ranks, a chain that grows exponentially
        is one outlier at its end, and looks well mixed.
    """
    losses = losses.astype("float64")
    with np.errstate(invalid="ignore"):  # Chains that diverged: NaN, said so.
        mean, variance = losses.mean((0, 1)), losses.var((0, 1))
        distances = np.abs(losses - np.median(losses, (0, 1)))
    size, _ = _size_and_r_hat(losses)
    r_hat = np.maximum(
        *(_size_and_r_hat(_normal_scores(x))[1] for x in (losses, distances))
    )
    total = losses.shape[0] * losses.shape[1]
    constant = variance <= (np.finfo("float32").eps * mean) ** 2
    size = np.where(constant, total, np.minimum(size, total))
    r_hat = np.where(constant, 1.0, r_hat)
    faults = [
        _fault(*row) for row in zip(mean, size, r_hat, rates, strict=True)
    ]
    return Diagnosis(mean, np.sqrt(variance / size), size, r_hat, faults)


def _fault(mean: float, size: float, r_hat: float, rate: float) -> str:
    """Returns what is wrong with a mean of chains, or nothing."""
    if not np.isfinite(mean):
        return "the loss is not finite"
    if not rate < 1.0:
        return f"step size times curvature is {rate:.3g}, not below 1"
    if not r_hat <= _LARGEST_R_HAT:
        return f"split R-hat is {r_hat:.3g}, above {_LARGEST_R_HAT}"
    if not size >= _FEWEST_SAMPLES:
        return (
            f"the chains are worth {size:.0f} independent samples, fewer than "
            f"{_FEWEST_SAMPLES}"
        )
    return ""


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Returns the normal quantiles of ranks, at each coupling."""
    count = values.shape[0] * values.shape[1]
    ranks = stats.rankdata(values.reshape(count, -1), axis=0)
    return stats.norm.ppf((ranks - 0.375) / (count + 0.25)).reshape(
        values.shape
    )


@tf.function(
    input_signature=[tf.TensorSpec([None, None, None], tf.float64)],
    autograph=False,
)
def _tfp_diagnostics(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return (
        tfp.mcmc.effective_sample_size(
            values, filter_beyond_positive_pairs=True, cross_chain_dims=1
        ),
        tfp.mcmc.potential_scale_reduction(
            values, independent_chain_ndims=1, split_chains=True
        ),
    )


def _size_and_r_hat(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size, r_hat = _tfp_diagnostics(values)
    return size.numpy(), r_hat.numpy()
