"""Two processes that train one network, and how often they talk."""

# %% [markdown]
# # Two workers
#
# One process for each worker, as on two machines; here both are on this one.
# Run without `TF_CONFIG`, the variable in which TensorFlow is told who the
# workers are, the script starts itself twice with it for each optimizer, and
# draws what the first worker found. On a cluster the scheduler sets it.

# %%
import contextlib
import json
import os
import socket
import subprocess
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn import datasets

from entropy_keras import EntropyModel
from entropy_keras import EntropySGD

epochs, batch_size = 20, 64  # 32 on each worker
digits = datasets.load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = digits.data[order].astype("float32") / 16
labels = digits.target[order]
data = images[:1280], labels[:1280]
test = images[1280:], labels[1280:]
gradients = epochs * 1280 // batch_size
cosine = keras.optimizers.schedules.CosineDecay

# %% [markdown]
# What a worker does is what a script for one device does, within the scope of a
# strategy, with the same seed on all. SGD talks once a gradient; Entropy-SGD
# once an update, after each worker went through an inner loop of its own.

# %%
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(
        cosine(0.1, gradients), momentum=0.9, nesterov=True
    ),
    "Entropy-SGD, 5 steps": lambda: EntropySGD(
        cosine(1.0, gradients // 5), langevin_learning_rate=0.2
    ),
    "Entropy-SGD, 20 steps": lambda: EntropySGD(
        cosine(1.0, gradients // 20),
        langevin_learning_rate=0.2,
        num_langevin_steps=20,
    ),
}


def work(name):
    """Returns what was found in training together with the other worker."""
    keras.utils.set_random_seed(0)
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = EntropyModel.from_model(
            keras.Sequential([
                keras.Input([64]),
                keras.layers.Dense(64, "relu"),
                keras.layers.Dense(10),
            ])
        )
        model.compile(
            OPTIMIZERS[name](),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    history = model.fit(
        *data,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=test,
        verbose=0,
    ).history
    return {
        "updates": int(model.optimizer.iterations.numpy()),
        "weights": model.count_params(),
        "errors": [100 * (1 - a) for a in history["val_accuracy"]],
    }


# %% [markdown]
# `python -m trainers.launch` starts workers for the [training
# program](../trainers.md) in the same way, ends all when one dies, and goes on
# from the last checkpoint.


# %%
def on_two_workers(name):
    """Returns what the first of two workers found, which are this script."""
    # A notebook has no such name: its script lies beside it.
    script = globals().get("__file__", "two_workers.py")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    workers = []
    for index in range(2):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, script, name],
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    printed, _ = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        sys.exit("error: a worker failed; what it wrote stands above")
    return json.loads(printed)


if "TF_CONFIG" in os.environ:
    print(json.dumps(work(sys.argv[1])))
    sys.exit()

found = {name: on_two_workers(name) for name in OPTIMIZERS}
for name, run in found.items():
    sent = 4e-6 * run["weights"] * run["updates"]
    print(
        f"{name}: {run['updates']} exchanges, {sent:.2f} MB from each worker, "
        f"test error {run['errors'][-1]:.1f} %"
    )

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/two_workers.txt"
# ```
#
# An exchange of gradients between two workers sends every weight's once, 4
# bytes, from each. All runs see each digit 20 times. [Many
# devices](../devices.md#when-does-talking-less-pay) has for which networks and
# links that is worth it, and more than one seed.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(7, 3), layout="constrained", sharey=True
)
for name, run in found.items():
    passes = np.arange(1, epochs + 1)
    left.semilogy(passes, run["errors"], marker=".", label=name)
    right.loglog(passes * run["updates"] / epochs, run["errors"], marker=".")
ticks = [2, 3, 5, 10]
left.set_yticks(ticks, ticks)
left.minorticks_off()
left.set_xticks(range(0, epochs + 1, 5))
left.set(xlabel="passes through the data", ylabel="test error, %")
right.set(xlabel="exchanges")
left.legend()
figure.savefig("two_workers.png", dpi=120)

# %% [markdown]
# ![Test error over passes and over exchanges](two_workers.png)
