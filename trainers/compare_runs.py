"""Shows runs of `trainers.train` side by side, the best first.

    python -m trainers.compare_runs runs/*

prints a table in Markdown of what differs in their configurations and of what
came of them. Folders that are not of finished runs are named on standard error.
With --picture=curves.png it draws their curves.
"""

import csv
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from absl import app
from absl import flags
from matplotlib.figure import Figure

from trainers import report

_PICTURE = flags.DEFINE_string(
    "picture", None, "Picture to draw the curves of the runs into."
)
_COLUMNS = ("test error, %", "test loss", "updates", "gradients", "seconds")


class Run(NamedTuple):
    """A finished run: its folder and the files in it."""

    workdir: pathlib.Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def error(self) -> float | None:
        """The test error in %, `None` if there was no test."""
        accuracy = self.metrics.get("test_accuracy")
        return None if accuracy is None else 100 * (1 - accuracy)


def read(workdir: pathlib.Path) -> Run:
    """Reads a finished run.

    Args:
        workdir: Its folder.

    Returns:
        The run.

    Raises:
        ValueError: If the folder is not of a finished run.
    """
    if not (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is not a run: it has no config.json.")
    config = report.read_json(workdir / "config.json")
    if not isinstance(config, dict) or not {"network", "data"} <= config.keys():
        raise ValueError(f"{workdir} is not a run of `trainers.train`.")
    if not (workdir / "metrics.json").exists():
        raise ValueError(
            f"{workdir} is not finished: start it again, and it goes on."
        )
    metrics = report.read_json(workdir / "metrics.json")
    try:
        with (workdir / "history.csv").open(newline="") as file:
            history = [
                {name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{workdir} has no whole history.csv: {error}"
        ) from error
    versions = config.pop("versions", {})  # A result depends on them too.
    return Run(workdir, config | versions, metrics, history)


def differences(runs: Sequence[Run]) -> list[str]:
    """Returns the names of settings that are not the same in all runs.

    Args:
        runs: The runs.

    Returns:
        Names, in the order of the configurations.
    """
    names = dict.fromkeys(name for run in runs for name in run.config)
    return [
        name
        for name in names
        if any(run.config.get(name) != runs[0].config.get(name) for run in runs)
    ]


def table(runs: Sequence[Run]) -> str:
    """Returns what differs in the runs, and their results.

    Args:
        runs: The runs; the order of the rows is theirs.

    Returns:
        A table in Markdown.
    """
    settings = differences(runs)
    rows = [["run", *settings, *_COLUMNS]]
    rows.append(["---"] * len(rows[0]))
    for name, run in zip(_names(runs), runs, strict=True):
        metrics = run.metrics
        rows.append([
            name,
            *(_setting(setting, run.config) for setting in settings),
            _number(run.error, ".2f"),
            _number(metrics.get("test_loss"), ".4f"),
            _number(metrics["updates"], "d"),
            _number(metrics["gradient_evaluations"], "d"),
            _number(metrics["seconds"], ".1f"),
        ])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plot(path: pathlib.Path, runs: Sequence[Run]) -> None:
    """Draws loss and error of the runs over gradient evaluations.

    Args:
        path: Where to.
        runs: The runs.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    for i, (name, run) in enumerate(zip(_names(runs), runs, strict=True)):
        x = [row["gradient_evaluations"] for row in run.history]
        for prefix, line in (("", ":"), ("val_", "-")):
            losses = [row[f"{prefix}loss"] for row in run.history]
            errors = [
                100 * (1 - row[f"{prefix}accuracy"]) for row in run.history
            ]
            for axes, values in zip(panels, (losses, errors), strict=True):
                axes.plot(
                    x, values, line, color=f"C{i % 10}", linewidth=1.2,
                    marker="" if i < 10 else ".", markersize=4,
                    label=name if prefix else None,
                )  # fmt: skip
    for axes, label in zip(panels, ("loss", "error [%]"), strict=True):
        axes.set_xlabel("gradient evaluations")
        axes.set_ylabel(label)
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
    )
    figure.suptitle("held out (solid) and training (dotted)", fontsize=10)
    figure.savefig(path, dpi=120)


def _names(runs: Sequence[Run]) -> list[str]:
    """Returns what tells the folders apart."""
    paths = [run.workdir.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    return [str(path.relative_to(common)) for path in paths]


def _setting(name: str, config: dict[str, Any]) -> str:
    """Returns a setting as text, of the digest of the data its beginning."""
    value = config.get(name)
    if value is None:
        return "–"
    return str(value)[:8] if name == "data" else str(value).replace("|", "\\|")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main(arguments: Sequence[str]) -> None:
    """Prints the table.

    Args:
        arguments: The name of the program, and the folders.
    """
    if len(arguments) < 2:
        sys.exit("error: no folder of a run is given, see --help")
    runs = []
    for workdir in dict.fromkeys(map(pathlib.Path, arguments[1:])):
        try:
            runs.append(read(workdir))
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not runs:
        sys.exit("error: none of the folders is of a finished run")
    runs.sort(key=lambda run: math.inf if run.error is None else run.error)
    print(table(runs), end="")
    if _PICTURE.value:
        try:
            plot(pathlib.Path(_PICTURE.value), runs)
        except (OSError, ValueError) as error:
            sys.exit(f"error: --picture={_PICTURE.value}: {error}")


if __name__ == "__main__":
    app.run(main)
