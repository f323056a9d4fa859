"""Replicas of a model under `tf.distribute`, and what they do together.

Without a strategy there is one replica, and nothing here costs anything.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import validation

# A pair of a variable and a value for it.
Valued = tuple[keras.Variable, tf.Tensor]
# What the seeds of successive replicas differ by.
_SEED_STRIDE = 1_000_003


def check(model: keras.Model, jit_compile: Any) -> None:
    """Refuses what an update of several gradients cannot do on replicas.

    Args:
        model: A compiled model.
        jit_compile: The argument of `compile`.

    Raises:
        ValueError: If it is compiled so that it cannot work.
    """
    strategy = model.distribute_strategy
    known = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    name = type(strategy).__name__
    with strategy.scope():
        if not tf.distribute.has_strategy():
            return
    validation.require(
        isinstance(strategy, known),
        "strategy",
        "a MirroredStrategy or OneDeviceStrategy for an optimizer of several "
        "gradients: others share variables in ways that its replicas, which "
        "each run a chain of their own, cannot",
        name,
    )
    validation.require(
        jit_compile is not True,
        "jit_compile",
        f"False or 'auto' under a {name}, whose replicas XLA cannot compile "
        "together; the inner step is compiled all the same",
        jit_compile,
    )
    validation.require(
        model.steps_per_execution == 1,
        "steps_per_execution",
        f"1 under a {name}, where Keras fails otherwise (keras #19246)",
        model.steps_per_execution,
    )


def check_data(model: keras.Model, data: Any) -> None:
    """Refuses data of `fit` that replicas do not get a part each of.

    Args:
        model: A compiled model.
        data: The argument `x`.

    Raises:
        ValueError: If each replica would get other rows than its own.
    """
    validation.require(
        model.distribute_strategy.num_replicas_in_sync == 1
        or not isinstance(data, Iterator),
        "x",
        "arrays, a tf.data.Dataset or a keras.utils.PyDataset on several "
        "replicas: Keras hands each of them whole batches of a generator; "
        "make it a data set by tf.data.Dataset.from_generator",
        type(data),
    )


def check_packed(model: keras.Model, data: Any) -> None:
    """Refuses mini-batches of different shapes, which have no rows to part.

    Args:
        model: A compiled model.
        data: The argument `x`, whose mini-batches are such.

    Raises:
        ValueError: If there are several replicas.
    """
    validation.require(
        model.distribute_strategy.num_replicas_in_sync == 1,
        "x",
        "a data set whose mini-batches have one shape on several replicas, "
        "which cannot take a part each of others: pad them to one",
        type(data),
    )


def count() -> int:
    """Returns the number of replicas."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def number() -> Any:
    """Returns the number of this replica, an integer or a scalar tensor."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def mean(tensors: Sequence[Any]) -> list[Any]:
    """Averages tensors over the replicas, in one all-reduce for each type.

    Args:
        tensors: Tensors. `None` stays, and so does what is not floating:
            whatever counts has the same number everywhere.

    Returns:
        As many, the same on each replica.
    """
    result = list(tensors)
    if count() == 1:
        return result
    context = tf.distribute.get_replica_context()
    present = [
        i for i, t in enumerate(result) if t is not None and t.dtype.is_floating
    ]
    for dtype in {result[i].dtype for i in present}:
        members = [i for i in present if result[i].dtype == dtype]
        flat = tf.concat([tf.reshape(result[i], [-1]) for i in members], 0)
        flat = context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)
        sizes = [tf.size(result[i]) for i in members]
        for i, part in zip(members, tf.split(flat, sizes), strict=True):
            result[i] = tf.reshape(part, tf.shape(result[i]))
            result[i].set_shape(tensors[i].shape)
    return result


def own_seeds(states: Sequence[Valued]) -> list[Valued]:
    """Returns states in which the random seeds are this replica's own.

    Seeds are the same variables everywhere, so that dropout would drop the same
    units on all replicas.

    Args:
        states: Variables with their values; seeds are integers, others floats.

    Returns:
        The same variables with the values for one pass.
    """
    return [(v, _shifted(value, +1)) for v, value in states]


def common_seeds(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns values of after a pass as all replicas have them.

    Args:
        values: Those of the states that `own_seeds` returned.

    Returns:
        As many.
    """
    return [_shifted(value, -1) for value in values]


def _shifted(value: tf.Tensor, sign: int) -> tf.Tensor:
    if count() == 1 or not value.dtype.is_integer:
        return value
    shift = tf.cast(number(), value.dtype) * sign * _SEED_STRIDE
    # The first word is the seed, the second counts.
    return value + tf.one_hot(0, value.shape[0], shift, tf.zeros_like(shift))


def write(
    ok: tf.Tensor, changes: Sequence[Valued], always: Sequence[Valued]
) -> None:
    """Assigns values to variables, on every replica its own.

    Args:
        ok: Whether to make `changes`, the same on all replicas.
        changes: What to assign if so.
        always: What to assign in any case.
    """
    if not tf.distribute.has_strategy():
        _when(ok, changes, _assign)
        _assign(always)
        return
    variables = [[v for v, _ in pairs] for pairs in (changes, always)]

    def across(strategy: Any, ok: Any, *values: Any) -> None:
        def assign(pairs: Sequence[tuple[Any, Any]]) -> None:
            for variable, value in pairs:
                strategy.extended.update(
                    variable.value,
                    lambda part, new: part.assign(new),
                    args=(value,),
                )

        changed, others = (
            list(zip(names, new, strict=True))
            for names, new in zip(variables, values, strict=True)
        )
        _when(strategy.experimental_local_results(ok)[0], changed, assign)
        assign(others)

    # Outside of replicas: a condition in one cannot assign.
    tf.distribute.get_replica_context().merge_call(
        across, args=(ok, *([new for _, new in p] for p in (changes, always)))
    )


def _assign(pairs: Sequence[Valued]) -> None:
    for variable, value in pairs:
        variable.assign(value)


def _when(
    ok: tf.Tensor, pairs: Sequence[Any], assign: Callable[[Any], None]
) -> None:
    def make() -> tf.Tensor:
        assign(pairs)
        return tf.constant(True)

    tf.cond(ok, make, lambda: tf.constant(False))
