"""What training does to the curvature of the loss."""

# %% [markdown]
# # Flatness before and after
#
# `entropy_keras.landscape` judges any model, however trained. Here it looks at
# one network as initialized, and after 40 passes with SGD, with Entropy-SGD as
# published and at a real temperature, and with SAM.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn import datasets

from entropy_keras import Displacement
from entropy_keras import EntropyModel
from entropy_keras import EntropySGD
from entropy_keras import SharpnessAware
from entropy_keras import landscape

keras.utils.set_random_seed(0)
epochs, batch_size = 40, 32
digits = datasets.load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images = digits.data[order].astype("float32") / 16
labels = digits.target[order]
data = images[:1000], labels[:1000]
test = images[1000:], labels[1000:]
gradients = epochs * -(-1000 // batch_size)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    """Returns a network of 2,410 weights, the same each time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input([64]),
        keras.layers.Dense(32, "relu"),
        keras.layers.Dense(10),
    ])


cosine = keras.optimizers.schedules.CosineDecay
optimizers = {
    "SGD": keras.optimizers.SGD(cosine(0.1, gradients), momentum=0.9),
    "Entropy-SGD": EntropySGD(
        cosine(1.0, gradients // 20),
        langevin_learning_rate=0.2,
        num_langevin_steps=20,
    ),
    "Entropy-SGD at 0.03": EntropySGD(
        cosine(1.0, gradients // 5),
        langevin_learning_rate=0.1,
        temperature=0.03,
        estimator=Displacement(subtract_noise=True),
    ),
    "SAM": SharpnessAware(
        radius=0.1,
        outer_optimizer=keras.optimizers.SGD(
            cosine(0.1, gradients // 2), momentum=0.9
        ),
    ),
}
models = {"initial": network()}
for name, optimizer in optimizers.items():
    models[name] = EntropyModel.from_model(network())
    models[name].compile(optimizer, loss=loss)
    models[name].fit(*data, batch_size=batch_size, epochs=epochs, verbose=0)

# %% [markdown]
# The largest eigenvalue of the Hessian, its trace, what noise of a tenth of
# each weight costs, and the loss along one line, whose direction is scaled to
# the filters of the network.

# %%
slices = {}
for name, model in models.items():
    model.compile(loss=loss, metrics=["accuracy"])
    training_loss = model.evaluate(*data, verbose=0)[0]
    accuracy = model.evaluate(*test, verbose=0)[1]
    ends = landscape.top_eigenvalues(model, data, num_eigenvalues=1)
    trace = landscape.trace(model, data)
    energy = landscape.local_energy(model, data, sigma=0.1)
    slices[name] = landscape.loss_slice(
        model, data, distances=np.linspace(-1, 1, 41), seed=1
    )
    print(
        f"{name}: loss {training_loss:.4f}, "
        f"error {100 * (1 - accuracy):.1f} %, "
        f"top {ends.largest[0]:.2f}, "
        f"trace {trace.value:.2f} ± {trace.standard_error:.2f}, "
        f"noise {energy.value:.4f}"
    )

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/flatness.txt"
# ```
#
# **Measures disagree, and it is clear why.** Where all samples are classified
# with certainty the loss is small, and its curvature fades with it: SGD, of the
# lowest loss, has the smallest trace. Curvature at the weights does not tell
# how wide a valley is. Noise and the line look further: with a real temperature
# the loss rises least, from a higher floor, then with SAM. Entropy-SGD as
# published, without noise to speak of, is not wider than SGD.
#
# Compare numbers of networks of one architecture, at like losses, and look at
# more than one number.

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for name, line in slices.items():
    axes.semilogy(line.distances, line.losses, label=name)
axes.set(
    xlabel="distance, in norms of the network's filters", ylabel="training loss"
)
figure.legend(loc="outside right upper")
figure.savefig("flatness.png", dpi=120)

# %% [markdown]
# ![The training loss along a line through the weights](flatness.png)
