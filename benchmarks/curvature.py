"""Curvature against three packages of PyTorch, on the CPU.

    python -m benchmarks.curvature --network=small_lenet --torch_python=…

Same weights, same data in one batch, float32, as many threads, in two processes
that take turns. `--torch_python` is the interpreter of an environment with
torch, pyhessian, curvlinops-for-pytorch and hessian-eigenthings. A tool that is
missing or fails has its error in its row.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl
from absl import app
from absl import flags

from benchmarks import common
from benchmarks import curvature_problem
from benchmarks import curvature_tools as tools
from entropy_keras import landscape
from trainers import report
from trainers import usage

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
_OUTPUT = common.output_file("JSON file to write; a table goes beside it.")

OURS = "entropy_keras"
PEERS = ("pyhessian", "curvlinops", "hessian_eigenthings")
# Products of the trace that the others are compared with.
_REFERENCE_PRODUCTS = 300


def measure(
    ours: tools.Ours,
    peers: tools.Peers,
    settings: dict[str, Any],
    truth: dict[str, Any],
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
    signs = min(settings["num_signs"], tools.SIGNS)
    # Hutchinson's time is that of some signs times what they are short of.
    scale = {("trace", "pyhessian"): settings["num_signs"] / signs}
    for quantity in ours.functions:
        others = ("pytorch",) if quantity == "gradient" else PEERS
        answers: dict[str, list[Any]] = {tool: [] for tool in (OURS, *others)}
        for number in range(_ROUNDS.value + 1):
            for tool in answers:
                given = settings | {"seed": number, "num_signs": signs}
                if tool == OURS:
                    found = ours.ask(quantity, **given)
                else:
                    found = peers.ask(tool, quantity, **given)
                if number or quantity not in tools.REPEATS:  # one to warm up
                    answers[tool].append(found)
            if quantity not in tools.REPEATS and number == _ROUNDS.value - 1:
                break
        table = tables[quantity] = {}
        for tool, all_found in answers.items():
            failed = [each["error"] for each in all_found if "error" in each]
            if failed:
                table[tool] = {"error": failed[0]}
                continue
            factor = scale.get((quantity, tool), 1.0)
            values = [each["values"] for each in all_found]
            row: dict[str, Any] = {
                "errors": tools.errors_of(quantity, values, truth)
            }
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
        f"| {name}: {results['num_parameters']:,} weights, "
        f"{_SAMPLES.value:,} samples | seconds "
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
    usage.require_flags(arguments)
    threads = _THREADS.value
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    threadpoolctl.threadpool_limits(threads)
    name = _NETWORK.value
    model, data = curvature_problem.problem(name, _SAMPLES.value, _EPOCHS.value)
    count, rng = model.count_params(), np.random.default_rng(0)
    vectors = {
        key: rng.standard_normal(count).astype("float32")
        for key in ("vector", "other")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "problem.npz")
        curvature_problem.write_problem(path, model, data, vectors)
        peers = tools.Peers(name, path, _TORCH_PYTHON.value, threads)
        versions = {
            tool: peers.ask(tool, "version").get("version", "missing")
            for tool in ("pytorch", *PEERS)
        }
        start = time.perf_counter()
        objective = landscape.Objective(model, data, batch_size=_SAMPLES.value)
        ours = tools.Ours(objective, vectors)
        first = ours.functions["product"]()
        first_seconds = time.perf_counter() - start
        ends = landscape.top_eigenvalues(
            objective,
            num_eigenvalues=tools.NUM_EIGENVALUES,
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
            "num_products": tools.products_for(
                operator, trace.value, _ERROR.value
            ),
            "num_signs": tools.signs_for(operator, trace.value, _ERROR.value),
            "lanczos_steps": tools.steps_for(
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
