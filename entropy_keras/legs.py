"""Updates whose mini-batches do not fit into memory together.

`fit` loads them in several groups, one after another, and makes the update in
as many legs. What one leg has found goes to the next as tensors, on each
replica its own; the weights stay x, and the last leg alone writes.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import passes
from entropy_keras import validation

# Takes a group and its leg; returns what to hand on, the last one the logs.
Step = Callable[[Any, passes.Leg], Any]


def check(model: keras.Model, optimizer: Any) -> None:
    """Refuses a number of groups that cannot work.

    Args:
        model: A compiled model.
        optimizer: Its `MultiGradientOptimizer`.

    Raises:
        ValueError: If the groups were not of one size, or Keras counted them.
    """
    if optimizer.groups_per_update == 1:
        return
    validation.require(
        optimizer.minibatches_per_update % optimizer.groups_per_update == 0,
        "groups_per_update",
        "a divisor of the mini-batches of an update, "
        f"{optimizer.minibatches_per_update}",
        optimizer.groups_per_update,
    )
    validation.require(
        model.steps_per_execution == 1,
        "steps_per_execution",
        "1 with groups_per_update > 1",
        model.steps_per_execution,
    )


def whole_updates(arguments: dict[str, Any], optimizer: Any) -> bool:
    """Makes an epoch of one `fit` call a number of whole updates, in place.

    Mini-batches that are missing in the last update are taken from the start of
    another pass, in the order that shuffling gives it.

    Args:
        arguments: The arguments by name, as bound to `keras.Model.fit`.
        optimizer: The `MultiGradientOptimizer`.

    Returns:
        Whether the data are now those of one epoch, which `pass_after_pass` is
        to repeat.

    Raises:
        ValueError: If the data are not a data set, or of unknown length.
    """
    if optimizer.groups_per_update == 1:
        return False
    dataset = arguments["x"]
    validation.require(
        isinstance(dataset, tf.data.Dataset),
        "x",
        "a tf.data.Dataset with groups_per_update > 1: arrays lie in memory "
        "anyway, and `tf.data.Dataset.from_generator` takes what makes batches",
        type(dataset),
    )
    if arguments.get("steps_per_epoch") is not None:
        return False
    num_minibatches = int(dataset.cardinality())
    validation.require(
        num_minibatches >= 0,
        "steps_per_epoch",
        "the number of updates in an epoch, where groups_per_update > 1 and "
        "the data set is infinite or does not tell its length",
        None,
    )
    steps = -(-num_minibatches // optimizer.minibatches_per_update)
    missing = steps * optimizer.minibatches_per_update - num_minibatches
    if missing:
        dataset = dataset.concatenate(dataset.repeat().take(missing))
    arguments["x"] = dataset
    arguments["steps_per_epoch"] = steps
    return True


def pass_after_pass(groups: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the groups of an epoch, over and over.

    Keras reads all epochs from one iterator if it is told their length. A pass
    begins when its first group is asked for and no earlier, since callbacks may
    set its order until then: nothing may be read ahead past its end.

    Args:
        groups: Those of one epoch.

    Returns:
        An infinite data set.
    """
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return groups.repeat().with_options(options)


def train_function(
    model: keras.Model, optimizer: Any, step: Step
) -> Callable[[Any], Any]:
    """Returns what makes one update from an iterator over groups.

    Args:
        model: A compiled model.
        optimizer: Its `MultiGradientOptimizer`, with at least two groups.
        step: Does one leg on one replica.

    Returns:
        What Keras calls for each step of an epoch.
    """
    strategy = model.distribute_strategy
    num_legs = optimizer.groups_per_update
    num_minibatches = optimizer.minibatches_per_update

    def compiled(function: Callable[..., Any], **options: Any) -> Any:
        if model.run_eagerly:
            return function
        return tf.function(
            function, autograph=False, reduce_retracing=True, **options
        )

    def leg(is_last: bool) -> Any:
        def run(group: Any, number: Any, handed: Any) -> Any:
            def on_replica(group: Any, handed: Any) -> Any:
                return step(
                    group,
                    passes.Leg(
                        number, num_legs, num_minibatches, is_last, handed
                    ),
                )

            return strategy.run(on_replica, args=(group, handed))

        return compiled(run, jit_compile=model.jit_compile)

    on, last = leg(False), leg(True)

    def update(groups: Any) -> Any:
        handed = on(groups.get_next(), 0, None)
        structure, leaves = handed, tf.nest.flatten(handed)
        absent = [leaf is None for leaf in leaves]

        def packed(present: Any) -> Any:
            rest = iter(present)
            return tf.nest.pack_sequence_as(
                structure, [None if a else next(rest) for a in absent]
            )

        def present(handed: Any) -> list[Any]:
            return [x for x in tf.nest.flatten(handed) if x is not None]

        # One by one, for no group to be read before it is due.
        _, leaves = tf.while_loop(
            lambda number, _: number < num_legs - 1,
            lambda number, leaves: (
                number + 1,
                present(on(groups.get_next(), number, packed(leaves))),
            ),
            (tf.constant(1), present(handed)),
            parallel_iterations=1,
        )
        logs = last(
            groups.get_next(), tf.constant(num_legs - 1), packed(leaves)
        )
        return tf.nest.map_structure(
            lambda log: strategy.reduce("MEAN", log, axis=None), logs
        )

    return compiled(update)
