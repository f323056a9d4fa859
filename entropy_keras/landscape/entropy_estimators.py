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

    Example:
    >>> from entropy_keras import landscape
    >>> found = landscape.LocalEntropyEstimate(
    ...     -2.0, 0.5, -4.0, -1.0, "laplace", np.nan, np.nan, reason=""
    ... )
    >>> found.converged, found.error_bar
    (True, 1.5)
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
    minimum_loss: float,
) -> tuple[float, float]:
    """Bounds minus the integral of a falling function by rectangles.

    Args:
        couplings: Where the function is known: ascending, from 0 to 1, of shape
            `[couplings]`, perhaps none.
        losses: Its values there.
        errors: Their standard errors.
        minimum_loss: What the function never falls below.

    Returns:
        Lower and upper bound, each three standard errors wider.
    """
    # From each value to the next the function lies below it, ...
    widths = np.diff([*couplings, 1.0])
    lower = -widths @ losses - _WIDTH * np.linalg.norm(widths * errors)
    # ... and from the one before, above it.
    widths = np.diff([0.0, *couplings])
    upper = -widths @ losses + _WIDTH * np.linalg.norm(widths * errors)
    upper -= (1.0 - widths.sum()) * minimum_loss
    known = len(couplings) > 0 and couplings[0] == 0.0
    return float(lower) if known else -np.inf, float(min(upper, -minimum_loss))


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
        reason, limits = "the loss is not finite", (-np.inf, -minimum_loss)
        return _estimate(0, 0, limits, "monte_carlo", 0, np.nan, reason)
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
    known = slice(1 if reason else 2)
    limits = bounds(
        np.array([0.0, 1.0])[known],
        np.array([losses.mean(), reweighted])[known],
        np.array([losses.std() / np.sqrt(count), spread])[known],
        minimum_loss,
    )
    value, error = plan.temperature * value, plan.temperature * error
    return _estimate(value, error, limits, "monte_carlo", size, np.nan, reason)


def importance(
    losses: np.ndarray, plan: Plan, minimum_loss: float
) -> LocalEntropyEstimate:
    """Averages exp(-loss / T) over draws of a Gaussian that fits the loss.

    Args:
        losses: What `excess_losses` returns.
        plan: What was drawn.
        minimum_loss: What the loss never falls below.

    Returns:
        The estimate, withheld where few draws count.
    """
    found = monte_carlo(losses, plan, minimum_loss)
    # Where the Gaussian fits exactly nothing but rounding is left.
    rounding = np.finfo("float32").eps * np.abs(losses).max()
    return dataclasses.replace(
        found,
        method="importance_sampling",
        standard_error=float(np.hypot(found.standard_error, rounding)),
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
    found = diagnose(
        chains.run(plan, couplings, step_sizes).losses,
        step_sizes * couplings * curvature,
    )
    reasons = [
        f"at coupling {coupling:.3g} {fault}"
        for coupling, fault in zip(couplings, found.faults, strict=True)
        if fault
    ]
    draws = draws.astype("float64")
    error = draws.std() / np.sqrt(len(draws))
    known = [bool(np.isfinite(draws).all()), *(not f for f in found.faults)]
    limits = bounds(
        np.array([0.0, *couplings])[known],
        np.array([draws.mean(), *found.mean])[known],
        np.array([error, *found.standard_error])[known],
        minimum_loss,
    )
    return _estimate(
        -weights @ found.mean[:-1],
        float(np.linalg.norm(weights * found.standard_error[:-1])),
        limits,
        "thermodynamic_integration",
        found.effective_sample_size.min(),
        found.r_hat.max(),
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
    value = error = np.nan
    reason = (
        f"the Hessian has the eigenvalue {spectrum.smallest:.3g}, not above "
        "minus the scope"
    )
    if spectrum.smallest > -plan.scope:
        shifted = LinearOperator(
            hessian.shape,
            matvec=lambda vector: hessian.matvec(vector) + plan.scope * vector,
            dtype=objective.dtype,
        )
        gradient = objective.gradient(position).numpy()
        solution, unfinished = cg(shifted, gradient, rtol=1e-5)
        reason = "conjugate gradients did not converge" if unfinished else ""
        volume = spectrum.mean(lambda nodes: np.log1p(nodes / plan.scope))
        half = 0.5 * plan.temperature * count
        value = 0.5 * gradient @ solution - half * volume.value
        value -= float(objective.value(position))
        error = half * volume.standard_error
    bound = monte_carlo(draws, plan, minimum_loss)
    limits = bound.lower_bound, bound.upper_bound
    return _estimate(value, error, limits, "laplace", np.nan, np.nan, reason)


def _estimate(
    value: float,
    error: float,
    limits: tuple[float, float],
    method: str,
    size: float,
    r_hat: float,
    reason: str,
) -> LocalEntropyEstimate:
    """Returns the estimate, withheld if there is a reason."""
    if reason:
        value = error = np.nan
    return LocalEntropyEstimate(
        float(value),
        float(error),
        *limits,
        method,
        float(size),
        float(r_hat),
        reason,
    )
