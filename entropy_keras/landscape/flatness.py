"""How flat is the minimum: measures the few numbers that matter, in time."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from entropy_keras.landscape.ascent import precision
from entropy_keras.landscape.chains import chains_of
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.entropy_estimators import LocalEntropyEstimate
from entropy_keras.landscape.entropy_estimators import importance
from entropy_keras.landscape.entropy_estimators import integrate_coupling
from entropy_keras.landscape.gaussian import excess_losses
from entropy_keras.landscape.gaussian import fit
from entropy_keras.landscape.lanczos import Lanczos
from entropy_keras.landscape.lanczos import check_counts
from entropy_keras.landscape.lanczos import quadrature
from entropy_keras.landscape.lanczos import relative_precision
from entropy_keras.landscape.lanczos import runs
from entropy_keras.landscape.lanczos import share_bounds
from entropy_keras.landscape.lanczos import trace_from
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import operator
from entropy_keras.landscape.report import FlatnessReport
from entropy_keras.landscape.report import Measured
from entropy_keras.landscape.sharpness import box_sharpness
from entropy_keras.landscape.slices import Slice
from entropy_keras.landscape.slices import along
from entropy_keras.landscape.traces import hutch_plus_plus
from entropy_keras.validation import is_number
from entropy_keras.validation import require
from entropy_keras.validation import require_positive

# Error bars are this many standard errors wide, to either side.
_WIDTH = 3.0
# Of the magnitude of the spectrum: the error at which an end has converged.
_TOLERANCE = 1e-5
# What is done if there is time: products of the trace, independent draws, and
# couplings, chains and steps where those do not suffice.
_PRODUCTS, _DRAWS = 100, 400
_NODES, _STEPS = 4, 200
# The fewest that are worth their time: Lanczos steps, products, draws.
_FEWEST_STEPS, _FEWEST_PRODUCTS, _FEWEST_DRAWS = 5, 10, 60
# Up to so many weights, a product for each gives the trace itself.
_EXACT_UP_TO = 150
# Points of the line.
_POINTS, _FEWEST_POINTS = 51, 5
# Evaluations with a gradient that the sharpness takes, with these settings.
_EPSILON, _ASCENT_STEPS, _ASCENT_STARTS, _ASCENT_GRADIENTS = 1e-3, 10, 2, 60
# The share of the budget that is planned for; the rest is for what estimates
# of time miss, compilation among it.
_PLANNED = 0.85


class Clock:
    """What is left of a budget of time, and what each part costs.

    Args:
        budget: Seconds; infinite for no limit.
        verbose: 1 to print each part before it starts.
    """

    def __init__(self, budget: float, verbose: int) -> None:
        self.budget = budget
        self._verbose = verbose
        self._end = time.monotonic() + _PLANNED * budget

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def affords(self, most: int, seconds_each: float, share: float) -> int:
        """Returns how many of something fit into a share of what is left.

        Args:
            most: No more than that.
            seconds_each: What one costs.
            share: Share of the time left.
        """
        return int(min(most, max(share * self.left, 0.0) / seconds_each))

    def announce(self, part: str, seconds: float) -> None:
        """Prints what is about to be done."""
        if self._verbose:
            print(f"{part}: about {seconds:.0f} s.", flush=True)

    def skipped(self, seconds: float) -> Measured:
        """Returns the row of a part that there was no time for."""
        return Measured(
            math.nan,
            -math.inf,
            math.inf,
            f"not afforded: about {seconds:.0f} s of a budget of "
            f"{self.budget:g} s",
        )


def flatness_report(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    budget: float | None = 60.0,
    scope: float = 10.0,
    temperature: float | None = None,
    minimum_loss: float = 0.0,
    threshold: float | None = None,
    num_steps: int = 100,
    num_probes: int = 4,
    seed: int = 0,
    verbose: int = 1,
    **options: Any,
) -> FlatnessReport:
    """Measures how flat the loss is around the weights of a model.

    Both ends, trace and near-zero share of the Hessian's spectrum, the local
    entropy, and the sharpness, each with the range it is known to be in. It
    keeps a budget of time: from one gradient and one product it estimates what
    each part takes, does first what tells most per second, does less of it
    where time is short, and says in the row what it could not afford. Along a
    training, use `FlatnessCallback`.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples. Of large data sets a part suffices; a dataset that
            shuffles is read once.
        loss: The loss, larger than -1; `None` for the compiled one.
        budget: Seconds to take; `None` for as many as it needs. The result
            depends on the speed of the machine where the budget is spent.
        scope: Strength of the pull in the local entropy, see `local_entropy`.
            Much smaller ones leave bounds in place of the number.
        temperature: Temperature of the local entropy; `None` for the inverse
            of the number of samples, which is that of the posterior.
        minimum_loss: What the loss, of any weights, never falls below.
        threshold: Magnitude that counts as near zero, at least the resolution
            of the density; `None` for the first power of ten from three times
            that on. Give it to compare models.
        num_steps: Lanczos steps, at least 2; more resolve more near zero.
        num_probes: Random vectors of the density, at least 1.
        seed: Seed of everything random, below 2**31.
        verbose: 1 to say what is being done and how long it takes, 0 for
            silence.
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
    >>> report = landscape.flatness_report(model, data, "mse", verbose=0)
    >>> round(report.largest.value, 3), round(report.trace.value, 3)
    (3.0, 4.0)
    >>> str(report).splitlines()[2].split()[:3]
    ['largest', 'eigenvalue', '3']
    """
    require(is_number(minimum_loss), "minimum_loss", "a number", minimum_loss)
    if threshold is not None:
        require_positive(threshold=threshold)
    if budget is not None:
        require_positive(budget=budget)
    check_counts(num_steps, num_probes)
    given = 1.0 if temperature is None else temperature
    plan = Plan(scope, given, num_steps=_STEPS, seed=seed)
    clock = Clock(math.inf if budget is None else budget, verbose)
    if isinstance(data, tf.data.Dataset):
        data = data.cache()  # So that every number is of the same samples.
    objective = objective_of(model, data, loss, **options)
    if temperature is None:
        temperature = 1.0 / objective.num_samples
        plan = dataclasses.replace(plan, temperature=temperature)
    survey = _Survey(objective, plan, clock, minimum_loss)
    survey.start_spectrum(num_steps, num_probes)
    sharpness = survey.sharpness(precision(objective))
    entropy = survey.local_entropy()
    trace = survey.trace()
    line = survey.line()
    spectrum = survey.finish_spectrum()
    largest, smallest = survey.ends(spectrum)
    if spectrum is None:
        near_zero = clock.skipped(survey.product_seconds * num_steps)
    else:
        if threshold is None:
            least = max(3.0 * spectrum.resolution, 1e-12)
            threshold = 10.0 ** math.ceil(math.log10(least))
        near_zero = _near_zero(spectrum, threshold)
    return FlatnessReport(
        name=objective.name,
        num_parameters=objective.num_parameters,
        num_samples=objective.num_samples,
        loss=survey.loss,
        largest=largest,
        smallest=smallest,
        trace=trace,
        near_zero=near_zero,
        local_entropy=entropy,
        sharpness=sharpness,
        threshold=threshold,
        scope=scope,
        temperature=temperature,
        spectrum=spectrum,
        line=line,
    )


class _Survey:
    """The parts of a report, each within the time that is left for it.

    Args:
        objective: The loss.
        plan: Of the local entropy.
        clock: Of all parts.
        minimum_loss: What the loss never falls below.

    Raises:
        ValueError: If the loss is below `minimum_loss`.
    """

    def __init__(
        self,
        objective: Objective,
        plan: Plan,
        clock: Clock,
        minimum_loss: float,
    ) -> None:
        self._objective = objective
        self._plan = plan
        self._clock = clock
        self._minimum_loss = minimum_loss
        self._chains = chains_of(objective)
        self._hessian = operator(objective, self._chains.hessian_product)
        self._first: Lanczos | None = None
        position = objective.position()
        self.loss = float(objective.value(position))
        require(
            not self.loss < minimum_loss,
            "minimum_loss",
            f"at most {self.loss:.6g}, a loss that occurs",
            minimum_loss,
        )
        self._value_seconds = _seconds(lambda: objective.value(position))
        # Three losses or so make a gradient, and three gradients a product.
        self._gradient_seconds = 3.0 * self._value_seconds
        self.product_seconds = 3.0 * self._gradient_seconds
        if self._clock.affords(1, 2.0 * self._gradient_seconds, 0.5):
            objective.gradient(position)
            self._gradient_seconds = _seconds(
                lambda: objective.gradient(position)
            )
            self.product_seconds = 3.0 * self._gradient_seconds

    def start_spectrum(self, num_steps: int, num_probes: int) -> None:
        """Runs Lanczos once, which is what most of the rest builds on."""
        vector = self._objective.position().numpy()
        if self._clock.affords(1, 2.0 * self.product_seconds, 0.4):
            self._hessian.matvec(vector)
            self.product_seconds = _seconds(
                lambda: self._hessian.matvec(vector)
            )
        steps = self._clock.affords(num_steps, self.product_seconds, 0.4)
        if steps < min(_FEWEST_STEPS, num_steps):
            return
        self._num_steps = steps
        self._clock.announce(
            f"Spectrum, {steps} products", steps * self.product_seconds
        )
        start = time.monotonic()
        self._runs = runs(self._hessian, steps, num_probes, self._plan.seed)
        self._first = next(self._runs)
        # The recurrence takes time as well.
        self._run_seconds = time.monotonic() - start

    def sharpness(self, eps: float) -> Measured:
        """Returns the sharpness in a box."""
        seconds = _ASCENT_GRADIENTS * self._gradient_seconds
        if seconds > 0.5 * self._clock.left:
            return self._clock.skipped(seconds)
        self._clock.announce("Sharpness", seconds)
        found = box_sharpness(
            self._objective,
            _EPSILON,
            _ASCENT_STEPS,
            _ASCENT_STARTS,
            self._plan.seed,
            eps,
        )
        meaning = found.reason or "a rise that was found"
        low = max(found.value - found.error, 0.0)
        return Measured(found.value, low, math.inf, f"lower bound: {meaning}")

    def local_entropy(self) -> Measured:
        """Returns the local entropy: by independent draws, else by chains."""
        clock, plan = self._clock, self._plan
        seconds = self._value_seconds
        if self._first is not None:
            law = fit(self._objective, self._first, plan)
            excess_losses(self._objective, law, 1)  # The first takes longer.
            seconds = _seconds(lambda: excess_losses(self._objective, law, 1))
        draws = clock.affords(_DRAWS, seconds, 0.4)
        if self._first is None or draws < _FEWEST_DRAWS:
            return clock.skipped(_DRAWS * seconds)
        clock.announce(f"Local entropy, {draws} draws", draws * seconds)
        losses = excess_losses(self._objective, law, draws)
        found = importance(losses, plan, self._minimum_loss)
        reason = found.reason
        couplings = _NODES + 1
        gradients = couplings * plan.num_chains * plan.num_steps
        seconds = gradients * self._gradient_seconds
        seconds += 500 * self.product_seconds
        if reason and seconds < clock.left - self._run_seconds:
            clock.announce("Local entropy, by chains", seconds)
            found = integrate_coupling(
                self._chains,
                self._chains.draw(plan),
                plan,
                _NODES,
                self._minimum_loss,
            )
            reason = found.reason
        elif reason:
            reason += f"; chains would take about {seconds:.0f} s"
        if reason:
            warnings.warn(
                f"The local entropy is only bounded: {reason}", stacklevel=3
            )
        return _entropy(found, reason)

    def trace(self) -> Measured:
        """Returns the trace."""
        most = self._objective.num_parameters
        exact = most <= _EXACT_UP_TO
        most, fewest = (most, most) if exact else (_PRODUCTS, _FEWEST_PRODUCTS)
        count = self._clock.affords(most, self.product_seconds, 0.6)
        if self._first is None or count < fewest:
            return self._clock.skipped(most * self.product_seconds)
        self._clock.announce(
            f"Trace, {count} products", count * self.product_seconds
        )
        if exact:
            found = hutch_plus_plus(self._hessian, count, self._plan.seed)
            return _around(found.value, _WIDTH * found.standard_error)
        value, error = trace_from(self._first, count, self._plan.seed + 1)
        return _around(value, _WIDTH * error)

    def finish_spectrum(self) -> Spectrum | None:
        """Returns the density, from all probes that there is time for."""
        if self._first is None:
            return None
        probes = [self._first]
        while self._run_seconds < self._clock.left:
            self._clock.announce("Spectrum, another probe", self._run_seconds)
            try:
                probes.append(next(self._runs))
            except StopIteration:
                break
        most, first = 2 * self._num_steps, self._first
        while not first.finished and first.steps < most:
            values, _, errors = first.ritz()
            tolerance = _TOLERANCE * max(abs(values[0]), abs(values[-1]))
            if max(errors[0], errors[-1]) <= tolerance:
                break
            if 10.0 * self.product_seconds > self._clock.left:
                break
            first.advance(min(first.steps + 10, most))
        return quadrature(probes, self._num_steps)

    def ends(self, spectrum: Spectrum | None) -> tuple[Measured, Measured]:
        """Returns the largest and the smallest eigenvalue."""
        if self._first is None or spectrum is None:
            row = self._clock.skipped(_FEWEST_STEPS * self.product_seconds)
            return row, row
        values, _, errors = self._first.ritz()
        rounding = relative_precision(self._hessian) * np.abs(values).max()
        # Where another start saw further, this one has missed the end.
        beyond = spectrum.largest - values[-1], values[0] - spectrum.smallest
        high, low = np.maximum(errors[[-1, 0]] + rounding, beyond)
        meaning = "holds an eigenvalue"
        return (
            _around(values[-1], high, meaning),
            _around(values[0], low, meaning),
        )

    def line(self) -> Slice | None:
        """Returns the losses along a random line, if there is time."""
        count = self._clock.affords(_POINTS, self._value_seconds, 0.2)
        if count < _FEWEST_POINTS:
            return None
        # An odd number, so that the weights themselves are a point.
        distances = np.linspace(-1.0, 1.0, count - 1 + count % 2)
        seed = self._plan.seed
        return along(self._objective, 1, distances, None, True, seed)


def _seconds(function: Callable[[], Any]) -> float:
    """Returns how long a function takes."""
    start = time.monotonic()
    np.asarray(function())  # Until its numbers are there.
    return max(time.monotonic() - start, 1e-6)


def _around(
    value: float, error: float, meaning: str = "three standard errors"
) -> Measured:
    value, error = float(value), float(error)
    return Measured(value, value - error, value + error, meaning)


def _near_zero(spectrum: Spectrum, threshold: float) -> Measured:
    """Returns the share near zero: bounds, widened by the error of probes."""
    low, high = share_bounds(spectrum, threshold)
    if threshold < spectrum.resolution:
        return Measured(
            math.nan,
            low,
            high,
            f"bounds only: {threshold:g} is below the resolution, "
            f"{spectrum.resolution:.2g}",
        )
    share = spectrum.share_below(threshold)
    error = _WIDTH * share.standard_error
    return Measured(
        share.value,
        max(low - error, 0.0),
        min(high + error, 1.0),
        "bounds of the quadrature, and three standard errors",
    )


def _entropy(found: LocalEntropyEstimate, reason: str) -> Measured:
    """Returns the local entropy, or its bounds where it is withheld."""
    if found.converged:
        return _around(found.estimate, found.error_bar)
    meaning = f"bounds only: {reason}"
    return Measured(math.nan, found.lower_bound, found.upper_bound, meaning)
