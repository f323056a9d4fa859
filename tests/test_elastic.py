"""Replicas with anchors of their own."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import elastic
from entropy_keras import multi_gradient

X = np.random.default_rng(0).normal(size=[80, 4]).astype("float32")
ARGUMENTS = {"num_langevin_steps": 4, "temperature": 1e-4, "seed": 3}


def trained(optimizer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([4])
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(2)(inputs))
    model.compile(optimizer, loss="mse")
    model.fit(X, X[:, :2] ** 2, batch_size=4, epochs=2, verbose=0)
    return model


def test_one_replica_is_entropy_sgd_bit_for_bit():
    plain = trained(entropy_keras.EntropySGD(0.5, **ARGUMENTS))
    single = trained(entropy_keras.ElasticEntropySGD(0.5, **ARGUMENTS))
    for a, b in zip(plain.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_who_had_no_data_is_at_the_mean_of_the_others():
    # Three replicas, of which the averages of two were taken: at 2 and at 4.
    anchors = elastic.Anchors(
        tf.constant([1.5, 0.0, 1.5]), [tf.constant([[3.0], [0.0], [6.0]])]
    )
    offsets = [float(anchors.offsets(i)[0][0]) for i in range(3)]
    assert offsets == [-1.0, 0.0, 1.0]


def test_a_config_holds_a_schedule():
    scope = entropy_keras.ExponentialScope(0.5, 0.1, 2.0)
    optimizer = entropy_keras.ElasticEntropySGD(0.5, elasticity=scope, seed=1)
    again = entropy_keras.ElasticEntropySGD.from_config(optimizer.get_config())
    assert float(again.elasticity(1)) == pytest.approx(0.55)
    assert again.get_config() == optimizer.get_config()


def test_parle_is_that_of_its_publication():
    optimizer = entropy_keras.presets.parle(seed=0)
    growth = 1 + 1 / 780
    for schedule, first, last in (
        (optimizer.scope, 0.01, 1.0),
        (optimizer.elasticity, 1.0, 10.0),
    ):
        assert float(schedule(0)) == pytest.approx(first)
        assert float(schedule(100)) == pytest.approx(first * growth**100)
        assert float(schedule(10_000)) == pytest.approx(last)
    assert optimizer.num_langevin_steps == 25
    assert optimizer.averaging_rate == 0.25
    assert optimizer.temperature == 0
    rate = float(optimizer.learning_rate)
    assert rate == pytest.approx(optimizer.langevin_learning_rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elasticity": -1.0}, "`elasticity` must be a non-negative float"),
        ({"elasticity": 4.0}, "`elasticity` must be below 2 / learning_rate"),
        ({"chains": "synchronized"}, "`chains` must be 'per_replica'"),
        (
            {"gradient_accumulation_steps": 2},
            "`gradient_accumulation_steps` must be None",
        ),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        entropy_keras.ElasticEntropySGD(0.5, seed=0, **arguments)


def test_its_signature_shows_all_arguments():
    names = list(inspect.signature(entropy_keras.ElasticEntropySGD).parameters)
    assert names[:2] == ["learning_rate", "scope"]
    assert {"elasticity", "outer_optimizer", "clipnorm"} <= set(names)


def test_the_elasticity_follows_its_schedule():
    optimizer = entropy_keras.ElasticEntropySGD(
        0.5,
        num_langevin_steps=0,
        data_weight=1.0,
        elasticity=lambda update: 0.1 * (tf.cast(update, tf.float32) + 1.0),
    )
    anchors = elastic.Anchors(tf.ones([2]), [tf.constant([[3.0], [1.0]])])
    found = optimizer.propose(
        lambda position, index: [tf.zeros([1])],
        [tf.zeros([1])],
        (((), (), ()), anchors),
        multi_gradient.Clock(tf.constant(3), 0.5, 0),
    )
    # The mean of both is 2, of which this one, at 3, is 1 away.
    (places,) = found.slots[1].places
    np.testing.assert_allclose(np.ravel(places), [0.8], rtol=1e-6)


def test_diagnostics_are_means_over_each_epoch():
    histories = []
    for kind in (entropy_keras.EntropySGD, entropy_keras.ElasticEntropySGD):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([4])
        model = entropy_keras.EntropyModel(
            inputs, keras.layers.Dense(1)(inputs)
        )
        model.compile(kind(0.5, diagnostics=True, **ARGUMENTS), "mse")
        fitted = model.fit(
            X, X[:, :1], batch_size=4, epochs=3, shuffle=False, verbose=0
        )
        histories.append(fitted.history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-6)
