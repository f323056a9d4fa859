"""What happens inside an update, as Keras metrics."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import chain as chain_lib

# One update in so many is measured: to measure all costs some 10 % of the time.
PERIOD = 10


class Latest(keras.metrics.Metric):
    """A metric that shows the last value it was given.

    Args:
        name: Name of the metric.

    Example:
    >>> latest = Latest("scope")
    >>> latest.update_state(1.0)
    >>> latest.update_state(3.0)
    >>> float(latest.result())
    3.0
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.value = self.add_variable(
            shape=(), initializer="zeros", dtype="float32", name="value"
        )

    def update_state(self, value: Any) -> None:
        """Replaces the value.

        Args:
            value: A scalar.
        """
        self.value.assign(tf.cast(value, "float32"))

    def result(self) -> tf.Tensor:
        """Returns the value."""
        return tf.convert_to_tensor(self.value)


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

    The last two are those of the latest update. The others are means over the
    first update of an epoch and every tenth of the training.
    """

    def __init__(self) -> None:
        means = (
            "displacement",
            "force_norm",
            "gradient_norm",
            "cosine",
            "noise_to_drift",
        )
        self.metrics: list[keras.metrics.Metric] = [
            keras.metrics.Mean(name) for name in means
        ]
        self.metrics += [Latest("scope"), Latest("gradient_evaluations")]

    def update_state(self, reading: "Reading") -> None:
        """Takes one update into account.

        Args:
            reading: What to know of the update.
        """
        *means, scope, gradient_evaluations = self.metrics

        def take() -> None:
            for metric, value in zip(means, reading.measure(), strict=True):
                metric.update_state(value)

        is_first = tf.equal(means[0].count, 0)
        tf.cond(is_first | (reading.update % PERIOD == 0), take, lambda: None)
        scope.update_state(reading.scope)
        gradient_evaluations.update_state(reading.gradient_evaluations)


class Reading(NamedTuple):
    """What to know of one update.

    Attributes:
        update: Its number.
        scope: The scope.
        gradient_evaluations: How many there have been after it.
        measure: Returns a scalar for each metric that is a mean.
    """

    update: tf.Tensor
    scope: tf.Tensor
    gradient_evaluations: tf.Tensor
    measure: Callable[[], list[tf.Tensor]]


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
