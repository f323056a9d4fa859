"""Entropy-SGD for Keras: train networks that settle in wide valleys."""

from entropy_keras import callbacks
from entropy_keras import presets
from entropy_keras import samplers
from entropy_keras.model import EntropyModel
from entropy_keras.optimizer import EntropySGD
from entropy_keras.samplers import SGLD
from entropy_keras.samplers import SplitSGLD
from entropy_keras.scoping import ExponentialScope
from entropy_keras.version import __version__

__all__ = [
    "SGLD",
    "EntropyModel",
    "EntropySGD",
    "ExponentialScope",
    "SplitSGLD",
    "__version__",
    "callbacks",
    "presets",
    "samplers",
]
