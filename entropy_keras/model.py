"""EntropyModel: a `keras.Model` that gives several gradients per update."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from entropy_keras import batching
from entropy_keras import compilation
from entropy_keras import guard
from entropy_keras import keras_private
from entropy_keras import legs
from entropy_keras import multi_gradient
from entropy_keras import passes
from entropy_keras import replicas
from entropy_keras import twins
from entropy_keras import update
from entropy_keras import validation


@keras.saving.register_keras_serializable(package="entropy_keras")
class EntropyModel(keras.Model):
    """A `keras.Model` that `EntropySGD` and its like can train.

    Made from inputs and outputs, from another model (`from_model`), or by
    subclassing, exactly as `keras.Model`. Compiled with a
    `MultiGradientOptimizer`, `fit` draws the mini-batches of an update together
    and `train_step` gives the optimizer the gradients that it asks for;
    compiled with any other optimizer, it is a `keras.Model`.

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

    train_function: Any  # Keras's, for each update of `fit`
    _jit_argument: Any = "auto"

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
        if type(model) is keras.Sequential:
            validation.require(
                model.built,
                "model",
                "built: begin it with `keras.Input(shape)`, or call "
                "`model.build(input_shape)`",
                model,
            )
            (inputs,) = model.inputs
            outputs = model.outputs
            outputs = outputs[0] if len(outputs) == 1 else outputs
            new = cls(inputs, outputs, name=model.name)
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
            ValueError: If the optimizer cannot work under the strategy that
                the model was made under, or was made outside of it.
        """
        super().compile(*args, **kwargs)
        bound = inspect.signature(super().compile).bind(*args, **kwargs)
        self._jit_argument = bound.arguments.get("jit_compile", "auto")
        optimizer = self._multi_gradient()
        replicas.check_strategy(self, several_gradients=optimizer is not None)
        if optimizer is not None:
            replicas.check_scope(self)
            replicas.check(self, self._jit_argument, optimizer.chains)
            legs.check(self, optimizer)
            if self._jit_argument == "auto":
                compilation.choose(self)
        self._entrust_states()

    def __reduce__(self) -> Any:
        # The class of a twin cannot be found by its name.
        _, (content,) = super().__reduce__()
        return _unpickled, (content,)

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
        optimizer = self._multi_gradient()
        if self.built and optimizer is not None:
            optimizer.carried_states = passes.carried_states(self)

    # Not a property: Keras saves what the attributes of a model hold.
    def _multi_gradient(self) -> multi_gradient.MultiGradientOptimizer | None:
        """Returns the optimizer of several gradients, if there is one."""
        optimizer = self.optimizer
        if isinstance(optimizer, passes.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if isinstance(optimizer, multi_gradient.MultiGradientOptimizer):
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
        optimizer = self._multi_gradient() if self.compiled else None
        strategy = self.distribute_strategy
        if self.compiled and replicas.across_workers(strategy):
            replicas.check_agreement(strategy, self._facts(bound.arguments))
        if optimizer is not None:
            replicas.check_scope(self)
            replicas.check_data(self, x)
            is_one_pass = legs.whole_updates(bound.arguments, optimizer)
            if batching.group_fit_arguments(
                bound.arguments,
                optimizer.minibatches_per_group,
                needs_labels=self.loss is not None,
            ):
                replicas.check_packed(self, x)
                compilation.avoid(self, self._jit_argument)
            if is_one_pass:
                groups = bound.arguments["x"]
                bound.arguments["x"] = legs.pass_after_pass(groups)
            self._build_for(bound.arguments)
            bound.arguments["callbacks"] = guard.add_to(
                bound.arguments.get("callbacks"), optimizer
            )
        return super().fit(*bound.args, **bound.kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the logs of one update from a group; see `keras.Model`."""
        bound = inspect.signature(super().train_on_batch).bind(*args, **kwargs)
        optimizer = self._multi_gradient() if self.compiled else None
        if optimizer is not None:
            replicas.check_group(self, bound.arguments["x"])
            validation.require(
                optimizer.groups_per_update == 1,
                "groups_per_update",
                "1 for `train_on_batch`, which takes one group",
                optimizer.groups_per_update,
            )
            if not self.optimizer.built:
                self._build_for(bound.arguments)
        logs = super().train_on_batch(*args, **kwargs)
        if optimizer is not None:
            guard.raise_on_failure(optimizer)
        return logs

    def _facts(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Returns what all workers must agree on before they train."""
        facts = {
            name: arguments.get(name)
            for name in (
                "batch_size",
                "epochs",
                "initial_epoch",
                "steps_per_epoch",
                "shuffle",
            )
        }
        optimizer = self.optimizer
        if optimizer is not None:
            facts["optimizer"] = keras.saving.serialize_keras_object(optimizer)
        if not isinstance(arguments["x"], tf.data.Dataset):
            # Keras shuffles arrays on each worker, by this seed.
            facts["seed"] = keras_private.global_seed()
        facts["weights"] = [tuple(v.shape) for v in self.weights]
        return facts

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Creates all variables; see `keras_private.batch_of_replicas`."""
        strategy = self.distribute_strategy
        if iterator is None or strategy.num_replicas_in_sync == 1:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        with strategy.scope():
            keras_private.build_on_symbols(
                self, keras_private.batch_of_replicas(iterator)
            )

    def _shown(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns logs with the axis along which Keras reduces workers'."""
        if not replicas.across_workers(self.distribute_strategy):
            return logs
        return tf.nest.map_structure(lambda x: tf.reshape(x, [1]), logs)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates a batch; see `keras.Model`.

        Args:
            data: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The current value of each metric by name.
        """
        return self._shown(super().test_step(data))

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
        with self.distribute_strategy.scope():
            if symbolic is not None and not overridden:
                passes.build(self, symbolic)
                keras_private.build_on_symbols(self, symbolic)
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
        optimizer = self._multi_gradient()
        if optimizer is None:
            return self._shown(super().train_step(data))
        return self._shown(self._leg(data, optimizer))

    def make_train_function(self, force: bool = False) -> Any:
        """Makes what `fit` calls for each update; see `keras.Model`.

        Args:
            force: Whether to make it again.
        """
        optimizer = self._multi_gradient()
        if optimizer is None or optimizer.groups_per_update == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = legs.train_function(
                self,
                optimizer,
                lambda group, leg: self._leg(group, optimizer, leg),
            )

    def _leg(
        self,
        group: Any,
        optimizer: multi_gradient.MultiGradientOptimizer,
        leg: passes.Leg | None = None,
    ) -> Any:
        """Makes an update from a group of mini-batches, or one leg of it.

        Args:
            group: The mini-batches.
            optimizer: That of the model, without loss scaling around it.
            leg: Where in an update of several groups.

        Returns:
            The logs, or what the leg hands to the next.
        """
        minibatch = batching.split(
            group,
            optimizer.minibatches_per_group
            if leg
            else optimizer.minibatches_per_update,
        )
        passes.build(self, minibatch(0))
        self._entrust_states()
        if not self.trainable_variables:
            return super().train_step(group)
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        gradient_at = passes.GradientAt(
            self,
            minibatch,
            optimizer.clip,
            synchronized=optimizer.chains == "synchronized",
            counts=batching.num_samples(group) > 0
            if replicas.count() > 1
            else None,
            jit_compile=self._jit_argument is not False,
            leg=leg,
        )
        change = update.compute(self, optimizer, gradient_at)
        if isinstance(change, passes.Handed):
            return change
        replicas.write(change.ok, change.changes, change.always)
        return change.logs


def _unpickled(content: Any) -> EntropyModel:
    """Returns the model that pickle has taken apart."""
    model = keras_private.unpickled(content)
    if isinstance(model, EntropyModel):
        return model
    # Files name the class that `from_model` was given.
    config = model.get_compile_config()
    model = EntropyModel.from_model(model)
    if config:
        model.compile_from_config(config)
    return model
