"""Predictions averaged over the weights around those of a model."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import geometry
from entropy_keras import samplers
from entropy_keras.landscape import mixing
from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.chains import Walk
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.plan import Plan
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "softmax": tf.nn.softmax,
    "sigmoid": tf.nn.sigmoid,
    "linear": tf.identity,
}
# Gradients at the weights from which a metric learns before the chains start.
_OBSERVATIONS = 100
# Share by which the temperature may be missed, beyond three standard errors.
_TOLERANCE = 0.2
# How often the step size is looked for, and at how many chains.
_ATTEMPTS, _LOOKED_AT = 6, 2


@dataclasses.dataclass(frozen=True)
class LocalPredictions:
    """What chains around the weights predict.

    Attributes:
        mean: The average over chains and samples, of the shape of the
            predictions.
        deviation: The deviation from sample to sample, likewise: in regression,
            what is not known of the mean, without the noise of the targets.
        effective_sample_size: Independent samples that the chains are worth:
            the fewest of those for the loss, the predictions and the
            temperature.
        r_hat: The largest split R-hat of these, 1 where chains agree.
        temperature: The temperature that the chains had, by the mean of
            displacement times force, over all weights.
        step_size: Step size of the chains.
        reason: Why the chains are not to be trusted, or empty.

    Example:
    >>> found = LocalPredictions(
    ...     np.array([[0.9, 0.1]]), np.zeros([1, 2]), 400.0, 1.0, 0.01, 0.1, ""
    ... )
    >>> found.logits.round(2).tolist()
    [[-0.11, -2.3]]
    """

    mean: np.ndarray
    deviation: np.ndarray
    effective_sample_size: float
    r_hat: float
    temperature: float
    step_size: float
    reason: str

    @property
    def logits(self) -> np.ndarray:
        """Logarithms of mean probabilities, for `log_loss` and its like.

        Raises:
            ValueError: If there is one number per sample and not one per class.
        """
        require(
            self.mean.ndim > 1 and self.mean.shape[-1] > 1,
            "mean",
            "probabilities of two classes or more: stack 1 - mean and mean of "
            "a sigmoid",
            f"an array of shape {self.mean.shape}",
        )
        return np.log(np.maximum(self.mean, np.finfo("float32").tiny))


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
    sampler: str | samplers.Sampler = "sghmc",
    metric: str | geometry.Metric = "identity",
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
        model: A model with one output, or an `Objective` of it: see there, as
            for `data`, `loss` and the options.
        x: Inputs to predict for, an array or a structure of them.
        data: The samples that it was trained on, `None` with an `Objective`.
        scope: Strength of the pull to the weights, positive.
        temperature: Positive, in units of the loss.
        loss: The loss; `None` for the compiled one.
        activation: What makes of the model's outputs what is averaged:
            `"softmax"`, `"sigmoid"`, or `"linear"` where they are that already.
            `None` takes it from the loss if that is one of Keras's.
        num_chains: Independent chains, at least 2, from the weights.
        num_samples: Samples of each that count, at least 8. As many steps as
            half of them take are made before.
        steps_per_sample: Steps between two samples.
        step_size: Step size, in units of the inverse scope; `None` for half the
            inverse of the largest curvature, pull included, at the weights and
            where the steps that do not count lead.
        minibatch_size: Samples of a gradient, drawn for each chain and step;
            `None` for all data. Their noise is heat: with covariance C it adds
            `step_size * C / (2 * (1 - momentum))` to the temperature along
            each direction, which a posterior rarely has room for but at step
            sizes far below the default.
        sampler: A name in `samplers.NAMES` or an object, of those that sample
            this law: not `SGLD` with momentum, for which the loss counts more
            than once.
        metric: A metric M by name or object, which makes the pull
            `scope/2 * (x' - x)' M**-1 (x' - x)`. `"rms_gradients"` learns from
            100 gradients at the weights; `"learned"` cannot learn that fast.
        seed: Of the noise and of the minibatches.
        **options: `batch_size`, that of `x` too.

    Returns:
        Means and deviations, with the diagnostics of the chains. A warning
        says why they are not to be trusted: if split R-hat exceeds 1.2, if they
        are worth fewer than 50 independent samples, or if their temperature is
        a fifth off.

    Raises:
        ValueError: If an argument cannot be; see also `Objective` and `Plan`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    >>> model.compile(loss="mse")
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> found = landscape.local_predictions(
    ...     model, x, (x, 2 * x), scope=0.1, temperature=0.01, num_samples=100
    ... )
    >>> found.mean.shape, found.deviation.shape, found.reason
    ((20, 1), (20, 1), '')

    References:
        Chaudhari et al., arXiv:1611.01838v1, equation 8; Izmailov et al., "What
        are Bayesian neural network posteriors really like?", ICML 2021.
    """
    plan = Plan(scope, temperature, num_chains, step_size=step_size, seed=seed)
    objective = objective_of(model, data, loss, **options)
    predictor = Predictor(
        Chains(objective, minibatch_size, sampler),
        x,
        activation or _activation(objective.loss),
        options.get("batch_size", 1000),
    )
    found = predictor.predict(plan, num_samples, steps_per_sample, metric)
    if found.reason:
        warnings.warn(
            f"The chains are not to be trusted: {found.reason}; take more "
            "samples, more steps between them, smaller steps, or a larger "
            "scope.",
            stacklevel=2,
        )
    return found


