"""The guard that stops training before it spoils anything.

It looks at what an update would write. What is not finite is not written, a
flag goes up, and nothing is written from then on; the callback, which `fit`
adds, turns the flag into an error.
"""

import time
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import validation

# Values of the failure flag.
FINE, LOSS, GRADIENT, STATE = 0, 1, 2, 3
_CULPRITS = {
    LOSS: "loss",
    GRADIENT: "{gradient}",
    STATE: "result of the outer step",
}
# To read the flag the host waits for the device: at most so often, in seconds.
_PERIOD = 1.0


def look(
    loss: tf.Tensor, gradients: Sequence[Any], values: Sequence[Any]
) -> tf.Tensor:
    """Returns what is not finite in an update.

    Args:
        loss: The reported loss.
        gradients: What the outer step takes; entries may be `None`.
        values: What is to be written.

    Returns:
        A value of the failure flag, an integer scalar.
    """
    fine_loss = _all_finite([loss])
    return tf.cond(
        tf.logical_and(fine_loss, _all_finite(values)),
        lambda: tf.constant(FINE),
        lambda: tf.where(
            fine_loss,
            tf.where(_all_finite(gradients), STATE, GRADIENT),
            LOSS,
        ),
    )


def _all_finite(tensors: Sequence[Any]) -> tf.Tensor:
    checks = [
        tf.reduce_all(tf.math.is_finite(t))
        for t in tensors
        if t is not None and t.dtype.is_floating
    ]
    return tf.reduce_all(tf.stack([tf.constant(True), *checks]))


class Watch(keras.callbacks.Callback):
    """Raises soon after an update was not made, or if there was none to make.

    It also tells the optimizer of each epoch.

    Args:
        optimizer: The `MultiGradientOptimizer` to watch.
    """

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._has_data = False
        self._next_look = time.monotonic() + _PERIOD

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tells the optimizer, and lowers a flag that came with a file.

        Args:
            epoch: Number of the epoch.
            logs: Not used.
        """
        del epoch, logs
        if self._optimizer.built:
            self._optimizer.failure.assign(FINE)
        self._optimizer.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the flag if it has not for a while.

        Args:
            batch: Number of the batch.
            logs: Not used.
        """
        del batch, logs
        self._has_data = True
        if time.monotonic() >= self._next_look:
            raise_on_failure(self._optimizer)
            self._next_look = time.monotonic() + _PERIOD

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the flag, and checks that the data held anything.

        Args:
            epoch: Number of the epoch.
            logs: Not used.
        """
        del epoch, logs
        validation.require(
            self._has_data, "x", "a data set of at least one batch", "no batch"
        )
        raise_on_failure(self._optimizer)


def raise_on_failure(optimizer: Any) -> None:
    """Raises if an update was not made, and lowers the flag.

    Args:
        optimizer: The `MultiGradientOptimizer` to check.

    Raises:
        FloatingPointError: If the flag was up.
    """
    if not optimizer.built:
        return
    failure = int(optimizer.failure.numpy())
    if failure == FINE:
        return
    optimizer.failure.assign(FINE)
    culprit = _CULPRITS[failure].format(gradient=optimizer.gradient_name)
    raise FloatingPointError(
        f"The {culprit} is not finite at update "
        f"{int(optimizer.iterations.numpy())}. The update was not made: "
        "weights and state are those of the last good one. Lower "
        "`learning_rate`, `langevin_learning_rate` or `temperature`, set "
        "`clipnorm`, or check the data for NaN."
    )


def add_to(callbacks: Any, optimizer: Any) -> Any:
    """Returns the callbacks of `fit` with the guard before them.

    Before them, so that none takes an epoch that failed for one that is done.

    Args:
        callbacks: What `fit` was given: `None`, one callback, a list, or a
            `keras.callbacks.CallbackList`.
        optimizer: The `MultiGradientOptimizer` to watch.

    Returns:
        A list of callbacks, or the extended `CallbackList`.
    """
    stop = Watch(optimizer)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, stop)
        return callbacks
    if callbacks is None:
        return [stop]
    if isinstance(callbacks, keras.callbacks.Callback):
        return [stop, callbacks]
    return [stop, *callbacks]
