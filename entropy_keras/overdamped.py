"""Langevin dynamics without inertia: the gradient moves the weights."""

import dataclasses

import keras
import tensorflow as tf

from entropy_keras import kinetics
from entropy_keras import validation
from entropy_keras.kinetics import Setting


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SGLD(kinetics.ElementwiseSampler):
    """Stochastic gradient Langevin dynamics, with momentum on the data term.

    ```
    velocity = momentum * velocity - step_size * M * gradient
    move = momentum * velocity - step_size * M * gradient   # nesterov
    move = velocity                                         # otherwise
    position += move - step_size * scope * (position - anchor)
    position += sqrt(2 * step_size * temperature * M) * noise
    ```

    Without momentum this is lines 4 and 5 of Algorithm 1. Momentum acts on the
    gradient of the loss alone, as the published practice has it, so for small
    steps the chain samples `exp(-(f / (1 - momentum) + scope / 2 * |x' -
    anchor|**2) / temperature)`: the loss counts 10 times at momentum 0.9.

    Args:
        momentum: Momentum of the inner loop, in [0, 1).
        nesterov: Whether the momentum is Nesterov's.

    Raises:
        ValueError: If `momentum` is out of its range.

    Example:
    >>> setting = Setting(tf.constant(0.1), tf.constant(1.0))
    >>> x, g, anchor = tf.constant(2.0), tf.constant(1.0), tf.constant(0.0)
    >>> position, _ = SGLD(0.0).move(x, g, anchor, None, (), setting)
    >>> round(float(position), 6)  # 2 - 0.1 * (1 + 1 * 2)
    1.7

    References:
        Welling and Teh, "Bayesian learning via stochastic gradient Langevin
        dynamics", ICML 2011; Chaudhari et al., arXiv:1611.01838v1, Algorithm 1.
    """

    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        validation.require_fraction(momentum=self.momentum)
        validation.normalize(self)

    @property
    def samples_gibbs_law(self) -> bool:
        """Whether the loss counts once, as it does without momentum alone."""
        return not self.momentum

    @property
    def draws_at_start(self) -> bool:  # noqa: D102
        return False

    def begin(  # noqa: D102
        self, position: tf.Tensor, noise: tf.Tensor | None, setting: Setting
    ) -> tuple[tf.Tensor, ...]:
        del noise, setting
        return (tf.zeros_like(position),) if self.momentum else ()

    def move(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        # Differences, since TensorFlow merges chains of sums and adds their
        # terms in an order that varies from run to run.
        dtype, step_size = position.dtype, setting.step_size
        step = kinetics.scaled(
            tf.cast(step_size, dtype) * gradient, setting.metric
        )
        pull = tf.cast(step_size * setting.scope, dtype) * (position - anchor)
        if self.momentum:
            velocity = self.momentum * memory[0] - step
            move = self.momentum * velocity - step
            position = position + (move if self.nesterov else velocity) - pull
            memory = (velocity,)
        else:
            position = position - step - pull
        if noise is not None:
            deviation = tf.sqrt(2.0 * step_size * setting.temperature)
            position += kinetics.spread(deviation, noise, setting.metric)
        return position, memory

    def of_noise(self) -> kinetics.Sampler:  # noqa: D102
        return SGLD(momentum=0.0)  # noise does not enter the velocity

    def check_stability(self, step_size: float, scope: float) -> None:  # noqa: D102
        if step_size * scope >= 2:
            raise ValueError(
                "`langevin_learning_rate` times `scope` must stay below 2, or "
                "the inner loop of the SGLD sampler diverges: lower one of "
                "them, cap the schedule of the scope, or use "
                "sampler='split_sgld', which is stable for every scope. "
                f"Received: langevin_learning_rate={step_size}, scope={scope}"
            )


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SplitSGLD(kinetics.ElementwiseSampler):
    """Langevin dynamics that solves the pull of the scope exactly.

    The drift towards the anchor and its noise form an Ornstein-Uhlenbeck
    process, whose transition over a time `step_size` is known:

    ```
    decay = exp(-step_size * scope)
    position = anchor + decay * (position - anchor)
    position -= (1 - decay) / scope * M * gradient
    position += sqrt(temperature * M * (1 - decay**2) / scope) * noise
    ```

    It tends to `SGLD(momentum=0)` as `step_size * scope` goes to 0, and is
    stable for every scope, which a growing scope needs.

    With `average_noise` the noise of a step is `(noise + noise of the step
    before) / sqrt(2 * (1 + decay))`. The variance is then exact wherever the
    loss is quadratic, whatever the step size, where independent draws err in
    proportion to it; for other losses the error is of second order.

    Args:
        average_noise: Whether each draw of the noise serves two steps.

    Raises:
        ValueError: If `average_noise` is not a boolean.

    Example:
    >>> setting = Setting(tf.constant(50.0), tf.constant(2.0))
    >>> x, g, anchor = tf.constant(2.0), tf.constant(0.0), tf.constant(1.0)
    >>> position, _ = SplitSGLD().move(x, g, anchor, None, (), setting)
    >>> float(position)  # a pull this strong ends at the anchor
    1.0

    References:
        Leimkuhler and Matthews, "Rational construction of stochastic numerical
        methods for molecular sampling", 2013, for the average of the noise.
    """

    average_noise: bool = False

    def __post_init__(self) -> None:
        validation.normalize(self)
        validation.require(
            isinstance(self.average_noise, bool),
            "average_noise",
            "True or False",
            self.average_noise,
        )

    @property
    def draws_at_start(self) -> bool:  # noqa: D102
        return self.average_noise

    def begin(  # noqa: D102
        self, position: tf.Tensor, noise: tf.Tensor | None, setting: Setting
    ) -> tuple[tf.Tensor, ...]:
        del position, setting
        return (noise,) if self.average_noise and noise is not None else ()

    def move(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        dtype, step_size = position.dtype, setting.step_size
        decay = tf.exp(-step_size * setting.scope)
        gain = kinetics.relaxation_time(step_size, setting.scope)
        drift = kinetics.scaled(tf.cast(gain, dtype) * gradient, setting.metric)
        position = anchor + tf.cast(decay, dtype) * (position - anchor) - drift
        if noise is not None:
            time = kinetics.relaxation_time(step_size, 2.0 * setting.scope)
            variance = 2.0 * setting.temperature * time
            fresh = noise
            if self.average_noise:
                variance /= 2.0 * (1.0 + decay)
                noise, memory = fresh + memory[0], (fresh,)
            position += kinetics.spread(
                tf.sqrt(variance), noise, setting.metric
            )
        return position, memory

    def of_noise(self) -> kinetics.Sampler:  # noqa: D102
        return self


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class GaussianPerturbation(kinetics.ElementwiseSampler):
    """Independent perturbations of the weights instead of a chain.

    ```
    position = anchor + sqrt(temperature * M / scope) * noise
    ```

    The inexpensive approximation of section 6 of the paper: gradients at random
    perturbations of the weights, the law of the chain under a flat loss. No
    position depends on a gradient, so only `"mean_gradient"` makes sense of
    them, and there is no step size. Use it with `start="stationary"`, or the
    first of the gradients is that at the weights; `presets.perturbed_averaging`
    does, on one mini-batch. The mean estimates the gradient of the loss
    smoothed by a Gaussian of variance `temperature * M / scope`, which with the
    metric `"relative"` is what LPF-SGD descends on, and with `"learned"` what
    IVON does.

    Example:
    >>> setting = Setting(tf.constant(1.0), tf.constant(4.0), 1.0)
    >>> x, g, anchor = tf.constant(2.0), tf.constant(9.0), tf.constant(1.0)
    >>> position, _ = GaussianPerturbation().move(
    ...     x, g, anchor, tf.constant(3.0), (), setting
    ... )
    >>> float(position)  # 1 + sqrt(1 / 4) * 3
    2.5

    References:
        Chaudhari et al., arXiv:1611.01838v1, section 6; Bisla, Wang,
        Choromanska, "Low-pass filtering SGD for recovering flat optima in the
        deep learning optimization landscape", AISTATS 2022.
    """

    default_step_size = None
    uses_gradient = False

    @property
    def draws_at_start(self) -> bool:  # noqa: D102
        return False

    def check_step_size(self, step_size: float | None) -> None:  # noqa: D102
        validation.require(
            step_size is None,
            "langevin_learning_rate",
            "left out or None with GaussianPerturbation, which takes no steps",
            step_size,
        )

    def check_stability(self, step_size: float, scope: float) -> None:  # noqa: D102
        del step_size
        validation.require(
            scope > 0,
            "scope",
            "positive with GaussianPerturbation, whose deviation is "
            "sqrt(temperature / scope)",
            scope,
        )

    def move(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        del gradient
        # Of the shape of the position, whatever that of the anchor.
        position = tf.broadcast_to(anchor, position.shape)
        if noise is not None:
            position += kinetics.stationary(noise, setting)
        return position, memory

    def of_noise(self) -> kinetics.Sampler:  # noqa: D102
        return self
