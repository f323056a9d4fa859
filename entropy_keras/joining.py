"""How batches that Python code yields become groups."""

import itertools
import random
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import class_weights
from entropy_keras import packing
from entropy_keras import validation


class Joining:
    """How batches that Python code yields become groups.

    Attributes:
        specs: Structure of `tf.TypeSpec`: what the first batches have in
            common.
        packs: Whether groups are packed, not concatenated.

    Args:
        first: The first batches.
        num_minibatches: Number K of batches in a group.

    Raises:
        ValueError: If there is no batch, or ranks differ.
    """

    def __init__(self, first: list[Any], num_minibatches: int) -> None:
        validation.require(
            bool(first), "x", "a data set of at least one batch", first
        )
        first = [_trimmed(batch) for batch in first]
        self.specs = tf.nest.map_structure(_common_spec, *first)
        sizes = [len(_sizes(batch)) for batch in first]
        differ = packing.differ(self.specs) or max(sizes) > 1
        self.packs = differ and num_minibatches > 1

    def join(
        self, batches: list[Any], class_weight: dict[int, float] | None = None
    ) -> Any:
        """Returns a group.

        Args:
            batches: Its mini-batches.
            class_weight: What to make weights of samples from, if not `None`.

        Returns:
            A structure of arrays or packed arrays.

        Raises:
            ValueError: If a batch does not have the shape that it must have.
        """
        batches = [_trimmed(batch) for batch in batches]
        specs = self.specs
        for batch in batches:
            tf.nest.map_structure(_require_alike, specs, batch)
        if self.packs:
            if class_weight is not None:
                batches = [
                    class_weights.weighted(b, class_weight) for b in batches
                ]
                specs = (*specs[:2], tf.TensorSpec([None]))
            return packing.pack_batches(batches, specs)
        for batch in batches:
            validation.require(
                len(_sizes(batch)) < 2,
                "x",
                "a data set whose arrays have as many rows as one another in "
                "each batch, or do not in the first ones",
                _sizes(batch),
            )
        if len(batches) == 1:
            return batches[0]
        return tf.nest.map_structure(_concatenated, *batches)


class GroupedPyDataset(keras.utils.PyDataset):
    """Concatenates or packs K batches each of a `PyDataset`.

    Args:
        dataset: The data set of single mini-batches.
        num_minibatches: Number K of batches in a group.
        shuffle: Whether each epoch makes other groups; Keras shuffles groups,
            not what is in them.
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        num_minibatches: int,
        *,
        shuffle: bool = False,
    ) -> None:
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.num_minibatches = num_minibatches
        self.class_weight: dict[int, float] | None = None
        # As many as Keras reads to learn the shapes.
        first = 2 if dataset.num_batches is None else dataset.num_batches
        self.joining = Joining(
            [dataset[index] for index in range(min(first, 2))], num_minibatches
        )
        self.shuffle = shuffle and dataset.num_batches is not None
        self._order: list[int] = []
        self._take_order()

    def _take_order(self) -> None:
        if self.shuffle:
            self._order = list(range(self.dataset.num_batches))
            random.shuffle(self._order)  # from where Keras takes its own

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
        members = self._order if self.shuffle else range(stop)
        batches = [self.dataset[i] for i in members[start:stop]]
        return self.joining.join(batches, self.class_weight)

    def on_epoch_begin(self) -> None:
        """Passes the call on."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes the call on, and takes the order of the next epoch.

        At its beginning workers may already be reading.
        """
        self.dataset.on_epoch_end()
        self._take_order()


def group_batches(
    batches: Iterable[Any], num_minibatches: int, joining: Joining
) -> Iterator[Any]:
    """Yields groups of batches.

    Args:
        batches: The single mini-batches.
        num_minibatches: Number K of batches in a group.
        joining: How a group is made.

    Yields:
        Groups, the last of which may have fewer batches.
    """
    batches = iter(batches)
    while group := list(itertools.islice(batches, num_minibatches)):
        yield joining.join(group)


def _trimmed(batch: Any) -> Any:
    """Returns a batch without labels and weights that are absent."""
    if isinstance(batch, tuple | list) and len(batch) <= 3:
        while len(batch) > 1 and batch[-1] is None:
            batch = batch[:-1]
    return batch


def _shape(tensor: Any) -> list[int | None]:
    """Returns the shape of what can be converted to a tensor."""
    return list(tensor.shape if hasattr(tensor, "shape") else np.shape(tensor))


def _sizes(batch: Any) -> set[int | None]:
    """Returns the numbers of rows of the tensors of a batch."""
    shapes = [_shape(t) for t in tf.nest.flatten(batch) if t is not None]
    return {shape[0] if shape else None for shape in shapes}


def _common_spec(*tensors: Any) -> tf.TypeSpec:
    """Returns what tensors have in common, but for their number of rows."""
    first = tensors[0]
    if first is None:
        return packing.AbsentSpec()
    shapes = [_shape(tensor) for tensor in tensors if tensor is not None]
    validation.require(
        len({len(shape) for shape in shapes}) == 1,
        "x",
        "a data set of batches whose tensors keep their ranks",
        shapes,
    )
    shape = [
        sizes[0] if len(set(sizes)) == 1 else None
        for sizes in zip(*shapes, strict=True)
    ]
    shape[:1] = [None] * len(shape[:1])
    dtype = tf.as_dtype(getattr(first, "dtype", np.asarray(first).dtype))
    if isinstance(first, tf.RaggedTensor):
        return tf.RaggedTensorSpec(shape, dtype, first.ragged_rank)
    if isinstance(first, tf.SparseTensor) or hasattr(first, "tocoo"):
        return tf.SparseTensorSpec(shape, dtype)
    return tf.TensorSpec(shape, dtype)


def _require_alike(spec: tf.TypeSpec, tensor: Any) -> None:
    """Refuses a tensor of another shape than the first batches have."""
    absent = isinstance(spec, packing.AbsentSpec)
    alike = absent == (tensor is None)
    if alike and not absent:
        shape = _shape(tensor)
        alike = len(shape) == spec.shape.rank and (
            spec.shape[1:].is_compatible_with(shape[1:])
        )
    validation.require(
        alike,
        "x",
        f"a data set of batches of the form {spec}, which follows from the "
        "first ones: let them differ wherever later ones do",
        None if tensor is None else f"an array of shape {_shape(tensor)}",
    )


def _concatenated(*parts: Any) -> Any:
    """Returns tensors, concatenated along their first axes."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, tf.SparseTensor):
        return tf.sparse.concat(0, list(parts))
    if tf.is_tensor(first):
        return tf.concat(parts, 0)
    if hasattr(first, "tocoo"):
        import scipy.sparse  # which is there: the parts are of it

        return scipy.sparse.vstack(parts)
    return np.concatenate(parts)
