"""What the benchmarks share."""

import json
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from absl import flags


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


def settings(module: str) -> dict[str, Any]:
    """Returns the flags of a benchmark, as JSON can hold them.

    Args:
        module: `__name__` of the benchmark.

    Returns:
        The value of each flag that it defines, but for `--output`.
    """
    values = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_key_flags_for_module(module)
        if flag.name != "output"
    }
    return json.loads(json.dumps(values))
