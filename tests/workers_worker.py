"""One of two workers, whose results `test_workers` looks at.

Run with the environment variable TF_CONFIG that TensorFlow reads.
"""

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


def network(*, normalize=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([6])
    x = layers.Dense(8, kernel_regularizer="l2")(inputs)
    if normalize:
        x = layers.BatchNormalization()(x)
    outputs = layers.Dense(1)(layers.ReLU()(x))
    return entropy_keras.EntropyModel(inputs, outputs)


def entropy_sgd(**arguments):
    defaults = {
        "learning_rate": 0.5, "num_langevin_steps": STEPS, "seed": 3,
        "temperature": 0.0,
    }  # fmt: skip
    return entropy_keras.EntropySGD(**(defaults | arguments))


def compiled(make, strategy, **arguments):
    with strategy.scope():
        model = network(**arguments)
        model.compile(make(), loss="mse", metrics=["mae"], jit_compile=False)
    return model


def fit(model, x, y, **arguments):
    arguments = {"batch_size": 2 * SIZE, "shuffle": False} | arguments
    return model.fit(x, y, verbose=0, **arguments).history


def everything(model):
    return [v.numpy() for v in model.weights]


def distance(one, other):
    return float(max(abs(a - b).max() for a, b in zip(one, other, strict=True)))


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for name, make in {
        "entropy": entropy_sgd,
        "sam": lambda: entropy_keras.SharpnessAware(0.1, learning_rate=0.1),
        "plain": lambda: keras.optimizers.SGD(0.1),
        "sync": lambda: entropy_sgd(chains="synchronized"),
    }.items():
        model = compiled(make, strategy)
        x, y = data(4)
        print(name, fit(model, x, y), flush=True)
        print(name, model.evaluate(x, y, batch_size=8, verbose=0), flush=True)
        print(name, model.predict(x[:10], batch_size=4, verbose=0).ravel()[:3])
        print(name, [float(w.sum()) for w in everything(model)], flush=True)


if __name__ == "__main__":
    main()
