"""Hyper-parameters of EntropySGD: their ranges, values and written form."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import noise
from entropy_keras import validation

# A number, or a function from the number of the update to one.
Schedulable = float | Callable[[tf.Tensor], tf.Tensor]

DEFAULT_LEARNING_RATE = 1.0
DEFAULT_AVERAGING_RATE = 0.75
# The paper's ratio of the inner to the outer learning rate, section 4.3.
TIED_STEP_RATIO = 0.1
STARTS = ("anchor", "stationary")
NAMES = (
    "scope", "num_langevin_steps", "langevin_learning_rate", "temperature",
    "averaging_rate", "data_weight", "scale_by_scope", "estimator", "sampler",
    "start", "share_batch", "seed", "diagnostics",
)  # fmt: skip
# Arguments of Keras's base class that describe the outer step, with their
# values when they are not given.
OUTER_ARGUMENTS = {
    "learning_rate": None,
    "weight_decay": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "gradient_accumulation_steps": None,
}


def check(optimizer: Any) -> None:
    """Refuses the first hyper-parameter that cannot be.

    Args:
        optimizer: An `EntropySGD` with its attributes set.

    Raises:
        ValueError: If there is one; it is named with its value.
    """
    o = optimizer
    rules = (
        ("scope", _is_schedulable(o.scope),
         "a non-negative float or a schedule"),
        ("num_langevin_steps",
         validation.is_integer(o.num_langevin_steps, 0)
         and o.num_langevin_steps <= noise.MAXIMUM_STEPS,
         f"an integer from 0 to {noise.MAXIMUM_STEPS}"),
        ("langevin_learning_rate",
         o.langevin_learning_rate is None
         or _is_schedulable(o.langevin_learning_rate, positive=True),
         "a positive float, a schedule, or None to tie it to the outer "
         "learning rate"),
        ("temperature", validation.is_number(o.temperature, 0.0),
         "a non-negative float"),
        ("averaging_rate",
         o.averaging_rate is None
         or (_is_positive(o.averaging_rate) and o.averaging_rate <= 1),
         "a float in (0, 1], or None for the plain mean"),
        ("averaging_rate",
         o.estimator != "mean_gradient"
         or o.averaging_rate in (None, DEFAULT_AVERAGING_RATE),
         "None with estimator='mean_gradient', which takes the plain mean"),
        ("data_weight", validation.is_number(o.data_weight, 0.0),
         "a non-negative float"),
        ("data_weight", o.num_langevin_steps or o.data_weight,
         "positive when num_langevin_steps=0, or the gradient is zero"),
        ("scale_by_scope", isinstance(o.scale_by_scope, bool),
         "True or False"),
        ("estimator", o.estimator in estimators.NAMES,
         f"one of {estimators.NAMES}"),
        ("start", o.start in STARTS, f"one of {STARTS}"),
        ("scope", o.start != "stationary" or o.scope != 0,
         "positive with start='stationary', whose law has deviation "
         "sqrt(temperature / scope)"),
        ("share_batch", isinstance(o.share_batch, bool), "True or False"),
        ("diagnostics", isinstance(o.diagnostics, bool), "True or False"),
        ("seed", validation.is_integer(o.seed, -2**63) and o.seed < 2**63,
         "a 64-bit integer or None"),
        *((name, getattr(o, name) is None or _is_positive(getattr(o, name)),
           "a positive float or None")
          for name in ("clipnorm", "clipvalue", "global_clipnorm")),
    )  # fmt: skip
    for argument, holds, expectation in rules:
        validation.require(
            bool(holds), argument, expectation, getattr(o, argument)
        )


def check_stability(optimizer: Any) -> None:
    """Refuses an inner loop that is known to diverge before it starts.

    Args:
        optimizer: An `EntropySGD`, complete.

    Raises:
        ValueError: If its step size and scope are too large together.
    """
    if not optimizer.num_langevin_steps:
        return
    scope = getattr(optimizer.scope, "maximum_scope", None)
    if scope is None:
        scope = at(optimizer.scope, 0)
    step_size = optimizer.langevin_learning_rate
    if step_size is None:
        step_size = TIED_STEP_RATIO * optimizer.learning_rate
    optimizer.sampler.check_stability(float(at(step_size, 0)), float(scope))


def outer_optimizer(
    optimizer: Any, arguments: dict[str, Any]
) -> keras.optimizers.Optimizer:
    """Returns the outer optimizer, or makes the default one.

    Args:
        optimizer: What the user gave, or `None`.
        arguments: The arguments of `OUTER_ARGUMENTS` that the user gave.

    Returns:
        A Keras optimizer.

    Raises:
        ValueError: If an argument cannot be, or belongs to `optimizer`.
    """
    for name, value in arguments.items():
        validation.require(
            name != "loss_scale_factor" or value is None,
            name,
            "None: wrap the optimizer in `keras.optimizers.LossScaleOptimizer`,"
            " which `compile` does by itself under mixed_float16",
            value,
        )
    arguments = OUTER_ARGUMENTS | arguments
    arguments.pop("loss_scale_factor", None)
    if optimizer is None:
        return _default_outer(arguments)
    validation.require(
        isinstance(optimizer, keras.optimizers.Optimizer)
        and not hasattr(optimizer, "num_langevin_steps"),
        "outer_optimizer",
        "a `keras.optimizers.Optimizer` other than EntropySGD, or None",
        optimizer,
    )
    for name, value in arguments.items():
        validation.require(
            name in OUTER_ARGUMENTS and value == OUTER_ARGUMENTS[name],
            name,
            f"set on the outer_optimizer, {type(optimizer).__name__}, instead",
            value,
        )
    return optimizer


def _default_outer(arguments: dict[str, Any]) -> keras.optimizers.SGD:
    learning_rate = arguments["learning_rate"]
    if learning_rate is None:
        learning_rate = DEFAULT_LEARNING_RATE
    validation.require(
        _is_schedulable(learning_rate),
        "learning_rate",
        "a non-negative float, a schedule or a callable",
        learning_rate,
    )
    weight_decay = arguments["weight_decay"]
    validation.require(
        weight_decay is None or validation.is_number(weight_decay, 0.0),
        "weight_decay",
        "a non-negative float or None",
        weight_decay,
    )
    if not callable(learning_rate):
        learning_rate = float(learning_rate)
    return keras.optimizers.SGD(
        **(arguments | {"learning_rate": learning_rate})
    )


def _is_positive(value: object) -> bool:
    return validation.is_number(value, 0.0) and value != 0


def _is_schedulable(value: object, *, positive: bool = False) -> bool:
    if callable(value):
        return True
    return _is_positive(value) if positive else validation.is_number(value, 0.0)


def at(value: Any, update: tf.Tensor | int) -> Any:
    """Returns a hyper-parameter at an update.

    Args:
        value: A number or a schedule.
        update: Number of the update.

    Returns:
        A number or a scalar tensor.
    """
    return value(update) if callable(value) else value


def scalar(value: Any, dtype: str) -> tf.Tensor:
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


def serialized(value: Any) -> Any:
    """Returns a hyper-parameter as JSON can hold it.

    Args:
        value: A number, a schedule or another object known to Keras.

    Returns:
        A number or a dictionary that Keras can turn back.
    """
    if callable(value) or hasattr(value, "get_config"):
        return keras.saving.serialize_keras_object(value)
    return value
