"""Figure 2 of the paper: where the minimum of -F lies."""

import functools
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from matplotlib import colors

from entropy_keras import landscape
from trainers import report
from trainers.experiments.landscape import cartoon
from trainers.report import plt

# Both hold the bottoms of the two valleys.
POSITIONS = np.linspace(-4.0, 5.0, 901)
SAMPLED_POSITIONS = np.linspace(-4.0, 5.0, 46)
MAP_SCOPES = np.geomspace(0.3, 1000.0, 29)
MAP_TEMPERATURES = np.geomspace(0.02, 5.0, 25)


def measure(
    scopes: Sequence[float],
    temperatures: Sequence[float],
    *,
    num_chains: int,
    num_steps: int,
    step_size: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Computes -F by quadrature and by sampling.

    Args:
        scopes: Scopes.
        temperatures: Temperatures.
        num_chains: See `cartoon.sample`, as for the rest.
        num_steps: Steps of each chain.
        step_size: Step size.
        seed: Seed of the noise.

    Returns:
        One row for each pair of temperature and scope: where the minimum lies
        by either method, what was found at `SAMPLED_POSITIONS`, and what
        `landscape.local_entropy` says of both valleys.
    """
    rows = []
    for temperature in temperatures:
        for scope in scopes:
            exact = -cartoon.integrate(POSITIONS, scope, temperature).value
            at_samples = -cartoon.integrate(
                SAMPLED_POSITIONS, scope, temperature
            ).value
            sampled = cartoon.sample(
                SAMPLED_POSITIONS,
                scope,
                temperature,
                num_chains=num_chains,
                num_steps=num_steps,
                step_size=step_size,
                seed=seed,
            )
            rows.append({
                "temperature": temperature,
                "scope": scope,
                "minimum_by_quadrature": _place(POSITIONS, exact),
                "minimum_by_sampling": _place(
                    SAMPLED_POSITIONS, -sampled.value
                ),
                "by_quadrature": at_samples.round(4).tolist(),
                "by_sampling": (-sampled.value).round(4).tolist(),
                "standard_error": sampled.error.round(4).tolist(),
                "at_valleys": at_valleys(
                    landscape.Plan(
                        scope, temperature, num_steps=num_steps, seed=seed
                    )
                ),
            })
    return rows


def _place(x: np.ndarray, values: np.ndarray) -> float:
    return round(float(x[values.argmin()]), 2)


@functools.cache
def _model_and_chains() -> tuple[keras.Model, landscape.Chains]:
    """Returns a Keras model of one weight whose loss is the cartoon."""
    model = keras.Sequential([
        keras.Input([1]),
        keras.layers.Dense(1, use_bias=False),
    ])
    data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    objective = landscape.Objective(model, data, lambda _, y: cartoon.loss(y))
    return model, landscape.Chains(objective)


def at_valleys(plan: landscape.Plan) -> dict[str, dict[str, Any]]:
    """Estimates -F in both valleys as for any Keras model.

    Args:
        plan: Scope, temperature and effort.

    Returns:
        For each valley -F by quadrature and by `landscape.local_entropy`, with
        standard error and bounds; no estimate where that withholds it.
    """
    model, chains = _model_and_chains()
    results = {}
    for name, x in (("wide", cartoon.WIDE), ("sharp", cartoon.SHARP)):
        model.set_weights([np.full([1, 1], x)])
        with warnings.catch_warnings():
            # A value that is withheld is a result here.
            warnings.filterwarnings("ignore", "The local entropy is only")
            found = landscape.estimate_local_entropy(chains, plan)
        exact = cartoon.integrate(np.array([x]), plan.scope, plan.temperature)
        results[name] = {
            "by_quadrature": round(-float(exact.value[0]), 4),
            "estimate": round(-found.estimate, 4) if found.converged else None,
            "standard_error": (
                round(found.standard_error, 4) if found.converged else None
            ),
            "bounds": [
                round(-found.upper_bound, 4),
                round(-found.lower_bound, 4),
            ],
            "method": found.method,
            "reason": found.reason,
        }
    return results


def minima() -> np.ndarray:
    """Returns where the minimum of -F lies, by quadrature.

    Returns:
        Positions, of shape `[temperatures, scopes]`, at those of the map.
    """
    x = POSITIONS[::20]
    return np.array([
        [
            x[cartoon.integrate(x, scope, temperature).value.argmax()]
            for scope in MAP_SCOPES
        ]
        for temperature in MAP_TEMPERATURES
    ])


def draw(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Draws one panel per temperature, and the map of the minima.

    Args:
        path: Path of the PNG.
        rows: What `measure` returned.
    """
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    count = len(temperatures) + 1
    figure, panels = plt.subplots(
        1, count, figsize=(4.6 * count, 4.2), layout="constrained"
    )
    for axes, temperature in zip(panels, temperatures, strict=False):
        chosen = [row for row in rows if row["temperature"] == temperature]
        _draw_curves(axes, chosen)
        axes.set_title(f"temperature {temperature:g}")
    panels[0].set_ylabel("loss, and −F less its value for a flat loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=len(labels), fontsize=9
    )
    _draw_map(figure, panels[-1], rows)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_curves(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.plot(
        POSITIONS,
        cartoon.loss(POSITIONS),
        color="black",
        lw=1.2,
        label="loss f",
    )
    palette = plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(rows)))
    for row, color in zip(rows, palette, strict=True):
        scope, temperature = row["scope"], row["temperature"]
        values = -cartoon.integrate(POSITIONS, scope, temperature).value
        axes.plot(
            POSITIONS, values, color=color, lw=1.6, label=f"−F, scope {scope:g}"
        )
        axes.errorbar(
            SAMPLED_POSITIONS, row["by_sampling"], row["standard_error"],
            color=color, fmt="o", ms=3.4, mew=0, elinewidth=0.8, alpha=0.8,
        )  # fmt: skip
        place = values.argmin()
        axes.plot(
            POSITIONS[place], values[place], "v", color=color, ms=9,
            mec="black", mew=0.8, zorder=5,
        )  # fmt: skip
    axes.plot([], [], "o", color="grey", ms=4, label="−F by sampling")
    axes.plot(
        [], [], "v", color="white", mec="black", ms=9, label="minimum of −F"
    )
    axes.set_xlabel("weight x")
    axes.set_xlim(-4, 5)
    axes.set_ylim(-0.6, 8.4)
    axes.grid(alpha=0.25)


