"""50 random updates equal the NumPy version, over a product of settings."""

import itertools
import pathlib

import keras
import langevin
import numpy as np
import pytest
import reference
import tensorflow as tf

import entropy_keras

NUM_UPDATES = 50
MINIBATCH = 4
# Keras takes these through float32, so they are exact there.
PENALTY = 0.0625
MOMENTUM = 0.875
WEIGHT_DECAY = 0.125
ADAM = {"beta_1": 0.875, "beta_2": 511 / 512, "epsilon": 2**-10}

SAMPLERS = {
    "plain": (entropy_keras.SGLD(momentum=0.0), ("sgld", 0.0, False)),
    "nesterov": (entropy_keras.SGLD(0.9), ("sgld", 0.9, True)),
    "momentum": (entropy_keras.SGLD(0.5, nesterov=False), ("sgld", 0.5, False)),
    "split": (entropy_keras.SplitSGLD(), ("split",)),
}
ESTIMATORS = {
    "ema": {"averaging_rate": 0.75},
    "mean": {"averaging_rate": None},
    "scaled": {"averaging_rate": 0.25, "scale_by_scope": True},
    "mean_gradient": {"averaging_rate": None, "estimator": "mean_gradient"},
}
CLIPPING = ({}, {"clipnorm": 0.2}, {"global_clipnorm": 0.3}, {"clipvalue": 0.1})
# All 64 combinations but one in four, another one for each estimator.
PRODUCT = [
    case
    for i, case in enumerate(
        itertools.product(
            SAMPLERS, ESTIMATORS, (0.0, 0.3), ("anchor", "stationary")
        )
    )
    if i % 4 != i // 4 % 4
]


def make_case(index):
    """Returns the arguments of EntropySGD and what else the case varies."""
    sampler, estimator, data_weight, start = PRODUCT[index]
    arguments = {
        "num_langevin_steps": 1 + index % 4,
        "temperature": (1e-3, 1e-8)[index % 3 == 0],
        "scope": (0.3, entropy_keras.ExponentialScope(0.1, 0.05, 2.0))[
            index // 2 % 2
        ],
        "langevin_learning_rate": (0.05, None)[index // 4 % 2],
        "data_weight": data_weight,
        "start": start,
        "share_batch": index % 5 == 0,
        "sampler": SAMPLERS[sampler][0],
        **ESTIMATORS[estimator],
        **CLIPPING[index % 4],
        "seed": index,
    }
    outer = ("sgd", "nesterov", "adam")[index % 3]
    return arguments, SAMPLERS[sampler][1], outer


def learning_rate_at(update, outer):
    base = {"sgd": 2**-2, "nesterov": 2**-4, "adam": 2**-7}[outer]
    return base * 0.5 ** (update // 20)


def make_model(arguments, outer):
    schedule = keras.optimizers.schedules.ExponentialDecay(
        learning_rate_at(0, outer), 20, 0.5, staircase=True
    )
    if outer == "sgd":
        arguments = {
            "learning_rate": schedule,
            "weight_decay": WEIGHT_DECAY,
            **arguments,
        }
    elif outer == "nesterov":
        arguments = arguments | {
            "outer_optimizer": keras.optimizers.SGD(
                schedule, momentum=MOMENTUM, nesterov=True
            )
        }
    else:
        arguments = arguments | {
            "outer_optimizer": keras.optimizers.Adam(schedule, **ADAM)
        }
    inputs = keras.Input([3])
    hidden = keras.layers.Dense(
        4, "tanh", kernel_regularizer=keras.regularizers.L2(PENALTY)
    )(inputs)
    outputs = keras.layers.Dense(2, use_bias=False)(hidden)
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(entropy_keras.EntropySGD(**arguments), loss="mse")
    return model


def run_reference(weights, groups, arguments, kind, outer, dtype):
    gradient = reference.Network(PENALTY).gradient
    optimizer = {
        "sgd": reference.OuterSGD(weight_decay=WEIGHT_DECAY),
        "nesterov": reference.OuterSGD(momentum=MOMENTUM),
        "adam": reference.OuterAdam(**ADAM),
    }[outer]
    for update, (x, y) in enumerate(groups):
        learning_rate = learning_rate_at(update, outer)
        step_size = arguments["langevin_learning_rate"]
        if step_size is None:
            step_size = 0.1 * learning_rate
        scope = arguments["scope"]
        if not isinstance(scope, float):
            scope = min(0.1 * 1.05**update, 2.0)

        def draw(step, update=update, like=tuple(weights)):
            return [
                langevin.draw(
                    w.shape, tf.as_dtype(dtype), seed=arguments["seed"],
                    update=update, step=step, variable=i,
                ).numpy().astype("float64")
                for i, w in enumerate(like)
            ]  # fmt: skip

        def minibatch(index, x=x, y=y):
            if arguments["share_batch"]:
                return x, y
            rows = slice(MINIBATCH * index, MINIBATCH * (index + 1))
            return x[rows], y[rows]

        settings = {"estimator": "displacement", "scale_by_scope": False}
        settings |= arguments | {
            "L": arguments["num_langevin_steps"],
            "h": step_size,
            "scope": scope,
            "kind": kind,
        }
        total = reference.entropy_gradient(
            gradient, weights, minibatch, draw, settings
        )
        weights = optimizer.apply(weights, total, learning_rate)
    return weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", range(len(PRODUCT)))
def test_fifty_updates_equal_numpy(index, dtype):
    arguments, kind, outer = make_case(index)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        model = make_model(arguments, outer)
        rng = np.random.default_rng(index)
        rows = MINIBATCH * model.optimizer.minibatches_per_update
        groups = [
            (rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)))
            for _ in range(NUM_UPDATES)
        ]
        weights = [w.astype("float64") for w in model.get_weights()]
        expected = run_reference(weights, groups, arguments, kind, outer, dtype)
        for x, y in groups:
            model.train_on_batch(x.astype(dtype), y.astype(dtype))
        actual = model.get_weights()
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    moved = zip(expected, weights, strict=True)
    assert max(abs(after - before).max() for after, before in moved) > 0.01
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * abs(e).max())


def test_the_reference_is_independent():
    source = pathlib.Path(reference.__file__).read_text()
    assert "entropy_keras" not in source.split('"""', 2)[2]
