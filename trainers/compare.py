"""Compares optimizers at equal gradient evaluations and equal trials.

On a file of your own, with two flags:

    python -m trainers.compare --npz=data.npz --workdir=runs/compare

Each method gets the same number of random trials, judged on a validation set
that is taken from the training set. The best four are trained again with three
more seeds, the best mean wins, and the winner is trained with new seeds and
tested, once. The whole search is done several times. Whatever was trained lies
in the folder of the run: started again, it goes on. `--set` picks what to
compare on:

    --set=images --npz=mnist.npz             a network of one hidden layer
    --set=convnet --npz=cifar10_subset.npz   convolutions with BatchNorm
    --set=tabular --npz=table.npz            rows of numbers [n, d]
    --set=tabular --table=breast_cancer      a table that a package ships
    --set=text --text=tinyshakespeare.txt    the next of 16 characters

`--ablation` then varies one factor at a time around Entropy-SGD's winner, and
`--flatness` measures how flat each winner's solution is.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import app
from absl import flags
from absl import logging

from trainers import ablation
from trainers import methods
from trainers import pictures
from trainers import report
from trainers import search
from trainers import sets
from trainers import standings
from trainers import usage

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/compare", "Folder of the results and of finished runs."
)
_SET = flags.DEFINE_enum(
    "set", "images", list(sets.SETS), "Kind of data and network."
)
_NPZ = flags.DEFINE_string(
    "npz",
    None,
    "Keras-style file of images, or of rows of a table, with x_train, y_train, "
    "x_test, y_test; the digits that an installed package ships without it.",
)
_TABLE = flags.DEFINE_string(
    "table", None, "Name of a table that a package ships, for --set=tabular."
)
_TEXT = flags.DEFINE_string("text", None, "Text file, for --set=text.")
_TRAIN_SIZE = flags.DEFINE_integer(
    "train_size", None, "Samples to train on; as the set asks without it.",
    lower_bound=1,
)  # fmt: skip
_VALIDATION_SIZE = flags.DEFINE_integer(
    "validation_size",
    None,
    "Samples of the training set to choose on; as the set asks without it.",
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
    "methods", list(methods.METHODS), "Methods to compare."
)
_PASSES = flags.DEFINE_integer(
    "passes",
    None,
    "Gradient evaluations, in passes over the data; as the set asks without "
    "it.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Size of a mini-batch.", lower_bound=1
)
_UNITS = flags.DEFINE_integer(
    "units", None,
    "Hidden units of the network, or filters of its first layer; as the set "
    "asks without it.",
    lower_bound=1,
)  # fmt: skip
_TRIALS = flags.DEFINE_integer(
    "trials", 24, "Trials of each method and search.", lower_bound=4
)
_SEARCHES = flags.DEFINE_integer(
    "searches", 3, "Whole searches.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 10, "Seeds that each winner is tested with.", lower_bound=2
)
_EARLY_STOPPING = flags.DEFINE_bool(
    "early_stopping",
    False,
    "Whether all runs of all methods end with the weights that had the least "
    "validation error on their way.",
)
_ABLATION = flags.DEFINE_bool(
    "ablation",
    False,
    "Whether to vary one factor at a time around Entropy-SGD's winners.",
)
_FLATNESS = flags.DEFINE_bool(
    "flatness",
    False,
    "Whether to measure how flat the loss is where the winners end.",
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes",
    None,
    "Stop after so many minutes; start again to go on.",
    lower_bound=0.0,
)
# On the comparison, or told otherwise.
_WITHOUT_INFLUENCE = {
    "workdir", "npz", "text", "max_minutes", "ablation", "flatness"
}  # fmt: skip


def _chosen() -> tuple[sets.Set, dict[str, Any]]:
    """Returns the set, and the settings that the results depend on.

    Raises:
        ValueError: If flags do not fit together.
    """
    kind = _SET.value
    train, validation, units, passes = sets.DEFAULTS[kind]
    settings = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_key_flags_for_module(__name__)
        if flag.name not in _WITHOUT_INFLUENCE
    } | {
        "train_size": _TRAIN_SIZE.value or train,
        "validation_size": _VALIDATION_SIZE.value or validation,
        "units": _UNITS.value or units,
        "passes": _PASSES.value or passes,
    }
    possible = {"tabular": ("table", "npz"), "text": ("text",)}.get(
        kind, ("npz",)
    )
    sources = {"table": _TABLE.value, "npz": _NPZ.value, "text": _TEXT.value}
    given = {name: value for name, value in sources.items() if value}
    used = next((name for name in possible if name in given), None)
    for name, value in given.items():
        if name != used:
            reason = f"set={kind}" + (f" and {used}" if used else "")
            raise ValueError(
                f"`{name}` must be left out with {reason}. "
                f"Received: {name}={value}"
            )
    source = given.get(used) if used else None
    chosen = sets.SETS[kind](
        source,
        sets.Sizes(
            settings["train_size"], settings["validation_size"],
            _LABEL_NOISE.value, settings["units"],
        ),
    )  # fmt: skip
    if source and used != "table":
        source = pathlib.Path(source).name
    return chosen, settings | {"data": source}


def main(arguments: Sequence[str]) -> None:
    """Compares, and writes `results.json`, `table.md` and pictures.

    Args:
        arguments: The command line without its flags.
    """
    logging.set_verbosity(logging.WARNING)
    usage.require_flags(arguments)
    unknown = set(_METHODS.value) - set(methods.METHODS)
    if unknown:
        sys.exit(
            f"error: `methods` must be of {list(methods.METHODS)}. "
            f"Received: methods={sorted(unknown)}"
        )
    if _ABLATION.value and "entropy_sgd" not in _METHODS.value:
        sys.exit(
            "error: `methods` must hold entropy_sgd with ablation. "
            f"Received: methods={_METHODS.value}"
        )
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        chosen, settings = _chosen()
        compared = search.Comparison(
            chosen.build_model,
            *chosen.data,
            workdir,
            passes=settings["passes"],
            batch_size=_BATCH_SIZE.value,
            measure=chosen.measure,
            early_stopping=_EARLY_STOPPING.value,
            max_minutes=_MAX_MINUTES.value,
            jit_compile=chosen.jit_compile,
        )
    except (ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    winners = compared.winners(
        _METHODS.value, _SEARCHES.value, _TRIALS.value, _SEEDS.value
    )
    if winners:
        _write(workdir, winners, settings, chosen.measure)
        try:
            _look_closer(workdir, compared, winners)
        except search.OutOfTimeError as stop:
            print(stop)


def _write(
    workdir: pathlib.Path,
    winners: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    measure: str,
) -> None:
    rows = standings.table(winners)
    report.write_results(
        workdir / "results.json",
        {
            "command": "python -m trainers.compare",
            "settings": settings,
            "measure": measure,
            "searches": len(winners) // len(rows),
            "spaces": {
                row["method"]: methods.METHODS[row["method"]].described()
                for row in rows
            },
            "table": rows,
            "winners": [standings.summary(winner) for winner in winners],
        },
    )
    text = standings.markdown(rows, measure)
    (workdir / "table.md").write_text(text)
    title = (
        f"{settings['data'] or settings['set']}, {settings['train_size']} "
        f"samples, {settings['passes']} passes, "
        f"{100 * settings['label_noise']:.0f} % wrong labels"
    )
    pictures.plot_errors(workdir / "errors.png", winners, title, measure)
    pictures.plot_curves(workdir / "curves.png", winners, title, measure)
    print(text)
    for row in rows:
        if row["at_edge"]:
            print(
                f"{row['method']}: the best {', '.join(row['at_edge'])} lies "
                "at an edge of its space. Widen it for all methods, and "
                "search again."
            )


def _look_closer(
    workdir: pathlib.Path,
    compared: search.Comparison,
    winners: Sequence[dict[str, Any]],
) -> None:
    """Varies Entropy-SGD's factors and measures flatness, where asked for."""
    if _ABLATION.value:
        own = [w for w in winners if w["method"] == "entropy_sgd"]
        variants = ablation.ablate(compared, own)
        report.write_results(workdir / "ablation.json", {"variants": variants})
        text = ablation.markdown_of_variants(variants)
        (workdir / "ablation.md").write_text(text)
        print(text)
    if _FLATNESS.value:
        rows = ablation.flatness(compared, winners)
        report.write_results(
            workdir / "flatness.json",
            {"runs": rows, "rank_correlations": ablation.correlations(rows)},
        )
        text = ablation.markdown_of_flatness(rows)
        (workdir / "flatness.md").write_text(text)
        print(text)


if __name__ == "__main__":
    app.run(main)
