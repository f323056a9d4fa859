"""How a batch of `fit` becomes the mini-batches of one update.

`fit` concatenates K mini-batches along the batch axis into one group, and the
train step takes them apart again. A short last group of n samples becomes K
mini-batches of ceil(n / K), the missing samples taken again from its start.
"""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import validation

# What Keras uses when `fit` is given arrays and no batch size.
KERAS_BATCH_SIZE = 32


def split(group: Any, num_minibatches: int) -> Callable[[tf.Tensor], Any]:
    """Takes a group of samples apart into mini-batches.

    Args:
        group: A structure of tensors with a common leading dimension n >= 1;
            `None` may stand for an absent one.
        num_minibatches: Number K of mini-batches.

    Returns:
        A function from the index of a mini-batch, a scalar in [0, K), to a
        structure like `group` with leading dimension ceil(n / K).

    Example:
    >>> minibatch = split(tf.constant([0, 1, 2, 3, 4]), 3)
    >>> [minibatch(index).numpy().tolist() for index in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """
    if num_minibatches == 1:
        return lambda index: group
    size = num_samples(group)
    minibatch_size = -(-size // num_minibatches)
    missing = num_minibatches * minibatch_size - size
    present = tf.nest.map_structure(
        lambda tensor: None if tensor is None else _extended(tensor, missing),
        group,
    )

    def minibatch(index: tf.Tensor) -> Any:
        start = index * minibatch_size % size
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
) -> None:
    """Makes the arguments of one `fit` call yield groups, in place.

    Args:
        arguments: The arguments by name, as bound to `keras.Model.fit`.
        num_minibatches: Number K of mini-batches in a group.
        needs_labels: Whether to refuse data without labels.

    Raises:
        ValueError: If the data are empty, of a kind that cannot be grouped, or
            lack labels. A generator shows its own at the first batch.
    """
    x = arguments["x"]
    if needs_labels:
        _check_labels(x, arguments.get("y"))
    if isinstance(x, tf.data.Dataset):
        arguments["x"] = group_dataset(x, num_minibatches)
    elif isinstance(x, keras.utils.PyDataset):
        arguments["x"] = GroupedPyDataset(x, num_minibatches)
    elif isinstance(x, Iterator):
        arguments["x"] = _group_batches(x, num_minibatches, needs_labels)
    else:
        _check_arrays(x)
        batch_size = arguments.get("batch_size")
        if batch_size is None:
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


def _check_labels(x: Any, y: Any) -> None:
    """Refuses data that tell that they have no labels."""
    if isinstance(x, tf.data.Dataset):
        labelled = _is_labelled(x.element_spec)
    else:
        arrays = hasattr(x, "shape") or isinstance(x, dict | list | tuple)
        labelled = y is not None or not arrays
    _require_labels(labelled)


def _is_labelled(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) > 1


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
        specs = x.element_spec
    else:
        names = ("x", "y", "sample_weight")
        specs = tuple(arguments.get(name) for name in names)
    dense = np.ndarray | tf.Tensor | tf.TensorSpec | None
    if not all(isinstance(leaf, dense) for leaf in tf.nest.flatten(specs)):
        return None
    return tf.nest.map_structure(
        lambda leaf: (
            None
            if leaf is None
            else keras.KerasTensor((None, *leaf.shape[1:]), leaf.dtype.name)
        ),
        specs,
    )


def _check_arrays(x: Any) -> None:
    """Refuses what `fit` would not treat as arrays, and arrays of no rows."""
    for array in tf.nest.flatten(x):
        if array is None and x is not None:
            continue  # an optional input that is absent
        validation.require(
            hasattr(array, "__len__") or hasattr(array, "shape"),
            "x",
            "arrays, a tf.data.Dataset, a keras.utils.PyDataset or a generator",
            type(array),
        )
        num_rows = array.shape[0] if hasattr(array, "shape") else len(array)
        validation.require(
            num_rows != 0,
            "x",
            "a data set of at least one sample",
            f"an array of shape {getattr(array, 'shape', (0,))}",
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

    def concatenate(*window: Any) -> tf.data.Dataset:
        # A window holds at most K batches, fewer rows than any batch can.
        element = window[0] if len(window) == 1 else window
        return tf.data.Dataset.zip(element).rebatch(2**40)

    size = _batch_size(dataset.element_spec)
    if size:
        grouped = dataset.rebatch(num_minibatches * size)
    else:
        grouped = dataset.window(num_minibatches).flat_map(concatenate)
    grouped = grouped.prefetch(1)  # while the group before it is in use
    if cardinality == tf.data.UNKNOWN_CARDINALITY:
        return grouped
    if cardinality != tf.data.INFINITE_CARDINALITY:
        cardinality = -(-cardinality // num_minibatches)
    return grouped.apply(tf.data.experimental.assert_cardinality(cardinality))


def _batch_size(element_spec: Any) -> int | None:
    """Returns the size of all batches, if the data set tells it."""
    sizes = {
        spec.shape[0]
        if isinstance(spec, tf.TensorSpec) and spec.shape.rank
        else None
        for spec in tf.nest.flatten(element_spec)
    }
    return sizes.pop() if len(sizes) == 1 else None


class GroupedPyDataset(keras.utils.PyDataset):
    """Concatenates every K batches of a `PyDataset` into one.

    Args:
        dataset: The data set of single mini-batches.
        num_minibatches: Number K of batches in a group.
    """

    def __init__(
        self, dataset: keras.utils.PyDataset, num_minibatches: int
    ) -> None:
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.num_minibatches = num_minibatches
        validation.require(
            dataset.num_batches != 0,
            "x",
            "a data set of at least one batch",
            dataset,
        )

    @property
    def num_batches(self) -> int | None:
        """Number of groups, `None` if the data set is infinite."""
        count = self.dataset.num_batches
        return None if count is None else -(-count // self.num_minibatches)

    def __getitem__(self, index: int) -> Any:
        start = index * self.num_minibatches
        stop = start + self.num_minibatches
        if self.dataset.num_batches is not None:
            stop = min(stop, self.dataset.num_batches)
        return _concatenate([self.dataset[i] for i in range(start, stop)])

    def on_epoch_begin(self) -> None:
        """Passes the call on."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes the call on."""
        self.dataset.on_epoch_end()


def _group_batches(
    batches: Iterator[Any], num_minibatches: int, needs_labels: bool
) -> Any:
    """Yields groups of the batches of an iterator."""
    group = []
    for batch in batches:
        _require_labels(_is_labelled(batch) or not needs_labels)
        group.append(batch)
        if len(group) == num_minibatches:
            yield _concatenate(group)
            group = []
    if group:
        yield _concatenate(group)


def _concatenate(batches: list[Any]) -> Any:
    """Returns structures of arrays, concatenated along their first axes."""

    def joined(*parts: Any) -> Any:
        if parts[0] is None:
            return None
        if isinstance(parts[0], tf.SparseTensor):
            return tf.sparse.concat(0, list(parts))
        if isinstance(parts[0], tf.RaggedTensor):
            return tf.concat(parts, 0)
        return np.concatenate(parts)

    return tf.nest.map_structure(joined, *batches)
