"""When does talking once per K gradients pay?

    python -m benchmarks.devices

Counts what the replicas of a compiled update send each other, times an update
on one and on two logical devices, and computes from latency, bandwidth and
compute time what that means for 1 to 1,024 replicas. `--output` is a folder for
JSON, a table and a picture. For the model see `communication`.
"""

import functools
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

import entropy_keras
from benchmarks import common
from benchmarks import communication
from trainers import networks
from trainers import report
from trainers import usage

_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of timing.", lower_bound=3)
_UPDATES = flags.DEFINE_integer(
    "updates", 10, "Updates of each variant in a round.", lower_bound=1
)
_OUTPUT = common.output_folder()

NETWORK, BATCH_SIZE = "small_mnistfc", 128
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: keras.optimizers.SGD(0.01),
    "SharpnessAware": lambda: entropy_keras.SharpnessAware(learning_rate=0.01),
    "EntropySGD, K = 5": lambda: entropy_keras.EntropySGD(0.1, seed=0),
    "EntropySGD, K = 20": lambda: entropy_keras.EntropySGD(
        0.1, num_langevin_steps=20, seed=0
    ),
    "EntropySGD, K = 5, synchronized": lambda: entropy_keras.EntropySGD(
        0.1, chains="synchronized", seed=0
    ),
}


