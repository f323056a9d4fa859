"""The rule of a Keras optimizer as the kinetics of the chain."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import keras_private
from entropy_keras import kinetics
from entropy_keras import validation

Tensors = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class InnerOptimizer(kinetics.Sampler):
    """Steps of a Keras optimizer, with the pull of the scope and the noise.

    ```
    after = position after one step of `rule` with the gradient
    position = after - step_size * scope * (position - anchor)
    position += sqrt(2 * step_size * temperature * M) * noise
    ```

    The step size is the rule's own learning rate, at its own count of steps, so
    `langevin_learning_rate` is left out. With `persistent`, its moments and
    count go on from update to update and are saved; otherwise each update
    begins with new ones, as momentum does in the published method. This is the
    method with Adam "in both loops" (section 4.3 of the paper), and with an
    outer Nesterov step the inner half of DiLoCo.

    The rule moves each variable as in training, with its weight decay and what
    is excluded from that, its clipping, and the constraint of the variable. M
    changes the noise alone.

    Args:
        rule: A `keras.optimizers.Optimizer` such as `Adam(1e-3)`. It serves as
            a description: its own state is never used.
        persistent: Whether its state goes on from update to update.

    Raises:
        ValueError: If `rule` is no optimizer or has an average, accumulation
            or loss scaling of its own.

    Example:
    >>> adam = InnerOptimizer(keras.optimizers.Adam(0.01))
    >>> optimizer = entropy_keras.EntropySGD(sampler=adam)
    >>> optimizer.langevin_learning_rate is None
    True

    References:
        Chaudhari et al., arXiv:1611.01838v1, section 4.3; Douillard et al.,
        "DiLoCo", arXiv:2311.08105, Algorithm 1.
    """

    rule: keras.optimizers.Optimizer
    persistent: bool = True
    _built: dict[Any, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    default_step_size = None
    samples_gibbs_law = False

    def __post_init__(self) -> None:
        validation.require(
            isinstance(self.rule, keras.optimizers.Optimizer)
            and not isinstance(self.rule, keras.optimizers.LossScaleOptimizer)
            and not hasattr(self.rule, "propose"),
            "rule",
            "a `keras.optimizers.Optimizer` that takes one gradient",
            self.rule,
        )
        for argument in ("use_ema", "gradient_accumulation_steps"):
            validation.require(
                not getattr(self.rule, argument),
                argument,
                "left out of the rule of an InnerOptimizer: an average belongs "
                "to `averaging_rate` or the outer optimizer",
                getattr(self.rule, argument),
            )
        validation.require(
            self.rule.loss_scale_factor is None,
            "loss_scale_factor",
            "left out of the rule of an InnerOptimizer, whose gradients are "
            "not scaled",
            self.rule.loss_scale_factor,
        )
        validation.normalize(self)
        validation.require(
            isinstance(self.persistent, bool),
            "persistent",
            "True or False",
            self.persistent,
        )

    def check_step_size(self, step_size: Any) -> None:  # noqa: D102
        validation.require(
            step_size is None,
            "langevin_learning_rate",
            "left out or None with InnerOptimizer, whose step size is the "
            "learning rate of its rule",
            step_size,
        )

    def copy_of_rule(self) -> keras.optimizers.Optimizer:
        """Returns an unbuilt optimizer like the rule."""
        return type(self.rule).from_config(self.rule.get_config())

    def _instance(
        self, like: Sequence[Any]
    ) -> tuple[Any, list[keras.Variable]]:
        """Returns a built copy of the rule, and the variables it is for."""
        key = tuple((tuple(t.shape), tf.as_dtype(t.dtype).name) for t in like)
        if key not in self._built:
            with tf.init_scope():
                rule = self.copy_of_rule()
                variables = [keras_private.stand_in(t) for t in like]
                kept = keras_private.excluded_from_decay(self.rule, like)
                if kept:
                    rule.exclude_from_weight_decay([variables[i] for i in kept])
                rule.build(variables)
            self._built[key] = rule, variables
        return self._built[key]

    def _initial_state(self, like: Sequence[Any]) -> Tensors:
        rule, _ = self._instance(like)
        return [tf.convert_to_tensor(v) for v in _state_of(rule)]

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        # Later calls have tensors, which know neither names nor constraints.
        self._built.clear()
        state = self._initial_state(variables)
        return state if self.persistent else ()

    @property
    def draws_at_start(self) -> bool:  # noqa: D102
        return False

    def start(  # noqa: D102
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[kinetics.Setting],
        slots: Any,
    ) -> Any:
        del noise, settings
        return slots if self.persistent else self._initial_state(position)

    def step_size(self, like: Sequence[Any], count: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of the rule.

        Args:
            like: Tensors of the shapes of the weights.
            count: How many steps it has taken.

        Returns:
            A scalar.
        """
        rule, _ = self._instance(like)
        with keras_private.Updates([(rule.iterations, count)]):
            return tf.convert_to_tensor(rule.learning_rate)

    def count(self, like: Sequence[Any], memory: Any) -> tf.Tensor:
        """Returns how many steps the rule has taken.

        Args:
            like: Tensors of the shapes of the weights.
            memory: What the rule remembers.

        Returns:
            An integer scalar.
        """
        rule, _ = self._instance(like)
        return next(
            value
            for v, value in zip(_state_of(rule), memory, strict=True)
            if v is rule.iterations
        )

    def rate(  # noqa: D102
        self,
        position: Tensors,
        memory: Any,
        settings: Sequence[kinetics.Setting],
    ) -> tf.Tensor:
        del settings
        return self.step_size(position, self.count(position, memory))

    def of_noise(self) -> kinetics.Sampler:  # noqa: D102
        return _NoiseOfRule(self)  # noise does not enter the moments

    def step(  # noqa: D102
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[kinetics.Setting],
    ) -> tuple[Tensors, Any]:
        rule, variables = self._instance(position)
        state = _state_of(rule)
        values = list(
            zip([*variables, *state], [*position, *memory], strict=True)
        )
        step_size = self.step_size(position, self.count(position, memory))
        changed = {
            id(v): x
            for v, x in keras_private.step_of_rule(
                rule, gradients, variables, values
            )
        }
        moved = []
        for i, variable in enumerate(variables):
            after = changed.get(id(variable), position[i])
            moved.append(
                _pulled(after, position[i], anchor[i], noise[i], step_size,
                        settings[i])
            )  # fmt: skip
        return moved, [
            changed.get(id(v), m) for v, m in zip(state, memory, strict=True)
        ]

    def finish(self, memory: Any) -> Any:  # noqa: D102
        return memory if self.persistent else ()

    def get_config(self) -> dict[str, Any]:  # noqa: D102
        return {
            "rule": keras.saving.serialize_keras_object(self.rule),
            "persistent": self.persistent,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InnerOptimizer":  # noqa: D102
        rule = keras.saving.deserialize_keras_object(config["rule"])
        return cls(rule, config["persistent"])


@dataclasses.dataclass(frozen=True)
class _NoiseOfRule(kinetics.Sampler):
    """The path of the noise beside the steps of a rule, which counts them."""

    inner: InnerOptimizer

    def start(
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[kinetics.Setting],
        slots: Any,
    ) -> Any:
        memory = self.inner.start(position, noise, settings, slots)
        return self.inner.count(position, memory)

    def step(
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[kinetics.Setting],
    ) -> tuple[Tensors, Any]:
        step_size = self.inner.step_size(position, memory)
        moved = [
            _pulled(p, p, x, xi, step_size, setting)
            for p, x, xi, setting in zip(
                position, anchor, noise, settings, strict=True
            )
        ]
        return moved, memory + 1


def _state_of(rule: Any) -> list[keras.Variable]:
    """Returns what a rule remembers, its learning rate excepted."""
    return [v for v in rule.variables if "learning_rate" not in v.path]


def _pulled(
    after: tf.Tensor,
    position: tf.Tensor,
    anchor: tf.Tensor,
    noise: tf.Tensor | None,
    step_size: tf.Tensor,
    setting: kinetics.Setting,
) -> tf.Tensor:
    """Adds the pull of the scope and the noise to a step.

    Returns:
        The position after it.
    """
    dtype = position.dtype
    step_size = tf.cast(step_size, setting.scope.dtype)
    pull = tf.cast(step_size * setting.scope, dtype)
    after -= pull * (position - anchor)
    if noise is not None:
        deviation = tf.sqrt(2.0 * step_size * setting.temperature)
        after += kinetics.spread(deviation, noise, setting.metric)
    return after
