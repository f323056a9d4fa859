"""Hyper-parameters that change: over the updates, or from weight to weight.

One rule holds for all: what is callable is a schedule, which is called with the
number of the update, a scalar tensor, and returns a scalar. `PerVariable` wraps
what depends on the variable.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import validation

# A number, or a function from the number of the update to one.
Schedulable = float | Callable[[tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable(package="entropy_keras")
class ExponentialScope(keras.optimizers.schedules.LearningRateSchedule):
    """A scope that grows exponentially with the number of updates ("scoping").

    A small scope first lets the chain look far, a large one later keeps it
    close to the weights.

    ```
    scope = min(initial_scope * (1 + growth_rate)**update, maximum_scope)
    ```

    The inner loop of the `SGLD` sampler diverges once
    `langevin_learning_rate * scope` reaches 2, and every growing scope gets
    there without a cap.

    Args:
        initial_scope: Scope at update 0, a positive float.
        growth_rate: Relative growth at each update, a non-negative float
            (γ1 in the literature; 1e-3 is the published value).
        maximum_scope: The cap, a float of at least `initial_scope`, or `None`
            for no cap.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> scope = ExponentialScope(0.5, 1.0, maximum_scope=3.0)
    >>> [float(scope(update)) for update in range(4)]
    [0.5, 1.0, 2.0, 3.0]

    References:
        Chaudhari et al., "Entropy-SGD: Biasing Gradient Descent Into Wide
        Valleys", ICLR 2017, section 4.3 of that text.
    """

    def __init__(
        self,
        initial_scope: float,
        growth_rate: float,
        maximum_scope: float | None = None,
    ) -> None:
        validation.require(
            validation.is_positive(initial_scope),
            "initial_scope",
            "a positive float",
            initial_scope,
        )
        validation.require(
            validation.is_number(growth_rate, 0.0),
            "growth_rate",
            "a non-negative float",
            growth_rate,
        )
        validation.require(
            maximum_scope is None
            or validation.is_number(maximum_scope, initial_scope),
            "maximum_scope",
            f"a float of at least initial_scope={initial_scope}, or None",
            maximum_scope,
        )
        self.initial_scope = float(initial_scope)
        self.growth_rate = float(growth_rate)
        self.maximum_scope = (
            None if maximum_scope is None else float(maximum_scope)
        )

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the scope at an update.

        Args:
            step: Number of the update, a scalar.

        Returns:
            A scalar tensor of Keras's float type.
        """
        update = tf.cast(step, keras.config.floatx())
        # Not a power: its base would be rounded, once per update.
        growth = tf.exp(update * math.log1p(self.growth_rate))
        scope = self.initial_scope * growth
        if self.maximum_scope is not None:
            scope = tf.minimum(scope, self.maximum_scope)
        return scope

    def get_config(self) -> dict[str, float | None]:
        """Returns the arguments of the schedule, as JSON can hold them.

        Returns:
            A dictionary that `from_config` takes.
        """
        return {
            "initial_scope": self.initial_scope,
            "growth_rate": self.growth_rate,
            "maximum_scope": self.maximum_scope,
        }


class _OfFunction:
    """What holds a function, and is saved if that is registered with Keras."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        validation.require(
            callable(function), "function", "a function", function
        )
        self.function = function

    def get_config(self) -> dict[str, Any]:
        """Returns the function, as JSON can hold it.

        Returns:
            A dictionary that `from_config` takes.
        """
        function = keras.saving.serialize_keras_object(self.function)
        return {"function": function}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns what `get_config` described.

        Args:
            config: The dictionary.

        Returns:
            An equal object.
        """
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(function)


@keras.saving.register_keras_serializable(package="entropy_keras")
class PerVariable(_OfFunction):
    """A hyper-parameter that differs from variable to variable.

    Args:
        function: Takes a trainable `keras.Variable`, returns its value: a
            number, or a schedule over updates. To save the optimizer, register
            the function with `keras.saving.register_keras_serializable`.

    Raises:
        ValueError: If `function` is not callable.

    Example:
    >>> noisy = PerVariable(lambda v: 1e-4 if "kernel" in v.path else 0.0)
    >>> optimizer = entropy_keras.EntropySGD(temperature=noisy)
    """


@keras.saving.register_keras_serializable(package="entropy_keras")
class CalledSchedule(
    _OfFunction, keras.optimizers.schedules.LearningRateSchedule
):
    """Makes a Keras schedule of a function of the number of the update.

    Args:
        function: Takes a scalar, returns a scalar.
    """

    def __call__(self, step: Any) -> Any:
        """Returns the value at an update.

        Args:
            step: Number of the update.

        Returns:
            A scalar.
        """
        return self.function(step)


def at(value: Any, update: tf.Tensor | int, variable: Any = None) -> Any:
    """Returns a hyper-parameter at an update.

    Args:
        value: A number, a schedule or a `PerVariable`.
        update: Number of the update.
        variable: The variable that a `PerVariable` is asked for.

    Returns:
        A number or a scalar tensor.
    """
    if isinstance(value, PerVariable):
        value = value.function(variable)
    return value(update) if callable(value) else value


def scalar(value: Any, dtype: str | tf.DType) -> tf.Tensor:
    """Returns a number as a tensor, never by way of a narrower type.

    Args:
        value: A number or a scalar tensor.
        dtype: Type of the result.

    Returns:
        A scalar tensor.
    """
    if isinstance(value, float | int):
        return tf.constant(value, dtype)
    return tf.cast(value, dtype)


def number(value: Any) -> float:
    """Returns a learning rate as it is now.

    Args:
        value: A number, a tensor or a variable, which under a strategy no
            `float` takes.

    Returns:
        The number.
    """
    return float(keras.ops.convert_to_numpy(value))


def check(
    value: Any,
    argument: str,
    *,
    positive: bool = False,
    per_variable: bool = False,
    or_none: str = "",
) -> None:
    """Refuses what is neither a number in range nor a schedule.

    Args:
        value: The value.
        argument: Its name.
        positive: Whether 0 is out of range.
        per_variable: Whether it may differ from variable to variable.
        or_none: What `None` means, if it is allowed.

    Raises:
        ValueError: If it cannot be.
    """
    sign = "positive" if positive else "non-negative"
    kinds = f"a {sign} float, a schedule (a function of the update)"
    kinds += ", a `PerVariable`" if per_variable else ""
    kinds += f", or None {or_none}" if or_none else ""
    in_range = validation.is_positive if positive else validation.is_number
    if isinstance(value, PerVariable):
        holds = per_variable
    elif callable(value):
        holds = _takes_an_update(value)
    else:
        holds = (value is None and bool(or_none)) or (
            in_range(value) and value >= 0
        )
    validation.require(holds, argument, kinds, value)


def _takes_an_update(schedule: Callable[..., Any]) -> bool:
    """Tells whether a schedule gives a number when called with an update.

    Args:
        schedule: The schedule.

    Returns:
        Whether it does.
    """
    try:
        with tf.init_scope():
            return int(tf.size(schedule(tf.constant(0, tf.int64)))) == 1
    except TypeError:
        return False
