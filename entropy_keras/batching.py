"""How a batch of `fit` becomes the mini-batches of one update.

`fit` concatenates K mini-batches along the batch axis into one group, and the
train step takes them apart again. A short last group of n samples becomes K
mini-batches of ceil(n / K), the missing samples taken again from its start.

Mini-batches of different shapes are packed beside one another instead. Each
stays as it is, and a short last group takes its first ones again.
"""

import itertools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import class_weights
from entropy_keras import joining
from entropy_keras import packing
from entropy_keras import validation

# What Keras uses when `fit` is given arrays and no batch size.
KERAS_BATCH_SIZE = 32


def split(group: Any, num_minibatches: int) -> Callable[[tf.Tensor], Any]:
    """Takes a group of samples apart into mini-batches.

    Args:
        group: A structure of tensors with a common leading dimension n >= 1,
            or of packed mini-batches; `None` may stand for an absent one.
        num_minibatches: Number K of mini-batches.

    Returns:
        A function from the index of a mini-batch, a scalar in [0, K), to its
        structure of tensors, of leading dimension ceil(n / K) unless packed.

    Example:
    >>> minibatch = split(tf.constant([0, 1, 2, 3, 4]), 3)
    >>> [minibatch(index).numpy().tolist() for index in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """
    if num_minibatches == 1:
        return lambda index: group
    num_packed = packing.num_packed(group)
    if num_packed is not None:
        return lambda index: packing.unpack(group, index % num_packed)
    size = num_samples(group)
    minibatch_size = -(-size // num_minibatches)
    missing = num_minibatches * minibatch_size - size
    present = tf.nest.map_structure(
        lambda tensor: None if tensor is None else _extended(tensor, missing),
        group,
    )

    def minibatch(index: tf.Tensor) -> Any:
        # A replica may have got none of the rows of a short last group.
        start = index * minibatch_size % tf.maximum(size, 1)
        return tf.nest.map_structure(
            lambda tensor: (
                None
                if tensor is None
                else _slice(tensor, start, minibatch_size)
            ),
            present,
        )

    return minibatch


def _extended(tensor: Any, missing: tf.Tensor) -> Any:
    """Returns the rows of a tensor, and its first ones again."""
    if isinstance(tensor, tf.SparseTensor):
        return tf.sparse.concat(0, [tensor, tensor])
    rows = tf.range(missing) % num_samples(tensor)
    return tf.concat([tensor, tf.gather(tensor, rows)], 0)


def _slice(tensor: Any, start: tf.Tensor, size: tf.Tensor) -> Any:
    """Returns rows that follow one another, where possible without a copy."""
    if isinstance(tensor, tf.RaggedTensor):
        return tensor[start : start + size]
    begin = tf.pad([start], [[0, tensor.shape.rank - 1]])
    sizes = tf.concat([[size], tf.shape(tensor)[1:]], axis=0)
    if isinstance(tensor, tf.SparseTensor):
        return tf.sparse.slice(
            tensor, tf.cast(begin, tf.int64), tf.cast(sizes, tf.int64)
        )
    return tf.slice(tensor, begin, sizes)


def num_samples(batch: Any) -> tf.Tensor:
    """Counts the samples of a batch.

    Args:
        batch: A structure of tensors with a common leading dimension.

    Returns:
        A scalar tensor.
    """
    first = next(t for t in tf.nest.flatten(batch) if t is not None)
    if isinstance(first, tf.RaggedTensor):
        return tf.cast(first.nrows(), tf.int32)
    return tf.shape(first)[0]


def group_fit_arguments(
    arguments: dict[str, Any], num_minibatches: int, needs_labels: bool
) -> bool:
    """Makes the arguments of one `fit` call yield groups, in place.

    Args:
        arguments: The arguments by name, as bound to `keras.Model.fit`.
        num_minibatches: Number K of mini-batches in a group.
        needs_labels: Whether to refuse data without labels.

    Returns:
        Whether mini-batches may differ in more than their size: XLA, which
        wants to know shapes in advance, cannot compile a loop over them.

    Raises:
        ValueError: If the data are empty, of a kind that cannot be grouped, or
            lack labels.
    """
    x = arguments["x"]
    if isinstance(x, tf.data.Dataset):
        _require_labels(_is_labelled(x.element_spec) or not needs_labels)
        differ = num_minibatches > 1 and packing.differ(x.element_spec)
        class_weight = arguments.get("class_weight")
        if differ and class_weight is not None:
            # Keras would look for the classes in a packed group.
            x = x.map(class_weights.weighting(class_weight, x.element_spec))
            arguments["class_weight"] = None
        arguments["x"] = group_dataset(x, num_minibatches)
        return differ
    if isinstance(x, keras.utils.PyDataset):
        grouped = joining.GroupedPyDataset(
            x, num_minibatches, shuffle=bool(arguments.get("shuffle"))
        )
        how = grouped.joining
        arguments["x"] = grouped
        if how.packs:
            grouped.class_weight = arguments.get("class_weight")
            arguments["class_weight"] = None
    elif isinstance(x, Iterator):
        # Keras reads two groups ahead, too.
        first = list(itertools.islice(x, 2 * num_minibatches))
        how = joining.Joining(first, num_minibatches)
        arguments["x"] = joining.group_batches(
            itertools.chain(first, x), num_minibatches, how
        )
    else:
        _check_arrays(x)
        _require_labels(arguments.get("y") is not None or not needs_labels)
        _group_arrays(arguments, num_minibatches)
        return False
    _require_labels(_is_labelled(how.specs) or not needs_labels)
    return how.packs


def _group_arrays(arguments: dict[str, Any], num_minibatches: int) -> None:
    """Sets the sizes of batches for data that are arrays."""
    batch_size = arguments.get("batch_size")
    if batch_size is None:
        if arguments.get("steps_per_epoch") is not None:
            return  # Keras divides the samples by the number of steps.
        batch_size = KERAS_BATCH_SIZE
    validation.require(
        validation.is_integer(batch_size, 1),
        "batch_size",
        "a positive integer, the size of one mini-batch",
        batch_size,
    )
    arguments["batch_size"] = batch_size * num_minibatches
    if arguments.get("validation_batch_size") is None:
        arguments["validation_batch_size"] = batch_size


def _is_labelled(batch: Any) -> bool:
    """Returns whether the spec of a batch has labels."""
    return (
        isinstance(batch, tuple | list)
        and len(batch) > 1
        and not all(map(_is_absent, tf.nest.flatten(batch[1])))
    )


def _is_absent(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, packing.AbsentSpec)


def _require_labels(labelled: bool) -> None:
    validation.require(
        labelled,
        "y",
        "the labels that the compiled loss needs: pass `fit(x, y)` or a data "
        "set of (x, y) pairs",
        None,
    )


def symbolic_batch(arguments: dict[str, Any]) -> Any:
    """Returns what a batch of `fit` looks like, without any data.

    Args:
        arguments: The arguments by name, as bound to `keras.Model.fit`.

    Returns:
        `(x, y, sample_weight)` of symbolic tensors, or `None` if the data do
        not tell.
    """
    x = arguments["x"]
    if isinstance(x, tf.data.Dataset):
        specs = packing.unpack_specs(x.element_spec)
    elif isinstance(x, joining.GroupedPyDataset):
        specs = x.joining.specs
    else:
        names = ("x", "y", "sample_weight")
        specs = tuple(arguments.get(name) for name in names)
    absent = packing.AbsentSpec | None
    dense = np.ndarray | tf.Tensor | tf.TensorSpec | absent
    if not all(isinstance(leaf, dense) for leaf in tf.nest.flatten(specs)):
        return None
    return tf.nest.map_structure(
        lambda leaf: (
            None
            if isinstance(leaf, absent)
            else keras.KerasTensor(
                (None, *leaf.shape[1:]),
                tf.as_dtype(leaf.dtype).name,  # arrays of objects hold text
            )
        ),
        specs,
    )


def _check_arrays(x: Any) -> None:
    """Refuses what `fit` would not treat as arrays, and arrays of no rows."""
    for array in tf.nest.flatten(x):
        if array is None and x is not None:
            continue  # an optional input that is absent
        validation.require(
            hasattr(array, "shape") or hasattr(array, "__array__"),
            "x",
            "arrays, a tf.data.Dataset, a keras.utils.PyDataset or a generator",
            type(array),
        )
        shape = getattr(array, "shape", None) or np.shape(array)
        validation.require(
            shape[0] != 0,
            "x",
            "a data set of at least one sample",
            f"an array of shape {shape}",
        )


def group_dataset(
    dataset: tf.data.Dataset, num_minibatches: int
) -> tf.data.Dataset:
    """Concatenates every K batches of a data set into one.

    Args:
        dataset: A batched data set, finite or not.
        num_minibatches: Number K of batches in a group.

    Returns:
        A data set of ceil(cardinality / K) groups, which reads one ahead. It
        takes less time if all batches have the same size and the data set tells
        it, as after `batch(size, drop_remainder=True)`.

    Raises:
        ValueError: If the data set is known to be empty.

    Example:
    >>> dataset = tf.data.Dataset.range(7).batch(2)
    >>> [x.tolist() for x in group_dataset(dataset, 2).as_numpy_iterator()]
    [[0, 1, 2, 3], [4, 5, 6]]
    """
    cardinality = int(dataset.cardinality())
    validation.require(
        cardinality != 0, "x", "a data set of at least one batch", dataset
    )
    if num_minibatches == 1:
        return dataset
    specs = dataset.element_spec
    present = [not _is_absent(spec) for spec in tf.nest.flatten(specs)]
    if not all(present):
        return _group_present(dataset, num_minibatches, present)

    def concatenate(*window: Any) -> tf.data.Dataset:
        # A window holds at most K batches, fewer rows than any batch can.
        element = tf.nest.pack_sequence_as(specs, tf.nest.flatten(window))
        return tf.data.Dataset.zip(element).rebatch(2**40)

    size = _batch_size(specs)
    if packing.differ(specs):
        grouped = packing.pack_dataset(dataset, num_minibatches)
    elif size:
        grouped = dataset.rebatch(num_minibatches * size)
    else:
        grouped = dataset.window(num_minibatches).flat_map(concatenate)
    grouped = grouped.prefetch(1)  # while the group before it is in use
    if cardinality == tf.data.UNKNOWN_CARDINALITY:
        return grouped
    if cardinality != tf.data.INFINITE_CARDINALITY:
        cardinality = -(-cardinality // num_minibatches)
    return grouped.apply(tf.data.experimental.assert_cardinality(cardinality))


def _group_present(
    dataset: tf.data.Dataset, num_minibatches: int, present: list[bool]
) -> tf.data.Dataset:
    """Returns groups of a data set that holds `None`, which windows cannot."""
    specs = dataset.element_spec

    def without_absent(*batch: Any) -> tuple[Any, ...]:
        return tuple(itertools.compress(tf.nest.flatten(batch), present))

    def with_absent(*leaves: Any) -> Any:
        remaining = iter(leaves)
        return tf.nest.pack_sequence_as(
            specs, [next(remaining) if there else None for there in present]
        )

    some = group_dataset(dataset.map(without_absent), num_minibatches)
    return some.map(with_absent)


def _batch_size(element_spec: Any) -> int | None:
    """Returns the size of all batches, if the data set tells it."""
    sizes = {
        spec.shape[0]
        if isinstance(spec, tf.TensorSpec) and spec.shape.rank
        else None
        for spec in tf.nest.flatten(element_spec)
    }
    return sizes.pop() if len(sizes) == 1 else None
