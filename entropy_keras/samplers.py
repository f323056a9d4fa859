"""The kinetics of the Langevin chain: one inner step, per sampler.

A sampler draws from the Gibbs distribution
`exp(-(f(x') + scope/2 * |x' - anchor|**2) / temperature)`. It is a pure
function on the tensors of one variable; what it remembers lives within one
update only and starts from `initial_state`.
"""

import abc
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import validation

State = tuple[tf.Tensor, ...]


class Sampler(abc.ABC):
    """One step of a chain. Subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def initial_state(self, position: tf.Tensor) -> State:
        """Returns what the chain remembers before its first step.

        Args:
            position: Where the chain starts, a tensor of any shape.

        Returns:
            A tuple of tensors, empty for a sampler without memory.
        """

    @abc.abstractmethod
    def step(
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        state: State,
        *,
        step_size: tf.Tensor,
        scope: tf.Tensor,
        temperature: float,
    ) -> tuple[tf.Tensor, State]:
        """Moves the chain by one step.

        Args:
            position: Where the chain is (x').
            gradient: Gradient of the loss f there, of the same shape.
            anchor: The weights that the scope pulls to (x).
            noise: Standard normals of the same shape; `None` at temperature 0.
            state: What `initial_state` or the step before returned.
            step_size: Scalar step size η', in the type of `position` or wider.
            scope: Scalar scope γ, likewise.
            temperature: Temperature T, a non-negative float.

        Returns:
            The new position and the new state.
        """

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


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class SGLD(Sampler):
    """Stochastic gradient Langevin dynamics, with momentum on the data term.

    ```
    velocity = momentum * velocity - step_size * gradient
    move = momentum * velocity - step_size * gradient   # nesterov
    move = velocity                                     # otherwise
    position += move - step_size * scope * (position - anchor)
    position += sqrt(2 * step_size * temperature) * noise
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
    >>> position, _ = SGLD(momentum=0.0).step(
    ...     tf.constant([2.0]),
    ...     tf.constant([1.0]),
    ...     tf.constant([0.0]),
    ...     None,
    ...     (),
    ...     step_size=tf.constant(0.1),
    ...     scope=tf.constant(1.0),
    ...     temperature=0.0,
    ... )
    >>> round(float(position[0]), 6)  # 2 - 0.1 * (1 + 1 * 2)
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

    def initial_state(self, position: tf.Tensor) -> State:  # noqa: D102
        return (tf.zeros_like(position),) if self.momentum else ()

    def step(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        state: State,
        *,
        step_size: tf.Tensor,
        scope: tf.Tensor,
        temperature: float,
    ) -> tuple[tf.Tensor, State]:
        # Differences, since TensorFlow merges chains of sums and adds their
        # terms in an order that varies from run to run.
        dtype = position.dtype
        step = tf.cast(step_size, dtype) * gradient
        pull = tf.cast(step_size * scope, dtype) * (position - anchor)
        if self.momentum:
            velocity = self.momentum * state[0] - step
            move = self.momentum * velocity - step
            position = position + (move if self.nesterov else velocity) - pull
            state = (velocity,)
        else:
            position = position - step - pull
        if noise is not None:
            deviation = tf.sqrt(2.0 * step_size * temperature)
            position += tf.cast(deviation, dtype) * noise
        return position, state

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
class SplitSGLD(Sampler):
    """Langevin dynamics that solves the pull of the scope exactly.

    The drift towards the anchor and its noise form an Ornstein-Uhlenbeck
    process, whose transition over a time `step_size` is known:

    ```
    decay = exp(-step_size * scope)
    position = anchor + decay * (position - anchor)
    position -= (1 - decay) / scope * gradient
    position += sqrt(temperature * (1 - decay**2) / scope) * noise
    ```

    It tends to `SGLD(momentum=0)` as `step_size * scope` goes to 0, and is
    stable for every scope, which a growing scope needs.

    Example:
    >>> position, _ = SplitSGLD().step(
    ...     tf.constant([2.0]),
    ...     tf.constant([0.0]),
    ...     tf.constant([1.0]),
    ...     None,
    ...     (),
    ...     step_size=tf.constant(50.0),
    ...     scope=tf.constant(2.0),
    ...     temperature=0.0,
    ... )
    >>> float(position[0])  # a pull this strong ends at the anchor
    1.0
    """

    def initial_state(self, position: tf.Tensor) -> State:  # noqa: D102
        del position
        return ()

    def step(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        state: State,
        *,
        step_size: tf.Tensor,
        scope: tf.Tensor,
        temperature: float,
    ) -> tuple[tf.Tensor, State]:
        dtype = position.dtype
        decay = tf.cast(tf.exp(-step_size * scope), dtype)
        gain = tf.cast(_relaxation_time(step_size, scope), dtype)
        position = anchor + decay * (position - anchor) - gain * gradient
        if noise is not None:
            time = _relaxation_time(step_size, 2.0 * scope)
            deviation = tf.sqrt(2.0 * temperature * time)
            position += tf.cast(deviation, dtype) * noise
        return position, state


def _relaxation_time(step_size: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
    """Returns (1 - exp(-step_size * rate)) / rate, step_size where rate = 0."""
    safe_rate = tf.where(rate > 0, rate, tf.ones_like(rate))
    relaxed = -tf.math.expm1(-step_size * safe_rate) / safe_rate
    return tf.where(rate > 0, relaxed, step_size)


_BY_NAME: dict[str, type[Sampler]] = {"sgld": SGLD, "split_sgld": SplitSGLD}


def get(sampler: str | Sampler) -> Sampler:
    """Returns the sampler that a name stands for, or the sampler itself.

    Args:
        sampler: `"sgld"`, `"split_sgld"`, or a `Sampler` object.

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
