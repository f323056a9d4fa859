"""EntropyModel: the train step that runs the Langevin loop."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import compilation
from entropy_keras import diagnostics
from entropy_keras import guard
from entropy_keras import optimizer as optimizer_lib
from entropy_keras import passes
from entropy_keras import twins
from entropy_keras import update
from entropy_keras import validation


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
    the update made at x. That of random seeds and of recurrent layers with
    `stateful=True` goes on with every pass; the pass at x comes first.

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

    train_function: Any
    _diagnostics: diagnostics.Diagnostics | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if twins.is_functional(args, kwargs) and not isinstance(
            self, twins.functional_class()
        ):
            # Keras would insert its functional class below this one for good,
            # and subclasses with a `call` of their own would break.
            cls: Any = type(self)
            twin = twins.functional_twin(cls)
            object.__setattr__(self, "__class__", twin)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_model(cls, model: keras.Model) -> "EntropyModel":
        """Returns a model with the layers and weights of another.

        Training one trains both. A subclassed model has no graph to make a
        second model from: it is returned itself, with its class extended.

        Args:
            model: Any model. A Sequential one has to be built.

        Returns:
            An `EntropyModel` that shares its weights and precision policy with
            `model`, to be compiled.

        Raises:
            ValueError: If `model` is not a model, not built, or has a
                `train_step` of its own.

        Example:
        >>> plain = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        >>> model = EntropyModel.from_model(plain)
        >>> model.layers[-1] is plain.layers[-1]
        True
        """
        validation.require(
            isinstance(model, keras.Model), "model", "a `keras.Model`", model
        )
        validation.require(
            isinstance(model, cls)
            or type(model).train_step is keras.Model.train_step,
            "model",
            "one without a `train_step` of its own, which the inner loop "
            "replaces: move what it does to `compute_loss`",
            model,
        )
        if isinstance(model, keras.Sequential):
            validation.require(
                model.built,
                "model",
                "built: begin it with `keras.Input(shape)`, or call "
                "`model.build(input_shape)`",
                model,
            )
            new = cls(model.inputs[0], model.outputs[0], name=model.name)
        elif type(model) is twins.functional_class():
            new = cls(model.input, model.output, name=model.name)
        else:
            if not isinstance(model, cls):
                old: Any = type(model)
                new_class: Any = cls
                model.__class__ = twins.extended_twin(old, new_class)
                model.compiled = False
            return model
        new.dtype_policy = model.dtype_policy
        return new

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configures training; see `keras.Model.compile`.

        Args:
            *args: Arguments of `keras.Model.compile`, in its order.
            **kwargs: Arguments of `keras.Model.compile`. With `EntropySGD`,
                `jit_compile="auto"` also uses XLA without a GPU where that is
                known to be faster; see `compilation.prefers_xla`.

        Raises:
            ValueError: If an `EntropySGD` is to run on several replicas.
        """
        super().compile(*args, **kwargs)
        entropy_sgd = self._entropy_sgd()
        replicas = self.distribute_strategy.num_replicas_in_sync
        validation.require(
            replicas == 1 or entropy_sgd is None,
            "optimizer",
            "another than EntropySGD, which needs a single replica for now",
            f"EntropySGD with {replicas} replicas",
        )
        bound = inspect.signature(super().compile).bind(*args, **kwargs)
        self._jit_argument = bound.arguments.get("jit_compile", "auto")
        if entropy_sgd is not None and self._jit_argument == "auto":
            compilation.choose(self)
        self._diagnostics = diagnostics.of(entropy_sgd)
        self._entrust_states()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Those of `keras.Model`, and the diagnostics if asked for."""
        measured = self._diagnostics
        shown = measured.metrics if measured and measured.measuring else []
        return super().metrics + shown

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function that `fit` calls; see `keras.Model`."""
        old = self.train_function
        super().make_train_function(force)
        if self._diagnostics is not None and self.train_function is not old:
            plain = self.train_function
            super().make_train_function(force=True)
            self.train_function = self._diagnostics.alternate(
                plain, self.train_function
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the model, as JSON can hold them."""
        config = super().get_config()
        if "layers" in config:
            # Keras leaves it out, and without it loads no scale of the loss.
            policy = keras.saving.serialize_keras_object(self.dtype_policy)
            config["dtype"] = policy
        return config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "EntropyModel":
        """Returns a model with new weights from what `get_config` gave."""
        # Keras takes the configuration apart.
        policy = config.get("dtype") if "layers" in config else None
        model = super().from_config(config, custom_objects)
        if policy is not None:
            model.dtype_policy = keras.dtype_policies.get(policy)
        return model

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile`, as JSON can hold them."""
        config = super().get_compile_config()
        if config and "jit_compile" in config:
            # Keras writes what it chose on this machine.
            config["jit_compile"] = self._jit_argument
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Configures training as in a file; see `keras.Model`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def _entrust_states(self) -> None:
        """Makes state that goes from pass to pass part of the optimizer's.

        Files and checkpoints then hold it, which Keras's leave out.
        """
        entropy_sgd = self._entropy_sgd()
        if self.built and entropy_sgd is not None:
            entropy_sgd.carried_states = passes.carried_states(self)

    # Not a property: Keras saves what the attributes of a model hold.
    def _entropy_sgd(self) -> optimizer_lib.EntropySGD | None:
        """Returns the EntropySGD that the model is compiled with, if any."""
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
            ValueError: If the data are empty or lack labels for the loss.
        """
        bound = inspect.signature(super().fit).bind(
            x, y, batch_size, *args, **kwargs
        )
        entropy_sgd = self._entropy_sgd() if self.compiled else None
        if entropy_sgd is not None:
            if batching.group_fit_arguments(
                bound.arguments,
                entropy_sgd.minibatches_per_update,
                needs_labels=self.loss is not None,
            ):
                compilation.avoid(self, self._jit_argument)
            self._build_for(bound.arguments)
            bound.arguments["callbacks"] = guard.add_to(
                bound.arguments.get("callbacks"), entropy_sgd
            )
        return super().fit(*bound.args, **bound.kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the logs of one update from a group; see `keras.Model`."""
        bound = inspect.signature(super().train_on_batch).bind(*args, **kwargs)
        entropy_sgd = self._entropy_sgd() if self.compiled else None
        if entropy_sgd is not None and not self.optimizer.built:
            self._build_for(bound.arguments)
        logs = super().train_on_batch(*args, **kwargs)
        if entropy_sgd is not None:
            guard.raise_on_failure(entropy_sgd)
        return logs

    def _build_for(self, arguments: dict[str, Any]) -> None:
        """Creates all variables before the train step is traced.

        Otherwise TensorFlow traces it once more. Data that do not tell their
        shapes, and overridden methods, which need not work on symbolic tensors,
        pay that price.

        Args:
            arguments: Arguments of `fit` or `train_on_batch` by name.
        """
        overridden = any(
            getattr(type(self), name) is not getattr(keras.Model, name)
            for name in ("compute_loss", "compute_metrics")
        )
        symbolic = batching.symbolic_batch(arguments)
        if symbolic is not None and not overridden:
            self._symbolic_build(data_batch=symbolic)
        self._entrust_states()

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes one update from a group of mini-batches.

        Args:
            data: `x`, `(x, y)` or `(x, y, sample_weight)`, each a structure of
                tensors whose first axis holds the mini-batches one after
                another.

        Returns:
            The current value of each metric by name.
        """
        entropy_sgd = self._entropy_sgd()
        if entropy_sgd is None:
            return super().train_step(data)
        minibatch = batching.split(data, entropy_sgd.minibatches_per_update)
        if not self.built:
            passes.build(self, minibatch(0))
            self._entrust_states()
        if not self.trainable_variables:
            return super().train_step(data)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        measured = self._diagnostics
        measures = measured is not None and measured.measuring
        result = update.run(self, entropy_sgd, minibatch, measures)
        report = result.report
        self._apply(entropy_sgd, result.gradients, report.loss)
        if measured and result.diagnostics is not None:
            measured.update_state(result.diagnostics)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(result.batch)
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
