"""How flat is the minimum: measures the few numbers that matter."""

import dataclasses
import math
from typing import Any

import tensorflow as tf
from scipy.sparse.linalg import LinearOperator

from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.entropy import estimate_local_entropy
from entropy_keras.landscape.entropy_estimators import LocalEntropyEstimate
from entropy_keras.landscape.lanczos import density
from entropy_keras.landscape.lanczos import extremes
from entropy_keras.landscape.lanczos import share_bounds
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import operator
from entropy_keras.landscape.report import FlatnessReport
from entropy_keras.landscape.report import Measured
from entropy_keras.landscape.sharpness import epsilon_sharpness
from entropy_keras.landscape.slices import along
from entropy_keras.landscape.traces import hutch_plus_plus
from entropy_keras.validation import is_number
from entropy_keras.validation import require
from entropy_keras.validation import require_positive

# Error bars are this many standard errors wide, to either side.
_WIDTH = 3.0
# Of the magnitude of the spectrum: the error at which an end has converged.
_TOLERANCE = 1e-5
# Of the trace: Hessian-vector products.
_PRODUCTS = 150
# Where chains are needed: couplings, and steps of each chain.
_NODES, _STEPS = 4, 200


def flatness_report(
    model: Any,
    data: Any,
    loss: Any = None,
    *,
    scope: float = 10.0,
    temperature: float | None = None,
    minimum_loss: float = 0.0,
    threshold: float | None = None,
    steps: int = 100,
    probes: int = 4,
    seed: int = 0,
    **options: Any,
) -> FlatnessReport:
    """Measures how flat the loss is around the weights of a model.

    Both ends, trace and near-zero share of the Hessian's spectrum, the local
    entropy, and the sharpness, each with the range it is known to be in; for a
    network of 50,000 weights and 1,000 samples that takes less than a minute.
    As a callback, it is
    `keras.callbacks.LambdaCallback(on_train_end=lambda logs: ...)`.

    Args:
        model: See `Objective`, as for `data`, `loss` and the options.
        data: The samples. Of large data sets a part suffices; a dataset that
            shuffles is read once.
        loss: The loss, larger than -1; `None` for the compiled one.
        scope: Strength of the pull in the local entropy, see `local_entropy`.
            Much smaller ones leave bounds in place of the number.
        temperature: Temperature of the local entropy; `None` for the inverse
            of the number of samples, which is that of the posterior.
        minimum_loss: What the loss, of any weights, never falls below.
        threshold: Magnitude that counts as near zero, at least the resolution
            of the density; `None` for the first power of ten from three times
            that on. Give it to compare models.
        steps: Lanczos steps, at least 2; more resolve more near zero.
        probes: Random vectors of the density, at least 1.
        seed: Seed of everything random, below 2**31.
        **options: `batch_size` and `training`.

    Returns:
        The report. Where the local entropy cannot be sampled, it comes with a
        warning, and with bounds in place of the number.

    Raises:
        ValueError: If an argument is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> report = landscape.flatness_report(model, data, "mse")
    >>> round(report.largest.value, 3), round(report.trace.value, 3)
    (3.0, 4.0)
    >>> str(report).splitlines()[2].split()[:3]
    ['largest', 'eigenvalue', '3']
    """
    require(is_number(minimum_loss), "minimum_loss", "a number", minimum_loss)
    if threshold is not None:
        require_positive(threshold=threshold)
    given = 1.0 if temperature is None else temperature
    plan = Plan(scope, given, num_steps=_STEPS, seed=seed)
    if isinstance(data, tf.data.Dataset):
        data = data.cache()  # So that every number is of the same samples.
    objective = Objective(model, data, loss, **options)
    if temperature is None:
        temperature = 1.0 / objective.num_samples
        plan = dataclasses.replace(plan, temperature=temperature)
    chains = Chains(objective)
    hessian = operator(objective, chains.hessian_product)
    curvature = _curvature(hessian, threshold, steps, probes, seed)
    sharpness = epsilon_sharpness(model, data, loss, seed=seed, **options)
    entropy = estimate_local_entropy(
        chains, plan, num_nodes=_NODES, minimum_loss=minimum_loss
    )
    return FlatnessReport(
        name=model.name,
        num_parameters=objective.num_parameters,
        num_samples=objective.num_samples,
        loss=float(objective.value(objective.position())),
        local_entropy=_entropy(entropy),
        sharpness=Measured(
            sharpness, sharpness, math.inf, "lower bound: a rise that was found"
        ),
        scope=scope,
        temperature=temperature,
        line=along(objective, 1, None, None, True, seed),
        **curvature,
    )


def _curvature(
    hessian: LinearOperator,
    threshold: float | None,
    steps: int,
    probes: int,
    seed: int,
) -> dict[str, Any]:
    """Returns those attributes of the report that products measure."""
    spectrum = density(hessian, steps, probes, seed)
    if threshold is None:
        least = max(3.0 * spectrum.resolution, 1e-12)
        threshold = 10.0 ** math.ceil(math.log10(least))
    near_zero = _near_zero(spectrum, threshold)
    ends = extremes(hessian, 1, _TOLERANCE, 2 * steps, seed)
    (largest,), (smallest,), (high_error,), (low_error,), _ = ends
    # Where another start saw further, this one has missed the end.
    high_error = max(high_error, spectrum.largest - largest)
    low_error = max(low_error, smallest - spectrum.smallest)
    trace = hutch_plus_plus(hessian, _PRODUCTS, seed)
    return {
        "largest": _around(largest, high_error, "holds an eigenvalue"),
        "smallest": _around(smallest, low_error, "holds an eigenvalue"),
        "trace": _around(trace.estimate, _WIDTH * trace.standard_error),
        "near_zero": near_zero,
        "threshold": threshold,
        "spectrum": spectrum,
    }


def _around(
    value: float, error: float, meaning: str = "three standard errors"
) -> Measured:
    value, error = float(value), float(error)
    return Measured(value, value - error, value + error, meaning)


def _near_zero(spectrum: Spectrum, threshold: float) -> Measured:
    """Returns the share near zero: bounds, widened by the error of probes."""
    share = spectrum.share_below(threshold)
    low, high = share_bounds(spectrum, threshold)
    error = _WIDTH * share.standard_error
    return Measured(
        share.value,
        max(low - error, 0.0),
        min(high + error, 1.0),
        "bounds of the quadrature, and three standard errors",
    )


def _entropy(found: LocalEntropyEstimate) -> Measured:
    """Returns the local entropy, or its bounds where it is withheld."""
    if found.converged:
        return _around(found.estimate, found.error_bar)
    meaning = f"bounds only: {found.reason}"
    return Measured(math.nan, found.lower_bound, found.upper_bound, meaning)
