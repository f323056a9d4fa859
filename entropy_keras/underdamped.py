"""Langevin dynamics with inertia: what moves a velocity by the gradient.

One step of each kicks the velocity by the gradient where it is (B), drifts half
a step (A), meets friction and noise (O), and drifts the other half (A). With a
thermostat the friction itself moves half a step before and after O (D). For a
step size η' the time of a step is `sqrt(η')`, and a velocity is the distance of
one step, so that η' is the learning rate of gradient descent with momentum.

The velocity is drawn afresh at each update, from its law `N(0, step_size *
temperature * M)`, since the anchor has moved; friction lasts.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import kinetics
from entropy_keras import validation
from entropy_keras.kinetics import Setting

Tensors = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SGHMC(kinetics.ElementwiseSampler):
    """Stochastic gradient Hamiltonian Monte Carlo, in the order BAOA.

    ```
    velocity -= step_size * (M * gradient + scope * (position - anchor))
    position += velocity / 2
    velocity *= momentum
    velocity += sqrt((1 - momentum**2) * step_size * temperature * M) * noise
    position += velocity / 2
    ```

    It samples the Gibbs law of the loss and the scope at every momentum, where
    `SGLD` with momentum weighs the loss more. Wherever the loss is quadratic
    its variance is exact at every step size with which it is stable:
    `step_size * curvature` below 4, pull included. The noise of mini-batches,
    of covariance C, adds `step_size * C * (1 + m) / (4 * (1 - m))` to the
    temperature at momentum m, to first order. Without momentum it is the method
    of Leimkuhler and Matthews at half the step size.

    Args:
        momentum: Share of the velocity that a step keeps, in [0, 1).

    Raises:
        ValueError: If `momentum` is out of its range.

    Example:
    >>> setting = Setting(tf.constant(0.5), tf.constant(1.0))
    >>> x, g, anchor = tf.constant(2.0), tf.constant(2.0), tf.constant(0.0)
    >>> position, (velocity,) = SGHMC(0.5).move(
    ...     x, g, anchor, None, (tf.constant(0.0),), setting
    ... )
    >>> float(velocity)  # -0.5 * (2 + 2) = -2, of which half is kept
    -1.0
    >>> float(position)  # 2 - 2 / 2 - 1 / 2
    0.5

    References:
        Chen, Fox, Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", ICML
        2014; Leimkuhler and Matthews, 2013, for the order, which takes the
        gradient at the new position: in the explicit order the friction must
        exceed the step size times the curvature.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        validation.require_fraction(momentum=self.momentum)
        validation.normalize(self)

    def begin(  # noqa: D102
        self, position: tf.Tensor, noise: tf.Tensor | None, setting: Setting
    ) -> tuple[tf.Tensor, ...]:
        return (_initial_velocity(position, noise, setting),)

    def move(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        velocity = _kicked(memory[0], position, gradient, anchor, setting)
        position = _drifted(position, velocity)
        velocity *= self.momentum
        if noise is not None:
            heat = setting.step_size * setting.temperature
            deviation = tf.sqrt((1.0 - self.momentum**2) * heat)
            velocity += kinetics.spread(deviation, noise, setting.metric)
        return _drifted(position, velocity), (velocity,)

    def of_noise(self) -> kinetics.Sampler:  # noqa: D102
        return self

    def check_stability(self, step_size: float, scope: float) -> None:  # noqa: D102
        _check_stability(self, step_size, scope)


class _Thermostat(kinetics.Sampler):
    """Friction that grows while the weights are too hot.

    Subclasses are frozen dataclasses with `momentum` and `thermostat_rate`.
    """

    momentum: float
    thermostat_rate: float

    def __post_init__(self) -> None:
        validation.require(
            validation.is_positive(self.momentum) and self.momentum < 1,
            "momentum",
            "a float in (0, 1)",
            self.momentum,
        )
        validation.require(
            validation.is_number(self.thermostat_rate, 0.0),
            "thermostat_rate",
            "a non-negative float",
            self.thermostat_rate,
        )
        validation.normalize(self)

    @property
    def initial_friction(self) -> float:
        """Friction that makes the momentum, and the measure of the noise."""
        return -math.log(self.momentum)

    @abc.abstractmethod
    def excess(self, velocity: Tensors, settings: Sequence[Setting]) -> Tensors:
        """Returns how much more than their share the weights move.

        Args:
            velocity: Their velocities.
            settings: One for each variable.

        Returns:
            Mean square velocities in units of M, less `step_size *
            temperature`, and 0 where the temperature is 0: tensors in the
            structure of the frictions.
        """

    def start(
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[Setting],
        slots: Any,
    ) -> Any:
        velocity = [
            _initial_velocity(*one)
            for one in zip(position, noise, settings, strict=True)
        ]
        return velocity, slots

    def step(
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[Setting],
    ) -> tuple[Tensors, Any]:
        velocity, friction = memory
        velocity = [
            _kicked(*one)
            for one in zip(
                velocity, position, gradients, anchor, settings, strict=True
            )
        ]
        halfway = [
            _drifted(*one) for one in zip(position, velocity, strict=True)
        ]
        friction = self._adapted(friction, velocity, settings)
        # One friction for all variables, or one for each.
        each = friction * (len(velocity) // len(friction))
        velocity = [
            self._rubbed(*one)
            for one in zip(velocity, each, noise, settings, strict=True)
        ]
        friction = self._adapted(friction, velocity, settings)
        after = [_drifted(*one) for one in zip(halfway, velocity, strict=True)]
        return after, (velocity, friction)

    def _adapted(
        self, friction: Tensors, velocity: Tensors, settings: Sequence[Setting]
    ) -> Tensors:
        """Returns the friction half a step later."""
        return [
            f + 0.5 * self.thermostat_rate * e
            for f, e in zip(
                friction, self.excess(velocity, settings), strict=True
            )
        ]

    def _rubbed(
        self,
        velocity: tf.Tensor,
        friction: tf.Tensor,
        noise: tf.Tensor | None,
        setting: Setting,
    ) -> tf.Tensor:
        """Returns the velocity after friction and noise, solved exactly."""
        friction = tf.cast(friction, velocity.dtype)
        velocity *= tf.exp(-friction)
        if noise is not None:
            heat = setting.step_size * setting.temperature
            time = kinetics.relaxation_time(
                tf.constant(2.0, friction.dtype), friction
            )
            noise *= tf.sqrt(time)
            deviation = tf.sqrt(self.initial_friction * heat)
            velocity += kinetics.spread(deviation, noise, setting.metric)
        return velocity

    def finish(self, memory: Any) -> Any:
        return memory[1]

    def check_stability(self, step_size: float, scope: float) -> None:
        _check_stability(self, step_size, scope)


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SGNHT(_Thermostat):
    """The stochastic gradient Nosé-Hoover thermostat, in the order BADODA.

    ```
    velocity -= step_size * (M * gradient + scope * (position - anchor))
    position += velocity / 2
    friction += thermostat_rate / 2 * (mean(velocity**2 / M) - step_size * T)
    velocity *= exp(-friction)
    velocity += sqrt(-log(momentum) * step_size * T * M
                     * (1 - exp(-2 * friction)) / friction) * noise
    friction += thermostat_rate / 2 * (mean(velocity**2 / M) - step_size * T)
    position += velocity / 2
    ```

    It is `SGHMC` with a friction that grows until the weights are as hot as the
    temperature T says: the heat of mini-batches, of whatever size, is taken out
    by more friction. The mean is over all weights of all variables. The
    friction, one number, starts at `-log(momentum)` and lasts from update to
    update. Where T is no more than the heat of the mini-batches the friction
    grows without end and the chain comes to a stop, as it should at such a
    temperature; at T = 0 it stays as it is.

    The thermostat makes the noise's path depend on the gradients, so
    `Displacement(subtract_noise=True)` is refused.

    Args:
        momentum: Share of the velocity that a step keeps at first, in (0, 1).
        thermostat_rate: How fast the friction follows, a non-negative float; 1
            is the published one, 0 makes it `SGHMC`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> round(SGNHT(momentum=0.5).initial_friction, 6)  # log 2
    0.693147

    References:
        Ding et al., "Bayesian sampling using stochastic gradient thermostats",
        NeurIPS 2014; Leimkuhler and Shang, "Adaptive thermostats for noisy
        gradient systems", 2016, for the order.
    """

    momentum: float = 0.9
    thermostat_rate: float = 1.0

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        wide = any(v.dtype == "float64" for v in variables)
        dtype = tf.float64 if wide else tf.float32
        return [tf.constant(self.initial_friction, dtype)]

    def excess(  # noqa: D102
        self, velocity: Tensors, settings: Sequence[Setting]
    ) -> Tensors:
        dtype = settings[0].step_size.dtype
        count = float(sum(v.shape.num_elements() for v in velocity))
        energies, shares = [], []
        for v, setting in zip(velocity, settings, strict=True):
            energy = tf.reduce_sum(tf.cast(_energy(v, setting), dtype))
            share = v.shape.num_elements() / count
            heat = setting.step_size * setting.temperature
            energies.append(energy / count)
            shares.append(tf.cast(share * heat, dtype))
        due = tf.add_n(shares)
        return [tf.where(due > 0, tf.add_n(energies) - due, 0.0)]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class Santa(_Thermostat):
    """A thermostat for each weight, for annealing: Santa.

    The steps are those of `SGNHT` with a friction of each weight's own:

    ```
    friction += thermostat_rate / 2 * (velocity**2 / M - step_size * T)
    ```

    The published algorithm is this sampler with the metric `"rms_gradients"`
    and a schedule of the temperature that falls to 0. At T = 0 it refines: the
    frictions stay as they are, and no noise is added. Since M is fixed
    during an update the terms of its derivative, which the publication
    approximates by differences, are 0. The frictions last from update to
    update: one tensor of the weights' size.

    The thermostats make the noise's path depend on the gradients, so
    `Displacement(subtract_noise=True)` is refused.

    Args:
        momentum: Share of the velocity that a step keeps at first, in (0, 1).
        thermostat_rate: How fast frictions follow, a non-negative float; 1 is
            the published one, 0 makes it `SGHMC`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> annealed = entropy_keras.EntropySGD(
    ...     sampler="santa",
    ...     metric="rms_gradients",
    ...     langevin_learning_rate=1e-4,
    ...     temperature=keras.optimizers.schedules.PolynomialDecay(
    ...         1e-4, 1000, end_learning_rate=0.0
    ...     ),
    ... )

    References:
        Chen, Carlson, Gan, Li, Carin, "Bridging the gap between stochastic
        gradient MCMC and stochastic optimization", AISTATS 2016.
    """

    momentum: float = 0.9
    thermostat_rate: float = 1.0

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        return [
            tf.fill(v.shape, tf.constant(self.initial_friction, v.dtype))
            for v in variables
        ]

    def excess(  # noqa: D102
        self, velocity: Tensors, settings: Sequence[Setting]
    ) -> Tensors:
        found = []
        for v, setting in zip(velocity, settings, strict=True):
            due = tf.cast(setting.step_size * setting.temperature, v.dtype)
            found.append(tf.where(due > 0, _energy(v, setting) - due, 0.0))
        return found


def _initial_velocity(
    position: tf.Tensor, noise: tf.Tensor | None, setting: Setting
) -> tf.Tensor:
    """Returns a draw of the law of velocities."""
    if noise is None:
        return tf.zeros_like(position)
    deviation = tf.sqrt(setting.step_size * setting.temperature)
    return kinetics.spread(deviation, noise, setting.metric)


def _kicked(
    velocity: tf.Tensor,
    position: tf.Tensor,
    gradient: tf.Tensor,
    anchor: tf.Tensor,
    setting: Setting,
) -> tf.Tensor:
    """Returns the velocity after the force of the loss and of the scope."""
    # Differences, since TensorFlow merges chains of sums and adds their terms
    # in an order that varies from run to run; so with `_drifted`.
    dtype, step_size = position.dtype, setting.step_size
    kick = kinetics.scaled(tf.cast(step_size, dtype) * gradient, setting.metric)
    pull = tf.cast(step_size * setting.scope, dtype) * (position - anchor)
    return velocity - kick - pull


def _drifted(position: tf.Tensor, velocity: tf.Tensor) -> tf.Tensor:
    """Returns the position half a step later."""
    return position - -0.5 * velocity


def _energy(velocity: tf.Tensor, setting: Setting) -> tf.Tensor:
    """Returns the square of each velocity, in units of the metric."""
    square = tf.square(velocity)
    return square if setting.metric is None else square / setting.metric


def _check_stability(
    sampler: kinetics.Sampler, step_size: float, scope: float
) -> None:
    if step_size * scope >= 4:
        raise ValueError(
            "`langevin_learning_rate` times `scope` must stay below 4, or the "
            f"inner loop of the {type(sampler).__name__} sampler diverges: "
            "lower one of them, cap the schedule of the scope, or use "
            "sampler='split_sgld', which is stable for every scope. "
            f"Received: langevin_learning_rate={step_size}, scope={scope}"
        )
