"""What does talking less cost in accuracy?

    python -m benchmarks.replicas --npz=mnist.npz

Trains 784-128-10 on 1, 2 and 4 replicas, logical devices of one machine, which
talk once per gradient (SGD), or once per 5 or 20 (Entropy-SGD). Each replica
has mini-batches of 32 rows of its own, and all together make the same number of
gradients in every run: the passes over the data. The step size of each is the
best of five on validation digits; written are test errors of new seeds. Without
`--npz` the digits are those that an installed package ships.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app
from absl import flags
from matplotlib.figure import Figure

import entropy_keras
from benchmarks import common
from trainers import report
from trainers import sets
from trainers import usage

_NPZ = flags.DEFINE_string("npz", None, "Keras-style file of images.")
_PASSES = flags.DEFINE_integer("passes", 20, "Passes.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=2)
_REPLICAS = flags.DEFINE_integer(
    "replicas", None, "Train on as many in this process, and print JSON.",
    lower_bound=1,
)  # fmt: skip
_OUTPUT = common.output_folder()

COUNTS, GRADIENTS = (1, 2, 4), (1, 5, 20)
RATES = (0.025, 0.05, 0.1, 0.2, 0.4)
SIZE = 32


def train(
    chosen: sets.Set, strategy: Any, num_gradients: int, rate: float, seed: int
) -> Any:
    """Trains once.

    Args:
        chosen: Network and data.
        strategy: The replicas.
        num_gradients: K, gradients between two all-reduces.
        rate: The step size.
        seed: Of weights, order and noise.

    Returns:
        A function that gives the error in percent on samples and labels.
    """
    x, y = chosen.data[0]
    count = strategy.num_replicas_in_sync
    per_pass = len(x) // (count * SIZE)
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed)
    rows = np.concatenate([
        order.permutation(len(x))[: per_pass * count * SIZE]
        for _ in range(_PASSES.value)
    ])
    updates = -(-_PASSES.value * per_pass // num_gradients)
    decay = keras.optimizers.schedules.CosineDecay
    with strategy.scope():
        model = entropy_keras.EntropyModel.from_model(chosen.build_model(None))
        optimizer: Any = keras.optimizers.SGD(
            decay(rate, updates), momentum=0.9, nesterov=True
        )
        if num_gradients > 1:
            optimizer = entropy_keras.EntropySGD(
                decay(1.0, updates),
                num_langevin_steps=num_gradients,
                langevin_learning_rate=rate,
                temperature=0.0,
                seed=seed,
            )
        model.compile(
            optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    model.fit(x[rows], y[rows], batch_size=count * SIZE, shuffle=False,
              verbose=0)  # fmt: skip

    def error(samples: np.ndarray, labels: np.ndarray) -> float:
        logits = model(samples, training=False).numpy()
        return 100 * float(np.mean(logits.argmax(1) != labels))

    return error


def measure(chosen: sets.Set, strategy: Any) -> list[dict[str, Any]]:
    """Trains with every K, at the best of the step sizes.

    Args:
        chosen: Network and data.
        strategy: The replicas.

    Returns:
        A row for each K.
    """
    rows = []
    for k in GRADIENTS:
        found = {
            rate: train(chosen, strategy, k, rate, seed=0)(*chosen.data[1])
            for rate in RATES
        }
        rate = min(found, key=lambda rate: found[rate])
        errors = [
            train(chosen, strategy, k, rate, seed)(*chosen.data[2])
            for seed in range(1, _SEEDS.value + 1)
        ]
        rows.append({
            "replicas": strategy.num_replicas_in_sync,
            "gradients_per_update": k,
            "step_size": rate,
            "at_edge": rate in {RATES[0], RATES[-1]},
            "test_error": errors,
        })
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the test errors, a row for each K.

    Args:
        rows: Those of `measure`, of all numbers of replicas.

    Returns:
        Markdown.
    """
    lines = [
        "| K | " + " | ".join(f"{c} replica(s)" for c in COUNTS) + " |",
        "|---" * (1 + len(COUNTS)) + "|",
    ]
    for k in GRADIENTS:
        cells = [
            f"{np.mean(row['test_error']):.2f} ± "
            f"{np.std(row['test_error'], ddof=1):.2f} ({row['step_size']:g})"
            for row in rows
            if row["gradients_per_update"] == k
        ]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the test error against the number of replicas.

    Args:
        path: Where to.
        rows: Those of `measure`, of all numbers of replicas.
    """
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, k in enumerate(GRADIENTS):
        errors = np.array([
            row["test_error"]
            for row in rows
            if row["gradients_per_update"] == k
        ])
        axes.errorbar(
            np.array(COUNTS) * (1 + 0.03 * (i - 1)), errors.mean(1),
            errors.std(1, ddof=1), marker="o", capsize=3,
            label="K = 1, SGD" if k == 1 else f"K = {k}, Entropy-SGD",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(COUNTS, [str(c) for c in COUNTS])
    axes.set_xlabel("replicas, 32 rows of each mini-batch on each")
    axes.set_ylabel("test error, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str]) -> None:
    """Trains, prints and writes.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    if _REPLICAS.value:
        strategy = common.mirrored(_REPLICAS.value)
        chosen = sets.images(_NPZ.value, sets.Sizes(2000, 1000))
        print(json.dumps(measure(chosen, strategy)))
        return
    rows: list[dict[str, Any]] = []
    for count in COUNTS:  # TensorFlow takes one mirrored strategy a process.
        done = subprocess.run(
            [
                sys.executable, "-m", "benchmarks.replicas",
                f"--replicas={count}", f"--passes={_PASSES.value}",
                f"--seeds={_SEEDS.value}",
                *([f"--npz={_NPZ.value}"] if _NPZ.value else []),
            ],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        rows += json.loads(done.stdout.splitlines()[-1])
    text = markdown(rows)
    print(text)
    if _OUTPUT.value:
        folder = pathlib.Path(_OUTPUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        report.write_results(
            folder / "replicas.json",
            {
                "command": "python -m benchmarks.replicas",
                "npz": _NPZ.value and pathlib.Path(_NPZ.value).name,
                "passes": _PASSES.value,
                "seeds": _SEEDS.value,
                "rows": rows,
            },
        )
        (folder / "replicas.md").write_text(text)
        draw(folder / "replicas.png", rows)


if __name__ == "__main__":
    app.run(main)
