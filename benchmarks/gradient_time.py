"""Time per gradient evaluation of Entropy-SGD against other optimizers.

    python -m benchmarks.gradient_time --network=small_mnistfc

All variants train the same network on the same batches and alternate, round by
round; printed is the median over the rounds of each variant's time per gradient
over that of SGD with its better jit setting in the same round, with the
smallest and largest, what tracing and compiling took in the first round, and
how often the train step was traced. "gradients alone" is a chain that does the
least with its gradients and takes their mean: no sampler can be faster.
`--output` writes the same as JSON.
"""

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import baselines
from benchmarks import common
from trainers import networks
from trainers import usage

_NETWORK = flags.DEFINE_enum(
    "network", "small_mnistfc", list(networks.NAMES), "Network to time."
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "Multiplier of its channels and units.", lower_bound=0.01
)
_BATCH_SIZE = flags.DEFINE_multi_integer(
    "batch_size", [128], "Size of a mini-batch; one table each.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "num_langevin_steps", 5, "Inner steps per update.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 11, "Rounds.", lower_bound=3)
_UPDATES = flags.DEFINE_integer(
    "updates", 94, "Updates of Entropy-SGD in an epoch.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 2, "Epochs of each variant in a round.", lower_bound=1
)
_JIT_COMPILE = flags.DEFINE_multi_enum(
    "jit_compile", ["off", "on"], list(common.JIT_COMPILE), "How to compile."
)
_OUTPUT = common.output_file()


class Variant(NamedTuple):
    """A model, and what it took so far.

    Attributes:
        model: The model, compiled.
        gradients_per_batch: Gradient evaluations on each mini-batch.
        seconds: Seconds per gradient evaluation of each round.
        traces: One entry for each time that its train step was traced.
    """

    model: keras.Model
    gradients_per_batch: int
    seconds: list[float]
    traces: list[None]


def _optimizers() -> dict[str, Callable[[], keras.optimizers.Optimizer]]:
    def entropy(**arguments: Any) -> Callable[[], Any]:
        return lambda: entropy_keras.EntropySGD(
            0.1, num_langevin_steps=_STEPS.value, seed=0, **arguments
        )

    def sgd() -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)

    return {
        "sgd": sgd,
        "adam": keras.optimizers.Adam,
        "sam": sgd,
        "gradients alone": entropy(
            sampler=baselines.GradientsAlone(), temperature=0.0
        ),
        "entropy_sgd, no noise": entropy(temperature=0.0),
        "entropy_sgd": entropy(),
        "entropy_sgd, diagnostics": entropy(diagnostics=True),
    }


def _variant(
    name: str, optimizer: keras.optimizers.Optimizer, jit_compile: str
) -> Variant:
    keras.utils.set_random_seed(0)
    network = networks.build(_NETWORK.value, width=_WIDTH.value)
    model: Any
    is_sam = name == "sam"
    if is_sam:
        model = baselines.SAMModel(network.inputs, network.outputs)
    else:
        model = entropy_keras.EntropyModel.from_model(network)
    traces: list[None] = []
    step = model.train_step

    def traced_step(batch: Any) -> Any:
        traces.append(None)
        return step(batch)

    model.train_step = traced_step
    model.compile(
        optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=common.JIT_COMPILE[jit_compile],
    )
    return Variant(model, 2 if is_sam else 1, [], traces)


def _gradients() -> int:
    """Returns how many gradients an epoch of Entropy-SGD takes."""
    return _STEPS.value * _UPDATES.value


def _dataset(batch_size: int) -> tf.data.Dataset:
    samples = common.samples(_NETWORK.value, _gradients() * batch_size)
    rows = tf.data.Dataset.from_tensors(samples).unbatch()
    return common.cached_batches(rows, batch_size, drop_remainder=True)


def measure(batch_size: int) -> dict[str, Variant]:
    """Times all variants.

    Args:
        batch_size: Size of a mini-batch.

    Returns:
        The variants, which hold the times of two rounds more than asked for:
        the first traces and compiles.
    """
    dataset = _dataset(batch_size)
    variants = {
        f"{name}, jit={jit_compile}": _variant(name, make(), jit_compile)
        for jit_compile in _JIT_COMPILE.value
        for name, make in _optimizers().items()
    }
    for _ in range(_ROUNDS.value + 2):
        for variant in variants.values():
            # Equal gradient evaluations: half of the batches if each has two.
            count = _gradients() // variant.gradients_per_batch
            start = time.perf_counter()
            variant.model.fit(
                dataset.take(count),
                epochs=_EPOCHS.value,
                shuffle=False,
                verbose=0,
            )
            seconds = time.perf_counter() - start
            count *= variant.gradients_per_batch * _EPOCHS.value
            variant.seconds.append(seconds / count)
    return variants


def table(variants: dict[str, Variant]) -> dict[str, dict[str, float]]:
    """Relates the times to those of SGD.

    Args:
        variants: What `measure` returned.

    Returns:
        A row for each variant.
    """
    references = [
        min(times)
        for times in zip(
            *(v.seconds for n, v in variants.items() if n.startswith("sgd")),
            strict=True,
        )
    ][2:]
    rows = {}
    for name, (_, _, seconds, traces) in variants.items():
        typical = statistics.median(seconds[2:])
        first_surplus = seconds[0] - typical
        rows[name] = common.ratios(seconds[2:], references) | {
            "milliseconds": round(1e3 * typical, 3),
            "compile_seconds": round(
                first_surplus * _gradients() * _EPOCHS.value, 2
            ),
            "traces": len(traces),
        }
    return rows


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    tables = {}
    for batch_size in _BATCH_SIZE.value:
        print(f"batch size {batch_size}")
        rows = tables[batch_size] = table(measure(batch_size))
        for name, row in rows.items():
            print(
                f"{name:34} {row['ratio']:6.2f} [{row['smallest']:.2f}, "
                f"{row['largest']:.2f}]  {row['milliseconds']:8.2f} ms  "
                f"(compiled in {row['compile_seconds']:.1f} s, "
                f"traced {row['traces']} times)"
            )
    common.write(
        _OUTPUT.value,
        "gradient_time",
        __name__,
        {"time_per_gradient_over_sgd": tables},
    )


if __name__ == "__main__":
    app.run(main)
