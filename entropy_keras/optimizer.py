"""EntropySGD: the hyper-parameters, the state and the outer step."""

import contextlib
import random
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import chain
from entropy_keras import estimators
from entropy_keras import noise
from entropy_keras import samplers
from entropy_keras import validation

Schedule = keras.optimizers.schedules.LearningRateSchedule
Schedulable = float | Callable[[tf.Tensor], tf.Tensor]

DEFAULT_LEARNING_RATE = 1.0
DEFAULT_AVERAGING_RATE = 0.75
# The paper's ratio of the inner to the outer learning rate, section 4.3.
TIED_STEP_RATIO = 0.1
# Arguments of the base class that describe the outer step.
_OUTER_ARGUMENTS = (
    "learning_rate",
    "weight_decay",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "gradient_accumulation_steps",
)
_ESTIMATORS = ("displacement", "mean_gradient")
_STARTS = ("anchor", "stationary")


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
        position += move
        position -= langevin_learning_rate * scope * (position - x)
        position += sqrt(2 * langevin_learning_rate * temperature) * normal()
        mean = (1 - averaging_rate) * mean + averaging_rate * position
    g = gradient(loss(x, minibatches[-1]))        # only if data_weight > 0
    outer_optimizer.apply(data_weight * g + (x - mean))
    ```

    (The pull in line 4 of the loop is taken where the step began.) One update
    costs `gradients_per_update` gradient evaluations, each on a mini-batch of
    its own. All hyper-parameters but `learning_rate` are fixed when training
    is first traced; pass a schedule to vary one.

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
        weight_decay: See `keras.optimizers.Optimizer`. Decoupled, applied by
            the default outer optimizer at each update and scaled by the
            outer learning rate.
        clipnorm: Largest norm of the gradient of each variable. Clipping acts
            on each gradient of the loss, in the inner loop and outside of it.
        clipvalue: Largest absolute value of each entry of a gradient.
        global_clipnorm: Largest norm of the gradient of all variables together.
        use_ema: See `keras.optimizers.Optimizer`, for the default outer
            optimizer.
        ema_momentum: Likewise.
        ema_overwrite_frequency: Likewise.
        loss_scale_factor: Not supported; mixed precision scales the loss with
            `keras.optimizers.LossScaleOptimizer`.
        gradient_accumulation_steps: See `keras.optimizers.Optimizer`, for the
            default outer optimizer: the number of entropy gradients averaged.
        name: Name of the optimizer.

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

    def __init__(
        self,
        learning_rate: Any = None,
        scope: Schedulable = 0.03,
        num_langevin_steps: int = 5,
        langevin_learning_rate: Schedulable | None = 0.1,
        temperature: float = 5e-9,
        averaging_rate: float | None = DEFAULT_AVERAGING_RATE,
        data_weight: float = 0.0,
        scale_by_scope: bool = False,
        estimator: str = "displacement",
        sampler: str | samplers.Sampler = "sgld",
        start: str = "anchor",
        share_batch: bool = False,
        outer_optimizer: keras.optimizers.Optimizer | None = None,
        seed: int | None = None,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "entropy_sgd",
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
        # Drawn as Keras draws its seeds, so `set_random_seed` governs it.
        self.seed = random.randint(1, 10**9) if seed is None else seed
        self._check_arguments(loss_scale_factor)
        self._has_default_outer = outer_optimizer is None
        self.outer_optimizer = _outer_optimizer(
            outer_optimizer,
            {
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "use_ema": use_ema,
                "ema_momentum": ema_momentum,
                "ema_overwrite_frequency": ema_overwrite_frequency,
                "gradient_accumulation_steps": gradient_accumulation_steps,
            },
        )
        self._takes_entropy_gradient = False
        self._check_stability()

    def _check_arguments(self, loss_scale_factor: float | None) -> None:
        """Raises a `ValueError` for the first argument that cannot be."""
        rules = (
            ("scope", _is_schedulable(self.scope, 0.0),
             "a non-negative float or a schedule"),
            ("num_langevin_steps",
             validation.is_integer(self.num_langevin_steps, 0)
             and self.num_langevin_steps <= noise.MAXIMUM_STEPS,
             f"an integer from 0 to {noise.MAXIMUM_STEPS}"),
            ("langevin_learning_rate",
             self.langevin_learning_rate is None
             or (_is_schedulable(self.langevin_learning_rate, 0.0)
                 and self.langevin_learning_rate != 0),
             "a positive float, a schedule, or None to tie it to the outer "
             "learning rate"),
            ("temperature", validation.is_number(self.temperature, 0.0),
             "a non-negative float"),
            ("averaging_rate",
             self.averaging_rate is None
             or (validation.is_number(self.averaging_rate, 0.0)
                 and 0 < self.averaging_rate <= 1),
             "a float in (0, 1], or None for the plain mean"),
            ("averaging_rate",
             self.estimator != "mean_gradient"
             or self.averaging_rate in (None, DEFAULT_AVERAGING_RATE),
             "None with estimator='mean_gradient', which takes the plain mean"),
            ("data_weight", validation.is_number(self.data_weight, 0.0),
             "a non-negative float"),
            ("data_weight", self.num_langevin_steps or self.data_weight,
             "positive when num_langevin_steps=0, or the gradient is zero"),
            ("scale_by_scope", isinstance(self.scale_by_scope, bool),
             "True or False"),
            ("estimator", self.estimator in _ESTIMATORS,
             f"one of {_ESTIMATORS}"),
            ("start", self.start in _STARTS, f"one of {_STARTS}"),
            ("scope", self.start != "stationary" or self.scope != 0,
             "positive with start='stationary', whose law has deviation "
             "sqrt(temperature / scope)"),
            ("share_batch", isinstance(self.share_batch, bool),
             "True or False"),
            ("seed",
             validation.is_integer(self.seed, -2**63) and self.seed < 2**63,
             "a 64-bit integer or None"),
            *((name, getattr(self, name) is None
               or (validation.is_number(getattr(self, name), 0.0)
                   and getattr(self, name) > 0),
               "a positive float or None")
              for name in ("clipnorm", "clipvalue", "global_clipnorm")),
        )  # fmt: skip
        for argument, holds, expectation in rules:
            validation.require(
                bool(holds), argument, expectation, getattr(self, argument)
            )
        validation.require(
            loss_scale_factor is None,
            "loss_scale_factor",
            "None: wrap the optimizer in `keras.optimizers.LossScaleOptimizer`,"
            " which `compile` does by itself under mixed_float16",
            loss_scale_factor,
        )

    def _check_stability(self) -> None:
        """Refuses an inner loop that is known to diverge before it starts."""
        scope = getattr(self.scope, "maximum_scope", None)
        if scope is None:
            scope = _at(self.scope, 0)
        step_size = self.langevin_learning_rate
        if step_size is None:
            step_size = TIED_STEP_RATIO * self.learning_rate
        if self.num_langevin_steps:
            self.sampler.check_stability(
                float(_at(step_size, 0)), float(scope)
            )

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
        """The variables of this optimizer and of `outer_optimizer`."""
        return super().variables + self.outer_optimizer.variables

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the state of the optimizer.

        Args:
            variables: The trainable variables of the model.

        Raises:
            ValueError: If there are more variables than the noise has keys.
        """
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

    def chain(self, variable_indices: Sequence[int], dtype: str) -> chain.Chain:
        """Returns the Langevin chain of the current update.

        Args:
            variable_indices: Indices of the variables that take part.
            dtype: Type of the scalars, `"float32"` or `"float64"`.

        Returns:
            A chain with the hyper-parameters at this update.
        """
        update = tf.convert_to_tensor(self.iterations)
        if self.langevin_learning_rate is None:
            step_size = TIED_STEP_RATIO * _scalar(self.learning_rate, dtype)
        else:
            step_size = _scalar(
                _at(self.langevin_learning_rate, update), dtype
            )
        estimator: estimators.Estimator = estimators.MeanGradient()
        if self.estimator == "displacement":
            estimator = estimators.Displacement(
                self.averaging_rate, self.scale_by_scope
            )
        return chain.Chain(
            sampler=self.sampler,
            estimator=estimator,
            step_size=step_size,
            scope=_scalar(_at(self.scope, update), dtype),
            temperature=self.temperature,
            stationary_start=self.start == "stationary",
            seed=self.seed,
            update=update,
            variable_indices=tuple(variable_indices),
        )

    def clip(self, gradients: Sequence[Any]) -> list[Any]:
        """Clips one gradient of the loss as the arguments ask.

        Args:
            gradients: One tensor per variable, or `None` in its place.

        Returns:
            The clipped gradients in the same order.
        """
        if self.clipvalue is not None:
            limit = self.clipvalue
            return [
                None if g is None else tf.clip_by_value(g, -limit, limit)
                for g in gradients
            ]
        if self.clipnorm is not None:
            return [
                None if g is None else tf.clip_by_norm(g, self.clipnorm)
                for g in gradients
            ]
        if self.global_clipnorm is not None:
            return tf.clip_by_global_norm(gradients, self.global_clipnorm)[0]
        return list(gradients)

    @contextlib.contextmanager
    def taking_entropy_gradient(self) -> Iterator[None]:
        """Lets `apply` take a gradient: it is that of the local entropy.

        Outside of this context `apply` refuses, since a gradient of the loss
        would silently turn the method into its outer optimizer.

        Yields:
            Nothing.
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
            ValueError: If the gradient does not come from an `EntropyModel`.
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
        """Ends training, as `keras.optimizers.Optimizer` does.

        Args:
            var_list: The trainable variables of the model.
        """
        self.outer_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Exempts variables from the weight decay of the outer optimizer.

        Args:
            var_list: The variables.
            var_names: Regular expressions that match names of variables.
        """
        self.outer_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them.

        Returns:
            A dictionary that `from_config` takes.
        """
        config = super().get_config()
        outer = self.outer_optimizer.get_config()
        for argument in _OUTER_ARGUMENTS:
            del config[argument]
            if self._has_default_outer:
                config[argument] = outer[argument]
        serialize = keras.saving.serialize_keras_object
        config |= {
            "scope": _serialize(self.scope),
            "num_langevin_steps": self.num_langevin_steps,
            "langevin_learning_rate": _serialize(self.langevin_learning_rate),
            "temperature": self.temperature,
            "averaging_rate": self.averaging_rate,
            "data_weight": self.data_weight,
            "scale_by_scope": self.scale_by_scope,
            "estimator": self.estimator,
            "sampler": serialize(self.sampler),
            "start": self.start,
            "share_batch": self.share_batch,
            "outer_optimizer": (
                None
                if self._has_default_outer
                else serialize(self.outer_optimizer)
            ),
            "seed": self.seed,
        }
        return config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "EntropySGD":
        """Makes an optimizer from what `get_config` returned.

        Args:
            config: The arguments of the optimizer.
            custom_objects: Classes and functions by name, for objects in the
                config that are not registered with Keras.

        Returns:
            An optimizer without state.
        """
        return cls(**{
            name: keras.saving.deserialize_keras_object(
                value, custom_objects=custom_objects
            )
            if isinstance(value, dict)
            else value
            for name, value in config.items()
        })


def _outer_optimizer(
    optimizer: Any, arguments: dict[str, Any]
) -> keras.optimizers.Optimizer:
    """Returns the outer optimizer, the default one from the arguments."""
    if optimizer is None:
        if arguments["learning_rate"] is None:
            arguments["learning_rate"] = DEFAULT_LEARNING_RATE
        learning_rate = arguments["learning_rate"]
        validation.require(
            callable(learning_rate) or validation.is_number(learning_rate, 0.0),
            "learning_rate",
            "a non-negative float, a schedule or a callable",
            learning_rate,
        )
        if not callable(learning_rate):
            arguments["learning_rate"] = float(learning_rate)
        return keras.optimizers.SGD(**arguments)
    validation.require(
        isinstance(optimizer, keras.optimizers.Optimizer)
        and not isinstance(optimizer, EntropySGD),
        "outer_optimizer",
        "a `keras.optimizers.Optimizer` other than EntropySGD, or None",
        optimizer,
    )
    unused = {"use_ema": False, "ema_momentum": 0.99}
    for name, value in arguments.items():
        validation.require(
            value == unused.get(name),
            name,
            f"set on the outer_optimizer, {type(optimizer).__name__}, instead",
            value,
        )
    return optimizer


def _is_schedulable(value: object, minimum: float) -> bool:
    return callable(value) or validation.is_number(value, minimum)


def _at(value: Any, update: tf.Tensor | int) -> Any:
    """Returns a hyper-parameter at an update."""
    return value(update) if callable(value) else value


def _scalar(value: Any, dtype: str) -> tf.Tensor:
    """Returns a number or tensor in a type, never by way of a narrower one."""
    if isinstance(value, float | int):
        return tf.constant(value, dtype)
    return tf.cast(value, dtype)


def _serialize(value: Any) -> Any:
    """Returns a hyper-parameter as JSON can hold it."""
    if callable(value):
        return keras.saving.serialize_keras_object(value)
    return value
