"""EntropySGD: the hyper-parameters, the state and the outer step."""

import contextlib
import random
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from entropy_keras import clipping
from entropy_keras import hyperparameters
from entropy_keras import noise
from entropy_keras import samplers
from entropy_keras import validation


@keras.saving.register_keras_serializable(package="entropy_keras")
class EntropySGD(keras.optimizers.Optimizer):
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
        learning_rate: Outer learning rate η: a float, a Keras schedule over
            updates, or a callable without arguments. Defaults to 1.0. Belongs
            to `outer_optimizer` if one is given.
        scope: Scope γ, the strength of the pull to the weights: a non-negative
            float, or a schedule over updates such as `ExponentialScope`.
        num_langevin_steps: Inner steps L per update. With 0 the outer optimizer
            runs on `data_weight * loss` alone.
        langevin_learning_rate: Inner step size η': a positive float or a
            schedule over updates. `None` ties it to 0.1 times the current
            outer learning rate, as the paper does.
        temperature: Temperature T of the noise, a non-negative float. 1 samples
            `exp(-loss - scope / 2 * |x - x'|**2)` for the mean loss; 0 removes
            the noise from the computation.
        averaging_rate: Weight α of the new sample in the running mean of the
            positions, in (0, 1]; `None` takes their plain mean. The estimator
            `"mean_gradient"` always takes the plain mean of its gradients.
        data_weight: Weight ρ of the gradient of the loss itself, a non-negative
            float. If positive, every update takes one more mini-batch.
        scale_by_scope: Whether the displacement is multiplied by the scope, as
            in eq. 9 of the paper. Later practice leaves it out.
        estimator: `"displacement"`, the paper's, or `"mean_gradient"`. Both
            are exact in equilibrium, the first up to the factor that
            `scale_by_scope` controls, and err in opposite directions before.
        sampler: The kinetics: a `samplers.Sampler`, `"sgld"` or `"split_sgld"`.
        start: `"anchor"` starts each chain at the weights; `"stationary"` at a
            draw from its law under a flat loss, normal with deviation
            `sqrt(temperature / scope)`. With `"stationary"` and
            `data_weight=0` no loss is computed at the weights, and the one
            reported is that at the start of the chain.
        share_batch: Whether one mini-batch serves the whole update, which needs
            `gradients_per_update` times less data and does slightly worse.
        outer_optimizer: The `keras.optimizers.Optimizer` of the outer step.
            Defaults to plain `SGD` at `learning_rate`.
        seed: Seed of the noise, an integer. Defaults to a random one.
        diagnostics: Whether to report the inner loop as metrics, listed in
            `diagnostics.Diagnostics`.
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

    _num_carried_states = 0
    _takes_entropy_gradient = False

    def __init__(
        self,
        learning_rate: Any = None,
        scope: hyperparameters.Schedulable = 0.03,
        num_langevin_steps: int = 5,
        langevin_learning_rate: hyperparameters.Schedulable | None = 0.1,
        temperature: float = 5e-9,
        averaging_rate: float | None = hyperparameters.DEFAULT_AVERAGING_RATE,
        data_weight: float = 0.0,
        scale_by_scope: bool = False,
        estimator: str = "displacement",
        sampler: str | samplers.Sampler = "sgld",
        start: str = "anchor",
        share_batch: bool = False,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        seed: int | None = None,
        diagnostics: bool = False,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "entropy_sgd",
        **outer_arguments: Any,
    ) -> None:
        super().__init__(
            learning_rate=0.0,  # never read: it is the outer optimizer's
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            name=name,
        )
        self.scope = scope
        self.num_langevin_steps = num_langevin_steps
        self.langevin_learning_rate = langevin_learning_rate
        self.temperature = temperature
        self.averaging_rate = averaging_rate
        self.data_weight = data_weight
        self.scale_by_scope = scale_by_scope
        self.estimator = estimator
        self.sampler = samplers.get(sampler)
        self.start = start
        self.share_batch = share_batch
        self.diagnostics = diagnostics
        # From where Keras draws its seeds, so `set_random_seed` governs it.
        self.seed = random.randint(1, 10**9) if seed is None else seed
        hyperparameters.check(self)
        self._has_default_outer = outer_optimizer is None
        self.outer_optimizer = hyperparameters.outer_optimizer(
            outer_optimizer, {"learning_rate": learning_rate, **outer_arguments}
        )
        hyperparameters.check_stability(self)

    @property
    def gradients_per_update(self) -> int:
        """Gradient evaluations per update, K in the documentation."""
        return self.num_langevin_steps + (1 if self.data_weight > 0 else 0)

    @property
    def minibatches_per_update(self) -> int:
        """Mini-batches per update: what `fit` puts into one batch."""
        return 1 if self.share_batch else self.gradients_per_update

    @property
    def learning_rate(self) -> Any:
        """The outer learning rate, that of `outer_optimizer`."""
        return self.outer_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.outer_optimizer.learning_rate = learning_rate

    @property
    def variables(self) -> list[keras.Variable]:
        """Its own, those of `outer_optimizer`, and `carried_states`."""
        # Keras adds the last to the first whenever they are set.
        carried = {id(variable) for variable in self.carried_states}
        own = [v for v in super().variables if id(v) not in carried]
        return own + self.outer_optimizer.variables + self.carried_states

    @property
    def carried_states(self) -> list[keras.Variable]:
        """What the model carries from pass to pass, saved with the state."""
        count = self._num_carried_states
        return [getattr(self, f"carried_state_{i}") for i in range(count)]

    @carried_states.setter
    def carried_states(self, variables: Sequence[keras.Variable]) -> None:
        # As attributes, since TensorFlow's checkpoints find only those.
        for i, variable in enumerate(variables):
            setattr(self, f"carried_state_{i}", variable)
        self._num_carried_states = len(variables)

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        """Returns the average of x, where `SwapEMAWeights` looks for it."""
        return self.outer_optimizer._model_variables_moving_average

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state; see `keras.optimizers.Optimizer`."""
        variables = list(variables)
        validation.require(
            len(variables) <= noise.MAXIMUM_VARIABLES,
            "variables",
            f"a list of at most {noise.MAXIMUM_VARIABLES} variables",
            f"{len(variables)} variables",
        )
        self.outer_optimizer.build(variables)
        self.failure = self.add_variable(
            shape=(), dtype="int32", aggregation="none", name="failure"
        )
        super().build(variables)

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        """Clips one gradient of the loss as the arguments ask.

        Args:
            gradients: One tensor per variable, or `None` in its place.

        Returns:
            The clipped gradients in the same order.
        """
        return clipping.clip(
            gradients,
            clipnorm=self.clipnorm,
            clipvalue=self.clipvalue,
            global_clipnorm=self.global_clipnorm,
        )

    @contextlib.contextmanager
    def taking_entropy_gradient(self) -> Iterator[None]:
        """Lets `apply` take a gradient: it is that of the local entropy.

        Outside of this context `apply` refuses, since a gradient of the loss
        would silently turn the method into its outer optimizer.
        """
        self._takes_entropy_gradient = True
        try:
            yield
        finally:
            self._takes_entropy_gradient = False

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Takes the outer step.

        Args:
            grads: The entropy gradient of each variable.
            trainable_variables: The variables, if not yet built for.

        Raises:
            ValueError: If no `EntropyModel` computed the gradient.
        """
        if not self._takes_entropy_gradient:
            raise ValueError(
                "EntropySGD takes several gradients of the loss per update, "
                "which a plain `keras.Model` or training loop does not supply. "
                "Train `EntropyModel.from_model(model)`, which shares the "
                "weights of `model`, or subclass `EntropyModel`."
            )
        if not self.built:
            self.build(list(trainable_variables or ()))
        self.outer_optimizer.apply(grads, trainable_variables)
        self.iterations.assign_add(1)

    def finalize_variable_values(
        self, var_list: Sequence[keras.Variable]
    ) -> None:
        """Ends training; see `keras.optimizers.Optimizer`."""
        self.outer_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exempts variables from it; see `keras.optimizers.Optimizer`."""
        self.outer_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them."""
        config = super().get_config()
        del config["loss_scale_factor"]
        outer = self.outer_optimizer.get_config()
        for argument in hyperparameters.OUTER_ARGUMENTS:
            del config[argument]
            if self._has_default_outer:
                config[argument] = outer[argument]
        if not self._has_default_outer:
            config["outer_optimizer"] = hyperparameters.serialized(
                self.outer_optimizer
            )
        for argument in hyperparameters.NAMES:
            value = getattr(self, argument)
            config[argument] = hyperparameters.serialized(value)
        return config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "EntropySGD":
        """Returns an optimizer without state from what `get_config` gave."""
        return cls(**{
            name: keras.saving.deserialize_keras_object(
                value, custom_objects=custom_objects
            )
            if isinstance(value, dict)
            else value
            for name, value in config.items()
        })