class Predictor:
    """Local predictions for the same inputs, compiled once.

    At many scopes, temperatures or seeds, or as the weights of the model
    change, this takes a fraction of the time of `local_predictions`.

    Args:
        chains: Chains around the weights of a model.
        x: Inputs, an array or a structure of them.
        activation: What makes of outputs what is averaged: `"softmax"`,
            `"sigmoid"` or `"linear"`.
        batch_size: How many inputs to predict for at a time.

    Raises:
        ValueError: If there is no such activation, or the model has several
            outputs.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    >>> x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    >>> chains = landscape.Chains(landscape.Objective(model, (x, x), "mse"))
    >>> predictor = landscape.Predictor(chains, x, "linear")
    >>> for scope in (0.1, 10.0):
    ...     found = predictor.predict(landscape.Plan(scope, temperature=0.01))
    ...     print(found.mean.shape, found.deviation.max() > 0.05)
    (20, 1) True
    (20, 1) False
    """

    def __init__(
        self, chains: Chains, x: Any, activation: str, batch_size: int = 1000
    ) -> None:
        require(
            activation in _ACTIVATIONS,
            "activation",
            f"one of {sorted(_ACTIVATIONS)}: what makes probabilities of the "
            "outputs",
            activation,
        )
        self._chains = chains
        self._walk = chains.walker(_products)
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        count = len(keras.tree.flatten(x)[0])
        self._parts = [
            keras.tree.map_structure(
                lambda leaf, i=start: leaf[i : i + batch_size], x
            )
            for start in range(0, count, batch_size)
        ]
        self._activation = _ACTIVATIONS[activation]
        self._outputs = tf.function(self._predict, autograph=False)
        self._at(chains.objective.position())  # Refuses before any work.

    def predict(
        self,
        plan: Plan,
        num_samples: int = 50,
        steps_per_sample: int = 10,
        metric: str | geometry.Metric = "identity",
    ) -> LocalPredictions:
        """Runs the chains, without a warning.

        Args:
            plan: What to sample; its number of steps is not looked at.
            num_samples: See `local_predictions`, as for the others.
            steps_per_sample: Steps between two samples.
            metric: The metric.

        Returns:
            What they predict.

        Raises:
            ValueError: If an argument is out of its range.
        """
        counts = {
            "num_samples": (num_samples, 8),
            "steps_per_sample": (steps_per_sample, 1),
        }
        for name, (value, least) in counts.items():
            require(
                is_integer(value, least),
                name,
                f"an integer from {least} on",
                value,
            )
        diagonal = self._diagonal(geometry.get(metric), plan)
        walk, step = self._warmed(
            plan, num_samples // 2 * steps_per_sample, diagonal
        )
        total = _Total()
        losses, products = [], []
        for _ in range(num_samples):
            walk, seen, product = self._walk(walk, steps_per_sample)
            losses.append(seen.numpy().mean(0))
            products.append(product.numpy() / steps_per_sample)
            for position in walk.state.position[0]:
                total.add(self._at(position))
        return total.result(
            plan,
            np.array(losses),
            np.array(products) / self._chains.objective.num_parameters,
            step,
        )

    def _warmed(
        self, plan: Plan, num_steps: int, diagonal: tf.Tensor | None
    ) -> tuple[Walk, float]:
        """Returns chains after steps that do not count, and their step size.

        Where weights fit all data the loss is flat, and curved around: the step
        size has to suit the curvature that chains meet on their way.
        """
        ones = np.ones(plan.num_chains)
        position = self._chains.objective.position()
        step = self._step_size(plan, [position], diagonal)
        for _ in range(_ATTEMPTS):
            walk = self._chains.begin(plan, step * ones, ones, metric=diagonal)
            walk, *_ = self._walk(walk, num_steps)
            if plan.step_size is not None:
                break
            suits = self._step_size(
                plan, walk.state.position[0][:_LOOKED_AT], diagonal
            )
            if step <= 2.0 * suits:
                break
            step = suits if suits > 0.0 else step / 8.0
        return walk, step

    def _step_size(
        self, plan: Plan, positions: Any, diagonal: tf.Tensor | None
    ) -> float:
        """Returns the step size that suits the curvature, if none is given.

        NaN where a position or the curvature is not finite.
        """
        curvature = 0.0
        if plan.step_size is None:
            metric = 1.0 if diagonal is None else diagonal.numpy()
            curvature = self._chains.largest_curvature_at(
                positions, plan.seed, metric
            )
        (step,) = plan.step_sizes(np.ones(1), curvature)
        if np.isfinite(step):
            self._chains.sampler.check_stability(float(step), plan.scope)
        return float(step)

    def _diagonal(
        self, metric: geometry.Metric, plan: Plan
    ) -> tf.Tensor | None:
        """Returns the metric of all weights, `None` for 1."""
        require(
            not metric.learns_from_draws,
            "metric",
            "one that does not learn from draws, as 'identity', 'relative' "
            "and 'rms_gradients'",
            metric,
        )
        objective = self._chains.objective
        position = objective.position()
        anchor = objective.split(position)
        slots = metric.initial_slots(objective.variables)
        if keras.tree.flatten(slots):
            for index in range(_OBSERVATIONS):
                # Minibatches that are not those of the chains.
                seen = self._chains.evaluate(
                    position[None], [plan.seed, -2 * index - 1]
                )
                slots = metric.observe(slots, objective.split(seen[0, 1:]))
        diagonals = metric.diagonal(anchor, slots, objective.variables)
        if all(each is None for each in diagonals):
            return None
        return objective.join([
            tf.broadcast_to(1.0 if each is None else each, like.shape)
            for each, like in zip(diagonals, anchor, strict=True)
        ])

    def _predict(self, position: tf.Tensor, x: Any) -> tf.Tensor:
        objective = self._chains.objective
        found = objective.outputs(objective.split(position), x)
        require(
            tf.is_tensor(found),
            "model",
            "one with a single output",
            f"a model whose outputs are a {type(found).__name__}",
        )
        return self._activation(tf.cast(found, objective.dtype))

    def _at(self, position: tf.Tensor) -> np.ndarray:
        """Returns what is averaged, at one position."""
        return np.concatenate([
            self._outputs(position, part).numpy() for part in self._parts
        ])


