"""Optimizers that need several gradients of the loss per update."""

import abc
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import keras
import tensorflow as tf

from entropy_keras import clipping
from entropy_keras import keras_private
from entropy_keras import schedules
from entropy_keras import validation

Tensors = list[tf.Tensor]

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
CHAINS = ("per_replica", "synchronized")


class Clock(NamedTuple):
    """What time it is, and where.

    Attributes:
        update: Number of the update, an integer scalar that counts from 0.
        learning_rate: The outer learning rate at it, a scalar.
        replica: Number of the replica under `tf.distribute`, else 0.
    """

    update: tf.Tensor
    learning_rate: tf.Tensor
    replica: tf.Tensor | int


class Proposal(NamedTuple):
    """What an update would do.

    Attributes:
        gradients: What the outer optimizer takes for a gradient, one tensor for
            each variable.
        slots: What the optimizer remembers from now on, a structure like its
            `initial_slots`.
        measurements: Scalars to show beside the metrics, by name.
    """

    gradients: Tensors
    slots: Any = ()
    measurements: dict[str, tf.Tensor] = {}


class GradientAt(Protocol):
    """How `propose` comes by gradients; the model supplies one per update.

    Attributes:
        variables: The trainable variables, for their names and shapes.
        jit_compile: Whether what runs beside it may be compiled with XLA.
    """

    variables: Sequence[keras.Variable]
    jit_compile: bool

    @property
    def first(self) -> Tensors:
        """The gradients of the first call of the update."""

    def __call__(self, position: Tensors, index: Any) -> Tensors:
        """Returns the gradient of the loss, clipped as the arguments ask.

        It is that of the whole loss, regularization included, and 0 for
        variables that the loss does not depend on. The first call of an update
        is the one that is reported, and whose statistics of batch normalization
        are kept: ask for the gradient at the weights themselves first.

        Args:
            position: Weights to compute it at, one tensor for each variable.
            index: Number of the mini-batch, from 0 to
                `minibatches_per_update` - 1, an integer or a scalar tensor.

        Returns:
            One tensor for each variable.
        """

    def repeat(
        self, step: Callable[[Any, Any], Any], state: Any, num_steps: int
    ) -> Any:
        """Calls a function over and over, in one loop of the graph.

        Random seeds and recurrent states go on from call to call, which they do
        in a `tf.while_loop` of one's own only if it makes no call.

        Args:
            step: Takes the number of the call from 0 on and the state, and
                returns the next state, of the same structure and shapes.
            state: A structure of tensors.
            num_steps: How many calls.

        Returns:
            The last state.
        """


