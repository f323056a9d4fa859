"""The mean loss of a model over data, as a pure function of its weights."""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

from entropy_keras import passes
from entropy_keras import replicas
from entropy_keras.landscape import samples
from entropy_keras.landscape import selfcheck
from entropy_keras.landscape import substitutes
from entropy_keras.validation import is_integer
from entropy_keras.validation import require

T = TypeVar("T")
# So few samples add up in half precision as well.
_FEW = 16


class Objective:
    """The loss that the functions of this package look at.

    It is the mean over all samples of the compiled (or given) loss, plus the
    regularization losses of the model, as a function of one vector that holds
    the trainable weights one variable after another. The model itself is never
    changed: neither its weights nor its statistics, metrics or seeds.

    Args:
        model: A built Keras model, trained by whatever optimizer.
        data: `(x, y)` or `(x, y, sample_weight)`, arrays or structures of
            them, or a finite, batched `tf.data.Dataset` of such tuples. All of
            it is held in memory.
        loss: Loss by name, as a function or as a `keras.losses.Loss`; `None`
            for the loss that the model is compiled with. A `keras.losses.Loss`
            computes in its own dtype, float32 unless it says otherwise; the
            others in that of the weights.
        batch_size: Samples per batch when `data` are arrays. Time and memory
            depend on it, the result does not, where the loss is a mean over
            samples. It is not where masked steps, or labels of an
            `ignore_class`, are left out of the mean: batches count by their
            samples, and hold different numbers of those that stay. Nor is it
            where a layer adds a sum over samples by `add_loss`, or batch
            normalization runs as in training. One batch then holds the exact
            loss of all data.
        training: Whether layers run as in training. Batch normalization then
            uses the statistics of each batch, and dropout drops the same units
            at every evaluation.

    Attributes:
        name: That of the model.
        variables: The trainable variables.
        num_parameters: Number of trainable weights, n.
        num_samples: Number of samples.
        dtype: Name of the dtype of that vector: float64 where the weights are,
            else float32.
        precision: The relative precision of the coarsest floating type that a
            layer with weights, or the loss of float64 ones, computes in.
        precision_of_products: That of products of the Hessian.
        loss: The loss as it was given, or compiled.
        training: Whether layers run as in training.
        vectorizes: Whether backward passes may be vectorized.
        products: What is compiled of it, such as products with its
            derivatives, by what made it: once each.

    Raises:
        ValueError: If the model is not built or has no trainable weight, if
            there is no loss or one that is not a mean over samples, if `data`
            is empty, endless or not such a structure, or if sums over as many
            samples are wrong in the half precision of a layer.

    Example:
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.ones([3, 2], "float32"), np.zeros([3, 1], "float32")
    >>> objective = Objective(model, data, loss="mse", batch_size=2)
    >>> objective.num_parameters, objective.num_samples
    (3, 3)
    >>> round(float(objective.value(tf.constant([1.0, 1.0, 0.5]))), 4)
    6.25
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        loss: Any = None,
        *,
        batch_size: int = 1000,
        training: bool = False,
    ) -> None:
        _check(model, loss, batch_size)
        self.variables: list[keras.Variable] = model.trainable_variables
        self.batches = samples.batches_of(data, batch_size)
        samples.require_finite(self.batches)
        sizes = [samples.length(batch) for batch in self.batches]
        self.num_samples = sum(sizes)
        _require_finite_weights(model)
        single = "float64" not in {v.dtype for v in self.variables}
        self.dtype = "float32" if single else "float64"
        self.precision = selfcheck.precision(model)
        self.precision_of_products = selfcheck.precision_of_products(model)
        self._shares = [
            tf.constant(size / self.num_samples, self.dtype) for size in sizes
        ]
        # The derivatives by the predictions are those of single samples then:
        # those of a mean over many are too small for float16.
        self.loss_scale = (
            2.0 ** int(np.log2(max(sizes)))
            if self.precision == selfcheck.EPS["float16"]
            else 1.0
        )
        self.name: str = model.name
        self._model = model
        self.training = training
        self.loss = model.loss if loss is None else loss
        self._loss = None if loss is None else _as_loss(loss, self.dtype)
        self.vectorizes = selfcheck.vectorizes(model)
        self._shapes = [tuple(v.shape) for v in self.variables]
        self.sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.num_parameters = sum(self.sizes)
        self.products: dict[Any, Any] = {}
        self.value = self.mean(self.batch_loss)
        self.gradient = self.mean(
            lambda *at: self.batch_loss_and_gradient(*at)[1]
        )
        if not single:
            # A compiled loss computes in float32 unless Keras is told else.
            first = keras.tree.map_structure(
                lambda leaf: None if leaf is None else leaf[:1], self.batches[0]
            )
            _, loss_of_one = self._evaluated(self.split(self.position()), first)
            of_loss = selfcheck.EPS[loss_of_one.dtype.name]
            self.precision = max(self.precision, of_loss)
            self.precision_of_products = max(
                self.precision_of_products, of_loss
            )
        if self.precision > selfcheck.EPS["float32"] and not training:
            self._require_sums()

    def position(self) -> tf.Tensor:
        """Returns the current weights of the model, of shape `[n]`."""
        return self.join([variable.value for variable in self.variables])

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns one vector out of tensors shaped like the variables.

        Args:
            tensors: As many as there are variables, or the last of them.

        Returns:
            Their entries, one tensor after another.
        """
        return tf.concat(
            [tf.cast(tf.reshape(t, [-1]), self.dtype) for t in tensors], 0
        )

    def split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns tensors shaped like the variables; inverse of `join`.

        Args:
            vector: Of shape `[n]`.

        Returns:
            As many tensors as there are variables, of their dtypes.
        """
        return [
            tf.cast(tf.reshape(part, variable.shape), variable.dtype)
            for part, variable in zip(
                tf.split(vector, self.sizes), self.variables, strict=True
            )
        ]

    def batch_loss(self, position: tf.Tensor, batch: Any) -> tf.Tensor:
        """Returns the loss of one batch.

        Args:
            position: Weights, of shape `[n]`.
            batch: One of `batches`.

        Returns:
            A scalar.
        """
        _, loss = self.forward(self.split(position), batch)
        return loss

    def forward(
        self,
        weights: Sequence[tf.Tensor],
        batch: Any,
        through: Callable[[Any], Any] = lambda predictions: predictions,
    ) -> tuple[Any, tf.Tensor]:
        """Evaluates the model and its loss, and assigns nothing.

        Args:
            weights: Values that stand in for the variables.
            batch: One of `batches`.
            through: What the loss sees of the predictions.

        Returns:
            The predictions, passed through `through`, and the scalar loss.
        """
        predictions, loss = self._evaluated(weights, batch, through)
        return predictions, tf.cast(loss, self.dtype)

    def _evaluated(
        self,
        weights: Sequence[tf.Tensor],
        batch: Any,
        through: Callable[[Any], Any] = lambda predictions: predictions,
    ) -> tuple[Any, tf.Tensor]:
        """Returns what `forward` does, the loss in the dtype it comes in."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        model, training = self._model, self.training
        mapping = list(zip(self.variables, weights, strict=True))
        with (
            passes.LiveReads(self.variables) as live_reads,
            keras.StatelessScope(mapping, collect_losses=True),
            substitutes.in_place(),
        ):
            predictions = through(
                model(x, **passes.training_argument(model.call, training))
            )
            if self._loss is None:
                loss = model.compute_loss(
                    x,
                    y,
                    predictions,
                    sample_weight,
                    **passes.training_argument(model.compute_loss, training),
                )
            else:
                require(
                    tf.is_tensor(predictions),
                    "loss",
                    "left out for a model of several outputs: compile it with "
                    "theirs",
                    self.loss,
                )
                loss = self._loss(y, predictions, sample_weight=sample_weight)
            # Under a strategy Keras divides it by the number of replicas.
            loss *= tf.cast(replicas.count(), loss.dtype)
            if self._loss is not None:
                for term in model.losses:
                    loss += tf.cast(term, loss.dtype)
        live_reads.refuse(loss)
        return predictions, loss

    def penalty(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the regularization loss of the weights and its gradient.

        Args:
            position: The weights, of shape `[n]`.
        """
        with tf.GradientTape() as tape:
            tape.watch(position)
            weights = self.split(position)
            mapping = list(zip(self.variables, weights, strict=True))
            with keras.StatelessScope(mapping, collect_losses=True):
                terms = [
                    tf.cast(term, self.dtype) for term in self._model.losses
                ]
            penalty = tf.add_n([tf.zeros([], self.dtype), *terms])
        zero = tf.UnconnectedGradients.ZERO
        return penalty, tape.gradient(penalty, position, None, zero)

    def outputs(self, weights: Sequence[tf.Tensor], x: Any) -> Any:
        """Predicts, as in inference, and assigns nothing.

        Args:
            weights: Values that stand in for the variables.
            x: Inputs.

        Returns:
            What the model returns.
        """
        mapping = list(zip(self.variables, weights, strict=True))
        with (
            passes.LiveReads(self.variables) as live_reads,
            keras.StatelessScope(mapping),
        ):
            predictions = self._model(
                x, **passes.training_argument(self._model.call, False)
            )
        live_reads.refuse(keras.tree.flatten(predictions))
        return predictions

    def batch_loss_and_gradient(
        self, position: tf.Tensor, batch: Any, loss_scale: float | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the loss of one batch and its gradient, of shape `[n]`.

        Args:
            position: The weights, of shape `[n]`.
            batch: One of `batches`.
            loss_scale: What the loss is multiplied by on the way; `None` for
                what suits `batches`.
        """
        scale = self.loss_scale if loss_scale is None else loss_scale
        with tf.GradientTape() as tape:
            tape.watch(position)
            loss = self.batch_loss(position, batch)
            scaled = loss * scale
        zero = tf.UnconnectedGradients.ZERO
        gradient = tape.gradient(scaled, position, None, zero)
        return loss, gradient / scale

    def _require_sums(self) -> None:
        """Refuses half precision whose sums over samples stop to grow.

        The gradient of some samples is also that of as many copies of them as
        fill a batch. Where copies are not treated alike, nothing is known.

        Raises:
            ValueError: If the two differ by more than rounding.
        """
        batch = max(self.batches, key=samples.length)
        copies = 2 ** int(np.log2(max(1.0, samples.length(batch) / _FEW)))
        few = samples.length(batch) // copies
        leaves = [x for x in keras.tree.flatten(batch) if x is not None]
        inputs = keras.tree.flatten(getattr(self._model, "inputs", None) or [])
        fixed = any(x.shape[0] is not None for x in inputs)
        if copies == 1 or fixed or not all(map(tf.is_tensor, leaves)):
            return
        position = self.position()
        few_alone, many = (
            keras.tree.map_structure(
                lambda x, k=k: (
                    None if x is None else tf.concat([x[:few]] * k, 0)
                ),
                batch,
            )
            for k in (1, copies)
        )
        x, *_ = keras.utils.unpack_x_y_sample_weight(many)
        outputs = self.outputs(self.split(position), x)
        for output in keras.tree.flatten(outputs):
            first, second = output[:few], output[few : 2 * few]
            if not selfcheck.are_near(first, second, self.precision):
                return
        # Samples have the same derivatives in both, then.
        alone, together = (
            self.batch_loss_and_gradient(position, part, scale)[1].numpy()
            for part, scale in (
                (few_alone, self.loss_scale / copies),
                (many, self.loss_scale),
            )
        )
        selfcheck.require_sum(together, alone, self.precision, few * copies)

    def mean(
        self, function: Callable[..., tf.Tensor]
    ) -> Callable[..., tf.Tensor]:
        """Averages a function of a batch over the data, compiled.

        It is never compiled with XLA: second derivatives of max pooling are
        wrong there (it compares only half of each number's bits), and on a CPU
        convolutions are several times slower.

        Args:
            function: Takes tensors and a batch, returns a tensor.

        Returns:
            A function of those tensors: the mean over the batches, each
            weighted by its number of samples. As `batches` it takes what
            stands for each batch in place of the batch itself.
        """
        of_batch = compiled(function)

        def averaged(*tensors: Any, batches: Any = self.batches) -> tf.Tensor:
            total = 0.0
            for share, batch in zip(self._shares, batches, strict=True):
                total += share * of_batch(*tensors, batch)
            return total

        return averaged


def compiled(function: Callable[..., T]) -> Callable[..., T]:
    """Returns a function compiled, never with XLA: see `Objective.mean`.

    Args:
        function: A function of tensors.

    Returns:
        The compiled one, which does not warn of every new objective.
    """
    graph = tf.function(function, jit_compile=False, autograph=False)

    def call(*tensors: Any) -> T:
        # Called directly, it would warn of every new one.
        return graph.get_concrete_function(*tensors)(*tensors)

    return call


def made_once(make: Callable[[Objective], T]) -> Callable[[Objective], T]:
    """Returns what makes something of an objective once, and keeps it there.

    Args:
        make: Makes it, such as a compiled function.

    Returns:
        A function of an objective.
    """

    @functools.wraps(make)
    def made(objective: Objective) -> T:
        if make not in objective.products:
            objective.products[make] = make(objective)
        return objective.products[make]

    return made


def objective_of(
    model: Any, data: Any = None, loss: Any = None, **options: Any
) -> Objective:
    """Returns what is measured as an `Objective`.

    Args:
        model: A model, with `data`, or an `Objective`, which is returned once
            its weights are known to be finite.
        data: The samples of a model, else left out.
        loss: The loss of a model, else left out.
        **options: See `Objective`, for a model alone.

    Returns:
        The objective.

    Raises:
        ValueError: If more than an `Objective` is given; see also there.
    """
    if not isinstance(model, Objective):
        return Objective(model, data, loss, **options)
    require_left_out(model, data=data, loss=loss, **options)
    _require_finite_weights(model._model)
    return model


def require_left_out(model: Any, **given: Any) -> None:
    """Refuses what belongs to a model where something else is given.

    Args:
        model: What is given in place of a model.
        **given: Arguments by name, `None` where they are left out.

    Raises:
        ValueError: If one is not left out.
    """
    for name, value in given.items():
        require(
            value is None,
            name,
            f"left out with a {type(model).__name__}, which has its own",
            type(value),
        )


def _check(model: keras.Model, loss: Any, batch_size: int) -> None:
    """Checks the arguments of `Objective`.

    Args:
        model: Its model.
        loss: Its loss.
        batch_size: Its batch size.

    Raises:
        ValueError: If one of them cannot be.
    """
    require(
        isinstance(model, keras.Model) and model.built,
        "model",
        "a built Keras model; call it on a batch first",
        model,
    )
    require(
        bool(model.trainable_variables),
        "model",
        "a model with trainable weights",
        f"{model.name}, whose weights are all frozen",
    )
    require(
        loss is not None or model.compiled,
        "loss",
        "given, or the model compiled with one",
        loss,
    )
    require(
        not isinstance(loss, (dict, list, tuple)),
        "loss",
        "one loss: compile the model with the losses of several outputs, and "
        "leave `loss` out",
        loss,
    )
    for given in keras.tree.flatten(model.loss if loss is None else loss):
        require(
            getattr(given, "reduction", "mean")
            in {"mean", "sum_over_batch_size"},
            "loss",
            "a mean over samples: its reduction the default one",
            given,
        )
    require(
        is_integer(batch_size, 1),
        "batch_size",
        "a positive integer",
        batch_size,
    )


def _require_finite_weights(model: keras.Model) -> None:
    """Refuses weights, or statistics, that are not finite.

    Args:
        model: The model.

    Raises:
        ValueError: If there is one; it says in which variable.
    """
    for variable in model.variables:
        values = tf.convert_to_tensor(variable.value)
        require(
            not values.dtype.is_floating
            or bool(tf.reduce_all(tf.math.is_finite(values))),
            "model",
            "one with finite weights: load those from before they diverged",
            f"numbers in {variable.path} that are NaN or infinite",
        )


class _Mean(keras.losses.Loss):
    """The mean over samples of a function of labels and predictions."""

    def __init__(self, function: Callable[..., Any], dtype: str) -> None:
        super().__init__(name="mean", dtype=dtype)
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        values = tf.convert_to_tensor(self._function(y_true, y_pred))
        require(
            values.shape.rank != 0,
            "loss",
            "a function that returns a value for each sample, of which the "
            "mean is taken",
            "one that returns a scalar",
        )
        return values


def _as_loss(loss: Any, dtype: str) -> keras.losses.Loss:
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else _Mean(loss, dtype)
