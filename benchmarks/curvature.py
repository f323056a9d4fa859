"""Curvature against three packages of PyTorch, on the CPU.

    python -m benchmarks.curvature --network=small_lenet --torch_python=…

Same weights, same data in one batch, float32, as many threads, in two processes
that take turns. `--torch_python` is the interpreter of
an environment with torch, pyhessian, curvlinops-for-pytorch and
hessian-eigenthings. A tool that is missing or fails has its error in its row.
"""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import threadpoolctl
from absl import app
from absl import flags
from keras import layers
from scipy.sparse.linalg import LinearOperator

from benchmarks import common
from entropy_keras import landscape
from entropy_keras.landscape.lanczos import Lanczos
from trainers import data as data_lib
from trainers import networks
from trainers import report

_NETWORK = flags.DEFINE_enum(
    "network",
    "small_mnistfc",
    ["small_mnistfc", "small_lenet", "transformer"],
    "Network to judge: one of the paper's, or a transformer of one block.",
)
_SAMPLES = flags.DEFINE_integer("samples", 1000, "Samples.", lower_bound=32)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 3, "Passes of Adam over 4,000 samples before.", lower_bound=0
)
_STEPS = flags.DEFINE_integer(
    "num_steps", 100, "Lanczos steps of the density.", lower_bound=10
)
_ERROR = flags.DEFINE_float(
    "error", 0.02, "Relative error of the trace.", lower_bound=1e-3
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-3, "Relative error of the eigenvalues.", lower_bound=1e-6
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds.", lower_bound=1)
_THREADS = flags.DEFINE_integer(
    "num_threads",
    1,
    "Threads of each; with one, seconds of the processor tell even on a busy "
    "machine.",
    lower_bound=1,
)
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file to write; a table goes beside it."
)

OURS = "entropy_keras"
PEERS = ("pyhessian", "curvlinops", "hessian_eigenthings")
# One product and one gradient are too short to be timed alone.
REPEATS = {"gradient": 10, "product": 10}
_NUM_EIGENVALUES = 10
# Products of the trace that are tried, and seeds of each.
_PRODUCTS = (12, 24, 48, 72, 96, 144, 192)
_SEEDS = 3
# Signs that tell Hutchinson's variance, and that PyHessian is timed with.
_SIGNS = 30
# Products of the trace that the others are compared with.
_REFERENCE_PRODUCTS = 300


def transformer() -> keras.Model:
    """Builds a transformer of one block for sequences of 24 out of 32 symbols.

    Returns:
        The model, with logits of ten classes.

    Example:
    >>> transformer().count_params()
    36170
    """
    inputs = keras.Input([24], dtype="int32")
    x = layers.Embedding(32, 64)(inputs)
    attended = layers.MultiHeadAttention(num_heads=4, key_dim=16)(x, x)
    x = layers.LayerNormalization()(layers.add([x, attended]))
    hidden = layers.Dense(128, "relu")(x)
    hidden = layers.Dense(64)(hidden)
    x = layers.LayerNormalization()(layers.add([x, hidden]))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs, name="transformer")


