"""What long inner loops take: memory of a group, and time per gradient.

    python -m benchmarks.long_loops

A group of K mini-batches lies in memory while its update runs. Images that
enter as bytes, and become floats in the network's first layer, take a quarter
of it, and so does an update whose mini-batches come in several groups. Each row
is a process of its own, whose peak beyond what it held before `fit` is printed,
beside the bytes of one group.
"""

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import usage

_STEPS = flags.DEFINE_multi_integer(
    "num_langevin_steps", [5, 50, 500], "Inner steps per update.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Size of a mini-batch.", lower_bound=1
)
_SHAPE = flags.DEFINE_multi_integer(
    "shape", [32, 32, 3], "Height, width and channels.", lower_bound=1
)
_GROUPS = flags.DEFINE_multi_integer(
    "groups_per_update", [1, 10], "Groups of an update, where it has so many.",
    lower_bound=1,
)  # fmt: skip
_UPDATES = flags.DEFINE_integer("updates", 2, "Updates.", lower_bound=2)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["uint8", "float32"],
    "Measure this in this process, and print JSON.",
)  # fmt: skip
_OUTPUT = common.output_file()


def _peak() -> int:
    """Returns the most bytes that this process has held in memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(dtype: str, num_steps: int, num_groups: int) -> dict[str, Any]:
    """Trains in this process.

    Args:
        dtype: Of the images: `"uint8"` or `"float32"`.
        num_steps: Inner steps.
        num_groups: Groups of an update.

    Returns:
        Bytes of a group, of the peak beyond what was held before, and
        milliseconds of a gradient.
    """
    layers = keras.layers
    network = keras.Sequential([
        keras.Input(_SHAPE.value, dtype=dtype),
        layers.Rescaling(1 / 255),
        layers.Flatten(),
        layers.Dense(32, "relu"),
        layers.Dense(10),
    ])
    model = entropy_keras.EntropyModel.from_model(network)
    model.compile(
        entropy_keras.EntropySGD(
            0.1,
            num_langevin_steps=num_steps,
            temperature=0.0,
            groups_per_update=num_groups,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(0)
    # One mini-batch, again and again, so that the data set itself is small.
    x = rng.integers(0, 256, [_BATCH_SIZE.value, *_SHAPE.value]).astype(dtype)
    y = rng.integers(0, 10, _BATCH_SIZE.value)

    def data(size: int) -> tf.data.Dataset:
        return common.cached_batches(
            tf.data.Dataset.from_tensors((x[:size], y[:size])).unbatch(),
            size,
            drop_remainder=True,
        ).repeat(num_steps * _UPDATES.value)

    model.fit(data(1), shuffle=False, verbose=0)  # builds and traces
    before = _peak()
    model.fit(data(_BATCH_SIZE.value), shuffle=False, verbose=0)
    peak, start = _peak() - before, time.perf_counter()
    model.fit(data(_BATCH_SIZE.value), shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    return {
        "dtype": dtype,
        "num_langevin_steps": num_steps,
        "groups_per_update": num_groups,
        "bytes_of_group": _BATCH_SIZE.value
        * num_steps
        // num_groups
        * x[0].nbytes,
        "peak_bytes": peak,
        "milliseconds": round(1e3 * seconds / (num_steps * _UPDATES.value), 3),
    }


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    if _DTYPE.value:
        found = measure(_DTYPE.value, _STEPS.value[0], _GROUPS.value[0])
        print(json.dumps(found))
        return
    rows = []
    for steps, dtype, groups in itertools.product(
        _STEPS.value, ("uint8", "float32"), _GROUPS.value
    ):
        if steps % groups:
            continue
        done = subprocess.run(
            [
                sys.executable, "-m", "benchmarks.long_loops",
                f"--dtype={dtype}", f"--num_langevin_steps={steps}",
                f"--groups_per_update={groups}",
                f"--batch_size={_BATCH_SIZE.value}",
                f"--updates={_UPDATES.value}",
                *(f"--shape={size}" for size in _SHAPE.value),
            ],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"L = {steps:4} {dtype:8} {groups:3} groups of "
            f"{row['bytes_of_group'] / 1e6:8.1f} MB, "
            f"peak {row['peak_bytes'] / 1e6:8.1f} MB, "
            f"{row['milliseconds']:.2f} ms a gradient",
            flush=True,
        )
    common.write(_OUTPUT.value, "long_loops", __name__, {"rows": rows})


if __name__ == "__main__":
    app.run(main)
