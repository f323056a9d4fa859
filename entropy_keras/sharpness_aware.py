"""SharpnessAware: the gradient at the worst weights nearby."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import multi_gradient
from entropy_keras import validation

Tensors = list[tf.Tensor]

DIRECTIONS = ("gradient", "momentum")


@keras.saving.register_keras_serializable(package="entropy_keras")
class SharpnessAware(multi_gradient.MultiGradientOptimizer):
    """Sharpness-aware minimization (SAM).

    Takes the step with the gradient at the weights where, to first order, the
    loss is largest within a ball:

    ```
    scale = abs(x) if adaptive else 1
    ascent = scale * gradient(loss(x, batch))
    perturbed = x + radius * scale * ascent / norm(ascent)
    outer_optimizer.apply(gradient(loss(perturbed, batch)))
    ```

    Both gradients are those of one mini-batch, with the regularization losses
    in both. Loss, metrics and statistics of batch normalization are those of
    the pass at x. At radius 0 it is the outer optimizer, bit for bit.

    **To see that it is at work** (several copies that circulate do nothing):
    train one step on `loss = 0.5 * w**2` from w = 1 at learning rate 0.1. The
    outer optimizer alone goes to 0.9; with radius 0.5 the gradient is taken at
    1.5, and the step goes to 0.85. The example below does it.

    Args:
        radius: Radius ρ of the ball, a non-negative float.
        adaptive: Whether the ball is relative to each weight (ASAM), which
            wants a radius some ten times as large.
        direction: Where the ball's worst point is looked for: `"gradient"`
            takes a first gradient at x for it, `"momentum"` goes along the mean
            of the gradients so far and needs no second gradient; the loss and
            the statistics reported are then those at the perturbed weights.
        decay: With `direction="momentum"`, the share of that mean that an
            update keeps, a float in [0, 1).
        learning_rate: That of the default outer optimizer, 0.01 unless told.
        outer_optimizer: The `keras.optimizers.Optimizer` of the step. Defaults
            to plain `SGD` at `learning_rate`.
        name: Name of the optimizer.
        **arguments: Further arguments of `MultiGradientOptimizer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> class Weight(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.w = self.add_weight(shape=[1], initializer="ones")
    ...
    ...     def call(self, inputs):
    ...         return inputs * self.w
    >>> model = entropy_keras.EntropyModel.from_model(
    ...     keras.Sequential([keras.Input([1]), Weight()])
    ... )
    >>> sam = SharpnessAware(radius=0.5, learning_rate=0.1)
    >>> model.compile(sam, loss=lambda y, prediction: 0.5 * prediction**2)
    >>> loss = model.train_on_batch(np.ones([4, 1]), np.ones([4, 1]))
    >>> round(float(model.get_weights()[0][0]), 6)
    0.85

    References:
        Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for
        efficiently improving generalization", ICLR 2021, eq. 2; Kwon, Kim,
        Park, Choi, "ASAM", ICML 2021, eq. 4.
    """

    def __init__(
        self,
        radius: float = 0.05,
        adaptive: bool = False,
        direction: str = "gradient",
        decay: float = 0.9,
        *,
        learning_rate: Any = None,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        name: str = "sharpness_aware",
        **arguments: Any,
    ) -> None:
        radius, decay = map(validation.as_python, (radius, decay))
        adaptive = validation.as_python(adaptive)
        rules = (
            ("radius", radius, validation.is_number(radius, 0.0),
             "a non-negative float"),
            ("adaptive", adaptive, isinstance(adaptive, bool), "True or False"),
            ("direction", direction, direction in DIRECTIONS,
             f"one of {DIRECTIONS}"),
            ("decay", decay, validation.is_number(decay, 0.0) and decay < 1,
             "a float in [0, 1)"),
        )  # fmt: skip
        for argument, value, holds, expectation in rules:
            validation.require(holds, argument, expectation, value)
        super().__init__(
            learning_rate, outer_optimizer=outer_optimizer, name=name,
            **arguments,
        )  # fmt: skip
        self.radius = radius
        self.adaptive = adaptive
        self.direction = direction
        self.decay = decay

    @property
    def gradients_per_update(self) -> int:
        """Gradient evaluations per update: 2, or 1 along the momentum."""
        return 2 if self.direction == "gradient" else 1

    @property
    def minibatches_per_update(self) -> int:
        """One mini-batch serves both gradients."""
        return 1

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns the mean of no gradients yet.

        Args:
            variables: The trainable variables.

        Returns:
            Zeros for each with `direction="momentum"`, else nothing.
        """
        if self.direction == "gradient":
            return ()
        return [tf.zeros(v.shape, v.dtype) for v in variables]

    def propose(
        self,
        gradient_at: multi_gradient.GradientAt,
        anchor: Tensors,
        slots: Any,
        clock: multi_gradient.Clock,
    ) -> multi_gradient.Proposal:
        """Computes one update; see `MultiGradientOptimizer`.

        Args:
            gradient_at: Gives the gradient of the loss at any weights.
            anchor: The weights x.
            slots: The mean of the gradients so far, or nothing.
            clock: Not used.

        Returns:
            The gradient at the perturbed weights.
        """
        del clock
        along_momentum = self.direction == "momentum"
        ascent = slots if along_momentum else gradient_at(anchor, 0)
        perturbed = perturbation(anchor, ascent, self.radius, self.adaptive)
        gradients = gradient_at(perturbed, 0)
        if along_momentum:
            slots = [
                self.decay * m + (1.0 - self.decay) * g
                for m, g in zip(slots, gradients, strict=True)
            ]
        return multi_gradient.Proposal(gradients, slots)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them."""
        return super().get_config() | {
            "radius": self.radius,
            "adaptive": self.adaptive,
            "direction": self.direction,
            "decay": self.decay,
        }


def perturbation(
    anchor: Tensors, gradients: Tensors, radius: float, adaptive: bool
) -> Tensors:
    """Returns the weights of largest loss within a ball, to first order.

    Args:
        anchor: The weights in the middle of the ball.
        gradients: Gradients of the loss there.
        radius: The radius.
        adaptive: Whether it is relative to each weight.

    Returns:
        One tensor for each variable: the weights themselves where all
        gradients are 0.
    """
    if adaptive:
        ascent = [tf.abs(x) * g for x, g in zip(anchor, gradients, strict=True)]
    else:
        ascent = list(gradients)
    # In float32, since squares of half precision overflow.
    wide = tf.float64 if anchor[0].dtype == tf.float64 else tf.float32
    norm = tf.sqrt(
        tf.add_n([tf.reduce_sum(tf.square(tf.cast(a, wide))) for a in ascent])
    )
    factor = tf.math.divide_no_nan(tf.cast(radius, wide), norm)
    # An infinite norm must not hide in a factor of 0.
    factor = tf.where(tf.math.is_finite(norm), factor, norm)
    return [
        x + tf.cast(factor, x.dtype) * (tf.abs(x) * a if adaptive else a)
        for x, a in zip(anchor, ascent, strict=True)
    ]
