"""From the chain to the entropy gradient.

Both estimators equal the gradient of the negative local entropy,
`scope * (anchor - <x'>) = <grad f(x')>`, once the chain is in equilibrium.
Before that they err in opposite directions: the displacement starts at 0, the
mean gradient at the gradient of the loss itself. With a metric M the
displacement is `M * <grad f(x')>`, a step in its units; where a sampler weighs
the loss a times, as `SGLD` with momentum does, it is a times as large.
"""

import abc
import dataclasses
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import parts
from entropy_keras import validation

Tensors = list[tf.Tensor]


class Estimator(parts.Part, abc.ABC):
    """A running mean over the chain. Subclasses are frozen dataclasses.

    Every list has one entry for each variable.
    """

    #: Weight of the new sample if the user names none; `None` if the estimator
    #: takes the plain mean and no such weight.
    default_averaging_rate: float | None = None
    #: Whether the injected noise's own path is taken out of the positions.
    subtract_noise: bool = False

    @abc.abstractmethod
    def initial_mean(self, anchor: Tensors) -> Tensors:
        """Returns the mean before the first step.

        Args:
            anchor: The weights x.

        Returns:
            Tensors of the same shapes.
        """

    @abc.abstractmethod
    def update_mean(
        self,
        mean: Tensors,
        position: Tensors,
        gradients: Tensors,
        step: tf.Tensor,
        averaging_rate: float | None,
    ) -> Tensors:
        """Takes one step of the chain into the mean.

        Args:
            mean: The mean so far.
            position: Where the step ended.
            gradients: Gradients of the loss where the step began.
            step: Number of the step, a scalar that counts from 1.
            averaging_rate: Weight α of the new sample, in (0, 1]; `None` for
                the plain mean of the samples.

        Returns:
            The new mean.
        """

    @abc.abstractmethod
    def entropy_gradient(
        self, anchor: Tensors, mean: Tensors, factors: list[Any]
    ) -> Tensors:
        """Returns the estimate of the gradient of the negative local entropy.

        Args:
            anchor: The weights x.
            mean: The mean after the last step.
            factors: What multiplies a displacement: the scope, as eq. 9 has it,
                or 1.

        Returns:
            Tensors of the shapes of the weights.
        """


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class Displacement(Estimator):
    """The paper's estimator: how far the chain's mean is from the weights.

    ```
    mean = (1 - averaging_rate) * mean + averaging_rate * position
    entropy_gradient = anchor - mean       # times scope if scale_by_scope
    ```

    With `subtract_noise` the injected noise's own path is carried beside the
    position and taken out of the mean:

    ```
    path = step of the sampler from path, around 0, without gradient
    mean = (1 - averaging_rate) * mean + averaging_rate * (position - path)
    ```

    The path starts at 0, or where `start="stationary"` draws the start of the
    chain around the weights, and moves linearly with noise of mean 0 that no
    gradient enters, so its expectation is 0 at each step, and the expectation
    of the mean is the same with it and without. What goes is its variance,
    which at a temperature that a network feels is all that is left of the plain
    mean.

    Args:
        subtract_noise: Whether to take the noise's own path out of the mean, at
            the cost of one more tensor of the weights' size.

    References:
        Chaudhari et al., arXiv:1611.01838v1, Algorithm 1, lines 6 and 9.
    """

    subtract_noise: bool = False
    default_averaging_rate = 0.75

    def __post_init__(self) -> None:
        validation.normalize(self)
        validation.require(
            isinstance(self.subtract_noise, bool),
            "subtract_noise",
            "True or False",
            self.subtract_noise,
        )

    def initial_mean(self, anchor: Tensors) -> Tensors:  # noqa: D102
        return list(anchor)

    def update_mean(  # noqa: D102
        self,
        mean: Tensors,
        position: Tensors,
        gradients: Tensors,
        step: tf.Tensor,
        averaging_rate: float | None,
    ) -> Tensors:
        del gradients
        if averaging_rate is None:
            return [
                m + (p - m) / tf.cast(step, m.dtype)
                for m, p in zip(mean, position, strict=True)
            ]
        return [
            (1.0 - averaging_rate) * m + averaging_rate * p
            for m, p in zip(mean, position, strict=True)
        ]

    def entropy_gradient(  # noqa: D102
        self, anchor: Tensors, mean: Tensors, factors: list[Any]
    ) -> Tensors:
        return [
            x - m if factor is None else (x - m) * tf.cast(factor, x.dtype)
            for x, m, factor in zip(anchor, mean, factors, strict=True)
        ]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class MeanGradient(Estimator):
    """The plain mean of the gradients along the chain.

    ```
    entropy_gradient = sum(gradient(step) for step in 1..L) / L
    ```

    For sharp directions it overshoots until the chain relaxes; for flat ones
    it is right at once, where the displacement is almost zero. It is always the
    plain mean, and takes no averaging rate.
    """

    def initial_mean(self, anchor: Tensors) -> Tensors:  # noqa: D102
        return [tf.zeros_like(x) for x in anchor]

    def update_mean(  # noqa: D102
        self,
        mean: Tensors,
        position: Tensors,
        gradients: Tensors,
        step: tf.Tensor,
        averaging_rate: float | None,
    ) -> Tensors:
        del position, averaging_rate
        return [
            m + (g - m) / tf.cast(step, m.dtype)
            for m, g in zip(mean, gradients, strict=True)
        ]

    def entropy_gradient(  # noqa: D102
        self, anchor: Tensors, mean: Tensors, factors: list[Any]
    ) -> Tensors:
        del anchor, factors
        return list(mean)


@dataclasses.dataclass(frozen=True)
class Nothing(Estimator):
    """No mean: for chains whose positions are looked at one by one."""

    def initial_mean(self, anchor: Tensors) -> Tensors:  # noqa: D102
        del anchor
        return []

    def update_mean(  # noqa: D102
        self,
        mean: Tensors,
        position: Tensors,
        gradients: Tensors,
        step: tf.Tensor,
        averaging_rate: float | None,
    ) -> Tensors:
        del position, gradients, step, averaging_rate
        return mean

    def entropy_gradient(  # noqa: D102
        self, anchor: Tensors, mean: Tensors, factors: list[Any]
    ) -> Tensors:
        raise NotImplementedError("No mean was taken of this chain.")


_BY_NAME: dict[str, type[Estimator]] = {
    "displacement": Displacement,
    "mean_gradient": MeanGradient,
}
NAMES = tuple(_BY_NAME)


def get(estimator: str | Estimator) -> Estimator:
    """Returns the estimator that a name stands for, or the estimator itself.

    Args:
        estimator: One of `NAMES`, or an `Estimator` object.

    Returns:
        An estimator.

    Raises:
        ValueError: If there is no such estimator.

    Example:
    >>> get("displacement")
    Displacement(subtract_noise=False)
    """
    return parts.get(estimator, Estimator, _BY_NAME, "estimator", "an")
