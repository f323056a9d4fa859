"""SharpnessAware against NumPy, and against its outer optimizer."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import entropy_keras
from entropy_keras import sharpness_aware

PENALTY = 0.0625
RNG = np.random.default_rng(0)
X = RNG.normal(size=[80, 3]).astype("float32")
Y = RNG.normal(size=[80, 2]).astype("float32")


def network(cls=keras.Model, extra=()):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3])
    x = keras.layers.Dense(
        4, "tanh", kernel_regularizer=keras.regularizers.L2(PENALTY)
    )(inputs)
    for layer in extra:
        x = layer(x)
    return cls(inputs, keras.layers.Dense(2, use_bias=False)(x))


def trained(optimizer, extra=(), epochs=2, **arguments):
    model = network(entropy_keras.EntropyModel, extra)
    model.compile(optimizer, loss="mse", **arguments)
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_equals_numpy(adaptive, jit_compile):
    model = network(entropy_keras.EntropyModel)
    expected = [w.astype("float64") for w in model.get_weights()]
    model.compile(
        entropy_keras.SharpnessAware(0.3, adaptive, learning_rate=0.125),
        loss="mse",
        jit_compile=jit_compile,
    )
    # The regularization is in both gradients.
    gradient = reference.Network(PENALTY).gradient
    for rows in np.arange(80).reshape(10, 8):
        model.train_on_batch(X[rows], Y[rows])
        found = reference.sharpness_aware_gradient(
            gradient, expected, (X[rows], Y[rows]), 0.3, adaptive
        )
        expected = [w - 0.125 * g for w, g in zip(expected, found, strict=True)]
    for a, e in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "outer",
    [
        lambda: keras.optimizers.SGD(0.1),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.01),
    ],
)
def test_radius_zero_is_the_outer_optimizer_bit_for_bit(outer):
    plain = network()
    plain.compile(outer(), loss="mse")
    plain.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    sam = trained(entropy_keras.SharpnessAware(0.0, outer_optimizer=outer()))
    for a, b in zip(sam.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_momentum_direction_takes_one_gradient_an_update():
    optimizer = entropy_keras.SharpnessAware(
        0.3, direction="momentum", decay=0.5, learning_rate=0.1
    )
    assert optimizer.gradients_per_update == 1
    model = network(entropy_keras.EntropyModel)
    model.compile(optimizer, loss="mse")
    gradient = reference.Network(PENALTY).gradient
    weights = [w.astype("float64") for w in model.get_weights()]
    mean = [np.zeros_like(w) for w in weights]
    for rows in np.arange(40).reshape(5, 8):
        model.train_on_batch(X[rows], Y[rows])
        norm = np.sqrt(sum((m**2).sum() for m in mean)) or 1.0
        worst = [w + 0.3 * m / norm for w, m in zip(weights, mean, strict=True)]
        found = gradient(worst, X[rows], Y[rows])
        mean = [0.5 * m + 0.5 * g for m, g in zip(mean, found, strict=True)]
        weights = [w - 0.1 * g for w, g in zip(weights, found, strict=True)]
    for a, e in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5)


def test_batch_statistics_are_those_at_the_weights():
    normalization = keras.layers.BatchNormalization(momentum=0.0)
    model = network(entropy_keras.EntropyModel, [normalization])
    model.compile(entropy_keras.SharpnessAware(5.0), loss="mse")
    hidden = keras.Model(model.input, model.layers[1].output)
    expected = hidden(X[:8]).numpy().mean(0)
    model.train_on_batch(X[:8], Y[:8])
    np.testing.assert_allclose(normalization.moving_mean, expected, atol=1e-5)


def test_it_goes_on_from_a_file_bit_for_bit(tmp_path):
    def make():
        return entropy_keras.SharpnessAware(
            0.1, direction="momentum",
            outer_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        )  # fmt: skip

    dropout = [keras.layers.Dropout(0.2, seed=3)]
    whole = trained(make(), dropout, epochs=4)
    half = trained(make(), [keras.layers.Dropout(0.2, seed=3)], epochs=2)
    half.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_perturbation_has_the_radius_and_goes_up():
    weights = [np.array([3.0, -4.0], "float32")]
    (found,) = sharpness_aware.perturbation(
        weights, [np.array([0.0, 2.0], "float32")], 0.5, adaptive=False
    )
    np.testing.assert_allclose(found, [3.0, -3.5])
    (found,) = sharpness_aware.perturbation(
        weights, [np.array([1.0, 1.0], "float32")], 0.5, adaptive=True
    )
    # scale (3, 4), ascent (3, 4) of norm 5: 0.5 * (9, 16) / 5.
    np.testing.assert_allclose(found, [3.9, -2.4], rtol=1e-6)
    (found,) = sharpness_aware.perturbation(
        weights, [np.zeros(2, "float32")], 0.5, adaptive=False
    )
    np.testing.assert_array_equal(found, weights[0])


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"radius": -0.1}, "radius", "-0.1"),
        ({"adaptive": 1}, "adaptive", "1"),
        ({"direction": "up"}, "direction", "up"),
        ({"decay": 1.0}, "decay", "1.0"),
        ({"chains": "none"}, "chains", "none"),
        ({"clipnorm": 0.0}, "clipnorm", "0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, name, value):
    with pytest.raises(ValueError, match=f"^`{name}` must be ") as error:
        entropy_keras.SharpnessAware(**arguments)
    assert f"Received: {name}={value}" in str(error.value)


def test_a_norm_that_overflows_is_seen():
    (moved,) = sharpness_aware.perturbation(
        [np.ones(2, "float32")],
        [np.array([1e30, 0.0], "float32")],
        0.5,
        adaptive=False,
    )
    assert not np.isfinite(moved).all()


def test_norms_of_half_precision_do_not_overflow():
    (moved,) = sharpness_aware.perturbation(
        [tf.ones([2], tf.float16)],
        [tf.constant([300.0, 400.0], tf.float16)],
        0.5,
        adaptive=False,
    )
    np.testing.assert_allclose(moved, [1.3, 1.4], rtol=2e-3)


def test_a_config_holds_every_argument():
    made = entropy_keras.SharpnessAware(
        0.1, True, "momentum", 0.5, chains="synchronized", learning_rate=0.3
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(made)
    )
    for name in ("radius", "adaptive", "direction", "decay", "chains"):
        assert getattr(again, name) == getattr(made, name)
