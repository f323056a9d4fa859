"""The Langevin chain: L inner steps as one functional loop.

Pure in its tensors: nothing here reads or assigns a variable.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from entropy_keras import estimators
from entropy_keras import noise
from entropy_keras import samplers

Tensors = list[tf.Tensor]
# (position, number of the step, carry) -> (gradients, new carry)
GradientFunction = Callable[[Tensors, tf.Tensor, Any], tuple[Tensors, Any]]


class State(NamedTuple):
    """What the loop carries, one entry per variable in each field."""

    position: Tensors
    kinetics: list[samplers.State]
    mean: Tensors

    def of(self, indices: Sequence[int]) -> "State":
        """Returns the state of some of the variables.

        Args:
            indices: Which ones.

        Returns:
            A state with one entry per index.
        """
        return State(*([field[i] for i in indices] for field in self))


@dataclasses.dataclass(frozen=True)
class Chain:
    """The chain of one update, with its hyper-parameters fixed.

    ```
    state = chain.initial_state(anchor)
    for step in 1..L:
        gradient = gradient_function(state.position)
        state = chain.advance(state, gradient, anchor, step)
    entropy_gradient = chain.entropy_gradient(anchor, state)
    ```

    Args:
        sampler: The kinetics.
        estimator: What turns the chain into a gradient.
        step_size: Scalar tensor η' of this update.
        scope: Scalar tensor γ of this update.
        temperature: Temperature T, a float. At 0 no random operation exists.
        stationary_start: Whether the chain starts from its law under a flat
            loss instead of from the anchor.
        seed: Seed of the noise.
        update: Scalar tensor, the number of the update.
        variable_indices: Index of each variable in the model, which keys its
            noise.
    """

    sampler: samplers.Sampler
    estimator: estimators.Estimator
    step_size: tf.Tensor
    scope: tf.Tensor
    temperature: float
    stationary_start: bool
    seed: int
    update: tf.Tensor
    variable_indices: tuple[int, ...]

    def of(self, indices: Sequence[int]) -> "Chain":
        """Returns the chain of some of the variables, with the same noise.

        Args:
            indices: Which ones.

        Returns:
            A chain of as many variables as there are indices.
        """
        kept = tuple(self.variable_indices[i] for i in indices)
        return dataclasses.replace(self, variable_indices=kept)

    def _keys(self, step: tf.Tensor | int) -> list[tf.Tensor]:
        """Returns the key of each variable's noise, none at T = 0."""
        if not self.temperature:
            return []
        return noise.keys(
            self.variable_indices,
            seed=self.seed,
            update=self.update,
            step=step,
        )

    def initial_state(self, anchor: Tensors) -> State:
        """Returns the chain before its first step.

        Args:
            anchor: The weights x, one tensor per variable.

        Returns:
            The state from which step 1 starts.
        """
        position = anchor
        if self.stationary_start and self.temperature:
            deviation = tf.sqrt(self.temperature / self.scope)
            position = [
                weights + tf.cast(deviation, weights.dtype) * normals
                for weights, normals in zip(
                    anchor, _normals(anchor, self._keys(0)), strict=True
                )
            ]
        return State(
            position=position,
            kinetics=[self.sampler.initial_state(p) for p in position],
            mean=[self.estimator.initial_mean(weights) for weights in anchor],
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
        if tf.executing_eagerly():
            return self._advance(*arguments)
        return self._compiled_advance(*arguments)

    @functools.cached_property
    def _compiled_advance(self) -> Callable[..., State]:
        """One kernel per variable, where TensorFlow would run fifty."""
        return tf.function(self._advance, jit_compile=True, autograph=False)

    def _advance(
        self,
        state: State,
        gradients: Tensors,
        anchor: Tensors,
        step: tf.Tensor,
        keys: list[tf.Tensor],
    ) -> State:
        """Returns the chain after one step; see `advance`."""
        gradients = _complete(gradients)
        normals = _normals(anchor, keys) if keys else [None] * len(anchor)
        after = State([], [], [])
        for i, weights in enumerate(anchor):
            position, kinetics = self.sampler.step(
                state.position[i],
                gradients[i],
                weights,
                normals[i],
                state.kinetics[i],
                step_size=self.step_size,
                scope=self.scope,
                temperature=self.temperature,
            )
            after.position.append(position)
            after.kinetics.append(kinetics)
            after.mean.append(
                self.estimator.update_mean(
                    state.mean[i], position, gradients[i], step
                )
            )
        return after

    def run(
        self,
        state: State,
        gradient_function: GradientFunction,
        anchor: Tensors,
        *,
        first_step: int,
        last_step: int,
        carry: Any,
    ) -> tuple[State, Any]:
        """Takes the steps `first_step` to `last_step` in one while loop.

        Args:
            state: The chain before `first_step`.
            gradient_function: Called with the position, the number of the step
                and the carry; returns the gradients there and the new carry.
            anchor: The weights x.
            first_step: First step to take, counted from 1.
            last_step: Last step to take. If it is smaller than `first_step`,
                nothing happens.
            carry: A structure of tensors passed from call to call, such as the
                state of random seeds.

        Returns:
            The chain after `last_step`, and the last carry.
        """
        if last_step < first_step:
            return state, carry

        def body(
            step: tf.Tensor, state: State, carry: Any
        ) -> tuple[tf.Tensor, State, Any]:
            gradients, carry = gradient_function(state.position, step, carry)
            return step + 1, self.advance(state, gradients, anchor, step), carry

        _, state, carry = tf.while_loop(
            lambda step, *_: step <= last_step,
            body,
            (tf.constant(first_step), state, carry),
        )
        return state, carry

    def entropy_gradient(self, anchor: Tensors, state: State) -> Tensors:
        """Returns the gradient of the negative local entropy that was found.

        Args:
            anchor: The weights x.
            state: The chain after its last step.

        Returns:
            One tensor per variable.
        """
        return [
            self.estimator.entropy_gradient(weights, mean, self.scope)
            for weights, mean in zip(anchor, state.mean, strict=True)
        ]


def _normals(like: Tensors, keys: list[tf.Tensor]) -> Tensors:
    return [
        noise.standard_normal(tensor.shape, tensor.dtype, key)
        for tensor, key in zip(like, keys, strict=True)
    ]


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
