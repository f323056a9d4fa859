"""Whether second derivatives are right, checked where they are used.

TensorFlow drops terms without a word where it has no derivative of a gradient.
Two checks find that: the operations of the first derivative tell which have
none, and a Hessian is symmetric, which one that lacks terms is not.
"""

from collections.abc import Callable
from typing import Any
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import keras_private
from entropy_keras.validation import require

T = TypeVar("T")

# Gradients that TensorFlow declares not differentiable, or of functions that it
# does not know, with who uses them and what to do.
_RESIZED = "use interpolation='nearest', or a transposed convolution"
_NOT_DIFFERENTIABLE = {
    "ResizeBilinearGrad": ("bilinear UpSampling2D and Resizing", _RESIZED),
    "ResizeBicubicGrad": ("bicubic UpSampling2D and Resizing", _RESIZED),
    "ScaleAndTranslateGrad": (
        "tf.image.resize with antialias, and its kernels",
        _RESIZED,
    ),
    "SymbolicGradient": (
        "keras.losses.CTC and other functions of TensorFlow that loop and have "
        "a gradient of their own",
        "use a loss without loops",
    ),
}
# Distance from 1 to the next number.
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}
EPS |= {"bfloat16": 2.0**-7}
# Rounding leaves a few units of the last place; a missing term a good share.
_TOLERANCES = {
    EPS["float64"]: 1e-6,
    EPS["float32"]: 2e-3,
    EPS["float16"]: 0.05,
    EPS["bfloat16"]: 0.2,
}


def tolerance(precision: float) -> float:
    """Returns the relative error that is taken for rounding.

    Args:
        precision: The relative precision of a model, one of `EPS`.
    """
    return _TOLERANCES[precision]


def nodes_of(graph: tf.Graph) -> list[Any]:
    """Returns the nodes of a graph and of all functions that it calls.

    Args:
        graph: The graph.

    Returns:
        Their definitions.
    """
    definition = graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes.extend(function.node_def)
    return nodes


def require_differentiable(gradient: tf.Tensor) -> None:
    """Refuses derivatives that TensorFlow cannot compute.

    Args:
        gradient: A tensor of a graph, the result of a derivative.

    Raises:
        ValueError: If an operation in it has no derivative; it is named.
    """
    kinds = {node.op for node in nodes_of(gradient.graph)}
    for kind in sorted(kinds & _NOT_DIFFERENTIABLE.keys()):
        who, cure = _NOT_DIFFERENTIABLE[kind]
        require(
            False,
            "model",
            f"one without {who}, whose gradient TensorFlow cannot "
            f"differentiate: {cure}",
            f"a model with the operation {kind}",
        )


def precision(model: keras.Model) -> float:
    """Returns the relative precision of what a model computes.

    Args:
        model: The model.

    Returns:
        That of the coarsest floating type that a layer with weights has.
    """
    return max(_precisions(model))


def precision_of_products(model: keras.Model) -> float:
    """Returns the relative precision of products of the Hessian.

    Four passes lead to one, forward, backward and the derivatives of both, each
    rounding by half the distance of two numbers in every layer.

    Args:
        model: The model.

    Returns:
        Its precision; where that is coarser than float32, times two and the
        root of the number of layers with weights that have it.
    """
    coarsest = precision(model)
    if coarsest <= EPS["float32"]:
        return coarsest
    return 2 * coarsest * _precisions(model).count(coarsest) ** 0.5


def _precisions(model: keras.Model) -> list[float]:
    found = []
    for layer in keras_private.layers_within(model):
        # A model computes in the types of its layers, but for weights its own.
        inner = keras_private.layers_within(layer)[1:]
        theirs = {id(weight) for part in inner for weight in part.weights}
        if any(id(weight) not in theirs for weight in layer.weights):
            found.append(EPS.get(layer.compute_dtype, 0.0))
    return found


def vectorizes(model: keras.Model) -> bool:
    """Tells whether backward passes of a model may be vectorized.

    Those of convolutions in groups are converted as if there were one group.

    Args:
        model: The model.

    Returns:
        Whether none of its layers is known to go wrong.
    """
    layers = keras.layers
    grouped = (
        layers.DepthwiseConv1D,
        layers.DepthwiseConv2D,
        layers.SeparableConv1D,
        layers.SeparableConv2D,
    )
    return not any(
        isinstance(layer, grouped)
        or getattr(layer, "groups", 1) not in (1, None)
        for layer in keras_private.layers_within(model)
    )


def require_finite(found: np.ndarray, name: str) -> None:
    """Refuses derivatives that are not finite.

    Args:
        found: What was computed at weights and data that are finite.
        name: What it is.

    Raises:
        ValueError: If one of its entries is not finite.
    """
    bad = np.sum(~np.isfinite(found))
    require(
        not bad,
        "model",
        "one whose loss and its derivatives are finite at its weights: look "
        "for logarithms, roots and norms at zero, and for an overflow of "
        "float16",
        f"{bad} of {np.size(found)} numbers in {name} that are NaN or infinite",
    )


