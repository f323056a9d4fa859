"""The Hessian as an explicit matrix, assembled block by block."""

import hashlib
import json
import math
import pathlib
import shutil
import time
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf

from entropy_keras.landscape import selfcheck
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.products import hessian_product
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

_GIGABYTE = 1e9
# Room for what differentiation needs beside the matrix.
_WORKING_BYTES = 1.5 * _GIGABYTE


def hessian_matrix(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    path: str | pathlib.Path | None = None,
    columns_at_once: int | None = None,
    verbose: int = 1,
    **options: Any,
) -> np.ndarray:
    """Computes the Hessian of the mean loss, entry by entry.

    The columns that belong to one variable need derivatives by that variable
    and the later ones only, since the matrix is symmetric. For a network whose
    variables come in forward order the passes back stop early, which makes the
    assembly many times faster than as many Hessian-vector products.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        path: A `.npy` file to keep the matrix in, mapped into memory, instead
            of memory itself. An assembly that was interrupted goes on at the
            last finished variable; a finished file is returned as it is.
        columns_at_once: Columns computed together: more is faster for dense
            layers and takes memory. `None` for 64 where only dense layers are
            differentiated, 8 elsewhere. Those of a rolled recurrent layer are
            computed one after another all the same.
        verbose: 1 to announce the predicted time and size and show a progress
            bar, 0 for silence.
        **options: `batch_size` and `training`.

    Returns:
        A symmetric array of shape `[n, n]` in the dtype of the weights; rows
        are in the order of `model.trainable_variables`, each flattened.

    Raises:
        ValueError: If the matrix does not fit into memory, or onto the disk of
            `path`; if `path` holds another matrix; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> landscape.hessian_matrix(model, data, loss="mse", verbose=0)
    array([[1., 0., 1.],
           [0., 1., 1.],
           [1., 1., 2.]], dtype=float32)
    """
    objective = objective_of(model, data, loss, **options)
    require(
        columns_at_once is None or is_integer(columns_at_once, 1),
        "columns_at_once",
        "None or a positive integer",
        columns_at_once,
    )
    return assemble(objective, path, columns_at_once, verbose)


def assemble(
    objective: Objective,
    path: str | pathlib.Path | None = None,
    columns_at_once: int | None = None,
    verbose: int = 1,
) -> np.ndarray:
    """Computes the Hessian at the current weights; see `hessian_matrix`.

    Args:
        objective: The loss.
        path: Where to keep it.
        columns_at_once: Columns computed together.
        verbose: 1 for progress.

    Returns:
        The matrix.
    """
    matrix, progress_file = _allocate(objective, path)
    if progress_file.done > len(objective.sizes):
        return matrix
    position = objective.position()
    blocks = [
        _Block(objective, position, index, columns_at_once)
        for index in range(progress_file.done, len(objective.sizes))
    ]
    count = sum(block.size for block in blocks)
    if verbose:
        minutes = sum(block.predicted_seconds() for block in blocks) / 60
        print(
            f"Hessian: {count} columns to compute, "
            f"{matrix.nbytes / _GIGABYTE:.2f} GB, about {minutes:.1f} minutes.",
            flush=True,
        )
    bar = keras.utils.Progbar(count, verbose=verbose, unit_name="column")
    for block in blocks:
        rows = matrix[block.start : block.start + block.size]
        for first in range(0, block.size, block.step):
            # The last columns overlap, so that every chunk has one shape.
            begin = min(first, block.size - block.step)
            columns = block.columns(begin)
            selfcheck.require_finite(columns, "the Hessian")
            rows[begin : begin + block.step, block.start :] = columns
            bar.add(min(block.step, block.size - first))
        progress_file.record(matrix, block.index + 1)
    _mirror(matrix)
    _require_products(matrix, objective, position)
    progress_file.record(matrix, len(objective.sizes) + 1)
    return matrix


def _require_products(
    matrix: np.ndarray, objective: Objective, position: tf.Tensor
) -> None:
    """Refuses a matrix that does not multiply as products do.

    Args:
        matrix: The matrix.
        objective: The loss.
        position: The weights.

    Raises:
        ValueError: If a product differs from that of automatic differentiation.
    """
    vector = np.random.default_rng(0).normal(size=len(matrix))
    vector = vector.astype(matrix.dtype)
    expected = hessian_product(objective)(position, tf.constant(vector))
    difference = np.linalg.norm(matrix @ vector - expected.numpy())
    scale = np.linalg.norm(expected.numpy())
    if np.isfinite(scale):
        require(
            bool(difference <= 1e-2 * scale + 1e-12),
            "model",
            "one whose backward passes TensorFlow vectorizes right; for others "
            "use `hessian_operator`",
            f"columns that differ from products by {difference / scale:.2g}",
        )


