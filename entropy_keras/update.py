"""One update: the optimizer proposes, the replicas reduce, the guard looks.

Whatever the update would change is a value until all of it is known; who asked
for it then writes it, or nothing.
"""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import guard
from entropy_keras import keras_private
from entropy_keras import multi_gradient
from entropy_keras import passes
from entropy_keras import replicas


class Change(NamedTuple):
    """What an update is to write.

    Attributes:
        ok: Whether to write `changes`.
        changes: Variables of model, optimizer and metrics with new values.
        always: Those that change all the same.
        logs: The value of each metric by name.
    """

    ok: tf.Tensor
    changes: list[replicas.Valued]
    always: list[replicas.Valued]
    logs: dict[str, Any]


def compute(
    model: keras.Model,
    optimizer: multi_gradient.MultiGradientOptimizer,
    gradient_at: passes.GradientAt,
) -> Change | passes.Handed:
    """Computes one update of a model and its optimizer, and writes nothing.

    Args:
        model: A model, compiled with the optimizer and built.
        optimizer: The optimizer, without the loss scaling around it.
        gradient_at: Gives the gradients of the update.

    Returns:
        What to write, or what the next leg of the update needs.

    Raises:
        ValueError: If `propose` asked for no gradient.
    """
    anchor = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    try:
        proposal = optimizer.propose(
            gradient_at, anchor, optimizer.slots, _clock(optimizer)
        )
    except passes.Unfinished as unfinished:
        return unfinished.handed
    report = gradient_at.report
    if report is None:
        raise ValueError(
            "`propose` must ask `gradient_at` for at least one gradient. "
            f"Received: none from {type(optimizer).__name__}"
        )
    metrics = {id(v) for v in model.metrics_variables}
    carried = {id(v) for v, _ in gradient_at.carried}
    updates = gradient_at.updates
    gradients, slots, states, loss = _reduced(
        proposal,
        [(v, x) for v, x in updates if id(v) not in metrics | carried],
        report,
        gradient_at.counts,
    )
    gradients = [
        # Where there is no gradient, Keras warns and leaves the variable.
        None if known is None else gradient
        for known, gradient in zip(gradient_at.known, gradients, strict=True)
    ]
    shared = [
        *states,
        *keras_private.step_of_rule(
            optimizer.outer_optimizer, gradients, model.trainable_variables
        ),
        *zip(optimizer.slot_variables, slots, strict=True),
        (optimizer.iterations, optimizer.iterations + 1),
    ]
    failure = guard.look(loss, gradients, [value for _, value in shared])
    ok, always = _verdict(model.optimizer, optimizer, failure)
    shown, logs = _shown(
        model,
        report,
        [(v, x) for v, x in updates if id(v) in metrics],
    )
    return Change(
        ok,
        [*shared, *gradient_at.carried, *shown],
        always,
        logs | proposal.measurements,
    )


def _clock(
    optimizer: multi_gradient.MultiGradientOptimizer,
) -> multi_gradient.Clock:
    synchronized = optimizer.chains == "synchronized"
    return multi_gradient.Clock(
        tf.convert_to_tensor(optimizer.iterations),
        optimizer.learning_rate,
        0 if synchronized else replicas.number(),
    )


def _reduced(
    proposal: multi_gradient.Proposal,
    states: list[replicas.Valued],
    report: passes.Report,
    counts: Any,
) -> tuple[list[Any], list[Any], list[replicas.Valued], tf.Tensor]:
    """Averages over the replicas what they are to have in common.

    Args:
        proposal: That of this replica.
        states: State of the model that is not trained, with new values.
        report: Whose loss it is, and whose state.
        counts: Whether this replica has had data.

    Returns:
        Gradients, flattened slots, states and loss.
    """
    slots = [tf.convert_to_tensor(s) for s in tf.nest.flatten(proposal.slots)]
    proposed = [*proposal.gradients, *slots]
    reported = [*(x for _, x in states), report.loss]
    means = iter(
        replicas.mean(
            [*proposed, *reported],
            [counts] * len(proposed) + [report.counts] * len(reported),
        )
    )
    return (
        [next(means) for _ in proposal.gradients],
        [next(means) for _ in slots],
        [(variable, next(means)) for variable, _ in states],
        next(means),
    )


def _shown(
    model: keras.Model,
    report: passes.Report,
    known: list[replicas.Valued],
) -> tuple[list[replicas.Valued], dict[str, Any]]:
    """Computes the metrics of an update.

    Args:
        model: The model.
        report: What the pass to show has left.
        known: Variables of metrics that the pass itself has updated.

    Returns:
        New values for the variables of the metrics, and the logs.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(report.batch)
    tf.nest.map_structure(
        keras_private.give_mask, report.predictions, report.masks
    )

    def compute() -> dict[str, Any]:
        keras_private.loss_tracker(model).update_state(
            report.loss, sample_weight=batching.num_samples(x)
        )
        return model.compute_metrics(x, y, report.predictions, sample_weight)

    if not all(getattr(metric, "built", True) for metric in model.metrics):
        # The first call creates their variables, which no scope allows.
        return [], compute()
    with keras_private.Updates(known) as updates:
        logs = compute()
    return [*known, *updates.items()], logs


def _verdict(
    outermost: Any,
    optimizer: multi_gradient.MultiGradientOptimizer,
    failure: tf.Tensor,
) -> tuple[tf.Tensor, list[replicas.Valued]]:
    """Decides whether to write an update.

    Args:
        outermost: What the model is compiled with.
        optimizer: The same without loss scaling around it.
        failure: What the guard has seen.

    Returns:
        Whether to, and what to write in any case.
    """
    if not isinstance(outermost, passes.LossScaleOptimizer):
        # Once the flag is up, nothing is written until the host has seen it.
        earlier = tf.convert_to_tensor(optimizer.failure)
        latched = tf.where(earlier == guard.FINE, failure, earlier)
        return latched == guard.FINE, [(optimizer.failure, latched)]
    # The rule of Keras: half the scale after an update that overflowed, twice
    # the scale after so many that did not.
    ok = failure == guard.FINE
    steps = outermost.step_counter + 1
    grows = tf.logical_and(ok, steps == outermost.dynamic_growth_steps)
    factor = tf.where(ok, tf.where(grows, 2.0, 1.0), 0.5)
    counted = tf.where(tf.logical_and(ok, tf.logical_not(grows)), steps, 0)
    return ok, [
        (outermost.dynamic_scale, outermost.dynamic_scale * factor),
        (outermost.step_counter, counted),
    ]
