"""Searches for the best of each method, and what may be said of them.

Each method gets the same number of random trials, judged on a validation set.
The best four are trained again with three more seeds, the best mean wins, and
the winner is trained with new seeds and tested, once. The whole is done several
times, since the scatter of searches is larger than that of seeds.
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import scipy.stats
import tqdm

from trainers import comparison
from trainers import report

FINALISTS, FINAL_SEEDS = 4, 3
Labelled = tuple[np.ndarray, np.ndarray]


class OutOfTimeError(Exception):
    """The minutes that were allowed are over."""


class Comparison:
    """All runs of a comparison, each made once and kept in a folder.

    Args:
        build_model: Takes a kernel regularizer, returns a model whose outputs
            are logits.
        train: `(x, y)` to train on.
        validation: `(x, y)` to choose on.
        test: `(x, y)` for the winners.
        workdir: Folder of the finished runs.
        passes: Budget of gradient evaluations, in passes over the data.
        batch_size: Size of a mini-batch.
        max_minutes: When to stop with `OutOfTimeError`, `None` for never.
        jit_compile: As for `compile`.
    """

    def __init__(
        self,
        build_model: Callable[[Any], keras.Model],
        train: Labelled,
        validation: Labelled,
        test: Labelled,
        workdir: pathlib.Path,
        *,
        passes: int,
        batch_size: int,
        max_minutes: float | None = None,
        jit_compile: Any = True,
    ) -> None:
        self._build_model = build_model
        self._train, self._validation, self._test = train, validation, test
        self._workdir = workdir
        self._budget = {"passes": passes, "batch_size": batch_size}
        self._jit_compile = jit_compile
        self._end = time.monotonic() + 60 * (max_minutes or np.inf)
        self._runners: dict[str, comparison.Runner] = {}
        self.progress = tqdm.tqdm(
            unit="run", smoothing=0.05, mininterval=1.0, dynamic_ncols=True
        )

    def train(
        self, name: str, trial: tuple[Any, Any], seed: int, *, tested: bool
    ) -> dict[str, Any]:
        """Trains once, or reads what came of it.

        Args:
            name: Of the method.
            trial: Values of its knobs and of its choices.
            seed: Seed of the run.
            tested: Whether to look at the test set.

        Returns:
            What it cost, and the errors and losses.

        Raises:
            OutOfTimeError: If time is up.
        """
        values, choices = trial
        described = {
            "method": name, "values": values, "choices": choices,
            "seed": seed, "tested": tested, **self._budget,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        path = self._workdir / "finished" / f"{digest.hexdigest()[:24]}.json"
        self.progress.update()
        if path.exists():
            return json.loads(path.read_text())
        if time.monotonic() > self._end:
            raise OutOfTimeError
        self.progress.set_description(name)
        key = json.dumps([name, choices])
        if key not in self._runners:
            self._runners[key] = comparison.Runner(
                self._build_model,
                comparison.METHODS[name],
                choices,
                self._train,
                jit_compile=self._jit_compile,
                **self._budget,
            )
        runner = self._runners[key]
        found: dict[str, Any] = described | runner.run(values, seed)
        found["validation"] = runner.judge(self._validation)
        if tested:
            scale = runner.fitted_scale(self._validation)
            found["test"] = runner.judge(self._test, scale)
        path.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(path, found)
        return found

    def search(
        self, name: str, search: int, num_trials: int, num_seeds: int
    ) -> dict[str, Any]:
        """Makes one whole search for one method.

        Args:
            name: Of the method.
            search: Number of the search, which seeds its trials.
            num_trials: Number of trials.
            num_seeds: Number of seeds that the winner is tested with.

        Returns:
            The winner and its tests.
        """
        method = comparison.METHODS[name]
        drawn = comparison.trials(method, num_trials, seed=search)

        def error(trial: Any, seeds: Sequence[int]) -> float:
            runs = [self.train(name, trial, s, tested=False) for s in seeds]
            errors = [run["validation"]["error"] for run in runs]
            # What diverged is last.
            return float(np.nan_to_num(np.mean(errors), nan=100.0))

        first = 1000 * search
        ranked = sorted(drawn, key=lambda trial: error(trial, [first]))
        again = range(first + 1, first + 1 + FINAL_SEEDS)
        winner = min(ranked[:FINALISTS], key=lambda trial: error(trial, again))
        # The same seeds for all methods, which makes their runs pairs.
        seeds = range(first + 100, first + 100 + num_seeds)
        return {
            "method": name,
            "search": search,
            "values": winner[0],
            "choices": winner[1],
            "at_edge": comparison.at_edge(method, winner[0]),
            "runs": [self.train(name, winner, s, tested=True) for s in seeds],
        }


def table(winners: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each method, the best first.

    The standard error of a mean is that over searches and seeds: the variance
    of the means of the searches over their number, which holds that of the
    seeds. A method is better than another if the mean of the differences of
    paired runs is two of its standard errors away from 0.

    Args:
        winners: What `Comparison.search` returned.

    Returns:
        The rows.
    """
    rows = []
    names = list(dict.fromkeys(w["method"] for w in winners))
    means = {n: _means(winners, n, "error") for n in names}
    best = min(names, key=lambda n: means[n].mean())
    for name in sorted(names, key=lambda n: means[n].mean()):
        runs = [r for w in winners if w["method"] == name for r in w["runs"]]
        difference = means[name] - means[best]
        searches = len(difference)
        spread = difference.std(ddof=1) / searches**0.5 if searches > 1 else 0
        pairs = _errors(winners, name) - _errors(winners, best)
        seeds = pairs.std(ddof=1) / len(pairs) ** 0.5
        error = max(spread, seeds)
        rows.append({
            "method": name,
            "error": means[name].mean(),
            "deviation_of_seeds": float(
                np.mean([
                    np.std([r["test"]["error"] for r in w["runs"]], ddof=1)
                    for w in winners
                    if w["method"] == name
                ])
            ),
            "deviation_of_searches": float(means[name].std(ddof=1))
            if searches > 1
            else None,
            "behind_the_best": float(difference.mean()),
            "standard_error": float(error),
            "worse_than_best": bool(
                name != best and difference.mean() > 2 * error
            ),
            "p_value": float(scipy.stats.ttest_1samp(pairs, 0.0).pvalue)
            if pairs.any()
            else 1.0,
            "loss": float(_means(winners, name, "loss").mean()),
            "calibrated_loss": float(
                _means(winners, name, "calibrated_loss").mean()
            ),
            "seconds": float(np.median([r["seconds"] for r in runs])),
            "updates": runs[0]["updates"],
            "gradient_evaluations": runs[0]["gradient_evaluations"],
            "at_edge": sorted({
                e for w in winners if w["method"] == name for e in w["at_edge"]
            }),
        })
    return rows


