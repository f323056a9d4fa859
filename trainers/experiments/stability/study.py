"""The study of uniform stability: SGD against Entropy-SGD."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from entropy_keras import landscape
from trainers import data
from trainers import report
from trainers.experiments.stability import replacement
from trainers.report import plt

# Of the default optimizer; see `entropy_keras.EntropySGD`.
_SCOPE = 0.03
_COLORS = ("black", "tab:red", "tab:blue")


def select(split: data.Split, rows: Sequence[int] | np.ndarray) -> data.Split:
    """Returns some of the examples of a split.

    Args:
        split: A split.
        rows: Which examples.

    Returns:
        A new split.
    """
    return data.Split(split.images[rows], split.labels[rows])


def run(
    splits: data.Data,
    setting: replacement.Setting,
    *,
    num_samples: int,
    num_seeds: int,
    num_replacements: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, replacement.Change]]:
    """Chooses learning rates, then measures what one example changes.

    Learning rates are chosen with other seeds, on the validation set; what is
    measured are losses on the test set.

    Args:
        splits: The data.
        setting: What all runs share.
        num_samples: Size of the training sets, fewer than there are.
        num_seeds: Seeds of the measurement.
        num_replacements: Examples replaced, one at a time.
        seed: Seed of which examples these are, and the first of the seeds.

    Returns:
        What to write as JSON, and the measurements by name of the optimizer.
    """
    train, others = training_sets(
        splits.train, num_samples, num_replacements, seed
    )
    seeds = range(seed, seed + num_seeds)
    changes, rows, constants = {}, {}, {}
    for name, arm in replacement.ARMS.items():
        rate, candidates = replacement.choose_learning_rate(
            arm,
            setting,
            train,
            splits.validation,
            range(seed + num_seeds, seed + num_seeds + 2),
        )
        runners = [
            replacement.Runner(arm, rate, setting, num_samples, each)
            for each in seeds
        ]
        changes[name] = replacement.measure(runners, train, others, splits.test)
        rows[name] = {
            "learning_rate": rate,
            "validation_losses": {
                str(r): np.round(losses, 4).tolist()
                for r, losses in candidates.items()
            },
            "num_updates": runners[0].num_updates,
        }
        if name == "SGD":
            constants = equation_10(runners[-1], train)
    for name, change in changes.items():
        rows[name] |= summary(change, common_loss(changes.values()))
        rows[name] |= {
            "weight_change_over_sgd": ratio(
                change.weights, changes["SGD"].weights
            ),
            "loss_change_over_sgd": ratio(change.losses, changes["SGD"].losses),
        }
    return {"optimizers": rows, "equation_10": constants}, changes


def training_sets(
    split: data.Split, num_samples: int, num_replacements: int, seed: int
) -> tuple[data.Split, list[data.Split]]:
    """Draws a training set, and others that differ from it in one example.

    Args:
        split: What to draw from.
        num_samples: Size of the training sets.
        num_replacements: How many others.
        seed: Seed of the draws.

    Returns:
        The training set and the others, each with a new example in another
        place.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(split.labels))
    train = select(split, rows[:num_samples])
    places = rng.choice(num_samples, num_replacements, replace=False)
    others = [
        replacement.replaced(
            train, place, by=select(split, rows[[num_samples + i]])
        )
        for i, place in enumerate(places)
    ]
    return train, others


def common_loss(changes: Any) -> float:
    """Returns the lowest training loss that every run reaches.

    Args:
        changes: The measurements.

    Returns:
        The loss.
    """
    return max(
        float(run.train_loss.min()) for change in changes for run in change.base
    )


def summary(change: replacement.Change, level: float) -> dict[str, Any]:
    """Reduces a measurement to means and deviations.

    Args:
        change: The measurement.
        level: Training loss that each run reaches.

    Returns:
        Each as `[mean, standard deviation]` over seeds and replacements, or
        over seeds for what has no replacement.
    """
    reached = [int((run.train_loss <= level).argmax()) for run in change.base]
    at_level = np.stack([
        losses[:, place]
        for losses, place in zip(change.losses, reached, strict=True)
    ])
    gaps = [run.losses[-1].mean() - run.train_loss[-1] for run in change.base]
    return {
        "train_loss": _moments([run.train_loss[-1] for run in change.base]),
        "test_loss": _moments([run.losses[-1].mean() for run in change.base]),
        "test_error_percent": _moments([
            100 * run.errors[-1] for run in change.base
        ]),
        "generalization_gap": _moments(gaps),
        "weight_change": _moments(change.weights[..., -1]),
        "loss_change": _moments(change.losses[..., -1]),
        "loss_change_at_train_loss": [round(level, 4), *_moments(at_level)],
        "largest_expected_loss_change": _moments(
            np.abs(change.expected).max(axis=1)
        ),
    }


