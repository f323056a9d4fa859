"""What README and the site show of the comparisons: tables and a picture.

    python -m benchmarks.evidence

Reads the results under `benchmarks/results/comparison`, and writes the tables
between their marks in `README.md` and `docs/evidence.md`, and
`docs/evidence.png`.
"""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app
from matplotlib.figure import Figure

from trainers import standings
from trainers import usage

ROOT = pathlib.Path(__file__).parent.parent
# What is shown, by its name in `trainers.methods`.
METHODS = {
    "sgd": "SGD with Nesterov",
    "sgd_ema": "SGD, average of the weights",
    "adamw": "AdamW",
    "sam": "SAM",
    "entropy_sgd": "Entropy-SGD",
    "entropy_sgd_warm": "Entropy-SGD at a real temperature",
    "long_loop_tuned": "Entropy-SGD, long loops",
    "long_loop": "Entropy-SGD, `presets.long_loop`",
    "adam_inside": "AdamW inside that persists",
    "entropy_sgd_defaults": "Entropy-SGD, defaults",
}
BASELINES = ("sgd", "sgd_ema", "adamw", "sam")
# The sets of each table: a heading and the digits after the point.
TABLES: dict[str, dict[str, tuple[str, int]]] = {
    "digits": {
        "mnist_2k": ("20 passes", 2),
        "mnist_2k_50": ("50 passes", 2),
        "mnist_2k_noise": ("20 passes, 20 % wrong labels", 2),
        "mnist_2k_noise_50": ("50 passes, 20 % wrong labels", 2),
    },
    "others": {
        "text": ("text, bits per character", 3),
        "cifar10": ("CIFAR-10, convolutions with BatchNorm, error in %", 1),
        "diamonds": ("a table of 2,000 diamonds, error in %", 1),
        "diabetes": ("a table of 200 patients, error in %", 1),
    },
}
PAGES = {"digits": "README.md", "others": "docs/evidence.md"}
PANELS = {
    "mnist_2k_50": "2,000 digits, 50 passes",
    "mnist_2k_noise_50": "the same, 20 % wrong labels",
}


def results(name: str) -> dict[str, Any]:
    """Returns what a comparison found.

    Args:
        name: Of its file.

    Returns:
        The content of the file.
    """
    folder = ROOT / "benchmarks" / "results" / "comparison"
    return json.loads((folder / f"{name}.json").read_text())


def table(sets: dict[str, tuple[str, int]]) -> str:
    """Returns the errors of all methods on some sets.

    Args:
        sets: Heading and digits of each, by the name of its file.

    Returns:
        Markdown. An asterisk marks what is worse than the best of its set by
        two standard errors, a dash what was not tried there.
    """
    found = [
        {row["method"]: row for row in results(name)["table"]} for name in sets
    ]
    headings = [heading for heading, _ in sets.values()]
    lines = [
        f"| | {' | '.join(headings)} |",
        "|---" * (1 + len(headings)) + "|",
    ]
    for method, name in METHODS.items():
        cells = [
            f"{rows[method]['error']:.{digits}f}"
            + "*" * rows[method]["worse_than_best"]
            if method in rows
            else "–"
            for rows, (_, digits) in zip(found, sets.values(), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: str, name: str) -> str:
    """Returns a page with a table in its place.

    Args:
        page: Text with the marks `<!-- NAME -->` and `<!-- end of NAME -->`.
        name: Of the table.

    Returns:
        The text.

    Raises:
        ValueError: If the page does not have these marks once.
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    content = begin + table(TABLES[name]) + end
    new, count = re.subn(
        f"{begin}.*?{end}", lambda _: content, page, flags=re.S
    )
    if count != 1:
        raise ValueError(f"the page has the marks of {name!r} {count} times")
    return new


def draw(path: pathlib.Path) -> None:
    """Draws the errors on digits with their errors, baselines in gray.

    Args:
        path: Where to.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        runs: dict[str, list[Any]] = {}
        for winner in results(name)["winners"]:
            runs.setdefault(winner["method"], []).append(winner["test_error"])
        for place, method in enumerate(reversed(METHODS)):
            errors = np.array(runs[method])
            color = "gray" if method in BASELINES else "teal"
            axes.errorbar(
                errors.mean(), place, fmt="o", color=color, capsize=3,
                xerr=2 * standings.standard_error(errors),
            )  # fmt: skip
            axes.plot(errors.mean(1), [place] * len(errors), "|", color=color)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("test error, %")
        axes.grid(axis="x", alpha=0.3)
    names = [name.replace("`", "") for name in reversed(METHODS.values())]
    panels[0].set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str]) -> None:
    """Writes tables and picture.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    for name, page in PAGES.items():
        path = ROOT / page
        path.write_text(with_table(path.read_text(), name))
    draw(ROOT / "docs" / "evidence.png")


if __name__ == "__main__":
    app.run(main)