def _draw_map(figure: Any, axes: Any, rows: list[dict[str, Any]]) -> None:
    mesh = axes.pcolormesh(
        MAP_SCOPES,
        MAP_TEMPERATURES,
        minima(),
        cmap="coolwarm",
        norm=colors.TwoSlopeNorm(0.5, cartoon.WIDE, cartoon.SHARP),
        shading="nearest",
    )
    axes.plot(
        [row["scope"] for row in rows],
        [row["temperature"] for row in rows],
        "o", color="white", mec="black", ms=5,
    )  # fmt: skip
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="scope",
        ylabel="temperature",
        title="where the minimum of −F lies",
    )
    bar = figure.colorbar(mesh, ax=axes, ticks=[cartoon.WIDE, cartoon.SHARP])
    bar.ax.set_yticklabels(["wide\nvalley", "sharp\nvalley"])


def write(
    workdir: pathlib.Path, rows: list[dict[str, Any]], command: dict[str, Any]
) -> None:
    """Writes `figure2.png` and `figure2.json`.

    Args:
        workdir: Folder, made if it does not exist.
        rows: What `measure` returned.
        command: What the JSON says of the command besides its results.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    draw(workdir / "figure2.png", rows)
    report.write_json(
        workdir / "figure2.json",
        command
        | {
            "versions": report.versions(),
            "sampled_positions": SAMPLED_POSITIONS.round(2).tolist(),
            "rows": rows,
        },
    )
