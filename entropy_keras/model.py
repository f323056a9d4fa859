"""EntropyModel: the train step that runs the Langevin loop."""

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import functional
from entropy_keras import guard
from entropy_keras import optimizer as optimizer_lib

LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


class Pass(NamedTuple):
    """What one forward and backward pass yields."""

    gradients: list[Any]
    loss: tf.Tensor
    predictions: Any
    scope: keras.StatelessScope


@keras.saving.register_keras_serializable(package="entropy_keras")
class EntropyModel(keras.Model):
    """A `keras.Model` that `EntropySGD` can train.

    Made from inputs and outputs, from another model (`from_model`), or by
    subclassing, exactly as `keras.Model`. Compiled with `EntropySGD`, `fit`
    draws the mini-batches of an update together and `train_step` runs the inner
    loop on them; compiled with any other optimizer, it is a `keras.Model`.

    The batch size that you write is that of one mini-batch. An epoch remains
    one pass over the data, so an epoch costs the same number of gradient
    evaluations as with SGD and makes `gradients_per_update` times fewer
    updates; `steps_per_epoch` counts updates. The weights of the model never
    hold anything but x: the positions of the chain exist only as tensors.

    The reported loss and metrics are those at x, of one mini-batch per update.
    Non-trainable state, such as the statistics of batch normalization, keeps
    the update made at x; the state of random seeds advances with every pass.

    Example:

    >>> inputs = keras.Input([2])
    >>> outputs = keras.layers.Dense(1)(inputs)
    >>> model = EntropyModel(inputs, outputs)
    >>> model.compile(entropy_keras.EntropySGD(0.1), loss="mse")
    >>> x, y = np.ones([40, 2]), np.ones([40, 1])
    >>> history = model.fit(x, y, batch_size=4, verbose=0)
    >>> int(model.optimizer.iterations)  # 40 / 4 gradients, 5 per update
    2
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if functional.is_functional(args, kwargs) and not isinstance(
            self, functional.functional_class()
        ):
            # Keras would insert its functional class below this one for good,
            # and subclasses with a `call` of their own would break.
            object.__setattr__(self, "__class__", functional.functional_twin(type(self)))
        super().__init__(*args, **kwargs)

    @classmethod
    def from_model(cls, model: keras.Model) -> "EntropyModel":
        """Returns a model with the layers and weights of another.

        Training one trains both; the new model is not compiled.

        Args:
            model: A Functional or Sequential model that has been built.

        Returns:
            A model that shares its layers with `model`.

        Raises:
            ValueError: If `model` has no graph of layers.

        Example:

        >>> plain = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> model = EntropyModel.from_model(plain)
        >>> model.layers[-1] is plain.layers[-1]
        True
        """
        if isinstance(model, keras.Sequential) and not model.built:
            raise ValueError(
                "`model` must be built: begin it with `keras.Input(shape)`, or "
                f"call `model.build(input_shape)`. Received: model={model}"
            )
        if isinstance(model, keras.Sequential):
            return cls(model.inputs, model.outputs, name=model.name)
        if isinstance(model, functional.functional_class()):
            return cls(model.input, model.output, name=model.name)
        raise ValueError(
            "`model` must be a Functional or Sequential `keras.Model`. A "
            "subclassed one trains once its class derives from `EntropyModel` "
            f"in place of `keras.Model`. Received: model={model}"
        )

    @property
    def _entropy_sgd(self) -> optimizer_lib.EntropySGD | None:
        """The EntropySGD that the model is compiled with, if any."""
        optimizer = self.optimizer
        if isinstance(optimizer, LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if isinstance(optimizer, optimizer_lib.EntropySGD):
            return optimizer
        return None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the model; arguments and result are `keras.Model.fit`'s.

        Args:
            x: Inputs, or a data set of batches.
            y: Targets.
            batch_size: Size of one mini-batch.
            *args: Further arguments of `keras.Model.fit`, in its order.
            **kwargs: Further arguments of `keras.Model.fit`.

        Returns:
            The history of the training.

        Raises:
            ValueError: If the data are empty or lack the labels that the
                compiled loss needs.
        """
        bound = inspect.signature(super().fit).bind(
            x, y, batch_size, *args, **kwargs
        )
        if self.compiled and self._entropy_sgd is not None:
            self._check_labels(x, y)
            batching.group_fit_arguments(
                bound.arguments, self._entropy_sgd.minibatches_per_update
            )
            bound.arguments["callbacks"] = guard.add_to(
                bound.arguments.get("callbacks"), self._entropy_sgd
            )
        return super().fit(*bound.args, **bound.kwargs)

    def _check_labels(self, x: Any, y: Any) -> None:
        """Refuses data without the labels that the compiled loss needs."""
        if self.loss is None or y is not None:
            return
        labelled = False
        if isinstance(x, tf.data.Dataset):
            spec = x.element_spec
            labelled = isinstance(spec, tuple) and len(spec) > 1
        elif not hasattr(x, "shape") and not isinstance(x, dict | list | tuple):
            return  # generators show what they hold only when they run
        if not labelled:
            raise ValueError(
                "`y` must hold the labels that the compiled loss compares the "
                "predictions with: pass `fit(x, y)` or a data set of (x, y) "
                f"pairs. Received: y={y}, x={x}"
            )

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes one update from a group of mini-batches.

        Args:
            data: `x`, `(x, y)` or `(x, y, sample_weight)`, each a structure of
                tensors whose first axis holds the mini-batches one after
                another.

        Returns:
            The current value of each metric by name.
        """
        entropy_sgd = self._entropy_sgd
        if entropy_sgd is None:
            return super().train_step(data)
        minibatch = batching.split(data, entropy_sgd.minibatches_per_update)
        self._build_on(minibatch(0))
        if not self.trainable_variables:
            return super().train_step(data)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        gradients, batch, report = self._entropy_gradient(
            entropy_sgd, minibatch
        )
        self._apply(entropy_sgd, gradients, report.loss)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        loss_tracker = next(m for m in self.metrics if m.name == "loss")
        loss_tracker.update_state(
            report.loss, sample_weight=batching.num_samples(x)
        )
        return self.compute_metrics(x, y, report.predictions, sample_weight)

    def _apply(
        self,
        entropy_sgd: optimizer_lib.EntropySGD,
        gradients: list[Any],
        loss: tf.Tensor,
    ) -> None:
        """Takes the outer step, unless it would spoil the weights."""
        variables = self.trainable_variables

        def apply() -> None:
            with entropy_sgd.taking_entropy_gradient():
                self.optimizer.apply(self._scale(gradients), variables)

        if isinstance(self.optimizer, LossScaleOptimizer):
            apply()  # which skips the update itself, and lowers the scale
        else:
            guard.apply_if_finite(apply, loss, gradients, entropy_sgd.failure)

    def _build_on(self, batch: Any) -> None:
        """Creates the variables of a subclassed model, without running it."""
        if self.built:
            return
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        self(
            tf.nest.map_structure(
                lambda t: keras.KerasTensor(t.shape, t.dtype.name), x
            )
        )

    def _entropy_gradient(
        self,
        entropy_sgd: optimizer_lib.EntropySGD,
        minibatch: Callable[[Any], Any],
    ) -> tuple[list[Any], Any, Pass]:
        """Runs the chain of one update.

        Args:
            entropy_sgd: The optimizer.
            minibatch: Returns the mini-batch of an index.

        Returns:
            The gradient that the outer optimizer takes, `None` for variables
            that the loss does not depend on; the reported mini-batch; and the
            pass over it, at x.
        """
        anchor = [tf.convert_to_tensor(v) for v in self.trainable_variables]
        num_steps = entropy_sgd.num_langevin_steps
        weight = entropy_sgd.data_weight
        chain = entropy_sgd.chain(range(len(anchor)), _scalar_dtype(anchor))
        state = chain.initial_state(anchor)
        # The pass at x: the extra one if data_weight is positive, else step 1.
        batch = minibatch(entropy_sgd.minibatches_per_update - 1 if weight else 0)
        report = self._pass(anchor if weight else state.position, batch)
        self._commit(report.scope)
        if not num_steps:
            return _scaled(report.gradients, weight), batch, report

        connected = [i for i, g in enumerate(report.gradients) if g is not None]
        chain = chain.restricted_to(connected)
        state = state.restricted_to(connected)
        weights = [anchor[i] for i in connected]
        if not weight:
            gradients = [report.gradients[i] for i in connected]
            state = chain.advance(state, gradients, weights, step=1)

        seeds = self._seed_states()

        def gradient_function(
            position: list[tf.Tensor],
            step: tf.Tensor,
            seed_states: list[tf.Tensor],
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            everywhere = list(anchor)
            for i, tensor in zip(connected, position, strict=True):
                everywhere[i] = tensor
            index = 0 if entropy_sgd.share_batch else step - 1
            result = self._pass(
                everywhere,
                minibatch(index),
                list(zip(seeds, seed_states, strict=True)),
            )
            return (
                [result.gradients[i] for i in connected],
                [result.scope.get_current_value(v) for v in seeds],
            )

        state, seed_states = chain.run(
            state,
            gradient_function,
            weights,
            first_step=1 if weight else 2,
            last_step=num_steps,
            carry=[tf.convert_to_tensor(v) for v in seeds],
        )
        for variable, value in zip(seeds, seed_states, strict=True):
            variable.assign(value)

        result: list[Any] = [None] * len(anchor)
        entropy_gradient = chain.entropy_gradient(weights, state)
        for i, gradient in zip(connected, entropy_gradient, strict=True):
            result[i] = gradient
            if weight:
                result[i] += weight * report.gradients[i]
        return result, batch, report

    def _pass(
        self,
        position: Sequence[tf.Tensor],
        batch: Any,
        state: Sequence[tuple[keras.Variable, tf.Tensor]] = (),
    ) -> Pass:
        """Computes the loss and its clipped gradient, and assigns nothing.

        Args:
            position: Values that stand in for the trainable variables.
            batch: One mini-batch.
            state: Values that stand in for other variables.

        Returns:
            The result, with the scope that holds the updates not made.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        mapping = list(zip(self.trainable_variables, position, strict=True))
        training = {"training": True}
        with (
            tf.GradientTape(watch_accessed_variables=False) as tape,
            # The regularizers read the weights in scope, hence x'.
            keras.StatelessScope(
                [*mapping, *state], collect_losses=True
            ) as scope,
        ):
            tape.watch(position)
            predictions = self(
                x, **(training if _takes_training(self.call) else {})
            )
            loss = self.compute_loss(
                x,
                y,
                predictions,
                sample_weight,
                **(training if _takes_training(self.compute_loss) else {}),
            )
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = [
            # The gradient of an embedding is a sparse `IndexedSlices`.
            None if g is None else tf.convert_to_tensor(g)
            for g in tape.gradient(scaled_loss, list(position))
        ]
        gradients = self._scale(gradients, inverse=True)
        return Pass(self._entropy_sgd.clip(gradients), loss, predictions, scope)

    def _scale(
        self, gradients: list[Any], *, inverse: bool = False
    ) -> list[Any]:
        """Applies the loss scale of mixed_float16, or takes it back."""
        if not isinstance(self.optimizer, LossScaleOptimizer):
            return gradients
        scale = self.optimizer.scale_loss(tf.constant(1.0))
        return _scaled(gradients, 1.0 / scale if inverse else scale)

    def _commit(self, scope: keras.StatelessScope) -> None:
        """Makes the updates of non-trainable state that a pass asked for."""
        for variable in self.non_trainable_variables + self.metrics_variables:
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)

    def _seed_states(self) -> list[keras.Variable]:
        """Returns the variables that hold the state of random seeds."""
        other = self.non_trainable_weights + self.metrics_variables
        known = {id(variable) for variable in other}
        return [v for v in self.non_trainable_variables if id(v) not in known]


def _scaled(gradients: Sequence[Any], factor: Any) -> list[Any]:
    return [None if g is None else g * factor for g in gradients]


def _scalar_dtype(anchor: Sequence[tf.Tensor]) -> str:
    wide = any(weights.dtype == tf.float64 for weights in anchor)
    return "float64" if wide else "float32"


def _takes_training(function: Callable[..., Any]) -> bool:
    return "training" in inspect.signature(function).parameters
