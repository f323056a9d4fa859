"""Compares optimizers at equal gradient evaluations and equal trials.

On a file of your own, with two flags:

    python -m trainers.compare --npz=data.npz --workdir=runs/compare

Each method gets the same number of random trials, judged on a validation set
that is taken from the training set. The best four are trained again with three
more seeds, the best mean wins, and the winner is trained with new seeds and
tested, once. The whole search is done several times. Whatever was trained lies
in the folder of the run: started again, it goes on.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

from trainers import comparison
from trainers import data
from trainers import report
from trainers import search

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/compare", "Folder of the results and of finished runs."
)
_NPZ = flags.DEFINE_string(
    "npz",
    None,
    "Keras-style file with x_train, y_train, x_test, y_test; the digits that "
    "an installed package ships without it.",
)
_TRAIN_SIZE = flags.DEFINE_integer(
    "train_size", 2000, "Samples to train on.", lower_bound=1
)
_VALIDATION_SIZE = flags.DEFINE_integer(
    "validation_size",
    2000,
    "Samples of the training set to choose on.",
    lower_bound=1,
)
_LABEL_NOISE = flags.DEFINE_float(
    "label_noise",
    0.0,
    "Share of the training labels to replace by others.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_METHODS = flags.DEFINE_list(
    "methods", list(comparison.METHODS), "Methods to compare."
)
_PASSES = flags.DEFINE_integer(
    "passes",
    20,
    "Gradient evaluations, in passes over the data.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Size of a mini-batch.", lower_bound=1
)
_UNITS = flags.DEFINE_integer(
    "units", 128, "Hidden units of the network.", lower_bound=1
)
_TRIALS = flags.DEFINE_integer(
    "trials", 24, "Trials of each method and search.", lower_bound=4
)
_SEARCHES = flags.DEFINE_integer(
    "searches", 3, "Whole searches.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 10, "Seeds that each winner is tested with.", lower_bound=2
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes",
    None,
    "Stop after so many minutes; start again to go on.",
    lower_bound=0.0,
)


def main(arguments: Sequence[str]) -> None:
    """Compares, and writes `results.json`, `table.md` and `errors.png`.

    Args:
        arguments: The command line without its flags.
    """
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")
    unknown = set(_METHODS.value) - set(comparison.METHODS)
    if unknown:
        sys.exit(
            f"error: `methods` must be of {list(comparison.METHODS)}. "
            f"Received: methods={sorted(unknown)}"
        )
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        splits = data.load("digits", npz=_NPZ.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    x, y = (np.asarray(array) for array in splits.train)
    order = np.random.default_rng(0).permutation(len(y))
    needed = _TRAIN_SIZE.value + _VALIDATION_SIZE.value
    if needed > len(y):
        sys.exit(
            "error: `train_size` and `validation_size` must fit into the "
            f"training set of {len(y)} samples. Received: {needed} together"
        )
    x = x[order[:needed]].reshape(needed, -1)
    y = y[order[:needed]].astype("int32")
    y = search.with_wrong_labels(y, _LABEL_NOISE.value)
    size = _TRAIN_SIZE.value
    test = splits.test.images.reshape(len(splits.test.images), -1)
    workdir = pathlib.Path(_WORKDIR.value)
    winners = search.compare(
        search.perceptron(x.shape[1], int(y.max()) + 1, _UNITS.value),
        (
            (x[:size], y[:size]),
            (x[size:], y[size:]),
            (test, np.asarray(splits.test.labels)),
        ),
        _METHODS.value,
        _PASSES.value,
        workdir=workdir,
        batch_size=_BATCH_SIZE.value,
        num_trials=_TRIALS.value,
        num_searches=_SEARCHES.value,
        num_seeds=_SEEDS.value,
        max_minutes=_MAX_MINUTES.value,
    )
    if not winners:
        return
    rows = search.table(winners)
    settings = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_key_flags_for_module(__name__)
        if flag.name not in {"workdir", "npz", "max_minutes"}
    }
    report.write_results(
        workdir / "results.json",
        {
            "command": "python -m trainers.compare",
            "settings": settings,
            "data": "digits"
            if not _NPZ.value
            else pathlib.Path(_NPZ.value).name,
            "searches": len(winners) // len(_METHODS.value),
            "table": rows,
            "winners": [search.summary(winner) for winner in winners],
        },
    )
    (workdir / "table.md").write_text(search.markdown(rows))
    search.plot(
        workdir / "errors.png",
        winners,
        f"{size} samples, {_PASSES.value} passes, "
        f"{100 * _LABEL_NOISE.value:.0f} % wrong labels",
    )
    print(search.markdown(rows))


if __name__ == "__main__":
    app.run(main)
