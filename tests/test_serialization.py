"""Keras's own test of serialization, on every public class."""

import keras
import pytest

# Not exported by `keras`, and what its own classes are held to.
from keras.src.testing import TestCase  # noqa: TID251

import entropy_keras
from entropy_keras import presets

SCHEDULE = keras.optimizers.schedules.CosineDecay(1.0, 100)
SCOPE = entropy_keras.ExponentialScope(0.25, 0.5, maximum_scope=1.0)
OBJECTS = {
    "default": entropy_keras.EntropySGD,
    "schedules": lambda: entropy_keras.EntropySGD(
        SCHEDULE, scope=SCOPE, langevin_learning_rate=SCHEDULE
    ),
    "sampler": lambda: entropy_keras.EntropySGD(
        sampler=entropy_keras.SplitSGLD(),
        estimator="mean_gradient",
        averaging_rate=None,
        start="stationary",
    ),
    "outer_optimizer": lambda: entropy_keras.EntropySGD(
        outer_optimizer=keras.optimizers.Adam(0.5, weight_decay=0.25)
    ),
    "base_options": lambda: entropy_keras.EntropySGD(
        0.5, weight_decay=0.25, use_ema=True, global_clipnorm=2.0
    ),
    "paper_v1": presets.paper_v1,
    "iclr_2017": presets.iclr_2017,
    "released_code": presets.released_code,
    "scope": lambda: SCOPE,
    "sgld": lambda: entropy_keras.SGLD(momentum=0.5, nesterov=False),
    "split_sgld": entropy_keras.SplitSGLD,
}


def model():
    layers = [keras.Input([2]), keras.layers.Dense(3), keras.layers.Dense(1)]
    inner = keras.Sequential(layers)
    return entropy_keras.EntropyModel(inner.inputs, inner.outputs)


@pytest.mark.parametrize(
    "make", [*OBJECTS.values(), model], ids=[*OBJECTS, "model"]
)
def test_keras_revives(make):
    TestCase().run_class_serialization_test(make())
