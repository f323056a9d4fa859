"""A small convolutional network, with SGD and with Entropy-SGD."""

# %% [markdown]
# # The swap, on a small convolutional network
#
# A script in the style of Keras's examples: as it was, with SGD, and with two
# lines changed. All runs see every digit 20 times and so take the same number
# of gradients.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn import datasets

from entropy_keras import EntropyModel
from entropy_keras import EntropySGD

keras.utils.set_random_seed(0)
epochs, batch_size = 20, 32
digits = datasets.load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = digits.images[order, ..., None].astype("float32") / 16
labels = digits.target[order]
x_train, y_train = images[:1280], labels[:1280]
x_test, y_test = images[1280:], labels[1280:]
gradients = epochs * len(x_train) // batch_size


def network():
    """Returns a convolutional network for images of 8 x 8 pixels."""
    return keras.Sequential([
        keras.Input([8, 8, 1]),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ])


def cosine(initial, num_updates):
    """Returns a schedule that ends at 0 with the training."""
    return keras.optimizers.schedules.CosineDecay(initial, num_updates)


# %% [markdown]
# The learning rate of SGD becomes `langevin_learning_rate`; its schedule
# becomes that of `learning_rate`, which counts updates: a fifth of the
# gradients.

# %%
optimizers = {
    "SGD, 0.1": keras.optimizers.SGD(
        cosine(0.1, gradients), momentum=0.9, nesterov=True
    ),
    "Entropy-SGD, 0.1": EntropySGD(
        cosine(1.0, gradients // 5), langevin_learning_rate=0.1
    ),
    "Entropy-SGD, 0.2": EntropySGD(
        cosine(1.0, gradients // 5), langevin_learning_rate=0.2
    ),
}

histories = {}
for name, optimizer in optimizers.items():
    keras.utils.set_random_seed(0)
    model = EntropyModel.from_model(network())  # with SGD, a plain model
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    histories[name] = model.fit(
        x_train,
        y_train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(x_test, y_test),
        verbose=0,
    ).history
    last = {key: values[-1] for key, values in histories[name].items()}
    print(
        f"{name}: {gradients} gradients, {int(optimizer.iterations)} updates, "
        f"training loss {last['loss']:.4f}, "
        f"test error {100 * (1 - last['val_accuracy']):.1f} %"
    )

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/swap.txt"
# ```
#
# A fifth of the updates of the weights does nearly the same. At equal step
# sizes Entropy-SGD trains more slowly, since its momentum begins anew with each
# update: it stands a larger one. The test errors are those of one seed.

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, history in histories.items():
    error = [100 * (1 - a) for a in history["val_accuracy"]]
    axes.semilogy(range(1, epochs + 1), error, marker=".", label=name)
ticks = [1, 2, 5, 10, 20]
axes.set_yticks(ticks, ticks, minor=False)
axes.set_xticks(range(0, epochs + 1, 5))
axes.set(xlabel="passes through the data", ylabel="test error, %")
axes.legend()
figure.savefig("swap.png", dpi=120)

# %% [markdown]
# ![Test error over passes through the data](swap.png)
