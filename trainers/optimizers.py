"""Optimizers by name, with the schedules of the trainers."""

from typing import Any

import keras

import entropy_keras

# Defaults chosen on a validation split of the digits, with `lenet`.
LEARNING_RATES = {
    "entropy_sgd": 1.0,
    "entropy_adam": 1e-3,
    "sgd": 0.1,
    "adam": 1e-3,
    "adamw": 1e-3,
    "sharpness_aware": 0.1,
}
NAMES = tuple(LEARNING_RATES)
SCHEDULES = ("constant", "cosine", "step")


def learning_rate_schedule(
    name: str,
    learning_rate: float,
    total_updates: int,
    *,
    step_fraction: float = 0.3,
    step_factor: float = 5.0,
) -> Any:
    """Returns a learning rate over the updates of a run.

    Args:
        name: `"constant"`; `"cosine"`, down to zero; or `"step"`, divided by
            `step_factor` after every `step_fraction` of the run.
        learning_rate: The first learning rate.
        total_updates: Updates of the whole run.
        step_fraction: Length of a step as a share of the run, in (0, 1].
        step_factor: What a step divides by, more than 1.

    Returns:
        A float or a Keras schedule.

    Example:
    >>> schedule = learning_rate_schedule("cosine", 1.0, 100)
    >>> round(float(schedule(50)), 6)
    0.5
    """
    schedules = keras.optimizers.schedules
    if name == "cosine":
        return schedules.CosineDecay(learning_rate, total_updates)
    if name == "step":
        return schedules.ExponentialDecay(
            learning_rate,
            max(1, round(step_fraction * total_updates)),
            1.0 / step_factor,
            staircase=True,
        )
    return learning_rate


def build(
    name: str,
    learning_rate: Any,
    *,
    momentum: float,
    weight_decay: float | None,
    clipnorm: float | None,
    entropy_arguments: dict[str, Any],
) -> keras.optimizers.Optimizer:
    """Builds an optimizer.

    Args:
        name: One of `NAMES`.
        learning_rate: A float or a schedule.
        momentum: Nesterov momentum of `sgd`.
        weight_decay: Decoupled weight decay, or `None`.
        clipnorm: Largest norm of the gradient of each variable, or `None`.
        entropy_arguments: Further arguments of `EntropySGD`.

    Returns:
        The optimizer.

    Example:
    >>> optimizer = build(
    ...     "sgd", 0.1, momentum=0.9, weight_decay=None, clipnorm=None,
    ...     entropy_arguments={},
    ... )
    >>> optimizer.nesterov
    True
    """
    shared = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "clipnorm": clipnorm,
    }
    if name == "entropy_sgd":
        return entropy_keras.EntropySGD(**shared, **entropy_arguments)
    if name == "entropy_adam":
        return entropy_keras.EntropySGD(
            outer_optimizer=keras.optimizers.Adam(
                learning_rate, weight_decay=weight_decay
            ),
            clipnorm=clipnorm,
            **entropy_arguments,
        )
    if name == "sharpness_aware":
        return entropy_keras.SharpnessAware(
            outer_optimizer=keras.optimizers.SGD(
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=momentum > 0,
            ),
            clipnorm=clipnorm,
        )
    if name == "sgd":
        return keras.optimizers.SGD(
            **shared, momentum=momentum, nesterov=momentum > 0
        )
    if name == "adamw" and weight_decay is None:
        del shared["weight_decay"]  # AdamW has a decay of its own
    return {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[
        name
    ](**shared)
