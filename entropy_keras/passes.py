"""One forward and backward pass of a model at any weights.

The values of the variables are passed in and their updates passed out, so a
pass at the perturbed weights of the inner loop leaves no trace in the model.
"""

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

LossScaleOptimizer: Any = keras.optimizers.LossScaleOptimizer


class Pass(NamedTuple):
    """What one pass yields.

    Attributes:
        gradients: Gradient of the loss by each trainable variable, `None` for
            those that the loss does not depend on.
        loss: The loss, a scalar.
        predictions: Outputs of the model.
        scope: Holds the updates that the pass asked for and did not make.
    """

    gradients: list[Any]
    loss: tf.Tensor
    predictions: Any
    scope: keras.StatelessScope


def run(
    model: keras.Model,
    position: Sequence[tf.Tensor],
    batch: Any,
    state: Sequence[tuple[keras.Variable, tf.Tensor]] = (),
) -> Pass:
    """Computes the compiled loss and its gradient, and assigns nothing.

    Args:
        model: A compiled model.
        position: Values that stand in for its trainable variables.
        batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        state: Values that stand in for other variables.

    Returns:
        The result.

    Raises:
        ValueError: If a layer assigns a trainable variable when it is called.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    mapping = list(zip(model.trainable_variables, position, strict=True))
    with (
        tf.GradientTape(watch_accessed_variables=False) as tape,
        # Regularizers read the weights in scope, hence those of `position`.
        keras.StatelessScope([*mapping, *state], collect_losses=True) as scope,
    ):
        tape.watch(position)
        values = [scope.get_current_value(v) for v, _ in mapping]
        predictions = model(x, **training_argument(model.call))
        loss = model.compute_loss(
            x,
            y,
            predictions,
            sample_weight,
            **training_argument(model.compute_loss),
        )
        scaled_loss = model.optimizer.scale_loss(loss)
    for (variable, _), value in zip(mapping, values, strict=True):
        if scope.get_current_value(variable) is not value:
            raise ValueError(
                "`model` must be one whose layers do not assign their "
                "trainable weights when called, which `SpectralNormalization` "
                "does: use a constraint instead. "
                f"Received: model with an assignment to {variable.path}"
            )
    gradients = [
        # The gradient of an embedding is a sparse `IndexedSlices`.
        None if g is None else tf.convert_to_tensor(g)
        for g in tape.gradient(scaled_loss, list(position))
    ]
    for gradient, value in zip(gradients, position, strict=True):
        if gradient is not None:
            # Lost where data do not tell theirs; the loop of the chain asks.
            gradient.set_shape(value.shape)
    if isinstance(model.optimizer, LossScaleOptimizer):
        gradients = scaled(gradients, 1.0 / loss_scale(model.optimizer))
    return Pass(gradients, loss, predictions, scope)


def build(model: keras.Model, batch: Any) -> None:
    """Creates the variables of a subclassed model, without running it.

    Args:
        model: The model.
        batch: What it is to take.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    model(
        tf.nest.map_structure(
            lambda t: (
                None if t is None else keras.KerasTensor(t.shape, t.dtype.name)
            ),
            x,
        )
    )


def commit(model: keras.Model, scope: keras.StatelessScope) -> None:
    """Makes the updates of non-trainable state that a pass asked for.

    Args:
        model: The model.
        scope: That of the pass.
    """
    for variable in (
        model.non_trainable_variables
        + model.metrics_variables
        + recurrent_states(model)
    ):
        value = scope.get_current_value(variable)
        if value is not None:
            variable.assign(value)


def carried_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables whose state goes on from pass to pass.

    Args:
        model: The model.

    Returns:
        Those of random seeds, which are neither weights nor metrics, and those
        of recurrent layers.
    """
    other = model.non_trainable_weights + model.metrics_variables
    known = {id(variable) for variable in other}
    seeds = [v for v in model.non_trainable_variables if id(v) not in known]
    return seeds + recurrent_states(model)


def recurrent_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of recurrent layers with `stateful=True`.

    Args:
        model: The model.

    Returns:
        Variables that Keras does not count among those of the model.
    """
    return [
        state
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in tf.nest.flatten(layer.states or ())
    ]


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """Returns what mixed_float16 currently multiplies the loss by.

    Args:
        optimizer: The optimizer, built.

    Returns:
        A scalar tensor.
    """
    return optimizer.scale_loss(tf.constant(1.0))


def scaled(gradients: Sequence[Any], factor: Any) -> list[Any]:
    """Returns gradients times a factor.

    Args:
        gradients: Tensors, or `None` in their place.
        factor: A number or scalar tensor.

    Returns:
        As many tensors.
    """
    return [None if g is None else g * factor for g in gradients]


def training_argument(
    function: Callable[..., Any], training: bool = True
) -> dict[str, bool]:
    """Returns `training` as a keyword argument if a function takes it.

    Args:
        function: A model's `call` or `compute_loss`, which users override.
        training: Its value.

    Returns:
        Keyword arguments for `function`.
    """
    takes_training = "training" in inspect.signature(function).parameters
    return {"training": training} if takes_training else {}
