"""Entropy-SGD for Keras: train networks that settle in wide valleys."""

import importlib
from typing import Any

# ruff: noqa: E402 (the backend is looked at before anything needs it)
from entropy_keras import requirements as _requirements

_requirements.check_backend()

from entropy_keras import callbacks
from entropy_keras import presets
from entropy_keras import samplers
from entropy_keras.elastic import ElasticEntropySGD
from entropy_keras.entropy_sgd import EntropySGD
from entropy_keras.estimators import Displacement
from entropy_keras.estimators import MeanGradient
from entropy_keras.inner_optimizer import InnerOptimizer
from entropy_keras.model import EntropyModel
from entropy_keras.multi_gradient import Clock
from entropy_keras.multi_gradient import MultiGradientOptimizer
from entropy_keras.multi_gradient import Proposal
from entropy_keras.samplers import SGHMC
from entropy_keras.samplers import SGLD
from entropy_keras.samplers import SGNHT
from entropy_keras.samplers import GaussianPerturbation
from entropy_keras.samplers import Santa
from entropy_keras.samplers import SplitSGLD
from entropy_keras.schedules import ExponentialScope
from entropy_keras.schedules import PerVariable
from entropy_keras.sharpness_aware import SharpnessAware
from entropy_keras.version import __version__

__all__ = [
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Clock",
    "Displacement",
    "ElasticEntropySGD",
    "EntropyModel",
    "EntropySGD",
    "ExponentialScope",
    "GaussianPerturbation",
    "InnerOptimizer",
    "MeanGradient",
    "MultiGradientOptimizer",
    "PerVariable",
    "Proposal",
    "Santa",
    "SharpnessAware",
    "SplitSGLD",
    "__version__",
    "callbacks",
    "presets",
    "samplers",
]


def __getattr__(name: str) -> Any:
    # Its requirements are an extra: it is imported once it is asked for.
    if name == "landscape":
        return importlib.import_module("entropy_keras.landscape")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
