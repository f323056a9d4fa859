"""A rule inside moves variables as it would in training by itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import samplers

optimizers = keras.optimizers
X = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
Y = X[:, :1] * 2 + 1


def decays_all(model):
    del model
    return optimizers.AdamW(0.05, weight_decay=2.0)


def excluded_by_name(model):
    rule = decays_all(model)
    rule.exclude_from_weight_decay(var_names=["bias"])
    return rule


def excluded_itself(model):
    rule = decays_all(model)
    rule.exclude_from_weight_decay(var_list=model.trainable_variables[1:])
    return rule


def excluded_layer(model):
    del model
    return optimizers.Muon(0.05, exclude_layers=["head"])


def trained(make, *, inside, constraint=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3])
    head = keras.layers.Dense(
        1, bias_initializer="ones", kernel_constraint=constraint, name="head"
    )
    model = entropy_keras.EntropyModel(inputs, head(inputs))
    optimizer = make(model)
    if inside:
        # The end of the chain: as if the rule had been alone.
        optimizer = entropy_keras.EntropySGD(
            1.0, scope=0.0, averaging_rate=1.0, temperature=0.0,
            sampler=entropy_keras.InnerOptimizer(optimizer),
        )  # fmt: skip
    model.compile(optimizer, loss="mse", run_eagerly=True)
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize(
    ("make", "constraint"),
    [
        (excluded_by_name, None),
        (excluded_itself, None),
        (decays_all, "unit_norm"),
        (excluded_layer, None),
    ],
)
def test_what_a_rule_knows_of_variables_it_knows_inside(make, constraint):
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    if make is excluded_layer and version < (3, 13):
        pytest.skip("Keras's own Muon does not run on TensorFlow")
    alone = trained(make, inside=False, constraint=constraint)
    found = trained(make, inside=True, constraint=constraint)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
    other = {excluded_layer: lambda _: optimizers.Muon(0.05)}
    without = trained(other.get(make, decays_all), inside=False)
    assert np.abs(alone - without).max() > 0.01


def test_a_rule_that_scales_losses_is_refused():
    rule = optimizers.SGD(0.1, loss_scale_factor=1024.0)
    with pytest.raises(ValueError, match="`loss_scale_factor` must be left o"):
        entropy_keras.InnerOptimizer(rule)


@pytest.mark.parametrize("noise_alone", [False, True])
def test_the_rate_of_a_rule_goes_on_with_its_steps(noise_alone):
    rates, scope, temperature = (0.5, 0.25), 0.3, 1e-2
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], rates)
    sampler = entropy_keras.InnerOptimizer(keras.optimizers.SGD(schedule))
    anchor = np.array([1.0, -2.0], "float32")
    gradient = np.array([0.5, 1.0], "float32")
    slots = sampler.initial_slots([keras.Variable(anchor)])
    setting = [samplers.Setting(tf.constant(9.0), tf.constant(scope), 1e-2)]
    if noise_alone:
        sampler = sampler.of_noise()
        anchor, gradient = np.zeros(2, "float32"), np.zeros(2, "float32")
    position = [tf.constant(anchor)]
    memory = sampler.start(position, [None], setting, slots)
    expected = anchor.copy()
    for rate, noise in zip(rates, ([0.3, -1.0], [1.2, 0.7]), strict=True):
        position, memory = sampler.step(
            position,
            [tf.constant(gradient)],
            [tf.constant(anchor)],
            [tf.constant(noise)],
            memory,
            setting,
        )
        expected = (
            expected
            - rate * (gradient + scope * (expected - anchor))
            + np.sqrt(2 * rate * temperature) * np.array(noise)
        )
    np.testing.assert_allclose(position[0], expected, rtol=1e-5)


def test_moments_that_do_not_persist_begin_anew(tmp_path):
    """Adam's first step is its rate times the sign of the gradient."""
    inputs = keras.Input([3])
    layer = keras.layers.Dense(1, use_bias=False)
    model = entropy_keras.EntropyModel(inputs, layer(inputs))
    sampler = entropy_keras.InnerOptimizer(
        keras.optimizers.Adam(0.01, epsilon=1e-20), persistent=False
    )
    optimizer = entropy_keras.EntropySGD(
        1.0,
        scope=0.0,
        averaging_rate=1.0,
        temperature=0.0,
        num_langevin_steps=1,
        sampler=sampler,
    )
    model.compile(optimizer, "mse")
    for batch in range(3):
        before = layer.kernel.numpy()
        model.train_on_batch(X[4 * batch :][:4], 5 * X[4 * batch :][:4, :1])
        change = np.abs(layer.kernel.numpy() - before)
        np.testing.assert_allclose(change, 0.01, rtol=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.sampler.persistent is False


@pytest.mark.parametrize(
    "argument", [{"use_ema": True}, {"gradient_accumulation_steps": 2}]
)
def test_what_a_rule_cannot_do_is_refused(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"`{name}` must be left out"):
        entropy_keras.InnerOptimizer(keras.optimizers.SGD(0.1, **argument))
