"""Trains a network of the paper with Entropy-SGD or a baseline.

Without flags it trains LeNet on 4,000 MNIST digits that an installed package
ships, in about a minute and a half on two cores, to about 98 % test accuracy:

    python -m trainers.train

Ctrl-C, or a kill, loses the epoch that is under way and nothing else: the last
whole one lies in `checkpoint.npz` of `--workdir`. The same command goes on from
there; the tables and the model are written when all epochs are done.
"""

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging
from tensorflow import errors

from trainers import config
from trainers import networks
from trainers import optimizers
from trainers import report
from trainers import training
from trainers import usage

_DEFAULT = config.Config()
# The groups of `--help`.
_DATA, _NETWORK, _OPTIMIZER, _ENTROPY, _TRAINING, _OUTPUT = _GROUPS = (
    "Data",
    "Network",
    "Optimizer",
    "Entropy-SGD alone",
    "Training",
    "Output",
)
usage.show_in_groups(_GROUPS)

_WORKDIR = flags.DEFINE_string(
    "workdir",
    "runs/train",
    "Folder of the run: results and checkpoint.",
    module_name=_OUTPUT,
)

flags.DEFINE_string(
    "dataset",
    _DEFAULT.dataset,
    "'digits', bundled, or the name of an image classification set of "
    "TensorFlow Datasets.",
    module_name=_DATA,
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where TensorFlow Datasets finds or prepares its data.",
    module_name=_DATA,
)
flags.DEFINE_string(
    "npz",
    None,
    "Keras-style file with x_train, y_train, x_test, y_test to use instead of "
    "--dataset.",
    module_name=_DATA,
)
flags.DEFINE_string(
    "text",
    None,
    "Text file to use instead of --dataset, with --network=char_lstm, which "
    "learns the next of its characters.",
    module_name=_DATA,
)
flags.DEFINE_float(
    "validation_fraction",
    _DEFAULT.validation_fraction,
    "Share of the training set to hold out for choosing hyper-parameters.",
    lower_bound=0.0,
    upper_bound=0.9,
    module_name=_DATA,
)
flags.DEFINE_bool(
    "standardized",
    _DEFAULT.standardized,
    "Whether images are floats of mean 0 and standard deviation 1, which stay "
    "as they are. Without it, integers are divided by the largest value of "
    "their type, and floats have to lie in [0, 1].",
    module_name=_DATA,
)
flags.DEFINE_enum(
    "preprocessing",
    _DEFAULT.preprocessing,
    config.PREPROCESSING,
    "What is done to images: nothing more, or global contrast normalization "
    "and ZCA whitening, fitted on the training set.",
    module_name=_DATA,
)
flags.DEFINE_enum(
    "network",
    _DEFAULT.network,
    networks.NAMES,
    "Network to train.",
    module_name=_NETWORK,
)
flags.DEFINE_float(
    "width",
    _DEFAULT.width,
    "Multiplier of the channels and hidden units of the network.",
    lower_bound=0.01,
    module_name=_NETWORK,
)
flags.DEFINE_enum(
    "optimizer",
    _DEFAULT.optimizer,
    optimizers.NAMES,
    "Optimizer.",
    module_name=_OPTIMIZER,
)
flags.DEFINE_integer(
    "epochs",
    _DEFAULT.epochs,
    "Number of epochs.",
    lower_bound=1,
    module_name=_TRAINING,
)
flags.DEFINE_enum(
    "epoch_unit",
    _DEFAULT.epoch_unit,
    config.EPOCH_UNITS,
    "What an epoch is: one pass over the data, or, as the paper counts, as "
    "many updates as the data have mini-batches.",
    module_name=_TRAINING,
)
flags.DEFINE_integer(
    "batch_size",
    _DEFAULT.batch_size,
    "Size of a mini-batch.",
    lower_bound=1,
    module_name=_TRAINING,
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Outer learning rate. Defaults by optimizer: "
    + ", ".join(f"{n} {rate}" for n, rate in optimizers.LEARNING_RATES.items())
    + ".",
    lower_bound=0.0,
    module_name=_OPTIMIZER,
)
flags.DEFINE_enum(
    "schedule",
    _DEFAULT.schedule,
    optimizers.SCHEDULES,
    "Schedule of the learning rate over the run.",
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "step_fraction",
    _DEFAULT.step_fraction,
    "With --schedule=step, length of a step as a share of the run.",
    lower_bound=1e-6,
    upper_bound=1.0,
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "step_factor",
    _DEFAULT.step_factor,
    "With --schedule=step, what each step divides the learning rate by.",
    lower_bound=1.0,
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "momentum",
    _DEFAULT.momentum,
    "Nesterov momentum of SGD, or of the inner loop with --sampler=sgld.",
    lower_bound=0.0,
    upper_bound=0.999999,
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "weight_decay",
    None,
    "Decoupled weight decay.",
    lower_bound=0.0,
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "clipnorm",
    None,
    "Largest norm of the gradient of each variable.",
    lower_bound=1e-12,
    module_name=_OPTIMIZER,
)
flags.DEFINE_float(
    "scope_growth",
    _DEFAULT.scope_growth,
    "Relative growth of the scope at each update.",
    lower_bound=0.0,
    module_name=_ENTROPY,
)
flags.DEFINE_float(
    "maximum_scope",
    None,
    "Cap of a growing scope.",
    lower_bound=0.0,
    module_name=_ENTROPY,
)
flags.DEFINE_bool(
    "recalibrate",
    _DEFAULT.recalibrate,
    "Whether to refresh batch normalization before each evaluation.",
    module_name=_TRAINING,
)
flags.DEFINE_enum(
    "jit_compile",
    _DEFAULT.jit_compile,
    ["auto", "true", "false"],
    "Whether to compile with XLA.",
    module_name=_TRAINING,
)
flags.DEFINE_enum(
    "strategy",
    _DEFAULT.strategy,
    config.STRATEGIES,
    "Which devices train together: one; the GPUs of this machine; or the "
    "processes that TF_CONFIG names, as `trainers.launch` starts them. The "
    "batch size is that of all together.",
    module_name=_TRAINING,
)
flags.DEFINE_integer(
    "seed",
    _DEFAULT.seed,
    "Seed of everything random.",
    lower_bound=0,
    module_name=_TRAINING,
)


