"""How flat the loss is, along a training."""

from typing import Any

import keras

from entropy_keras.landscape.flatness import flatness_report
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.report import FlatnessReport
from entropy_keras.landscape.report import Measured
from entropy_keras.validation import is_integer
from entropy_keras.validation import require


class FlatnessCallback(keras.callbacks.Callback):
    """Measures `flatness_report` during `fit`, beside the losses.

    The numbers are added to the logs of the epoch, as `flatness_largest`,
    `flatness_trace` and so on, so that the history has them, and callbacks
    that come later in the list, as `keras.callbacks.TensorBoard`, write them.
    What there was no time for is NaN. Training itself is not changed. What the
    measurements need is compiled once a `fit`.

    Args:
        data: The samples; a part of those that are trained on suffices.
        every: Epochs from one measurement to the next, from 1 on. The last one
            of a `fit` of as many epochs as planned is measured in any case.
        **options: Those of `flatness_report`: `loss`, `budget` in seconds,
            `threshold` and so on. A fixed threshold makes shares comparable.

    Attributes:
        reports: The reports by epoch, counted from 0.

    Raises:
        ValueError: If `every` is not such a number.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> model.compile("sgd", loss="mse")
    >>> x, y = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> flatness = landscape.FlatnessCallback((x, y), budget=20.0)
    >>> history = model.fit(x, y, verbose=0, callbacks=[flatness]).history
    >>> round(history["flatness_largest"][0], 3)
    3.0
    """

    def __init__(self, data: Any, *, every: int = 1, **options: Any) -> None:
        super().__init__()
        require(is_integer(every, 1), "every", "an integer from 1 on", every)
        self._data, self._every = data, every
        self._loss_options = {
            name: options.pop(name)
            for name in ("loss", "batch_size", "training")
            if name in options
        }
        self._options = {"verbose": 0, **options}
        self._objective: Objective | None = None
        self.reports: dict[int, FlatnessReport] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets what was compiled: the model may have been since.

        Args:
            logs: Not looked at.
        """
        self._objective = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measures, where it is time to.

        Args:
            epoch: Number of the epoch, from 0 on.
            logs: What is added to.
        """
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self._every and not is_last:
            return
        if self._objective is None:
            self._objective = Objective(
                self.model, self._data, **self._loss_options
            )
        report = flatness_report(self._objective, **self._options)
        self.reports[epoch] = report
        logs.update({
            f"flatness_{name}": value.value
            for name, value in vars(report).items()
            if isinstance(value, Measured)
        })
