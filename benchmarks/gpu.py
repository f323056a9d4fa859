"""Is everything right and fast on a GPU? One command, a few minutes.

    python -m benchmarks.gpu

Trains three networks (dense, convolutional with batch normalization, LSTM) in
float32, mixed_float16 and mixed_bfloat16 under XLA, compares the losses of 20
updates with those of the CPU, reads from the compiled program that nothing goes
to the host within the loop, and times a gradient against Keras's SGD on the
same device. Without a GPU it says so and does the same on the CPU.
"""

import re
import sys
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
from trainers import usage

_OUTPUT = common.output_file()
_UPDATES = flags.DEFINE_integer(
    "updates", 20, "Updates to compare.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds to time.", lower_bound=1)

SIZE, STEPS = 32, 5
# Relative difference of losses that the precision explains over 20 updates.
TOLERANCES = {"float32": 2e-3, "mixed_float16": 5e-2, "mixed_bfloat16": 0.2}
HOST = {"infeed", "outfeed", "send", "recv", "custom-call-to-host"}


def dense() -> keras.Model:
    """Returns a network of dense layers."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input([64]), layers.Dense(128, "relu"), layers.Dense(10),
        layers.Activation("linear", dtype="float32"),
    ])  # fmt: skip


def convolutional() -> keras.Model:
    """Returns a convolutional network with batch normalization."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input([8, 8, 1]), layers.Conv2D(16, 3, use_bias=False),
        layers.BatchNormalization(), layers.ReLU(), layers.Flatten(),
        layers.Dense(10), layers.Activation("linear", dtype="float32"),
    ])  # fmt: skip


def recurrent() -> keras.Model:
    """Returns an LSTM."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input([8, 8]), layers.LSTM(32, use_cudnn=False), layers.Dense(10),
        layers.Activation("linear", dtype="float32"),
    ])  # fmt: skip


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "dense": dense,
    "convolutional": convolutional,
    "recurrent": recurrent,
}


def trained(
    build: Callable[[], keras.Model],
    policy: str,
    device: str,
    optimizer: keras.optimizers.Optimizer,
    num_groups: int,
) -> tuple[entropy_keras.EntropyModel, list[float], list[Any]]:
    """Trains on groups of random mini-batches.

    Args:
        build: Makes the network.
        policy: Its precision.
        device: Where it is trained.
        optimizer: The optimizer.
        num_groups: How many groups.

    Returns:
        The model, the loss of each update, and the groups.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    losses = []
    try:
        with tf.device(device):
            model = entropy_keras.EntropyModel.from_model(build())
            model.compile(
                optimizer,
                loss=keras.losses.SparseCategoricalCrossentropy(
                    from_logits=True
                ),
                jit_compile=True,
            )
            shape = (SIZE * STEPS, *model.input_shape[1:])
            groups = [
                (
                    tf.constant(rng.normal(size=shape), tf.float32),
                    tf.constant(rng.integers(0, 10, SIZE * STEPS), tf.int32),
                )
                for _ in range(num_groups)
            ]
            for group in groups:
                model.reset_metrics()
                losses.append(float(model.train_on_batch(*group)))
    finally:
        keras.config.set_dtype_policy(before)
    return model, losses, groups


def entropy_sgd() -> entropy_keras.EntropySGD:
    """Returns the optimizer to look at."""
    return entropy_keras.EntropySGD(
        0.5, num_langevin_steps=STEPS, temperature=1e-6, seed=0
    )


def program(model: entropy_keras.EntropyModel, group: Any, device: str) -> str:
    """Returns the compiled program of an update.

    Args:
        model: The model.
        group: A group of mini-batches.
        device: Where it runs.

    Returns:
        HLO after all optimizations.
    """
    with tf.device(device):
        step = tf.function(model.train_step, jit_compile=True)
        lower = step.experimental_get_compiler_ir(group)
        return lower(stage="optimized_hlo")


def timed(model: Any, group: Any, gradients: int) -> float:
    """Returns the median milliseconds of a gradient.

    Args:
        model: The model.
        group: What an update takes.
        gradients: How many gradients that is.

    Returns:
        The time.
    """
    update = common.make_updates(model, group)
    update(3)
    times = []
    for _ in range(_ROUNDS.value):
        start = time.perf_counter()
        update(10)
        times.append(1e3 * (time.perf_counter() - start) / 10 / gradients)
    return float(np.median(times))


def main(arguments: Sequence[str]) -> None:
    """Checks, prints a line for each network and precision.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    gpus = tf.config.list_logical_devices("GPU")
    device = gpus[0].name if gpus else "/device:CPU:0"
    print(f"on {device}" if gpus else "There is no GPU: the CPU stands in.")
    rows = []
    for name, build in NETWORKS.items():
        for policy, tolerance in TOLERANCES.items():
            model, losses, groups = trained(
                build, policy, device, entropy_sgd(), _UPDATES.value
            )
            _, expected, _ = trained(
                build, "float32", "/device:CPU:0", entropy_sgd(), _UPDATES.value
            )
            found = np.array(losses[-5:]).mean() / np.mean(expected[-5:]) - 1
            text = program(model, groups[0], device)
            kinds = set(re.findall(r" ([a-z][a-z0-9-]*)\(", text))
            sgd, _, _ = trained(
                build, policy, device, keras.optimizers.SGD(0.1), 1
            )
            one = tuple(part[:SIZE] for part in groups[0])
            ratio = timed(model, groups[0], STEPS) / timed(sgd, one, 1)
            rows.append({
                "network": name,
                "policy": policy,
                "difference_of_losses": float(found),
                "agrees": bool(abs(found) < tolerance),
                "host_operations": sorted(kinds & HOST),
                "time_per_gradient_over_sgd": round(ratio, 3),
            })
            print(rows[-1], flush=True)
    common.write(
        _OUTPUT.value, "gpu", __name__, {"device": device, "rows": rows}
    )
    bad = [r for r in rows if not r["agrees"] or r["host_operations"]]
    if bad:
        sys.exit(f"error: {len(bad)} of {len(rows)} are not as they should be")


if __name__ == "__main__":
    app.run(main)
