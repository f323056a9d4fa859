"""The hyper-parameters of Entropy-SGD: one frozen value that checks itself.

To add one: add a field to `HyperParameters`, a check, a line to the docstring
of `EntropySGD`, and what it does to `entropy_sgd`. Signature, attribute, config
and the flag of the training program follow from the field.
"""

import dataclasses
import inspect
import random
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import geometry
from entropy_keras import noise
from entropy_keras import samplers
from entropy_keras import schedules
from entropy_keras import validation

# The paper's ratio of the inner to the outer learning rate, section 4.3.
TIED_STEP_RATIO = 0.1
STARTS = ("anchor", "stationary")


class Unset:
    """Stands for an argument that was not given, where `None` means something.

    What it becomes depends on other arguments.
    """

    def __repr__(self) -> str:
        return "<by estimator or sampler>"


UNSET = Unset()


def _field(default: Any, flag: str = "", choices: tuple[str, ...] = ()) -> Any:
    """Returns a field with the sentence of help of its flag, if it has one."""
    metadata = {"flag": flag, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """What `EntropySGD` is given; see there for what each means.

    Raises:
        ValueError: If one is out of its range or contradicts another.
    """

    scope: Any = _field(0.03, "Scope, at the first update.")
    num_langevin_steps: int = _field(
        5, "Inner steps L of Entropy-SGD per update."
    )
    langevin_learning_rate: Any = _field(
        UNSET,
        "Inner step size; 0 ties it to 0.1 times the outer learning rate.",
    )
    temperature: Any = _field(5e-9, "Temperature of the noise; 0 for none.")
    averaging_rate: Any = _field(
        UNSET,
        "Weight of the new sample in the running mean, 0.75 unless told; 0 for "
        "the plain mean.",
    )
    data_weight: float = _field(
        0.0, "Weight of the gradient of the loss itself."
    )
    scale_by_scope: bool = _field(
        False, "Whether the scope multiplies the displacement."
    )
    estimator: Any = _field(
        "displacement", "What the inner loop is turned into.", estimators.NAMES
    )
    sampler: Any = _field("sgld", "Inner kinetics.", samplers.NAMES)
    start: str = _field("anchor", "Where the inner loop starts.", STARTS)
    share_batch: bool = _field(
        False, "Whether one mini-batch serves the whole update."
    )
    seed: Any = _field(None)
    diagnostics: bool = _field(
        False, "Whether to report the inner loop beside the metrics."
    )
    metric: Any = _field(
        "identity",
        "What steps, scope and noise are measured in.",
        geometry.NAMES,
    )

    def __post_init__(self) -> None:
        validation.normalize(self)
        self._resolve("sampler", samplers.get(self.sampler))
        self._resolve("estimator", estimators.get(self.estimator))
        self._resolve("metric", geometry.get(self.metric))
        if self.seed is None:
            # From where Keras draws its seeds, so `set_random_seed` governs it.
            self._resolve("seed", random.randint(1, 10**9))
        if self.averaging_rate is UNSET:
            rate = self.estimator.default_averaging_rate
            self._resolve("averaging_rate", rate)
        if self.langevin_learning_rate is UNSET:
            rate = self.sampler.default_step_size
            self._resolve("langevin_learning_rate", rate)
        self._check()

    def _resolve(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        """Refuses the first hyper-parameter that cannot be.

        Raises:
            ValueError: If there is one; it is named with its value.
        """
        schedules.check(self.scope, "scope", per_variable=True)
        schedules.check(self.temperature, "temperature", per_variable=True)
        self.sampler.check_step_size(self.langevin_learning_rate)
        rate = self.averaging_rate
        rules = (
            ("num_langevin_steps",
             validation.is_integer(self.num_langevin_steps, 0)
             and self.num_langevin_steps <= noise.MAXIMUM_STEPS,
             f"an integer from 0 to {noise.MAXIMUM_STEPS}"),
            ("averaging_rate",
             rate is None or (validation.is_positive(rate) and rate <= 1),
             "a float in (0, 1], or None for the plain mean"),
            ("averaging_rate",
             rate is None or self.estimator.default_averaging_rate is not None,
             "left out or None with estimator='mean_gradient', which takes the "
             "plain mean"),
            ("estimator",
             not self.estimator.subtract_noise
             or self.sampler.of_noise() is not None,
             "without subtract_noise with the sampler "
             f"{type(self.sampler).__name__}, whose noise does not move "
             "linearly: take another sampler or the plain `Displacement()`"),
            ("estimator",
             self.sampler.uses_gradient
             or self.estimator.default_averaging_rate is None,
             f"'mean_gradient' with the sampler {type(self.sampler).__name__}, "
             "whose positions do not depend on the loss"),
            ("data_weight", validation.is_number(self.data_weight, 0.0),
             "a non-negative float"),
            ("data_weight", self.num_langevin_steps or self.data_weight,
             "positive when num_langevin_steps=0, or the gradient is zero"),
            ("start", self.start in STARTS, f"one of {STARTS}"),
            ("scale_by_scope",
             not self.scale_by_scope
             or self.estimator.default_averaging_rate is not None,
             "False with estimator='mean_gradient', which has no displacement"),
            ("start",
             not self.metric.learns_from_draws or self.start == "stationary",
             "'stationary' with metric='learned', which learns from a draw "
             "around the weights"),
            ("temperature",
             not self.metric.learns_from_draws
             or not validation.is_number(self.temperature)
             or self.temperature > 0,
             "positive with metric='learned', which learns from noise"),
            ("seed",
             validation.is_integer(self.seed, -2**63) and self.seed < 2**63,
             "a 64-bit integer or None"),
            *((name, isinstance(getattr(self, name), bool), "True or False")
              for name in ("scale_by_scope", "share_batch", "diagnostics")),
        )  # fmt: skip
        for argument, holds, expectation in rules:
            validation.require(
                bool(holds), argument, expectation, getattr(self, argument)
            )

    def check_stability(
        self, learning_rate: Any, variables: Sequence[Any] = ()
    ) -> None:
        """Refuses an inner loop that is known to diverge before it starts.

        Args:
            learning_rate: That of the outer step, a number or a tensor.
            variables: The trainable variables, where they are known: a
                `PerVariable` scope is looked at for each.

        Raises:
            ValueError: If step size and scope are too large together.
        """
        if not self.num_langevin_steps:
            return
        scope = getattr(self.scope, "maximum_scope", None)
        if scope is None:
            scope = self.scope
        step_size = self.langevin_learning_rate
        if step_size is None:
            step_size = TIED_STEP_RATIO * schedules.number(learning_rate)
        each = variables if isinstance(scope, schedules.PerVariable) else [None]
        for variable in each:
            value = float(schedules.at(scope, 0, variable))
            validation.require(
                self.start != "stationary" or value > 0,
                "scope",
                "positive with start='stationary', whose law has deviation "
                "sqrt(temperature / scope)",
                value,
            )
            self.sampler.check_stability(
                float(schedules.at(step_size, 0)), value
            )

    def config(self) -> dict[str, Any]:
        """Returns the values by name, as JSON can hold them.

        Returns:
            What `get_config` of the optimizer holds of them.
        """
        return {
            field.name: serialized(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    def settings(
        self,
        update: tf.Tensor,
        learning_rate: tf.Tensor,
        variables: Sequence[Any],
        metrics: Sequence[Any],
        dtype: str,
    ) -> list[samplers.Setting]:
        """Returns what governs each variable at an update.

        Args:
            update: Number of the update, a scalar tensor.
            learning_rate: The outer learning rate at it.
            variables: The trainable variables.
            metrics: The metric of each.
            dtype: Type of the scalars.

        Returns:
            One setting for each variable.
        """
        number = schedules.scalar
        if self.langevin_learning_rate is None:
            step_size = number(learning_rate, dtype) * TIED_STEP_RATIO
        else:
            rate = schedules.at(self.langevin_learning_rate, update)
            step_size = number(rate, dtype)

        def temperature(variable: Any) -> Any:
            value = schedules.at(self.temperature, update, variable)
            return number(value, dtype) if tf.is_tensor(value) else float(value)

        return [
            samplers.Setting(
                step_size,
                number(schedules.at(self.scope, update, variable), dtype),
                temperature(variable),
                metric,
            )
            for variable, metric in zip(variables, metrics, strict=True)
        ]


def serialized(value: Any) -> Any:
    """Returns a value of an argument as JSON can hold it.

    Args:
        value: A number, a string, a schedule or a part of the method.

    Returns:
        What `from_config` of the optimizer takes.
    """
    if callable(value) or hasattr(value, "get_config"):
        return keras.saving.serialize_keras_object(value)
    return value


def take(
    values: Sequence[Any], arguments: dict[str, Any]
) -> tuple[HyperParameters, dict[str, Any]]:
    """Takes the hyper-parameters out of the arguments of a call.

    Args:
        values: Positional arguments, in the order of the fields.
        arguments: Keyword arguments.

    Returns:
        The hyper-parameters, and the keyword arguments that are others.
    """
    names = [field.name for field in dataclasses.fields(HyperParameters)]
    known = {n: v for n, v in arguments.items() if n in names}
    others = {n: v for n, v in arguments.items() if n not in names}
    return HyperParameters(*values, **known), others


def expose(cls: Any) -> Any:
    """Gives an optimizer class a signature and attributes from the fields.

    Args:
        cls: A class whose `__init__` takes `learning_rate`, then anything, and
            which keeps the value as `hyperparameters`.

    Returns:
        The class.
    """
    signature = inspect.signature(cls.__init__)
    own = list(signature.parameters.values())
    fields = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=field.type,
        )
        for field in dataclasses.fields(HyperParameters)
    ]
    # self and learning_rate; then the fields; then what is by keyword.
    keywords = [p for p in own if p.kind is not p.VAR_POSITIONAL][2:]
    cls.__signature__ = signature.replace(
        parameters=[own[1], *fields, *keywords]
    )
    for field in fields:
        setattr(cls, field.name, property(_reader(field.name)))
    return cls


def _reader(name: str) -> Callable[[Any], Any]:
    def read(optimizer: Any) -> Any:
        return getattr(optimizer.hyperparameters, name)

    read.__doc__ = f"The hyper-parameter `{name}`, as given."
    return read