def _define(name: str, field: Any) -> None:
    """Defines the flag of a hyper-parameter of Entropy-SGD."""
    default = getattr(_DEFAULT, name)
    text = field.metadata["flag"]
    if field.metadata["choices"]:
        flags.DEFINE_enum(
            name, default, field.metadata["choices"], text, module_name=_ENTROPY
        )
    elif isinstance(default, bool):
        flags.DEFINE_bool(name, default, text, module_name=_ENTROPY)
    elif isinstance(default, int):
        flags.DEFINE_integer(
            name, default, text, module_name=_ENTROPY, lower_bound=0
        )
    else:
        flags.DEFINE_float(
            name, default, text, module_name=_ENTROPY, lower_bound=0.0
        )


for _name, _field in config.ENTROPY_FIELDS.items():
    _define(_name, _field)


def config_from_flags() -> config.Config:
    """Returns the configuration that the flags spell."""
    values = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(config.Config)
    }
    return config.Config(**values)


def main(arguments: Sequence[str]) -> None:
    """Trains, and prints the metrics as JSON.

    Args:
        arguments: The command line without its flags.
    """
    logging.set_verbosity(logging.WARNING)
    usage.require_flags(arguments)
    configuration = config_from_flags()
    if configuration.strategy != "multi_worker":
        _train(configuration)
        return
    # A worker that went on after an error would pair what it sends with
    # something else of the others, and one that ended as usual would wait.
    status = 1
    try:
        _train(configuration)
        status = 0
    except SystemExit as end:
        print(end.code, file=sys.stderr)
    except (errors.UnavailableError, errors.AbortedError) as error:
        print(
            "error: another worker cannot be reached "
            f"({error.message.splitlines()[0]}). Started again, the run goes "
            "on from its last checkpoint.",
            file=sys.stderr,
        )
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _train(configuration: config.Config) -> None:
    try:
        run = training.prepare(configuration, _WORKDIR.value)
        metrics = training.finished(run)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if run.splits.understood:
        print(run.splits.understood)
    done = len(run.checkpoint.rows)
    print(f"{run.workdir}: pass {done} of {run.passes} is done.", flush=True)
    if metrics is None:
        try:
            metrics = training.finish(run)
        except KeyboardInterrupt:
            sys.exit("Stopped: the same command goes on from the last pass.")
    print(json.dumps(report.finite(metrics), indent=2))


if __name__ == "__main__":
    app.run(main)
