"""The metric of the weights: the units of a step, the scope and the noise.

A metric M gives each weight a positive number, which stays during an update.
The chain then samples `exp(-(f(x') + scope/2 * (x' - x)' M**-1 (x' - x)) / T)`.
It is a frozen value with pure functions on lists of tensors, one for each
variable; what it remembers lasts from update to update.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from entropy_keras import parts
from entropy_keras import validation

Tensors = list[tf.Tensor]


class Metric(parts.Part, abc.ABC):
    """One positive number a weight. Subclasses are frozen dataclasses.

    Attributes:
        learns_from_draws: Whether `observe` takes in displacements, and so the
            chain has to start from a draw, at a temperature above 0.
    """

    learns_from_draws: ClassVar[bool] = False

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns what it remembers before the first update.

        Args:
            variables: The trainable variables.

        Returns:
            A structure of tensors, empty by default.
        """
        del variables
        return ()

    @abc.abstractmethod
    def diagonal(
        self, anchor: Tensors, slots: Any, variables: Sequence[Any] = ()
    ) -> list[Any]:
        """Returns the metric of one update.

        Args:
            anchor: The weights x.
            slots: What it remembers.
            variables: The trainable variables, whose names it may ask for.

        Returns:
            For each variable a tensor that broadcasts to it, or `None` for 1.
        """

    def observe(
        self,
        slots: Any,
        gradients: Tensors,
        displacements: Sequence[tf.Tensor | None] = (),
    ) -> Any:
        """Takes the gradients of one inner step in.

        Args:
            slots: What it remembers.
            gradients: Gradients of the loss.
            displacements: For a metric that `learns_from_draws`, how far from
                x they were taken, over the temperature and the metric: normals
                of variance `1 / (temperature * scope * M)`. `None` for a
                variable without noise.

        Returns:
            What it remembers now.
        """
        del gradients, displacements
        return slots


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class Identity(Metric):
    """M = 1: all weights alike, as in the paper."""

    def diagonal(  # noqa: D102
        self, anchor: Tensors, slots: Any, variables: Sequence[Any] = ()
    ) -> list[Any]:
        del slots, variables
        return [None] * len(anchor)


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class Relative(Metric):
    """Steps, scope and noise relative to the size of the weights.

    M of a weight is the mean square of the weights with which it shares the
    index of the last axis: of its column in the matrix of `Dense`, of its
    filter in the kernel of `Conv2D`. That is its output unit, save where Keras
    has another order: `DepthwiseConv2D` has one M for all channels,
    `Conv2DTranspose` one for each input channel, attention one for each place
    in a head. Noise of deviation s is then a share s of the weights, whatever
    their scale. Biases and scales keep M = 1, since most of them are near 0,
    where relative noise is none: all vectors, and what is named `bias`, `beta`
    or `gamma`. A unit whose weights are all 0 has M = 1 until they are not: it
    could not leave 0 otherwise.

    Args:
        floor: Smallest M of a unit whose weights are not 0, a positive float.

    Raises:
        ValueError: If `floor` is not positive.

    Example:
    >>> kernel, bias = tf.constant([[3.0, 0.0], [1.0, 2.0]]), tf.zeros([2])
    >>> by_kernel, by_bias = Relative().diagonal([kernel, bias], ())
    >>> by_kernel.numpy().tolist(), by_bias
    ([[5.0, 2.0]], None)
    """

    floor: float = 1e-12

    def __post_init__(self) -> None:
        validation.require_positive(floor=self.floor)
        validation.normalize(self)

    def diagonal(  # noqa: D102
        self, anchor: Tensors, slots: Any, variables: Sequence[Any] = ()
    ) -> list[Any]:
        del slots
        names = [getattr(v, "name", "") for v in variables or anchor]

        def of_units(x: tf.Tensor, name: str) -> tf.Tensor | None:
            if x.shape.rank < 2 or name in ("bias", "beta", "gamma"):
                return None
            axes = list(range(x.shape.rank - 1))
            square = tf.reduce_mean(tf.square(x), axes, keepdims=True)
            floored = tf.maximum(square, tf.constant(self.floor, x.dtype))
            return tf.where(square == 0, tf.ones_like(square), floored)

        return [of_units(*each) for each in zip(anchor, names, strict=True)]


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class RMSGradients(Metric):
    """Steps that are long where gradients are small, as in pSGLD and RMSProp.

    ```
    moment = decay * moment + (1 - decay) * gradient**2     # each inner step
    M = 1 / (epsilon + sqrt(moment / (1 - decay**steps)))   # each update
    ```

    The moment lasts from update to update; the first has M = 1. The drift lacks
    the term of the derivative of M that an exact sampler would have: M does not
    depend on the position within an update, so there it is exact.

    Args:
        decay: Share of the moment that a step keeps, a float in [0, 1).
        epsilon: What is added to the root, a positive float.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Li, Chen, Carlson, Carin, "Preconditioned stochastic gradient Langevin
        dynamics for deep neural networks", AAAI 2016, Algorithm 1.
    """

    decay: float = 0.99
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        validation.require_fraction(decay=self.decay)
        validation.require_positive(epsilon=self.epsilon)
        validation.normalize(self)

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        moments = [tf.zeros(v.shape, v.dtype) for v in variables]
        return {"steps": tf.zeros([], tf.int64), "moments": moments}

    def diagonal(  # noqa: D102
        self, anchor: Tensors, slots: Any, variables: Sequence[Any] = ()
    ) -> list[Any]:
        del variables
        steps = slots["steps"]
        diagonals = []
        for x, moment in zip(anchor, slots["moments"], strict=True):
            seen = tf.maximum(tf.cast(steps, x.dtype), 1.0)
            bias = 1.0 - tf.pow(tf.constant(self.decay, x.dtype), seen)
            root = self.epsilon + tf.sqrt(moment / bias)
            diagonals.append(tf.where(steps > 0, 1.0 / root, 1.0))
        return diagonals

    def observe(  # noqa: D102
        self,
        slots: Any,
        gradients: Tensors,
        displacements: Sequence[tf.Tensor | None] = (),
    ) -> Any:
        del displacements
        moments = [
            self.decay * m + (1.0 - self.decay) * tf.square(g)
            for m, g in zip(slots["moments"], gradients, strict=True)
        ]
        return {"steps": slots["steps"] + 1, "moments": moments}


