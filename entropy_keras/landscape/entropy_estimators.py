"""Estimators of the local entropy, each with its error and bounds."""

import dataclasses

import numpy as np
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg

from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.hessian import assemble
from entropy_keras.landscape.lanczos import density
from entropy_keras.landscape.mixing import diagnose
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import operator
from entropy_keras.landscape.spectrum import exact

# Least share of independent draws that must count.
_LEAST_SHARE = 0.1
# Error bars and bounds are this many standard errors wide.
_WIDTH = 3.0
_EXACT_HESSIAN_UP_TO = 2000


@dataclasses.dataclass(frozen=True)
class LocalEntropyEstimate:
    """The local entropy less its value for a flat loss, and what bounds it.

    Attributes:
        estimate: The value, in units of the loss; NaN where it is withheld.
        standard_error: Of the estimate; NaN where it is withheld.
        lower_bound: What the value exceeds, less three standard errors.
        upper_bound: What it does not exceed, plus three standard errors.
        method: How it was computed, one of the methods of `local_entropy`. That
            of `"laplace"` is the quadratic approximation, whose distance from
            the value is not known, and not in the standard error.
        effective_sample_size: Independent samples that the draws, or the chains
            of the worst coupling, are worth; NaN for `"laplace"`.
        r_hat: The worst split R-hat of the losses, near 1 where chains agree;
            NaN where there are no chains.
        reason: Why the estimate is withheld; empty if it is not.
    """

    estimate: float
    standard_error: float
    lower_bound: float
    upper_bound: float
    method: str
    effective_sample_size: float
    r_hat: float
    reason: str

    @property
    def converged(self) -> bool:
        """Whether there is an estimate."""
        return not self.reason

    @property
    def error_bar(self) -> float:
        """Three standard errors, to either side."""
        return _WIDTH * self.standard_error


def bounds(
    couplings: np.ndarray,
    losses: np.ndarray,
    errors: np.ndarray,
    valid: np.ndarray,
    minimum_loss: float,
) -> tuple[float, float]:
    """Bounds minus the integral of a falling function by rectangles.

    Args:
        couplings: Ascending from 0 to 1, of shape `[couplings]`.
        losses: Mean losses there.
        errors: Their standard errors.
        valid: Which of them to use.
        minimum_loss: What the function never falls below.

    Returns:
        Lower and upper bound, each three standard errors wider.
    """
    count = len(couplings)
    widths, places = np.diff(couplings), np.arange(count)
    # The last valid coupling to the left of each interval, -1 for none, and
    # the first to the right, `count` for none.
    left = np.maximum.accumulate(np.where(valid, places, -1))[:-1]
    right = np.where(valid, places, count)[::-1]
    right = np.minimum.accumulate(right)[::-1][1:]
    values = -np.array([*losses, minimum_loss, np.inf])
    errors = np.array([*np.where(valid, errors, 0.0), 0.0, 0.0])
    results = []
    for chosen, sign in ((left, -1.0), (right, 1.0)):
        shares = np.bincount(chosen % (count + 2), widths, count + 2)
        error = np.linalg.norm(shares * errors)
        results.append(widths @ values[chosen] + sign * _WIDTH * error)
    return float(results[0]), float(min(results[1], -minimum_loss))


def monte_carlo(
    losses: np.ndarray, plan: Plan, minimum_loss: float
) -> LocalEntropyEstimate:
    """Averages exp(-loss / T) over independent draws.

    Args:
        losses: At draws of the law at coupling 0, of shape `[draws]`.
        plan: What was drawn.
        minimum_loss: What the loss never falls below.

    Returns:
        The estimate, withheld where few draws count.
    """
    losses = losses.astype("float64")
    count = len(losses)
    if not np.isfinite(losses).all():
        return _withheld("monte_carlo", "the loss is not finite", minimum_loss)
    exponents = -losses / plan.temperature
    weights = np.exp(exponents - exponents.max())
    total = weights.sum()
    size = total**2 / (weights**2).sum()
    reason = ""
    if size < _LEAST_SHARE * count:
        reason = (
            f"{count} draws are worth {size:.1f} independent samples, less "
            f"than a share of {_LEAST_SHARE}"
        )
    value = exponents.max() + np.log(total / count)
    error = weights.std() / weights.mean() / np.sqrt(count)
    # The mean loss at coupling 1, by the same draws reweighted.
    reweighted = weights @ losses / total
    spread = np.linalg.norm(weights * (losses - reweighted)) / total
    lower, upper = bounds(
        np.array([0.0, 1.0]),
        np.array([losses.mean(), reweighted]),
        np.array([losses.std() / np.sqrt(count), spread]),
        np.array([True, not reason]),
        minimum_loss,
    )
    return LocalEntropyEstimate(
        np.nan if reason else float(plan.temperature * value),
        np.nan if reason else float(plan.temperature * error),
        lower,
        upper,
        "monte_carlo",
        float(size),
        np.nan,
        reason,
    )


