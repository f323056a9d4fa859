"""What happens inside an update, as Keras metrics."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import hyperparameters
from entropy_keras import optimizer as optimizer_lib

# Takes an iterator over groups, returns the logs of a step.
TrainFunction = Callable[[Any], dict[str, Any]]

# One update in so many is measured, by a function of its own: to measure all
# costs up to an eighth of the time.
PERIOD = 10


class Current(keras.metrics.Metric):
    """A metric that shows a number kept elsewhere.

    Args:
        name: Name of the metric.
        show: Returns the number, a scalar.
        restart: Called when the metric is reset.

    Example:
    >>> current = Current("two", lambda: tf.constant(2.0), lambda: None)
    >>> float(current.result())
    2.0
    """

    def __init__(
        self, name: str, show: Callable[[], Any], restart: Callable[[], None]
    ) -> None:
        super().__init__(name=name)
        self._show = show
        self._restart = restart

    def result(self) -> tf.Tensor:
        """Returns the number."""
        return tf.cast(self._show(), "float32")

    def reset_state(self) -> None:
        """Tells that an epoch begins."""
        self._restart()


class Diagnostics:
    """The metrics of the inner loop.

    | name | meaning |
    |---|---|
    | `displacement` | distance of the weights from the end of the chain |
    | `force_norm` | norm of the entropy gradient |
    | `gradient_norm` | norm of the gradient of the loss, on one mini-batch |
    | `cosine` | cosine of the angle between these two |
    | `noise_to_drift` | norm of the noise over that of the drift, per step |
    | `scope` | the scope at the last update |
    | `gradient_evaluations` | gradient evaluations since training began |

    All but the last two are means over the first update of an epoch and every
    tenth after it. Within an epoch all show the last of these.

    Args:
        optimizer: The `EntropySGD` that the model is compiled with.
    """

    def __init__(self, optimizer: optimizer_lib.EntropySGD) -> None:
        self._optimizer = optimizer
        self._means = [
            keras.metrics.Mean(name)
            for name in (
                "displacement",
                "force_norm",
                "gradient_norm",
                "cosine",
                "noise_to_drift",
            )
        ]
        self.metrics: list[keras.metrics.Metric] = [
            *self._means,
            Current("scope", self._scope, self._restart),
            Current(
                "gradient_evaluations",
                self._gradient_evaluations,
                self._restart,
            ),
        ]
        self._calls = 0
        # Whether the model is to measure what it does, and show the metrics.
        self.measuring = True

    def _restart(self) -> None:
        self._calls = 0

    def _scope(self) -> tf.Tensor:
        update = tf.convert_to_tensor(self._optimizer.iterations)
        return hyperparameters.at(
            self._optimizer.scope, tf.maximum(update - 1, 0)
        )

    def _gradient_evaluations(self) -> tf.Tensor:
        count = self._optimizer.gradients_per_update
        return self._optimizer.iterations * count

    def update_state(self, values: Sequence[tf.Tensor]) -> None:
        """Takes the values of one update.

        Args:
            values: What `measure` returned.
        """
        for metric, value in zip(self._means, values, strict=True):
            metric.update_state(value)

    def alternate(
        self, plain: TrainFunction, measured: TrainFunction
    ) -> TrainFunction:
        """Returns a train function that measures some of the updates.

        Args:
            plain: The train function traced with `measuring` off.
            measured: The same, traced with `measuring` on.

        Returns:
            A function with the same argument, whose logs hold all metrics.
        """
        names = [metric.name for metric in self.metrics]
        latest: dict[str, Any] = {}

        def train(iterator: Any) -> dict[str, Any]:
            self.measuring = self._calls % PERIOD == 0
            self._calls += 1
            if not self.measuring:
                try:
                    return latest | plain(iterator)
                finally:
                    self.measuring = True
            logs = measured(iterator)
            latest.update({name: logs[name] for name in names})
            return logs

        return train


def of(optimizer: optimizer_lib.EntropySGD | None) -> Diagnostics | None:
    """Returns the diagnostics of an optimizer, if it is to have them.

    Args:
        optimizer: The optimizer of a model, `None` if it is another.

    Returns:
        Diagnostics, or `None`.
    """
    if optimizer is None or not optimizer.diagnostics:
        return None
    return Diagnostics(optimizer)


def measure(
    chain: chain_lib.Chain,
    state: chain_lib.State,
    anchor: Sequence[tf.Tensor],
    force: Sequence[tf.Tensor],
    gradient: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Measures one update, over the variables that take part.

    Args:
        chain: The chain.
        state: Where it ended.
        anchor: The weights x.
        force: The entropy gradient.
        gradient: Gradient of the loss at x.

    Returns:
        One scalar for each metric of `Diagnostics` that is a mean.
    """
    force_norm, gradient_norm = _norm(force), _norm(gradient)
    distance = [w - p for w, p in zip(anchor, state.position, strict=True)]
    product = tf.add_n([
        tf.cast(tf.reduce_sum(f * g), tf.float32)
        for f, g in zip(force, gradient, strict=True)
    ])
    count = sum(w.shape.num_elements() for w in anchor)
    step_size = tf.cast(chain.step_size, tf.float32)
    noise = tf.sqrt(2.0 * step_size * chain.temperature * count)
    return [
        _norm(distance),
        force_norm,
        gradient_norm,
        tf.math.divide_no_nan(product, force_norm * gradient_norm),
        tf.math.divide_no_nan(noise, step_size * gradient_norm),
    ]


def _norm(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.sqrt(
        tf.add_n([
            tf.cast(tf.reduce_sum(tf.square(t)), tf.float32) for t in tensors
        ])
    )
