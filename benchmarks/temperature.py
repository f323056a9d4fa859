"""What does a real temperature do to the test error?

    python -m benchmarks.temperature --output=benchmarks/results/temperature

2,500 MNIST digits that an installed package ships, tested on the other 2,500;
784-128-10, 50 passes, mini-batches of 32, L = 5, inner step 0.05, scope 0.03,
averaging rate 0.75, outer learning rate 0.7 with cosine annealing, no weight
decay. Nothing was tuned, and nothing but the temperature varies.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app
from absl import flags
from matplotlib.figure import Figure

import entropy_keras
from trainers import comparison
from trainers import data
from trainers import report
from trainers import search

_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the table, the picture and the numbers."
)
_SEEDS = flags.DEFINE_integer("seeds", 10, "Number of seeds.", lower_bound=2)
_PASSES = flags.DEFINE_integer("passes", 50, "Passes.", lower_bound=1)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures",
    ["0", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2", "3e-2", "1e-1"],
    "Temperatures.",
)

VALUES = {
    "learning_rate": 0.7,
    "step_size": 0.05,
    "scope": 0.03,
    "weight_decay": 0.0,
}


def method(estimator: Any) -> comparison.Method:
    """Returns Entropy-SGD with its temperature as a knob.

    Args:
        estimator: The estimator.

    Returns:
        The method.
    """
    return comparison.Method(
        lambda knobs, num_updates, choices: comparison.entropy_sgd(
            knobs,
            num_updates,
            choices,
            temperature=lambda update: knobs["temperature"],
            estimator=estimator,
        ),
        {},
    )


def main(arguments: Sequence[str]) -> None:
    """Trains, and prints the table.

    Args:
        arguments: The command line without its flags.
    """
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")
    digits = data.load("digits").train, data.load("digits").test
    x, y = (np.concatenate(parts) for parts in zip(*digits, strict=True))
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x.reshape(len(y), -1)[order], y[order].astype("int32")
    half = len(y) // 2
    errors: dict[str, dict[str, list[float]]] = {}
    for name, estimator in (
        ("plain displacement", entropy_keras.Displacement()),
        (
            "noise's own path taken out",
            entropy_keras.Displacement(subtract_noise=True),
        ),
    ):
        runner = comparison.Runner(
            search.perceptron(x.shape[1], 10, 128),
            method(estimator),
            {},
            (x[:half], y[:half]),
            batch_size=32,
            passes=_PASSES.value,
        )
        errors[name] = {}
        for temperature in _TEMPERATURES.value:
            values = VALUES | {"temperature": float(temperature)}
            found = errors[name][temperature] = []
            for seed in range(_SEEDS.value):
                runner.run(values, seed)
                found.append(runner.judge((x[half:], y[half:]))["error"])
            print(name, temperature, np.mean(found), flush=True)
    text = markdown(errors)
    print(text)
    if _OUTPUT.value:
        write(pathlib.Path(_OUTPUT.value), errors, text)


def markdown(errors: dict[str, dict[str, list[float]]]) -> str:
    """Returns the means and standard errors as a table.

    Args:
        errors: Test errors of all seeds by estimator and temperature.

    Returns:
        Markdown.
    """
    temperatures = list(next(iter(errors.values())))
    lines = [
        "| test error, %, at temperature | " + " | ".join(temperatures) + " |",
        "|---" * (len(temperatures) + 1) + "|",
    ]
    for name, row in errors.items():
        cells = [
            f"{np.mean(e):.2f} ± {np.std(e, ddof=1) / len(e) ** 0.5:.2f}"
            for e in row.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(
    folder: pathlib.Path, errors: dict[str, dict[str, list[float]]], text: str
) -> None:
    """Writes numbers, table and picture.

    Args:
        folder: Where to.
        errors: Test errors of all seeds by estimator and temperature.
        text: The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "command": "python -m benchmarks.temperature",
        "settings": VALUES | {"passes": _PASSES.value, "seeds": _SEEDS.value},
        "errors": errors,
    }
    report.write_results(folder / "temperature.json", content)
    (folder / "temperature.md").write_text(text)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, row in errors.items():
        axes.errorbar(
            [float(t) for t in row],
            [np.mean(e) for e in row.values()],
            yerr=[2 * np.std(e, ddof=1) / len(e) ** 0.5 for e in row.values()],
            marker="o",
            capsize=2,
            label=name,
        )
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.set_ylim(top=min(axes.get_ylim()[1], 14))
    axes.set_xlabel("temperature")
    axes.set_ylabel("test error, %: mean and two standard errors")
    axes.set_title("2,500 digits, 784-128-10, nothing tuned", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "temperature.png", dpi=150)


if __name__ == "__main__":
    app.run(main)
