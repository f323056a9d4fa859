"""The local entropy of any model, and its gradient, by sampling."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from entropy_keras import samplers
from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.chains import chains_of
from entropy_keras.landscape.entropy_estimators import LocalEntropyEstimate
from entropy_keras.landscape.entropy_estimators import importance
from entropy_keras.landscape.entropy_estimators import integrate_coupling
from entropy_keras.landscape.entropy_estimators import laplace
from entropy_keras.landscape.entropy_estimators import monte_carlo
from entropy_keras.landscape.gaussian import excess_losses
from entropy_keras.landscape.gaussian import fit
from entropy_keras.landscape.lanczos import runs
from entropy_keras.landscape.mixing import diagnose
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import operator
from entropy_keras.validation import is_integer
from entropy_keras.validation import is_number
from entropy_keras.validation import require

METHODS = (
    "auto",
    "monte_carlo",
    "importance_sampling",
    "thermodynamic_integration",
    "laplace",
)
# To find the directions of large curvature, of which networks have few.
_LANCZOS_STEPS = 100
ESTIMATORS = ("displacement", "mean_gradient")


def local_entropy(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    scope: float,
    temperature: float = 1.0,
    method: str = "auto",
    num_chains: int = 4,
    num_steps: int = 500,
    num_nodes: int = 8,
    step_size: float | None = None,
    minibatch_size: int | None = None,
    sampler: str | samplers.Sampler | None = None,
    minimum_loss: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> LocalEntropyEstimate:
    """Estimates the local entropy of the mean loss at the model's weights x.

    It is the local entropy F of eq. 4, at temperature T, less that of a flat
    loss,

        T * log E exp(-f(x') / T) over x' normal about x, of variance T / scope,

    which is finite, comparable between scopes, and tends to -f(x) as the scope
    grows. Add `flat_local_entropy(n, scope, temperature)` for F itself.

    Let <f>_s be the mean loss under exp(-(s f(x') + scope / 2 |x' - x|²) / T).
    Then the value is minus its integral over the coupling s from 0 to 1, and
    since <f>_s falls with s, sums of rectangles bound it from both sides. The
    outermost two are the bounds of Gibbs and Bogoliubov, -<f>_0 and -<f>_1. A
    valley that no draw finds, narrow beyond all curvature at x, is in neither
    value nor bounds; half of the chains start at x, so that they see its own.

    Args:
        model: A model with data, or an `Objective`, whose compiled chains
            are used: see there, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        scope: Strength γ of the pull to x, positive, in units of the loss per
            squared weight: weights are explored to a distance of sqrt(T / γ).
        temperature: Temperature T, positive, in units of the loss. Since that
            is a mean, the posterior of N samples has 1 / N.
        method: `"monte_carlo"`: the mean of the formula above over independent
            draws; `"importance_sampling"`: over those of the Gaussian that the
            loss looks like along the directions of large curvature, of which
            far more count; `"thermodynamic_integration"` over the coupling,
            with Langevin chains; `"laplace"`: the closed form of the quadratic
            with the gradient and Hessian of the loss at x, off several-fold for
            a network where the loss is not quadratic to that distance;
            `"auto"`: the first of these whose effective sample size exceeds a
            tenth of the draws, else the third, as with minibatches.
        num_chains: Chains at each coupling, at least 2.
        num_steps: Steps of each chain, at least 12; the first third does not
            count. Independent draws are `num_chains * num_steps`.
        num_nodes: Couplings, at least 2, besides 0 and 1.
        step_size: Step size of the chains; `None` to choose it for each
            coupling by the largest curvature at x and at a random draw.
        minibatch_size: Samples per step and chain; `None` for all. Their noise
            adds heat, which matters where T is near 1 / N.
        sampler: See `Chains`.
        minimum_loss: What the loss, of any weights, never falls below. It is
            the upper bound where chains fail.
        seed: Of the noise.
        **options: `batch_size` and `training`.

    Returns:
        The estimate with its error and bounds. It is withheld, with a warning,
        if chains or draws diverge, if split R-hat exceeds 1.2 or the effective
        sample size falls short of 50 at any coupling, if the given step size
        times the largest curvature reaches 1 (chains do not see such valleys),
        or if fewer than a tenth of independent draws count.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> model.set_weights([np.zeros([1, 1])])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> found = landscape.local_entropy(model, data, "mse", scope=2.0)
    >>> truth = -np.log(2) / 2  # Of f(w) = w**2.
    >>> bool(abs(found.estimate - truth) < found.error_bar)
    True
    >>> found.method
    'monte_carlo'

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 4; Gelman and Meng,
        "Simulating normalizing constants", 1998.
    """
    plan = Plan(scope, temperature, num_chains, num_steps, step_size, seed)
    _check(method, num_nodes, minimum_loss)
    objective = objective_of(model, data, loss, **options)
    chains = chains_of(objective, minibatch_size, sampler)
    return estimate_local_entropy(chains, plan, method, num_nodes, minimum_loss)


def estimate_local_entropy(
    chains: Chains,
    plan: Plan,
    method: str = "auto",
    num_nodes: int = 8,
    minimum_loss: float = 0.0,
) -> LocalEntropyEstimate:
    """Estimates the local entropy by chains that are compiled already.

    At many scopes or seeds, or as the weights of the model change, this takes
    a fraction of the time of `local_entropy`.

    Args:
        chains: Chains at the weights of the model.
        plan: What to sample.
        method: See `local_entropy`, as for the others.
        num_nodes: Couplings.
        minimum_loss: What the loss never falls below.

    Returns:
        The estimate, with a warning if it is withheld; see `local_entropy`.

    Raises:
        ValueError: If an argument is out of its range, or if the loss falls
            below `minimum_loss`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> chains = landscape.Chains(landscape.Objective(model, data, "mse"))
    >>> values = []
    >>> for weight in (0.0, 1.0):
    ...     model.set_weights([np.full([1, 1], weight)])
    ...     plan = landscape.Plan(scope=2.0)
    ...     found = landscape.estimate_local_entropy(chains, plan)
    ...     values.append(found.estimate)
    >>> values[0] > values[1]  # the entropy is higher at the minimum
    True
    """
    _check(method, num_nodes, minimum_loss)
    draws = chains.draw(plan)
    if chains.minibatch_size is None:
        smallest = np.fmin.reduce(draws)  # Of those that are not NaN.
        require(
            not smallest < minimum_loss,
            "minimum_loss",
            f"at most {smallest:.6g}, a loss that occurs",
            minimum_loss,
        )
    biased = chains.minibatch_size is not None
    if method == "laplace":
        found = laplace(chains, draws, plan, minimum_loss)
    elif method == "thermodynamic_integration" or (method == "auto" and biased):
        found = integrate_coupling(chains, draws, plan, num_nodes, minimum_loss)
    elif method == "importance_sampling":
        found = _importance(chains, plan, minimum_loss)
    else:
        found = monte_carlo(draws, plan, minimum_loss)
        if method == "auto" and found.reason:
            found = _importance(chains, plan, minimum_loss)
        if method == "auto" and found.reason:
            found = integrate_coupling(
                chains, draws, plan, num_nodes, minimum_loss
            )
    if found.reason:
        warnings.warn(
            f"The local entropy is only bounded, by {found.lower_bound:.4g} "
            f"and {found.upper_bound:.4g}: {found.reason}",
            stacklevel=3,
        )
    return found


def _importance(
    chains: Chains, plan: Plan, minimum_loss: float
) -> LocalEntropyEstimate:
    objective = chains.objective
    hessian = operator(objective, chains.hessian_product)
    (run,) = runs(hessian, _LANCZOS_STEPS, 1, plan.seed)
    law = fit(objective, run, plan)
    losses = excess_losses(objective, law, plan.num_chains * plan.num_steps)
    return importance(losses, plan, minimum_loss)


@dataclasses.dataclass(frozen=True)
class EntropyGradientEstimate:
    """The gradient of the smoothed loss -F, and how well it is known.

    Attributes:
        gradient: Of shape `[n]`, in the order of `model.trainable_variables`,
            each flattened; NaN where it is withheld.
        standard_error: Of each entry, from the spread between chains; NaN
            where it is withheld.
        effective_sample_size: Independent samples that the losses of the
            chains are worth.
        r_hat: Their split R-hat, near 1 where chains agree.
        reason: Why the gradient is withheld; empty if it is not.

    Example:
    >>> from entropy_keras import landscape
    >>> found = landscape.EntropyGradientEstimate(
    ...     np.array([0.5]), np.array([0.1]), 900.0, r_hat=1.01, reason=""
    ... )
    >>> found.converged
    True
    """

    gradient: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: float
    r_hat: float
    reason: str

    @property
    def converged(self) -> bool:
        """Whether there is a gradient."""
        return not self.reason


def local_entropy_gradient(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    scope: float,
    temperature: float = 1.0,
    estimator: str = "mean_gradient",
    num_chains: int = 8,
    num_steps: int = 500,
    step_size: float | None = None,
    minibatch_size: int | None = None,
    sampler: str | samplers.Sampler | None = None,
    seed: int = 0,
    **options: Any,
) -> EntropyGradientEstimate:
    """Estimates the gradient of the smoothed loss -F, with error bars.

    It is `scope * (x - <x'>)`, and it is also <∇f(x')>: both at every
    temperature. Where the loss is flat the latter is known at once, while the
    former is the small difference of large numbers; across sharp valleys it is
    the other way round.

    Args:
        model: A model with data, or an `Objective`, whose compiled chains
            are used: see there, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        scope: Strength of the pull to the weights x of the model, positive.
        temperature: Temperature, positive.
        estimator: `"mean_gradient"` for the mean gradient along the chains,
            `"displacement"` for the scope times how far they moved.
        num_chains: Chains, at least 2; their spread gives the error.
        num_steps: Steps of each, at least 12; the first third does not count.
        step_size: Step size of the chains; `None` to choose it by curvature.
        minibatch_size: Samples per step and chain; `None` for all.
        sampler: See `Chains`.
        seed: Of the noise.
        **options: `batch_size` and `training`.

    Returns:
        The gradient, in units of the loss per weight. It is withheld, with a
        warning and the reason, where `local_entropy` would withhold its value,
        which looks at the loss: a few flat directions beside many sharp ones
        can lag behind unseen. The two estimators differ there by many standard
        errors, and agree once `num_steps` suffice.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> model.set_weights([np.full([1, 1], 3.0)])
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> found = landscape.local_entropy_gradient(
    ...     model, data, "mse", scope=1.0
    ... )
    >>> bool((abs(found.gradient - 2.0) < 4 * found.standard_error).all())
    True

    References:
        Chaudhari et al., arXiv:1611.01838v1, eq. 7.
    """
    plan = Plan(scope, temperature, num_chains, num_steps, step_size, seed)
    require(
        estimator in ESTIMATORS, "estimator", f"one of {ESTIMATORS}", estimator
    )
    objective = objective_of(model, data, loss, **options)
    chains = chains_of(objective, minibatch_size, sampler)
    curvature = chains.largest_curvature(plan)
    steps = plan.step_sizes(np.ones(1), curvature)
    samples = chains.run(plan, np.ones(1), steps)
    of_chains = (
        -scope * samples.displacements[:, 0]
        if estimator == "displacement"
        else samples.gradients[:, 0]
    )
    found = diagnose(samples.losses, steps * curvature)
    (reason,) = found.faults
    with np.errstate(invalid="ignore"):  # Infinities of both signs.
        gradient = of_chains.mean(0)
        error = of_chains.std(0, ddof=1) / np.sqrt(num_chains)
    if not reason and not np.isfinite([gradient, error]).all():
        reason = "the gradient is not finite"
    if reason:
        warnings.warn(f"The gradient is withheld: {reason}", stacklevel=2)
        gradient, error = np.full([2, len(gradient)], np.nan)
    return EntropyGradientEstimate(
        gradient,
        error,
        float(found.effective_sample_size[0]),
        float(found.r_hat[0]),
        reason,
    )


def _check(method: str, num_nodes: int, minimum_loss: float) -> None:
    require(method in METHODS, "method", f"one of {METHODS}", method)
    require(
        is_integer(num_nodes, 2),
        "num_nodes",
        "an integer from 2 on",
        num_nodes,
    )
    require(is_number(minimum_loss), "minimum_loss", "a number", minimum_loss)
