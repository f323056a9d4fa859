"""Optimizers compared at equal gradient evaluations: methods, trials, runs.

A run trains one network once. Hyper-parameters that vary from run to run are
variables of the graph, so that each method is traced and compiled once.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

import entropy_keras

Values = Mapping[str, float]


class Knobs(dict[str, tf.Variable]):
    """Hyper-parameters by name, as variables that exist once asked for."""

    def __missing__(self, name: str) -> tf.Variable:
        self[name] = tf.Variable(0.0, name=name)
        return self[name]

    def turn(self, values: Values) -> None:
        """Sets them.

        Args:
            values: A value for each name.
        """
        for name, variable in self.items():
            variable.assign(values[name])


class Annealed(keras.optimizers.schedules.LearningRateSchedule):
    """A variable times half a period of the cosine.

    Args:
        knob: The variable.
        num_updates: Number of updates at which it reaches 0.
    """

    def __init__(self, knob: tf.Variable, num_updates: int) -> None:
        self._knob = knob
        self._num_updates = num_updates

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the value at an update.

        Args:
            step: Number of the update.

        Returns:
            A scalar.
        """
        share = tf.cast(step, tf.float32) / self._num_updates
        return self._knob * 0.5 * (1 + tf.cos(math.pi * tf.minimum(share, 1.0)))

    def get_config(self) -> dict[str, Any]:
        """Returns what Keras keeps of it in a compiled model."""
        return {"name": self._knob.name}


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimizer and where its hyper-parameters are looked for.

    Attributes:
        build: Takes the knobs, the number of updates and the choices, returns
            the optimizer.
        space: Bounds of each knob, drawn log-uniformly.
        choices: Values of what needs a graph of its own, by name.
        decay: Whether `weight_decay` is a penalty on the weights in the loss,
            which all methods of the SGD kind have, or decoupled and the
            optimizer's own.
    """

    build: Callable[[Knobs, int, Mapping[str, Any]], Any]
    space: Mapping[str, tuple[float, float]]
    choices: Mapping[str, tuple[Any, ...]] = dataclasses.field(
        default_factory=dict
    )
    decay: str = "penalty"


_DECAY = {"weight_decay": (1e-6, 0.1)}
_SGD = keras.optimizers.SGD


def entropy_sgd(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any], **arguments: Any
) -> Any:
    """Returns Entropy-SGD with learning rate, step size and scope as knobs.

    Args:
        knobs: The knobs.
        num_updates: Number of updates.
        choices: Arguments of `EntropySGD`.
        **arguments: Further ones, which win.

    Returns:
        The optimizer.
    """
    return entropy_keras.EntropySGD(
        Annealed(knobs["learning_rate"], num_updates),
        **dict[str, Any](
            {
                "langevin_learning_rate": lambda update: knobs["step_size"],
                "scope": lambda update: knobs["scope"],
                "temperature": 0.0,
                "seed": 0,
            }
            | dict(choices)
            | arguments
        ),
    )


def _adam_inside(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    steps = choices["num_langevin_steps"]
    rule = keras.optimizers.AdamW(
        Annealed(knobs["step_size"], num_updates * steps), weight_decay=0.0
    )
    rule.weight_decay = knobs["weight_decay"]
    return entropy_keras.EntropySGD(
        sampler=InnerAdamW(rule),
        outer_optimizer=_SGD(0.7, momentum=0.9, nesterov=True),
        scope=0.0,
        temperature=0.0,
        averaging_rate=1.0,
        seed=0,
        **choices,
    )


class InnerAdamW(entropy_keras.InnerOptimizer):
    """An `InnerOptimizer` whose rule is used itself, with its variables."""

    def copy_of_rule(self) -> Any:
        """Returns the rule, whose knobs a copy would not turn."""
        return self.rule


def _adam(cls: Any) -> Callable[..., Any]:
    def build(
        knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
    ) -> Any:
        del choices
        optimizer = cls(Annealed(knobs["learning_rate"], num_updates))
        if cls is keras.optimizers.AdamW:
            optimizer.weight_decay = knobs["weight_decay"]
        return optimizer

    return build


def _sam(knobs: Knobs, num_updates: int, choices: Mapping[str, Any]) -> Any:
    return entropy_keras.SharpnessAware(
        outer_optimizer=_SGD(
            Annealed(knobs["learning_rate"], num_updates),
            momentum=0.9,
            nesterov=True,
        ),
        **choices,
    )


_RATES = {"learning_rate": (3e-3, 1.0), **_DECAY}
_ENTROPY = {
    "learning_rate": (0.3, 1.5),
    "step_size": (1e-2, 0.3),
    "scope": (1e-4, 1.0),
    **_DECAY,
}
_STEPS = {"num_langevin_steps": (5, 20)}
METHODS: dict[str, Method] = {
    "sgd": Method(
        lambda k, n, c: _SGD(
            Annealed(k["learning_rate"], n), momentum=0.9, nesterov=True
        ),
        _RATES,
    ),
    "sgd_ema": Method(
        lambda k, n, c: _SGD(
            Annealed(k["learning_rate"], n),
            momentum=0.9,
            nesterov=True,
            use_ema=True,
            **c,
        ),
        _RATES,
        {"ema_momentum": (0.95, 0.99)},
    ),
    "adam": Method(
        _adam(keras.optimizers.Adam), {"learning_rate": (3e-4, 3e-2), **_DECAY}
    ),
    "adamw": Method(
        _adam(keras.optimizers.AdamW),
        {"learning_rate": (3e-4, 3e-2), "weight_decay": (1e-4, 10.0)},
        decay="decoupled",
    ),
    "sam": Method(_sam, _RATES, {"radius": (0.02, 0.05, 0.1, 0.2)}),
    "adaptive_sam": Method(
        _sam, _RATES, {"radius": (0.2, 0.5, 1.0, 2.0), "adaptive": (True,)}
    ),
    "lookahead": Method(
        lambda k, n, c: entropy_sgd(k, n, c, averaging_rate=1.0, scope=0.0),
        {n: b for n, b in _ENTROPY.items() if n != "scope"},
        _STEPS,
    ),
    "entropy_sgd": Method(entropy_sgd, _ENTROPY, _STEPS),
    "entropy_sgd_defaults": Method(
        lambda k, n, c: entropy_keras.EntropySGD(
            Annealed(k["learning_rate"], n), seed=0
        ),
        {"learning_rate": (1.0, 1.0), "weight_decay": (1e-12, 1e-12)},
    ),
    "entropy_sgd_warm": Method(
        lambda k, n, c: entropy_sgd(
            k,
            n,
            c,
            temperature=lambda update: k["temperature"],
            estimator=entropy_keras.Displacement(subtract_noise=True),
        ),
        _ENTROPY | {"temperature": (1e-4, 0.1)},
        _STEPS,
    ),
    "adam_inside": Method(
        _adam_inside,
        {"step_size": (3e-4, 1e-2), "weight_decay": (1e-4, 10.0)},
        _STEPS,
        decay="decoupled",
    ),
}


class Runner:
    """Trains one network with one method, over and over.

    Args:
        build_model: Takes a kernel regularizer, returns a model whose outputs
            are logits.
        method: The method.
        choices: A value for each of its choices.
        data: `(x, y)` to train on.
        batch_size: Size of a mini-batch.
        passes: Passes through the data of each run: what all methods have in
            common is `passes * (len(x) // batch_size)` gradients.
        jit_compile: As for `compile`.
    """

    def __init__(
        self,
        build_model: Callable[[Any], keras.Model],
        method: Method,
        choices: Mapping[str, Any],
        data: tuple[np.ndarray, np.ndarray],
        *,
        batch_size: int,
        passes: int,
        jit_compile: Any = True,
    ) -> None:
        self._knobs = Knobs()
        penalty = self._knobs["weight_decay"]
        if method.decay == "decoupled":
            penalty = tf.constant(0.0)

        def regularizer(weights: tf.Tensor) -> tf.Tensor:
            return 0.5 * penalty * tf.reduce_sum(tf.square(weights))

        self._build = lambda: entropy_keras.EntropyModel.from_model(
            build_model(regularizer)
        )
        self._num_gradients = passes * (len(data[0]) // batch_size)
        num_updates = -(-self._num_gradients // self._count(method, choices))
        self.model = self._build()
        self.optimizer = method.build(self._knobs, num_updates, choices)
        self.model.compile(
            self.optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
        )
        self.optimizer.build(self.model.trainable_variables)
        self._state = [
            (v, v.numpy())
            for v in self.optimizer.variables
            if "learning_rate" not in v.path
        ]
        self._data, self._batch_size, self._passes = data, batch_size, passes
        self._logits = tf.function(
            lambda x: self.model(x, training=False),
            jit_compile=False,
            reduce_retracing=True,
        )

    @staticmethod
    def _count(method: Method, choices: Mapping[str, Any]) -> int:
        """Returns the gradients that an update takes."""
        optimizer = method.build(Knobs(), 1, choices)
        return getattr(optimizer, "gradients_per_update", 1)

    def run(self, values: Values, seed: int) -> dict[str, float]:
        """Trains once.

        Args:
            values: A value for each knob.
            seed: Of the weights and of the order of the samples.

        Returns:
            Seconds, updates and gradient evaluations.
        """
        self._knobs.turn(values)
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self._build().get_weights())
        for variable, value in self._state:
            variable.assign(value)
        x, y = self._data
        per_update = getattr(self.optimizer, "gradients_per_update", 1)
        minibatches = getattr(self.optimizer, "minibatches_per_update", 1)
        # SAM takes two gradients of one mini-batch: half as many of them.
        passes = self._passes * minibatches / per_update
        batches = round(passes * (len(x) // self._batch_size))
        order = np.random.default_rng(seed)
        rows = np.concatenate([
            order.permutation(len(x))[
                : len(x) // self._batch_size * self._batch_size
            ]
            for _ in range(math.ceil(passes))
        ])[: batches * self._batch_size]
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = (
            tf.data.Dataset
            .from_tensor_slices((x[rows], y[rows]))
            .batch(self._batch_size, drop_remainder=True)
            .with_options(options)
        )
        start = time.monotonic()
        self.model.fit(dataset, shuffle=False, verbose=0)
        updates = int(self.optimizer.iterations.numpy())
        return {
            "seconds": time.monotonic() - start,
            "updates": updates,
            "gradient_evaluations": batches * per_update // minibatches,
        }

    def judge(
        self, data: tuple[np.ndarray, np.ndarray], scale: float = 1.0
    ) -> dict[str, float]:
        """Evaluates the trained network.

        Args:
            data: `(x, y)`.
            scale: What divides the logits for the calibrated loss.

        Returns:
            Error in per cent, loss, and loss after division of the logits.
        """
        logits = self._logits(tf.constant(data[0])).numpy().astype("float64")
        return {
            "error": 100 * float((logits.argmax(1) != data[1]).mean()),
            "loss": log_loss(logits, data[1]),
            "calibrated_loss": log_loss(logits / scale, data[1]),
        }

    def fitted_scale(self, data: tuple[np.ndarray, np.ndarray]) -> float:
        """Returns the division of the logits that lowers the loss most.

        Args:
            data: `(x, y)` that no weights were trained on.

        Returns:
            A positive number.
        """
        logits = self._logits(tf.constant(data[0])).numpy().astype("float64")
        found = scipy.optimize.minimize_scalar(
            lambda log: log_loss(logits / math.exp(log), data[1]),
            bounds=(-3, 3),
            method="bounded",
        )
        return math.exp(found.x)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy.

    Args:
        logits: Of shape `[n, classes]`.
        labels: Of shape `[n]`.

    Returns:
        The loss.
    """
    shifted = logits - logits.max(1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(1)) - chosen).mean())


def trials(
    method: Method, num_trials: int, seed: int
) -> list[tuple[dict[str, float], dict[str, Any]]]:
    """Draws the trials of a search.

    Args:
        method: The method.
        num_trials: How many.
        seed: Of the draws.

    Returns:
        A value for each knob, and for each choice.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_trials):
        values = {
            name: float(np.exp(rng.uniform(*np.log(bounds))))
            for name, bounds in method.space.items()
        }
        choices = {
            name: options[rng.integers(len(options))]
            for name, options in method.choices.items()
        }
        drawn.append((values, choices))
    return drawn


def at_edge(method: Method, values: Values, margin: float = 0.05) -> list[str]:
    """Returns the knobs whose value lies near an end of its space.

    Args:
        method: The method.
        values: A value for each knob.
        margin: What is near, as a share of the logarithmic range.

    Returns:
        Their names.
    """
    found = []
    for name, (low, high) in method.space.items():
        if low < high:
            share = math.log(values[name] / low) / math.log(high / low)
            if not margin <= share <= 1 - margin:
                found.append(name)
    return found
