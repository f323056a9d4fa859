"""One factor of Entropy-SGD at a time, and how flat solutions are."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import scipy.stats

from entropy_keras import landscape
from trainers import comparison
from trainers import search
from trainers import standings


class Variant(NamedTuple):
    """What differs from the winner.

    Attributes:
        factor: Its name.
        setting: Its value, in words.
        factors: What multiplies the winner's knobs, by name.
        choices: Arguments of `EntropySGD` that replace the winner's.
    """

    factor: str
    setting: str
    factors: Mapping[str, float]
    choices: Mapping[str, Any]


def _choices(factor: str, settings: Sequence[Any]) -> list[Variant]:
    return [Variant(factor, str(s), {}, {factor: s}) for s in settings]


_TEMPERATURES = (5e-9, 1e-4, 1e-3, 1e-2)
VARIANTS = [
    *(
        Variant("scope", f"times {f:g}", {"scope": f}, {})
        for f in (0.0, 0.1, 10.0)
    ),
    *_choices("num_langevin_steps", [1, 2, 5, 10, 20, 50]),
    *_choices("averaging_rate", [0.25, 0.5, 1.0, None]),
    *_choices("temperature", _TEMPERATURES),
    *(
        Variant(
            "temperature", f"{t:g}, noise taken out", {},
            {"temperature": t, "subtract_noise": True},
        )
        for t in _TEMPERATURES[1:]
    ),
    *_choices("sampler", ["split_sgld", "sghmc"]),
    *_choices("momentum", [0.0, 0.5]),
    *_choices("estimator", ["mean_gradient"]),
    *(
        Variant(
            "start", f"stationary, temperature {t:g}, noise taken out", {},
            {"start": "stationary", "temperature": t, "subtract_noise": True},
        )
        for t in _TEMPERATURES[1:3]
    ),
    *_choices("data_weight", [0.1, 1.0]),
    *_choices("share_batch", [True]),
    *_choices("recalibrate", [False]),
]  # fmt: skip


def ablate(
    compared: search.Comparison,
    winners: Sequence[dict[str, Any]],
    variants: Sequence[Variant] = VARIANTS,
) -> list[dict[str, Any]]:
    """Trains variants of Entropy-SGD's winners with the winners' seeds.

    Nothing is tuned again: this tells how much each factor matters at the
    settings that were found, not which of its values is best by itself.

    Args:
        compared: The comparison.
        winners: Of the method `entropy_sgd`, one of each search.
        variants: What to vary.

    Returns:
        A row for each variant, with the difference of its test error from the
        winner's, over all pairs of runs. Where the network has no batch
        normalization, no row says what it is not to recalibrate it.

    Raises:
        search.OutOfTimeError: If time is up.
    """
    rows = []
    normalizes = any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in compared.build_model(None).layers
    )
    for factor, setting, factors, choices in variants:
        if factor == "recalibrate" and not normalizes:
            continue
        differences, errors, losses = [], [], []
        for winner in winners:
            values = {
                n: v * factors.get(n, 1.0) for n, v in winner["values"].items()
            }
            trial = (values, {**winner["choices"], **choices})
            runs = [
                compared.train("entropy_sgd", trial, run["seed"], tested=True)
                for run in winner["runs"]
            ]
            found = [run["test"]["error"] for run in runs]
            errors.append(found)
            tests = [run["test"]["loss"] for run in runs]
            losses.append([np.inf if x is None else x for x in tests])
            own = [run["test"]["error"] for run in winner["runs"]]
            differences.append(np.subtract(found, own))
        pairs = np.array(differences)
        rows.append({
            "factor": factor,
            "setting": setting,
            "error": float(np.mean(errors)),
            "difference": float(pairs.mean()),
            "standard_error": standings.standard_error(pairs),
            "loss": float(np.median(losses)),
        })
    return rows


MEASURES = (
    "training_loss",
    "length_of_weights",
    "largest_eigenvalue",
    "trace",
    "sharpness",
)


def flatness(
    compared: search.Comparison,
    winners: Sequence[dict[str, Any]],
    num_seeds: int = 3,
) -> list[dict[str, Any]]:
    """Measures how flat the loss is where winners end.

    Args:
        compared: The comparison.
        winners: What to train again, with the first seeds of their tests.
        num_seeds: Seeds of each.

    Returns:
        A row for each run with its test error and what `measure` finds.
    """
    rows = []
    for winner in winners:
        name, values, choices = (
            winner[part] for part in ("method", "values", "choices")
        )
        for run in winner["runs"][:num_seeds]:
            trial = values, choices
            runner, _ = compared.trained(name, trial, run["seed"], tested=True)
            model = compared.build_model(None)
            model.set_weights(runner.model.get_weights())
            rows.append({
                "method": name,
                "search": winner["search"],
                "seed": run["seed"],
                "test_error": run["test"]["error"],
                **measure(model, compared.training_data),
            })
    return rows


def measure(model: keras.Model, data: comparison.Labelled) -> dict[str, float]:
    """Returns how flat the loss of a classifier is, without weight decay.

    Args:
        model: A model whose outputs are logits.
        data: `(x, y)`.

    Returns:
        The loss, the length of the vector of weights, largest eigenvalue and
        trace of the Hessian, and by how much the loss rises at most within a
        twentieth of that length.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    length = float(np.sqrt(sum(np.sum(w**2) for w in model.get_weights())))
    model.compile(loss=loss)
    found = [
        model.evaluate(*data, verbose=0),
        length,
        landscape.top_eigenvalues(model, data, num_eigenvalues=1).largest[0],
        landscape.trace(model, data, num_products=60).value,
        landscape.sam_sharpness(model, data, rho=length / 20),
    ]
    return dict(zip(MEASURES, map(float, found), strict=True))


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns how each measure goes with the test error over all runs.

    Args:
        rows: Those of `flatness`.

    Returns:
        Spearman's rank correlation and its p-value, by measure.
    """
    errors = [row["test_error"] for row in rows]
    return {
        name: [
            float(number)
            for number in scipy.stats.spearmanr(
                errors, [row[name] for row in rows]
            )
        ]
        for name in MEASURES
    }


def markdown_of_variants(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows of `ablate` as a table.

    Args:
        rows: The rows.

    Returns:
        Markdown.
    """
    lines = [
        "| factor | setting | test error | more than the winner | test loss |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['factor']} | {row['setting']} | {row['error']:.2f} | "
        f"{row['difference']:+.2f} ± {row['standard_error']:.2f} | "
        f"{row['loss']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def markdown_of_flatness(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows of `flatness` as a table, with their correlations.

    Args:
        rows: The rows.

    Returns:
        Markdown: medians by method, the least error first.
    """
    names = list(dict.fromkeys(row["method"] for row in rows))

    def median(name: str, figure: str) -> float:
        return float(
            np.median([r[figure] for r in rows if r["method"] == name])
        )

    figures = ("test_error", *MEASURES)
    lines = [
        f"| method | {' | '.join(f.replace('_', ' ') for f in figures)} |",
        "|---" * (len(figures) + 1) + "|",
    ]
    for name in sorted(names, key=lambda name: median(name, "test_error")):
        cells = " | ".join(f"{median(name, f):.3g}" for f in figures)
        lines.append(f"| {name} | {cells} |")
    cells = " | ".join(f"{c:+.2f}" for c, _ in correlations(rows).values())
    lines.append(f"| rank correlation with the test error | | {cells} |")
    return "\n".join(lines) + "\n"