class MultiGradientOptimizer(keras.optimizers.Optimizer, abc.ABC):
    """Base of Keras optimizers that need several gradients per update.

    A subclass says how many gradients and mini-batches an update takes and
    supplies one pure function, `propose`, from the weights to what an outer
    optimizer takes for their gradient. `EntropyModel` trains it: in XLA or not,
    in mixed precision, with any kind of data, on any number of replicas, with a
    bad batch stopped before it changes anything.

    Args:
        learning_rate: Outer learning rate: a float or a schedule over updates.
            Belongs to `outer_optimizer` if one is given.
        outer_optimizer: The `keras.optimizers.Optimizer` of the outer step.
            Defaults to plain `SGD` at `learning_rate`.
        chains: Under `tf.distribute`, `"per_replica"` lets each replica make a
            proposal of its own from its part of each batch, and averages these:
            one all-reduce per update. `"synchronized"` averages each gradient,
            which gives the result of a single device.
        groups_per_update: In how many groups, one after another, `fit` loads
            the mini-batches of an update; 1 holds all of them in memory at
            once. More are for optimizers that take each gradient in a step of
            one `repeat`, and for a `tf.data.Dataset`; a divisor of
            `minibatches_per_update`.
        clipnorm: Largest norm of the gradient of each variable. Clipping acts
            on each gradient of the loss.
        clipvalue: Largest absolute value of each entry of a gradient.
        global_clipnorm: Largest norm of the gradient of all variables together.
        name: Name of the optimizer.
        **outer_arguments: `weight_decay`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency` and `gradient_accumulation_steps` of
            `keras.optimizers.Optimizer`, for the default outer optimizer.

    Raises:
        ValueError: If an argument is out of its range or belongs to
            `outer_optimizer`.

    Example:
    >>> class Lookahead(entropy_keras.MultiGradientOptimizer):
    ...     '''Five steps of SGD, then half the way (Zhang et al. 2019).'''
    ...
    ...     gradients_per_update = 5
    ...
    ...     def propose(self, gradient_at, anchor, slots, clock):
    ...         def step(index, position):
    ...             gradients = gradient_at(position, index)
    ...             return [
    ...                 p - 0.1 * g
    ...                 for p, g in zip(position, gradients, strict=True)
    ...             ]
    ...
    ...         end = gradient_at.repeat(step, anchor, 5)
    ...         difference = [a - p for a, p in zip(anchor, end, strict=True)]
    ...         return entropy_keras.Proposal(difference)
    >>> model = entropy_keras.EntropyModel.from_model(
    ...     keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    ... )
    >>> model.compile(Lookahead(0.5), loss="mse")
    >>> x = np.linspace(-1, 1, 320)[:, None]
    >>> history = model.fit(x, 2 * x, batch_size=4, epochs=20, verbose=0)
    >>> history.history["loss"][-1] < 1e-3
    True
    """

    default_learning_rate = 0.01
    #: What `propose` returns, for error messages.
    gradient_name = "gradient"
    _num_carried_states = 0
    _slot_structure: Any = ()

    def __init__(
        self,
        learning_rate: Any = None,
        *,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        chains: str = "per_replica",
        groups_per_update: int = 1,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **outer_arguments: Any,
    ) -> None:
        limits = {
            "clipnorm": clipnorm,
            "clipvalue": clipvalue,
            "global_clipnorm": global_clipnorm,
        }
        for argument, limit in limits.items():
            validation.require(
                limit is None or validation.is_positive(limit),
                argument,
                "a positive float or None",
                limit,
            )
        validation.require(
            chains in CHAINS, "chains", f"one of {CHAINS}", chains
        )
        validation.require(
            validation.is_integer(groups_per_update, 1),
            "groups_per_update",
            "a positive integer",
            groups_per_update,
        )
        super().__init__(
            learning_rate=0.0,  # never read: it is the outer optimizer's
            name=name,
            **limits,
        )
        self.chains = chains
        self.groups_per_update = int(groups_per_update)
        self._has_default_outer = outer_optimizer is None
        self.outer_optimizer = self._checked_outer(
            outer_optimizer, {"learning_rate": learning_rate, **outer_arguments}
        )

    def _checked_outer(
        self, optimizer: Any, arguments: dict[str, Any]
    ) -> keras.optimizers.Optimizer:
        """Returns the outer optimizer, or makes the default one."""
        for name, value in arguments.items():
            validation.require(
                name != "loss_scale_factor" or value is None,
                name,
                "None: wrap this optimizer in "
                "`keras.optimizers.LossScaleOptimizer`, which `compile` does "
                "by itself under mixed_float16",
                value,
            )
        arguments = OUTER_ARGUMENTS | arguments
        arguments.pop("loss_scale_factor", None)
        if optimizer is None:
            return self._default_outer(arguments)
        validation.require(
            isinstance(optimizer, keras.optimizers.Optimizer)
            and not isinstance(optimizer, MultiGradientOptimizer),
            "outer_optimizer",
            "a `keras.optimizers.Optimizer` that takes one gradient, or None",
            optimizer,
        )
        validation.require(
            not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            and optimizer.loss_scale_factor is None,
            "outer_optimizer",
            "one without loss scaling, which belongs around the whole: "
            f"`LossScaleOptimizer({type(self).__name__}(...))`, as `compile` "
            "makes it under mixed_float16",
            optimizer,
        )
        for name, value in arguments.items():
            validation.require(
                name in OUTER_ARGUMENTS and value == OUTER_ARGUMENTS[name],
                name,
                f"set on the outer_optimizer, {type(optimizer).__name__}, "
                "instead",
                value,
            )
        return optimizer

    def _default_outer(
        self, arguments: dict[str, Any]
    ) -> keras.optimizers.Optimizer:
        arguments = {
            name: validation.as_python(value)
            for name, value in arguments.items()
        }
        learning_rate = arguments["learning_rate"]
        if learning_rate is None:
            learning_rate = self.default_learning_rate
        schedules.check(learning_rate, "learning_rate")
        weight_decay = arguments["weight_decay"]
        validation.require(
            weight_decay is None or validation.is_number(weight_decay, 0.0),
            "weight_decay",
            "a non-negative float or None",
            weight_decay,
        )
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if not callable(learning_rate):
            learning_rate = float(learning_rate)
        elif not isinstance(learning_rate, schedule):
            # Keras would call it without the number of the update.
            learning_rate = schedules.CalledSchedule(learning_rate)
        return keras.optimizers.SGD(
            **(arguments | {"learning_rate": learning_rate})
        )

    @property
    @abc.abstractmethod
    def gradients_per_update(self) -> int:
        """Gradient evaluations per update, K in the documentation."""

    @property
    def minibatches_per_update(self) -> int:
        """Mini-batches per update: what `fit` puts into one batch."""
        return self.gradients_per_update

    @property
    def minibatches_per_group(self) -> int:
        """Mini-batches in each group that `fit` loads."""
        return self.minibatches_per_update // self.groups_per_update

    @abc.abstractmethod
    def propose(
        self, gradient_at: GradientAt, anchor: Tensors, slots: Any, clock: Clock
    ) -> Proposal:
        """Computes one update, as a pure function of its tensors.

        Args:
            gradient_at: Gives the gradient of the loss at any weights.
            anchor: The weights x, one tensor for each trainable variable.
            slots: What the last proposal, or `initial_slots`, returned.
            clock: The number of the update, the learning rate, the replica.

        Returns:
            What the outer optimizer is to apply, and what to remember. The
            caller does both, or neither if a number is not finite.
        """

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns what the optimizer remembers before its first update.

        It is saved, restored and resumed like any state of an optimizer.

        Args:
            variables: The trainable variables.

        Returns:
            A structure of tensors, empty by default.
        """
        del variables
        return ()

    @property
    def slots(self) -> Any:
        """What it remembers now: tensors in the structure of `propose`."""
        values = [tf.convert_to_tensor(v) for v in self.slot_variables]
        return tf.nest.pack_sequence_as(self._slot_structure, values)

    @property
    def slot_variables(self) -> list[keras.Variable]:
        """The variables that hold the slots, flattened."""
        count = len(tf.nest.flatten(self._slot_structure))
        return [getattr(self, f"slot_{i}") for i in range(count)]

    def begin_epoch(self) -> None:
        """Called by `fit` before each epoch; does nothing by default."""

    @property
    def learning_rate(self) -> Any:
        """The outer learning rate, that of `outer_optimizer`."""
        return self.outer_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.outer_optimizer.learning_rate = learning_rate

    @property
    def variables(self) -> list[keras.Variable]:
        """Its own, those of `outer_optimizer`, and `carried_states`."""
        # Keras adds the last to the first whenever they are set.
        carried = {id(variable) for variable in self.carried_states}
        own = [v for v in super().variables if id(v) not in carried]
        return own + self.outer_optimizer.variables + self.carried_states

    @property
    def carried_states(self) -> list[keras.Variable]:
        """What the model carries from pass to pass, saved with the state."""
        count = self._num_carried_states
        return [getattr(self, f"carried_state_{i}") for i in range(count)]

    @carried_states.setter
    def carried_states(self, variables: Sequence[keras.Variable]) -> None:
        # As attributes, since TensorFlow's checkpoints find only those.
        for i, variable in enumerate(variables):
            setattr(self, f"carried_state_{i}", variable)
        self._num_carried_states = len(variables)

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        """Returns the average of x, where `SwapEMAWeights` looks for it."""
        return keras_private.moving_average(self.outer_optimizer)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state; see `keras.optimizers.Optimizer`."""
        if self.built:
            return
        variables = list(variables)
        for variable in variables:
            validation.require(
                not getattr(variable, "overwrite_with_gradient", False),
                "model",
                "in another precision than float8, whose scales are no weights "
                "that a chain could move",
                f"a model with {variable.path}",
            )
        self.outer_optimizer.build(variables)
        self.failure = self.add_variable(
            shape=(), dtype="int32", aggregation="none", name="failure"
        )
        slots = self.initial_slots(variables)
        for i, value in enumerate(tf.nest.flatten(slots)):
            variable = self.add_variable(
                shape=value.shape,
                initializer=lambda shape, dtype, value=value: value,
                dtype=value.dtype.name,
                aggregation="none",
                name=f"slot_{i}",
            )
            setattr(self, f"slot_{i}", variable)
        # Past Keras, which would put wrappers around what is in it.
        self.__dict__["_slot_structure"] = tf.nest.map_structure(
            lambda value: 0, slots
        )
        super().build(variables)

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        """Clips one gradient of the loss as the arguments ask.

        Args:
            gradients: One tensor per variable, or `None` in its place.

        Returns:
            The clipped gradients in the same order.
        """
        return clipping.clip(
            gradients,
            clipnorm=self.clipnorm,
            clipvalue=self.clipvalue,
            global_clipnorm=self.global_clipnorm,
        )

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Refuses a gradient: several are needed, from an `EntropyModel`.

        Args:
            grads: Not used.
            trainable_variables: Not used.

        Raises:
            ValueError: Always. A gradient of the loss would silently turn the
                method into its outer optimizer.
        """
        del grads, trainable_variables
        raise ValueError(
            f"{type(self).__name__} takes several gradients of the loss per "
            "update, which a plain `keras.Model` or training loop does not "
            "supply. Train `EntropyModel.from_model(model)`, which shares the "
            "weights of `model`, or subclass `EntropyModel`."
        )

    def finalize_variable_values(
        self, var_list: Sequence[keras.Variable]
    ) -> None:
        """Ends training; see `keras.optimizers.Optimizer`."""
        self.outer_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exempts variables from it; see `keras.optimizers.Optimizer`."""
        self.outer_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them."""
        config = super().get_config()
        del config["loss_scale_factor"]
        outer = self.outer_optimizer.get_config()
        for argument in OUTER_ARGUMENTS:
            del config[argument]
            if self._has_default_outer:
                config[argument] = outer[argument]
        if not self._has_default_outer:
            config["outer_optimizer"] = keras.saving.serialize_keras_object(
                self.outer_optimizer
            )
        return config | {
            "chains": self.chains,
            "groups_per_update": self.groups_per_update,
        }

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "MultiGradientOptimizer":
        """Returns an optimizer without state from what `get_config` gave."""
        return cls(**{
            name: keras.saving.deserialize_keras_object(
                value, custom_objects=custom_objects
            )
            if isinstance(value, dict)
            else value
            for name, value in config.items()
        })
