"""The paper's experiments, each one command.

    python -m trainers.experiments.paper --experiment=figure_4a --npz=mnist.npz

Trains Entropy-SGD and the experiment's baseline with several seeds, at equal
gradient evaluations unless the experiment says otherwise, and writes
`results.json`, `table.md` and `curves.png`: test error (perplexity of a text)
and training loss against updates and against gradient evaluations. Started
again, it goes on. `--help` of `trainers.train` explains the constants, and
`configurations` says where they come from.
"""

import dataclasses
import inspect
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app
from absl import flags
from absl import logging

from trainers import comparison
from trainers import report
from trainers import usage
from trainers.experiments.paper import configurations
from trainers.experiments.paper import figures

_EXPERIMENT = flags.DEFINE_enum(
    "experiment", "figure_4a", list(configurations.EXPERIMENTS), "Which one."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the runs; runs/EXPERIMENT without it."
)
_DATASET = flags.DEFINE_string(
    "dataset", "mnist", "Name of a set of TensorFlow Datasets."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TensorFlow Datasets finds or prepares its data."
)
_NPZ = flags.DEFINE_string(
    "npz", None, "Keras-style file to use instead of --dataset."
)
_TEXT = flags.DEFINE_string("text", None, "Text file for char_lstm.")
_SEEDS = flags.DEFINE_integer(
    "seeds", 5, "Number of seeds; the paper has 5.", lower_bound=1
)
_LENGTH = flags.DEFINE_float(
    "length", 1.0, "Multiplier of the epochs of all runs.", lower_bound=1e-3
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "Multiplier of channels and units.", lower_bound=0.01
)


def main(arguments: Sequence[str]) -> None:
    """Trains, and writes results, table and picture.

    Args:
        arguments: The command line without its flags.
    """
    logging.set_verbosity(logging.WARNING)
    usage.require_flags(arguments)
    name = _EXPERIMENT.value
    described = configurations.EXPERIMENTS[name]
    text = str(inspect.getdoc(described)).split("\n\nReturns:")[0]
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{name}")
    common = {
        "dataset": _DATASET.value,
        "data_dir": _DATA_DIR.value,
        "npz": _NPZ.value,
        "text": _TEXT.value,
        "width": _WIDTH.value,
    }
    experiment = {
        method: dataclasses.replace(
            config, epochs=max(1, round(config.epochs * _LENGTH.value))
        )
        for method, config in described().items()
    }
    networks = {config.network for config in experiment.values()}
    measure = comparison.ERROR
    if networks == {"char_lstm"}:
        measure = figures.PERPLEXITY
    try:
        found = {
            method: figures.curves(rows, measure)
            for method, rows in figures.run(
                experiment, workdir, _SEEDS.value, **common
            ).items()
        }
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = figures.summary(found)
    source = _TEXT.value or _NPZ.value
    report.write_results(
        workdir / "results.json",
        {
            "command": "python -m trainers.experiments.paper",
            "experiment": name,
            "description": text,
            "data": pathlib.Path(source).name if source else _DATASET.value,
            "seeds": _SEEDS.value,
            "length": _LENGTH.value,
            "width": _WIDTH.value,
            "measure": measure,
            "table": rows,
            "curves": {
                method: {
                    what: np.round(values, 5).tolist()
                    for what, values in curve.items()
                }
                for method, curve in found.items()
            },
        },
    )
    (workdir / "table.md").write_text(figures.markdown(rows, measure))
    title = f"{text.splitlines()[0]} {_SEEDS.value} seeds."
    figures.draw(workdir / "curves.png", found, title, measure)
    print(figures.markdown(rows, measure))


if __name__ == "__main__":
    app.run(main)
