"""What every sampler of the chain is made of: `Sampler`, `Setting`, helpers.

A sampler draws from the Gibbs distribution
`exp(-(f(x') + scope/2 * (x' - anchor)' M**-1 (x' - anchor)) / temperature)`,
where M, the metric, is diagonal and 1 unless told else. It is a frozen value
with pure functions on lists of tensors, one for each variable. Between the
steps of an update it remembers a `memory` of its own making; what is to last
from update to update it returns from `finish`, and is given again at `start`.
"""

import abc
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import parts
from entropy_keras import schedules

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


class Sampler(parts.Part, abc.ABC):
    """A chain's steps. Subclasses are frozen dataclasses.

    In what follows every list has one entry for each variable. The noise of a
    variable is a tensor of standard normals of its shape, `None` where its
    temperature is 0.
    """

    #: Step size η' if the user names none; `None` ties it to the outer one.
    default_step_size: float | None = 0.1
    #: Whether positions depend on gradients: else only their mean is of use.
    uses_gradient: bool = True

    @property
    def draws_at_start(self) -> bool:
        """Whether `start` looks at its noise, which is drawn if so."""
        return True

    @property
    def samples_gibbs_law(self) -> bool:
        """Whether it samples the Gibbs law of the loss as it is."""
        return self.uses_gradient

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

    def rate(
        self, position: Tensors, memory: Any, settings: Sequence[Setting]
    ) -> tf.Tensor:
        """Returns the step size that the next step has.

        Args:
            position: Where the chain is.
            memory: What `start` or the step before returned.
            settings: One for each variable.

        Returns:
            A scalar.
        """
        del position, memory
        return settings[0].step_size

    def finish(self, memory: Any) -> Any:
        """Returns what is to last until the next update.

        Args:
            memory: That after the last step.

        Returns:
            A structure like `initial_slots`.
        """
        del memory
        return ()

    def of_noise(self) -> "Sampler | None":
        """Returns the sampler that moves the injected noise's own path.

        That path is a chain around 0 without any loss. If the step of a sampler
        is linear in position, gradient and noise, a position is what the same
        chain would be without noise, plus the path, as far as the gradients are
        the same.

        Returns:
            A sampler, which is given the slots of this one at its `start`;
            `None`, the default, if the noise does not move linearly.
        """
        return None

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

    def check_stability(self, step_size: float, scope: float) -> None:
        """Refuses a step size with which the pull of the scope diverges.

        Args:
            step_size: The largest step size η' known in advance.
            scope: The largest scope γ known in advance.

        Raises:
            ValueError: If the chain diverges whatever the loss.
        """


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


def relaxation_time(step_size: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Returns (1 - exp(-step_size * rate)) / rate, and its limit at rate 0.

    Args:
        step_size: A time.
        rate: A rate of decay, or of growth if negative.

    Returns:
        A tensor of that shape.
    """
    safe_rate = tf.where(rate != 0, rate, tf.ones_like(rate))
    relaxed = -tf.math.expm1(-step_size * safe_rate) / safe_rate
    return tf.where(rate != 0, relaxed, step_size)


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


def stationary(noise: tf.Tensor, setting: Setting) -> tf.Tensor:
    """Returns a draw of the displacement under a flat loss.

    Args:
        noise: Standard normals.
        setting: The setting of the variable, of positive scope.

    Returns:
        A tensor of the shape of `noise`.
    """
    deviation = tf.sqrt(setting.temperature / setting.scope)
    return spread(deviation, noise, setting.metric)
