"""What Entropy-SGD is timed against and Keras does not have."""

from typing import Any

import keras
import tensorflow as tf

from entropy_keras import samplers


class SAMModel(keras.Model):
    """A model that `fit` trains by sharpness-aware minimization.

    ```
    gradient = grad f(weights)
    weights += radius * gradient / |gradient|
    gradient = grad f(weights), on the same mini-batch
    weights back to where they were, then one step of the optimizer
    ```

    Each step takes two gradient evaluations.

    References:
        Foret et al., "Sharpness-aware minimization for efficiently improving
        generalization", arXiv:2010.01412, Algorithm 1.
    """

    radius = 0.05

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes one step on one mini-batch.

        Args:
            data: A pair of inputs and labels.

        Returns:
            The current value of each metric by name.
        """
        x, y = data
        variables = self.trainable_variables
        first, loss, predictions = self._gradients(x, y)
        scale = self.radius / (tf.linalg.global_norm(first) + 1e-12)
        weights = [tf.identity(variable) for variable in variables]
        for variable, gradient in zip(variables, first, strict=True):
            variable.assign_add(scale * gradient)
        second, _, _ = self._gradients(x, y)
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)
        self.optimizer.apply(second, variables)
        next(m for m in self.metrics if m.name == "loss").update_state(loss)
        return self.compute_metrics(x, y, predictions)

    def _gradients(self, x: Any, y: Any) -> tuple[list[tf.Tensor], Any, Any]:
        """Returns the gradients, the loss and the predictions."""
        with tf.GradientTape() as tape:
            predictions = self(x, training=True)
            loss = self.compute_loss(x, y, predictions)
        values = [variable.value for variable in self.trainable_variables]
        return tape.gradient(loss, values), loss, predictions


class GradientsAlone(samplers.ElementwiseSampler):
    """The least that a chain can do with the gradients that it asks for."""

    def move(  # noqa: D102
        self,
        position: tf.Tensor,
        gradient: tf.Tensor,
        anchor: tf.Tensor,
        noise: tf.Tensor | None,
        memory: tuple[tf.Tensor, ...],
        setting: samplers.Setting,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        del position, noise, setting
        return anchor - 1e-6 * gradient, memory