def summary(winner: dict[str, Any]) -> dict[str, Any]:
    """Returns a winner with the figures of its runs as lists.

    Args:
        winner: What `Comparison.search` returned.

    Returns:
        A dictionary for JSON.
    """
    runs = winner["runs"]
    kept = {name: value for name, value in winner.items() if name != "runs"}
    kept["seeds"] = [run["seed"] for run in runs]
    for name in ("error", "loss", "calibrated_loss"):
        kept[f"test_{name}"] = [round(run["test"][name], 4) for run in runs]
    kept["seconds"] = [round(run["seconds"], 3) for run in runs]
    for name in ("updates", "gradient_evaluations"):
        kept[name] = runs[0][name]
    return kept


def _errors(winners: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([
        run["test"]["error"]
        for w in winners
        if w["method"] == name
        for run in w["runs"]
    ])


def _means(
    winners: Sequence[dict[str, Any]], name: str, what: str
) -> np.ndarray:
    """Returns the mean of each search."""
    return np.array([
        np.mean([run["test"][what] for run in w["runs"]])
        for w in winners
        if w["method"] == name
    ])


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table as text.

    Args:
        rows: Those of `table`.

    Returns:
        Markdown.
    """
    lines = [
        "| method | test error, % | ± seeds | ± searches | behind the best | "
        "test loss | after one temperature | updates | seconds | at an edge |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        searches = row["deviation_of_searches"]
        behind = (
            f"{row['behind_the_best']:.2f} ± {row['standard_error']:.2f}"
            f"{'' if row['worse_than_best'] else ' (the same)'}"
            if row["behind_the_best"]
            else "–"
        )
        lines.append(
            f"| {row['method']} | {row['error']:.2f} | "
            f"{row['deviation_of_seeds']:.2f} | "
            f"{'–' if searches is None else f'{searches:.2f}'} | {behind} | "
            f"{row['loss']:.3f} | {row['calibrated_loss']:.3f} | "
            f"{row['updates']} | {row['seconds']:.2f} | "
            f"{', '.join(row['at_edge']) or '–'} |"
        )
    return "\n".join(lines) + "\n"


def plot(
    path: pathlib.Path, winners: Sequence[dict[str, Any]], title: str
) -> None:
    """Draws the errors of all searches as points with intervals.

    Args:
        path: Where to.
        winners: What `Comparison.search` returned.
        title: What was compared.
    """
    from matplotlib.figure import Figure

    rows = table(winners)
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(reversed(rows)):
        for k, found in enumerate(
            w for w in winners if w["method"] == row["method"]
        ):
            errors = [run["test"]["error"] for run in found["runs"]]
            interval = 2 * np.std(errors, ddof=1) / len(errors) ** 0.5
            axes.errorbar(
                np.mean(errors), i + 0.15 * (k - 1), xerr=interval, fmt="o",
                color=f"C{k}", markersize=4, capsize=2,
                label=f"search {k}" if i == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [r["method"] for r in reversed(rows)])
    axes.set_xlabel("test error, %: mean and two standard errors over seeds")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def perceptron(
    num_features: int, num_classes: int, units: int
) -> Callable[[Any], keras.Model]:
    """Returns what builds a network of one hidden layer.

    Args:
        num_features: Length of a sample.
        num_classes: Number of outputs.
        units: Number of hidden units.

    Returns:
        A function from a kernel regularizer to a model.
    """

    def build(regularizer: Any) -> keras.Model:
        dense = keras.layers.Dense
        return keras.Sequential([
            keras.Input([num_features]),
            dense(units, "relu", kernel_regularizer=regularizer),
            dense(num_classes, kernel_regularizer=regularizer),
        ])

    return build


def with_wrong_labels(
    labels: np.ndarray, share: float, seed: int = 0
) -> np.ndarray:
    """Returns labels of which a share is replaced by others, at random.

    Args:
        labels: Integers from 0 on.
        share: From 0 to 1.
        seed: Of the draws.

    Returns:
        As many labels.
    """
    rng = np.random.default_rng(seed)
    num_classes = labels.max() + 1
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] += rng.integers(1, num_classes, len(wrong)).astype(
        labels.dtype
    )
    return noisy % num_classes


def compare(
    build_model: Callable[[Any], keras.Model],
    data: tuple[Labelled, Labelled, Labelled],
    methods: Sequence[str],
    budget: int,
    *,
    workdir: str | pathlib.Path,
    batch_size: int = 32,
    num_trials: int = 24,
    num_searches: int = 3,
    num_seeds: int = 10,
    max_minutes: float | None = None,
    jit_compile: Any = True,
) -> list[dict[str, Any]]:
    """Compares methods on any network and data.

    Args:
        build_model: Takes a kernel regularizer, which holds the weight decay,
            and returns a model whose outputs are logits.
        data: `(x, y)` to train on, to choose on, and to test the winners on.
        methods: Names in `comparison.METHODS`.
        budget: Gradient evaluations of each run, in passes over the data.
        workdir: Folder of finished runs; called again, it goes on from there.
        batch_size: Size of a mini-batch.
        num_trials: Trials of each method and search.
        num_searches: Whole searches.
        num_seeds: Seeds that each winner is tested with.
        max_minutes: Stop after so many, with the searches that are complete.
        jit_compile: As for `compile`.

    Returns:
        The winner of each search and method, with its runs; see `table`.
    """
    compared = Comparison(
        build_model, *data, pathlib.Path(workdir), passes=budget,
        batch_size=batch_size, max_minutes=max_minutes,
        jit_compile=jit_compile,
    )  # fmt: skip
    runs = num_trials + FINALISTS * FINAL_SEEDS + num_seeds
    compared.progress.reset(runs * len(methods) * num_searches)
    winners: list[dict[str, Any]] = []
    try:
        for search in range(num_searches):
            # A search counts once it is there for all methods.
            winners += [
                compared.search(name, search, num_trials, num_seeds)
                for name in methods
            ]
    except OutOfTimeError:
        print("Time is up: start again with the same arguments to go on.")
    return winners
