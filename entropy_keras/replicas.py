"""Replicas of a model under `tf.distribute`, and what they do together.

Without a strategy there is one replica, and nothing here costs anything.
"""

import hashlib
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import keras_private
from entropy_keras import validation

# A pair of a variable and a value for it.
Valued = tuple[keras.Variable, tf.Tensor]
# What the seeds of successive replicas differ by.
_SEED_STRIDE = 1_000_003


# Strategies that are refused, whatever the optimizer, and why.
_REFUSED = {
    "CentralStorageStrategy": "keeps one copy of the weights, which the "
    "variables of Keras 3 do not know how to update from several replicas",
    "ParameterServerStrategy": "lets workers update weights at different "
    "times, so there is no update that all of them make together",
}
# Those that are refused for optimizers of several gradients only.
_REFUSED_CHAINS = {
    "TPUStrategy": "compiles a step as a whole, where replicas cannot leave "
    "the step to write together what all of them found",
}
_KNOWN = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


def check_strategy(model: keras.Model, *, several_gradients: bool) -> None:
    """Refuses a strategy under which training would go wrong.

    Args:
        model: A compiled model.
        several_gradients: Whether its optimizer needs several an update.

    Raises:
        ValueError: If it was made under such a strategy.
    """
    strategy = model.distribute_strategy
    if _is_default(strategy):
        return
    refused = _REFUSED | (_REFUSED_CHAINS if several_gradients else {})
    names = [cls.__name__.removesuffix("V2") for cls in type(strategy).__mro__]
    for name in names:
        validation.require(
            name not in refused,
            "strategy",
            "a OneDeviceStrategy, MirroredStrategy or "
            f"MultiWorkerMirroredStrategy: a {name} {refused.get(name)}",
            type(strategy).__name__,
        )
    if several_gradients:
        validation.require(
            isinstance(strategy, _KNOWN),
            "strategy",
            "a OneDeviceStrategy, MirroredStrategy or "
            "MultiWorkerMirroredStrategy, under which replicas can share "
            "what they found",
            type(strategy).__name__,
        )


def check_scope(model: keras.Model) -> None:
    """Refuses what is partly under a strategy and partly outside of it.

    Args:
        model: A compiled model.

    Raises:
        ValueError: If this is called under another strategy than that of the
            model, which would train on its own devices without a word, or if
            variables do not belong to its strategy.
    """
    strategy = model.distribute_strategy
    cure = (
        "made and compiled under one strategy: build the network, its "
        "optimizer and the EntropyModel, and call `compile`, within one `with "
        "strategy.scope():`"
    )
    validation.require(
        not tf.distribute.has_strategy()
        or tf.distribute.get_strategy() is strategy,
        "model",
        cure,
        f"a model made under {_named(strategy)}, used under "
        f"{_named(tf.distribute.get_strategy())}",
    )
    if _is_default(strategy):
        return
    outside = [
        v.path
        for v in [*model.variables, *model.optimizer.variables]
        if not strategy.extended.variable_created_in_scope(v.value)
    ]
    validation.require(
        not outside,
        "model",
        cure,
        f"{len(outside)} variables made outside of the {_named(strategy)}, "
        f"{outside[0] if outside else ''} among them",
    )


def _is_default(strategy: Any) -> bool:
    """Returns whether a strategy is that of a script that has none."""
    with strategy.scope():
        return not tf.distribute.has_strategy()


def _named(strategy: Any) -> str:
    """Returns the name of a strategy, for messages."""
    # By its class: two strategies cannot be entered at once.
    name = type(strategy).__name__
    return "no strategy" if name.startswith("_Default") else name


def check(model: keras.Model, jit_compile: Any, chains: str) -> None:
    """Refuses what an update of several gradients cannot do on replicas.

    Args:
        model: A compiled model.
        jit_compile: The argument of `compile`.
        chains: That of the optimizer.

    Raises:
        ValueError: If it is compiled so that it cannot work.
    """
    strategy = model.distribute_strategy
    name = type(strategy).__name__
    if _is_default(strategy):
        return
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
    if strategy.num_replicas_in_sync > 1:
        _check_normalizations(model, chains)


