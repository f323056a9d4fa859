"""The kinetics of the Langevin chain: one inner step, per sampler.

A sampler draws from the Gibbs distribution
`exp(-(f(x') + scope/2 * (x' - anchor)' M**-1 (x' - anchor)) / temperature)`,
where M, the metric, is diagonal and 1 unless told else. It is a frozen value
with pure functions on lists of tensors, one for each variable. Between the
steps of an update it remembers a `memory` of its own making; what is to last
from update to update it returns from `finish`, and is given again at `start`.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import schedules
from entropy_keras import validation

Tensors = list[tf.Tensor]


class Setting(NamedTuple):
    """What governs the steps of one variable during one update.

    Attributes:
        step_size: Scalar step size η', in the type of the variable or wider.
        scope: Scalar scope γ, likewise.
        temperature: Temperature T: a scalar tensor, or the number 0 if there is
            no noise.
        metric: M, a positive tensor that broadcasts to the variable, or `None`
            for 1.
    """

    step_size: tf.Tensor
    scope: tf.Tensor
    temperature: Any = 0.0
    metric: tf.Tensor | None = None


class Sampler(abc.ABC):
    """A chain's steps. Subclasses are frozen dataclasses.

    In what follows every list has one entry for each variable. The noise of a
    variable is a tensor of standard normals of its shape, `None` where its
    temperature is 0.
    """

    #: Step size η' if the user names none; `None` ties it to the outer one.
    default_step_size: float | None = 0.1

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns what lasts from update to update, before the first of them.

        Args:
            variables: The trainable variables.

        Returns:
            A structure of tensors, empty by default.
        """
        del variables
        return ()

    @abc.abstractmethod
    def start(
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[Setting],
        slots: Any,
    ) -> Any:
        """Returns the memory before the first step of an update.

        Args:
            position: Where the chain starts.
            noise: Noise for what the sampler draws here.
            settings: One for each variable.
            slots: What the update before returned from `finish`.

        Returns:
            A structure of tensors.
        """

    @abc.abstractmethod
    def step(
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[Setting],
    ) -> tuple[Tensors, Any]:
        """Moves the chain by one step.

        Args:
            position: Where the chain is (x').
            gradients: Gradients of the loss f there.
            anchor: The weights that the scope pulls to (x).
            noise: Noise of this step.
            memory: What `start` or the step before returned.
            settings: One for each variable.

        Returns:
            The new position and the new memory.
        """

    def finish(self, memory: Any) -> Any:
        """Returns what is to last until the next update.

        Args:
            memory: That after the last step.

        Returns:
            A structure like `initial_slots`.
        """
        del memory
        return ()

    def of_noise(self) -> "Sampler":
        """Returns the sampler that moves the injected noise's own path.

        That path is a chain around 0 without any loss: the step of a sampler
        is linear in position, gradient and noise, so a position is what the
        same chain would be without noise, plus the path, as far as the
        gradients are the same.

        Returns:
            A sampler, itself by default.
        """
        return self

    def check_step_size(self, step_size: Any) -> None:
        """Refuses a `langevin_learning_rate` that the sampler cannot have.

        Args:
            step_size: The argument.

        Raises:
            ValueError: If it is out of its range.
        """
        schedules.check(
            step_size,
            "langevin_learning_rate",
            positive=True,
            or_none="to tie it to the outer learning rate",
        )

    def check_stability(  # noqa: B027 (nothing to refuse by default)
        self, step_size: float, scope: float
    ) -> None:
        """Refuses a step size with which the pull of the scope diverges.

        Args:
            step_size: The largest step size η' known in advance.
            scope: The largest scope γ known in advance.

        Raises:
            ValueError: If the chain diverges whatever the loss.
        """

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the sampler, as JSON can hold them.

        Returns:
            A dictionary that `from_config` takes.
        """
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sampler":
        """Makes a sampler from what `get_config` returned.

        Args:
            config: The arguments of the sampler.

        Returns:
            An equal sampler.
        """
        return cls(**config)


class ElementwiseSampler(Sampler):
    """A sampler that moves each variable by itself, and forgets at the end."""

    def begin(
        self, position: tf.Tensor, noise: tf.Tensor | None, setting: Setting
    ) -> tuple[tf.Tensor, ...]:
        """Returns the memory of one variable before the first step.

        Args:
            position: Where it starts.
            noise: Its noise, `None` at temperature 0.
            setting: Its setting.

        Returns:
            Tensors, none by default.
        """
        del position, noise, setting
        return ()

    @abc.abstractmethod
    def move(
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Moves one variable; see `step`.

        Args:
            position: Where it is.
            gradient: Its gradient there.
            anchor: Its weights x.
            noise: Its noise, `None` at temperature 0.
            memory: What `begin` or the step before returned.
            setting: Its setting.

        Returns:
            Its new position and memory.
        """

    def start(  # noqa: D102
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[Setting],
        slots: Any,
    ) -> Any:
        del slots
        return [
            self.begin(*one)
            for one in zip(position, noise, settings, strict=True)
        ]

    def step(  # noqa: D102
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[Setting],
    ) -> tuple[Tensors, Any]:
        moved = [
            self.move(*one)
            for one in zip(
                position,
                gradients,
                anchor,
                noise,
                memory,
                settings,
                strict=True,
            )
        ]
        return [after for after, _ in moved], [new for _, new in moved]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SGLD(ElementwiseSampler):
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
    >>> setting = samplers.Setting(tf.constant(0.1), tf.constant(1.0))
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
        validation.require(
            validation.is_number(self.momentum, 0.0) and self.momentum < 1,
            "momentum",
            "a float in [0, 1)",
            self.momentum,
        )
        validation.normalize(self)

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
        step = scaled(tf.cast(step_size, dtype) * gradient, setting.metric)
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
            position += spread(deviation, noise, setting.metric)
        return position, memory

    def of_noise(self) -> Sampler:  # noqa: D102
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
class SplitSGLD(ElementwiseSampler):
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

    Example:
    >>> setting = samplers.Setting(tf.constant(50.0), tf.constant(2.0))
    >>> x, g, anchor = tf.constant(2.0), tf.constant(0.0), tf.constant(1.0)
    >>> position, _ = SplitSGLD().move(x, g, anchor, None, (), setting)
    >>> float(position)  # a pull this strong ends at the anchor
    1.0
    """

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
        decay = tf.cast(tf.exp(-step_size * setting.scope), dtype)
        gain = tf.cast(relaxation_time(step_size, setting.scope), dtype)
        drift = scaled(gain * gradient, setting.metric)
        position = anchor + decay * (position - anchor) - drift
        if noise is not None:
            time = relaxation_time(step_size, 2.0 * setting.scope)
            deviation = tf.sqrt(2.0 * setting.temperature * time)
            position += spread(deviation, noise, setting.metric)
        return position, memory


def relaxation_time(step_size: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Returns (1 - exp(-step_size * rate)) / rate, and its limit at rate 0.

    Args:
        step_size: A time.
        rate: A rate of decay, of the same shape.

    Returns:
        A tensor of that shape.
    """
    safe_rate = tf.where(rate > 0, rate, tf.ones_like(rate))
    relaxed = -tf.math.expm1(-step_size * safe_rate) / safe_rate
    return tf.where(rate > 0, relaxed, step_size)


