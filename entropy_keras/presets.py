"""Variants of Entropy-SGD by the text that they come from.

Each function returns a configured `EntropySGD` and takes any of its arguments
as overrides.
"""

from typing import Any

from entropy_keras import entropy_sgd
from entropy_keras import samplers
from entropy_keras import schedules

__all__ = ["iclr_2017", "paper_v1", "released_code"]


def paper_v1(**overrides: Any) -> entropy_sgd.EntropySGD:
    """Algorithm 1 of arXiv:1611.01838v1, to the letter.

    The noise of line 5, `2 * sqrt(η')`, is temperature 2: at that heat the
    chain does not see the loss of a network, and training hardly moves. Use it
    to reproduce the text, with `temperature=1e-8` to train. The scope, L and ρ
    are those of LeNet on MNIST (section 5.2), the learning rate is the one that
    the paper gives (0.1, section 5.3).

    Args:
        **overrides: Arguments of `EntropySGD` that replace the preset's.

    Returns:
        The optimizer.

    Example:
    >>> paper_v1(num_langevin_steps=5).temperature
    2.0
    """
    return _with_overrides(
        overrides,
        learning_rate=0.1,
        scope=0.1,
        num_langevin_steps=20,
        langevin_learning_rate=None,
        temperature=2.0,
        averaging_rate=0.9,
        data_weight=1e-4,
        scale_by_scope=True,
        sampler=samplers.SGLD(momentum=0.0),
    )


def iclr_2017(**overrides: Any) -> entropy_sgd.EntropySGD:
    """The settings published with the ICLR 2017 text, for CIFAR-10.

    Noise `ε * sqrt(η')` with ε = 1e-4, averaging rate 0.75, a fixed inner step
    size, no γ on the displacement, no ρ, and scoping from 0.03 by 1e-3 an
    update. The text has Nesterov momentum 0.9 in both loops; the outer one
    belongs with a learning rate of 0.1 rather than 1, so it is left to an
    `outer_optimizer` of yours. The cap on the scope, `1 / η'`, is ours: the
    text has none, and the inner loop diverges at `2 / η'`.

    Args:
        **overrides: Arguments of `EntropySGD` that replace the preset's.

    Returns:
        The optimizer.

    Example:
    >>> iclr_2017().temperature
    5e-09
    """
    return _with_overrides(
        overrides,
        learning_rate=1.0,
        scope=schedules.ExponentialScope(0.03, 1e-3, maximum_scope=10.0),
        num_langevin_steps=20,
        langevin_learning_rate=0.1,
        temperature=0.5 * 1e-4**2,
        averaging_rate=0.75,
        sampler=samplers.SGLD(momentum=0.9, nesterov=True),
    )


def released_code(**overrides: Any) -> entropy_sgd.EntropySGD:
    """What the authors' Lua release computes.

    Noise `ε * sqrt(2 * η')` with ε = 1e-4, averaging rate 0.25 on the new
    sample, inner Nesterov momentum only, no γ on the displacement, no ρ, and a
    scope that grows from 1e-4 by 1e-3 an update without a cap. The inner loop
    diverges when `η' * scope` reaches 2, after about 12,200 updates: override
    `scope` with a capped `ExponentialScope` for longer runs.

    Args:
        **overrides: Arguments of `EntropySGD` that replace the preset's.

    Returns:
        The optimizer.

    Example:
    >>> released_code().averaging_rate
    0.25
    """
    return _with_overrides(
        overrides,
        learning_rate=1.0,
        scope=schedules.ExponentialScope(1e-4, 1e-3),
        num_langevin_steps=20,
        langevin_learning_rate=0.1,
        temperature=1e-4**2,
        averaging_rate=0.25,
        sampler=samplers.SGLD(momentum=0.9, nesterov=True),
    )


def _with_overrides(
    overrides: dict[str, Any], **arguments: Any
) -> entropy_sgd.EntropySGD:
    if overrides.get("outer_optimizer") is not None:
        del arguments["learning_rate"]  # it is the outer optimizer's own
    return entropy_sgd.EntropySGD(**(arguments | overrides))
