"""Pictures of a comparison."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainers import standings

_COSTS = {
    "gradient_evaluations": "gradient evaluations",
    "updates": "updates of the weights",
    "seconds": "seconds of training",
}
_MARKS = "osD^v<>PX*"


def plot_errors(
    path: pathlib.Path,
    winners: Sequence[dict[str, Any]],
    title: str,
    measure: str = "error, %",
) -> None:
    """Draws the test errors of all searches as points with intervals.

    Args:
        path: Where to.
        winners: What `Comparison.search` returned.
        title: What was compared.
        measure: What the error is.
    """
    names = [row["method"] for row in reversed(standings.table(winners))]
    figure = Figure(figsize=(8, 0.45 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        searches = [w for w in winners if w["method"] == name]
        for k, found in enumerate(searches):
            errors = [run["test"]["error"] for run in found["runs"]]
            interval = 2 * np.std(errors, ddof=1) / len(errors) ** 0.5
            axes.errorbar(
                np.mean(errors), i + 0.15 * (k - (len(searches) - 1) / 2),
                xerr=interval, fmt=_MARKS[k % len(_MARKS)], color=f"C{k}",
                markersize=4, capsize=2,
                label=f"search {k + 1}" if i == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"test {measure}: mean and two standard errors over seeds")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def plot_curves(
    path: pathlib.Path,
    winners: Sequence[dict[str, Any]],
    title: str,
    measure: str = "error, %",
) -> bool:
    """Draws error and loss on validation data against what they cost.

    Each line is the median over the seeds of the winner of a method's first
    search; other searches have other settings, such as gradients per update.

    Args:
        path: Where to.
        winners: What `Comparison.search` returned.
        title: What was compared.
        measure: What the error is.

    Returns:
        Whether there was anything to draw.
    """
    order = [row["method"] for row in standings.table(winners)]
    first = {w["method"]: w for w in reversed(winners)}
    curves = {n: standings.median_curve(first[n]["runs"]) for n in order}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return False
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, 3, sharey="row")
    labels = {"error": f"validation {measure}", "loss": "validation loss"}
    for row, (what, label) in zip(panels, labels.items(), strict=True):
        for axes, (cost, words) in zip(row, _COSTS.items(), strict=True):
            for i, (name, curve) in enumerate(curves.items()):
                axes.plot(
                    curve[cost], curve[what], label=name, color=f"C{i % 10}",
                    linestyle="-" if i < 10 else "--", marker=".",
                    markersize=3, linewidth=1,
                )  # fmt: skip
            axes.set_xlabel(words)
            axes.grid(alpha=0.3, which="both")
            if cost == "updates":
                axes.set_xscale("symlog", linthresh=10)
        row[0].set_ylabel(label)
        # The start, by chance alone, would leave no room for the rest.
        ends = np.concatenate([curve[what][2:] for curve in curves.values()])
        ends = ends[np.isfinite(ends)]
        low, high = ends.min(), np.quantile(ends, 0.97)
        row[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=8,
    )
    figure.suptitle(f"{title}: winners of the first search", fontsize=10)
    figure.savefig(path, dpi=120)
    return True
