"""Forward and backward passes of a model at any weights.

The values of the variables are passed in and their updates passed out, so a
pass at perturbed weights leaves no trace in the model.
"""

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import keras_private
from entropy_keras import replicas
from entropy_keras import validation

Tensors = list[tf.Tensor]
LossScaleOptimizer: Any = keras.optimizers.LossScaleOptimizer


class Pass(NamedTuple):
    """What one pass yields.

    Attributes:
        gradients: Gradient of the loss by each trainable variable, `None` for
            those that the loss does not depend on.
        loss: The loss, a scalar.
        predictions: Outputs of the model.
        updates: The assignments that the pass asked for and did not make.
    """

    gradients: list[Any]
    loss: tf.Tensor
    predictions: Any
    updates: keras_private.Updates


class LiveReads:
    """Finds layers that read variables past the values that stand in for them.

    A `tf.function` is traced once, and its trace reads the variables that it
    saw. What it computes is that of the weights of the model, wherever the pass
    is. Used as a context manager, around the scope of the values.

    Args:
        variables: Trainable variables that other values stand in for.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        # A variable on several replicas has a part on each.
        self._parts = [
            (variable.path, part)
            for variable in variables
            for part in getattr(variable.value, "values", [variable.value])
            # Where a tensor stands in already, nothing is live.
            if isinstance(part, tf.Variable)
        ]
        self._tape = tf.GradientTape(watch_accessed_variables=False)

    def __enter__(self) -> "LiveReads":
        self._tape.__enter__()
        self._tape.watch([part for _, part in self._parts])
        return self

    def __exit__(self, *error: Any) -> None:
        self._tape.__exit__(*error)

    def refuse(self, result: Any) -> None:
        """Refuses a result that depends on the variables themselves.

        Args:
            result: Tensors that were computed with the values.

        Raises:
            ValueError: If it does; it names the first variable.
        """
        # Of what no variable takes part in, this adds nothing to a graph.
        live = [part for _, part in self._parts]
        gradients = self._tape.gradient(result, live)
        for (path, _), gradient in zip(self._parts, gradients, strict=True):
            validation.require(
                gradient is None,
                "model",
                "one whose layers read their weights as Keras does, so that "
                "other values can stand in for them: take off `@tf.function`, "
                "which keeps the variables of its first call, and put layers "
                "in place of a `TFSMLayer`",
                f"a model that reads {path} in a function",
            )


def run(
    model: keras.Model,
    position: Sequence[tf.Tensor],
    batch: Any,
    state: Sequence[tuple[keras.Variable, tf.Tensor]] = (),
) -> Pass:
    """Computes the compiled loss and its gradient, and assigns nothing.

    Args:
        model: A compiled model.
        position: Values that stand in for its trainable variables.
        batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        state: Values that stand in for other variables.

    Returns:
        The result.

    Raises:
        ValueError: If a layer assigns a trainable variable when it is called,
            if it reads one past `position`, or if it draws random numbers by
            a seed that is not the model's.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    mapping = list(zip(model.trainable_variables, position, strict=True))
    with (
        LiveReads(model.trainable_variables) as live_reads,
        tf.GradientTape(watch_accessed_variables=False) as tape,
        # Regularizers read the weights in scope, hence those of `position`.
        keras_private.Updates([*mapping, *state]) as updates,
    ):
        tape.watch(position)
        predictions = model(x, **training_argument(model.call))
        loss = model.compute_loss(
            x,
            y,
            predictions,
            sample_weight,
            **training_argument(model.compute_loss),
        )
        # Keras divides it, for the sum of gradients over replicas to be a mean.
        loss *= tf.cast(replicas.count(), loss.dtype)
        scaled_loss = model.optimizer.scale_loss(loss)
    live_reads.refuse(loss)
    trained = {id(variable) for variable, _ in mapping}
    known = {id(v) for v in model.variables} | {id(v) for v, _ in state}
    for variable, _ in updates.items():
        validation.require(
            id(variable) in known or "int" not in variable.dtype,
            "model",
            "one whose random numbers have a seed of their own, or every pass "
            "of an update draws the same: give the layer `self.seed = "
            "keras.random.SeedGenerator()`, and pass `seed=self.seed`",
            f"a model that draws by {variable.path}, which is not its own",
        )
        if id(variable) in trained:
            raise ValueError(
                "`model` must be one whose layers do not assign their "
                "trainable weights when called, which `SpectralNormalization` "
                "does: use a constraint instead. "
                f"Received: model with an assignment to {variable.path}"
            )
    gradients = [
        # The gradient of an embedding is a sparse `IndexedSlices`.
        None if g is None else tf.convert_to_tensor(g)
        for g in tape.gradient(scaled_loss, list(position))
    ]
    for gradient, value in zip(gradients, position, strict=True):
        if gradient is not None:
            # Lost where data do not tell theirs; the loop of the chain asks.
            gradient.set_shape(value.shape)
    if isinstance(model.optimizer, LossScaleOptimizer):
        factor = 1.0 / model.optimizer.scale_loss(tf.constant(1.0))

        def unscaled(g: tf.Tensor) -> tf.Tensor:
            wide = tf.float64 if g.dtype == tf.float64 else tf.float32
            return tf.cast(tf.cast(g, wide) * tf.cast(factor, wide), g.dtype)

        gradients = [None if g is None else unscaled(g) for g in gradients]
    return Pass(gradients, loss, predictions, updates)


