"""Predictions averaged over the weights around those of a model."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import estimators
from entropy_keras import geometry
from entropy_keras import samplers
from entropy_keras.landscape import mixing
from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.plan import Plan
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "softmax": tf.nn.softmax,
    "sigmoid": tf.nn.sigmoid,
    "linear": tf.identity,
}


@dataclasses.dataclass(frozen=True)
class LocalPredictions:
    """What chains around the weights predict.

    Attributes:
        mean: The average over chains and samples, of the shape of the
            predictions.
        deviation: The deviation from sample to sample, likewise.
        effective_sample_size: Independent samples that the chains are worth,
            the fewer of those for the loss and for the predictions.
        r_hat: The larger split R-hat of the two, 1 where chains agree.
        step_size: Step size of the chains.
        reason: Why the chains are not to be trusted, or empty.
    """

    mean: np.ndarray
    deviation: np.ndarray
    effective_sample_size: float
    r_hat: float
    step_size: float
    reason: str


def local_predictions(
    model: Any,
    x: Any,
    data: Any,
    scope: float,
    temperature: float,
    loss: Any = None,
    *,
    activation: str | None = None,
    num_chains: int = 4,
    num_samples: int = 50,
    steps_per_sample: int = 10,
    step_size: float | None = None,
    minibatch_size: int | None = None,
    sampler: Any = None,
    metric: Any = "identity",
    seed: int = 0,
    **options: Any,
) -> LocalPredictions:
    """Averages predictions over chains around the trained weights.

    The chains sample `exp(-(f(x') + scope/2 * |x' - x|^2) / temperature)`, f
    the mean loss over `data`. At `temperature = 1 / len(data)` that is the
    Bayesian posterior with a Gaussian prior around the weights x. What is
    averaged are probabilities, or the outputs of a regression, never logits.
    The weights of the model are not touched; batch normalization keeps the
    statistics that belong to them, and nothing is dropped.

    Args:
        model: See `Objective`, as for `data`, `loss` and the options. It has
            one output.
        x: Inputs to predict for, an array or a structure of them.
        data: The samples that it was trained on.
        scope: Strength of the pull to the weights, positive.
        temperature: Positive, in units of the loss.
        loss: The loss; `None` for the compiled one.
        activation: What makes of the model's outputs what is averaged:
            `"softmax"`, `"sigmoid"`, or `"linear"` where they are that already.
            `None` takes it from the loss if that is a `keras.losses.Loss`.
        num_chains: Independent chains, at least 2, from draws of their law
            under a flat loss.
        num_samples: Samples of each that count, at least 8. As many steps as
            half of them take are made before.
        steps_per_sample: Steps between two samples.
        step_size: Step size, in units of the inverse scope; `None` for half the
            inverse of the largest curvature, pull included.
        minibatch_size: Samples of a gradient; `None` for all data.
        sampler: A name in `samplers.NAMES` or an object, of those that move by
            gradients; `None` for `SplitSGLD(average_noise=True)`, whose law is
            that of a quadratic loss at any step size.
        metric: `"identity"`, `"relative"` or an object of `geometry` that does
            not learn.
        seed: Of the noise and of the minibatches.
        **options: `batch_size`.

    Returns:
        Means and deviations, with the diagnostics of the chains.

    Raises:
        ValueError: If an argument cannot be; see also `Objective` and `Plan`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> found = landscape.local_predictions(
    ...     model, x, (x, 2 * x), scope=0.1, temperature=0.01,
    ...     activation="linear", num_samples=100,
    ... )
    >>> found.mean.shape, found.deviation.shape, found.reason
    ((20, 1), (20, 1), '')

    References:
        Chaudhari et al., arXiv:1611.01838v1, equation 8; Izmailov et al., "What
        are Bayesian neural network posteriors really like?", ICML 2021.
    """
    objective = Objective(model, data, loss, **options)
    act = _activation(model, loss, activation)
    counts = {"num_samples": (num_samples, 8), "steps_per_sample":
              (steps_per_sample, 1)}  # fmt: skip
    for name, (value, least) in counts.items():
        require(
            is_integer(value, least), name, f"an integer from {least} on", value
        )
    if sampler is None:
        sampler = samplers.SplitSGLD(average_noise=True)
    sampler, metric = samplers.get(sampler), geometry.get(metric)
    require(
        sampler.uses_gradient,
        "sampler",
        "one that moves by gradients",
        sampler,
    )
    require(
        not keras.tree.flatten(metric.initial_slots(objective.variables)),
        "metric",
        "one that does not learn, as 'identity' and 'relative'",
        metric,
    )
    plan = Plan(scope, temperature, num_chains, step_size=step_size, seed=seed)
    anchor = objective.split(objective.position())
    diagonals = metric.diagonal(anchor, metric.initial_slots(()))
    widest = max(
        1.0 if d is None else float(tf.reduce_max(d)) for d in diagonals
    )
    chains = Chains(objective, minibatch_size)
    curvature = chains.largest_curvature(plan) * widest
    (step,) = plan.step_sizes(np.ones(1), curvature)
    sampler.check_stability(float(step), scope)
    walk = _Walk(chains, plan, sampler, diagonals, float(step))
    losses, probabilities = walk.run(x, act, num_samples, steps_per_sample)
    traces = np.stack([losses, _most_varied(probabilities)], -1)
    found = mixing.diagnose(traces, np.full(2, step * curvature))
    reason = next((fault for fault in found.faults if fault), "")
    if reason:
        warnings.warn(
            f"The chains are not to be trusted: {reason}; take more samples, "
            "more steps between them, or a larger scope.",
            stacklevel=2,
        )
    return LocalPredictions(
        probabilities.mean((0, 1)),
        probabilities.std((0, 1)),
        float(found.effective_sample_size.min()),
        float(found.r_hat.max()),
        float(step),
        reason,
    )


class _Walk:
    """Chains around the weights that stop for predictions."""

    def __init__(
        self,
        chains: Chains,
        plan: Plan,
        sampler: Any,
        diagonals: list[Any],
        step_size: float,
    ) -> None:
        self._chains, self._plan = chains, plan
        self._sampler = sampler
        dtype = chains.objective.dtype
        self._settings = [
            samplers.Setting(
                tf.constant(step_size, dtype),
                tf.constant(plan.scope, dtype),
                tf.constant(plan.temperature, dtype),
                diagonal,
            )
            for diagonal in diagonals
        ]
        self._compiled = tf.function(self._advance, autograph=False)
        self._predict = tf.function(chains.objective.outputs, autograph=False)

    def run(
        self, x: Any, activation: Any, num_samples: int, steps_per_sample: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns losses and predictions at all samples.

        Args:
            x: Inputs.
            activation: What is made of outputs.
            num_samples: Samples of each chain that count.
            steps_per_sample: Steps between them.

        Returns:
            Losses `[samples, chains]`, predictions `[samples, chains, ...]`.
        """
        objective = self._chains.objective
        anchor = objective.split(objective.position())
        losses, outputs = [], []
        for number in range(self._plan.num_chains):
            state = self._chain(0, number).start(anchor)
            for sample in range(-(num_samples // 2), num_samples):
                update = tf.constant(sample + num_samples // 2)
                loss, state = self._compiled(
                    state, anchor, update, tf.constant(number),
                    tf.constant(steps_per_sample),
                )  # fmt: skip
                if sample >= 0:
                    losses.append(float(loss))
                    found = activation(self._predict(state.position, x))
                    outputs.append(found.numpy())
        shape = (self._plan.num_chains, num_samples)
        table = np.stack(outputs).reshape(*shape, *outputs[0].shape)
        return np.reshape(losses, shape).T, np.swapaxes(table, 0, 1)

    def _chain(self, update: Any, number: Any) -> chain_lib.Chain:
        return chain_lib.Chain(
            self._sampler,
            self._settings,
            chain_lib.Noise(
                self._plan.seed, tf.convert_to_tensor(update), number
            ),
            estimators.MeanGradient(),
            stationary_start=True,
            compiled=False,
        )

    def _advance(
        self,
        state: chain_lib.State,
        anchor: list[tf.Tensor],
        update: tf.Tensor,
        number: tf.Tensor,
        num_steps: tf.Tensor,
    ) -> tuple[tf.Tensor, chain_lib.State]:
        """Returns the loss before the last step, and the chain after it."""
        objective, plan = self._chains.objective, self._plan
        chain = self._chain(update, number)

        def body(step: tf.Tensor, loss: tf.Tensor, *state: Any) -> Any:
            state = chain_lib.State(*state)
            seed = tf.stack([plan.seed + number, update * num_steps + step])
            evaluated = self._chains.evaluate(
                objective.join(state.position)[None], seed
            )[0]
            gradients = objective.split(evaluated[1:])
            state = chain.advance(state, gradients, anchor, step)
            return step + 1, evaluated[0], *state

        zero = tf.zeros([], objective.dtype)
        _, loss, *state = tf.while_loop(
            lambda step, *_: step <= num_steps,
            body,
            (tf.constant(1), zero, *state),
        )
        return loss, chain_lib.State(*state)


def _activation(model: Any, loss: Any, name: str | None) -> Any:
    """Returns what turns outputs into what is averaged.

    Args:
        model: The model.
        loss: Its loss, `None` for the compiled one.
        name: What the user says.

    Returns:
        A function of tensors.

    Raises:
        ValueError: If there is no such function, or none can be told.
    """
    require(
        not isinstance(model.output_shape, (list, dict))
        if hasattr(model, "output_shape")
        else True,
        "model",
        "one with a single output",
        model,
    )
    if name is None:
        loss = model.loss if loss is None else loss
        losses = keras.losses
        from_logits = isinstance(loss, losses.Loss) and loss.get_config().get(
            "from_logits"
        )
        categorical = (
            losses.CategoricalCrossentropy,
            losses.SparseCategoricalCrossentropy,
            losses.CategoricalFocalCrossentropy,
        )
        binary = losses.BinaryCrossentropy, losses.BinaryFocalCrossentropy
        if isinstance(loss, (*categorical, *binary)):
            name = "linear"
            if from_logits:
                name = "softmax" if isinstance(loss, categorical) else "sigmoid"
    require(
        name in _ACTIVATIONS,
        "activation",
        f"one of {sorted(_ACTIVATIONS)}: what makes probabilities of the "
        "outputs, which the loss does not tell",
        name,
    )
    return _ACTIVATIONS[str(name)]


def _most_varied(predictions: np.ndarray) -> np.ndarray:
    """Returns the number that tells most of how predictions vary.

    Args:
        predictions: Of shape `[samples, chains, ...]`.

    Returns:
        Their first principal component, of shape `[samples, chains]`.
    """
    flat = predictions.reshape(predictions.shape[0] * predictions.shape[1], -1)
    flat = np.nan_to_num(flat - flat.mean(0)).astype("float64")
    left, values, _ = np.linalg.svd(flat @ flat.T, hermitian=True)
    return (left[:, 0] * values[0] ** 0.5).reshape(predictions.shape[:2])
