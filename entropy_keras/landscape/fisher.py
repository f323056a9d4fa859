"""The diagonal of the Fisher information, exact and as Adam sees it."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras.landscape import selfcheck
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import compiled
from entropy_keras.landscape.objective import made_once
from entropy_keras.landscape.objective import objective_of
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

KINDS = ("empirical", "true")
# Numbers that the gradients of one chunk of samples may take.
_ROOM = 30_000_000


def fisher_diagonal(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    kind: str = "empirical",
    **options: Any,
) -> np.ndarray:
    """Computes the diagonal of the Fisher information from each sample.

    It is the mean over samples of the squared gradient of one sample's loss, a
    negative log-likelihood. Of a model whose outputs are logits, the true
    Fisher information is also the diagonal of the Gauss-Newton matrix; the
    empirical one is not, but for a model that is right and near its optimum.
    Regularization of the weights, which belongs to no sample, is left out.
    Layers run as in inference.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples, without weights.
        loss: The loss; `None` for the compiled one.
        kind: `"empirical"` takes the labels of the data. `"true"` takes the
            expectation over the labels that the model predicts, all of them,
            which takes as many gradients per sample as there are classes. It is
            for one label per sample and losses that are minus its logarithm
            of probability, such as all cross-entropies without smoothing.
        **options: `batch_size`.

    Returns:
        An array of shape `[n]`, in the dtype of the weights and the order of
        `model.trainable_variables`, each flattened.

    Raises:
        ValueError: If there is no such kind, if `data` has sample weights, if
            layers run as in training, if the loss is not the mean of those of
            single samples, as over masked steps, or if for the true Fisher
            information it is not such a one; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([2]),
    ...     keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros"),
    ... ])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> landscape.fisher_diagonal(model, data, "binary_crossentropy")
    array([0.125, 0.125, 0.25 ], dtype=float32)

    References:
        Kunstner, Balles and Hennig, "Limitations of the empirical Fisher
        approximation", arXiv:1905.12558.
    """
    require(kind in KINDS, "kind", f"one of {KINDS}", kind)
    objective = objective_of(model, data, loss, **options)
    require(
        not objective.training,
        "training",
        "False: here samples are looked at one by one",
        objective.training,
    )
    require_pairs(objective)
    position = objective.position()
    penalty, its_gradient = objective.penalty(position)
    squares = _sum_of_squares(objective)
    at_once = max(1, _ROOM // objective.num_parameters)
    total = np.zeros(objective.num_parameters)
    loss_of_all, probability = 0.0, 0.0
    for batch in objective.batches:
        if kind == "true":
            batch = _with_every_label(objective, position, batch)
        length = int(keras.tree.flatten(batch)[0].shape[0])
        for start in range(0, length, at_once):
            chunk = keras.tree.map_structure(
                lambda leaf, start=start: leaf[start : start + at_once], batch
            )
            # The probability of the label is exp(-loss) without the penalty.
            offset = penalty if kind == "true" else None
            part, losses, mass = squares(position, its_gradient, chunk, offset)
            total += part.numpy()
            loss_of_all += float(losses)
            probability += float(mass)
    selfcheck.require_finite(total, "the squared gradients")
    if kind == "empirical":
        _require_mean(objective, loss_of_all / objective.num_samples)
    mean_probability = probability / objective.num_samples
    require(
        kind == "empirical" or abs(mean_probability - 1.0) < 1e-3,
        "loss",
        'minus the logarithm of a probability of the label for kind="true"',
        f"one whose probabilities sum to {mean_probability:.3g}",
    )
    return (total / objective.num_samples).astype(objective.dtype)


def fisher_from_adam(
    optimizer: keras.optimizers.Optimizer,
    batch_size: int,
    num_samples: int | None = None,
) -> np.ndarray:
    """Estimates the diagonal of the Fisher information from Adam's moments.

    Adam keeps running means m of the gradient and v of its square. Both belong
    to gradients of batches, whose variance is that of samples over the batch
    size, and m itself scatters. In expectation, after t updates at weights
    that hardly move, with the corrections of Adam's bias,

        v - m^2 = variance / batch_size * (1 - (1 - b) (1 + b^t)
                                               / ((1 + b) (1 - b^t)))

    with b = `beta_1`: at the usual 0.9 the last factor tends to 18 / 19. This
    function divides by what stands beside the variance. The result is the
    empirical Fisher information less the square of the mean gradient.

    Equal windows, `beta_1 == beta_2`, make it non-negative. With the usual
    unequal ones gradients that are rare or change make negative entries, which
    are no property of the Fisher information.

    Args:
        optimizer: Adam or a subclass, after at least two updates by gradients
            that were not clipped.
        batch_size: Samples per update.
        num_samples: Size of the training set if batches are drawn from it
            without repetition, which makes them scatter less; `None` if it is
            much larger than a batch.

    Returns:
        An array of shape `[n]`, as `fisher_diagonal`.

    Raises:
        ValueError: If the optimizer or a number is not as described.

    Example:
    >>> from entropy_keras import landscape
    >>> weight = keras.Variable([1.0])
    >>> adam = keras.optimizers.Adam(beta_1=0.9, beta_2=0.9)
    >>> for gradient in (1.0, -1.0):
    ...     adam.apply([np.array([gradient])], [weight])
    >>> landscape.fisher_from_adam(adam, batch_size=10)
    array([20.], dtype=float32)

    References:
        Chaudhari et al., arXiv:1611.01838v1, figure 3 (c), which shows
        v - m^2 of All-CNN-BN.
    """
    _check_adam(optimizer, batch_size, num_samples)
    updates = int(optimizer.iterations)
    beta = optimizer.beta_1
    mean, square = (
        np.concatenate([np.ravel(moment) for moment in moments])
        / (1.0 - rate**updates)
        for moments, rate in (
            (optimizer._momentums, beta),
            (optimizer._velocities, optimizer.beta_2),
        )
    )
    share = variance_share(beta, updates) / batch_size
    if num_samples is not None:
        share *= (num_samples - batch_size) / (num_samples - 1)
    diagonal = (square - mean**2) / share
    negative = np.mean(diagonal < 0.0)
    if negative and beta != optimizer.beta_2:
        warnings.warn(
            f"{negative:.2%} of the entries are negative, since the windows of "
            "Adam's two means differ; train with `beta_2` equal to `beta_1` "
            "for a while, or use `fisher_diagonal`.",
            stacklevel=2,
        )
    return diagonal


def variance_share(beta: float, updates: int) -> float:
    """Returns which part of the gradient's variance v - m^2 is expected to be.

    The mean m weighs gradient k by (1 - b) b^(t - k) / (1 - b^t); the sum of
    the squared weights is what its own variance takes away.

    Args:
        beta: Decay b of the mean of gradients.
        updates: Number t of updates.

    Returns:
        A number from 0, after one update, to 2 b / (1 + b).
    """
    return 1.0 - (1.0 - beta) * (1.0 + beta**updates) / (
        (1.0 + beta) * (1.0 - beta**updates)
    )


def require_pairs(objective: Objective) -> None:
    """Refuses data with sample weights.

    Args:
        objective: The loss with its data.

    Raises:
        ValueError: If they are not inputs and labels alone.
    """
    require(
        all(
            isinstance(b, tuple) and len(b) == 2 and b[1] is not None
            for b in objective.batches
        ),
        "data",
        "`(x, y)` without sample weights, both of them given",
        "another structure",
    )


def _require_mean(objective: Objective, mean: float) -> None:
    """Refuses a loss that is not the mean of those of single samples.

    Args:
        objective: The loss.
        mean: That mean.

    Raises:
        ValueError: If it is another number.
    """
    value = float(objective.value(objective.position()))
    slack = selfcheck.tolerance(objective.precision) * max(abs(value), 1e-3)
    require_independent(
        abs(value - mean) <= slack,
        f"samples whose mean loss is {mean:.6g}, where that of all is "
        f"{value:.6g}",
    )


def require_independent(independent: bool, received: str) -> None:
    """Refuses samples whose losses depend on the others of a batch.

    Args:
        independent: Whether they do not.
        received: What tells that they do.

    Raises:
        ValueError: If they do.
    """
    require(
        independent,
        "model",
        "one whose loss of a sample does not depend on the others of its "
        "batch, as batch normalization in training and the mean over a "
        "masked sequence make it: a Fisher information is that of samples",
        received,
    )


def _check_adam(
    optimizer: keras.optimizers.Optimizer,
    batch_size: int,
    num_samples: int | None,
) -> None:
    """Checks the arguments of `fisher_from_adam`.

    Args:
        optimizer: Adam.
        batch_size: Samples per update.
        num_samples: Samples in all.

    Raises:
        ValueError: If one of them cannot be.
    """
    limits = ("clipnorm", "clipvalue", "global_clipnorm")
    require(
        isinstance(optimizer, keras.optimizers.Adam)
        and all(getattr(optimizer, limit) is None for limit in limits),
        "optimizer",
        "`keras.optimizers.Adam` or a subclass, without clipping",
        optimizer,
    )
    updates = int(optimizer.iterations)
    require(updates >= 2, "optimizer", "used for two updates or more", updates)
    require(optimizer.beta_1 > 0.0, "beta_1", "positive", optimizer.beta_1)
    require(
        is_integer(batch_size, 1),
        "batch_size",
        "a positive integer",
        batch_size,
    )
    require(
        num_samples is None or is_integer(num_samples, batch_size + 1),
        "num_samples",
        "None or an integer larger than the batch size",
        num_samples,
    )


@made_once
def _sum_of_squares(objective: Objective) -> Callable[..., Any]:
    """Returns a function that adds up squared gradients of samples.

    Args:
        objective: The loss.

    Returns:
        A compiled function of the weights, of what to take off from each
        gradient, of a batch, and of `None`, or a number that is taken off from
        each loss, whereupon samples are weighted by exp(-loss). It returns the
        sum, that of the losses and that of these weights. Its first call raises
        a `ValueError` if the gradients of samples that are computed together
        are not those of single ones.
    """

    def sample_of(position: tf.Tensor, penalty_gradient: tf.Tensor) -> Any:
        def one(sample: Any) -> tuple[tf.Tensor, tf.Tensor]:
            batch = keras.tree.map_structure(
                lambda leaf: leaf[tf.newaxis], sample
            )
            loss, gradient = objective.batch_loss_and_gradient(position, batch)
            return loss, tf.square(gradient - penalty_gradient)

        return one

    @compiled
    def both_ways(
        position: tf.Tensor, penalty_gradient: tf.Tensor, batch: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        one = sample_of(position, penalty_gradient)
        types = objective.dtype, objective.dtype
        alone = tf.map_fn(one, batch, fn_output_signature=types)
        return tf.vectorized_map(one, batch)[1], alone[1]

    @compiled
    def total(
        position: tf.Tensor,
        penalty_gradient: tf.Tensor,
        batch: Any,
        offset: Any,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        one = sample_of(position, penalty_gradient)
        losses, squares = tf.vectorized_map(one, batch)
        weights = tf.ones_like(losses)
        if offset is not None:
            weights = tf.exp(offset - losses)
        return (
            tf.linalg.matvec(squares, weights, True),
            tf.reduce_sum(losses),
            tf.reduce_sum(weights),
        )

    def check(
        found: Any,
        position: tf.Tensor,
        penalty_gradient: tf.Tensor,
        *others: Any,
    ) -> None:
        del found, others
        first = keras.tree.map_structure(
            lambda leaf: leaf[:2], objective.batches[0]
        )
        together, alone = both_ways(position, penalty_gradient, first)
        selfcheck.require_equal(
            together.numpy(), alone.numpy(), objective.precision
        )

    return selfcheck.checked(total, check)


def _with_every_label(
    objective: Objective, position: tf.Tensor, batch: Any
) -> Any:
    """Returns each sample of a batch once with each label it could have.

    Args:
        objective: The loss.
        position: The weights.
        batch: Inputs, and labels for their form.

    Returns:
        A batch that is longer by the number of classes.

    Raises:
        ValueError: If there is not one label per sample.
    """
    inputs, labels = batch
    every = every_label(objective, position, batch)
    repeated = keras.tree.map_structure(
        lambda leaf: tf.repeat(leaf, every.shape[0], axis=0), inputs
    )
    ones = [1] * (every.shape.rank - 1)
    return repeated, tf.tile(every, [labels.shape[0], *ones])


def every_label(
    objective: Objective, position: tf.Tensor, batch: Any
) -> tf.Tensor:
    """Returns the labels that a sample could have.

    Args:
        objective: The loss.
        position: The weights.
        batch: Inputs, and labels for their form: integers, or rows of a unit
            matrix.

    Returns:
        The label of each class, in that form.

    Raises:
        ValueError: If there is not one label per sample.
    """
    _, labels = batch
    outputs, _ = objective.forward(objective.split(position), batch)
    shape = tuple(outputs.shape) if tf.is_tensor(outputs) else (0,)
    one_label = (
        len(shape) == 2
        and tf.is_tensor(labels)
        and tuple(labels.shape[1:]) in {(), (1,), (shape[1],)}
    )
    require(
        one_label,
        "data",
        'of one label per sample for kind="true"',
        "another structure",
    )
    classes = max(shape[1], 2)
    every = tf.range(classes)
    if labels.shape.rank == 2 and labels.shape[1] == classes:
        every = tf.eye(classes)
    elif labels.shape.rank == 2:
        every = every[:, tf.newaxis]
    return tf.cast(every, labels.dtype)
