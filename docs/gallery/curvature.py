"""The curvature of a model of your own."""

# %% [markdown]
# # The curvature of a model of your own
#
# Any Keras model will do, trained by whatever optimizer. What follows needs the
# model, its data and its loss, and changes none of them.

# %%
import keras
import numpy as np
from sklearn import datasets

from entropy_keras import landscape

keras.utils.set_random_seed(0)
digits = datasets.load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
x = digits.data[order[:1000]].astype("float32") / 16
y = digits.target[order[:1000]]


def trained(batch_size):
    """Returns a network, and its weights after each pass."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([64]),
        keras.layers.Dense(32, activation="relu", name="first"),
        keras.layers.Dense(16, activation="relu", name="second"),
        keras.layers.Dense(10, name="logits"),
    ])
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    path = [model.get_weights()]
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: path.append(model.get_weights())
    )
    model.fit(x, y, batch_size, epochs=15, verbose=0, callbacks=[recorder])
    return model, path


# %% [markdown]
# Small and large batches are said to end in valleys of different width. An
# `Objective` is made once for each network and compiled once; every function
# takes it in place of model and data.

# %%
models, spectra, traces = {}, {}, {}
for name, batch_size in {"batches of 16": 16, "batches of 250": 250}.items():
    model, path = trained(batch_size)
    objective = landscape.Objective(model, (x, y))
    ends = landscape.top_eigenvalues(objective, num_eigenvalues=1)
    spectra[name] = landscape.spectral_density(objective, num_steps=60)
    traces[name] = landscape.layer_traces(model, (x, y))
    models[name] = model, path
    whole = landscape.trace(objective)
    parts = sum(trace.value for trace in traces[name].values())
    print(
        f"{name}: loss {objective.value(objective.position()):.4f}, "
        f"largest eigenvalue {ends.largest[0]:.2f}, "
        f"smallest {ends.smallest[0]:.3f}, "
        f"trace {whole.value:.1f} ± {whole.standard_error:.1f}, "
        f"of the layers together {parts:.1f}"
    )

# %% [markdown]
# It prints
#
# ```text
# --8<-- "docs/gallery/curvature.txt"
# ```
#
# Compare curvature at one loss: it fades as the loss does. Here the large
# batches made fewer steps and are not as far, so that their curvature says
# nothing yet of where they would end.

# %%
landscape.plot_spectra(spectra).savefig("curvature_spectra.png", dpi=80)
landscape.plot_layer_traces(traces).savefig("curvature_layers.png", dpi=80)
model, path = models["batches of 16"]
figure = landscape.plot_training_path(model, (x, y), path)
figure.savefig("curvature.png", dpi=80)

# %% [markdown]
# ![Two spectra](curvature_spectra.png)
#
# ![Traces of the layers](curvature_layers.png)
#
# ![The loss around the path of the training](curvature.png)
#
# Operators are those of SciPy, so that methods of your own can use them: the
# block of one layer, a Newton step, the evidence of Laplace's approximation.

# %%
curvature = landscape.gauss_newton_operator(model, (x, y))
last = landscape.weight_indices(model, model.get_layer("logits"))
block = landscape.restricted_operator(curvature, last)
objective = landscape.Objective(model, (x, y))
gradient = objective.gradient(objective.position()).numpy()
step = landscape.inverse_vector_product(
    block, vector=gradient[last], shift=0.01
)
evidence = landscape.log_determinant(curvature, shift=0.01)
print(
    f"the last layer: {len(last)} weights, gradient of length "
    f"{np.linalg.norm(gradient[last]):.3f}, damped Newton step of length "
    f"{np.linalg.norm(step):.3f}"
)
print(
    f"all layers: log-determinant {evidence.value:.0f} "
    f"± {evidence.standard_error:.0f}"
)
