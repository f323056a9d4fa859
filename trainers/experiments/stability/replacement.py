"""What one training example changes: uniform stability, measured.

Two training sets differ in one example; everything random is the same: the
initial weights, the order of the mini-batches, the noise.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import entropy_keras
from trainers import data
from trainers import networks
from trainers import optimizers


class Arm(NamedTuple):
    """An optimizer with the learning rates to choose from, ascending."""

    build: Callable[[Any, int], keras.optimizers.Optimizer]
    learning_rates: tuple[float, ...]


class Setting(NamedTuple):
    """What all runs share.

    Attributes:
        network: Name of the network, see `networks.build`.
        width: Its width.
        batch_size: Size of a mini-batch.
        passes: Passes through the training set, one gradient per mini-batch.
    """

    network: str
    width: float
    batch_size: int
    passes: int


class Trajectory(NamedTuple):
    """A run, seen after each pass.

    Attributes:
        weights: Of shape `[passes, n]`.
        train_loss: Mean losses on the run's own training set, `[passes]`.
        losses: Loss of each watched example, `[passes, examples]`.
        errors: Share of the watched examples that are classified wrongly,
            `[passes]`.
    """

    weights: np.ndarray
    train_loss: np.ndarray
    losses: np.ndarray
    errors: np.ndarray


def _sgd(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    del seed
    return keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)


def _entropy_sgd(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    return entropy_keras.EntropySGD(learning_rate, seed=seed)


def _mean_gradient(learning_rate: Any, seed: int) -> keras.optimizers.Optimizer:
    # Samples of deviation sqrt(temperature / scope) = 0.02 about the weights.
    return entropy_keras.EntropySGD(
        outer_optimizer=_sgd(learning_rate, seed),
        num_langevin_steps=1,
        estimator="mean_gradient",
        start="stationary",
        sampler="split_sgld",
        scope=1.0,
        temperature=4e-4,
        seed=seed,
    )


ARMS = {
    "SGD": Arm(_sgd, (0.01, 0.02, 0.05, 0.1, 0.2)),
    "Entropy-SGD": Arm(_entropy_sgd, (0.1, 0.2, 0.5, 1.0, 2.0)),
    "Entropy-SGD, mean gradient": Arm(
        _mean_gradient, (0.01, 0.02, 0.05, 0.1, 0.2)
    ),
}


class Runner:
    """Trains one network again and again from the same state.

    Args:
        arm: The optimizer.
        learning_rate: Its learning rate at first, annealed to zero by a cosine.
        setting: What all runs share.
        num_samples: Size of the training sets.
        seed: Seed of the initial weights, the order and the noise.

    Example:
    >>> split = data.load("digits").train
    >>> small = data.Split(split.images[::200], split.labels[::200])
    >>> setting = Setting("small_mnistfc", 0.1, batch_size=5, passes=2)
    >>> runner = Runner(ARMS["SGD"], 0.1, setting, num_samples=20, seed=0)
    >>> runner.run(small, watched=small).losses.shape
    (2, 20)
    """

    def __init__(
        self,
        arm: Arm,
        learning_rate: float,
        setting: Setting,
        num_samples: int,
        seed: int,
    ) -> None:
        keras.utils.set_random_seed(seed)
        self._setting = setting
        self._seed = seed
        network = networks.build(setting.network, width=setting.width)
        self.model = entropy_keras.EntropyModel.from_model(network)
        batches = -(-num_samples // setting.batch_size)
        sized = arm.build(learning_rate, seed)
        updates = -(-batches // getattr(sized, "minibatches_per_update", 1))
        self.num_updates = setting.passes * updates
        schedule = optimizers.learning_rate_schedule(
            "cosine", learning_rate, self.num_updates
        )
        self.model.compile(
            arm.build(schedule, seed),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._variables = self.model.variables + self.model.optimizer.variables
        self._state = [variable.numpy() for variable in self._variables]
        self._losses = tf.function(self._losses_and_errors, autograph=False)

    def run(self, train: data.Split, watched: data.Split) -> Trajectory:
        """Trains from the initial state.

        Args:
            train: The training set.
            watched: Examples to look at after each pass.

        Returns:
            What was seen.
        """
        for variable, value in zip(self._variables, self._state, strict=True):
            variable.assign(value)
        setting, rows = self._setting, []

        def look(epoch: int, logs: Any) -> None:
            del epoch, logs
            train_losses, _ = self._losses(*train)
            losses, errors = self._losses(*watched)
            weights = self.model.trainable_variables
            rows.append((
                np.concatenate([v.numpy().ravel() for v in weights]),
                np.mean(train_losses),
                losses.numpy(),
                np.mean(errors),
            ))

        order = data.EpochOrder(train, setting.batch_size, self._seed)
        self.model.fit(
            order.dataset,
            epochs=setting.passes,
            callbacks=[
                order,
                keras.callbacks.LambdaCallback(on_epoch_end=look),
            ],
            shuffle=False,
            verbose=0,
        )
        return Trajectory(*map(np.array, zip(*rows, strict=True)))

    def _losses_and_errors(
        self, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.model(images, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        guesses = tf.argmax(logits, -1, tf.int32)
        return losses, tf.cast(guesses != labels, tf.float32)


def choose_learning_rate(
    arm: Arm,
    setting: Setting,
    train: data.Split,
    validation: data.Split,
    seeds: Sequence[int],
) -> tuple[float, dict[float, list[float]]]:
    """Chooses the learning rate with the smallest mean validation loss.

    Args:
        arm: The optimizer, with its candidates.
        setting: What all runs share.
        train: The training set.
        validation: What the runs are judged by.
        seeds: One run for each and each candidate.

    Returns:
        The choice, and final validation losses by candidate.
    """
    found = {
        rate: [
            float(
                Runner(arm, rate, setting, len(train.labels), seed)
                .run(train, validation)
                .losses[-1]
                .mean()
            )
            for seed in seeds
        ]
        for rate in arm.learning_rates
    }
    means = {rate: np.mean(losses) for rate, losses in found.items()}
    return min(means, key=means.__getitem__), found


def replaced(train: data.Split, index: int, by: data.Split) -> data.Split:
    """Returns a training set with another example in one place.

    Args:
        train: The training set.
        index: Which example to replace.
        by: A split of one example.

    Returns:
        A new split.
    """
    images, labels = train.images.copy(), train.labels.copy()
    images[index], labels[index] = by.images[0], by.labels[0]
    return data.Split(images, labels)


class Change(NamedTuple):
    """How two runs differ after each pass, for every seed and replacement.

    Attributes:
        weights: Norm of the difference of the weights, of shape `[seeds,
            replacements, passes]`.
        losses: Mean magnitude of the difference of the losses of the watched
            examples, of that shape.
        expected: Difference of the losses at the end, averaged over the seeds,
            of shape `[replacements, examples]`: what uniform stability bounds.
        base: Runs on the training set itself, one per seed.
    """

    weights: np.ndarray
    losses: np.ndarray
    expected: np.ndarray
    base: list[Trajectory]


def measure(
    runners: Sequence[Runner],
    train: data.Split,
    others: Sequence[data.Split],
    watched: data.Split,
) -> Change:
    """Trains on a training set and on sets that differ in one example.

    Args:
        runners: One per seed.
        train: The training set.
        others: Training sets with one example replaced.
        watched: Examples to compare the losses of.

    Returns:
        The differences.
    """
    weights, losses, last, base = [], [], [], []
    for runner in runners:
        ours = runner.run(train, watched)
        theirs = [runner.run(other, watched) for other in others]
        difference = [run.losses - ours.losses for run in theirs]
        weights.append([
            np.linalg.norm(run.weights - ours.weights, axis=1) for run in theirs
        ])
        losses.append([np.abs(d).mean(axis=1) for d in difference])
        last.append([d[-1] for d in difference])
        base.append(ours)
    return Change(
        np.array(weights), np.array(losses), np.mean(last, axis=0), base
    )


def largest_gradient(model: keras.Model, split: data.Split) -> float:
    """Returns the largest norm of the gradient of one example's loss.

    Args:
        model: A model with logits as its output.
        split: The examples.

    Returns:
        The norm, a lower bound of the Lipschitz constant.
    """
    variables = [v.value for v in model.trainable_variables]

    @functools.partial(tf.function, autograph=False)
    def norm(image: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                label, model(image[None], training=False)[0]
            )
        return tf.linalg.global_norm(tape.gradient(loss, variables))

    images, labels = map(tf.constant, split)
    return max(
        float(norm(*sample)) for sample in zip(images, labels, strict=True)
    )
