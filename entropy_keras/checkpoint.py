"""Exact checkpoints of a run: every variable that the next epoch depends on.

Keras's own files leave out the state of random seeds, which dropout draws
from, so a run resumed from them would see other masks.
"""

import json
import os
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np

from entropy_keras import replicas


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Returns those of model and optimizer, which share states, each once."""
    variables = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in variables}.values())


def _storable(array: np.ndarray) -> np.ndarray:
    """Returns an array of a type that NumPy's files know, equal to one."""
    return array.astype("float32") if array.dtype.kind == "V" else array


class Checkpoint(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and restores the last one.

    Training that goes on from it equals training that was never interrupted,
    bit for bit, if the order of the data is a function of the epoch. The file
    is replaced in one step: a run killed at any moment leaves the checkpoint of
    the last whole epoch. On several workers, which all restore it, the chief
    alone writes it; with `keras.callbacks.BackupAndRestore` all would.

    Args:
        path: The file, of name `*.npz`. Several workers have to see the same.

    Attributes:
        rows: The logs of each epoch so far, as JSON-ready dictionaries.

    Example:
    >>> import tempfile
    >>> inputs = keras.Input([2])
    >>> model = entropy_keras.EntropyModel(
    ...     inputs, keras.layers.Dense(1)(inputs)
    ... )
    >>> model.compile(entropy_keras.EntropySGD(), loss="mse")
    >>> checkpoint = Checkpoint(tempfile.mkdtemp() + "/checkpoint.npz")
    >>> done = checkpoint.restore(model)
    >>> x = np.ones([40, 2])
    >>> history = model.fit(
    ...     x, x[:, :1], epochs=2, initial_epoch=done, callbacks=[checkpoint],
    ...     verbose=0,
    ... )
    >>> checkpoint.restore(model)
    2
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        self.rows: list[dict[str, Any]] = []

    def restore(self, model: keras.Model) -> int:
        """Restores a compiled model and `rows` from the file, if there is one.

        Args:
            model: The model, built and compiled as when it was saved.

        Returns:
            How many epochs are done, the `initial_epoch` of `fit`.

        Raises:
            ValueError: If the file is damaged, or belongs to another model or
                optimizer.
        """
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        if not self.path.exists():
            return 0
        try:
            with self.path.open("rb") as file, np.load(file) as arrays:
                values = [arrays[f"v{i}"] for i in range(len(arrays.files) - 1)]
                self.rows = json.loads(str(arrays["rows"]))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                "`path` must hold a whole checkpoint, or none: remove what is "
                f"damaged. Received: path={self.path}, {error}"
            ) from error
        variables = _variables(model)
        shapes = [tuple(v.shape) for v in variables]
        if [value.shape for value in values] != shapes:
            raise ValueError(
                "`path` must hold a checkpoint of the same network and "
                f"optimizer, or none. Received: path={self.path}"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return len(self.rows)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes the checkpoint.

        Args:
            epoch: Number of the epoch that ended.
            logs: Its logs.
        """
        row = {"epoch": epoch + 1} | {
            name: value if isinstance(value, int) else float(value)
            for name, value in (logs or {}).items()
        }
        self.rows.append(row)
        if not replicas.is_chief(self.model.distribute_strategy):
            return
        values: dict[str, Any] = {
            f"v{i}": _storable(v.numpy())
            for i, v in enumerate(_variables(self.model))
        }
        partial = self.path.with_suffix(".partial.npz")
        np.savez(partial, rows=json.dumps(self.rows), **values)
        os.replace(partial, self.path)