def integrate_coupling(
    chains: Chains,
    draws: np.ndarray,
    plan: Plan,
    num_nodes: int,
    minimum_loss: float,
) -> LocalEntropyEstimate:
    """Integrates the mean loss over the coupling.

    Args:
        chains: Chains at the weights of the model.
        draws: Losses at draws of the law at coupling 0.
        plan: What to sample.
        num_nodes: Nodes of the quadrature.
        minimum_loss: What the loss never falls below.

    Returns:
        The estimate, withheld where a chain did not mix.
    """
    curvature = chains.largest_curvature(plan)
    nodes, weights = plan.quadrature(num_nodes, curvature)
    couplings = np.append(nodes, 1.0)
    step_sizes = plan.step_sizes(couplings, curvature)
    found = diagnose(chains.run(plan, couplings, step_sizes).losses)
    faults = found.faults(step_sizes * couplings * curvature)
    reasons = [
        f"at coupling {coupling:.3g} {fault}"
        for coupling, fault in zip(couplings, faults, strict=True)
        if fault
    ]
    finite = bool(np.isfinite(draws).all())
    draws = draws.astype("float64")
    lower, upper = bounds(
        np.array([0.0, *couplings]),
        np.array([draws.mean(), *found.mean]),
        np.array([draws.std() / np.sqrt(len(draws)), *found.standard_error]),
        np.array([finite, *[not fault for fault in faults]]),
        minimum_loss,
    )
    value = -weights @ found.mean[:-1]
    error = np.linalg.norm(weights * found.standard_error[:-1])
    return LocalEntropyEstimate(
        np.nan if reasons else float(value),
        np.nan if reasons else float(error),
        lower,
        upper,
        "thermodynamic_integration",
        float(found.effective_sample_size.min()),
        float(found.r_hat.max()),
        "; ".join(reasons),
    )


def laplace(
    chains: Chains, draws: np.ndarray, plan: Plan, minimum_loss: float
) -> LocalEntropyEstimate:
    """Returns the local entropy of the quadratic that touches the loss at x.

    Args:
        chains: Whose loss and Hessian to take.
        draws: Losses at draws of the law at coupling 0, for the bound.
        plan: Scope, temperature and seed.
        minimum_loss: What the loss never falls below.

    Returns:
        The quadratic value, withheld where the quadratic has none. The bounds
        are those of the local entropy itself.
    """
    objective = chains.objective
    position, count = objective.position(), objective.num_parameters
    hessian = operator(objective, chains.hessian_product)
    if count <= _EXACT_HESSIAN_UP_TO:
        spectrum = exact(assemble(objective, verbose=0), overwrite=True)
    else:
        spectrum = density(hessian, 100, 4, plan.seed)
    bound = monte_carlo(draws, plan, minimum_loss)
    if spectrum.smallest <= -plan.scope:
        return dataclasses.replace(
            bound,
            method="laplace",
            estimate=np.nan,
            standard_error=np.nan,
            effective_sample_size=np.nan,
            reason=f"the Hessian has the eigenvalue {spectrum.smallest:.3g}, "
            "not above minus the scope",
        )
    gradient = objective.gradient(position).numpy()
    shifted = LinearOperator(
        hessian.shape,
        matvec=lambda vector: hessian.matvec(vector) + plan.scope * vector,
        dtype=objective.dtype,
    )
    solution, unfinished = cg(shifted, gradient, rtol=1e-5)
    volume = spectrum.mean(lambda nodes: np.log1p(nodes / plan.scope))
    half = 0.5 * plan.temperature * count
    value = 0.5 * gradient @ solution - half * volume.value
    return dataclasses.replace(
        bound,
        method="laplace",
        estimate=float(value - objective.value(position)),
        standard_error=half * volume.standard_error,
        effective_sample_size=np.nan,
        reason="conjugate gradients did not converge" if unfinished else "",
    )


def _withheld(
    method: str, reason: str, minimum_loss: float
) -> LocalEntropyEstimate:
    """Returns an estimate of which nothing is known but the smallest loss."""
    return LocalEntropyEstimate(
        np.nan, np.nan, -np.inf, -minimum_loss, method, 0.0, np.nan, reason
    )
