"""How far training is, on standard output."""

import datetime
import sys
from typing import Any

import keras
import tqdm


class Progress(keras.callbacks.Callback):
    """A bar of the gradient evaluations, or lines where there is no terminal.

    It tells gradients done of all, the time left, the training loss and the
    error on held-out data after the last pass. As a callback it comes after
    what adds `seconds` to the logs of an epoch.

    Args:
        gradients_per_update: Gradient evaluations of an update.

    Example:
    >>> progress = Progress(gradients_per_update=5)
    >>> progress.set_params({"epochs": 4, "steps": 100})
    >>> progress.on_epoch_begin(0)
    >>> logs = {"loss": 0.5, "val_accuracy": 0.875, "seconds": 30.0}
    >>> progress.on_epoch_end(0, logs)
    pass 1 of 4: 500 of 2000 gradients, 0:01:30 left, loss 0.5000, held-out \
error 12.50 %
    """

    def __init__(self, gradients_per_update: int) -> None:
        super().__init__()
        self._gradients_per_update = gradients_per_update
        self._bar: Any = None
        self._start = 0
        self._error = ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the bar before the first pass, also one that resumes.

        Args:
            epoch: Number of the epoch that begins.
            logs: Not used.
        """
        del logs
        per_epoch = self.params["steps"] * self._gradients_per_update
        self._start = epoch * per_epoch
        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=self.params["epochs"] * per_epoch,
                initial=self._start,
                unit=" gradients",
                smoothing=0.05,
                dynamic_ncols=True,
                file=sys.stdout,
                disable=None,  # without a terminal
            )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar.

        Args:
            batch: Number of the update of this epoch.
            logs: Those of the epoch so far.
        """
        if self._bar.disable:
            return
        self._show(logs)
        done = self._start + (batch + 1) * self._gradients_per_update
        self._bar.update(done - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells the error on held-out data.

        Args:
            epoch: Number of the epoch that ended.
            logs: Its logs.
        """
        error = 100 * (1 - logs["val_accuracy"])
        self._error = f", held-out error {error:.2f} %"
        if not self._bar.disable:
            self._show(logs)
            self._bar.refresh()
            return
        done, epochs = epoch + 1, self.params["epochs"]
        per_epoch = self.params["steps"] * self._gradients_per_update
        left = round(logs["seconds"] / done * (epochs - done))
        print(
            f"pass {done} of {epochs}: {done * per_epoch} of "
            f"{epochs * per_epoch} gradients, "
            f"{datetime.timedelta(seconds=left)} left, {_loss(logs)}"
            f"{self._error}",
            flush=True,
        )

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the bar where it is.

        Args:
            logs: Not used.
        """
        del logs
        self._bar.close()

    def _show(self, logs: Any) -> None:
        self._bar.set_postfix_str(_loss(logs) + self._error, refresh=False)


def _loss(logs: Any) -> str:
    return f"loss {logs['loss']:.4f}"
