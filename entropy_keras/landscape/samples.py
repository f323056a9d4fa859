"""The samples that a loss is the mean over."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras.validation import require


def batches_of(data: Any, batch_size: int) -> list[Any]:
    """Returns the batches of the data, as tensors in memory.

    Args:
        data: See `Objective`.
        batch_size: Samples per batch of arrays.

    Returns:
        A list of tuples.

    Raises:
        ValueError: If `data` is not such a structure.
    """
    form = "arrays `(x, y)` or a finite, batched `tf.data.Dataset` of them"
    if isinstance(data, tf.data.Dataset):
        endless = data.cardinality() == tf.data.INFINITE_CARDINALITY
        require(not bool(endless), "data", f"{form}; `take` a part", data)
        ranks = [spec.shape.rank for spec in tf.nest.flatten(data.element_spec)]
        require(0 not in ranks, "data", f"{form}: `batch` it", data)
        batches = list(data)
        require(bool(batches), "data", "not empty", data)
        return batches
    require(isinstance(data, tuple), "data", form, type(data).__name__)
    uneven = (tf.RaggedTensor, tf.SparseTensor)
    require(
        not any(isinstance(leaf, uneven) for leaf in tf.nest.flatten(data)),
        "data",
        "dense arrays: use `to_tensor` of ragged ones, `tf.sparse.to_dense` of "
        "sparse ones",
        "a ragged or sparse tensor",
    )
    # Labels and weights may be absent.
    data = keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), data
    )
    lengths = {
        len(leaf) if leaf.shape.rank else 0
        for leaf in keras.tree.flatten(data)
        if leaf is not None
    }
    require(
        len(lengths) == 1 and lengths != {0},
        "data",
        "arrays of one and the same positive length",
        f"lengths {sorted(lengths)}",
    )
    (length,) = lengths

    def part(start: int) -> Any:
        return keras.tree.map_structure(
            lambda array: (
                None if array is None else array[start : start + batch_size]
            ),
            data,
        )

    return [part(start) for start in range(0, length, batch_size)]


def require_finite(batches: Sequence[Any]) -> None:
    """Refuses data with a number that is not finite.

    Args:
        batches: The batches.

    Raises:
        ValueError: If there is one; it says where.
    """
    for batch in batches:
        parts = keras.utils.unpack_x_y_sample_weight(batch)
        for name, part in zip(("x", "y", "sample_weight"), parts, strict=True):
            for leaf in keras.tree.flatten(part):
                values = getattr(leaf, "values", leaf)  # of a sparse one
                if tf.is_tensor(values) and values.dtype.is_floating:
                    bad = tf.reduce_sum(
                        tf.cast(~tf.math.is_finite(values), tf.int64)
                    )
                    require(
                        int(bad) == 0,
                        "data",
                        "finite numbers: leave those samples out",
                        f"{int(bad)} numbers in {name} that are NaN or "
                        "infinite",
                    )


def length(batch: Any) -> int:
    """Returns how many samples a batch has.

    Args:
        batch: The batch.
    """
    return int(keras.tree.flatten(batch)[0].shape[0])
