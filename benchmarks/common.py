"""What the benchmarks share."""

import pathlib
import statistics
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from trainers import data
from trainers import networks
from trainers import report

# The flags that are defined here are those of the benchmarks that ask for them.
flags.disclaim_key_flags()

# Values of a flag `--jit_compile`, as `compile` takes them.
JIT_COMPILE = {"off": False, "on": True, "auto": "auto"}


def output_file(
    what: str = "JSON file to write.", flag_values: Any = flags.FLAGS
) -> Any:
    """Defines a flag `--output`, refused at once where no file can be.

    Args:
        what: What is written.
        flag_values: Where to.

    Returns:
        What holds the value of the flag.
    """
    holder = flags.DEFINE_string("output", None, what, flag_values=flag_values)
    flags.register_validator(
        holder,
        lambda value: not value or not pathlib.Path(value).is_dir(),
        "must be the path of a file, not of a folder",
        flag_values,
    )
    flags.register_validator(
        holder,
        lambda value: not value or pathlib.Path(value).parent.is_dir(),
        "must lie in a folder that exists",
        flag_values,
    )
    return holder


def output_folder(
    default: str | None = None, flag_values: Any = flags.FLAGS
) -> Any:
    """Defines a flag `--output`, refused at once where no folder can be.

    Args:
        default: The folder, if it is not told.
        flag_values: Where to.

    Returns:
        What holds the value of the flag.
    """
    holder = flags.DEFINE_string(
        "output", default, "Folder of the results.", flag_values=flag_values
    )
    flags.register_validator(
        holder,
        lambda value: not value or not pathlib.Path(value).is_file(),
        "must be the path of a folder, not of a file",
        flag_values,
    )
    return holder


def samples(network: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random inputs and labels.

    Args:
        network: One of `networks.NAMES`.
        size: Number of samples.

    Returns:
        Images and classes, or sequences of symbols and of the next symbols.
    """
    rng = np.random.default_rng(0)
    if network == "char_lstm":
        codes = rng.integers(0, 96, [size, data.SEQUENCE_LENGTH + 1])
        return codes[:, :-1], codes[:, 1:]
    images = rng.normal(size=(size, *networks.input_shape(network)))
    return images.astype("float32"), rng.integers(0, 10, size)


def cached_batches(
    rows: tf.data.Dataset, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Returns batches that are made once and whose pipeline is not tuned.

    The thread that tunes one wakes up at 10, 30, 70, 150 ms and so on, and some
    calls of `fit` wait for it: they take up to twice their time.

    Args:
        rows: A data set of single samples.
        batch_size: Samples in a batch.
        drop_remainder: Whether all batches are known to have this size.

    Returns:
        A data set of batches.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = rows.batch(batch_size, drop_remainder=drop_remainder)
    return batches.cache().with_options(options)


def ratios(
    times: Sequence[float], references: Sequence[float]
) -> dict[str, float]:
    """Relates times of rounds to others of the same rounds.

    Args:
        times: Seconds.
        references: As many seconds.

    Returns:
        The median `ratio`, the `smallest` and the `largest`.
    """
    found = [t / r for t, r in zip(times, references, strict=True)]
    return {
        "ratio": round(statistics.median(found), 3),
        "smallest": round(min(found), 3),
        "largest": round(max(found), 3),
    }


def make_updates(model: keras.Model, group: Any) -> Callable[[int], None]:
    """Returns a function that trains on one group, without input pipeline.

    Args:
        model: A compiled model with variables.
        group: What a step takes, a tuple of tensors or arrays.

    Returns:
        A function that makes as many updates as it is told, and waits for the
        last. The first call traces and compiles.
    """
    iterator = iter(tf.data.Dataset.from_tensors(group).repeat())
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()

    def update(count: int) -> None:
        for _ in range(count):
            logs = model.train_function(iterator)
        float(logs["loss"])

    return update


def write(
    output: str | None, benchmark: str, module: str, results: dict[str, Any]
) -> None:
    """Writes results with the command and its flags, if there is a path.

    Args:
        output: Path of the JSON file, the value of `--output`.
        benchmark: Name of the benchmark.
        module: `__name__` of the benchmark.
        results: What it found.
    """
    if not output:
        return
    settings = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_key_flags_for_module(module)
        if flag.name not in {"output", "torch_python"}  # paths
    }
    head = {
        "command": f"python -m benchmarks.{benchmark}",
        "settings": settings,
    }
    report.write_results(pathlib.Path(output), head | results)


def mirrored(count: int) -> tf.distribute.Strategy:
    """Returns a strategy of logical devices, once a process.

    TensorFlow cannot tell the collectives of two mirrored strategies apart, and
    takes logical devices before it has run anything.

    Args:
        count: Number of replicas.

    Returns:
        The strategy.
    """
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
