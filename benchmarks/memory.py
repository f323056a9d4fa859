"""Memory of an update beyond the model, the gradient and the data, under XLA.

    python -m benchmarks.memory --network=mnistfc

Reads from XLA's own report what the compiled update allocates for the time
that it runs, and prints it in units of the trainable weights. The anchor of the
chain is the model's variables themselves. The chain needs its position and its
mean, and its velocity if it has momentum; one more is the gradient.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import networks
from trainers import report
from trainers import usage

SAMPLERS = {
    "with momentum": entropy_keras.SGLD(),
    "without momentum": entropy_keras.SGLD(momentum=0.0),
}
# Tensors of the size of the weights, the gradient among them.
NEEDED = {"with momentum": 4, "without momentum": 3}

_NETWORK = flags.DEFINE_enum(
    "network",
    "mnistfc",
    [name for name in networks.NAMES if name != "char_lstm"],
    "Network to compile, of those that take images.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Size of a mini-batch.", lower_bound=1
)
_SAMPLER = flags.DEFINE_enum(
    "sampler", None, list(SAMPLERS), "Only make an update; for internal use."
)
_OUTPUT = common.output_file()

_TEMPORARY = re.compile(r"size ([\d.]+)(B|KiB|MiB|GiB), preallocated-temp")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _build() -> keras.Model:
    keras.utils.set_random_seed(0)
    network = networks.build(_NETWORK.value)
    return entropy_keras.EntropyModel.from_model(network)


def make_update() -> None:
    """Compiles and makes one update with the sampler of the flag."""
    model = _build()
    model.compile(
        entropy_keras.EntropySGD(
            0.1, num_langevin_steps=5, seed=0, sampler=SAMPLERS[_SAMPLER.value]
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    size = 5 * _BATCH_SIZE.value
    shape = networks.input_shape(_NETWORK.value)
    images, labels = np.zeros([size, *shape], "float32"), np.zeros(size, int)
    model.fit(images, labels, batch_size=_BATCH_SIZE.value, verbose=0)


def temporary_bytes(folder: pathlib.Path) -> float:
    """Returns what the largest program of a folder of XLA's dumps allocates.

    Args:
        folder: The folder, in which `memory-usage-report`s are.

    Returns:
        Bytes beside the arguments and results.

    Raises:
        ValueError: If there is no such report.
    """
    found = [
        float(size) * _UNITS[unit]
        for path in folder.glob("*memory-usage-report.txt")
        for size, unit in _TEMPORARY.findall(path.read_text())
    ]
    if not found:
        raise ValueError(
            "`folder` must hold a memory usage report with temporary "
            f"allocations. Received: folder={folder}"
        )
    return max(found)


def measure(sampler: str) -> float:
    """Compiles an update in a process of its own.

    Args:
        sampler: One of `SAMPLERS`.

    Returns:
        The bytes that it allocates for the time that it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable, "-m", "benchmarks.memory",
                f"--network={_NETWORK.value}",
                f"--batch_size={_BATCH_SIZE.value}", f"--sampler={sampler}",
            ],
            env=os.environ
            | {"XLA_FLAGS": f"--xla_dump_to={folder} --xla_dump_hlo_as_text"},
            check=True,
            capture_output=True,
        )  # fmt: skip
        return temporary_bytes(pathlib.Path(folder))


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    if _SAMPLER.value:
        make_update()
        return
    variables = _build().trainable_variables
    size = sum(4 * int(np.prod(v.shape)) for v in variables)
    rows = {}
    for sampler, needed in NEEDED.items():
        tensors = measure(sampler) / size
        rows[sampler] = {
            "weight_sized_tensors": round(tensors, 3),
            "needed": needed,
            "ratio": round(tensors / needed, 3),
        }
        print(
            f"{_NETWORK.value}, {sampler}: {tensors:.2f} times the weights, "
            f"{tensors / needed:.2f} of the {needed} needed"
        )
    if _OUTPUT.value:
        report.write_results(
            pathlib.Path(_OUTPUT.value),
            {
                "command": "python -m benchmarks.memory",
                "network": _NETWORK.value,
                "batch_size": _BATCH_SIZE.value,
                "memory": rows,
            },
        )


if __name__ == "__main__":
    app.run(main)
