"""The methods that are compared, and where their hyper-parameters are sought.

Hyper-parameters that vary from run to run are variables of the graph, so that
each method is traced and compiled once.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import entropy_keras
from entropy_keras import geometry
from entropy_keras import presets

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

    def described(self) -> dict[str, Any]:
        """Returns the space, as JSON can hold it."""
        return {
            "space": {
                name: list(bounds) for name, bounds in self.space.items()
            },
            "choices": {
                n: list(options) for n, options in self.choices.items()
            },
            "weight_decay": self.decay,
        }


_NONE_BELOW = {"weight_decay", "scope", "temperature"}
_DECAY = {"weight_decay": (1e-6, 0.1)}
_SGD = keras.optimizers.SGD


def entropy_sgd(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any], **arguments: Any
) -> Any:
    """Returns Entropy-SGD with learning rate, step size and scope as knobs.

    Args:
        knobs: The knobs.
        num_updates: Number of updates.
        choices: Arguments of `EntropySGD`; `subtract_noise` for that of
            `Displacement`, `momentum` for that of `SGLD`.
        **arguments: Further ones, which win.

    Returns:
        The optimizer.
    """
    given = {
        "langevin_learning_rate": lambda update: knobs["step_size"],
        "scope": lambda update: knobs["scope"],
        "temperature": 0.0,
        "seed": 0,
        **choices,
        **arguments,
    }
    if "momentum" in given:
        momentum = given.pop("momentum")
        given["sampler"] = entropy_keras.SGLD(momentum, momentum > 0)
    if given.pop("subtract_noise", False):
        given["estimator"] = entropy_keras.Displacement(subtract_noise=True)
    return entropy_keras.EntropySGD(
        Annealed(knobs["learning_rate"], num_updates), **given
    )


class InnerRule(entropy_keras.InnerOptimizer):
    """An `InnerOptimizer` whose rule is used itself, with its variables."""

    def copy_of_rule(self) -> Any:
        """Returns the rule, whose knobs a copy would not turn."""
        return self.rule


def _inside(
    rule: Any, outer: Any, choices: Mapping[str, Any], **arguments: Any
) -> Any:
    """Returns Entropy-SGD with a rule inside that persists."""
    return entropy_keras.EntropySGD(
        outer_optimizer=outer,
        sampler=InnerRule(rule),
        seed=0,
        **choices,
        **arguments,
    )


def _adam_rule(knobs: Knobs, num_steps: int) -> Any:
    rule = keras.optimizers.AdamW(
        Annealed(knobs["step_size"], num_steps), weight_decay=0.0
    )
    rule.weight_decay = knobs["weight_decay"]
    return rule


def _adam_inside(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    steps = num_updates * choices["num_langevin_steps"]
    return _inside(
        _adam_rule(knobs, steps),
        _SGD(0.7, momentum=0.9, nesterov=True),
        choices,
        scope=0.0,
        temperature=0.0,
        averaging_rate=1.0,
    )


def _adam_inside_warm(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    steps = num_updates * choices["num_langevin_steps"]
    choices = dict(choices)
    momentum = choices.pop("momentum")
    return _inside(
        _adam_rule(knobs, steps),
        _SGD(0.7, momentum=momentum, nesterov=momentum > 0),
        choices,
        scope=lambda update: knobs["scope"],
        temperature=lambda update: knobs["temperature"],
        estimator=entropy_keras.Displacement(subtract_noise=True),
    )


def _sgd_inside_relative(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    steps = num_updates * choices["num_langevin_steps"]
    return _inside(
        _nesterov(knobs["step_size"], steps),
        _SGD(Annealed(knobs["learning_rate"], num_updates)),
        choices,
        scope=lambda update: knobs["scope"],
        temperature=lambda update: knobs["temperature"],
        metric="relative",
        estimator=entropy_keras.Displacement(subtract_noise=True),
    )


def _nesterov(knob: tf.Variable, num_updates: int, **arguments: Any) -> Any:
    return _SGD(
        Annealed(knob, num_updates), momentum=0.9, nesterov=True, **arguments
    )


def _perturbed(preset: Callable[..., Any], **arguments: Any) -> Any:
    """Returns what builds a preset of gradients at perturbed weights."""

    def build(
        knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
    ) -> Any:
        return preset(
            outer_optimizer=_nesterov(knobs["learning_rate"], num_updates),
            temperature=lambda update: knobs["temperature"],
            seed=0,
            **choices,
            **arguments,
        )

    return build


def _published(preset: Callable[..., Any]) -> Any:
    """Returns what builds a preset as published, at rates of one's own."""

    def build(
        knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
    ) -> Any:
        return preset(
            learning_rate=Annealed(knobs["learning_rate"], num_updates),
            langevin_learning_rate=lambda update: knobs["step_size"],
            seed=0,
            **choices,
        )

    return build


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
        outer_optimizer=_nesterov(knobs["learning_rate"], num_updates),
        **choices,
    )


