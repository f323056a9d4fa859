"""Measures uniform stability: what does one training example change?

    python -m trainers.experiments.stability

trains on pairs of training sets that differ in one example, with everything
random held equal, by SGD and by Entropy-SGD at equal gradient evaluations, and
writes `stability.png` and `stability.json` into `--workdir`. Learning rates are
chosen for each optimizer among as many candidates on a validation set. Takes
about ten minutes on one core.
"""

import pathlib
import time
from collections.abc import Sequence

import tensorflow as tf
from absl import app
from absl import flags

from trainers import data
from trainers import networks
from trainers import usage
from trainers.experiments.stability import replacement
from trainers.experiments.stability import study

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/stability", "Folder that receives figure and numbers."
)
_NETWORK = flags.DEFINE_enum(
    "network",
    "small_mnistfc",
    [n for n in networks.NAMES if networks.input_shape(n) == (28, 28, 1)],
    "Network to train on the bundled digits.",
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "Multiplier of its channels and units.", lower_bound=0.01
)
_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    1000,
    "Size of the training sets.",
    lower_bound=10,
    upper_bound=2000,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 50, "Size of a mini-batch.", lower_bound=1
)
_PASSES = flags.DEFINE_integer(
    "passes", 30, "Passes through the training set.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer(
    "num_seeds", 6, "Seeds to average over.", lower_bound=2
)
_REPLACEMENTS = flags.DEFINE_integer(
    "num_replacements",
    10,
    "Examples replaced, one at a time.",
    lower_bound=2,
    upper_bound=100,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "The first of the seeds.", lower_bound=0
)


def main(arguments: Sequence[str]) -> None:
    """Measures, draws and prints.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    # Each run compiles anew, of which TensorFlow would warn.
    tf.get_logger().setLevel("ERROR")
    start = time.monotonic()
    setting = replacement.Setting(
        _NETWORK.value, _WIDTH.value, _BATCH_SIZE.value, _PASSES.value
    )
    numbers = {
        "num_samples": _SAMPLES.value,
        "num_seeds": _SEEDS.value,
        "num_replacements": _REPLACEMENTS.value,
        "seed": _SEED.value,
    }
    content, changes = study.run(
        data.load("digits", validation_fraction=0.25), setting, **numbers
    )
    study.write(
        pathlib.Path(_WORKDIR.value),
        {
            "command": "python -m trainers.experiments.stability",
            "date": time.strftime("%Y-%m-%d"),
            "settings": setting._asdict() | numbers,
            "seconds": round(time.monotonic() - start, 1),
        }
        | content,
        changes,
        batches=-(-_SAMPLES.value // _BATCH_SIZE.value),
    )
    for name, row in content["optimizers"].items():
        print(
            f"{name}: learning rate {row['learning_rate']:g}, weights change "
            "by {:.3f} ± {:.3f}, test losses by ".format(*row["weight_change"])
            + "{:.4f} ± {:.4f}".format(*row["loss_change"])
        )


if __name__ == "__main__":
    app.run(main)
