"""EntropySGD: gradient descent on the local entropy of the loss."""

import math
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import chain as chain_lib
from entropy_keras import hyperparameters
from entropy_keras import kinetics
from entropy_keras import multi_gradient
from entropy_keras import noise
from entropy_keras import schedules
from entropy_keras import validation

Tensors = list[tf.Tensor]

# With diagnostics, one update in so many is measured: to measure all costs up
# to an eighth of the time of a small network.
PERIOD = 10
# Shown are means over the first update of an epoch and every tenth after it,
# and `scope` and `gradient_evaluations`, those since training began.
MEASUREMENTS = (
    "displacement",  # distance of the weights from the end of the chain
    "force_norm",  # norm of the entropy gradient
    "gradient_norm",  # norm of the gradient of the loss, on one mini-batch
    "cosine",  # of the angle between these two
    # Norm of the noise that a step injects over that of its drift, M times
    # the gradient; with an inner optimizer, over that of SGD at its rate.
    "noise_to_drift",
)


@hyperparameters.expose
@keras.saving.register_keras_serializable(package="entropy_keras")
class EntropySGD(multi_gradient.MultiGradientOptimizer):
    """Entropy-SGD: gradient descent on the local entropy of the loss.

    Trains on the log-partition function of a Gibbs distribution around the
    weights, which prefers wide valleys to deep and narrow ones. It needs
    several gradients of the loss per update, so it works with an
    `EntropyModel`, whose `train_step` runs the inner loop:

    ```
    position = mean = x
    velocity = 0
    for batch in minibatches[:num_langevin_steps]:
        g = gradient(loss(position, batch))
        velocity = momentum * velocity - langevin_learning_rate * g
        move = momentum * velocity - langevin_learning_rate * g
        move -= langevin_learning_rate * scope * (position - x)
        move += sqrt(2 * langevin_learning_rate * temperature) * normal()
        position += move
        mean = (1 - averaging_rate) * mean + averaging_rate * position
    g = gradient(loss(x, minibatches[-1]))        # only if data_weight > 0
    outer_optimizer.apply(data_weight * g + (x - mean))
    ```

    One update costs `gradients_per_update` gradient evaluations, each on a
    mini-batch of its own. All hyper-parameters but `learning_rate` are fixed
    when training is first traced; pass a schedule to vary one.

    With a `LossScaleOptimizer` around it, as under mixed_float16, the loss of
    each pass is scaled and its gradient unscaled before it is clipped. An
    update that is not finite is skipped, and the scale lowered; without such
    an optimizer it is skipped too, and training stops with an error.

    Where the numbers of an `SGD` script go: its learning rate becomes
    `langevin_learning_rate`, which takes the steps, and its schedule that of
    `learning_rate`, which says how far to follow them: 1 goes all the way to
    the mean of the positions. `EntropySGD(1e-3)`, in the habit of Adam, goes a
    thousandth of the way at each update. Momentum begins anew at each update,
    so that with few inner steps the same number goes less far than with SGD: up
    to twice of it is often better, or more inner steps.

    The noise is `sqrt(2 * langevin_learning_rate * temperature) * normal()`.
    Other texts write it differently:

    | convention | noise per step | `temperature` |
    |---|---|---|
    | Algorithm 1 of the paper, literally | `2 * sqrt(η')` | 2 |
    | equation 8 and appendix A of the paper | `sqrt(2 * η')` | 1 |
    | ICLR 2017 text | `ε * sqrt(η')` | `ε**2 / 2` |
    | the authors' released code | `ε * sqrt(2 * η')` | `ε**2` |
    | Bayes posterior of N samples | `sqrt(2 * η' / N)` | `1 / N` |

    Args:
        learning_rate: Outer learning rate η, the share of the way from the
            weights to the mean of the chain: a float, or a schedule over
            updates. Defaults to 1.0. Belongs to `outer_optimizer` if one is
            given.
        scope: Scope γ, the strength of the pull to the weights: a non-negative
            float, a schedule over updates such as `ExponentialScope`, or a
            `PerVariable`.
        num_langevin_steps: Inner steps L per update. With 0 the outer optimizer
            runs on `data_weight * loss` alone.
        langevin_learning_rate: Inner step size η', what the learning rate of a
            script with `SGD` becomes: a positive float or a schedule over
            updates. `None` ties it to 0.1 times the current outer learning
            rate, as the paper does. Defaults to 0.1, and with
            `InnerOptimizer` to the learning rate of its rule.
        temperature: Temperature T of the noise: a non-negative float, a
            schedule over updates, or a `PerVariable`. 1 samples
            `exp(-loss - scope / 2 * |x - x'|**2)` for the mean loss, in which
            the default sampler, with its momentum of 0.9, weighs the loss ten
            times; 0 removes the noise from the computation.
        averaging_rate: Weight α of the new sample in the running mean of the
            positions, in (0, 1]; `None` takes their plain mean. Defaults to
            0.75. The estimator `"mean_gradient"` takes the plain mean of its
            gradients, and none but `None`.
        data_weight: Weight ρ of the gradient of the loss itself, a non-negative
            float. If positive, every update takes one more mini-batch.
        scale_by_scope: Whether the displacement is multiplied by the scope, as
            in eq. 9 of the paper. Later practice leaves it out.
        estimator: `"displacement"`, the paper's, or `"mean_gradient"`, or an
            object such as `Displacement(subtract_noise=True)`, which a
            temperature that a network feels asks for. Both are exact in
            equilibrium, the first up to the factor that `scale_by_scope`
            controls, the metric, and the weight of the loss in `"sgld"` with
            momentum, and err in opposite directions before.
        sampler: The kinetics: `"sgld"`, `"split_sgld"`, `"sghmc"`, `"sgnht"`,
            `"santa"`, `"gaussian_perturbation"`, or an object such as
            `SGLD(momentum=0.5)` or `InnerOptimizer(rule)`.
        start: `"anchor"` starts each chain at the weights; `"stationary"` at a
            draw from its law under a flat loss, normal with deviation
            `sqrt(temperature / scope)`. With `"stationary"` and
            `data_weight=0` no loss is computed at the weights, and the one
            reported is that at the start of the chain.
        share_batch: Whether one mini-batch serves the whole update, which needs
            `gradients_per_update` times less data and does slightly worse.
        seed: Seed of the noise, an integer. Defaults to a random one.
        diagnostics: Whether to show what happens within updates, beside the
            metrics of training: see `MEASUREMENTS`.
        metric: What steps, scope and noise are measured in: `"identity"`,
            `"relative"` to the weights of an output unit, `"rms_gradients"`,
            `"learned"` from the curvature that the noise shows, or an object of
            `geometry`.
        outer_optimizer: The `keras.optimizers.Optimizer` of the outer step.
            Defaults to plain `SGD` at `learning_rate`.
        chains: `"per_replica"` or `"synchronized"`; see
            `MultiGradientOptimizer`.
        groups_per_update: In how many groups `fit` loads the mini-batches of an
            update, a divisor of `num_langevin_steps`: the chain goes on from
            one to the next. For long inner loops on a `tf.data.Dataset`, with
            `data_weight=0` and without diagnostics.
        clipnorm: Largest norm of the gradient of each variable. Clipping acts
            on each gradient of the loss, in the inner loop and outside of it.
        clipvalue: Largest absolute value of each entry of a gradient.
        global_clipnorm: Largest norm of the gradient of all variables together.
        name: Name of the optimizer.
        **outer_arguments: `weight_decay`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency` and `gradient_accumulation_steps` of
            `keras.optimizers.Optimizer`, for the default outer optimizer. The
            weight decay is decoupled: applied once per update, to the weights
            x, and scaled by the outer learning rate. The moving average is
            that of x after each update; `fit` ends with it in the weights,
            and `keras.callbacks.SwapEMAWeights` evaluates it before.

    Raises:
        ValueError: If an argument is out of its range, contradicts another, or
            lets the inner loop diverge.

    Example:
    >>> keras.utils.set_random_seed(0)
    >>> inputs = keras.Input([3])
    >>> model = entropy_keras.EntropyModel(
    ...     inputs, keras.layers.Dense(1)(inputs)
    ... )
    >>> model.compile(EntropySGD(0.5, scope=0.03, seed=0), loss="mse")
    >>> x = np.random.normal(size=[640, 3])
    >>> history = model.fit(x, x[:, :1], batch_size=32, epochs=5, verbose=0)
    >>> history.history["loss"][-1] < 0.01
    True

    References:
        Chaudhari, Choromanska, Soatto, LeCun, "Entropy-SGD: Biasing Gradient
        Descent Into Wide Valleys", arXiv:1611.01838v1, 2016.
    """

    default_learning_rate = 1.0
    gradient_name = "entropy gradient"

    def __init__(
        self,
        learning_rate: Any = None,
        *values: Any,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        chains: str = "per_replica",
        groups_per_update: int = 1,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "entropy_sgd",
        **arguments: Any,
    ) -> None:
        chosen, outer = hyperparameters.take(values, arguments)
        super().__init__(
            learning_rate,
            outer_optimizer=outer_optimizer,
            chains=chains,
            groups_per_update=groups_per_update,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            name=name,
            **outer,
        )
        self.hyperparameters = chosen
        if groups_per_update > 1:
            validation.require(
                not (chosen.data_weight or chosen.diagnostics),
                "groups_per_update",
                "1 with a data_weight or diagnostics, which need a gradient "
                "outside of the chain",
                groups_per_update,
            )
        chosen.check_stability(self.learning_rate)
        if outer_optimizer is None:
            _warn_of_a_small_share(learning_rate, chosen)

    @property
    def gradients_per_update(self) -> int:
        """Gradient evaluations per update, K in the documentation."""
        return self.num_langevin_steps + (1 if self.data_weight > 0 else 0)

    @property
    def minibatches_per_update(self) -> int:
        """Mini-batches per update: what `fit` puts into one batch."""
        return 1 if self.share_batch else self.gradients_per_update

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state; see `keras.optimizers.Optimizer`."""
        variables = list(variables)
        validation.require(
            len(variables) <= noise.MAXIMUM_VARIABLES,
            "variables",
            f"a list of at most {noise.MAXIMUM_VARIABLES} variables",
            f"{len(variables)} variables",
        )
        if isinstance(self.scope, schedules.PerVariable):
            with tf.init_scope():  # Keras may build it where it traces.
                self.hyperparameters.check_stability(
                    self.learning_rate, variables
                )
        super().build(variables)

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns what sampler, metric and diagnostics begin with.

        Args:
            variables: The trainable variables.

        Returns:
            Their slots.
        """
        h = self.hyperparameters
        measured: Any = ()
        if h.diagnostics:
            measured = _Measured(
                tf.zeros([]), tf.zeros([]), [tf.zeros([])] * len(MEASUREMENTS)
            )
        return (
            h.sampler.initial_slots(variables),
            h.metric.initial_slots(variables),
            measured,
        )

    def begin_epoch(self) -> None:
        """Lets the means of the diagnostics begin anew."""
        if self.diagnostics and self.built:
            *_, measured = tf.nest.pack_sequence_as(
                self._slot_structure, self.slot_variables
            )
            for variable in tf.nest.flatten(measured):
                variable.assign(0.0)

    def propose(
        self,
        gradient_at: multi_gradient.GradientAt,
        anchor: Tensors,
        slots: Any,
        clock: multi_gradient.Clock,
    ) -> multi_gradient.Proposal:
        """Computes one update; see `MultiGradientOptimizer`.

        Args:
            gradient_at: Gives the gradient of the loss at any weights.
            anchor: The weights x.
            slots: What sampler, metric and diagnostics remember.
            clock: The number of the update, the learning rate, the replica.

        Returns:
            The gradient of eq. 6, and the slots of the next update.
        """
        *remembered, measured = slots
        weight = self.data_weight
        weighted = []
        if weight:  # the pass at x comes first, on the last mini-batch
            last = self.minibatches_per_update - 1
            weighted = [weight * g for g in gradient_at(anchor, last)]
        if not self.num_langevin_steps:
            return multi_gradient.Proposal(weighted, slots)
        chain = self._chain(gradient_at, anchor, remembered, clock)

        def step(index: Any, state: chain_lib.State) -> chain_lib.State:
            gradients = gradient_at(state.position, index)
            return chain.advance(state, gradients, anchor, index + 1)

        state = gradient_at.repeat(
            step, chain.start(anchor, remembered), self.num_langevin_steps
        )
        force = chain.entropy_gradient(anchor, state)
        measurements = {}
        if self.diagnostics:
            measured = measured.after(
                lambda: _measure(chain, state, anchor, force, gradient_at.first)
            )
            measurements = measured.means() | self._counters(chain, clock)
        if weight:
            force = [f + g for f, g in zip(force, weighted, strict=True)]
        return multi_gradient.Proposal(
            force, (*chain.finish(state), measured), measurements
        )

    def _chain(
        self,
        gradient_at: multi_gradient.GradientAt,
        anchor: Tensors,
        slots: Any,
        clock: multi_gradient.Clock,
    ) -> chain_lib.Chain:
        """Returns the chain with the hyper-parameters of the current update."""
        h, variables = self.hyperparameters, gradient_at.variables
        wide = any(weights.dtype == tf.float64 for weights in anchor)
        return chain_lib.Chain(
            sampler=h.sampler,
            settings=h.settings(
                clock.update,
                clock.learning_rate,
                variables,
                h.metric.diagonal(anchor, slots[1], variables),
                "float64" if wide else "float32",
            ),
            noise=chain_lib.Noise(h.seed, clock.update, clock.replica),
            estimator=h.estimator,
            averaging_rate=h.averaging_rate,
            scale_by_scope=h.scale_by_scope,
            stationary_start=h.start == "stationary",
            metric=h.metric,
            compiled=gradient_at.jit_compile,
        )

    def _counters(
        self, chain: chain_lib.Chain, clock: multi_gradient.Clock
    ) -> dict[str, tf.Tensor]:
        """Returns what is known without measuring."""
        count = (clock.update + 1) * self.gradients_per_update
        return {
            "scope": tf.cast(chain.settings[0].scope, tf.float32),
            "gradient_evaluations": tf.cast(count, tf.float32),
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them."""
        return super().get_config() | self.hyperparameters.config()


class _Measured(NamedTuple):
    """Sums of the `MEASUREMENTS` of an epoch."""

    num_updates: tf.Tensor
    num_measured: tf.Tensor
    sums: list[tf.Tensor]

    def after(self, measure: Callable[[], list[tf.Tensor]]) -> "_Measured":
        """Returns the sums after an update, which it measures if it is due."""
        due = tf.equal(self.num_updates % PERIOD, 0.0)
        zeros = [tf.zeros([])] * len(self.sums)
        new = tf.cond(due, measure, lambda: zeros)
        return _Measured(
            self.num_updates + 1.0,
            self.num_measured + tf.cast(due, tf.float32),
            [s + n for s, n in zip(self.sums, new, strict=True)],
        )

    def means(self) -> dict[str, tf.Tensor]:
        """Returns the means by name."""
        return {
            name: total / self.num_measured
            for name, total in zip(MEASUREMENTS, self.sums, strict=True)
        }


def _warn_of_a_small_share(
    learning_rate: Any, chosen: hyperparameters.HyperParameters
) -> None:
    """Warns of what is plainly the learning rate of another optimizer."""
    displaced = chosen.estimator.default_averaging_rate is not None
    if (
        validation.is_number(learning_rate, 0.0)
        and 0 < learning_rate < 0.01
        and displaced
        and not chosen.data_weight
        and not chosen.scale_by_scope
        and chosen.num_langevin_steps
    ):
        warnings.warn(
            f"learning_rate={learning_rate} lets each update go "
            f"{learning_rate:.2g} of the way to the mean of its inner loop, "
            "which trains very slowly. It is not the step size: that is "
            "`langevin_learning_rate`, and what your learning rate of SGD "
            "becomes. Leave `learning_rate` near 1 and anneal it.",
            stacklevel=4,
        )


def _measure(
    chain: chain_lib.Chain,
    state: chain_lib.State,
    anchor: Tensors,
    force: Tensors,
    gradient: Tensors,
) -> list[tf.Tensor]:
    """Returns the `MEASUREMENTS` of one update."""
    force_norm, gradient_norm = _norm(force), _norm(gradient)
    distance = [w - p for w, p in zip(anchor, state.position, strict=True)]
    product = tf.add_n([
        tf.reduce_sum(tf.cast(f * g, tf.float32))
        for f, g in zip(force, gradient, strict=True)
    ])
    rate = chain.sampler.rate(state.position, state.memory, chain.settings)
    step_size = tf.cast(rate, tf.float32)
    drift = [
        kinetics.scaled(g, s.metric)
        for g, s in zip(gradient, chain.settings, strict=True)
    ]
    heat = tf.add_n([
        tf.cast(setting.temperature, tf.float32)
        * (
            float(math.prod(w.shape))
            if setting.metric is None
            else tf.reduce_sum(
                tf.cast(tf.broadcast_to(setting.metric, w.shape), tf.float32)
            )
        )
        for setting, w in zip(chain.settings, anchor, strict=True)
    ])
    return [
        _norm(distance),
        force_norm,
        gradient_norm,
        tf.math.divide_no_nan(product, force_norm * gradient_norm),
        tf.math.divide_no_nan(
            tf.sqrt(2.0 * step_size * heat), step_size * _norm(drift)
        ),
    ]


def _norm(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the norm of all entries, in float32."""
    return tf.sqrt(
        tf.add_n([
            tf.reduce_sum(tf.square(tf.cast(t, tf.float32))) for t in tensors
        ])
    )
