"""Products of the Hessian and of the Gauss-Newton matrix with vectors."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import aslinearoperator

from entropy_keras import keras_private
from entropy_keras.landscape import selfcheck
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import made_once
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.objective import require_left_out
from entropy_keras.validation import require


def hessian_vector_product(
    model: Any, data: Any, vector: Any, loss: Any = None, **options: Any
) -> np.ndarray:
    """Multiplies the Hessian of the mean loss by a vector.

    Each call compiles anew; for many products, make a `hessian_operator`.

    Args:
        model: See `Objective`, as for `data`, `loss` and the options.
        data: The samples.
        vector: Of shape `[n]`: entries in the order of
            `model.trainable_variables`, each flattened.
        loss: The loss; `None` for the compiled one.
        **options: `batch_size` and `training`.

    Returns:
        The product, of shape `[n]`, in the dtype of the weights.

    Raises:
        ValueError: If `vector` is not of that shape; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential(
    ...     [keras.Input([2]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> data = np.array([[1.0, 2.0]], "float32"), np.array([[0.0]], "float32")
    >>> landscape.hessian_vector_product(model, data, [1.0, 0.0], "mse")
    array([2., 4.], dtype=float32)

    References:
        Pearlmutter, "Fast exact multiplication by the Hessian", 1994.
    """
    return _product(hessian_operator(model, data, loss, **options), vector)


def gauss_newton_vector_product(
    model: Any, data: Any, vector: Any, loss: Any = None, **options: Any
) -> np.ndarray:
    """Multiplies the generalized Gauss-Newton matrix by a vector.

    The matrix is J' H J, with the Jacobian J of the predictions by the weights
    and the Hessian H of the loss by the predictions, plus the Hessian of
    whatever the loss takes from the weights directly, such as weight decay.
    For a convex loss it is positive semi-definite, and where the model is
    linear it is the Hessian.

    Args:
        model: See `Objective`, as for `data`, `loss` and the options.
        data: The samples.
        vector: As for `hessian_vector_product`.
        loss: The loss; `None` for the compiled one.
        **options: `batch_size` and `training`.

    Returns:
        The product, of shape `[n]`, in the dtype of the weights.

    Raises:
        ValueError: If `vector` is not of that shape; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential(
    ...     [keras.Input([2]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> data = np.array([[1.0, 2.0]], "float32"), np.array([[0.0]], "float32")
    >>> landscape.gauss_newton_vector_product(model, data, [1.0, 0.0], "mse")
    array([2., 4.], dtype=float32)

    References:
        Schraudolph, "Fast curvature matrix-vector products for second-order
        gradient descent", 2002.
    """
    return _product(gauss_newton_operator(model, data, loss, **options), vector)


def hessian_operator(
    model: Any, data: Any = None, loss: Any = None, **options: Any
) -> LinearOperator:
    """Returns the Hessian of the mean loss as a linear operator of SciPy.

    Any solver that takes a `scipy.sparse.linalg.LinearOperator` can use it:
    `eigsh`, `cg`, `lobpcg` and so on. It stands for the weights that the model
    has at the time of this call.

    Args:
        model: A model with data, or an `Objective`, whose compiled products
            are used: see there, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        **options: `batch_size` and `training`.

    Returns:
        A symmetric operator of shape `[n, n]`.

    Raises:
        ValueError: See `Objective`.

    Example:
    >>> from scipy.sparse.linalg import eigsh
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> operator = landscape.hessian_operator(model, data, loss="mse")
    >>> round(float(eigsh(operator, 1)[0][0]), 4)
    3.0
    """
    objective = objective_of(model, data, loss, **options)
    return operator(objective, hessian_product(objective))


def gauss_newton_operator(
    model: Any, data: Any = None, loss: Any = None, **options: Any
) -> LinearOperator:
    """Returns the Gauss-Newton matrix as a linear operator of SciPy.

    Args:
        model: A model with data, or an `Objective`, whose compiled products
            are used: see there, as for `data`, `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        **options: `batch_size` and `training`.

    Returns:
        A symmetric operator of shape `[n, n]`; see
        `gauss_newton_vector_product` for what it is.

    Raises:
        ValueError: See `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> landscape.gauss_newton_operator(model, data, loss="mse").shape
    (3, 3)
    """
    objective = objective_of(model, data, loss, **options)
    return operator(objective, gauss_newton_product(objective))


def symmetric_operator(
    model: Any, data: Any = None, loss: Any = None, **options: Any
) -> LinearOperator:
    """Returns what is measured as a symmetric operator.

    Args:
        model: A model, with `data`, whose Hessian it is; an `Objective`,
            likewise; or the operator itself: a `LinearOperator` of SciPy, such
            as `gauss_newton_operator` and sums, multiples and restrictions of
            them, or a matrix.
        data: The samples of a model, else left out.
        loss: The loss of a model, else left out.
        **options: See `Objective`, for a model alone.

    Returns:
        A symmetric operator of shape `[n, n]`.

    Raises:
        ValueError: If arguments do not fit together, or if an operator is not
            square or not real, or a matrix not symmetric; see also `Objective`.

    Example:
    >>> symmetric_operator(np.diag([1.0, 2.0])).shape
    (2, 2)
    """
    if isinstance(model, (keras.Model, Objective)):
        return hessian_operator(model, data, loss, **options)
    require_left_out(model, data=data, loss=loss, **options)
    try:
        found = aslinearoperator(model)
    except TypeError:
        require(
            False,
            "model",
            "a keras.Model, an Objective, or a linear operator as SciPy takes",
            type(model),
        )
    require(
        found.shape[0] == found.shape[1] and np.dtype(found.dtype).kind == "f",
        "model",
        "a square operator of real floating numbers",
        f"one of shape {found.shape} and type {found.dtype}",
    )
    if isinstance(model, np.ndarray):
        _, difference, scale = selfcheck.asymmetry(model.dot, len(model))
        require(
            not difference > 1e-3 * scale,
            "model",
            "a symmetric matrix",
            "one that is not",
        )
    return found


def weight_indices(model: keras.Model | Objective, layers: Any) -> np.ndarray:
    """Returns where weights of layers are in the vector of all.

    Args:
        model: A built model, or an `Objective` of it.
        layers: A layer or variable of it, or several.

    Returns:
        Indices in ascending order, for `restricted_operator`.

    Raises:
        ValueError: If something is no layer or trainable variable of it.

    Example:
    >>> model = keras.Sequential([
    ...     keras.Input([2]), keras.layers.Dense(2), keras.layers.Dense(1)
    ... ])
    >>> weight_indices(model, model.layers[1]).tolist()
    [6, 7, 8]
    """
    chosen = layers if isinstance(layers, (list, tuple)) else [layers]
    wanted: set[int] = set()
    for each in chosen:
        own = each.trainable_variables if hasattr(
            each, "trainable_variables"
        ) else [each]  # fmt: skip
        wanted |= {id(variable) for variable in own}
    found, start = [], 0
    every = (
        model.variables
        if isinstance(model, Objective)
        else model.trainable_variables
    )
    for variable in every:
        size = int(np.prod(variable.shape))
        if id(variable) in wanted:
            found.append(np.arange(start, start + size))
            wanted.remove(id(variable))
        start += size
    require(
        bool(found) and not wanted,
        "layers",
        "layers with trainable weights, or trainable variables, of the model",
        layers,
    )
    return np.concatenate(found)


def restricted_operator(operator: Any, indices: Any) -> LinearOperator:
    """Returns the block of a symmetric operator for some of the weights.

    Args:
        operator: Of shape `[n, n]`, see `symmetric_operator`.
        indices: Integers from 0 to n - 1, each once, such as `weight_indices`
            finds.

    Returns:
        An operator of shape `[m, m]`, whose products each take one of the
        other.

    Raises:
        ValueError: If the indices are not such integers.

    Example:
    >>> block = restricted_operator(np.diag([1.0, 2.0, 3.0]), [0, 2])
    >>> (block @ np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    whole = symmetric_operator(operator)
    (count, _) = whole.shape
    places = np.asarray(indices)
    require(
        places.ndim == 1
        and places.size > 0
        and places.dtype.kind in "iu"
        and places.min() >= 0
        and places.max() < count
        and len(np.unique(places)) == len(places),
        "indices",
        f"different integers from 0 to {count - 1}",
        indices,
    )

    def multiply(vector: np.ndarray) -> np.ndarray:
        padded = np.zeros(count, whole.dtype)
        padded[places] = vector.reshape(-1)
        return whole.matvec(padded)[places]

    found = LinearOperator(
        (len(places), len(places)),
        matvec=multiply,
        rmatvec=multiply,
        dtype=whole.dtype,
    )
    found.precision = relative_precision(whole)
    return found


def relative_precision(operator: LinearOperator) -> float:
    """Returns the relative precision of an operator's products.

    Args:
        operator: Any; one of a model has it as an attribute, since it may
            compute in a coarser type than that of its vectors, and sums and
            multiples have that of their parts.

    Returns:
        A number as `numpy.finfo` has.
    """
    eps = float(np.finfo(operator.dtype).eps)
    parts = [
        relative_precision(part)
        for part in getattr(operator, "args", ())
        if isinstance(part, LinearOperator)
    ]
    return max([eps, getattr(operator, "precision", eps), *parts])


Product = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@made_once
def hessian_product(objective: Objective) -> Product:
    """Returns the function from position and vector to Hessian times vector.

    Args:
        objective: The loss.

    Returns:
        A compiled function of two vectors, by reverse over reverse
        differentiation: the mode that works through every layer of Keras. Its
        first call checks that the Hessian is symmetric, which costs two
        products, and where a custom gradient takes part that it is the change
        of the gradient; it raises a `ValueError` if not.
    """

    def product(
        position: tf.Tensor, vector: tf.Tensor, batch: Any
    ) -> tf.Tensor:
        with tf.GradientTape() as outer:
            outer.watch(position)
            with tf.GradientTape() as inner:
                inner.watch(position)
                loss = objective.batch_loss(position, batch)
                loss *= objective.loss_scale
            gradient = _gradient(inner, loss, position)
            selfcheck.require_differentiable(gradient)
            if selfcheck.has_custom_gradient(gradient):
                custom.append(True)
        found = _gradient(outer, gradient, position, vector)
        selfcheck.require_differentiable(found)
        return found / objective.loss_scale

    custom: list[bool] = []
    averaged = objective.mean(product)

    def check(found: tf.Tensor, position: tf.Tensor, vector: tf.Tensor) -> None:
        del found, vector
        selfcheck.require_symmetric(averaged, position, objective.precision)
        if custom:
            selfcheck.require_differences(
                averaged, objective.gradient, position
            )

    return selfcheck.checked(averaged, check)


@made_once
def gauss_newton_product(objective: Objective) -> Product:
    """Returns the function from position and vector to Gauss-Newton times it.

    Args:
        objective: The loss.

    Returns:
        A compiled function of two vectors.
    """

    def product(
        position: tf.Tensor, vector: tf.Tensor, batch: Any
    ) -> tf.Tensor:
        outputs, pushed, pull = linearized(objective, position, vector, batch)
        # The loss by the predictions and by the weights, each held apart.
        free = [tf.stop_gradient(output) for output in outputs]
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([position, *free])
            with tf.GradientTape() as inner:
                inner.watch([position, *free])
                _, loss = objective.forward(
                    objective.split(position),
                    batch,
                    through=lambda y: held(y, free),
                )
                loss *= objective.loss_scale
            direct, *by_outputs = _gradient(inner, loss, [position, *free])
        curved = _gradient(outer, by_outputs, free, pushed)
        found = pull(curved) + _gradient(outer, direct, position, vector)
        selfcheck.require_differentiable(found)
        return found / objective.loss_scale

    def check(found: tf.Tensor, *arguments: tf.Tensor) -> None:
        del arguments
        selfcheck.require_finite(
            found.numpy(), "a product of the Gauss-Newton matrix"
        )

    return selfcheck.checked(objective.mean(product), check)


def held(outputs: Any, free: list[tf.Tensor]) -> Any:
    """Returns what stands in for predictions, masked as they are.

    Args:
        outputs: The predictions.
        free: A tensor for each of them.

    Returns:
        These in the structure of those.
    """
    for output, one in zip(keras.tree.flatten(outputs), free, strict=True):
        keras_private.give_mask(one, keras_private.mask_of(output))
    return keras.tree.pack_sequence_as(outputs, free)


def linearized(
    objective: Objective, position: tf.Tensor, vector: tf.Tensor, batch: Any
) -> tuple[list[tf.Tensor], list[tf.Tensor], Callable[..., tf.Tensor]]:
    """Returns predictions, and how they and the weights change together.

    Args:
        objective: The loss.
        position: The weights, of shape `[n]`.
        vector: A change of them, likewise.
        batch: The samples.

    Returns:
        The predictions of a batch; their change, the Jacobian times the vector;
        and the function that multiplies its transpose by tensors of the shape
        of the predictions. All in a graph.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(position)
        outputs, _ = objective.forward(objective.split(position), batch)
        outputs = keras.tree.flatten(outputs)
    # J' u is linear in u, so its derivative along `vector` is J v.
    directions = [tf.zeros_like(output) for output in outputs]
    with tf.GradientTape() as push:
        push.watch(directions)
        pulled = _gradient(tape, outputs, position, directions)
    selfcheck.require_differentiable(pulled)
    pushed = _gradient(push, pulled, directions, vector)

    def pull(weights: list[tf.Tensor]) -> tf.Tensor:
        return _gradient(tape, outputs, position, weights)

    return outputs, pushed, pull


def operator(
    objective: Objective, product: Product, position: tf.Tensor | None = None
) -> LinearOperator:
    """Returns a product at given weights as an operator of SciPy.

    Args:
        objective: The loss.
        product: `hessian_product` or `gauss_newton_product` of it.
        position: The weights, of shape `[n]`; `None` for the current ones.

    Returns:
        A symmetric operator.
    """
    if position is None:
        position = objective.position()

    def multiply(vector: np.ndarray) -> np.ndarray:
        vector = tf.constant(vector.reshape(-1), objective.dtype)
        found = product(position, vector).numpy()
        # The weights may have moved since the product was checked.
        selfcheck.require_finite(found, "a product")
        return found

    found = LinearOperator(
        (objective.num_parameters, objective.num_parameters),
        matvec=multiply,
        rmatvec=multiply,
        dtype=objective.dtype,
    )
    found.precision = objective.precision_of_products
    return found


def _gradient(
    tape: tf.GradientTape, target: Any, sources: Any, weights: Any = None
) -> Any:
    return tape.gradient(target, sources, weights, tf.UnconnectedGradients.ZERO)


def _product(operator: LinearOperator, vector: Any) -> np.ndarray:
    vector = np.asarray(vector, operator.dtype)
    (length, _) = operator.shape
    require(
        vector.shape == (length,),
        "vector",
        f"of shape {(length,)}: one entry per trainable weight",
        f"an array of shape {vector.shape}",
    )
    return operator.matvec(vector)
