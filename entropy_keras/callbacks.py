"""Callbacks for `fit` with any model."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import validation

__all__ = ["RecalibrateBatchNorm"]


class RecalibrateBatchNorm(keras.callbacks.Callback):
    """Refreshes the statistics of batch normalization before they are used.

    The statistics that training leaves behind are an exponential average over
    weights that have since moved, which matters most where an epoch has few
    updates. Before each evaluation and at the end of training this callback
    replaces them by the average of the batch statistics at the current
    weights, over a pass through `data` with dropout off. Frozen layers keep
    their statistics. Nothing else of the model changes.

    Args:
        data: Inputs to pass through the model: an array or structure of
            arrays, an `(x, y)` or `(x, y, sample_weight)` tuple of them, or a
            finite batched `tf.data.Dataset` of such tuples.
        batch_size: Size of a batch if `data` holds arrays.

    Raises:
        ValueError: If `batch_size` is not a positive integer.

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
        if not isinstance(data, tf.data.Dataset):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            data = tf.data.Dataset.from_tensor_slices((x,)).batch(batch_size)
        self.data = data

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
        for batch in self.data:
            x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
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
    layers = _normalizations(model)
    with _normalizing_by_batch(layers), keras.StatelessScope() as scope:
        model(x, training=False)
        return [scope.get_current_value(v) for v in _statistics(layers)]


@contextlib.contextmanager
def _normalizing_by_batch(
    layers: list[keras.layers.BatchNormalization],
) -> Iterator[None]:
    """Makes layers use the statistics of the batch, and keep just those."""
    saved = [(layer, layer.momentum, layer.call) for layer in layers]
    try:
        for layer, _, call in saved:
            layer.momentum = 0.0
            layer.call = functools.partial(_call_training, call)
        yield
    finally:
        for layer, momentum, _ in saved:
            layer.momentum = momentum
            del layer.call


def _call_training(
    call: Any, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    del training
    return call(inputs, training=True, mask=mask)
