"""Does averaging predictions around the weights help loss and calibration?

    python -m benchmarks.calibration --npz=mnist.npz

Trains 784-128-10 with SGD on some of the digits, its weight decay chosen on
validation digits, and averages the predictions of chains around the weights, at
the scope and temperature with the least validation loss. The loss of the chains
is that of the training, weight decay included, so that the weights are where it
is least. Written are test
error, log loss, raw and after one temperature that is fitted on validation
digits, and expected calibration error, of the single network and of the
average, for each seed. Without `--npz` the digits are those that an installed
package ships.
"""

import itertools
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app
from absl import flags
from matplotlib.figure import Figure

from benchmarks import common
from entropy_keras import landscape
from entropy_keras.landscape import calibration
from trainers import comparison
from trainers import methods
from trainers import report
from trainers import sets
from trainers import usage

_NPZ = flags.DEFINE_string("npz", None, "Keras-style file of images.")
_TRAIN_SIZE = flags.DEFINE_integer(
    "train_size", 2000, "Samples to train on.", lower_bound=100
)
_VALIDATION_SIZE = flags.DEFINE_integer(
    "validation_size", 2000, "Samples to choose on.", lower_bound=100
)
_LABEL_NOISE = flags.DEFINE_float(
    "label_noise", 0.0, "Share of wrong labels in both.", lower_bound=0.0,
    upper_bound=1.0,
)  # fmt: skip
_WEIGHT_DECAYS = flags.DEFINE_list(
    "weight_decays", ["1e-4", "1e-3", "3e-3", "1e-2"],
    "Weight decays to choose from.",
)  # fmt: skip
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=2)
_PASSES = flags.DEFINE_integer("passes", 30, "Passes.", lower_bound=1)
_OUTPUT = common.output_folder("benchmarks/results/calibration")

SCOPES = (0.001, 0.01, 0.1)
# In units of 1 / samples: 1 is the posterior.
TEMPERATURES = (0.03, 0.1, 0.3, 1.0)
CHAINS = {"num_chains": 2, "num_samples": 20, "steps_per_sample": 20}
MEASURES = ("error", "loss", "calibrated_loss", "calibration_error")