def _compiled(make: Callable[[], Any], strategy: Any) -> Any:
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = entropy_keras.EntropyModel.from_model(networks.build(NETWORK))
        model.compile(
            make(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
    return model


def _group(model: Any, num_replicas: int) -> tf.data.Dataset:
    """Returns mini-batches of one update, of a fixed size for each replica."""
    minibatches = getattr(model.optimizer, "minibatches_per_update", 1)
    rows = minibatches * num_replicas * BATCH_SIZE
    samples = tuple(map(tf.constant, common.samples(NETWORK, rows)))
    return tf.data.Dataset.from_tensor_slices(samples).batch(
        rows, drop_remainder=True
    )


def sent(make: Callable[[], Any], strategy: Any) -> dict[str, Any]:
    """Counts what the compiled step of an update has the replicas send.

    Args:
        make: Makes the optimizer.
        strategy: A strategy of several replicas.

    Returns:
        Collectives and bytes of one replica, for each update and gradient.
    """
    model = _compiled(make, strategy)
    data = _group(model, strategy.num_replicas_in_sync)
    batch = next(iter(strategy.experimental_distribute_dataset(data)))
    step = tf.function(lambda b: strategy.run(model.train_step, args=(b,)))
    graph = step.get_concrete_function(batch).graph
    shapes = [
        op.outputs[0]
        for each in _graphs(graph)
        for op in each.get_operations()
        if op.type == "CollectiveReduceV2"
    ]
    count = strategy.num_replicas_in_sync
    found: dict[str, Any] = {
        "collectives_per_update": len(shapes) / count,
        "bytes_per_update": sum(
            int(np.prod(x.shape)) * x.dtype.size for x in shapes
        ) / count,
        "gradients_per_update": getattr(
            model.optimizer, "gradients_per_update", 1
        ),
    }  # fmt: skip
    gradients = found["gradients_per_update"]
    return found | {
        "collectives_per_gradient": found["collectives_per_update"] / gradients,
        "bytes_per_gradient": found["bytes_per_update"] / gradients,
        "bytes_of_weights": communication.BYTES * sum(
            int(np.prod(v.shape)) for v in model.trainable_variables
        ),
    }  # fmt: skip


def _graphs(graph: Any) -> list[Any]:
    """Returns a graph and those of the functions that it calls."""
    found, seen = [graph], set()
    for each in found:
        for op in each.get_operations():
            for attribute in op.node_def.attr.values():
                name = attribute.func.name
                if not name or name in seen:
                    continue
                seen.add(name)
                inner = getattr(
                    each._get_function(name), "graph", None
                )  # fmt: skip
                if inner is not None:
                    found.append(inner)
    return found


def timed(strategies: dict[int, Any]) -> dict[str, dict[str, float]]:
    """Times an update on each number of replicas.

    Args:
        strategies: A strategy by its number of replicas.

    Returns:
        Milliseconds of a gradient of all replicas, median of the rounds, by
        optimizer and number of replicas.
    """
    fits: dict[tuple[str, int], Callable[[], Any]] = {}
    gradients = {}
    for name, (count, strategy) in itertools.product(
        OPTIMIZERS, strategies.items()
    ):
        model = _compiled(OPTIMIZERS[name], strategy)
        minibatches = getattr(model.optimizer, "minibatches_per_update", 1)
        gradients[name] = _UPDATES.value * getattr(
            model.optimizer, "gradients_per_update", 1
        )
        size = count * BATCH_SIZE
        x, y = common.samples(NETWORK, _UPDATES.value * minibatches * size)
        rows = tf.data.Dataset.from_tensors((x, y)).unbatch()
        data = common.cached_batches(rows, size, drop_remainder=True)
        fits[name, count] = functools.partial(model.fit, data, verbose=0)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in fits}
    for number in range(_ROUNDS.value + 1):
        for key, fit in fits.items():
            start = time.perf_counter()
            fit()
            if number:  # The first one traces.
                seconds[key].append(time.perf_counter() - start)
    return {
        name: {
            str(count): round(
                1e3 * statistics.median(seconds[name, count]) / gradients[name],
                3,
            )
            for count in strategies
        }
        for name in OPTIMIZERS
    }


def markdown(
    counted: dict[str, dict[str, Any]],
    times: dict[str, dict[str, float]],
    rows: Sequence[dict[str, Any]],
) -> str:
    """Returns two tables.

    Args:
        counted: What `sent` found, by optimizer.
        times: What `timed` found.
        rows: Those of `modelled`.

    Returns:
        Markdown.
    """
    columns = list(next(iter(times.values())))
    heads = " | ".join(f"ms, {c} replica(s)" for c in columns)
    lines = [
        "| optimizer | collectives per update | per gradient | bytes per "
        f"gradient, in weights | {heads} |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for name, found in counted.items():
        share = found["bytes_per_gradient"] / found["bytes_of_weights"]
        cells = " | ".join(f"{times[name][c]:.2f}" for c in columns)
        lines.append(
            f"| {name} | {found['collectives_per_update']:g} | "
            f"{found['collectives_per_gradient']:.2f} | {share:.3f} | {cells} |"
        )
    shown = (2, 8, 64, 1024)
    heads = " | ".join(f"R = {r}" for r in shown)
    lines += [
        "",
        f"| network | link | K | {heads} |",
        "|---" * (3 + len(shown)) + "|",
    ]
    for row in rows:
        cells = " | ".join(
            f"{100 * row['efficiency'][communication.REPLICAS.index(r)]:.3g} %"
            for r in shown
        )
        lines.append(
            f"| {row['network']} | {row['link']} | "
            f"{row['gradients_per_update']} | {cells} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Counts, times, computes, and writes.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    two = common.mirrored(2)
    counted = {name: sent(make, two) for name, make in OPTIMIZERS.items()}
    times = timed({1: tf.distribute.OneDeviceStrategy("CPU:0"), 2: two})
    rows = communication.modelled()
    text = markdown(counted, times, rows)
    print(text)
    if _OUTPUT.value:
        folder = pathlib.Path(_OUTPUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        report.write_results(
            folder / "devices.json",
            {
                "command": "python -m benchmarks.devices",
                "network": NETWORK,
                "batch_size": BATCH_SIZE,
                "sent": counted,
                "milliseconds_per_gradient": times,
                "links": [link._asdict() for link in communication.LINKS],
                "works": [work._asdict() for work in communication.WORKS],
                "replicas": communication.REPLICAS,
                "efficiency": rows,
            },
        )
        (folder / "devices.md").write_text(text)
        communication.draw(folder / "devices.png", rows)


if __name__ == "__main__":
    app.run(main)