def scaled(tensor: tf.Tensor, metric: tf.Tensor | None) -> tf.Tensor:
    """Returns a tensor times the metric.

    Args:
        tensor: A tensor of the shape of a variable.
        metric: M, or `None` for 1.

    Returns:
        A tensor of the same shape.
    """
    return tensor if metric is None else metric * tensor


def spread(
    deviation: tf.Tensor, noise: tf.Tensor, metric: tf.Tensor | None
) -> tf.Tensor:
    """Returns noise of a deviation, times the square root of the metric.

    Args:
        deviation: A scalar.
        noise: Standard normals.
        metric: M, or `None` for 1.

    Returns:
        A tensor of the shape of `noise`.
    """
    noise = tf.cast(deviation, noise.dtype) * noise
    return noise if metric is None else tf.sqrt(metric) * noise


_BY_NAME: dict[str, type[Sampler]] = {"sgld": SGLD, "split_sgld": SplitSGLD}
NAMES = tuple(_BY_NAME)


def get(sampler: str | Sampler) -> Sampler:
    """Returns the sampler that a name stands for, or the sampler itself.

    Args:
        sampler: One of `NAMES`, or a `Sampler` object.

    Returns:
        A sampler.

    Raises:
        ValueError: If there is no such sampler.

    Example:
    >>> get("sgld")
    SGLD(momentum=0.9, nesterov=True)
    """
    if isinstance(sampler, Sampler):
        return sampler
    validation.require(
        isinstance(sampler, str) and sampler in _BY_NAME,
        "sampler",
        f"a `Sampler` or one of {sorted(_BY_NAME)}",
        repr(sampler),
    )
    return _BY_NAME[sampler]()