def ratio(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Compares the ends of two measurements pair by pair.

    Args:
        ours: Of shape `[seeds, replacements, passes]`.
        theirs: Of that shape, with the same seeds and replacements.

    Returns:
        Geometric mean of the ratios, and the ends of a band of two standard
        errors. Runs that share a replacement are alike, so the error is that
        of the means over the seeds.
    """
    logarithms = np.log(ours[..., -1] / theirs[..., -1]).mean(axis=0)
    error = logarithms.std(ddof=1) / np.sqrt(len(logarithms))
    ends = logarithms.mean() + 2 * error * np.array([0, -1, 1])
    return np.exp(ends).round(4).tolist()


def _moments(values: Any) -> list[float]:
    """Returns mean and standard deviation."""
    deviation = np.std(values, ddof=1)
    return [round(float(np.mean(values)), 5), round(float(deviation), 5)]


def equation_10(
    runner: replacement.Runner, train: data.Split
) -> dict[str, Any]:
    """Measures the constants of eq. 10 where SGD ended.

    Args:
        runner: Of SGD; its model has just been trained.
        train: The training set.

    Returns:
        The constants and the ratio that follows from them.
    """
    model = runner.model
    ends = landscape.top_eigenvalues(model, train, num_eigenvalues=1)
    constants: dict[str, Any] = {
        "lipschitz": replacement.largest_gradient(model, train),
        "smoothness": float(ends.largest[0]),
        "num_updates": runner.num_updates,
        "scope": _SCOPE,
    }
    # The weights of a pixel that is always black have no effect at all, so
    # zero is an eigenvalue, and the c of Lemma 2 is zero.
    dark = int((train.images.max(axis=0) == 0).sum())
    ratios = {
        f"ratio_{form}_if_the_gap_were_{gap:g}": landscape.stability_ratio(
            **constants, gap=gap, form=form
        )
        for gap in (0.0, _SCOPE)
        for form in ("exact", "paper")
    }
    return constants | {
        "smallest_eigenvalue": float(ends.smallest[0]),
        "smallest_eigenvalue_error": float(ends.smallest_errors[0]),
        "pixels_always_black": dark,
        "gap": 0.0 if dark else None,
        **ratios,
    }


def draw(
    path: pathlib.Path, changes: dict[str, replacement.Change], batches: int
) -> None:
    """Draws the changes over the run, and against the training loss.

    Args:
        path: Path of the PNG.
        changes: The measurements by name of the optimizer.
        batches: Gradient evaluations of one pass.
    """
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13.5, 4.0), layout="constrained"
    )
    for (name, change), color in zip(changes.items(), _COLORS, strict=False):
        passes = np.arange(1, change.losses.shape[-1] + 1) * batches
        for axes, values in ((left, change.weights), (middle, change.losses)):
            values = values.reshape(-1, len(passes))
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
            axes.plot(passes, mean, color=color, label=name)
            axes.fill_between(
                passes,
                np.maximum(mean - deviation, 0),
                mean + deviation,
                color=color,
                alpha=0.15,
                lw=0,
            )
        train_loss = np.mean([run.train_loss for run in change.base], axis=0)
        right.plot(
            train_loss, change.losses.mean(axis=(0, 1)), ".-", color=color
        )
    left.set(
        xlabel="gradient evaluations", ylabel="change of the weights, norm"
    )
    middle.set(
        xlabel="gradient evaluations", ylabel="mean change of a test loss"
    )
    right.set(
        xlabel="training loss (training runs to the right)",
        ylabel="mean change of a test loss",
        xscale="log",
    )
    right.invert_xaxis()
    for axes in (left, middle, right):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, which="both")
    left.legend()
    figure.suptitle(
        "What replacing one training example changes (mean ± deviation)"
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write(
    workdir: pathlib.Path,
    content: dict[str, Any],
    changes: dict[str, replacement.Change],
    batches: int,
) -> None:
    """Writes `stability.png` and `stability.json`.

    Args:
        workdir: Folder, made if it does not exist.
        content: What the JSON holds besides versions.
        changes: The measurements.
        batches: Gradient evaluations of one pass.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    draw(workdir / "stability.png", changes, batches)
    report.write_json(
        workdir / "stability.json", content | {"versions": report.versions()}
    )
