"""Everything that this package uses of Keras and that Keras does not promise.

Each entry says why there is no public way. `tests/test_keras_private.py` has a
canary for each, which fails first when a new Keras has changed one:
`python -m pytest tests/test_keras_private.py` against the newest Keras.
"""

import contextlib
import functools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import packing


def layers_within(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns a model and all layers within it, at any depth.

    `model.layers` holds the outermost ones only.

    Args:
        model: Any model.

    Returns:
        The model first, then its layers.
    """
    return list(model._flatten_layers())


def mask_of(tensor: Any) -> Any:
    """Returns the mask that travels on a tensor, or `None`.

    Losses look at it, and Keras's functions for masks are not exported.

    Args:
        tensor: The tensor.
    """
    return getattr(tensor, "_keras_mask", None)


def give_mask(tensor: Any, mask: Any) -> None:
    """Lets a mask travel on a tensor, as it does not between functions.

    Args:
        tensor: A tensor in a graph.
        mask: The mask, or `None`.
    """
    if mask is not None:
        tensor._keras_mask = mask


def loss_tracker(model: keras.Model) -> Any:
    """Returns the metric that shows the loss of a compiled model.

    Looking for the name "loss" among `metrics` finds none in models that define
    that property.

    Args:
        model: A compiled model.

    Returns:
        A `keras.metrics.Mean`.
    """
    return model._loss_tracker


def build_on_symbols(model: keras.Model, batch: Any) -> None:
    """Creates the variables of model, loss, metrics and optimizer.

    Keras does so before it traces a step, but from a batch that it draws, which
    here would be a group of mini-batches, or state of the user's generator.

    Args:
        model: A compiled model.
        batch: `(x, y, sample_weight)` of symbolic tensors.
    """
    model._symbolic_build(data_batch=batch)


def batch_of_replicas(iterator: Any) -> Any:
    """Returns what a batch of several replicas looks like, without any data.

    Keras takes a batch of the data themselves to build a model from, and
    averages its parts over the replicas, which fails where they differ in size
    or come from several processes (keras #20585).

    Args:
        iterator: What Keras makes of the data of `fit` or `evaluate`.

    Returns:
        A structure of symbolic tensors.
    """

    def symbol(spec: Any) -> Any:
        if isinstance(spec, packing.AbsentSpec):
            return None
        shape = [None, *spec.shape[1:]]
        return keras.KerasTensor(shape, spec.dtype.name)

    specs = iterator._distributed_dataset.element_spec
    # With several replicas in a process, the spec of each is within one.
    return tf.nest.map_structure(
        lambda spec: symbol(getattr(spec, "_value_specs", [spec])[0]), specs
    )


def global_seed() -> int | None:
    """Returns the seed that `keras.utils.set_random_seed` has set.

    Keras draws the order of arrays from it, and tells it nowhere.

    Returns:
        The seed, or `None` if there is none.
    """
    return tf.compat.v1.get_seed(0)[0]


def moving_average(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the variables that average the weights, for `SwapEMAWeights`.

    That callback looks for them under this name on the compiled optimizer.

    Args:
        optimizer: The optimizer that averages.

    Returns:
        One variable for each weight; Keras has none before `build`.
    """
    return optimizer._model_variables_moving_average


def unpickled(content: Any) -> keras.Model:
    """Returns the model in what Keras pickles.

    Keras looks the class of a model up by its name.

    Args:
        content: The second part of `model.__reduce__()`.

    Returns:
        The model.
    """
    return keras.Model._unpickle_model(content)


class Updates(keras.StatelessScope):
    """A scope in which assignments are remembered and not made.

    Keras's own scope tells the new value of a variable that one has, but not
    which variables have one.

    Args:
        values: Pairs of a variable and its value within the scope. Others have
            the value that they have outside.
    """

    def __init__(self, values: Sequence[tuple[Any, Any]] = ()) -> None:
        super().__init__(list(values), collect_losses=True)
        self._assigned: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        """Remembers an assignment; Keras's variables call it.

        Args:
            update: The variable and its new value.
        """
        self._assigned[id(update[0])] = update[0]
        super().add_update(update)

    def items(self) -> list[tuple[keras.Variable, Any]]:
        """Returns each variable that was assigned, with its last value."""
        variables = self._assigned.values()
        return [(v, self.get_current_value(v)) for v in variables]


def stand_in(variable: Any) -> keras.Variable:
    """Returns a variable that a rule treats as it would another.

    Rules look at paths, as Muon does, and apply constraints.

    Args:
        variable: A variable of Keras, or a tensor, which has none of these.

    Returns:
        A variable of its shape and type, of zeros.
    """
    dtype = tf.as_dtype(variable.dtype).name
    other = keras.Variable(tf.zeros(variable.shape, dtype), dtype=dtype)
    if isinstance(variable, keras.Variable):
        other._path = variable.path
        other.constraint = variable.constraint
    return other


def excluded_from_decay(optimizer: Any, variables: Sequence[Any]) -> list[int]:
    """Returns which variables an optimizer was told not to decay.

    Args:
        optimizer: An optimizer, built or not.
        variables: Variables of Keras; of tensors none is excluded.

    Returns:
        Their places.
    """
    return [
        i
        for i, variable in enumerate(variables)
        if isinstance(variable, keras.Variable)
        and not optimizer._use_weight_decay(variable)
    ]


# `keras.optimizers.Optimizer` is the class of the backend on top of the one
# that knows of none. The methods of the former write variables of TensorFlow
# past the scope, and sum gradients over replicas.
_BACKEND: Any = keras.optimizers.Optimizer.__mro__[1]
_NEUTRAL: Any = next(
    c for c in _BACKEND.__mro__ if c.__name__ == "BaseOptimizer"
)


class _Scoped(_BACKEND):
    """The backend's class with the methods of the neutral one instead.

    As a subclass of the backend's it comes directly before that in the order
    of methods, after those of the optimizer at hand.
    """

    ema_overwrite_frequency: Any
    gradient_accumulation_steps: Any
    use_ema: Any
    assign = _NEUTRAL.assign
    assign_add = _NEUTRAL.assign_add
    assign_sub = _NEUTRAL.assign_sub
    _apply_weight_decay = _NEUTRAL._apply_weight_decay
    _backend_update_step = _NEUTRAL._backend_update_step

    # Keras knows variables by those of TensorFlow that are within, which a
    # scope hides behind tensors.
    def _var_key(self, variable: Any) -> Any:
        return super()._var_key(variable._value)

    def _check_variables_are_known(self, variables: Any) -> None:
        for variable in variables:
            self._get_variable_index(variable)

    def _get_variable_index(self, variable: Any) -> int:
        for i, known in enumerate(self._trainable_variables):
            if known is variable:
                return i
        raise ValueError(
            "`optimizer` must be one that was built for the variables that the "
            "model trains: compile the model again after its layers changed. "
            f"Received: optimizer={self.name}, which does not know "
            f"{variable.path}"
        )

    def _backend_apply_gradients(self, grads: Any, variables: Any) -> None:
        # Branches of a condition cannot assign within a scope: both are taken,
        # and one is chosen.
        uses_ema = self.use_ema
        self.use_ema = False
        try:
            if self.gradient_accumulation_steps:
                self._accumulate(grads, variables)
            else:
                super()._backend_apply_gradients(grads, variables)
        finally:
            self.use_ema = uses_ema
        if not uses_ema:
            return
        self._update_model_variables_moving_average(self._trainable_variables)
        every = self.ema_overwrite_frequency
        if every:
            due = (self.iterations + 1) % every == 0
            for variable, average in zip(
                self._trainable_variables,
                self._model_variables_moving_average,
                strict=True,
            ):
                variable.assign(tf.where(due, average, variable))

    def _accumulate(self, grads: Any, variables: Any) -> None:
        """Takes a step with the mean of several gradients, or adds one up."""
        steps = self.gradient_accumulation_steps
        all_sums = self._accumulated_gradients
        sums = [all_sums[self._get_variable_index(v)] for v in variables]
        kept = {id(v) for v in (self._iterations, self._learning_rate)}
        kept |= {id(v) for v in all_sums}
        moved = [
            (v, tf.convert_to_tensor(v))
            for v in [*self._trainable_variables, *self.variables]
            if id(v) not in kept
        ]
        totals = [g + s for g, s in zip(grads, sums, strict=True)]
        means = self._clip_gradients([total / steps for total in totals])
        self._apply_weight_decay(variables)
        self._backend_update_step(means, variables, self.learning_rate)
        due = (self._iterations + 1) % steps == 0
        for variable, value in moved:
            variable.assign(tf.where(due, variable, value))
        for total, added in zip(sums, totals, strict=True):
            total.assign(tf.where(due, tf.zeros_like(added), added))


@functools.cache
def _scoped_class(cls: Any) -> Any:
    return type(cls.__name__, (cls, _Scoped), {})


@contextlib.contextmanager
def _scoped(optimizer: Any) -> Iterator[None]:
    """Lets an optimizer assign Keras's variables, as on other backends."""
    cls: Any = type(optimizer)
    object.__setattr__(optimizer, "__class__", _scoped_class(cls))
    try:
        yield
    finally:
        object.__setattr__(optimizer, "__class__", cls)


def step_of_rule(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[keras.Variable],
    values: Sequence[tuple[keras.Variable, Any]] = (),
) -> list[tuple[keras.Variable, Any]]:
    """Returns what a Keras optimizer's step would assign, and assigns nothing.

    `stateless_apply` raises on TensorFlow, whose `apply` writes variables of
    TensorFlow directly and sums the gradients over all replicas once more.

    Args:
        optimizer: A built optimizer, not a `LossScaleOptimizer`.
        gradients: One tensor per variable, or `None` in its place.
        variables: The variables that it was built for.
        values: Values that stand in for those of variables, its own included.

    Returns:
        Each variable that changes with its new value, a tensor.
    """
    with Updates(values) as updates, _scoped(optimizer):
        optimizer.apply(gradients, variables)
    return updates.items()