def _defaults(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    return entropy_keras.EntropySGD(
        Annealed(knobs["learning_rate"], num_updates), seed=0, **choices
    )


def _long_loop(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    return presets.long_loop(
        learning_rate=Annealed(knobs["learning_rate"], num_updates),
        langevin_learning_rate=lambda update: knobs["step_size"],
        seed=0,
        **choices,
    )


def _real_temperature(
    knobs: Knobs, num_updates: int, choices: Mapping[str, Any]
) -> Any:
    return presets.real_temperature(
        learning_rate=Annealed(knobs["learning_rate"], num_updates),
        langevin_learning_rate=lambda update: knobs["step_size"],
        temperature=lambda update: knobs["temperature"],
        seed=0,
        **choices,
    )


_RATES = {"learning_rate": (3e-3, 1.0), **_DECAY}
_ENTROPY = {
    "learning_rate": (0.3, 3.0),
    "step_size": (1e-2, 0.5),
    "scope": (1e-4, 1.0),
    **_DECAY,
}
_RATED = {n: b for n, b in _ENTROPY.items() if n != "scope"}
_STEPS = {"num_langevin_steps": (5, 20)}
METHODS: dict[str, Method] = {
    "sgd": Method(
        lambda k, n, c: _nesterov(k["learning_rate"], n),
        _RATES,
    ),
    "sgd_ema": Method(
        lambda k, n, c: _nesterov(k["learning_rate"], n, use_ema=True, **c),
        _RATES,
        {"ema_momentum": (0.95, 0.99)},
    ),
    "adam": Method(
        _adam(keras.optimizers.Adam), {"learning_rate": (3e-4, 3e-2), **_DECAY}
    ),
    "adamw": Method(
        _adam(keras.optimizers.AdamW),
        {"learning_rate": (3e-4, 0.1), "weight_decay": (1e-4, 10.0)},
        decay="decoupled",
    ),
    "sam": Method(_sam, _RATES, {"radius": (0.02, 0.05, 0.1, 0.2, 0.5)}),
    "adaptive_sam": Method(
        _sam, _RATES, {"radius": (0.2, 0.5, 1.0, 2.0), "adaptive": (True,)}
    ),
    "lookahead": Method(
        lambda k, n, c: entropy_sgd(k, n, c, averaging_rate=1.0, scope=0.0),
        _RATED,
        _STEPS,
    ),
    "entropy_sgd": Method(entropy_sgd, _ENTROPY, _STEPS),
    # The gradients at the weights themselves count too.
    "entropy_sgd_data": Method(
        entropy_sgd,
        _ENTROPY,
        {"num_langevin_steps": (5, 20, 50), "data_weight": (0.1, 1.0)},
    ),
    "entropy_sgd_defaults": Method(
        _defaults,
        {"learning_rate": (1.0, 1.0), "weight_decay": (1e-12, 1e-12)},
    ),
    # The defaults, annealed, with the penalty that SGD has: one knob.
    "entropy_sgd_decay": Method(
        _defaults, {"learning_rate": (1.0, 1.0), **_DECAY}, _STEPS
    ),
    # As their docstrings say that they are to be tuned.
    "long_loop": Method(
        _long_loop,
        {"learning_rate": (0.6, 0.6), "step_size": (3e-2, 0.5), **_DECAY},
    ),
    # The same with rate and length of the loop tuned too.
    "long_loop_tuned": Method(
        _long_loop,
        {"learning_rate": (0.3, 1.5), "step_size": (3e-2, 1.0), **_DECAY},
        {"num_langevin_steps": (10, 20, 50, 100, 200)},
    ),
    "real_temperature": Method(
        _real_temperature,
        {
            "learning_rate": (0.9, 0.9),
            "step_size": (1e-2, 0.5),
            "temperature": (1e-4, 0.03),
            **_DECAY,
        },
    ),
    "entropy_sgd_warm": Method(
        lambda k, n, c: entropy_sgd(
            k,
            n,
            c,
            temperature=lambda update: k["temperature"],
            subtract_noise=True,
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
    "adam_inside_warm": Method(
        _adam_inside_warm,
        {
            "step_size": (3e-4, 1e-2),
            "scope": (0.1, 300.0),
            "temperature": (1e-5, 1.0),
            "weight_decay": (1e-4, 10.0),
        },
        {**_STEPS, "momentum": (0.0, 0.8)},
        decay="decoupled",
    ),
    "sgd_inside_relative": Method(
        _sgd_inside_relative,
        _ENTROPY | {"step_size": (3e-3, 0.3), "temperature": (1e-4, 1.0)},
        _STEPS,
    ),
    # At its own temperature of 2 nothing trains.
    "paper_v1": Method(
        _published(functools.partial(presets.paper_v1, temperature=1e-8)),
        _RATED | {"learning_rate": (1.0, 30.0)},  # times a scope of 0.1
    ),
    "iclr_2017": Method(_published(presets.iclr_2017), _RATED),
    "released_code": Method(_published(presets.released_code), _RATED),
    "lpf_sgd": Method(
        _perturbed(presets.lpf_sgd),
        # The square of the noise, relative to the weights.
        _RATES | {"temperature": (1e-5, 0.25)},
        {"num_langevin_steps": (1, 4)},
    ),
    "perturbed_averaging": Method(
        _perturbed(presets.perturbed_averaging),
        _RATES | {"temperature": (1e-7, 1e-2)},
        {"num_langevin_steps": (2, 5)},
    ),
    # As `lpf_sgd`, but with a scope for each weight: the precision of IVON.
    "learned_scope": Method(
        _perturbed(presets.lpf_sgd, metric=geometry.LearnedScope(decay=0.99)),
        _RATES | {"temperature": (1e-7, 1e-2)},
        {"num_langevin_steps": (1, 4)},
    ),
}


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


def at_edge(
    method: Method,
    values: Values,
    choices: Mapping[str, Any],
    margin: float = 0.05,
) -> list[str]:
    """Returns what lies near an end of its space.

    Args:
        method: The method.
        values: A value for each knob.
        choices: A value for each choice; one of three numbers or more is at an
            end if it is the least or the largest.
        margin: What is near, as a share of the logarithmic range.

    Returns:
        Names of knobs and choices. The lower end of a weight decay, scope or
        temperature stands for none at all, and is no edge.

    Example:
    >>> values = {"learning_rate": 0.9, "weight_decay": 1e-3}
    >>> at_edge(METHODS["sgd"], values, {})
    ['learning_rate']
    """
    found = []
    for name, (low, high) in method.space.items():
        if low < high:
            share = math.log(values[name] / low) / math.log(high / low)
            least = 0.0 if name in _NONE_BELOW else margin
            if not least <= share <= 1 - margin:
                found.append(name)
    for name, options in method.choices.items():
        if len(options) > 2 and choices[name] in {min(options), max(options)}:
            found.append(name)
    return found
