"""The guard that stops training before it spoils the weights.

The train step skips an update with a number that is not finite and raises a
flag; the callback, which `fit` adds, turns the flag into an error.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import validation

# Values of the failure flag.
FINE, LOSS, GRADIENT = 0, 1, 2
_CULPRITS = {LOSS: "loss", GRADIENT: "entropy gradient"}


def apply_if_finite(
    apply: Callable[[], None],
    loss: tf.Tensor,
    gradients: list[Any],
    failure: keras.Variable,
) -> None:
    """Takes the outer step if all numbers that enter it are finite.

    Args:
        apply: Takes the step.
        loss: The reported loss.
        gradients: What the step applies; entries may be `None`.
        failure: The flag to raise otherwise.
    """
    finite_loss = tf.reduce_all(tf.math.is_finite(loss))
    # The sum is finite only if each entry is, short of an overflow, which the
    # step would not survive either.
    finite_gradient = tf.math.is_finite(
        tf.add_n([
            tf.zeros([]),  # without any gradient Keras refuses the step
            *(
                tf.cast(tf.reduce_sum(tf.abs(g)), tf.float32)
                for g in gradients
                if g is not None
            ),
        ])
    )

    def skip() -> None:
        failure.assign(tf.where(finite_loss, GRADIENT, LOSS))

    tf.cond(tf.logical_and(finite_loss, finite_gradient), apply, skip)


class StopOnFailure(keras.callbacks.Callback):
    """Raises as soon as an update was skipped, or if there was none to make.

    Args:
        optimizer: The `EntropySGD` to watch.
    """

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._has_data = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks the update.

        Args:
            batch: Number of the batch.
            logs: Not used.
        """
        del batch, logs
        self._has_data = True
        raise_on_failure(self._optimizer)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Checks that the data held anything.

        Args:
            epoch: Number of the epoch.
            logs: Not used.
        """
        del epoch, logs
        validation.require(
            self._has_data, "x", "a data set of at least one batch", "no batch"
        )


def raise_on_failure(optimizer: Any) -> None:
    """Raises if an update was skipped, and lowers the flag.

    Args:
        optimizer: The `EntropySGD` to check.

    Raises:
        FloatingPointError: If the flag was up.
    """
    if not optimizer.built:
        return
    failure = int(optimizer.failure)
    if failure == FINE:
        return
    optimizer.failure.assign(FINE)
    raise FloatingPointError(
        f"The {_CULPRITS[failure]} is not finite at update "
        f"{int(optimizer.iterations)}. The update was not made: the weights "
        "are those of the last good one. Lower `learning_rate`, "
        "`langevin_learning_rate` or `temperature`, set `clipnorm`, or check "
        "the data for NaN."
    )


def add_to(callbacks: Any, optimizer: Any) -> Any:
    """Returns the callbacks of `fit` with the guard among them.

    Args:
        callbacks: What `fit` was given: `None`, one callback, a list, or a
            `keras.callbacks.CallbackList`.
        optimizer: The `EntropySGD` to watch.

    Returns:
        A list of callbacks, or the extended `CallbackList`.
    """
    stop = StopOnFailure(optimizer)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(stop)
        return callbacks
    if callbacks is None:
        return [stop]
    if isinstance(callbacks, keras.callbacks.Callback):
        return [callbacks, stop]
    return [*callbacks, stop]
