"""What a run leaves behind: JSON, CSV and pictures."""

import csv
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import time
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

PACKAGES = ("entropy_keras", "keras", "numpy", "tensorflow")


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on.

    Returns:
        Version by name of the package; a package that is imported without
        being installed is left out.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one step.

    Args:
        path: Path of the file.
        content: What it holds; numbers that are not finite become null.
    """
    partial = path.with_suffix(".partial")
    text = json.dumps(finite(content), indent=2, allow_nan=False)
    partial.write_text(text + "\n")
    os.replace(partial, path)


def finite(content: Any) -> Any:
    """Returns what JSON can hold, numbers that are not finite as `None`."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_json(path: pathlib.Path) -> Any:
    """Reads a file that a run has written.

    Args:
        path: Path of the file.

    Returns:
        Its content.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(
            f"`workdir` must hold whole files: {path.name} is damaged, remove "
            "it if only it is lost, or the folder to begin anew. Received: "
            f"workdir={path.parent}, {error}"
        ) from error


def write_results(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes results with what they depend on.

    Args:
        path: Path of the JSON file.
        content: The results; the date and the versions are added.
    """
    common = {"date": time.strftime("%Y-%m-%d"), "versions": versions()}
    write_json(path, common | content)


def write_history(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes the logs of the epochs as CSV.

    Args:
        path: Path of the file.
        rows: One dictionary per epoch, all with the same keys.
    """
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def plot_curves(
    path: pathlib.Path, rows: list[dict[str, Any]], title: str
) -> None:
    """Draws loss and error over gradient evaluations.

    Args:
        path: Path of the PNG.
        rows: One dictionary per epoch with `gradient_evaluations`, `loss`,
            `accuracy` and, where there was validation, `val_loss` and
            `val_accuracy`.
        title: Title of the figure.
    """
    x = [row["gradient_evaluations"] for row in rows]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.5), layout="constrained"
    )
    for prefix, label in (("", "training"), ("val_", "held out")):
        if f"{prefix}loss" not in rows[0]:
            continue
        left.plot(x, [row[f"{prefix}loss"] for row in rows], label=label)
        errors = [100 * (1 - row[f"{prefix}accuracy"]) for row in rows]
        right.plot(x, errors, label=label)
    left.set_ylabel("loss")
    right.set_ylabel("error [%]")
    for axes in (left, right):
        axes.set_xlabel("gradient evaluations")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
