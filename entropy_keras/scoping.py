"""Schedules of the scope over the updates of a run."""

import math

import keras
import tensorflow as tf

from entropy_keras import validation


@keras.saving.register_keras_serializable(package="entropy_keras")
class ExponentialScope(keras.optimizers.schedules.LearningRateSchedule):
    """A scope that grows exponentially with the number of updates ("scoping").

    A small scope first lets the chain look far, a large one later keeps it
    close to the weights.

    ```
    scope = min(initial_scope * (1 + growth_rate)**update, maximum_scope)
    ```

    The inner loop of the `SGLD` sampler diverges once
    `langevin_learning_rate * scope` reaches 2, and every growing scope gets
    there without a cap.

    Args:
        initial_scope: Scope at update 0, a positive float.
        growth_rate: Relative growth at each update, a non-negative float
            (γ1 in the literature; 1e-3 is the published value).
        maximum_scope: The cap, a float of at least `initial_scope`, or `None`
            for no cap.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> scope = ExponentialScope(0.5, 1.0, maximum_scope=3.0)
    >>> [float(scope(update)) for update in range(4)]
    [0.5, 1.0, 2.0, 3.0]

    References:
        Chaudhari et al., "Entropy-SGD: Biasing Gradient Descent Into Wide
        Valleys", ICLR 2017, section 4.3 of that text.
    """

    def __init__(
        self,
        initial_scope: float,
        growth_rate: float,
        maximum_scope: float | None = None,
    ) -> None:
        validation.require(
            validation.is_number(initial_scope, 0.0) and initial_scope > 0,
            "initial_scope",
            "a positive float",
            initial_scope,
        )
        validation.require(
            validation.is_number(growth_rate, 0.0),
            "growth_rate",
            "a non-negative float",
            growth_rate,
        )
        validation.require(
            maximum_scope is None
            or validation.is_number(maximum_scope, initial_scope),
            "maximum_scope",
            f"a float of at least initial_scope={initial_scope}, or None",
            maximum_scope,
        )
        self.initial_scope = initial_scope
        self.growth_rate = growth_rate
        self.maximum_scope = maximum_scope

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the scope at an update.

        Args:
            step: Number of the update, a scalar.

        Returns:
            A scalar tensor of Keras's float type.
        """
        update = tf.cast(step, keras.config.floatx())
        # Not a power: its base would be rounded, once per update.
        growth = tf.exp(update * math.log1p(self.growth_rate))
        scope = self.initial_scope * growth
        if self.maximum_scope is not None:
            scope = tf.minimum(scope, self.maximum_scope)
        return scope

    def get_config(self) -> dict[str, float | None]:
        """Returns the arguments of the schedule, as JSON can hold them.

        Returns:
            A dictionary that `from_config` takes.
        """
        return {
            "initial_scope": self.initial_scope,
            "growth_rate": self.growth_rate,
            "maximum_scope": self.maximum_scope,
        }
