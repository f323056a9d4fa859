"""Langevin chains around the weights of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from entropy_keras.landscape.lanczos import extremes
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import hessian_product
from entropy_keras.landscape.products import operator
from entropy_keras.samplers import Setting
from entropy_keras.samplers import SplitSGLD
from entropy_keras.validation import is_integer
from entropy_keras.validation import require


@dataclasses.dataclass(frozen=True)
class Samples:
    """What the chains saw after their first third.

    Attributes:
        losses: Losses, of shape `[steps, chains, couplings]`.
        displacements: Mean of position minus weights of the model of each
            chain, of shape `[chains, couplings, n]`.
        gradients: Mean gradient of the loss of each chain, of that shape.
    """

    losses: np.ndarray
    displacements: np.ndarray
    gradients: np.ndarray


class Chains:
    """Samples `exp(-(s f(x') + scope/2 |x' - x|**2) / temperature)`.

    Here x are the weights of the model and s, the coupling, runs from 0, where
    the law is Gaussian, to 1. A step is that of `SplitSGLD`, which solves the
    pull of the scope exactly, with noise that is the average of two successive
    draws. This makes the variance exact whenever f is quadratic, whatever the
    step size, where independent draws leave an error in proportion to it; for
    other f the error is of second order in the step size.

    Everything is compiled once, at the first call: other weights, scopes,
    temperatures and seeds reuse it.

    Args:
        objective: The loss f.
        minibatch_size: Samples drawn for each step of each chain, with
            replacement; `None` for all the data at every step. Estimates that
            are linear in f stay unbiased but for the heat of the gradient
            noise: step size times its covariance, halved, adds to the
            temperature.

    Raises:
        ValueError: If `minibatch_size` is not a positive integer.

    Example:
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> chains = Chains(Objective(model, data, "mse"))
    >>> plan = Plan(scope=1.0, num_chains=4, num_steps=30)
    >>> chains.run(plan, [0.5, 1.0], step_sizes=[0.1, 0.1]).losses.shape
    (20, 4, 2)

    References:
        Leimkuhler and Matthews, "Rational construction of stochastic numerical
        methods for molecular sampling", 2013, for the noise.
    """

    def __init__(
        self, objective: Objective, minibatch_size: int | None = None
    ) -> None:
        require(
            minibatch_size is None or is_integer(minibatch_size, 1),
            "minibatch_size",
            "None or a positive integer",
            minibatch_size,
        )
        self.objective = objective
        self.minibatch_size = minibatch_size
        self.evaluate = self._over_data(_loss_and_gradient)
        self._losses = self._over_data(Objective.batch_loss)
        self._compiled_run = _compiled(self._run)
        self._compiled_draw = _compiled(self._draw)
        self.hessian_product = hessian_product(objective)

    def run(self, plan: Plan, couplings: Any, step_sizes: Any) -> Samples:
        """Runs `plan.num_chains` chains at each coupling.

        They start from draws of the law at coupling 0, the same for all
        couplings.

        Args:
            plan: What to sample.
            couplings: Values of s from 0 to 1, of shape `[couplings]`.
            step_sizes: Step size η' of each, positive, of that shape; that of
                the plan is not looked at.

        Returns:
            What they saw.
        """
        dtype = self.objective.dtype

        # Chains vary slowest, so that each coupling is a column of a table.
        def repeated(values: Any) -> tf.Tensor:
            return tf.constant(np.tile(values, plan.num_chains)[:, None], dtype)

        losses, means = self._compiled_run(
            self.objective.position(),
            tf.repeat(self._start(plan), len(couplings), axis=0),
            repeated(couplings),
            {
                "step_size": repeated(step_sizes),
                "scope": tf.constant(plan.scope, dtype),
                "temperature": tf.constant(plan.temperature, dtype),
            },
            tf.constant(plan.num_steps),
            tf.constant(plan.num_discarded),
            tf.constant(plan.seed),
        )
        table = (plan.num_chains, len(couplings))
        return Samples(
            losses.numpy()[plan.num_discarded :].reshape(-1, *table),
            *means.numpy().reshape(2, *table, -1),
        )

    def draw(self, plan: Plan) -> np.ndarray:
        """Evaluates the loss at independent draws of the law at coupling 0.

        Args:
            plan: What to sample; `num_chains * num_steps` draws.

        Returns:
            Losses, of shape `[draws]`; over a minibatch of each draw's own if
            the chains have minibatches.
        """
        return self._compiled_draw(
            self.objective.position(),
            tf.constant(plan.deviation, self.objective.dtype),
            tf.constant(plan.num_chains * plan.num_steps),
            tf.constant(plan.seed),
        ).numpy()

    def _start(self, plan: Plan) -> tf.Tensor:
        """Returns the normals that displace the chains before their steps."""
        anchor = self.objective.position()
        shape = [plan.num_chains, *anchor.shape]
        return tf.random.stateless_normal(
            shape, [plan.seed, 0], dtype=anchor.dtype
        )

    def largest_curvature(self, plan: Plan) -> float:
        """Returns the largest eigenvalue of the Hessian that chains may meet.

        Args:
            plan: What is sampled.

        Returns:
            The largest one of those at the weights of the model and where the
            chains start, and at least 0; NaN if not finite.
        """
        anchor = self.objective.position()
        drawn = anchor + plan.deviation * self._start(plan)
        largest = 0.0
        for position in (anchor, *drawn):
            hessian = operator(self.objective, self.hessian_product, position)
            if not np.isfinite(hessian.matvec(anchor.numpy())).all():
                return np.nan
            found = extremes(hessian, 1, 1e-2, 100, plan.seed)
            largest = max(largest, found.largest[0] + found.largest_errors[0])
        return largest

    def _over_data(self, function: Callable[..., tf.Tensor]) -> Any:
        """Returns a function of positions `[chains, n]` and a seed.

        Args:
            function: Of the objective, a position and a batch.

        Returns:
            What gives `function` at each position: its mean over the data, or
            over a minibatch of each position's own.
        """
        objective, size = self.objective, self.minibatch_size

        # One position after another: together they would not fit into memory,
        # and not every layer can be vectorized.
        def at_each(
            positions: tf.Tensor, batch: Any, *rows: tf.Tensor
        ) -> tf.Tensor:
            def at_one(arguments: tuple[tf.Tensor, ...]) -> tf.Tensor:
                position, *own = arguments
                part = keras.tree.map_structure(
                    lambda leaf: (
                        tf.gather(leaf, *own)
                        if own and leaf is not None
                        else leaf
                    ),
                    batch,
                )
                return function(objective, position, part)

            return tf.map_fn(
                at_one,
                (positions, *rows),
                fn_output_signature=positions.dtype,
                parallel_iterations=1,
            )

        if size is None:
            mean = objective.mean(at_each)
            return lambda positions, seed: mean(positions)
        data = keras.tree.map_structure(
            lambda *parts: None if parts[0] is None else tf.concat(parts, 0),
            *objective.batches,
        )

        def on_minibatches(positions: tf.Tensor, seed: Any) -> tf.Tensor:
            rows = tf.random.stateless_uniform(
                [positions.shape[0], size],
                seed,
                maxval=objective.num_samples,
                dtype=tf.int32,
            )
            return at_each(positions, data, rows)

        return on_minibatches

    def _run(
        self,
        anchor: tf.Tensor,
        start: tf.Tensor,
        couplings: tf.Tensor,
        pull: dict[str, tf.Tensor],
        num_steps: tf.Tensor,
        num_discarded: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        setting = Setting(**pull)
        decay = tf.exp(-setting.step_size * setting.scope)
        noise_scale = tf.math.rsqrt(2.0 * (1.0 + decay))
        deviation = tf.sqrt(setting.temperature / setting.scope)

        def body(
            step: tf.Tensor,
            position: tf.Tensor,
            noise: tf.Tensor,
            sums: tf.Tensor,
            trace: tf.TensorArray,
        ) -> tuple[Any, ...]:
            evaluated = self.evaluate(position, [seed, 2 * step + 1])
            loss, gradient = evaluated[:, 0], evaluated[:, 1:]
            counts = tf.cast(step >= num_discarded, anchor.dtype)
            sums += counts * tf.stack([position - anchor, gradient])
            fresh = tf.random.stateless_normal(
                start.shape, [seed, 2 * (step + 1)], dtype=anchor.dtype
            )
            noise = (noise + fresh) * noise_scale
            position, _ = SplitSGLD().move(
                position, couplings * gradient, anchor, noise, (), setting
            )
            return step + 1, position, fresh, sums, trace.write(step, loss)

        position = anchor + deviation * start
        sums = tf.zeros([2, *start.shape], anchor.dtype)
        losses = tf.TensorArray(anchor.dtype, num_steps)
        *_, sums, trace = tf.while_loop(
            lambda step, *_: step < num_steps,
            body,
            (tf.constant(0), position, start, sums, losses),
        )
        count = tf.cast(num_steps - num_discarded, anchor.dtype)
        return trace.stack(), sums / count

    def _draw(
        self,
        anchor: tf.Tensor,
        deviation: tf.Tensor,
        count: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        def at_one(index: tf.Tensor) -> tf.Tensor:
            # Odd numbers belong to minibatches, as they do in `_run`.
            noise = tf.random.stateless_normal(
                anchor.shape, [seed, -2 * index - 2], dtype=anchor.dtype
            )
            position = anchor + deviation * noise
            return self._losses(position[None], [seed, -2 * index - 1])[0]

        return tf.map_fn(
            at_one,
            tf.range(count),
            fn_output_signature=anchor.dtype,
            parallel_iterations=1,
        )


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = tf.function(function, autograph=False)

    def call(*tensors: tf.Tensor) -> Any:
        # Called directly, it would warn of every new object.
        return compiled.get_concrete_function(*tensors)(*tensors)

    return call


def _loss_and_gradient(
    objective: Objective, position: tf.Tensor, batch: Any
) -> tf.Tensor:
    """Returns the loss followed by its gradient, of shape `[1 + n]`."""
    loss, gradient = objective.batch_loss_and_gradient(position, batch)
    return tf.concat([loss[None], gradient], 0)
