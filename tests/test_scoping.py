"""The exponential schedule of the scope."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras


@pytest.fixture
def _float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def test_scope_by_hand():
    # 0.5 * 1.5**update.
    scope = entropy_keras.ExponentialScope(0.5, 0.5)
    values = [float(scope(update)) for update in range(4)]
    assert values == pytest.approx([0.5, 0.75, 1.125, 1.6875], rel=1e-6)


@pytest.mark.parametrize("update", [0, 1, 1000, 12_200])
def test_closed_form_at_published_settings(update):
    scope = entropy_keras.ExponentialScope(1e-4, 1e-3)
    # The exponent, 12.2 at most, is rounded to 6e-8 of itself in float32.
    assert float(scope(update)) == pytest.approx(1e-4 * 1.001**update, rel=2e-6)


def test_scope_stops_at_the_cap():
    # 0.5, 1, 2, 4, 8 without it.
    scope = entropy_keras.ExponentialScope(0.5, 1.0, maximum_scope=3.0)
    values = [float(scope(update)) for update in (0, 1, 2, 3, 4, 10_000)]
    assert values == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_scope_without_growth_is_constant():
    scope = entropy_keras.ExponentialScope(0.25, 0.0)
    assert [float(scope(update)) for update in (0, 7, 10**6)] == [0.25] * 3


@pytest.mark.usefixtures("_float64")
def test_scope_has_the_resolution_of_float64():
    scope = entropy_keras.ExponentialScope(0.03, 1e-3, maximum_scope=0.7)
    for update in (1, 1000, 3000):
        value = scope(update)
        assert value.dtype == tf.float64
        assert float(value) == pytest.approx(0.03 * 1.001**update, rel=1e-12)
    assert float(scope(4000)) == 0.7  # and not the nearest float32 number


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_scope_takes_the_counter_of_an_optimizer(dtype):
    scope = entropy_keras.ExponentialScope(0.5, 0.5, maximum_scope=10.0)
    traced = tf.function(scope)
    values = [float(traced(tf.constant(t, dtype))) for t in range(3)]
    assert values == [0.5, 0.75, 1.125]
    assert traced(tf.constant(0, dtype)).dtype == tf.float32


@pytest.mark.parametrize("maximum_scope", [None, 3.0])
def test_config_round_trip(maximum_scope):
    scope = entropy_keras.ExponentialScope(0.5, 1.0, maximum_scope)
    config = keras.saving.serialize_keras_object(scope)
    assert config["registered_name"] == "entropy_keras>ExponentialScope"
    restored = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert type(restored) is entropy_keras.ExponentialScope
    assert restored.get_config() == {
        "initial_scope": 0.5,
        "growth_rate": 1.0,
        "maximum_scope": maximum_scope,
    }
    values = [float(restored(update)) for update in range(5)]
    np.testing.assert_array_equal(values, [float(scope(t)) for t in range(5)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"initial_scope": 0.0},
            "`initial_scope` must be a positive float. "
            "Received: initial_scope=0.0",
        ),
        (
            {"initial_scope": float("inf")},
            "`initial_scope` must be a positive float. "
            "Received: initial_scope=inf",
        ),
        (
            {"initial_scope": "0.1"},
            "`initial_scope` must be a positive float. "
            "Received: initial_scope=0.1",
        ),
        (
            {"growth_rate": -0.1},
            "`growth_rate` must be a non-negative float. "
            "Received: growth_rate=-0.1",
        ),
        (
            {"growth_rate": None},
            "`growth_rate` must be a non-negative float. "
            "Received: growth_rate=None",
        ),
        (
            {"maximum_scope": 0.4},
            "`maximum_scope` must be a float of at least initial_scope=0.5, or "
            "None. Received: maximum_scope=0.4",
        ),
        (
            {"maximum_scope": float("nan")},
            "`maximum_scope` must be a float of at least initial_scope=0.5, or "
            "None. Received: maximum_scope=nan",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    defaults = {"initial_scope": 0.5, "growth_rate": 1e-3}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        entropy_keras.ExponentialScope(**(defaults | arguments))


def test_a_scope_that_outgrows_the_inner_step_is_refused():
    # 0.1 * 20 = 2: the chain would diverge once the cap is reached.
    capped = entropy_keras.ExponentialScope(0.03, 1e-3, maximum_scope=20.0)
    with pytest.raises(ValueError, match="Received: .*=0.1, scope=20.0$"):
        entropy_keras.EntropySGD(scope=capped, langevin_learning_rate=0.1)
    entropy_keras.EntropySGD(scope=capped, langevin_learning_rate=0.09)
    entropy_keras.EntropySGD(
        scope=capped, langevin_learning_rate=0.1, sampler="split_sgld"
    )


def test_each_variable_has_its_own_scope():
    """Two steps down a constant gradient, by hand."""
    scopes = {"kernel": 4.0, "bias": 0.5}
    inputs = keras.Input([3])
    outputs = keras.layers.Dense(1, bias_initializer="ones")(inputs)
    model = entropy_keras.EntropyModel(inputs, outputs)
    optimizer = entropy_keras.EntropySGD(
        1.0,
        scope=entropy_keras.PerVariable(lambda variable: scopes[variable.name]),
        scale_by_scope=True,
        averaging_rate=1.0,
        langevin_learning_rate=0.1,
        temperature=0.0,
        num_langevin_steps=2,
        share_batch=True,
        sampler=entropy_keras.SGLD(0.0),
    )
    model.compile(optimizer, loss=lambda labels, outputs: outputs[:, 0])
    x = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
    before = model.get_weights()
    model.train_on_batch(x, x[:, :1])
    gradients = x.mean(0)[:, np.newaxis], np.ones(1)
    for anchor, found, gradient, scope in zip(
        before, model.get_weights(), gradients, scopes.values(), strict=True
    ):
        position = anchor - 0.1 * gradient
        position -= 0.1 * gradient + 0.1 * scope * (position - anchor)
        expected = anchor - scope * (anchor - position)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