def require_equal(
    together: np.ndarray, alone: np.ndarray, precision: float
) -> None:
    """Refuses gradients that vectorization has changed.

    Args:
        together: Squares of gradients of some samples, computed together.
        alone: The same, computed one after another.
        precision: The relative precision of the model, one of `EPS`.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    require_finite(alone, "the squared gradients")
    difference = np.linalg.norm(together - alone)
    scale = np.linalg.norm(alone)
    require(
        bool(difference <= tolerance(precision) * scale),
        "model",
        "one whose backward pass TensorFlow vectorizes rightly: a layer in it "
        "(a grouped convolution of your own?) gives other gradients for "
        "samples that are computed together",
        f"squared gradients that differ by {difference / scale:.2%}",
    )


def checked(
    function: Callable[..., T], check: Callable[..., None]
) -> Callable[..., T]:
    """Returns a function whose results are checked until one has passed.

    Args:
        function: What to call.
        check: Takes a result and the arguments that it is of; raises if it is
            wrong.

    Returns:
        A function of the same arguments.
    """
    unchecked = [True]

    def call(*arguments: Any) -> T:
        found = function(*arguments)
        if unchecked:
            check(found, *arguments)
            unchecked.clear()
        return found

    return call


def are_near(one: tf.Tensor, other: tf.Tensor, precision: float) -> bool:
    """Tells whether two tensors are of one shape, and equal but for rounding.

    Args:
        one: The one.
        other: The other.
        precision: The relative precision of the model, one of `EPS`.

    Returns:
        Whether they are.
    """
    if one.shape != other.shape:
        return False
    of_one, of_other = (x.numpy().astype("float64") for x in (one, other))
    difference = np.linalg.norm(of_one - of_other)
    return bool(difference <= 4.0 * precision * np.linalg.norm(of_one))


def require_sum(
    together: np.ndarray, alone: np.ndarray, precision: float, count: int
) -> None:
    """Refuses gradients that are others if samples are many.

    Args:
        together: The gradient of many copies of some samples.
        alone: That of these samples.
        precision: The relative precision of the model, one of `EPS`.
        count: How many samples are together.

    Raises:
        ValueError: If they differ by more than rounding.
    """
    difference = float(np.linalg.norm(together - alone))
    scale = float(np.linalg.norm(alone))
    if np.isfinite(difference) and scale:
        require(
            difference <= 8.0 * precision * scale,
            "batch_size",
            "smaller, or the model a copy of it in float32: a layer sums over "
            "samples in half precision, where sums stop to grow",
            f"{count} samples, whose gradient is off by "
            f"{difference / scale:.1%}",
        )


def asymmetry(
    multiply: Callable[[np.ndarray], np.ndarray], size: int
) -> tuple[np.ndarray, float, float]:
    """Measures how far products are from those of a symmetric matrix.

    Args:
        multiply: Multiplies the matrix by a vector.
        size: Of the vector.

    Returns:
        The product of a random vector; the difference that is 0 for a symmetric
        matrix; and what it compares to.
    """
    one, other = np.random.default_rng(0).normal(size=[2, size])
    of_one, of_other = multiply(one), multiply(other)
    difference = float(abs(other @ of_one - one @ of_other))
    scale = float(np.linalg.norm(of_one) + np.linalg.norm(of_other))
    return of_one, difference, scale


def require_symmetric(
    product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    position: tf.Tensor,
    precision: float,
) -> None:
    """Refuses products of a matrix that is no Hessian, since not symmetric.

    It costs two products, of about two gradients each.

    Args:
        product: From position and vector to the product.
        position: The weights.
        precision: The relative precision of the model, one of `EPS`.

    Raises:
        ValueError: If it is not symmetric, or not finite.
    """

    def multiply(vector: np.ndarray) -> np.ndarray:
        vector = tf.constant(vector, position.dtype)
        return product(position, vector).numpy().astype("float64")

    found, difference, scale = asymmetry(multiply, position.shape[0])
    require_finite(found, "a product of the Hessian")
    require(
        bool(difference <= tolerance(precision) * scale),
        "model",
        "one whose gradients can be differentiated again: an operation without "
        "a second derivative makes its Hessian unsymmetric",
        f"products that differ by {difference:.3g} of {scale:.3g}",
    )


def has_custom_gradient(gradient: tf.Tensor) -> bool:
    """Tells whether a `tf.custom_gradient` takes part in a first derivative.

    Args:
        gradient: A tensor of a graph.

    Returns:
        Whether one does. Some layers of Keras have one, and a right one.
    """
    return any(
        "_gradient_op_type" in node.attr for node in nodes_of(gradient.graph)
    )


def require_differences(
    product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    gradient: Callable[[tf.Tensor], tf.Tensor],
    position: tf.Tensor,
) -> None:
    """Refuses products that are not the change of the gradient.

    Automatic differentiation of a custom gradient is that of whatever function
    would have it. The difference of two gradients knows the function itself. It
    is taken over three distances, since a long one is curved and a short one
    rounded, and has to be near the product at one of them. It costs six
    gradients and a product.

    Args:
        product: From position and vector to the product.
        gradient: From position to the gradient.
        position: The weights.

    Raises:
        ValueError: If they differ by more than a fifth at all distances.
    """
    start = position.numpy().astype("float64")
    vector = np.random.default_rng(1).normal(size=len(start))
    vector *= max(float(np.linalg.norm(start)), 1e-3) / np.linalg.norm(vector)
    dtype = position.dtype
    expected = product(position, tf.constant(vector, dtype)).numpy()
    smallest = np.inf
    for distance in (1e-2, 1e-3, 1e-4):
        ahead, behind = (
            gradient(tf.constant(start + sign * distance * vector, dtype))
            for sign in (1, -1)
        )
        found = (ahead - behind).numpy().astype("float64") / (2 * distance)
        scale = max(np.linalg.norm(found), np.linalg.norm(expected))
        if not np.isfinite(scale) or scale == 0:
            return
        error = float(np.linalg.norm(found - expected) / scale)
        smallest = min(smallest, error)
    require(
        bool(smallest <= 0.2),
        "model",
        "one whose custom gradient (tf.custom_gradient, keras.ops."
        "custom_gradient) is the derivative of what it computes: the curvature "
        "of another is that of another function",
        f"products that differ from the change of the gradient by "
        f"{smallest:.0%}",
    )