def _check_normalizations(model: keras.Model, chains: str) -> None:
    """Looks for statistics of batches that do not fit the chains."""
    for layer in keras_private.layers_within(model):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        validation.require(
            not layer.synchronized or chains == "synchronized",
            "chains",
            "'synchronized' for a model with "
            "BatchNormalization(synchronized=True), whose replicas talk in "
            "every pass, which those with chains of their own cannot",
            chains,
        )
        if chains == "synchronized" and not layer.synchronized:
            warnings.warn(
                f"Each replica normalizes its own rows in layer {layer.name!r},"
                " so chains='synchronized' does not give the result of one "
                "device. BatchNormalization(synchronized=True) does.",
                stacklevel=4,
            )


def across_workers(strategy: Any) -> bool:
    """Returns whether the replicas of a strategy are in several processes.

    Args:
        strategy: Any.
    """
    return isinstance(
        strategy, tf.distribute.MultiWorkerMirroredStrategy
    ) and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def is_chief(strategy: Any) -> bool:
    """Returns whether this process is the one to write files.

    Args:
        strategy: Any.
    """
    if not across_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


def check_agreement(strategy: Any, facts: dict[str, Any]) -> None:
    """Refuses arguments that are not the same on every worker.

    All workers have to call it.

    Args:
        strategy: The strategy of the model.
        facts: What has to be the same, by the name of the argument.

    Raises:
        ValueError: If something differs.
    """
    if not across_workers(strategy):
        return
    digests = [
        int.from_bytes(hashlib.sha256(repr(f).encode()).digest()[:4]) >> 1
        for f in facts.values()
    ]

    @tf.function
    def gathered() -> tf.Tensor:
        ours = strategy.run(lambda: tf.constant([digests], tf.int32))
        return strategy.gather(ours, axis=0)

    theirs = gathered().numpy()
    for i, (name, value) in enumerate(facts.items()):
        validation.require(
            (theirs[:, i] == digests[i]).all(),
            name,
            "the same on every worker: call keras.utils.set_random_seed with "
            "one seed before anything else, and pass the same arguments",
            value,
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


def check_group(model: keras.Model, group: Any) -> None:
    """Refuses a group that Keras would hand to every replica whole.

    Args:
        model: A compiled model.
        group: The argument `x` of `train_on_batch`.

    Raises:
        ValueError: If there are several replicas.
    """
    validation.require(
        model.distribute_strategy.num_replicas_in_sync == 1,
        "x",
        "given to `fit` on several replicas: `train_on_batch` of Keras hands "
        "each of them all rows; `fit(x, y, batch_size=rows / "
        "minibatches_per_update, shuffle=False)` makes the same update",
        type(group),
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


def mean(tensors: Sequence[Any], counts: Any = None) -> list[Any]:
    """Averages tensors over the replicas, in one all-reduce for each type.

    Args:
        tensors: Tensors. `None` stays, and so does what is not floating:
            whatever counts has the same number everywhere.
        counts: Whether this replica counts, which one without data does not: a
            scalar, or a list of one for each tensor. At least one has to.

    Returns:
        As many, the same on each replica.
    """
    result = list(tensors)
    if count() == 1:
        return result
    yes = tf.constant(True)
    each = counts if isinstance(counts, list) else [counts] * len(result)
    each = [yes if c is None else c for c in each]
    context = tf.distribute.get_replica_context()
    present = [
        i for i, t in enumerate(result) if t is not None and t.dtype.is_floating
    ]
    for dtype in {result[i].dtype: None for i in present}:
        members = [i for i in present if result[i].dtype == dtype]
        kinds = list({id(each[i]): each[i] for i in members}.values())
        flat = tf.concat(
            [
                # Of none it is NaN.
                *(
                    tf.reshape(
                        tf.where(each[i], result[i], tf.zeros_like(result[i])),
                        [-1],
                    )
                    for i in members
                ),
                tf.cast(tf.stack(kinds), dtype),
            ],
            0,
        )
        flat = context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)
        sizes = [*(tf.size(result[i]) for i in members), len(kinds)]
        *parts, shares = tf.split(flat, sizes)
        share = {id(kind): shares[n] for n, kind in enumerate(kinds)}
        for i, part in zip(members, parts, strict=True):
            part = part / share[id(each[i])]
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
