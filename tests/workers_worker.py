"""One of two workers, whose results `test_workers` looks at.

Run with the environment variable TF_CONFIG that TensorFlow reads; prints what
it found as the last line, in JSON.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import entropy_keras

STEPS, SIZE = 3, 4  # mini-batches in a group, rows of one on each worker
ROWS = 2 * STEPS * SIZE
layers = keras.layers


def data(num_groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=[num_groups * ROWS, 6]).astype("float32")
    return x, (x[:, :1] * x[:, 1:2]).astype("float32")


def network(name):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([6])
    x = layers.Dense(8, kernel_regularizer="l2")(inputs)
    if name != "plain":  # Keras lets statistics of plain optimizers differ
        x = layers.BatchNormalization()(x)
    outputs = layers.Dense(1)(layers.ReLU()(x))
    return entropy_keras.EntropyModel(inputs, outputs)


OPTIMIZERS = {
    "entropy": lambda: entropy_keras.EntropySGD(
        0.5, num_langevin_steps=STEPS, temperature=0.0
    ),
    "sam": lambda: entropy_keras.SharpnessAware(0.1, learning_rate=0.1),
    "plain": lambda: keras.optimizers.SGD(0.1),
}


def fit(model, name, x, y, batch_size, **arguments):
    model.compile(
        OPTIMIZERS[name](), loss="mse", metrics=["mae"], jit_compile=False
    )
    model.fit(
        x, y, batch_size=batch_size, shuffle=False, verbose=0, **arguments
    )
    return [w.tolist() for w in model.get_weights()]


def main():
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        print(json.dumps(results()))


def results():
    found = {}
    for name in OPTIMIZERS:
        rows = ROWS if name == "entropy" else 2 * SIZE
        x, y = (array[:rows] for array in data(1))
        model = network(name)
        weights = fit(model, name, x, y, 2 * SIZE)
        x, y = data(2)
        found[name] = {
            "weights": weights,
            "evaluated": model.evaluate(x, y, batch_size=8, verbose=0),
            "predicted": model.predict(x, batch_size=8, verbose=0).tolist(),
            "trained": fit(model, name, x, y, 2 * SIZE, epochs=2),
        }
    x[0] = np.nan if "nan" in sys.argv else x[0]
    model.compile(OPTIMIZERS["entropy"](), loss="mse", jit_compile=False)
    before = model.get_weights()
    try:
        model.fit(x, y, batch_size=2 * SIZE, shuffle=False, verbose=0)
    except Exception as error:
        found["stopped"] = str(error)
    found["kept"] = all(
        (a == b).all() for a, b in zip(before, model.get_weights(), strict=True)
    )
    return found


if __name__ == "__main__":
    main()
