"""Searches for the best of each method.

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
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from entropy_keras.validation import require
from trainers import comparison
from trainers import methods
from trainers import report

FINALISTS, FINAL_SEEDS = 4, 3


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
        measure: What the error is, `comparison.ERROR` or `comparison.BITS`.
        early_stopping: Whether each run ends with the weights that had the
            least error on `validation` on its way, rather than with the last.
        max_minutes: When to stop with `OutOfTimeError`, `None` for never.
        jit_compile: As for `compile`.

    Raises:
        ValueError: If there is not one whole mini-batch to train on, or if the
            folder holds runs on other data or of another network.
    """

    def __init__(
        self,
        build_model: Callable[[Any], keras.Model],
        train: comparison.Labelled,
        validation: comparison.Labelled,
        test: comparison.Labelled,
        workdir: pathlib.Path,
        *,
        passes: int,
        batch_size: int,
        measure: str = comparison.ERROR,
        early_stopping: bool = False,
        max_minutes: float | None = None,
        jit_compile: Any = True,
    ) -> None:
        self.build_model = build_model
        self.training_data = train
        self._validation, self._test = validation, test
        self._workdir = workdir
        self._budget = {"passes": passes, "batch_size": batch_size}
        require(
            len(train[0]) >= batch_size,
            "train",
            f"at least one mini-batch of {batch_size} samples",
            f"{len(train[0])} samples",
        )
        self._measure, self._early_stopping = measure, early_stopping
        self._jit_compile = jit_compile
        self._check_workdir()
        minutes = np.inf if max_minutes is None else max_minutes
        self._end = time.monotonic() + 60 * minutes
        self._runners: dict[str, comparison.Runner] = {}
        self.progress = tqdm.tqdm(
            unit="run", smoothing=0.05, mininterval=1.0, dynamic_ncols=True
        )

    def _check_workdir(self) -> None:
        """Refuses a folder of another comparison, and claims a new one."""
        digest = hashlib.sha256()
        for part in (self.training_data, self._validation, self._test):
            for array in part:
                digest.update(str((array.shape, array.dtype)).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        here = {
            "data": digest.hexdigest(),
            "network": _described(self.build_model(None)),
            "measure": self._measure,
        }
        path = self._workdir / "comparison.json"
        if path.exists():
            there = report.read_json(path)
            other = [name for name in here if here[name] != there[name]]
            require(
                not other,
                "workdir",
                "a new folder, or one with runs on the same data and network",
                f"{self._workdir}, with another {' and '.join(other)}",
            )
        else:
            self._workdir.mkdir(parents=True, exist_ok=True)
            report.write_json(path, here)

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
            What it cost, errors and losses, and of a run that is tested the
            `curve` along the training.

        Raises:
            OutOfTimeError: If time is up.
        """
        values, choices = trial
        described = {
            "method": name, "values": values, "choices": choices,
            "seed": seed, "tested": tested, **self._budget,
        }  # fmt: skip
        if self._early_stopping:
            described["early_stopping"] = True
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        path = self._workdir / "finished" / f"{digest.hexdigest()[:24]}.json"
        self.progress.update()
        if path.exists():
            return report.read_json(path)
        if time.monotonic() > self._end:
            raise OutOfTimeError(
                "Time is up: start again with the same arguments to go on."
            )
        self.progress.set_description(name)
        runner, found = self.trained(name, trial, seed, tested=tested)
        found = described | found
        if not tested:
            found.pop("curve", None)
        temperature = runner.fitted_temperature(self._validation)
        found["fitted_temperature"] = temperature
        found["validation"] = runner.judge(self._validation, temperature)
        if tested:
            found["test"] = runner.judge(self._test, temperature)
        path.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(path, found)
        return found

    def trained(
        self, name: str, trial: tuple[Any, Any], seed: int, *, tested: bool
    ) -> tuple[comparison.Runner, dict[str, Any]]:
        """Trains once, whatever was trained before.

        Args:
            name: Of the method.
            trial: Values of its knobs and of its choices.
            seed: Seed of the run.
            tested: Whether to follow it along the training.

        Returns:
            The runner with the trained network, and what it cost.
        """
        values, choices = trial
        runner = self.runner(name, choices)
        watched = tested or self._early_stopping
        return runner, runner.run(
            values,
            seed,
            self._validation if watched else None,
            keep_best=self._early_stopping,
        )

    def runner(
        self, name: str, choices: Mapping[str, Any]
    ) -> comparison.Runner:
        """Returns what trains a method, traced once for its choices.

        Args:
            name: Of the method.
            choices: A value for each of its choices.

        Returns:
            The runner.
        """
        key = json.dumps([name, choices])
        if key not in self._runners:
            self._runners[key] = comparison.Runner(
                self.build_model,
                methods.METHODS[name],
                choices,
                self.training_data,
                measure=self._measure,
                jit_compile=self._jit_compile,
                **self._budget,
            )
        return self._runners[key]

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
        method = methods.METHODS[name]
        drawn = methods.trials(method, num_trials, seed=search)

        def error(trial: Any, seeds: Sequence[int]) -> float:
            runs = [self.train(name, trial, s, tested=False) for s in seeds]
            return float(np.mean([run["validation"]["error"] for run in runs]))

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
            "at_edge": methods.at_edge(method, *winner),
            "runs": [self.train(name, winner, s, tested=True) for s in seeds],
        }

    def winners(
        self,
        names: Sequence[str],
        num_searches: int,
        num_trials: int,
        num_seeds: int,
    ) -> list[dict[str, Any]]:
        """Makes whole searches for all methods, as far as time allows.

        Args:
            names: Of the methods.
            num_searches: Number of searches.
            num_trials: Trials of each method and search.
            num_seeds: Number of seeds that each winner is tested with.

        Returns:
            What `search` returns, of the searches that are there for all
            methods.
        """
        runs = num_trials + FINALISTS * FINAL_SEEDS + num_seeds
        self.progress.reset(runs * len(names) * num_searches)
        found: list[dict[str, Any]] = []
        try:
            for search in range(num_searches):
                found += [
                    self.search(name, search, num_trials, num_seeds)
                    for name in names
                ]
        except OutOfTimeError as stop:
            print(stop)
        return found


def _described(model: keras.Model) -> list[Any]:
    """Returns what a network is, but for its names and penalties, as JSON."""
    found: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):  # whose config is full of names
            found.append(_described(layer))
            continue
        shapes = [list(weight.shape) for weight in layer.weights]
        try:
            config = _plain(layer.get_config())
        except NotImplementedError:  # a user's, which cannot tell its own
            config = None
        found.append([type(layer).__name__, config, shapes])
    return found


def _plain(config: Any) -> Any:
    """Returns the configuration of a layer without its name and penalties."""
    if isinstance(config, dict):
        return {
            key: _plain(value)
            for key, value in sorted(config.items())
            if key not in {"name", "shared_object_id"}
            and not key.endswith("_regularizer")
        }
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    return config if isinstance(config, (int, float)) else str(config)


def compare(
    build_model: Callable[[Any], keras.Model],
    data: tuple[comparison.Labelled, comparison.Labelled, comparison.Labelled],
    names: Sequence[str],
    budget: int,
    *,
    workdir: str | pathlib.Path,
    batch_size: int = 32,
    num_trials: int = 24,
    num_searches: int = 3,
    num_seeds: int = 10,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compares methods on any network and data.

    Args:
        build_model: Takes a kernel regularizer, which holds the weight decay,
            and returns a model whose outputs are logits.
        data: `(x, y)` to train on, to choose on, and to test the winners on.
        names: Of the methods, in `methods.METHODS`.
        budget: Gradient evaluations of each run, in passes over the data.
        workdir: Folder of finished runs; called again, it goes on from there.
        batch_size: Size of a mini-batch.
        num_trials: Trials of each method and search.
        num_searches: Whole searches.
        num_seeds: Seeds that each winner is tested with.
        **options: `measure`, `early_stopping`, `max_minutes` and `jit_compile`
            of `Comparison`. When the minutes are over, the searches that are
            complete are returned.

    Returns:
        The winner of each search and method, with its runs; see
        `standings.table`.
    """
    compared = Comparison(
        build_model, *data, pathlib.Path(workdir), passes=budget,
        batch_size=batch_size, **options,
    )  # fmt: skip
    return compared.winners(names, num_searches, num_trials, num_seeds)