class _Block:
    """The columns of one variable, in the rows of it and the later ones."""

    def __init__(
        self,
        objective: Objective,
        position: tf.Tensor,
        index: int,
        columns_at_once: int | None,
    ) -> None:
        self.index = index
        self.start = sum(objective.sizes[:index])
        self.size = objective.sizes[index]
        if columns_at_once is None:
            ranks = [len(v.shape) for v in objective.variables[index:]]
            columns_at_once = 64 if max(ranks) <= 2 else 8
        self.step = min(columns_at_once, self.size)
        weights = objective.split(position)
        self._earlier, self._later = weights[:index], weights[index:]
        self._objective = objective
        self._compiled = objective.mean(self._columns)

    def columns(self, first: int) -> np.ndarray:
        """Returns `step` columns as rows, from the diagonal block onwards."""
        return self._compiled(tf.range(first, first + self.step)).numpy()

    def predicted_seconds(self) -> float:
        self.columns(0)  # Compiles.
        start = time.perf_counter()
        self.columns(0)
        return (time.perf_counter() - start) * -(-self.size // self.step)

    def _columns(self, indices: tf.Tensor, batch: Any) -> tf.Tensor:
        objective, later = self._objective, self._later
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(later)
            with tf.GradientTape() as inner:
                inner.watch(later[0])
                _, loss = objective.forward([*self._earlier, *later], batch)
                loss *= objective.loss_scale
            gradient = tf.reshape(
                inner.gradient(loss, later[0], None, _ZERO), [-1]
            )
            selfcheck.require_differentiable(gradient)

        def column(index: tf.Tensor) -> tf.Tensor:
            unit = tf.one_hot(index, self.size, dtype=gradient.dtype)
            found = outer.gradient(gradient, later, unit, _ZERO)
            found = objective.join(found)
            selfcheck.require_differentiable(found)
            return found / objective.loss_scale

        if _has_loop(gradient.graph) or not objective.vectorizes:
            return tf.map_fn(
                column, indices, fn_output_signature=objective.dtype
            )
        return tf.vectorized_map(column, indices)


_ZERO = tf.UnconnectedGradients.ZERO


def _has_loop(graph: tf.Graph) -> bool:
    """Tells whether a graph loops, as rolled recurrent layers do.

    Args:
        graph: The graph.

    Returns:
        Whether gradients in it cannot be vectorized.
    """
    loops = {"StatelessWhile", "While"}
    return any(node.op in loops for node in selfcheck.nodes_of(graph))


def _mirror(matrix: np.ndarray, size: int = 2048) -> None:
    """Copies the upper triangle to the lower one, in place.

    Args:
        matrix: A square matrix.
        size: Rows at a time.
    """
    for first in range(0, len(matrix), size):
        last = first + size
        matrix[first:last, :first] = matrix[:first, first:last].T
        tile = matrix[first:last, first:last]
        tile[:] = np.triu(tile) + np.triu(tile, 1).T


class _ProgressFile:
    """How many blocks of the matrix beside it are finished.

    One more than there are blocks means that both triangles are.
    """

    def __init__(
        self, path: pathlib.Path | None, digest: str = "", loss: float = 0.0
    ) -> None:
        self._path = path
        self._identity = {"digest": digest, "loss": loss}
        self.done = 0
        self.exists = path is not None and path.exists()
        if path is not None and self.exists:
            saved = json.loads(path.read_text())
            require(
                saved["digest"] == digest
                and math.isclose(saved["loss"], loss, rel_tol=1e-4),
                "path",
                "new, or of the same weights, data and loss",
                path,
            )
            self.done = saved["done"]

    def record(self, matrix: np.ndarray, done: int) -> None:
        """Notes what is finished, once it is on the disk."""
        self.done = done
        if self._path is not None and isinstance(matrix, np.memmap):
            matrix.flush()
            content = self._identity | {"done": done}
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(content))
            temporary.replace(self._path)


def _allocate(
    objective: Objective, path: str | pathlib.Path | None
) -> tuple[np.ndarray, _ProgressFile]:
    """Returns room for the matrix, and what is done of it.

    Args:
        objective: The loss.
        path: Where to keep the matrix; `None` for memory.

    Returns:
        The matrix and the file of progress.

    Raises:
        ValueError: If there is not enough room, or another matrix in it.
    """
    count = objective.num_parameters
    dtype = np.dtype(objective.dtype)
    shape, needed = (count, count), count * count * dtype.itemsize
    if path is None:
        free = psutil.virtual_memory().available
        require(
            needed + _WORKING_BYTES <= free,
            "path",
            f"a file: the Hessian takes {needed / _GIGABYTE:.1f} GB and "
            f"{free / _GIGABYTE:.1f} GB of memory are free. Or use "
            '`hessian_spectrum(..., method="lanczos")`',
            path,
        )
        return np.zeros(shape, dtype), _ProgressFile(None)
    path = pathlib.Path(path)
    progress_file = _ProgressFile(
        path.with_suffix(".json"),
        _digest(objective),
        float(objective.value(objective.position())),
    )
    if progress_file.exists:
        return np.load(path, mmap_mode="r+"), progress_file
    require(not path.exists(), "path", "new", path)
    free = shutil.disk_usage(path.parent).free
    require(
        needed <= free,
        "path",
        f"on a disk with {needed / _GIGABYTE:.1f} GB free",
        f"{path}, with {free / _GIGABYTE:.1f} GB free",
    )
    matrix = np.lib.format.open_memmap(path, "w+", dtype, shape)
    progress_file.record(matrix, 0)
    return matrix, progress_file


def _digest(objective: Objective) -> str:
    """Returns a digest of the weights and the data."""
    digest = hashlib.sha256(objective.position().numpy().tobytes())
    batches = [keras.tree.flatten(batch) for batch in objective.batches]
    for leaves in zip(*batches, strict=True):
        for leaf in leaves:
            array = np.asarray(leaf)
            # The bytes of objects, such as text, are where they lie in memory.
            of_objects = array.dtype == object
            digest.update(
                repr(array.tolist()).encode() if of_objects else array.tobytes()
            )
    return digest.hexdigest()
