"""What may be said of the winners of a comparison: the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

# Figures of a test beside the error. Runs may lack what came to be measured
# after them.
FIGURES = ("loss", "calibrated_loss", "calibration_error")


def table(winners: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each method, the best first.

    The standard error of a difference of means is that over searches or that
    over seeds, whichever is larger: of the means of the searches over their
    number, or of all pairs over theirs. A method is worse than the best if the
    mean of the differences of paired runs is two of it away from 0.

    Args:
        winners: What `Comparison.search` returned.

    Returns:
        The rows.
    """
    names = list(dict.fromkeys(w["method"] for w in winners))
    errors = {n: _of_test(winners, n, "error") for n in names}
    best = min(names, key=lambda n: errors[n].mean())
    rows = []
    for name in sorted(names, key=lambda n: errors[n].mean()):
        runs = [r for w in winners if w["method"] == name for r in w["runs"]]
        pairs = errors[name] - errors[best]
        error = standard_error(pairs)
        rows.append({
            "method": name,
            "error": float(errors[name].mean()),
            "deviation_of_seeds": float(
                errors[name].std(axis=1, ddof=1).mean()
            ),
            "deviation_of_searches": float(errors[name].mean(1).std(ddof=1))
            if len(pairs) > 1
            else None,
            "behind_the_best": float(pairs.mean()),
            "standard_error": error,
            "worse_than_best": bool(name != best and pairs.mean() > 2 * error),
            "p_value": float(scipy.stats.ttest_1samp(pairs.ravel(), 0.0).pvalue)
            if pairs.any()
            else 1.0,
            **{
                figure: _or_none(_of_test(winners, name, figure).mean())
                for figure in FIGURES
            },
            "seconds": float(np.median([r["seconds"] for r in runs])),
            "updates": sorted({r["updates"] for r in runs}),
            "gradient_evaluations": runs[0]["gradient_evaluations"],
            "at_edge": sorted({
                e for w in winners if w["method"] == name for e in w["at_edge"]
            }),
        })
    return rows


def standard_error(pairs: np.ndarray) -> float:
    """Returns the error of the mean of differences of paired runs.

    Args:
        pairs: Of shape `[searches, seeds]`.

    Returns:
        The standard error over the means of searches or over all pairs,
        whichever is larger.
    """
    means = pairs.mean(axis=1)
    searches = means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else 0.0
    return float(max(searches, pairs.std(ddof=1) / pairs.size**0.5))


def _of_test(
    winners: Sequence[dict[str, Any]], name: str, figure: str
) -> np.ndarray:
    """Returns a figure of the tests of a method, `[searches, seeds]`."""
    return np.array(
        [
            [run["test"].get(figure) for run in w["runs"]]
            for w in winners
            if w["method"] == name
        ],
        dtype=float,  # None becomes NaN
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def summary(winner: dict[str, Any]) -> dict[str, Any]:
    """Returns a winner with the figures of its runs as lists.

    Args:
        winner: What `Comparison.search` returned.

    Returns:
        A dictionary for JSON, with the median over the runs for `curve`.
    """
    runs = winner["runs"]
    kept = {name: value for name, value in winner.items() if name != "runs"}
    kept["seeds"] = [run["seed"] for run in runs]
    for part in ("validation", "test"):
        for name in ("error", *FIGURES):
            values = [run[part].get(name) for run in runs]
            if values[0] is not None:
                kept[f"{part}_{name}"] = [
                    None if value is None else round(value, 4)
                    for value in values
                ]
    kept["seconds"] = [round(run["seconds"], 3) for run in runs]
    for name in ("updates", "gradient_evaluations"):
        kept[name] = runs[0][name]
    curve = median_curve(runs)
    if curve:
        kept["curve"] = {
            name: [_or_none(round(v, 5)) for v in values]
            for name, values in curve.items()
        }
    return kept


def median_curve(runs: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the medians of curves of one method and setting.

    Args:
        runs: Runs that were watched; others, and those that stopped before
            their end, are left out.

    Returns:
        Arrays by name, empty if there is no such run.
    """
    curves = [run["curve"] for run in runs if "curve" in run]
    if not curves:
        return {}
    longest = max(len(curve["updates"]) for curve in curves)
    whole = [c for c in curves if len(c["updates"]) == longest]
    return {
        name: np.median([np.array(c[name], float) for c in whole], axis=0)
        for name in whole[0]
    }


def markdown(rows: Sequence[dict[str, Any]], measure: str = "error, %") -> str:
    """Returns the table as text.

    Args:
        rows: Those of `table`.
        measure: What the error is.

    Returns:
        Markdown.
    """
    lines = [
        f"| method | test {measure} | ± seeds | ± searches | behind the best | "
        "test loss | after one temperature | calibration error, % | "
        "updates | seconds | at an edge |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        digits = 2 if measure.endswith("%") else 3
        behind = "–"
        if row["behind_the_best"]:
            behind = (
                f"{row['behind_the_best']:.{digits}f} ± "
                f"{row['standard_error']:.{digits}f}"
            )
            behind += "" if row["worse_than_best"] else " (the same)"
        calibration = row["calibration_error"]
        cells = [
            row["method"],
            _number(row["error"], digits),
            _number(row["deviation_of_seeds"], digits),
            _number(row["deviation_of_searches"], digits),
            behind,
            _number(row["loss"], 3),
            _number(row["calibrated_loss"], 3),
            _number(None if calibration is None else 100 * calibration, 1),
            ", ".join(map(str, row["updates"])),
            _number(row["seconds"], 2),
            ", ".join(row["at_edge"]) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
