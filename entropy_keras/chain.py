"""The Langevin chain of one update, pure in its tensors.

Nothing here reads or assigns a variable. Lists have one entry per variable.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import geometry
from entropy_keras import kinetics
from entropy_keras import noise
from entropy_keras import validation

Tensors = list[tf.Tensor]
# Streams of the noise, which tell apart what one step draws.
_STEPS, _STARTS = 0, 1


class Noise(NamedTuple):
    """Where a chain takes its noise from.

    Attributes:
        seed: Seed of the whole run.
        update: Scalar tensor, the number of the update.
        replica: Number of the replica that the chain runs on.
    """

    seed: int
    update: tf.Tensor
    replica: tf.Tensor | int = 0

    def keys(self, count: int, step: tf.Tensor | int, stream: int) -> Tensors:
        """Returns the key of each variable's noise at one step.

        Args:
            count: Number of variables.
            step: Number of the step; 0 is the start.
            stream: Tells several draws apart.

        Returns:
            What `noise.standard_normal` takes, for each variable.
        """
        return noise.keys(
            range(count),
            seed=self.seed,
            update=self.update,
            step=step,
            replica=self.replica,
            stream=stream,
        )

    def normal(self, like: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns standard normals under a key, of the shape of a tensor."""
        return noise.standard_normal(like.shape, like.dtype, key)