def judge(
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    """Returns what predictions are worth.

    Args:
        validation: Logits and labels to fit a temperature on.
        test: Those to judge.

    Returns:
        `MEASURES` of the test, and the loss on the validation data.
    """
    logits, labels = test
    fitted = calibration.fit_temperature(*validation)
    return {
        "error": 100 * float(np.mean(logits.argmax(1) != labels)),
        "loss": calibration.log_loss(logits, labels),
        "calibrated_loss": calibration.log_loss(logits, labels, fitted),
        "calibration_error": calibration.expected_calibration_error(
            logits, labels
        ),
        "fitted_temperature": fitted,
        "validation_loss": calibration.log_loss(*validation),
    }


def trained(
    chosen: sets.Set, runner: comparison.Runner, seed: int
) -> keras.Model:
    """Returns a network whose weight decay is the best on validation data.

    Args:
        chosen: Network and data.
        runner: What trains it.
        seed: Of weights and order.

    Returns:
        A compiled model with the penalty that it was trained with.
    """
    least = float("inf")
    for decay in map(float, _WEIGHT_DECAYS.value):
        runner.run({"learning_rate": 0.05, "weight_decay": decay}, seed)
        loss = runner.judge(chosen.data[1])["loss"]
        if loss is not None and loss < least:
            least, weights = loss, runner.model.get_weights()
            penalty = keras.regularizers.L2(decay / 2)
    model = chosen.build_model(penalty)
    model.set_weights(weights)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def measure(
    chosen: sets.Set, runner: comparison.Runner, seed: int
) -> dict[str, Any]:
    """Trains one network and averages around its weights.

    Args:
        chosen: Network and data.
        runner: What trains it.
        seed: Of weights, order and noise.

    Returns:
        What the single network, and what every average is worth.
    """
    train, validation, test = chosen.data
    model = trained(chosen, runner, seed)
    count = len(validation[1])

    def parts(logits: np.ndarray) -> dict[str, float]:
        return judge((logits[:count], validation[1]), (logits[count:], test[1]))

    x = np.concatenate([validation[0], test[0]])
    single = parts(model.predict(x, 2000, verbose=0))
    objective = landscape.Objective(model, train)
    predictor = landscape.Predictor(
        landscape.Chains(objective), x, "softmax", batch_size=20_000
    )
    averages = []
    for scope, share in itertools.product(SCOPES, TEMPERATURES):
        plan = landscape.Plan(
            scope, share / len(train[1]), CHAINS["num_chains"], seed=seed
        )
        local = predictor.predict(
            plan, CHAINS["num_samples"], CHAINS["steps_per_sample"]
        )
        averages.append({
            "scope": scope,
            "temperature_times_samples": share,
            "measured_temperature_times_samples": local.temperature
            * len(train[1]),
            "r_hat": local.r_hat,
            "reason": local.reason,
            **parts(local.logits),
        })
    return {"seed": seed, "single": single, "local": averages}


def chosen_local(run: dict[str, Any]) -> dict[str, Any]:
    """Returns the average with the least validation loss.

    Args:
        run: What `measure` found.

    Returns:
        Its row.
    """
    return min(run["local"], key=lambda row: row["validation_loss"])


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Returns means and deviations over seeds, and of paired differences.

    Args:
        runs: What `measure` found, by seed.

    Returns:
        Markdown.
    """
    lines = [
        "| | single network | averaged | difference |",
        "|---|---|---|---|",
    ]
    for name in MEASURES:
        one = np.array([run["single"][name] for run in runs])
        other = np.array([chosen_local(run)[name] for run in runs])
        difference = other - one
        error = difference.std(ddof=1) / len(runs) ** 0.5
        lines.append(
            f"| {name.replace('_', ' ')} | {one.mean():.4g} ± "
            f"{one.std(ddof=1):.2g} | {other.mean():.4g} ± "
            f"{other.std(ddof=1):.2g} | {difference.mean():+.4f} ± "
            f"{error:.4f} |"
        )
    return "\n".join(lines) + "\n"


def draw(path: pathlib.Path, runs: Sequence[dict[str, Any]]) -> None:
    """Draws the test loss, raw and after one temperature.

    Args:
        path: Where to.
        runs: What `measure` found, by seed.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, 2, sharey=True), MEASURES[1:3], strict=True
    ):
        single = np.array([run["single"][name] for run in runs])
        axes.axhline(single.mean(), color="black", label="single network")
        for i, scope in enumerate(SCOPES):
            values = np.array([
                [row[name] for row in run["local"] if row["scope"] == scope]
                for run in runs
            ])
            axes.errorbar(
                TEMPERATURES, values.mean(0),
                values.std(0, ddof=1) / len(runs) ** 0.5, color=f"C{i}",
                marker="o", capsize=2, label=f"averaged, scope {scope:g}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("temperature times number of samples")
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(alpha=0.3)
        low = min(single.mean(), values.mean(0).min())
        axes.set_ylim(0.9 * low, 1.6 * single.mean())
    axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("test loss, nats")
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and writes.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    sizes = sets.Sizes(
        _TRAIN_SIZE.value, _VALIDATION_SIZE.value, _LABEL_NOISE.value
    )
    try:
        chosen = sets.images(_NPZ.value, sizes)
    except ValueError as error:
        sys.exit(f"error: {error}")
    runner = comparison.Runner(
        chosen.build_model, methods.METHODS["sgd"], {}, chosen.data[0],
        batch_size=32, passes=_PASSES.value,
    )  # fmt: skip
    runs = []
    for seed in range(_SEEDS.value):
        start = time.monotonic()
        runs.append(measure(chosen, runner, seed))
        print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    source = _NPZ.value and pathlib.Path(_NPZ.value).name
    report.write_results(
        folder / "calibration.json",
        {
            "command": "python -m benchmarks.calibration",
            "settings": {
                "npz": source,
                **sizes._asdict(),
                "passes": _PASSES.value,
                "seeds": _SEEDS.value,
                "weight_decays": _WEIGHT_DECAYS.value,
                **CHAINS,
            },
            "runs": runs,
        },
    )
    draw(folder / "calibration.png", runs)
    print(table(runs))


if __name__ == "__main__":
    app.run(main)
