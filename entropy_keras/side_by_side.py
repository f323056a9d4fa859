"""Many chains in one tensor, which know nothing of each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import kinetics
from entropy_keras.kinetics import Setting

Tensors = list[tf.Tensor]


@dataclasses.dataclass(frozen=True)
class SideBySide(kinetics.Sampler):
    """A sampler of chains along the first axis of every tensor.

    Positions, anchors, gradients and noise are of shape `[chains, ...]`. Step
    size, scope and temperature are too, with axes of length 1 for those of the
    variable, or are scalars; the metric is that of one chain. No temperature is
    the number 0.

    Args:
        sampler: What moves each chain.

    Example:
    >>> two = SideBySide(entropy_keras.SGNHT())
    >>> (frictions,) = two.initial_slots([tf.zeros([2, 3])])
    >>> frictions.shape.as_list()  # one for each chain
    [2]
    """

    sampler: kinetics.Sampler

    @property
    def _is_elementwise(self) -> bool:
        # Chains are then no more to it than weights are.
        return isinstance(self.sampler, kinetics.ElementwiseSampler)

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:  # noqa: D102
        one = self.sampler.initial_slots([v[0] for v in variables])
        count = variables[0].shape[0]
        return tf.nest.map_structure(
            lambda slot: tf.repeat(slot[None], count, axis=0), one
        )

    def start(  # noqa: D102
        self,
        position: Tensors,
        noise: Sequence[Any],
        settings: Sequence[Setting],
        slots: Any,
    ) -> Any:
        if self._is_elementwise:
            return self.sampler.start(position, noise, settings, slots)

        def one(chain: Any) -> Any:
            position, noise, numbers, slots = chain
            own = _with_metrics(numbers, settings)
            return self.sampler.start(position, noise, own, slots)

        numbers = _by_chain(settings, position)
        return tf.vectorized_map(one, (position, noise, numbers, slots))

    def step(  # noqa: D102
        self,
        position: Tensors,
        gradients: Tensors,
        anchor: Tensors,
        noise: Sequence[Any],
        memory: Any,
        settings: Sequence[Setting],
    ) -> tuple[Tensors, Any]:
        if self._is_elementwise:
            return self.sampler.step(
                position, gradients, anchor, noise, memory, settings
            )

        def one(chain: Any) -> Any:
            position, gradients, anchor, noise, memory, numbers = chain
            own = _with_metrics(numbers, settings)
            return self.sampler.step(
                position, gradients, anchor, noise, memory, own
            )

        numbers = _by_chain(settings, position)
        return tf.vectorized_map(
            one, (position, gradients, anchor, noise, memory, numbers)
        )


def _by_chain(settings: Sequence[Setting], position: Tensors) -> Any:
    """Returns the numbers of each setting for each chain, without metrics."""
    return [
        [
            tf.broadcast_to(
                tf.reshape(value, [-1]) if value.shape.rank else value,
                [p.shape[0]],
            )
            for value in setting[:3]
        ]
        for setting, p in zip(settings, position, strict=True)
    ]


def _with_metrics(numbers: Any, settings: Sequence[Setting]) -> list[Setting]:
    """Returns the settings of one chain."""
    return [
        setting._replace(step_size=own[0], scope=own[1], temperature=own[2])
        for own, setting in zip(numbers, settings, strict=True)
    ]
