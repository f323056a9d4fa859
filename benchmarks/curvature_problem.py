"""The networks and data of `benchmarks.curvature`, for both frameworks."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from trainers import data as data_lib
from trainers import networks


def transformer() -> keras.Model:
    """Builds a transformer of one block for sequences of 24 out of 32 symbols.

    Returns:
        The model, with logits of ten classes.

    Example:
    >>> transformer().count_params()
    36170
    """
    inputs = keras.Input([24], dtype="int32")
    x = layers.Embedding(32, 64)(inputs)
    attended = layers.MultiHeadAttention(num_heads=4, key_dim=16)(x, x)
    x = layers.LayerNormalization()(layers.add([x, attended]))
    hidden = layers.Dense(128, "relu")(x)
    hidden = layers.Dense(64)(hidden)
    x = layers.LayerNormalization()(layers.add([x, hidden]))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs, name="transformer")


def problem(
    name: str, num_samples: int, num_epochs: int
) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """Returns a network that is trained a little, and samples of its data.

    The digits are those of `trainers.data`; a sequence belongs to the class
    whose symbols, of one last digit, it has most of.

    Args:
        name: `transformer` or one of `trainers.networks`.
        num_samples: Of the samples.
        num_epochs: Passes of Adam over 4,000.

    Returns:
        The model, and inputs with labels.
    """
    keras.utils.set_random_seed(0)
    if name == "transformer":
        model = transformer()
        inputs = np.random.default_rng(0).integers(0, 32, [4000, 24])
        counts = [(inputs % 10 == digit).sum(1) for digit in range(10)]
        labels = np.argmax(counts, axis=0)
    else:
        model = networks.build(name)
        inputs, labels = data_lib.load("digits").train
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    if num_epochs:
        model.fit(inputs, labels, 64, epochs=num_epochs, verbose=0)
    # Drawn at random: the first digits are all of one class.
    drawn = np.random.default_rng(0).permutation(len(labels))[:num_samples]
    return model, (inputs[drawn], labels[drawn])


def as_torch(
    model: keras.Model, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Lays out arrays like the weights as PyTorch would have them.

    Args:
        model: A network of this benchmark.
        arrays: One of the shape of each trainable variable, in order.

    Returns:
        One of the shape of each parameter of the network of PyTorch, in order.
    """
    flattened = [
        layer.input.shape[1:]
        for layer in model.layers
        if isinstance(layer, layers.Flatten)
    ]
    found = []
    for variable, array in zip(model.trainable_variables, arrays, strict=True):
        if "embeddings" in variable.path:
            found.append(array)
        elif array.ndim == 4:
            found.append(array.transpose(3, 2, 0, 1))
        elif variable.name != "kernel":
            found.append(array.reshape(-1))  # the biases of heads as well
        else:
            rows = math.prod(array.shape[:-1])
            if array.ndim == 3 and "attention_output" not in variable.path:
                rows = array.shape[0]
            kernel = array.reshape(rows, -1)
            if flattened and rows == math.prod(flattened[0]):
                # PyTorch flattens channels first.
                shape = (*flattened[0], -1)
                kernel = kernel.reshape(shape).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(rows, -1)
            found.append(kernel.T)
    return [np.ascontiguousarray(array, "float32") for array in found]


def write_problem(
    path: pathlib.Path,
    model: keras.Model,
    data: tuple[np.ndarray, np.ndarray],
    vectors: dict[str, np.ndarray],
) -> None:
    """Writes what the process of PyTorch reads.

    Args:
        path: Path of the `.npz` file.
        model: The network.
        data: Inputs and labels.
        vectors: Vectors like the weights, each of shape `[n]`, by name.
    """
    shapes = [variable.shape for variable in model.trainable_variables]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    arrays: dict[str, Any] = {"inputs": data[0], "labels": data[1]}
    weights = [np.asarray(v) for v in model.trainable_variables]
    parts = {"weight": weights}
    for name, vector in vectors.items():
        split = np.split(vector, ends)
        parts[name] = [
            part.reshape(shape)
            for part, shape in zip(split, shapes, strict=True)
        ]
    for name, each in parts.items():
        for index, array in enumerate(as_torch(model, each)):
            arrays[f"{name}_{index}"] = array
    np.savez(path, **arrays)
