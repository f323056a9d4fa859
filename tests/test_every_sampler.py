"""Every sampler with every metric: modes of running, resume, precision."""

import functools
import itertools

import keras
import numpy as np
import pytest

import entropy_keras

pytestmark = pytest.mark.nightly

QUIET = entropy_keras.Displacement(subtract_noise=True)
# The sampler, the estimator that it takes, and what else it needs.
SAMPLERS = {
    "sgld": (entropy_keras.SGLD(0.9), QUIET),
    "momentum": (entropy_keras.SGLD(0.5, nesterov=False), "mean_gradient"),
    "split_sgld": ("split_sgld", QUIET),
    "averaged": (entropy_keras.SplitSGLD(average_noise=True), "displacement"),
    "sghmc": ("sghmc", QUIET),
    "sgnht": ("sgnht", "displacement"),
    "santa": ("santa", "mean_gradient"),
    "perturbation": (entropy_keras.GaussianPerturbation(), "mean_gradient"),
    "inner_sgd": (
        entropy_keras.InnerOptimizer(keras.optimizers.SGD(0.02, 0.875)),
        QUIET,
    ),
    "inner_adam": (
        entropy_keras.InnerOptimizer(keras.optimizers.Adam(0.01)),
        "displacement",
    ),
}
METRICS = ("identity", "relative", "rms_gradients", "learned")
PAIRS = tuple(itertools.product(SAMPLERS, METRICS))
MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
}
EPOCHS = 4  # of four updates
X = np.random.default_rng(0).normal(size=[120, 5]).astype("float32")
Y = np.tanh(X[:, :1] * X[:, 1:2])


def make(sampler, metric, mode, policy="float32"):
    """Returns a compiled model whose chain has noise that shows."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([5])
    hidden = keras.layers.Dense(4, "tanh", dtype=policy)(inputs)
    outputs = keras.layers.Dense(1, dtype=policy)(hidden)
    model = entropy_keras.EntropyModel(
        inputs, keras.layers.Activation("linear", dtype="float32")(outputs)
    )
    model.dtype_policy = keras.DTypePolicy(policy)
    kinetics, estimator = SAMPLERS[sampler]
    learned = metric == "learned"
    has_no_step_size = isinstance(
        kinetics,
        entropy_keras.InnerOptimizer | entropy_keras.GaussianPerturbation,
    )
    model.compile(
        entropy_keras.EntropySGD(
            0.5,
            sampler=kinetics,
            metric=metric,
            estimator=estimator,
            num_langevin_steps=3,
            langevin_learning_rate=(
                None
                if has_no_step_size
                else 1e-3
                if metric == "rms_gradients"
                else 0.02
            ),
            temperature=1e-6 if metric == "rms_gradients" else 1e-4,
            scope=1.0 if learned else 0.03,
            start="stationary" if learned else "anchor",
            seed=4,
        ),
        loss="mse",
        **MODES[mode],
    )
    return model


def fit(model, first=0, last=EPOCHS):
    """Trains from the epoch `first` to `last`; returns the losses."""
    return model.fit(
        X, Y, batch_size=10, shuffle=False, verbose=0,
        initial_epoch=first, epochs=last,
    ).history["loss"]  # fmt: skip


def everything(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


@functools.cache
def trained(sampler, metric, mode):
    """Returns weights before, weights after, all after, and the losses."""
    model = make(sampler, metric, mode)
    before = model.get_weights()
    losses = fit(model)
    return before, model.get_weights(), everything(model), losses


@pytest.mark.parametrize(("sampler", "metric"), PAIRS)
def test_modes_agree(sampler, metric):
    before, graph, _, losses = trained(sampler, metric, "graph")
    assert max(abs(a - b).max() for a, b in zip(before, graph, strict=True)) > (
        0.01
    )
    for mode in ("eager", "xla"):
        _, other, _, of_mode = trained(sampler, metric, mode)
        np.testing.assert_allclose(of_mode, losses, rtol=1e-4)
        for a, b in zip(graph, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize(("sampler", "metric"), PAIRS)
def test_a_resumed_run_is_the_unbroken_one(sampler, metric, mode, tmp_path):
    *_, whole, _ = trained(sampler, metric, mode)
    first = make(sampler, metric, mode)
    fit(first, last=2)
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    fit(second, first=2)
    for a, b in zip(whole, everything(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("sampler", "metric"), PAIRS)
def test_half_precision_follows(sampler, metric, policy):
    *_, losses = trained(sampler, metric, "graph")
    model = make(sampler, metric, "graph", policy)
    if policy == "mixed_float16":
        model.optimizer.build(model.trainable_variables)
        model.optimizer.dynamic_scale.assign(2.0)  # which skips no update
    found = fit(model)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    np.testing.assert_allclose(found, losses, rtol=0.05)
    assert found != losses
