"""One update: from mini-batches to what the outer optimizer takes."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import diagnostics
from entropy_keras import estimators
from entropy_keras import hyperparameters
from entropy_keras import optimizer as optimizer_lib
from entropy_keras import passes


class Update(NamedTuple):
    """What one update yields.

    Attributes:
        gradients: What the outer optimizer takes: one tensor per trainable
            variable, `None` where the loss does not depend on it.
        batch: The mini-batch to report on.
        report: The pass over it.
        diagnostics: What `diagnostics.measure` returned, `None` unless it was
            asked for.
    """

    gradients: list[Any]
    batch: Any
    report: passes.Pass
    diagnostics: list[tf.Tensor] | None


def run(
    model: keras.Model,
    entropy_sgd: optimizer_lib.EntropySGD,
    minibatch: Callable[[Any], Any],
    measure: bool = False,
) -> Update:
    """Computes one update, and leaves it to the caller to apply it.

    Args:
        model: The model.
        entropy_sgd: The optimizer.
        minibatch: Returns the mini-batch of an index.
        measure: Whether to measure what happens.

    Returns:
        The update. State that is not trained has been updated already.
    """
    anchor = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    weight = entropy_sgd.data_weight
    chain = _chain(entropy_sgd, anchor)
    state = chain.initial_state(anchor)
    # The pass at x is the last one if data_weight is positive, else step 1.
    last = entropy_sgd.minibatches_per_update - 1
    batch = minibatch(last if weight else 0)
    report = passes.run(model, anchor if weight else state.position, batch)
    passes.commit(model, report.scope)
    first_gradients = entropy_sgd.clip(report.gradients)
    gradients = passes.scaled(first_gradients, weight)
    connected = [i for i, g in enumerate(first_gradients) if g is not None]
    if not entropy_sgd.num_langevin_steps or not connected:
        return Update(gradients, batch, report, None)
    known = [first_gradients[i] for i in connected]
    chain, state = chain.of(connected), state.of(connected)
    state = _run_chain(
        model, entropy_sgd, chain, state, minibatch, anchor,
        connected, None if weight else known,
    )  # fmt: skip
    weights = [anchor[i] for i in connected]
    force = chain.entropy_gradient(weights, state)
    for i, gradient in zip(connected, force, strict=True):
        gradients[i] = gradient + gradients[i] if weight else gradient
    measured = None
    if measure:
        measured = diagnostics.measure(chain, state, weights, force, known)
    return Update(gradients, batch, report, measured)


def _run_chain(
    model: keras.Model,
    entropy_sgd: optimizer_lib.EntropySGD,
    chain: chain_lib.Chain,
    state: chain_lib.State,
    minibatch: Callable[[Any], Any],
    anchor: list[tf.Tensor],
    connected: list[int],
    first_gradients: list[Any] | None,
) -> chain_lib.State:
    """Runs the chain over the variables that the loss depends on.

    Args:
        model: The model.
        entropy_sgd: The optimizer.
        chain: The chain of the variables that take part.
        state: Where it starts.
        minibatch: Returns the mini-batch of an index.
        anchor: The trainable variables.
        connected: Indices of those that the loss depends on and that take part.
        first_gradients: Their gradients at step 1, if known already.

    Returns:
        Where the chain ends.
    """
    carried = passes.carried_states(model)

    def gradient_function(
        position: list[tf.Tensor], step: tf.Tensor, states: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        everywhere = list(anchor)
        for i, tensor in zip(connected, position, strict=True):
            everywhere[i] = tensor
        result = passes.run(
            model,
            everywhere,
            minibatch(step - 1),
            list(zip(carried, states, strict=True)),
        )
        gradients = entropy_sgd.clip(result.gradients)
        return (
            [gradients[i] for i in connected],
            # A loop keeps the static shapes of what it carries.
            [
                tf.ensure_shape(result.scope.get_current_value(v), v.shape)
                for v in carried
            ],
        )

    weights = [anchor[i] for i in connected]
    if first_gradients is not None:
        state = chain.advance(state, first_gradients, weights, step=1)
    state, states = chain.run(
        state,
        gradient_function,
        weights,
        first_step=1 if first_gradients is None else 2,
        last_step=entropy_sgd.num_langevin_steps,
        carry=[tf.convert_to_tensor(v) for v in carried],
    )
    for variable, value in zip(carried, states, strict=True):
        variable.assign(value)
    return state


def _chain(
    entropy_sgd: optimizer_lib.EntropySGD, anchor: list[tf.Tensor]
) -> chain_lib.Chain:
    """Returns the chain with the hyper-parameters of the current update."""
    at, scalar = hyperparameters.at, hyperparameters.scalar
    wide = any(weights.dtype == tf.float64 for weights in anchor)
    dtype = "float64" if wide else "float32"
    update = tf.convert_to_tensor(entropy_sgd.iterations)
    if entropy_sgd.langevin_learning_rate is None:
        step_size = scalar(entropy_sgd.learning_rate, dtype)
        step_size *= hyperparameters.TIED_STEP_RATIO
    else:
        step_size = scalar(
            at(entropy_sgd.langevin_learning_rate, update), dtype
        )
    return chain_lib.Chain(
        sampler=entropy_sgd.sampler,
        estimator=estimators.build(
            entropy_sgd.estimator,
            entropy_sgd.averaging_rate,
            entropy_sgd.scale_by_scope,
        ),
        step_size=step_size,
        scope=scalar(at(entropy_sgd.scope, update), dtype),
        temperature=entropy_sgd.temperature,
        stationary_start=entropy_sgd.start == "stationary",
        seed=entropy_sgd.seed,
        update=update,
        variable_indices=tuple(range(len(anchor))),
    )
