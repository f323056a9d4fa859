"""Mixed precision and float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=[40, 5]).astype("float32")
Y = RNG.normal(size=[40, 1]).astype("float32")


class Overflow(keras.layers.Layer):
    """Passes its input on, with an infinite gradient at one call."""

    def __init__(self, at_call):
        super().__init__(dtype="float32")
        self.calls, self.at_call = 0, at_call

    def call(self, inputs):
        if not tf.executing_eagerly():
            return inputs
        self.calls += 1
        factor = np.inf if self.calls == self.at_call else 1.0

        @tf.custom_gradient
        def poisoned(x):
            return tf.identity(x), lambda upstream: upstream * factor

        return poisoned(inputs)


def compiled(policy, layers=(), **arguments):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([5])
    x = keras.layers.Dense(8, "relu", dtype=policy)(inputs)
    x = keras.layers.Dense(1, dtype=policy)(x)
    x = keras.layers.Activation("linear", dtype="float32")(x)
    for layer in layers:
        x = layer(x)
    plain = keras.Model(inputs, x)
    plain.dtype_policy = keras.DTypePolicy(policy)
    model = entropy_keras.EntropyModel.from_model(plain)
    mode = arguments.pop("mode", {})
    arguments = {"learning_rate": 0.5, "seed": 0, **arguments}
    model.compile(entropy_keras.EntropySGD(**arguments), loss="mse", **mode)
    return model


@pytest.mark.parametrize(
    ("policy", "jit_compile"),
    [
        ("mixed_float16", True),
        ("mixed_bfloat16", False),
        pytest.param("mixed_float16", False, marks=pytest.mark.nightly),
        pytest.param("mixed_bfloat16", True, marks=pytest.mark.nightly),
    ],
)
def test_half_precision_follows_float32(policy, jit_compile):
    histories = {}
    for name in ("float32", policy):
        model = compiled(
            name,
            langevin_learning_rate=0.02,
            mode={"jit_compile": jit_compile},
        )
        history = model.fit(
            X, Y, batch_size=4, epochs=10, shuffle=False, verbose=0
        )
        histories[name] = history.history["loss"]
    # bfloat16 has 8 bits, hence a relative error of 2**-8 in each product;
    # float16 skips the first updates, and shows none that it skipped, until
    # its loss scale fits.
    np.testing.assert_allclose(
        histories[policy][1:], histories["float32"][1:], rtol=0.1
    )
    assert histories[policy][-1] < 0.6 * histories[policy][0]
    assert model.trainable_variables[0].dtype == "float32"
    scaled = policy == "mixed_float16"
    assert scaled == isinstance(
        model.optimizer, keras.optimizers.LossScaleOptimizer
    )


@pytest.mark.parametrize("at_call", [1, 2, 5])
@pytest.mark.parametrize(
    "clipping", [{}, {"clipvalue": 0.1}, {"clipnorm": 1.0}]
)
def test_an_overflow_anywhere_skips_the_update_and_halves_the_scale(
    at_call, clipping
):
    model = compiled(
        "mixed_float16",
        [Overflow(at_call)],
        mode={"run_eagerly": True},
        num_langevin_steps=5,
        **clipping,
    )
    before = model.get_weights()
    model.train_on_batch(X, Y)
    for a, b in zip(before, model.get_weights(), strict=True):
        assert (a == b).all()
    assert float(model.optimizer.dynamic_scale) == 2.0**14
    assert int(model.optimizer.iterations) == 0
    model.train_on_batch(X, Y)  # the next one is fine
    assert abs(before[0] - model.get_weights()[0]).max() > 0
    assert int(model.optimizer.iterations) == 1


def test_the_loss_scale_does_not_show_in_the_update():
    # A power of two, so the gradients are the same but for rounding in half
    # precision; here all is float32 but the policy of the model.
    # Clipping every gradient shows whether it was unscaled before.
    settings = {"temperature": 0.0, "data_weight": 0.5, "clipnorm": 0.1}
    weights = []
    for scaled in (False, True):
        model = compiled("float32", **settings)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(
                entropy_keras.EntropySGD(0.5, seed=0, **settings)
            )
            model.compile(optimizer, loss="mse")
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_float64_stays_float64():
    model = compiled("float64", mode={"jit_compile": True})
    model.fit(X, Y, batch_size=4, verbose=0)
    assert {v.dtype for v in model.trainable_variables} == {"float64"}


@pytest.mark.parametrize("policy", ["float16", "float64"])
def test_scaled_losses_of_other_weights_than_single_ones(policy):
    def trained(optimizer):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([4], dtype=policy)
        dense = keras.layers.Dense(1, dtype=policy)
        model = entropy_keras.EntropyModel(inputs, dense(inputs))
        model.compile(optimizer, "mse", jit_compile=False)
        x = np.random.default_rng(0).normal(size=[40, 4]).astype(policy)
        model.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0)
        return dense.kernel.numpy()

    def entropy_sgd():
        return entropy_keras.EntropySGD(
            langevin_learning_rate=0.01, temperature=0.0, seed=0
        )

    scaled = trained(keras.optimizers.LossScaleOptimizer(entropy_sgd(), 16.0))
    np.testing.assert_allclose(
        scaled, trained(entropy_sgd()), rtol=0.05, atol=0.005
    )


def test_the_loss_scale_goes_as_with_keras():
    """It grows after so many good steps, and halves after a bad one."""
    seen = {}
    for plain in (True, False):
        inputs = keras.Input([5])
        outputs = keras.layers.Dense(1, kernel_initializer="zeros")(inputs)
        model = (keras.Model if plain else entropy_keras.EntropyModel)(
            inputs, outputs
        )
        inner = (
            keras.optimizers.SGD(0.01)
            if plain
            else entropy_keras.SharpnessAware(0.0, learning_rate=0.01)
        )
        optimizer = keras.optimizers.LossScaleOptimizer(
            inner, 16.0, dynamic_growth_steps=3
        )
        model.compile(optimizer, "mse")
        seen[plain] = []
        for step in range(12):
            x = X[:4] * (np.nan if step == 5 else 1.0)
            model.train_on_batch(x, Y[:4])
            state = optimizer.dynamic_scale, optimizer.step_counter
            seen[plain].append(tuple(float(number) for number in state))
    assert seen[False] == seen[True]
    assert max(seen[True])[0] > 16.0