@keras.saving.register_keras_serializable(package="entropy_keras")
@dataclasses.dataclass(frozen=True)
class LearnedScope(Metric):
    """A scope for each weight, learned from the curvature that noise shows.

    A weight whose loss is curved gets a larger scope, hence less noise, as in
    the variational reading of local entropy: its Gaussian widens until
    curvature and scope balance. At a draw `x + d` of the Gaussian of variance
    `temperature * M / scope` the gradient tells the mean curvature h there,
    since `E[gradient * d] = variance * h` (Stein's identity), at no further
    gradient. With the factor `p = 1 / M` of the scope, 1 at first,

    ```
    target = 1 + gradient * d / (temperature * M)     # of mean 1 + h / scope
    change = (1 - decay) * (p - target) / p
    p      = p * (1 - change + change**2 / 2)         # stays positive
    ```

    for each gradient at such a draw: the first of an update, all of them with
    `GaussianPerturbation`. With that sampler and a constant scope this is the
    precision of IVON, `scope * p = h + delta` at `temperature = 1 / lambda`.
    The quadratic term keeps p positive and errs upwards by the noise of the
    product. It needs `start="stationary"` and a temperature above 0.

    Args:
        decay: Share of p that an observation keeps, a float in [0, 1).

    Raises:
        ValueError: If `decay` is out of its range.

    References:
        Shen et al., "Variational learning is effective for large deep
        networks", ICML 2024, Algorithm 1; Lin, Schmidt, Khan, "Handling the
        positive-definite constraint in the Bayesian learning rule", ICML 2020.
    """

    learns_from_draws: ClassVar[bool] = True

    decay: float = 0.999

    def __post_init__(self) -> None:
        validation.require_fraction(decay=self.decay)
        validation.normalize(self)

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        return [tf.ones(v.shape, v.dtype) for v in variables]

    def diagonal(  # noqa: D102
        self, anchor: Tensors, slots: Any, variables: Sequence[Any] = ()
    ) -> list[Any]:
        del anchor, variables
        return [1.0 / factor for factor in slots]

    def observe(  # noqa: D102
        self,
        slots: Any,
        gradients: Tensors,
        displacements: Sequence[tf.Tensor | None] = (),
    ) -> Any:
        def learned(factor: Any, gradient: Any, displacement: Any) -> Any:
            if displacement is None:
                return factor
            target = 1.0 + gradient * displacement
            change = (1.0 - self.decay) * (factor - target) / factor
            return factor * (1.0 - change + 0.5 * tf.square(change))

        return [
            learned(*each)
            for each in zip(slots, gradients, displacements, strict=True)
        ]


_BY_NAME: dict[str, type[Metric]] = {
    "identity": Identity,
    "relative": Relative,
    "rms_gradients": RMSGradients,
    "learned": LearnedScope,
}
NAMES = tuple(_BY_NAME)


def get(metric: str | Metric) -> Metric:
    """Returns the metric that a name stands for, or the metric itself.

    Args:
        metric: One of `NAMES`, or a `Metric` object.

    Returns:
        A metric.

    Raises:
        ValueError: If there is no such metric.

    Example:
    >>> get("relative")
    Relative(floor=1e-12)
    """
    return parts.get(metric, Metric, _BY_NAME, "metric")
