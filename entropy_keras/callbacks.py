"""Callbacks for `fit` with any model."""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import packing
from entropy_keras import validation
from entropy_keras.checkpoint import Checkpoint

__all__ = ["Checkpoint", "RecalibrateBatchNorm"]


class RecalibrateBatchNorm(keras.callbacks.Callback):
    """Refreshes the statistics of batch normalization before they are used.

    The statistics that training leaves behind are an exponential average over
    weights that have since moved, which matters most where an epoch has few
    updates. Before each evaluation and at the end of training this callback
    replaces them by the average of the batch statistics at the current
    weights, over a pass through `data` with dropout off. Frozen layers keep
    their statistics. Nothing else of the model changes.

    Args:
        data: Inputs to pass through the model: an array, a list or dictionary
            of arrays, an `(x, y)` or `(x, y, sample_weight)` tuple of them, or
            a finite `tf.data.Dataset` or `keras.utils.PyDataset` of batches. A
            tuple of arrays for a model of several inputs is one of inputs.
            Arrays are read in their order: mix what is sorted by class.
        batch_size: Size of a batch if `data` holds arrays.

    Raises:
        ValueError: If `batch_size` is not a positive integer, or `data` cannot
            be read again and again to an end.

    Example:
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.BatchNormalization()]
    ... )
    >>> model.compile(loss="mse")
    >>> x = np.array([[1.0], [2.0], [3.0], [6.0]])
    >>> refresh = entropy_keras.callbacks.RecalibrateBatchNorm(x, batch_size=4)
    >>> loss = model.evaluate(x, x, callbacks=[refresh], verbose=0)
    >>> model.layers[0].moving_mean.numpy().tolist()
    [3.0]

    References:
        Izmailov et al., "Averaging weights leads to wider optima and better
        generalization", arXiv:1803.05407, section 3.3.
    """

    def __init__(self, data: Any, batch_size: int = 128) -> None:
        super().__init__()
        validation.require(
            validation.is_integer(batch_size, 1),
            "batch_size",
            "a positive integer",
            batch_size,
        )
        validation.require(
            not isinstance(data, Iterator),
            "data",
            "arrays, a tf.data.Dataset or a keras.utils.PyDataset, which can "
            "be read more than once",
            type(data),
        )
        endless = (
            isinstance(data, tf.data.Dataset)
            and data.cardinality() == tf.data.INFINITE_CARDINALITY
        ) or (
            isinstance(data, keras.utils.PyDataset) and data.num_batches is None
        )
        validation.require(
            not endless, "data", "a data set that ends: see `take`", data
        )
        self.data = data
        self.batch_size = batch_size

    def set_model(self, model: keras.Model) -> None:
        """Takes the model to refresh.

        Args:
            model: The model.
        """
        super().set_model(model)
        self._batch_statistics = tf.function(
            functools.partial(_batch_statistics, model), reduce_retracing=True
        )

    def on_test_begin(self, logs: Any = None) -> None:
        """Refreshes the statistics.

        Args:
            logs: Not used.
        """
        del logs
        self.recalibrate()

    def on_train_end(self, logs: Any = None) -> None:
        """Refreshes the statistics.

        Args:
            logs: Not used.
        """
        del logs
        self.recalibrate()

    def recalibrate(self) -> None:
        """Replaces the statistics by their average over the data.

        Raises:
            ValueError: If the data hold no batch.
        """
        layers = _normalizations(self.model)
        if not layers:
            return
        weight, averages = 0.0, None
        for x in self._batches():
            size = float(batching.num_samples(x))
            weight += size
            statistics = self._batch_statistics(x)
            if averages is None:
                averages = statistics
            else:
                averages = [
                    average + (value - average) * (size / weight)
                    for average, value in zip(averages, statistics, strict=True)
                ]
        validation.require(
            averages is not None,
            "data",
            "a data set of at least one batch",
            self.data,
        )
        for variable, average in zip(
            _statistics(layers), averages or (), strict=True
        ):
            variable.assign(average)

    def _batches(self) -> Iterator[Any]:
        """Yields the inputs of the model, one batch after another."""
        if isinstance(self.data, tf.data.Dataset):
            batches = iter(self.data)
        elif isinstance(self.data, keras.utils.PyDataset):
            count = self.data.num_batches
            batches = (self.data[index] for index in range(count))
        else:
            x = tf.nest.map_structure(_tensor, _inputs(self.data, self.model))
            # A data set stacks lists.
            slices = tf.data.Dataset.from_tensor_slices((
                keras.tree.lists_to_tuples(x),
            ))
            batches = iter(slices.batch(self.batch_size))
        for batch in batches:
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            yield tf.nest.map_structure(_tensor, x)


def _inputs(data: Any, model: keras.Model) -> Any:
    """Returns the inputs among arrays.

    `fit` takes x and y apart. Here a tuple is (x, y), as elsewhere in Keras,
    unless the model has several inputs and no part of it can be all of them.
    """
    if not isinstance(data, tuple):
        return data
    several = len(getattr(model, "inputs", None) or ()) > 1
    if several and not any(map(tf.nest.is_nested, data)):
        return data
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return x


def _tensor(array: Any) -> Any:
    """Returns what Keras makes of an array."""
    if array is None or tf.is_tensor(array):
        return array
    if hasattr(array, "tocoo"):  # of SciPy
        return tf.SparseTensor(*packing.sparse_parts(array))
    if hasattr(array, "to_frame"):  # a series of pandas, which is a column
        array = array.to_frame()
    return tf.convert_to_tensor(np.asarray(array))


def _normalizations(
    model: keras.Model,
) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalizations of a model that are not frozen."""
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]


def _statistics(
    layers: list[keras.layers.BatchNormalization],
) -> list[keras.Variable]:
    return [
        variable
        for layer in layers
        for variable in (layer.moving_mean, layer.moving_variance)
    ]


def _batch_statistics(model: keras.Model, x: Any) -> list[tf.Tensor]:
    """Returns the statistics of one batch, and changes nothing."""
    calls: dict[Any, list[Any]] = {
        layer: [] for layer in _normalizations(model)
    }
    with keras.StatelessScope() as scope:

        def note(layer: keras.layers.BatchNormalization) -> None:
            calls[layer].append([
                scope.get_current_value(v) for v in _statistics([layer])
            ])

        with _normalizing_by_batch(list(calls), note):
            model(x, training=False)
        for layer in calls:
            if not calls[layer]:  # it keeps what it has
                note(layer)
    # A layer that is called more than once gets the mean of its calls.
    return [
        sum(values) / len(values)
        for found in calls.values()
        for values in zip(*found, strict=True)
    ]


@contextlib.contextmanager
def _normalizing_by_batch(
    layers: list[keras.layers.BatchNormalization],
    note: Callable[[keras.layers.BatchNormalization], None],
) -> Iterator[None]:
    """Makes layers use the statistics of the batch, and keep just those.

    After each call of a layer `note` is called with it.
    """
    saved = [(layer, layer.momentum, layer.call) for layer in layers]
    try:
        for layer, _, call in saved:
            layer.momentum = 0.0
            layer.call = functools.partial(
                _call_training, call, functools.partial(note, layer)
            )
        yield
    finally:
        for layer, momentum, _ in saved:
            layer.momentum = momentum
            del layer.call


def _call_training(
    call: Any, note: Any, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    del training
    outputs = call(inputs, training=True, mask=mask)
    note()
    return outputs
