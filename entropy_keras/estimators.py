"""From the chain to the entropy gradient.

Both estimators equal the gradient of the negative local entropy,
`scope * (anchor - <x'>) = <grad f(x')>`, once the chain is in equilibrium.
Before that they err in opposite directions: the displacement starts at 0, the
mean gradient at the gradient of the loss itself.
"""

import abc
import dataclasses

import tensorflow as tf


class Estimator(abc.ABC):
    """A running mean over the chain, on the tensors of one variable."""

    @abc.abstractmethod
    def initial_mean(self, anchor: tf.Tensor) -> tf.Tensor:
        """Returns the mean before the first step.

        Args:
            anchor: The weights x.

        Returns:
            A tensor of the same shape.
        """

    @abc.abstractmethod
    def update_mean(
        self,
        mean: tf.Tensor,
        position: tf.Tensor,
        gradient: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Takes one step of the chain into the mean.

        Args:
            mean: The mean so far.
            position: Where the step ended.
            gradient: Gradient of the loss where the step began.
            step: Number of the step, a scalar that counts from 1.

        Returns:
            The new mean.
        """

    @abc.abstractmethod
    def entropy_gradient(
        self, anchor: tf.Tensor, mean: tf.Tensor, scope: tf.Tensor
    ) -> tf.Tensor:
        """Returns the estimate of the gradient of the negative local entropy.

        Args:
            anchor: The weights x.
            mean: The mean after the last step.
            scope: Scalar scope γ.

        Returns:
            A tensor of the shape of the weights.
        """


@dataclasses.dataclass(frozen=True)
class Displacement(Estimator):
    """The paper's estimator: how far the chain's mean is from the weights.

    ```
    mean = (1 - averaging_rate) * mean + averaging_rate * position
    entropy_gradient = anchor - mean       # times scope if scale_by_scope
    ```

    Args:
        averaging_rate: Weight α of the new sample, in (0, 1]; `None` for the
            plain mean of the samples.
        scale_by_scope: Whether the scope multiplies, as in eq. 9.

    References:
        Chaudhari et al., arXiv:1611.01838v1, Algorithm 1, lines 6 and 9.
    """

    averaging_rate: float | None
    scale_by_scope: bool

    def initial_mean(self, anchor: tf.Tensor) -> tf.Tensor:  # noqa: D102
        return anchor

    def update_mean(  # noqa: D102
        self,
        mean: tf.Tensor,
        position: tf.Tensor,
        gradient: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        del gradient
        if self.averaging_rate is None:
            return mean + (position - mean) / tf.cast(step, mean.dtype)
        return (1.0 - self.averaging_rate) * mean + (
            self.averaging_rate * position
        )

    def entropy_gradient(  # noqa: D102
        self, anchor: tf.Tensor, mean: tf.Tensor, scope: tf.Tensor
    ) -> tf.Tensor:
        displacement = anchor - mean
        if self.scale_by_scope:
            displacement *= tf.cast(scope, anchor.dtype)
        return displacement


@dataclasses.dataclass(frozen=True)
class MeanGradient(Estimator):
    """The plain mean of the gradients along the chain.

    ```
    entropy_gradient = sum(gradient(step) for step in 1..L) / L
    ```

    For sharp directions it overshoots until the chain relaxes; for flat ones
    it is right at once, where the displacement is almost zero.
    """

    def initial_mean(self, anchor: tf.Tensor) -> tf.Tensor:  # noqa: D102
        return tf.zeros_like(anchor)

    def update_mean(  # noqa: D102
        self,
        mean: tf.Tensor,
        position: tf.Tensor,
        gradient: tf.Tensor,
        step: tf.Tensor,
    ) -> tf.Tensor:
        del position
        return mean + (gradient - mean) / tf.cast(step, mean.dtype)

    def entropy_gradient(  # noqa: D102
        self, anchor: tf.Tensor, mean: tf.Tensor, scope: tf.Tensor
    ) -> tf.Tensor:
        del anchor, scope
        return mean


NAMES = ("displacement", "mean_gradient")


def build(
    name: str, averaging_rate: float | None, scale_by_scope: bool
) -> Estimator:
    """Builds an estimator.

    Args:
        name: One of `NAMES`.
        averaging_rate: See `Displacement`.
        scale_by_scope: Likewise.

    Returns:
        The estimator.
    """
    if name == "displacement":
        return Displacement(averaging_rate, scale_by_scope)
    return MeanGradient()