class Report(NamedTuple):
    """What the first pass of an update leaves to show and to keep.

    Attributes:
        batch: Its mini-batch.
        loss: The loss, a scalar.
        predictions: Outputs of the model.
        masks: The mask of each output or `None`.
        values: Values for the variables that the pass asked to assign.
        counts: Whether this replica had data there; `None` if it had.
    """

    batch: Any
    loss: tf.Tensor
    predictions: Any
    masks: Any
    values: Tensors
    counts: Any


class Handed(NamedTuple):
    """What one leg of an update hands to the next, all of it tensors.

    Attributes:
        state: That of the loop of `propose`.
        carried: Random seeds and recurrent states.
        report: What the first pass of the update has left.
        counts: Whether this replica has had data yet; `None` if it had.
    """

    state: Any
    carried: Tensors
    report: Report
    counts: Any


class Leg(NamedTuple):
    """One of the legs of an update whose mini-batches come in several groups.

    Attributes:
        number: Its number, counted from 0: an integer or a scalar tensor.
        num_legs: How many there are, the optimizer's `groups_per_update`.
        num_minibatches: Mini-batches of the update.
        is_last: Whether it is the last, which writes.
        handed: What the leg before it has handed on, `None` in the first.
    """

    number: Any
    num_legs: int
    num_minibatches: int
    is_last: bool
    handed: Handed | None

    def require(self, condition: bool, what: str) -> None:
        """Refuses what an update of several groups cannot do.

        Args:
            condition: What must be true.
            what: Whose proposals would go wrong.

        Raises:
            ValueError: If it is not.
        """
        validation.require(
            condition,
            "groups_per_update",
            f"1 with {what}: an update of several groups takes its gradients "
            "in one call of `repeat`, one step for each mini-batch",
            self.num_legs,
        )


class Unfinished(Exception):  # noqa: N818 - the end of a leg, not an error
    """Leaves `propose` where a leg ends before the update does."""

    def __init__(self, handed: Handed) -> None:
        super().__init__()
        self.handed = handed


