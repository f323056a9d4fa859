"""What `benchmarks.curvature` asks, and how many products that takes."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from entropy_keras import landscape
from entropy_keras.landscape.lanczos import Lanczos

NUM_EIGENVALUES = 10
# One product and one gradient are too short to be timed alone.
REPEATS = {"gradient": 10, "product": 10}
# Signs that tell Hutchinson's variance, and that PyHessian is timed with.
SIGNS = 30
# Products of the trace that are tried, and seeds of each.
_PRODUCTS = (12, 24, 48, 72, 96, 144, 192)
_SEEDS = 3


class Ours:
    """What this package computes, by quantity.

    Args:
        objective: The loss.
        vectors: The vector to multiply, and one to compare along.
    """

    def __init__(
        self, objective: landscape.Objective, vectors: dict[str, np.ndarray]
    ) -> None:
        self._objective = objective
        self._position = objective.position()
        self.operator = landscape.symmetric_operator(objective)
        self._vectors = vectors
        self.functions: dict[str, Callable[..., list[float]]] = {
            "gradient": self._gradient,
            "product": self._product,
            "eigenvalues": self._eigenvalues,
            "trace": self._trace,
            "density": self._density,
        }

    def ask(self, quantity: str, **settings: Any) -> dict[str, Any]:
        """Computes a quantity.

        Args:
            quantity: Its name.
            **settings: See `main`.

        Returns:
            Values, and seconds of one time.
        """
        repeats = REPEATS.get(quantity, 1)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            values = self.functions[quantity](**settings)
        return {
            "values": values,
            "seconds": (time.perf_counter() - start) / repeats,
            "cpu_seconds": (time.process_time() - start_cpu) / repeats,
        }

    def _gradient(self, **_: Any) -> list[float]:
        found = self._objective.gradient(self._position)
        return [float(np.linalg.norm(found))]

    def _product(self, **_: Any) -> list[float]:
        found = self.operator.matvec(self._vectors["vector"])
        return [
            float(np.linalg.norm(found)), float(found @ self._vectors["other"])
        ]  # fmt: skip

    def _eigenvalues(
        self, tolerance: float, seed: int, **_: Any
    ) -> list[float]:
        found = landscape.top_eigenvalues(
            self._objective,
            num_eigenvalues=NUM_EIGENVALUES,
            tolerance=tolerance,
            seed=seed,
            ends="largest",
        )
        return found.largest.tolist()

    def _trace(self, num_products: int, seed: int, **_: Any) -> list[float]:
        found = landscape.trace(
            self._objective, num_products=num_products, seed=seed
        )
        return [found.value]

    def _density(self, num_steps: int, seed: int, **_: Any) -> list[float]:
        found = landscape.spectral_density(
            self._objective, num_steps=num_steps, num_probes=1, seed=seed
        )
        mean = found.mean(lambda nodes: nodes).value
        return [found.largest, self._objective.num_parameters * mean]


class Peers:
    """The packages of PyTorch, in a process of their own.

    Args:
        name: Of the network.
        path: What `write_problem` wrote.
        python: Interpreter that has them.
        num_threads: Threads that it takes.
    """

    def __init__(
        self, name: str, path: pathlib.Path, python: str, num_threads: int
    ) -> None:
        worker = pathlib.Path(__file__).with_name("curvature_worker.py")
        self._process = subprocess.Popen(
            [python, worker, name, path],
            env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._python = python
        self._pipes: Any = (self._process.stdin, self._process.stdout)

    def ask(self, tool: str, quantity: str, **settings: Any) -> dict[str, Any]:
        """Lets a tool compute a quantity.

        Args:
            tool: Its name.
            quantity: Name of the quantity.
            **settings: See `main`.

        Returns:
            Values and seconds, or an error.
        """
        repeats = REPEATS.get(quantity, 1)
        request = {"tool": tool, "quantity": quantity, "repeats": repeats}
        to_it, from_it = self._pipes
        try:
            to_it.write(json.dumps(request | settings) + "\n")
            answer = from_it.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            sys.exit(
                "error: the process of PyTorch ended: `--torch_python` must be "
                "an interpreter that can import torch. "
                f"Received: torch_python={self._python}"
            )
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def products_for(operator: LinearOperator, truth: float, error: float) -> int:
    """Returns how many products Hutch++ takes for an error of the trace.

    Args:
        operator: The Hessian.
        truth: Its trace.
        error: Relative standard error, its root mean square over seeds.

    Returns:
        The fewest of those tried that suffice; the most if none does.
    """
    for count in _PRODUCTS:
        errors = [
            landscape.trace(
                operator, num_products=count, seed=seed
            ).standard_error
            for seed in range(100, 100 + _SEEDS)
        ]
        if np.sqrt(np.mean(np.square(errors))) <= error * truth:
            break
    return count


def signs_for(operator: LinearOperator, truth: float, error: float) -> int:
    """Returns how many random signs Hutchinson's method takes for an error.

    Args:
        operator: The Hessian.
        truth: Its trace.
        error: Relative standard error.

    Returns:
        The number, from the variance over some signs.
    """
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], [SIGNS, operator.shape[0]])
    found = [sign @ operator.matvec(sign) for sign in signs]
    return math.ceil((np.std(found, ddof=1) / (error * truth)) ** 2)


def steps_for(
    operator: LinearOperator, truth: np.ndarray, tolerance: float
) -> int:
    """Returns how many Lanczos steps the largest eigenvalues take.

    Args:
        operator: The Hessian.
        truth: The largest eigenvalues, descending.
        tolerance: Error allowed, in units of the largest.

    Returns:
        A multiple of five, or fewer where the space is exhausted.

    Raises:
        ValueError: If 500 do not suffice.
    """
    start = np.random.default_rng(0).standard_normal(operator.shape[0])
    run = Lanczos(operator, start, 500)
    while True:
        run.advance(run.steps + 5)
        values, _, _ = run.ritz()
        found = values[: -len(truth) - 1 : -1]
        enough = len(found) == len(truth)
        if enough and np.abs(found - truth).max() <= tolerance * truth[0]:
            return run.steps
        if run.finished:
            raise ValueError(f"no convergence in {run.steps} steps")


def errors_of(
    quantity: str, rounds: list[list[float]], truth: dict[str, list[float]]
) -> dict[str, float | None]:
    """Compares values with the truth.

    Args:
        quantity: What they are.
        rounds: The values of each round.
        truth: The right values, by quantity; of a product those of this
            package.

    Returns:
        Relative errors by what they are of: the largest over the values and
        rounds, and of what is random the root mean square over the rounds.
    """
    found, right = np.array(rounds), np.array(truth[quantity])
    if quantity == "trace":
        found = found.mean(1, keepdims=True)  # of signs
    if quantity in {"trace", "density"}:
        errors = np.sqrt(np.mean((found / right - 1.0) ** 2, axis=0))
        names = ("largest", "trace")[-len(right) :]
        return {
            name: None if math.isnan(error) else round(float(error), 6)
            for name, error in zip(names, errors, strict=True)
        }
    return {"values": float(f"{np.abs(found - right).max() / right[0]:.2g}")}
