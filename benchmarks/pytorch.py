"""Time per gradient evaluation against the same loop in PyTorch, on the CPU.

    python -m benchmarks.pytorch --network=mnistfc

Both make updates of Entropy-SGD with noise on one fixed group of mini-batches,
in processes of their own that take turns, with as many threads as each takes by
default. PyTorch is not among the packages that the tests install: give
`--torch_python` the interpreter of an environment with it.
"""

import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import networks
from trainers import report
from trainers import usage

_NETWORK = flags.DEFINE_enum(
    "network",
    "small_mnistfc",
    ["small_mnistfc", "mnistfc", "lenet", "all_cnn_bn", "char_lstm"],
    "Network to time; All-CNN-BN at a quarter of its width.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Size of a mini-batch.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "num_langevin_steps", 5, "Inner steps per update.", lower_bound=1
)
_JIT_COMPILE = flags.DEFINE_enum(
    "jit_compile", "auto", list(common.JIT_COMPILE), "How to compile ours."
)
_UPDATES = flags.DEFINE_integer(
    "updates", 20, "Updates in a round.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds.", lower_bound=3)
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch."
)
_OUTPUT = common.output_file()

_WIDTHS = {"all_cnn_bn": 0.25}


class TensorFlowLoop:
    """Rounds of updates with this package."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        name, size = _NETWORK.value, _BATCH_SIZE.value * _STEPS.value
        network = networks.build(name, width=_WIDTHS.get(name, 1.0))
        model = entropy_keras.EntropyModel.from_model(network)
        model.compile(
            entropy_keras.EntropySGD(
                0.1, num_langevin_steps=_STEPS.value, seed=0
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=common.JIT_COMPILE[_JIT_COMPILE.value],
        )
        group = common.samples(name, size)
        self._updates = common.make_updates(model, group)
        self._updates(1)

    def round(self) -> float:
        """Returns the seconds per gradient evaluation of a round."""
        start = time.perf_counter()
        self._updates(_UPDATES.value)
        seconds = time.perf_counter() - start
        return seconds / (_UPDATES.value * _STEPS.value)


class TorchLoop:
    """Rounds of updates by `torch_worker.py`, in a process of its own."""

    def __init__(self) -> None:
        arguments = (
            _NETWORK.value, _BATCH_SIZE.value, _STEPS.value, _UPDATES.value
        )  # fmt: skip
        worker = pathlib.Path(__file__).with_name("torch_worker.py")
        self._process = subprocess.Popen(
            [_TORCH_PYTHON.value, worker, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._pipes: Any = (self._process.stdin, self._process.stdout)
        self.version = ""

    def round(self) -> float:
        """Returns the seconds per gradient evaluation of a round."""
        to_it, from_it = self._pipes
        try:
            to_it.write("go\n")
            answer = from_it.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(
                "error: the process of PyTorch ended: `--torch_python` must be "
                "an interpreter that can import torch. "
                f"Received: torch_python={_TORCH_PYTHON.value}"
            )
        seconds, self.version = answer.split()
        return float(seconds)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    torch, tensorflow = TorchLoop(), TensorFlowLoop()
    pairs = [
        (tensorflow.round(), torch.round()) for _ in range(_ROUNDS.value + 2)
    ][2:]  # two to warm up
    torch.close()
    times, torch_times = zip(*pairs, strict=True)
    ratios = common.ratios(times, torch_times)
    ours, theirs = statistics.median(times), statistics.median(torch_times)
    print(
        f"{_NETWORK.value}: {1e3 * ours:.3f} ms per gradient, PyTorch "
        f"{1e3 * theirs:.3f} ms, ratio {ratios['ratio']:.2f} "
        f"[{ratios['smallest']:.2f}, {ratios['largest']:.2f}]"
    )
    common.write(
        _OUTPUT.value,
        "pytorch",
        __name__,
        {
            "versions": report.versions() | {"torch": torch.version},
            "milliseconds": round(1e3 * ours, 3),
            "milliseconds_pytorch": round(1e3 * theirs, 3),
            **ratios,
        },
    )


if __name__ == "__main__":
    app.run(main)