class GradientAt:
    """The gradient of the loss of a model at any weights, pass after pass.

    Random seeds and recurrent states go on from pass to pass. See
    `multi_gradient.GradientAt` for what it promises.

    Args:
        model: A compiled and built model.
        minibatch: Returns the mini-batch of an index.
        clip: Clips gradients.
        synchronized: Whether each gradient is averaged over the replicas.
        counts: Whether this replica has data, a scalar; `None` if it has. Of an
            update of several groups, in this leg.
        jit_compile: Whether what runs beside it may be compiled with XLA.
        leg: Where in an update of several groups, `None` in one of one group.

    Attributes:
        counts: Whether this replica has had data in the update.
        known: Gradients of a pass, to tell for which variables there is none.
        report: What the first pass of the update left, `None` before it.
    """

    def __init__(
        self,
        model: keras.Model,
        minibatch: Callable[[Any], Any],
        clip: Callable[[Sequence[Any]], list[Any]],
        *,
        synchronized: bool = False,
        counts: Any = None,
        jit_compile: bool = True,
        leg: Leg | None = None,
    ) -> None:
        self.variables = model.trainable_variables
        self.jit_compile = jit_compile
        self.counts = self._has_data = counts
        self.known: list[Any] = []
        self.report: Report | None = None
        self._first: Tensors = []
        self._updated: list[keras.Variable] = []
        self._leg = leg
        self._repeated = False
        self._start: Any = None  # of the leg that runs, in mini-batches
        self._model = model
        self._minibatch = minibatch
        self._clip = clip
        self._synchronized = synchronized
        self._carried = carried_states(model)
        self._states = [tf.convert_to_tensor(v) for v in self._carried]
        if leg is not None and leg.handed is not None:
            self._states = leg.handed.carried
            if counts is not None:
                self.counts = tf.logical_or(counts, leg.handed.counts)

    @property
    def first(self) -> Tensors:
        """The gradients of the first pass of the update."""
        if self._leg is not None:
            self._leg.require(False, "an optimizer that reads `first`")
        return self._first

    @property
    def updates(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """What the first pass of the update asked to assign."""
        values = () if self.report is None else self.report.values
        return list(zip(self._updated, values, strict=True))

    @property
    def carried(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """What goes on from pass to pass, with its current value."""
        return list(zip(self._carried, self._states, strict=True))

    def __call__(self, position: Tensors, index: Any) -> Tensors:
        """Returns the clipped gradient; see `multi_gradient.GradientAt`.

        Args:
            position: Weights to compute it at.
            index: Number of the mini-batch.

        Returns:
            One tensor for each variable.
        """
        if self._leg is not None:
            self._leg.require(
                self._start is not None,
                "an optimizer that asks for a gradient outside of `repeat`",
            )
            index -= self._start
        batch = self._minibatch(index)
        carried = replicas.own_seeds(self.carried)
        result = run(self._model, position, batch, carried)
        if self.report is None:
            self._take_note(result, batch)
        states = [result.updates.get_current_value(v) for v in self._carried]
        self._states = [
            # A loop keeps the static shapes of what it carries.
            tf.ensure_shape(value, v.shape)
            for v, value in zip(
                self._carried, replicas.common_seeds(states), strict=True
            )
        ]
        gradients = list(result.gradients)
        if self._synchronized:
            gradients = replicas.mean(gradients, self._has_data)
        gradients = [
            tf.zeros_like(p) if g is None else g
            for p, g in zip(position, self._clip(gradients), strict=True)
        ]
        self._first = self._first or gradients
        return gradients

    def _take_note(self, result: Pass, batch: Any) -> None:
        """Keeps what is to be reported, which may be that of an earlier leg."""
        updates = result.updates.items()
        self.known = result.gradients
        self._updated = [variable for variable, _ in updates]
        self.report = Report(
            batch,
            result.loss,
            result.predictions,
            tf.nest.map_structure(keras_private.mask_of, result.predictions),
            [x for _, x in updates],
            self._has_data,
        )
        if self._leg is not None and self._leg.handed is not None:
            self.report = self._leg.handed.report

    def repeat(
        self, step: Callable[[Any, Any], Any], state: Any, num_steps: int
    ) -> Any:
        """Calls a function over and over; see `multi_gradient.GradientAt`.

        Args:
            step: Takes the number of the call and the state, returns the next.
            state: A structure of tensors.
            num_steps: How many calls.

        Returns:
            The last state.

        Raises:
            Unfinished: Where a leg of the update ends before the update does.
        """
        leg = self._leg
        if leg is None:
            return self._repeat(step, state, 0, num_steps)
        leg.require(
            not self._repeated and num_steps == leg.num_minibatches,
            "an optimizer that does not",
        )
        self._repeated = True
        num_steps //= leg.num_legs
        self._start = leg.number * num_steps
        if leg.handed is not None:
            state = leg.handed.state
        carried = self._states
        found = self._repeat(step, state, self._start, num_steps)
        if self._has_data is not None and not self._synchronized:
            # A short group may have left this replica nothing to walk on.
            found, self._states = tf.nest.map_structure(
                self._chosen, (found, self._states), (state, carried)
            )
        state = found
        if not leg.is_last and self.report is not None:
            raise Unfinished(
                Handed(state, self._states, self.report, self.counts)
            )
        self._start = None
        return state

    def _chosen(self, found: Any, earlier: Any) -> Any:
        """Returns the earlier of two values where there was no data.

        Integers, such as random seeds, go on: replicas have them in common.
        """
        if not found.dtype.is_floating:
            return found
        return tf.where(self._has_data, found, earlier)

    def _repeat(
        self,
        step: Callable[[Any, Any], Any],
        state: Any,
        start: Any,
        num_steps: int,
    ) -> Any:
        """Returns the last state after `num_steps` calls from `start` on."""
        done = 0
        # What is reported, and collectives, cannot come out of a loop.
        while done < num_steps and (self.report is None or self._synchronized):
            state = step(start + done, state)
            done += 1
        if done == num_steps:
            return state
        end = start + num_steps

        def body(index: tf.Tensor, state: Any, states: Tensors) -> Any:
            self._states = states
            state = step(index, state)
            return index + 1, state, self._states

        _, state, self._states = tf.while_loop(
            lambda index, *_: index < end,
            body,
            (tf.convert_to_tensor(start + done), state, self._states),
        )
        return state


def build(model: keras.Model, batch: Any) -> None:
    """Creates the variables of layers that no call has created yet.

    It runs the model on symbols, as in training, since some layers may have
    no part in inference.

    Args:
        model: The model.
        batch: What it is to take: tensors, or symbols.
    """
    if all(layer.built for layer in keras_private.layers_within(model)):
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    symbols = tf.nest.map_structure(
        lambda t: (
            None if t is None else keras.KerasTensor(t.shape, _name(t.dtype))
        ),
        x,
    )
    model(symbols, **training_argument(model.call))


def _name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else dtype.name


def carried_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables whose state goes on from pass to pass.

    Args:
        model: The model.

    Returns:
        Those of random seeds, which are neither weights nor metrics, and those
        of recurrent layers with `stateful=True`, which Keras does not count
        among the variables of the model.
    """
    other = model.non_trainable_weights + model.metrics_variables
    known = {id(variable) for variable in other}
    seeds = [v for v in model.non_trainable_variables if id(v) not in known]
    return seeds + [
        state
        for layer in keras_private.layers_within(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for state in tf.nest.flatten(layer.states or ())
    ]


def training_argument(
    function: Callable[..., Any], training: bool = True
) -> dict[str, bool]:
    """Returns `training` as a keyword argument if a function takes it.

    Args:
        function: A model's `call` or `compute_loss`, which users override.
        training: Its value.

    Returns:
        Keyword arguments for `function`.
    """
    takes_training = "training" in inspect.signature(function).parameters
    return {"training": training} if takes_training else {}
