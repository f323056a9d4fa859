"""One network trained with one method, over and over, and judged alike.

Every run has the same number of gradient evaluations, whatever an update of its
method takes.
"""

import math
import time
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import entropy_keras
from entropy_keras.landscape import calibration
from trainers import methods

Labelled = tuple[np.ndarray, np.ndarray]
# What the error is, by which methods are chosen.
ERROR, BITS = "error, %", "bits per character"
# The error of what has diverged, which is worse than any.
WORST = 100.0
_POINTS = 20  # of a curve
# Updates that are made without a return to Python, which takes longer than a
# small update does: the seconds are those of the method, not of the loop.
_TOGETHER = 32
_CHUNK = 1000  # samples that are evaluated together


class Runner:
    """Trains one network with one method, over and over.

    Args:
        build_model: Takes a kernel regularizer, returns a model whose outputs
            are logits.
        method: The method.
        choices: A value for each of its choices. `recalibrate` says whether the
            statistics of batch normalization are refreshed before they are
            used, which they are unless told.
        data: `(x, y)` to train on.
        batch_size: Size of a mini-batch.
        passes: Passes through the data of each run: what all methods have in
            common is `passes * (len(x) // batch_size)` gradients.
        measure: What the error is, `ERROR` or `BITS`.
        jit_compile: As for `compile`.
    """

    def __init__(
        self,
        build_model: Callable[[Any], keras.Model],
        method: methods.Method,
        choices: Mapping[str, Any],
        data: Labelled,
        *,
        batch_size: int,
        passes: int,
        measure: str = ERROR,
        jit_compile: Any = True,
    ) -> None:
        self._knobs = methods.Knobs()
        penalty = self._knobs["weight_decay"]
        if method.decay == "decoupled":
            penalty = tf.constant(0.0)

        def regularizer(weights: tf.Tensor) -> tf.Tensor:
            return 0.5 * penalty * tf.reduce_sum(tf.square(weights))

        self._build = lambda: entropy_keras.EntropyModel.from_model(
            build_model(regularizer)
        )
        self._data = tuple(tf.constant(array) for array in data)
        self._batch_size, self._passes = batch_size, passes
        self._measure, self._diverged = measure, False
        choices = dict(choices)
        recalibrate = choices.pop("recalibrate", True)
        unused = method.build(methods.Knobs(), 1, choices)
        self._per_update = getattr(unused, "gradients_per_update", 1)
        self._minibatches = getattr(unused, "minibatches_per_update", 1)
        gradients = passes * (len(data[0]) // batch_size)
        updates = -(-gradients // self._per_update)
        self.optimizer = method.build(self._knobs, updates, choices)
        self._together = min(_TOGETHER, -(-updates // _POINTS))
        if hasattr(self.optimizer, "propose"):
            _follow(self.optimizer, self._knobs["noise_seed"])
        self.model = self._build()
        self.model.compile(
            self.optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
            steps_per_execution=self._together,
        )
        self.optimizer.build(self.model.trainable_variables)
        self._state = [
            (v, v.numpy())
            for v in self.optimizer.variables
            if "learning_rate" not in v.path
        ]
        self._refresh = None
        if recalibrate:
            self._refresh = entropy_keras.callbacks.RecalibrateBatchNorm(
                data[0], _CHUNK
            )
            self._refresh.set_model(self.model)
        self._logits = tf.function(
            lambda x: self.model(x, training=False),
            input_signature=[
                tf.TensorSpec([None, *data[0].shape[1:]], self._data[0].dtype)
            ],
            jit_compile=False,
        )

    def run(
        self,
        values: methods.Values,
        seed: int,
        watched: Labelled | None = None,
        *,
        keep_best: bool = False,
    ) -> dict[str, Any]:
        """Trains once.

        Args:
            values: A value for each knob.
            seed: Of the weights, the order of the samples and the noise.
            watched: `(x, y)` to follow error and loss on.
            keep_best: Whether to end with the weights that had the least error
                on them, rather than with the last.

        Returns:
            Seconds, updates and gradient evaluations, and with `watched` also
            `curve`: lists of these, error and loss along the training. The
            seconds are without what watching takes.
        """
        self._knobs.turn({**values, "noise_seed": seed})
        keras.utils.set_random_seed(seed)
        for variable, value in self._state:
            variable.assign(value)
        # After the state of the optimizer, which counts the seeds of dropout
        # to it; a fresh network has those of this run.
        fresh = self._build().variables
        for variable, new in zip(self.model.variables, fresh, strict=True):
            variable.assign(new)
        dataset, batches = self._batches(seed)
        updates = -(-batches // self._minibatches)
        gradients = batches * self._per_update // self._minibatches
        settings: dict[str, Any] = {}
        watch = None
        if watched is not None:
            watch = Watch(self, watched, gradients / updates)
            executions = -(-updates // (_POINTS * self._together))
            steps = executions * self._together
            settings = {
                "callbacks": [watch],
                "steps_per_epoch": steps,
                "epochs": -(-updates // steps),
            }
        self._diverged = False
        start = time.monotonic()
        with warnings.catch_warnings():
            # The last part of a curve is shorter.
            warnings.filterwarnings("ignore", ".*ran out of data")
            try:
                self.model.fit(dataset, shuffle=False, verbose=0, **settings)
            except FloatingPointError:
                self._diverged = True  # a result like others
        found: dict[str, Any] = {
            "seconds": time.monotonic() - start,
            "updates": int(self.optimizer.iterations.numpy()),
            "gradient_evaluations": gradients,
        }
        self.recalibrate()
        if watch is not None:
            found["seconds"] -= watch.spent
            found["curve"] = watch.curve
            if keep_best:
                self.model.set_weights(watch.best)
                self._diverged = False
        return found

    def _batches(self, seed: int) -> tuple[tf.data.Dataset, int]:
        """Returns the mini-batches of a run, and their number."""
        x, y = self._data
        # SAM takes two gradients of one mini-batch: half as many of them.
        passes = self._passes * self._minibatches / self._per_update
        each = len(x) // self._batch_size
        batches = round(passes * each)
        order = np.random.default_rng(seed)
        rows = np.concatenate([
            order.permutation(len(x))[: each * self._batch_size]
            for _ in range(math.ceil(passes))
        ])
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.from_tensor_slices(
            rows.reshape(-1, self._batch_size)[:batches]
        )
        return (
            dataset.map(
                lambda i: (tf.gather(x, i), tf.gather(y, i))
            ).with_options(options),
            batches,
        )

    def recalibrate(self) -> None:
        """Refreshes the statistics of batch normalization."""
        if self._refresh is not None:
            self._refresh.recalibrate()

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Returns what the trained network says.

        Args:
            x: Samples.

        Returns:
            Logits of shape `[n, classes]`; samples that are sequences have as
            many rows as symbols.
        """
        found = np.concatenate([
            self._logits(tf.constant(x[start : start + _CHUNK])).numpy()
            for start in range(0, len(x), _CHUNK)
        ])
        return found.reshape(-1, found.shape[-1]).astype("float64")

    def judge(
        self, data: Labelled, temperature: float = 1.0
    ) -> dict[str, float | None]:
        """Evaluates the trained network.

        Args:
            data: `(x, y)`.
            temperature: What divides the logits for the calibrated loss.

        Returns:
            Error, loss, loss after division of the logits, and the expected
            calibration error; for what has diverged `WORST` and `None`.
        """
        logits, labels = self.logits(data[0]), data[1].ravel()
        if self._diverged or not np.isfinite(logits).all():
            lost = ("loss", "calibrated_loss", "calibration_error")
            return {"error": WORST, **dict.fromkeys(lost)}
        loss = calibration.log_loss(logits, labels)
        error = 100 * float((logits.argmax(1) != labels).mean())
        return {
            "error": loss / math.log(2) if self._measure == BITS else error,
            "loss": loss,
            "calibrated_loss": calibration.log_loss(
                logits, labels, temperature
            ),
            "calibration_error": calibration.expected_calibration_error(
                logits, labels
            ),
        }

    def fitted_temperature(self, data: Labelled) -> float:
        """Returns the division of the logits that lowers the loss most.

        Args:
            data: `(x, y)` that no weights were trained on.

        Returns:
            A positive number, 1 if there is none: where all predictions are
            right or worse than chance.
        """
        try:
            return calibration.fit_temperature(
                self.logits(data[0]), data[1].ravel()
            )
        except ValueError:
            return 1.0


def _follow(optimizer: Any, seed: tf.Variable) -> None:
    """Lets the noise follow a seed that varies without a new graph.

    Args:
        optimizer: One of several gradients per update.
        seed: What is added to the number of the replica, which the noise is a
            function of.
    """
    propose = optimizer.propose

    def moved(
        gradient_at: Any, anchor: Any, slots: Any, clock: Any
    ) -> entropy_keras.Proposal:
        replica = tf.cast(clock.replica, tf.int64) + tf.cast(seed, tf.int64)
        return propose(
            gradient_at, anchor, slots, clock._replace(replica=replica)
        )

    optimizer.propose = moved


class Watch(keras.callbacks.Callback):
    """Judges the network at the start and at the end of each epoch.

    Args:
        runner: Whose network it is.
        data: `(x, y)` to judge it on.
        gradients_per_update: Gradient evaluations of an update.

    Attributes:
        curve: What was found, as lists by name.
        best: The weights of least error.
        spent: Seconds that it has taken.
    """

    def __init__(
        self, runner: Runner, data: Labelled, gradients_per_update: float
    ) -> None:
        super().__init__()
        self._runner, self._watched = runner, data
        self._per_update = gradients_per_update
        self.curve: dict[str, list[Any]] = {
            "updates": [], "gradient_evaluations": [], "seconds": [],
            "error": [], "loss": [],
        }  # fmt: skip
        self.best: list[np.ndarray] = []
        self.spent = 0.0
        self._average: Any = None
        if getattr(runner.optimizer, "use_ema", False):
            self._average = keras.callbacks.SwapEMAWeights()
            self._average.set_model(runner.model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Judges the network that training starts from.

        Args:
            logs: Not used.
        """
        del logs
        self._start = time.monotonic()
        self._look(averaged=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Judges the network.

        Args:
            epoch: Not used.
            logs: Not used.
        """
        del epoch, logs
        self._look(averaged=self._average is not None)

    def _look(self, *, averaged: bool) -> None:
        runner, begun = self._runner, time.monotonic()
        updates = int(runner.optimizer.iterations.numpy())
        if averaged:
            self._average.on_test_begin()
        runner.recalibrate()
        found = runner.judge(self._watched)
        if not self.best or found["error"] < min(self.curve["error"]):
            self.best = runner.model.get_weights()
        if averaged:
            self._average.on_test_end()
        for name, value in (
            ("updates", updates),
            ("gradient_evaluations", round(updates * self._per_update)),
            ("seconds", round(begun - self._start - self.spent, 4)),
            ("error", found["error"]),
            ("loss", found["loss"]),
        ):
            self.curve[name].append(value)
        self.spent += time.monotonic() - begun