class _Total:
    """Predictions of all samples so far, summed up."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0
        self._some: list[np.ndarray] = []

    def add(self, predictions: np.ndarray) -> None:
        """Takes one more sample in, by Welford's rule."""
        predictions = predictions.astype("float64")
        self._count += 1
        change = predictions - self._mean
        self._mean = self._mean + change / self._count
        self._squares = self._squares + change * (predictions - self._mean)
        flat = predictions.reshape(-1)
        self._some.append(flat[:: max(1, len(flat) // 1000)])

    def result(
        self,
        plan: Plan,
        losses: np.ndarray,
        temperatures: np.ndarray,
        step: float,
    ) -> LocalPredictions:
        """Returns means and diagnostics.

        Args:
            plan: What was sampled.
            losses: Losses of shape `[samples, chains]`.
            temperatures: Temperatures, likewise.
            step: Step size.

        Returns:
            The predictions.
        """
        main = _most_varied(np.array(self._some)).reshape(losses.shape)
        found = mixing.diagnose(
            np.stack([losses, main, temperatures], -1),
            np.zeros(3),
        )
        (*_, measured), (*_, error) = found.mean, found.standard_error
        faults = list(found.faults)
        off = abs(measured - plan.temperature)
        if not off <= _TOLERANCE * plan.temperature + 3 * error:
            faults.append(
                f"their temperature is {measured:.3g} instead of "
                f"{plan.temperature:.3g}"
            )
        return LocalPredictions(
            self._mean,
            np.sqrt(self._squares / self._count),
            float(found.effective_sample_size.min()),
            float(found.r_hat.max()),
            float(measured),
            step,
            next((fault for fault in faults if fault), ""),
        )


def _products(
    walk: Walk, displacement: tf.Tensor, gradient: tf.Tensor
) -> tf.Tensor:
    """Returns displacement times force: in the mean, `n * temperature`.

    It follows from integration by parts, whatever the loss. Gradients of
    minibatches do not bias it, since they do not know where the noise of their
    own step leads.
    """
    force = displacement
    if walk.setting.metric is not None:
        force /= walk.setting.metric
    force = gradient + walk.setting.scope * force
    return tf.reduce_sum(displacement * force, axis=1)


def _activation(loss: Any) -> str:
    """Returns what turns outputs into what is averaged.

    Args:
        loss: A loss of Keras by name or object.

    Returns:
        The name of the activation.

    Raises:
        ValueError: If the loss does not tell, or there are several.
    """
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        (loss,) = loss
    require(
        not isinstance(loss, (dict, list, tuple)),
        "model",
        "one with a single output",
        f"a model with the losses {loss}",
    )
    losses = keras.losses
    from_logits = isinstance(loss, losses.Loss) and loss.get_config().get(
        "from_logits", False
    )
    name = None
    if isinstance(loss, str) or (
        isinstance(loss, losses.Loss)
        and type(loss).__module__.startswith("keras.")
    ):
        name = "linear"
    if from_logits:
        name = {
            losses.CategoricalCrossentropy: "softmax",
            losses.SparseCategoricalCrossentropy: "softmax",
            losses.CategoricalFocalCrossentropy: "softmax",
            losses.BinaryCrossentropy: "sigmoid",
            losses.BinaryFocalCrossentropy: "sigmoid",
        }.get(type(loss))
    require(
        name is not None,
        "activation",
        f"one of {sorted(_ACTIVATIONS)}: what makes probabilities of the "
        "outputs, which the loss does not tell",
        None,
    )
    return str(name)


def _most_varied(predictions: np.ndarray) -> np.ndarray:
    """Returns the number that tells most of how predictions vary.

    Args:
        predictions: Of shape `[samples, ...]`.

    Returns:
        Their first principal component, of shape `[samples]`.
    """
    flat = np.nan_to_num(predictions - predictions.mean(0))
    left, values, _ = np.linalg.svd(flat @ flat.T, hermitian=True)
    return left[:, 0] * values[0] ** 0.5
