"""Langevin chains around the weights of a model."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator

from entropy_keras import chain as chain_lib
from entropy_keras import estimators
from entropy_keras import samplers
from entropy_keras.landscape.lanczos import extremes
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.objective import compiled
from entropy_keras.landscape.objective import made_once
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.products import hessian_product
from entropy_keras.landscape.products import operator
from entropy_keras.side_by_side import SideBySide
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

Measure = Callable[["Walk", tf.Tensor, tf.Tensor], tf.Tensor]


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
    the law is Gaussian, to 1. The steps are those of the optimizer's chain; of
    its samplers `SplitSGLD(average_noise=True)` and `SGHMC` have the exact
    variance whenever f is quadratic, whatever the step size.

    Everything is compiled once, at the first call: other weights, scopes,
    temperatures and seeds reuse it.

    Args:
        objective: The loss f.
        minibatch_size: Samples drawn for each step of each chain, with
            replacement; `None` for all the data at every step. Estimates that
            are linear in f stay unbiased but for the heat of the gradient
            noise: step size times its covariance, halved, adds to the
            temperature.
        sampler: A sampler by name or object; `None` for
            `SplitSGLD(average_noise=True)`. It must sample the Gibbs law as it
            is: `SGLD` only without momentum.

    Raises:
        ValueError: If `minibatch_size` is not a positive integer, or the
            sampler samples another law.

    Example:
    >>> model = keras.Sequential(
    ...     [keras.Input([1]), keras.layers.Dense(1, use_bias=False)]
    ... )
    >>> data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    >>> chains = Chains(Objective(model, data, "mse"))
    >>> plan = Plan(scope=1.0, num_chains=4, num_steps=30)
    >>> chains.run(plan, [0.5, 1.0], step_sizes=[0.1, 0.1]).losses.shape
    (20, 4, 2)
    """

    def __init__(
        self,
        objective: Objective,
        minibatch_size: int | None = None,
        sampler: str | samplers.Sampler | None = None,
    ) -> None:
        require(
            minibatch_size is None or is_integer(minibatch_size, 1),
            "minibatch_size",
            "None or a positive integer",
            minibatch_size,
        )
        if sampler is None:
            sampler = samplers.SplitSGLD(average_noise=True)
        self.sampler = samplers.get(sampler)
        require(
            self.sampler.samples_gibbs_law,
            "sampler",
            "one that samples the Gibbs law of the loss as it is, such as "
            "'sghmc', 'split_sgld' or SGLD(momentum=0.0)",
            self.sampler,
        )
        self.objective = objective
        self.minibatch_size = minibatch_size
        self.evaluate = self._over_data(_loss_and_gradient)
        self._losses = self._over_data(Objective.batch_loss)
        self._moments = self.walker(lambda walk, *moments: tf.stack(moments))
        self._compiled_draw = compiled(self._draw)
        self.hessian_product = hessian_product(objective)

    def run(self, plan: Plan, couplings: Any, step_sizes: Any) -> Samples:
        """Runs `plan.num_chains` chains at each coupling.

        Every other one starts from a draw of the law at coupling 0, the rest
        from the weights of the model, so that chains which do not find a
        narrow valley, or do not leave it, disagree.

        Args:
            plan: What to sample.
            couplings: Values of s from 0 to 1, of shape `[couplings]`.
            step_sizes: Step size η' of each, positive, of that shape; that of
                the plan is not looked at.

        Returns:
            What they saw.
        """
        # Chains vary slowest, so that each coupling is a column of a table.
        walk = self.begin(
            plan,
            np.tile(step_sizes, plan.num_chains),
            np.tile(couplings, plan.num_chains),
            stationary=True,
        )
        aside = np.arange(len(step_sizes) * plan.num_chains)
        aside = aside // len(step_sizes) % 2 == 0
        (drawn,) = walk.state.position
        start = [tf.where(aside[:, None], drawn, walk.anchor)]
        walk = walk._replace(state=walk.state._replace(position=start))
        walk, *_ = self._moments(walk, plan.num_discarded)
        count = plan.num_steps - plan.num_discarded
        _, losses, sums = self._moments(walk, count)
        table = (plan.num_chains, len(step_sizes))
        return Samples(
            losses.numpy().reshape(-1, *table),
            *(sums.numpy() / count).reshape(2, *table, -1),
        )

    def begin(
        self,
        plan: Plan,
        step_sizes: np.ndarray,
        couplings: np.ndarray,
        *,
        stationary: bool = False,
        metric: tf.Tensor | None = None,
    ) -> "Walk":
        """Returns chains before their first step.

        Args:
            plan: Scope, temperature and seed.
            step_sizes: Step size of each chain.
            couplings: Coupling of each chain.
            stationary: Whether they start from draws of the law at coupling 0,
                and not from the weights of the model.
            metric: The metric M, of shape `[n]`, or `None` for 1.

        Returns:
            What a `walker` takes.
        """
        dtype = self.objective.dtype

        def column(values: np.ndarray) -> tf.Tensor:
            return tf.constant(values[:, None], dtype)

        setting = samplers.Setting(
            column(step_sizes),
            tf.constant(plan.scope, dtype),
            tf.constant(plan.temperature, dtype),
            metric,
        )
        count = len(step_sizes)
        anchor = tf.repeat(self.objective.position()[None], count, axis=0)
        seed = tf.constant(plan.seed)
        chain = self._chain(setting, seed, stationary)
        slots = chain.sampler.initial_slots([anchor])
        return Walk(
            chain.start([anchor], (slots, ())),
            anchor,
            column(couplings),
            setting,
            seed,
            tf.constant(0),
        )

    def walker(
        self, measure: Measure
    ) -> Callable[["Walk", int], tuple["Walk", tf.Tensor, tf.Tensor]]:
        """Returns a compiled function that lets chains take steps.

        Args:
            measure: What to sum over the steps: a tensor of the chains, and of
                the displacements and gradients where each step begins, both of
                shape `[chains, n]`.

        Returns:
            A function of chains and a number of steps, which returns the chains
            after them, the losses where they begin, of shape `[steps, chains]`,
            and the sum.
        """
        walk_on = compiled(functools.partial(self._walk, measure))
        return lambda walk, num_steps: walk_on(
            walk, tf.constant(int(num_steps))
        )

    def _chain(
        self, setting: samplers.Setting, seed: tf.Tensor, stationary: bool
    ) -> chain_lib.Chain:
        return chain_lib.Chain(
            SideBySide(self.sampler),
            [setting],
            _Noise(seed),
            estimators.Nothing(),
            stationary_start=stationary,
            compiled=False,
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
        return self.largest_curvature_at((anchor, *drawn), plan.seed)

    def largest_curvature_at(
        self, positions: Iterable[tf.Tensor], seed: int, metric: Any = 1.0
    ) -> float:
        """Returns the largest eigenvalue of the Hessian at some positions.

        Args:
            positions: Where, each of shape `[n]`.
            seed: Of the start of Lanczos's method.
            metric: See `curvature`.

        Returns:
            The largest one, and at least 0; NaN if not finite.
        """
        found = [self.curvature(x, seed, metric) for x in positions]
        return float(np.max([0.0, *found]))  # NaN if one of them is

    def curvature(
        self, position: tf.Tensor, seed: int, metric: Any = 1.0
    ) -> float:
        """Returns the largest eigenvalue of the Hessian in a metric.

        Args:
            position: Where, of shape `[n]`.
            seed: Of the start of Lanczos's method.
            metric: The metric M, of shape `[n]`, or 1.

        Returns:
            That of `sqrt(M) H sqrt(M)`; NaN if not finite.
        """
        hessian = operator(self.objective, self.hessian_product, position)
        root = np.sqrt(metric)
        scaled = LinearOperator(
            hessian.shape,
            matvec=lambda vector: root * hessian.matvec(root * vector),
            dtype=hessian.dtype,
        )
        scaled.precision = hessian.precision
        product = self.hessian_product(position, position)
        if not np.isfinite(product.numpy()).all():
            return np.nan
        found = extremes(scaled, 1, 1e-2, 100, seed, ends="largest")
        return float(found.largest[0] + found.largest_errors[0])

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

    def _walk(
        self, measure: Measure, walk: "Walk", num_steps: tf.Tensor
    ) -> tuple["Walk", tf.Tensor, tf.Tensor]:
        anchor, seed = walk.anchor, walk.seed
        chain = self._chain(walk.setting, seed, False)

        def body(
            step: tf.Tensor,
            state: chain_lib.State,
            total: tf.Tensor,
            trace: tf.TensorArray,
        ) -> tuple[Any, ...]:
            (position,) = state.position
            evaluated = self.evaluate(position, [seed, 2 * step + 1])
            loss, gradient = evaluated[:, 0], evaluated[:, 1:]
            total += measure(walk, position - anchor, gradient)
            trace = trace.write(step - walk.step, loss)
            state = chain.advance(
                state, [walk.couplings * gradient], [anchor], step + 1
            )
            return step + 1, state, total, trace

        last = walk.step + num_steps
        step, state, total, trace = tf.while_loop(
            lambda step, *_: step < last,
            body,
            (
                walk.step,
                walk.state,
                tf.zeros_like(measure(walk, anchor, anchor)),
                tf.TensorArray(anchor.dtype, num_steps),
            ),
        )
        return walk._replace(state=state, step=step), trace.stack(), total

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


def chains_of(
    objective: Objective,
    minibatch_size: int | None = None,
    sampler: str | samplers.Sampler | None = None,
) -> Chains:
    """Returns chains, made once an objective where they are the default ones.

    Args:
        objective: The loss.
        minibatch_size: See `Chains`.
        sampler: Likewise.

    Returns:
        The chains.
    """
    if minibatch_size is None and sampler is None:
        return _default(objective)
    return Chains(objective, minibatch_size, sampler)


_default = made_once(Chains)


class Walk(NamedTuple):
    """Chains on their way, one in each row.

    Attributes:
        state: Where they are, and what else goes from step to step.
        anchor: The weights x in each row, of shape `[chains, n]`.
        couplings: What multiplies the loss, of shape `[chains, 1]`.
        setting: Step sizes, scope, temperature and metric.
        seed: Of the noise and of the minibatches.
        step: How many steps they have taken.
    """

    state: chain_lib.State
    anchor: tf.Tensor
    couplings: tf.Tensor
    setting: samplers.Setting
    seed: tf.Tensor
    step: tf.Tensor


class _Noise(NamedTuple):
    """Noise under a seed that is a tensor; see `chain.Noise`.

    Without XLA that of `tf.random` is faster.
    """

    seed: tf.Tensor

    def keys(
        self, count: int, step: tf.Tensor | int, stream: int
    ) -> list[tf.Tensor]:
        """Returns the keys of the only tensor there is."""
        del count
        # Odd numbers belong to minibatches. Streams differ at the start alone.
        number = 2 * step - stream * 2**30
        return [tf.stack([self.seed, number])]

    def normal(self, like: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Returns standard normals under a key, of the shape of a tensor."""
        return tf.random.stateless_normal(like.shape, key, dtype=like.dtype)


def _loss_and_gradient(
    objective: Objective, position: tf.Tensor, batch: Any
) -> tf.Tensor:
    """Returns the loss followed by its gradient, of shape `[1 + n]`."""
    loss, gradient = objective.batch_loss_and_gradient(position, batch)
    return tf.concat([loss[None], gradient], 0)