class NoiseSource(Protocol):
    """What a chain asks for noise; `Noise` says what the methods do."""

    def keys(self, count: int, step: tf.Tensor | int, stream: int) -> Tensors:
        """Returns the key of each variable's noise at one step."""

    def normal(self, like: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns standard normals under a key, of the shape of a tensor."""


class State(NamedTuple):
    """What goes from step to step.

    Attributes:
        position: Where the chain is.
        memory: What the sampler remembers.
        mean: The running mean of the estimator.
        path: Position and memory of the noise's own path, or empty.
        metric: What the metric remembers.
    """

    position: Tensors
    memory: Any
    mean: Tensors
    path: Any
    metric: Any


@dataclasses.dataclass(frozen=True)
class Chain:
    """The chain of one update, with its hyper-parameters fixed.

    ```
    state = chain.start(anchor, slots)
    for step in 1..L:
        gradients = gradients_at(state.position)
        state = chain.advance(state, gradients, anchor, step)
    entropy_gradient = chain.entropy_gradient(anchor, state)
    slots = chain.finish(state)
    ```

    Args:
        sampler: The kinetics.
        settings: Step size, scope, temperature and metric of each variable.
        noise: Where the noise comes from.
        estimator: What turns the chain into a gradient.
        averaging_rate: Weight of the new sample in its mean, or `None`.
        scale_by_scope: Whether the scope multiplies the displacement.
        stationary_start: Whether the chain starts from its law under a flat
            loss instead of from the anchor.
        metric: What observes the gradients; its diagonals are in `settings`.
        compiled: Whether XLA compiles a step where a graph is built.
    """

    sampler: kinetics.Sampler
    settings: Sequence[kinetics.Setting]
    noise: NoiseSource
    estimator: estimators.Estimator
    averaging_rate: float | None = None
    scale_by_scope: bool = False
    stationary_start: bool = False
    metric: geometry.Metric = geometry.Identity()
    compiled: bool = True

    @property
    def _is_noisy(self) -> bool:
        return any(not _is_zero(s.temperature) for s in self.settings)

    @property
    def _alone(self) -> kinetics.Sampler:
        """The sampler of the noise's own path, where it is taken out."""
        sampler = self.sampler.of_noise()
        validation.require(
            sampler is not None,
            "estimator",
            "without subtract_noise with a sampler whose noise does not move "
            "linearly",
            self.estimator,
        )
        return sampler  # type: ignore[return-value]

    def _keys(self, step: tf.Tensor | int, stream: int = _STEPS) -> Tensors:
        """Returns the key of each variable's noise, none at T = 0."""
        if not self._is_noisy:
            return []
        return self.noise.keys(len(self.settings), step, stream)

    def _normals(self, like: Tensors, keys: Tensors) -> list[Any]:
        """Returns the noise of each variable, `None` where T = 0."""
        if not keys:
            return [None] * len(like)
        return [
            None
            if _is_zero(setting.temperature)
            else self.noise.normal(tensor, key)
            for tensor, key, setting in zip(
                like, keys, self.settings, strict=True
            )
        ]

    def start(self, anchor: Tensors, slots: Any = ((), ())) -> State:
        """Returns the chain before its first step.

        Args:
            anchor: The weights x.
            slots: What sampler and metric remember from the update before.

        Returns:
            The state from which step 1 starts.
        """
        sampler_slots, metric_slots = slots
        position = list(anchor)
        if self.stationary_start:
            normals = self._normals(anchor, self._keys(0))
            position = [
                x
                if normal is None
                else x + kinetics.stationary(normal, setting)
                for x, normal, setting in zip(
                    anchor, normals, self.settings, strict=True
                )
            ]
        draws = self.sampler.draws_at_start
        drawn = self._normals(anchor, self._keys(0, _STARTS) if draws else [])
        path: Any = ()
        if self.estimator.subtract_noise and self._is_noisy:
            offset = [p - x for p, x in zip(position, anchor, strict=True)]
            alone = self._alone
            path = (
                offset,
                alone.start(offset, drawn, self.settings, sampler_slots),
            )
        return State(
            position=position,
            memory=self.sampler.start(
                position, drawn, self.settings, sampler_slots
            ),
            mean=self.estimator.initial_mean(anchor),
            path=path,
            metric=metric_slots,
        )

    def advance(
        self,
        state: State,
        gradients: Tensors,
        anchor: Tensors,
        step: tf.Tensor | int,
    ) -> State:
        """Takes one inner step.

        Args:
            state: The chain before the step.
            gradients: Gradients of the loss at `state.position`.
            anchor: The weights x.
            step: Number of the step, counted from 1.

        Returns:
            The chain after the step.
        """
        arguments = (
            state, gradients, anchor, tf.convert_to_tensor(step),
            self._keys(step),
        )  # fmt: skip
        if tf.executing_eagerly() or not self.compiled:
            return self._advance(*arguments)
        return self._compiled_advance(*arguments)

    @functools.cached_property
    def _compiled_advance(self) -> Callable[..., State]:
        """One kernel per variable, where TensorFlow would run fifty."""

        def advance(state: State, gradients: Tensors, *others: Any) -> State:
            return self._advance(state, _complete(gradients), *others)

        return tf.function(advance, jit_compile=True, autograph=False)

    def _advance(
        self,
        state: State,
        gradients: Tensors,
        anchor: Tensors,
        step: tf.Tensor,
        keys: Tensors,
    ) -> State:
        """Returns the chain after one step; see `advance`."""
        normals = self._normals(anchor, keys)
        position, memory = self.sampler.step(
            state.position, gradients, anchor, normals, state.memory,
            self.settings,
        )  # fmt: skip
        sample, path = position, state.path
        if path:
            nothing = [tf.zeros([], x.dtype) for x in anchor]
            path = self._alone.step(
                path[0], nothing, nothing, normals, path[1], self.settings
            )
            sample = [p - n for p, n in zip(position, path[0], strict=True)]
        return State(
            position=position,
            memory=memory,
            mean=self.estimator.update_mean(
                state.mean, sample, gradients, step, self.averaging_rate
            ),
            path=path,
            metric=self._observed(state, gradients, anchor, step),
        )

    def _observed(
        self, state: State, gradients: Tensors, anchor: Tensors, step: tf.Tensor
    ) -> Any:
        """Returns what the metric remembers after a step from `state`."""
        if not self.metric.learns_from_draws:
            return self.metric.observe(state.metric, gradients)
        displacements = [
            None
            if _is_zero(s.temperature)
            else tf.math.divide_no_nan(
                position - x, tf.cast(s.temperature, x.dtype) * s.metric
            )
            for position, x, s in zip(
                state.position, anchor, self.settings, strict=True
            )
        ]
        found = self.metric.observe(state.metric, gradients, displacements)
        if not self.sampler.uses_gradient:  # each position is a draw
            return found
        return [
            tf.where(tf.equal(step, 1), new, old)
            for new, old in zip(found, state.metric, strict=True)
        ]

    def entropy_gradient(self, anchor: Tensors, state: State) -> Tensors:
        """Returns the gradient of the negative local entropy that was found.

        Args:
            anchor: The weights x.
            state: The chain after its last step.

        Returns:
            One tensor per variable.
        """
        factors = [
            s.scope if self.scale_by_scope else None for s in self.settings
        ]
        return self.estimator.entropy_gradient(anchor, state.mean, factors)

    def finish(self, state: State) -> Any:
        """Returns what lasts until the next update, as `start` takes it.

        Args:
            state: The chain after its last step.

        Returns:
            The slots of sampler and metric.
        """
        return self.sampler.finish(state.memory), state.metric


def _is_zero(temperature: Any) -> bool:
    """Tells whether there is no noise: a tensor might hold any number.

    Args:
        temperature: A number or a tensor.

    Returns:
        Whether it is the number 0.
    """
    return not tf.is_tensor(temperature) and temperature == 0


def _complete(gradients: Tensors) -> Tensors:
    """Returns equal gradients, of which none is ready before all are.

    Back-propagation reads the weights of a layer for the gradients of the
    layers before it. XLA moves a position in place if it sees that all reading
    is done, and copies it first otherwise. It does not fold the zeros, which
    could be NaN; a step that is not finite is not taken anyway.
    """
    zeros = [0.0 * tf.reshape(g, [-1])[:1] for g in gradients]
    zero = tf.add_n([tf.cast(tf.reduce_sum(z), tf.float32) for z in zeros])
    return [g + tf.cast(zero, g.dtype) for g in gradients]
