"""Mini-batches of different shapes, packed into one tensor.

K tensors are flattened and concatenated, and their shapes kept beside them, so
that a loop can take out the one of an index. The containers are tuples of plain
tensors whose first dimensions alone vary: what the adapters of Keras let pass.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import validation

# `tf.NoneTensorSpec`, which older versions of TensorFlow do not export.
AbsentSpec: Any = type(tf.type_spec_from_value(None))


class Packed(NamedTuple):
    """K dense tensors of one rank.

    Attributes:
        values: The flattened tensors, one after another, of shape [n].
        shapes: Their shapes, of shape [K, rank].
        static: An empty tensor of shape [K, 0, ...], whose last `rank`
            dimensions are what is known of the shapes when a graph is traced;
            0 stands for one that is not known.
    """

    values: Any
    shapes: Any
    static: Any


class PackedSparse(NamedTuple):
    """K sparse tensors.

    Attributes:
        parts: Their indices, values and dense shapes.
        static: As in `Packed`.
    """

    parts: tuple[Packed, Packed, Packed]
    static: Any


class PackedRagged(NamedTuple):
    """K ragged tensors.

    Attributes:
        flat_values: Those of `tf.RaggedTensor`.
        nested_row_splits: Those of `tf.RaggedTensor`.
    """

    flat_values: Packed
    nested_row_splits: tuple[Packed, ...]


def differ(specs: Any) -> bool:
    """Tells whether batches cannot be joined along their first axis.

    Args:
        specs: Structure of the `tf.TypeSpec` of a batch.

    Returns:
        Whether more than the size of a batch is unknown, or its tensors are
        known to have different numbers of rows.

    Example:
    >>> differ((tf.TensorSpec([None, 3]), tf.TensorSpec([None])))
    False
    >>> differ((tf.TensorSpec([None, None]), tf.TensorSpec([None])))
    True
    """
    leaves = tf.nest.flatten(specs)
    sizes = {spec.shape[0] for spec in leaves if _has_rows(spec)} - {None}
    return len(sizes) > 1 or not all(map(_is_joinable, leaves))


def _has_rows(spec: tf.TypeSpec) -> bool:
    return bool(getattr(spec, "shape", None) and spec.shape.rank)


def _is_joinable(spec: tf.TypeSpec) -> bool:
    if isinstance(spec, tf.RaggedTensorSpec):
        return spec.shape[spec.ragged_rank + 1 :].is_fully_defined()
    if isinstance(spec, tf.TensorSpec | tf.SparseTensorSpec):
        return _has_rows(spec) and spec.shape[1:].is_fully_defined()
    return True


def pack_dataset(
    dataset: tf.data.Dataset, num_minibatches: int
) -> tf.data.Dataset:
    """Packs every K batches of a data set.

    Args:
        dataset: A batched data set, of no `None`.
        num_minibatches: Number K of batches in a group.

    Returns:
        A data set of groups. The last one may hold fewer batches.

    Raises:
        ValueError: If the data set does not tell the rank of a tensor.
    """
    specs = dataset.element_spec

    def pack(*batch: Any) -> Any:
        packed = [
            _pack_leaf(spec, [tensor], _flatten)
            for spec, tensor in zip(
                tf.nest.flatten(specs), tf.nest.flatten(batch), strict=True
            )
        ]
        return tf.nest.pack_sequence_as(specs, packed)

    def concatenate(*group: Any) -> Any:
        structure = packed.element_spec
        return keras.tree.traverse(
            lambda node: (
                node._replace(values=_all_values(node.values))
                if isinstance(node, Packed)
                else None
            ),
            tf.nest.pack_sequence_as(structure, tf.nest.flatten(group)),
        )

    packed = dataset.map(pack)
    return packed.ragged_batch(num_minibatches).map(concatenate)


def _all_values(rows: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    if isinstance(rows, tf.RaggedTensor):
        return rows.flat_values
    return tf.reshape(rows, [-1])


def pack_batches(batches: Sequence[Any], specs: Any) -> Any:
    """Packs batches, with NumPy alone unless they hold text.

    Worker processes, which must not use TensorFlow, can therefore do it.

    Args:
        batches: Structures of arrays or tensors.
        specs: Structure of their common `tf.TypeSpec`.

    Returns:
        The group.

    Example:
    >>> batches = [np.ones([2, 3]), np.ones([1, 4])]
    >>> group = pack_batches(batches, tf.TensorSpec([None, None], "float64"))
    >>> unpack(group, 1).shape
    TensorShape([1, 4])
    """
    return tf.nest.map_structure(
        lambda spec, *tensors: _pack_leaf(spec, tensors, _concatenate),
        specs,
        *batches,
    )


def _pack_leaf(
    spec: tf.TypeSpec, tensors: Sequence[Any], pack: Callable[..., Packed]
) -> Any:
    """Returns tensors, packed by a function for dense ones."""
    if isinstance(spec, AbsentSpec):
        return None
    validation.require(
        spec.shape.rank is not None, "x", "a data set of known ranks", spec
    )
    if isinstance(spec, tf.SparseTensorSpec):
        rank = spec.shape.rank
        parts = [sparse_parts(tensor) for tensor in tensors]
        indices, values, shapes = zip(*parts, strict=True)
        return PackedSparse(
            (
                pack(indices, [None, rank]),
                pack(values, [None]),
                pack(shapes, [rank]),
            ),
            pack(indices, spec.shape).static,
        )
    if isinstance(spec, tf.RaggedTensorSpec):
        inner = spec.shape[spec.ragged_rank + 1 :]
        splits = zip(*[t.nested_row_splits for t in tensors], strict=True)
        return PackedRagged(
            pack([t.flat_values for t in tensors], [None, *inner]),
            tuple(pack(parts, [None]) for parts in splits),
        )
    return pack(tensors, spec.shape)


def sparse_parts(tensor: Any) -> tuple[Any, Any, Any]:
    """Returns what makes up a sparse tensor.

    Args:
        tensor: One of TensorFlow or SciPy.

    Returns:
        Its indices, values and dense shape.

    Example:
    >>> [part.numpy().tolist() for part in sparse_parts(tf.sparse.eye(2))]
    [[[0, 0], [1, 1]], [1.0, 1.0], [2, 2]]
    """
    if isinstance(tensor, tf.SparseTensor):
        return tensor.indices, tensor.values, tensor.dense_shape
    entries = tensor.tocoo()
    indices = np.stack([entries.row, entries.col], 1).astype("int64")
    return indices, entries.data, np.array(entries.shape, "int64")


def _flatten(tensors: Sequence[tf.Tensor], shape: Any) -> Packed:
    """Returns one tensor packed, in a graph and without the axis of K."""
    (tensor,) = tensors
    return Packed(
        tf.reshape(tensor, [-1]),
        tf.shape(tensor),
        tf.zeros([0, *_known(shape)], tf.bool),
    )


def _concatenate(tensors: Sequence[Any], shape: Any) -> Packed:
    """Returns tensors packed."""
    arrays = [np.asarray(tensor) for tensor in tensors]
    values = np.concatenate([array.ravel() for array in arrays])
    return Packed(
        # NumPy holds the text of TensorFlow as objects, which Keras refuses.
        tf.constant(values, tf.string) if values.dtype == object else values,
        np.array([array.shape for array in arrays], "int32"),
        np.zeros([len(arrays), 0, *_known(shape)], bool),
    )


def _known(shape: Any) -> list[int]:
    return [size or 0 for size in shape]


def num_packed(group: Any) -> tf.Tensor | None:
    """Counts the mini-batches of a group.

    Args:
        group: What `fit` hands to the train step.

    Returns:
        Their number, or `None` if the group is not packed.
    """
    shapes = []

    def visit(node: Any) -> None:
        if isinstance(node, Packed):
            shapes.append(node.shapes)

    keras.tree.traverse(visit, group)
    return tf.shape(shapes[0])[0] if shapes else None


def unpack(group: Any, index: Any) -> Any:
    """Takes a mini-batch out of a packed group.

    Args:
        group: Structure of packed tensors, and `None`.
        index: Which one, an integer or a scalar tensor.

    Returns:
        A structure of tensors, whose static shapes are those of the data set.
    """

    def unpacked(node: Any) -> Any:
        if isinstance(node, Packed):
            return _unpack_dense(node, index)
        if isinstance(node, PackedSparse):
            tensor = tf.SparseTensor(*unpack(node.parts, index))
            tensor.set_shape(_static_shape(node))
            return tensor
        if isinstance(node, PackedRagged):
            return tf.RaggedTensor.from_nested_row_splits(
                _unpack_dense(node.flat_values, index),
                unpack(node.nested_row_splits, index),
                validate=False,
            )
        return None  # go on inside

    return keras.tree.traverse(unpacked, group)


def _unpack_dense(packed: Packed, index: Any) -> tf.Tensor:
    sizes = tf.reduce_prod(packed.shapes, 1)
    start = tf.reduce_sum(sizes[:index])
    flat = tf.slice(packed.values, [start], [sizes[index]])
    tensor = tf.reshape(flat, packed.shapes[index])
    tensor.set_shape(_static_shape(packed))
    return tensor


def _static_shape(packed: Packed | PackedSparse) -> tf.TensorShape:
    return tf.TensorShape([size or None for size in packed.static.shape[2:]])


def unpack_specs(specs: Any) -> Any:
    """Returns what a mini-batch looks like.

    Args:
        specs: Structure of the `tf.TypeSpec` of a group, packed or not.

    Returns:
        A structure of `tf.TypeSpec`, or of what is none where it is not packed
        or not dense.
    """

    def unpacked(node: Any) -> Any:
        if isinstance(node, Packed):
            return tf.TensorSpec(_static_shape(node), node.values.dtype)
        if isinstance(node, PackedSparse):
            return tf.SparseTensorSpec(
                _static_shape(node), node.parts[1].values.dtype
            )
        if isinstance(node, PackedRagged):
            return tf.RaggedTensorSpec(
                dtype=node.flat_values.values.dtype,
                ragged_rank=len(node.nested_row_splits),
            )
        return None

    return keras.tree.traverse(unpacked, specs)
