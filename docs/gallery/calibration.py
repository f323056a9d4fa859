"""Predictions averaged over the weights around those of a model."""

# %% [markdown]
# # Calibration by averaging over the valley
#
# A network that was trained long is surer than it is right. Entropy-SGD's inner
# loop walks through the weights that are nearly as good as the trained ones;
# `landscape.local_predictions` takes that walk after training and averages what
# they predict. At `temperature = 1 / N` it samples the Bayesian posterior with
# a Gaussian prior around the weights.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn import datasets

from entropy_keras import EntropyModel
from entropy_keras import EntropySGD
from entropy_keras import landscape

keras.utils.set_random_seed(0)
digits = datasets.load_digits()
rng = np.random.default_rng(0)
order = rng.permutation(len(digits.target))
noise = rng.normal(0.0, 0.35, digits.data.shape)
images = ((digits.data / 16 + noise)[order]).astype("float32")
labels = digits.target[order]
data = images[:300], labels[:300]
x_held, y_held = images[300:600], labels[300:600]
x_test, y_test = images[600:], labels[600:]

model = EntropyModel.from_model(
    keras.Sequential([
        keras.Input([64]),
        keras.layers.Dense(32, "relu"),
        keras.layers.Dense(10),
    ])
)
model.compile(
    EntropySGD(),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(*data, batch_size=16, epochs=60, verbose=0)
logits = model.predict(x_test, verbose=0)

# %% [markdown]
# 300 noisy digits to train on, 1,197 to test. The chains give the mean of the
# probabilities; their logarithms serve as logits. Beside them stands the usual
# remedy: logits divided by one number, which is fitted on 300 further digits.

# %%
held = model.predict(x_held, verbose=0)
divisor = landscape.fit_temperature(held, y_held)
predictions = {"the weights": logits, "divided": logits / divisor}
for name, temperature in {"1 / N": 1 / 300, "0.03": 0.03}.items():
    found = landscape.local_predictions(
        model,
        x_test,
        data,
        scope=1.0,
        temperature=temperature,
        num_samples=100,
        steps_per_sample=20,
    )
    print(
        f"chains at {name}: R-hat {found.r_hat:.2f}, worth "
        f"{found.effective_sample_size:.0f} samples; "
        f"{found.reason or 'they can be trusted'}"
    )
    predictions[f"averaged at {name}"] = found.logits

for name, values in predictions.items():
    error = 100 * np.mean(values.argmax(1) != y_test)
    print(
        f"{name}: test error {error:.1f} %, "
        f"log loss {landscape.log_loss(values, y_test):.3f}, "
        "calibration error "
        f"{landscape.expected_calibration_error(values, y_test):.3f}"
    )

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/calibration.txt"
# ```
#
# The weights are surer than right. Averaged at the temperature of the posterior
# the predictions are a little better; at 0.03 they are as sure as right, and
# their log loss is about that of the fitted division, which needs no chains.
# The temperature is a number to choose on held-out data, too: 0.03 was tried
# here because it lowers errors in training.
#
# A diagram of confidence and accuracy shows it: below the diagonal predictions
# are too sure.

# %%
figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
axes.plot([0, 1], [0, 1], "k:", label="as sure as right")
edges = np.linspace(0, 1, 9)
for name, values in predictions.items():
    probabilities = np.exp(values - values.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence = probabilities.max(1)
    right = values.argmax(1) == y_test
    bins = np.digitize(confidence, edges[1:-1])
    filled = [b for b in range(8) if (bins == b).sum() > 10]
    axes.plot(
        [confidence[bins == b].mean() for b in filled],
        [right[bins == b].mean() for b in filled],
        marker=".",
        label=name,
    )
axes.set(xlabel="confidence", ylabel="accuracy")
axes.legend()
figure.savefig("calibration.png", dpi=120)

# %% [markdown]
# ![Accuracy over confidence](calibration.png)
