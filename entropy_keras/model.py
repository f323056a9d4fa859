"""EntropyModel: the train step that runs the Langevin loop."""

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import chain as chain_lib
from entropy_keras import functional
from entropy_keras import guard
from entropy_keras import optimizer as optimizer_lib
from entropy_keras import passes


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
            cls: Any = type(self)
            twin = functional.functional_twin(cls)
            object.__setattr__(self, "__class__", twin)
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
            return cls(model.inputs[0], model.outputs[0], name=model.name)
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
        if isinstance(optimizer, passes.LossScaleOptimizer):
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
            if self.loss is not None:
                batching.check_labels(x, y)
            batching.group_fit_arguments(
                bound.arguments, self._entropy_sgd.minibatches_per_update
            )
            self._build_for(bound.arguments)
            bound.arguments["callbacks"] = guard.add_to(
                bound.arguments.get("callbacks"), self._entropy_sgd
            )
        return super().fit(*bound.args, **bound.kwargs)

    def _build_for(self, arguments: dict[str, Any]) -> None:
        """Creates all variables before the train step is traced.

        Otherwise TensorFlow traces it once more. Data that do not tell their
        shapes, and overridden methods, which need not work on symbolic tensors,
        pay that price.

        Args:
            arguments: Arguments of `fit` by name.
        """
        overridden = any(
            getattr(type(self), name) is not getattr(keras.Model, name)
            for name in ("compute_loss", "compute_metrics")
        )
        symbolic = batching.symbolic_batch(arguments)
        if symbolic is not None and not overridden:
            self._symbolic_build(data_batch=symbolic)

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
        scaling = isinstance(self.optimizer, passes.LossScaleOptimizer)

        def apply() -> None:
            scaled = gradients
            if scaling:
                scale = passes.loss_scale(self.optimizer)
                scaled = passes.scaled(gradients, scale)
            with entropy_sgd.taking_entropy_gradient():
                self.optimizer.apply(scaled, variables)

        if scaling:
            apply()  # which skips a non-finite update and lowers the scale
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
    ) -> tuple[list[Any], Any, passes.Pass]:
        """Returns the gradient that the outer optimizer takes.

        Args:
            entropy_sgd: The optimizer.
            minibatch: Returns the mini-batch of an index.

        Returns:
            The gradient of each variable, `None` where the loss does not depend
            on it; the mini-batch to report on; and the pass over it.
        """
        anchor = [tf.convert_to_tensor(v) for v in self.trainable_variables]
        weight = entropy_sgd.data_weight
        chain = entropy_sgd.chain(range(len(anchor)), _scalar_dtype(anchor))
        state = chain.initial_state(anchor)
        # The pass at x is the last one if data_weight is positive, else step 1.
        last = entropy_sgd.minibatches_per_update - 1
        batch = minibatch(last if weight else 0)
        report = passes.run(self, anchor if weight else state.position, batch)
        passes.commit(self, report.scope)
        first_gradients = entropy_sgd.clip(report.gradients)
        gradients = passes.scaled(first_gradients, weight)
        if entropy_sgd.num_langevin_steps:
            connected = [
                i for i, g in enumerate(first_gradients) if g is not None
            ]
            entropy_gradients = self._run_chain(
                entropy_sgd,
                chain,
                state,
                minibatch,
                anchor,
                connected,
                None if weight else first_gradients,
            )
            for i, gradient in zip(connected, entropy_gradients, strict=True):
                gradients[i] = gradient + gradients[i] if weight else gradient
        return gradients, batch, report

    def _run_chain(
        self,
        entropy_sgd: optimizer_lib.EntropySGD,
        chain: chain_lib.Chain,
        state: chain_lib.State,
        minibatch: Callable[[Any], Any],
        anchor: list[tf.Tensor],
        connected: list[int],
        first_gradients: list[Any] | None,
    ) -> list[tf.Tensor]:
        """Runs the chain over the variables that the loss depends on.

        Args:
            entropy_sgd: The optimizer.
            chain: The chain of all variables.
            state: Where it starts.
            minibatch: Returns the mini-batch of an index.
            anchor: The trainable variables.
            connected: Indices of those that the loss depends on.
            first_gradients: Gradients of step 1, if they are known already.

        Returns:
            The entropy gradient of each connected variable.
        """
        seeds = passes.seed_states(self)

        def gradient_function(
            position: list[tf.Tensor], step: tf.Tensor, states: list[tf.Tensor]
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            everywhere = list(anchor)
            for i, tensor in zip(connected, position, strict=True):
                everywhere[i] = tensor
            result = passes.run(
                self,
                everywhere,
                minibatch(step - 1),
                list(zip(seeds, states, strict=True)),
            )
            gradients = entropy_sgd.clip(result.gradients)
            return (
                [gradients[i] for i in connected],
                [result.scope.get_current_value(v) for v in seeds],
            )

        chain, state = chain.of(connected), state.of(connected)
        weights = [anchor[i] for i in connected]
        if first_gradients is not None:
            gradients = [first_gradients[i] for i in connected]
            state = chain.advance(state, gradients, weights, step=1)
        state, states = chain.run(
            state,
            gradient_function,
            weights,
            first_step=1 if first_gradients is None else 2,
            last_step=entropy_sgd.num_langevin_steps,
            carry=[tf.convert_to_tensor(v) for v in seeds],
        )
        for variable, value in zip(seeds, states, strict=True):
            variable.assign(value)
        return chain.entropy_gradient(weights, state)


def _scalar_dtype(anchor: Sequence[tf.Tensor]) -> str:
    wide = any(weights.dtype == tf.float64 for weights in anchor)
    return "float64" if wide else "float32"
