"""Whether XLA makes the inner loop of a model faster where there is no GPU."""

from typing import Any

import keras
import tensorflow as tf

from entropy_keras import twins
from entropy_keras import validation

_layers = keras.layers
# Measured on two x86 cores by `benchmarks.compilation`: XLA takes 0.4 to 0.7 of
# the time of TensorFlow's own kernels, and 2 to 3 times as long on convolutions
# and on layers that draw random numbers. Of others nothing is known.
_FASTER = (
    _layers.Activation,
    _layers.Add,
    _layers.BatchNormalization,
    _layers.Bidirectional,
    _layers.Concatenate,
    _layers.Dense,
    _layers.Dropout,  # of rate 0, which attention holds
    _layers.EinsumDense,
    _layers.Embedding,
    _layers.Flatten,
    _layers.GRU,
    _layers.GRUCell,
    _layers.GlobalAveragePooling1D,
    _layers.InputLayer,
    _layers.LSTM,
    _layers.LSTMCell,
    _layers.LayerNormalization,
    _layers.LeakyReLU,
    _layers.MultiHeadAttention,
    _layers.ReLU,
    _layers.Rescaling,
    _layers.Reshape,
    _layers.SimpleRNN,
    _layers.SimpleRNNCell,
    _layers.Softmax,
)


def prefers_xla(model: keras.Model) -> bool:
    """Returns whether XLA is known to speed up the training of a model.

    Args:
        model: Any model, not necessarily built.

    Returns:
        Whether it is a Functional or Sequential float32 model that consists of
        layers for which this was measured.

    Example:
    >>> inputs = keras.Input([28, 28, 1])
    >>> flat = keras.layers.Flatten()(inputs)
    >>> prefers_xla(keras.Model(inputs, keras.layers.Dense(10)(flat)))
    True
    >>> maps = keras.layers.Conv2D(8, 3)(inputs)
    >>> prefers_xla(keras.Model(inputs, maps))
    False
    """
    functional = twins.functional_class()
    return isinstance(model, functional) and all(
        isinstance(layer, functional | keras.Sequential)
        or (
            type(layer) in _FASTER
            and layer.compute_dtype == layer.variable_dtype == "float32"
            and not getattr(layer, "rate", 0)
            and not getattr(layer, "dropout", 0)
            and not getattr(layer, "recurrent_dropout", 0)
            and not getattr(layer, "sparse", False)
        )
        for layer in model._flatten_layers(include_self=False)
    )


def choose(model: keras.Model) -> None:
    """Makes a compiled model use XLA without a GPU too where it is faster.

    Args:
        model: A model for which Keras has chosen already, which stands if it
            runs eagerly, if there is a GPU or if it is made under a strategy,
            whose replicas cannot talk within XLA.
    """
    with model.distribute_strategy.scope():
        if tf.distribute.has_strategy():
            return
    if not (model.run_eagerly or tf.config.list_physical_devices("GPU")):
        model.jit_compile = prefers_xla(model)


def avoid(model: keras.Model, asked_for: Any) -> None:
    """Makes a compiled model do without XLA, unless that was asked for.

    XLA compiles a loop for one shape of what its steps read.

    Args:
        model: A model whose mini-batches differ in shape.
        asked_for: The argument `jit_compile`.

    Raises:
        ValueError: If it is true.
    """
    validation.require(
        asked_for is not True,
        "jit_compile",
        "False or 'auto' for mini-batches of different shapes: pad them to "
        "one, or state theirs by `tf.ensure_shape` if it is the same",
        asked_for,
    )
    if model.jit_compile:
        model.jit_compile = False
        model.train_function = None  # that of before