def problem(name: str) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """Returns a network that is trained a little, and samples of its data.

    The digits are those of `trainers.data`; a sequence belongs to the class
    whose symbols, of one last digit, it has most of.

    Args:
        name: One of those of `--network`.

    Returns:
        The model, and inputs with labels.
    """
    keras.utils.set_random_seed(0)
    if name == "transformer":
        model = transformer()
        inputs = np.random.default_rng(0).integers(0, 32, [4000, 24])
        counts = [(inputs % 10 == digit).sum(1) for digit in range(10)]
        labels = np.argmax(counts, axis=0)
    else:
        model = networks.build(name)
        inputs, labels = data_lib.load("digits").train
    model.compile("adam", _loss())
    if _EPOCHS.value:
        model.fit(inputs, labels, 64, epochs=_EPOCHS.value, verbose=0)
    return model, (inputs[: _SAMPLES.value], labels[: _SAMPLES.value])


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def as_torch(
    model: keras.Model, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Lays out arrays like the weights as PyTorch would have them.

    Args:
        model: A network of this benchmark.
        arrays: One of the shape of each trainable variable, in order.

    Returns:
        One of the shape of each parameter of the network of PyTorch, in order.
    """
    flattened = [
        layer.input.shape[1:]
        for layer in model.layers
        if isinstance(layer, layers.Flatten)
    ]
    found = []
    for variable, array in zip(model.trainable_variables, arrays, strict=True):
        if "embeddings" in variable.path:
            found.append(array)
        elif array.ndim == 4:
            found.append(array.transpose(3, 2, 0, 1))
        elif variable.name != "kernel":
            found.append(array.reshape(-1))  # the biases of heads as well
        else:
            rows = math.prod(array.shape[:-1])
            if array.ndim == 3 and "attention_output" not in variable.path:
                rows = array.shape[0]
            kernel = array.reshape(rows, -1)
            if flattened and rows == math.prod(flattened[0]):
                # PyTorch flattens channels first.
                shape = (*flattened[0], -1)
                kernel = kernel.reshape(shape).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(rows, -1)
            found.append(kernel.T)
    return [np.ascontiguousarray(array, "float32") for array in found]


def write_problem(
    path: pathlib.Path,
    model: keras.Model,
    data: tuple[np.ndarray, np.ndarray],
    vectors: dict[str, np.ndarray],
) -> None:
    """Writes what the process of PyTorch reads.

    Args:
        path: Path of the `.npz` file.
        model: The network.
        data: Inputs and labels.
        vectors: Vectors like the weights, each of shape `[n]`, by name.
    """
    shapes = [variable.shape for variable in model.trainable_variables]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    arrays: dict[str, Any] = {"inputs": data[0], "labels": data[1]}
    weights = [np.asarray(v) for v in model.trainable_variables]
    parts = {"weight": weights}
    for name, vector in vectors.items():
        split = np.split(vector, ends)
        parts[name] = [
            part.reshape(shape)
            for part, shape in zip(split, shapes, strict=True)
        ]
    for name, each in parts.items():
        for index, array in enumerate(as_torch(model, each)):
            arrays[f"{name}_{index}"] = array
    np.savez(path, **arrays)


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
            num_eigenvalues=_NUM_EIGENVALUES,
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
    """

    def __init__(self, name: str, path: pathlib.Path) -> None:
        worker = pathlib.Path(__file__).with_name("curvature_worker.py")
        self._process = subprocess.Popen(
            [_TORCH_PYTHON.value, worker, name, path],
            env=os.environ | {"OMP_NUM_THREADS": str(_THREADS.value)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
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
                f"Received: torch_python={_TORCH_PYTHON.value}"
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
    signs = rng.choice([-1.0, 1.0], [_SIGNS, operator.shape[0]])
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
        A multiple of five.

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


def measure(
    ours: Ours, peers: Peers, settings: dict[str, Any], truth: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Lets all compute all quantities, in turns.

    Args:
        ours: This package.
        peers: The others.
        settings: What each quantity takes.
        truth: The right values, by quantity.

    Returns:
        By quantity and tool: seconds, errors, and the ratio of the seconds to
        ours, or what went wrong.
    """
    tables: dict[str, dict[str, Any]] = {}
    signs = min(settings["num_signs"], _SIGNS)
    # Hutchinson's time is that of some signs times what they are short of.
    scale = {("trace", "pyhessian"): settings["num_signs"] / signs}
    for quantity in ours.functions:
        tools = ("pytorch",) if quantity == "gradient" else PEERS
        answers: dict[str, list[Any]] = {tool: [] for tool in (OURS, *tools)}
        for number in range(_ROUNDS.value + 1):
            for tool in answers:
                given = settings | {"seed": number, "num_signs": signs}
                if tool == OURS:
                    found = ours.ask(quantity, **given)
                else:
                    found = peers.ask(tool, quantity, **given)
                if number or quantity not in REPEATS:  # one to warm up
                    answers[tool].append(found)
            if quantity not in REPEATS and number == _ROUNDS.value - 1:
                break
        table = tables[quantity] = {}
        for tool, all_found in answers.items():
            failed = [each["error"] for each in all_found if "error" in each]
            if failed:
                table[tool] = {"error": failed[0]}
                continue
            factor = scale.get((quantity, tool), 1.0)
            values = [each["values"] for each in all_found]
            row: dict[str, Any] = {"errors": errors_of(quantity, values, truth)}
            for kind in ("", "cpu_"):
                times = [factor * each[f"{kind}seconds"] for each in all_found]
                row[f"{kind}seconds"] = round(statistics.median(times), 5)
                row[f"{kind}time_over_ours"] = common.ratios(
                    times, [each[f"{kind}seconds"] for each in answers[OURS]]
                )
            table[tool] = row
            print(quantity, tool, row, flush=True)
    return tables


def table(name: str, results: dict[str, Any]) -> str:
    """Returns the results as a table of Markdown.

    Args:
        name: Of the network.
        results: What `main` writes.
    """
    lines = [
        f"| {name}: {results['num_parameters']:,} weights | seconds "
        "| time over ours | processor's | relative error |",
        "|---|---|---|---|---|",
    ]
    for quantity, rows in results["quantities"].items():
        for tool, row in rows.items():
            cells = [f"{quantity}, {tool}"]
            if "error" in row:
                cells += ["", "", "", row["error"].splitlines()[0]]
            else:
                ratio = row["time_over_ours"]
                cells += [
                    f"{row['seconds']:.3g}",
                    f"{ratio['ratio']:.2f} [{ratio['smallest']:.2f}, "
                    f"{ratio['largest']:.2f}]",
                    f"{row['cpu_time_over_ours']['ratio']:.2f}",
                    ", ".join(
                        f"{of} {error:.1e}"
                        for of, error in row["errors"].items()
                        if error is not None
                    ),
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Measures and prints.

    Args:
        arguments: The command line without its flags.
    """
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")
    threads = _THREADS.value
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    name = _NETWORK.value
    model, data = problem(name)
    count, rng = model.count_params(), np.random.default_rng(0)
    vectors = {
        key: rng.standard_normal(count).astype("float32")
        for key in ("vector", "other")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "problem.npz")
        write_problem(path, model, data, vectors)
        peers = Peers(name, path)
        versions = {
            tool: peers.ask(tool, "version").get("version", "missing")
            for tool in ("pytorch", *PEERS)
        }
        start = time.perf_counter()
        objective = landscape.Objective(model, data, batch_size=_SAMPLES.value)
        ours = Ours(objective, vectors)
        first = ours.functions["product"]()
        first_seconds = time.perf_counter() - start
        ends = landscape.top_eigenvalues(
            objective,
            num_eigenvalues=_NUM_EIGENVALUES,
            tolerance=1e-6,
            ends="largest",
        )
        lowest = landscape.top_eigenvalues(
            objective, num_eigenvalues=1, tolerance=1e-2, ends="smallest"
        )
        trace = landscape.trace(
            objective, num_products=_REFERENCE_PRODUCTS, seed=1000
        )
        truth = {
            "gradient": ours.functions["gradient"](),
            "product": first,
            "eigenvalues": ends.largest.tolist(),
            "trace": [trace.value],
            "density": [float(ends.largest[0]), trace.value],
        }
        operator = ours.operator
        settings = {
            "tolerance": _TOLERANCE.value,
            "num_steps": _STEPS.value,
            "num_products": products_for(operator, trace.value, _ERROR.value),
            "num_signs": signs_for(operator, trace.value, _ERROR.value),
            "lanczos_steps": steps_for(
                operator, ends.largest, _TOLERANCE.value
            ),
            "ends": [float(lowest.smallest[0]), float(ends.largest[0])],
        }
        print(settings, truth, flush=True)
        quantities = measure(ours, peers, settings, truth)
        peers.close()
    results = {
        "versions": report.versions() | versions,
        "num_parameters": count,
        "loss": float(objective.value(objective.position())),
        "first_product_seconds": round(first_seconds, 3),
        "given": settings,
        "truth": truth | {"trace_standard_error": trace.standard_error},
        "quantities": quantities,
    }
    text = table(name, results)
    print(text)
    common.write(_OUTPUT.value, "curvature", __name__, results)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    app.run(main)
