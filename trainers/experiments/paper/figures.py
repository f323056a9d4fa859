"""What the paper's figures show: runs, their curves, a table, a picture."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from trainers import comparison
from trainers import training
from trainers.experiments.paper.configurations import Experiment

# What the error of a text is; of images it is `comparison.ERROR`.
PERPLEXITY = "perplexity"


def run(
    experiment: Experiment,
    workdir: pathlib.Path,
    num_seeds: int,
    **common: Any,
) -> dict[str, list[list[dict[str, Any]]]]:
    """Trains all methods with all seeds, or reads what was trained.

    Args:
        experiment: A configuration for each method.
        workdir: Folder of the runs.
        num_seeds: Number of seeds.
        **common: Fields of `Config` that replace those of all.

    Returns:
        The rows of the history of each seed, by method.
    """
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in range(num_seeds):
        for name, config in experiment.items():
            config = dataclasses.replace(config, seed=seed, **common)
            ready = training.prepare(config, workdir / name / f"seed_{seed}")
            training.finish(ready)
            found.setdefault(name, []).append(ready.checkpoint.rows)
            keras.backend.clear_session()
    return found


def curves(
    rows: Sequence[Sequence[dict[str, Any]]], measure: str = comparison.ERROR
) -> dict[str, np.ndarray]:
    """Returns figures of all seeds after each pass.

    Args:
        rows: The rows of each seed.
        measure: What the error is, `comparison.ERROR` or `PERPLEXITY`.

    Returns:
        `updates` and `gradient_evaluations`, of shape `[passes]`, and `error`
        on the test set and `loss` of the training, of shape `[seeds, passes]`.
    """

    def error(row: dict[str, Any]) -> float:
        if measure == PERPLEXITY:
            return math.exp(row["val_loss"])
        return 100 * (1 - row["val_accuracy"])

    return {
        "updates": np.array([row["updates"] for row in rows[0]]),
        "gradient_evaluations": np.array([
            row["gradient_evaluations"] for row in rows[0]
        ]),
        "error": np.array([[error(row) for row in each] for each in rows]),
        "loss": np.array([[row["loss"] for row in each] for each in rows]),
    }


def summary(found: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Returns a row for each method.

    Args:
        found: `curves` by method, the baseline last.

    Returns:
        Final and least error, the mean over seeds of each pass taken first, and
        after how many updates and gradients the mean error is first as low as
        the baseline ever has it, or `None`.
    """
    target = list(found.values())[-1]["error"].mean(0).min()
    rows = []
    for name, curve in found.items():
        mean = curve["error"].mean(0)
        reached = np.flatnonzero(mean <= target)
        first = {
            cost: int(curve[cost][reached[0]]) if len(reached) else None
            for cost in ("updates", "gradient_evaluations")
        }
        finals = curve["error"][:, -1]
        rows.append({
            "method": name,
            "final_error": float(finals.mean()),
            "deviation": float(finals.std(ddof=1)) if len(finals) > 1 else None,
            "least_mean_error": float(mean.min()),
            "updates": int(curve["updates"][-1]),
            "gradient_evaluations": int(curve["gradient_evaluations"][-1]),
            "updates_to_baseline": first["updates"],
            "gradients_to_baseline": first["gradient_evaluations"],
        })
    return rows


def markdown(
    rows: Sequence[dict[str, Any]], measure: str = comparison.ERROR
) -> str:
    """Returns the rows of `summary` as a table.

    Args:
        rows: The rows.
        measure: What the error is.

    Returns:
        Markdown.
    """

    def number(value: Any) -> str:
        return "–" if value is None else f"{value:,}"

    lines = [
        f"| method | final test {measure} | least mean | updates | "
        "gradients | to the baseline's least: updates | gradients |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = row["deviation"]
        final = f"{row['final_error']:.2f}"
        if spread is not None:
            final += f" ± {spread:.2f}"
        lines.append(
            f"| {row['method']} | {final} | {row['least_mean_error']:.2f} | "
            f"{number(row['updates'])} | "
            f"{number(row['gradient_evaluations'])} | "
            f"{number(row['updates_to_baseline'])} | "
            f"{number(row['gradients_to_baseline'])} |"
        )
    return "\n".join(lines) + "\n"


def draw(
    path: pathlib.Path,
    found: dict[str, dict[str, np.ndarray]],
    title: str,
    measure: str = comparison.ERROR,
) -> None:
    """Draws error and loss against updates and gradient evaluations.

    Args:
        path: Where to.
        found: `curves` by method, the baseline last.
        title: What was trained.
        measure: What the error is.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    target = list(found.values())[-1]["error"].mean(0).min()
    labels = {"error": f"test {measure}", "loss": "training loss"}
    costs = {
        "updates": "updates of the weights",
        "gradient_evaluations": "gradient evaluations",
    }
    for row, (what, label) in zip(panels, labels.items(), strict=True):
        for axes, (cost, words) in zip(row, costs.items(), strict=True):
            for name, curve in found.items():
                mean, spread = curve[what].mean(0), curve[what].std(0)
                (line,) = axes.plot(curve[cost], mean, label=name)
                axes.fill_between(
                    curve[cost], mean - spread, mean + spread, alpha=0.2,
                    color=line.get_color(),
                )  # fmt: skip
            axes.set_xlabel(words)
            axes.set_yscale("log")
            axes.grid(alpha=0.3, which="both")
            if what == "error":
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("{x:g}")
                axes.axhline(target, color="gray", linewidth=0.8, ls="--")
        row[0].set_ylabel(label)
    panels[0, 0].legend()
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
