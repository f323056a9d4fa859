"""The Fisher information as an operator, from the scores of the samples."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator

from entropy_keras.landscape import selfcheck
from entropy_keras.landscape.fisher import every_label
from entropy_keras.landscape.fisher import require_independent
from entropy_keras.landscape.fisher import require_pairs
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import compiled
from entropy_keras.landscape.objective import made_once
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.products import held
from entropy_keras.landscape.products import linearized
from entropy_keras.landscape.products import operator
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

KINDS = ("empirical", "true", "monte_carlo")


def fisher_operator(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    kind: str = "empirical",
    num_draws: int = 1,
    seed: int = 0,
    **options: Any,
) -> LinearOperator:
    """Returns the Fisher information as a linear operator of SciPy.

    It is the mean over samples of the outer product of the gradient of one
    sample's loss, a negative log-likelihood, with itself: J' S J with the
    Jacobian J of the predictions and, for each sample, the outer products S of
    the scores, the derivatives of its loss by its predictions. A product costs
    what one of the Gauss-Newton matrix does; the scores are computed here, and
    held in memory. Regularization of the weights, which belongs to no sample,
    is left out.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples, without weights.
        loss: The loss; `None` for the compiled one.
        kind: `"empirical"` takes the labels of the data. `"true"` takes the
            expectation over all labels, as the model predicts them; for
            cross-entropies of logits it is the Gauss-Newton matrix.
            `"monte_carlo"` takes labels drawn from the predictions, and has the
            true one as its expectation. These two are for one label per sample
            and losses that are minus its logarithm of probability, such as all
            cross-entropies without smoothing.
        num_draws: Labels drawn per sample, by `"monte_carlo"`.
        seed: Seed of them.
        **options: `batch_size`, and `training`, where samples must not depend
            on each other all the same.

    Returns:
        A symmetric operator of shape `[n, n]` without negative eigenvalues.

    Raises:
        ValueError: If an argument is out of its range, if `data` has sample
            weights, if the loss of a sample depends on the others, or if the
            loss is not such a one; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([
    ...     keras.Input([2]),
    ...     keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros"),
    ... ])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> fisher = landscape.fisher_operator(
    ...     model, data, "binary_crossentropy", kind="true"
    ... )
    >>> np.round(fisher @ np.eye(3, dtype="float32"), 3)
    array([[0.125, 0.   , 0.125],
           [0.   , 0.125, 0.125],
           [0.125, 0.125, 0.25 ]], dtype=float32)

    References:
        Martens, "New insights and perspectives on the natural gradient method",
        arXiv:1412.1193; Kunstner, Balles and Hennig, "Limitations of the
        empirical Fisher approximation", arXiv:1905.12558.
    """
    require(kind in KINDS, "kind", f"one of {KINDS}", kind)
    require(
        is_integer(num_draws, 1), "num_draws", "a positive integer", num_draws
    )
    require(is_integer(seed, 0), "seed", "a non-negative integer", seed)
    objective = objective_of(model, data, loss, **options)
    require_pairs(objective)
    position, rng = objective.position(), np.random.default_rng(seed)
    scores = _scores(objective)
    _require_apart(objective, scores, position)

    def factors(batch: Any) -> list[tf.Tensor]:
        if kind == "empirical":
            return [one[:, tf.newaxis] for one in scores(position, batch)]
        shares, found = _of_every_label(objective, scores, position, batch)
        if kind == "monte_carlo":
            shares = rng.multinomial(num_draws, shares) / num_draws
        roots = tf.constant(np.sqrt(shares)[..., np.newaxis], objective.dtype)
        return [roots * found]

    pairs = [(batch, factors(batch)) for batch in objective.batches]
    product = _product(objective)
    return operator(
        objective,
        lambda at, vector: product(at, vector, batches=pairs),
        position,
    )


Scores = Callable[[tf.Tensor, Any], list[tf.Tensor]]


@made_once
def _scores(objective: Objective) -> Scores:
    """Returns a compiled function from position and batch to the scores.

    Args:
        objective: The loss.

    Returns:
        The derivatives of each sample's loss by its predictions, one tensor of
        shape `[m, size]` for each output; and where the batch has weights, all
        of them 1, the losses themselves, of shape `[m, 1]`.
    """

    def scores(position: tf.Tensor, batch: Any) -> list[tf.Tensor]:
        weights = objective.split(position)
        outputs, _ = objective.forward(weights, batch[:2])
        free = [tf.stop_gradient(out) for out in keras.tree.flatten(outputs)]
        # The loss is linear in the weights of the samples.
        sources = [*free, *batch[2:]]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            _, loss = objective.forward(
                weights, batch, through=lambda y: held(y, free)
            )
            loss *= objective.loss_scale
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(loss, sources, None, zero)
        length = tf.shape(free[0])[0]
        scale = tf.cast(length, objective.dtype) / objective.loss_scale
        return [
            scale * tf.cast(tf.reshape(one, [length, -1]), objective.dtype)
            for one in found
        ]

    return compiled(scores)


def _of_every_label(
    objective: Objective, scores: Scores, position: tf.Tensor, batch: Any
) -> tuple[np.ndarray, tf.Tensor]:
    """Returns how probable each label is, and the scores if it were true.

    Args:
        objective: The loss.
        scores: Those of it.
        position: The weights.
        batch: Inputs, and labels for their form.

    Returns:
        Probabilities, of shape `[m, classes]` and sum 1, and scores, of shape
        `[m, classes, size]`.

    Raises:
        ValueError: If there is not one label per sample, or if the loss is not
            minus the logarithm of its probability.
    """
    inputs, labels = batch
    length = labels.shape[0]
    weights = tf.ones([length], objective.dtype)
    found, losses = [], []
    for label in every_label(objective, position, batch):
        repeated = tf.repeat(label[tf.newaxis], length, axis=0)
        one, loss = scores(position, (inputs, repeated, weights))
        found.append(one)
        losses.append(loss.numpy()[:, 0].astype("float64"))
    probabilities = np.exp(-np.stack(losses, axis=1))
    totals = probabilities.sum(1, keepdims=True)
    farthest = totals[np.argmax(np.abs(totals - 1.0)), 0]
    require(
        bool(abs(farthest - 1.0) <= max(1e-3, 8.0 * objective.precision)),
        "loss",
        "minus the logarithm of a probability of the label for the true Fisher "
        'information, and to draw labels; use kind="empirical", or '
        "`gauss_newton_operator`",
        f"one whose probabilities sum to {farthest:.3g}",
    )
    return probabilities / totals, tf.stack(found, axis=1)


def _require_apart(
    objective: Objective, scores: Scores, position: tf.Tensor
) -> None:
    """Refuses samples whose losses depend on the other samples of a batch.

    Args:
        objective: The loss.
        scores: Those of it.
        position: The weights.

    Raises:
        ValueError: If the first sample has other scores by itself.
    """
    batch = objective.batches[0]
    first = keras.tree.map_structure(lambda leaf: leaf[:1], batch)
    for one, other in zip(
        scores(position, first), scores(position, batch), strict=True
    ):
        selfcheck.require_finite(other.numpy(), "the scores")
        alone, beside = one[0].numpy(), other[0].numpy()
        scale = np.abs(other.numpy()).max()
        difference = np.abs(alone - beside).max()
        slack = selfcheck.tolerance(objective.precision) * scale
        require_independent(
            bool(difference <= slack),
            f"scores that differ by {difference:.3g} of {scale:.3g}",
        )


@made_once
def _product(objective: Objective) -> Callable[..., tf.Tensor]:
    """Returns the function from position, vector and scores to a product.

    Args:
        objective: The loss.

    Returns:
        A compiled function, whose `batches` are pairs of a batch and of
        tensors of shape `[m, draws, size]`, one for each output.
    """

    def product(position: tf.Tensor, vector: tf.Tensor, pair: Any) -> tf.Tensor:
        batch, factors = pair
        outputs, pushed, pull = linearized(objective, position, vector, batch)
        length = tf.shape(outputs[0])[0]
        along = tf.add_n([
            tf.einsum(
                "mds,ms->md",
                factor,
                tf.cast(tf.reshape(change, [length, -1]), objective.dtype),
            )
            for factor, change in zip(factors, pushed, strict=True)
        ])
        along *= objective.loss_scale / tf.cast(length, objective.dtype)
        back = [
            tf.cast(
                tf.reshape(
                    tf.einsum("mds,md->ms", factor, along), tf.shape(output)
                ),
                output.dtype,
            )
            for factor, output in zip(factors, outputs, strict=True)
        ]
        return pull(back) / objective.loss_scale

    return objective.mean(product)
