"""Each preset against the formulas of its text, written out in NumPy."""

import keras
import langevin
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import presets

SEED = 5
NUM_STEPS = 3
NUM_UPDATES = 2
MINIBATCH = 4
PRESETS = [presets.paper_v1, presets.iclr_2017, presets.released_code]


@pytest.fixture
def _float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def gradient(weights, batch):
    """That of `mean((features @ weights - targets)**2)`."""
    features, targets = batch
    return 2 * features.T @ (features @ weights - targets) / targets.size


def normal(update, step):
    return langevin.draw(
        (2, 1), tf.float64, seed=SEED, update=update, step=step, variable=0
    ).numpy()


def train(optimizer):
    """Returns the weights after each update, and the mini-batches of each."""
    inputs = keras.Input([2])
    outputs = keras.layers.Dense(1, use_bias=False)(inputs)
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(optimizer, loss="mse")
    rng = np.random.default_rng(0)
    weights, groups = [model.get_weights()[0]], []
    for _ in range(NUM_UPDATES):
        batches = [
            (rng.normal(size=(MINIBATCH, 2)), rng.normal(size=(MINIBATCH, 1)))
            for _ in range(optimizer.minibatches_per_update)
        ]
        model.train_on_batch(*map(np.concatenate, zip(*batches, strict=True)))
        weights.append(model.get_weights()[0])
        groups.append(batches)
    return weights, groups


def assert_trajectory(weights, groups, update_rule):
    """Compares each update with the rule `(x, batches, update) -> x`."""
    for update, batches in enumerate(groups):
        x = weights[update]
        expected = update_rule(x, batches, update)
        assert abs(expected - x).min() > 1e-5
        np.testing.assert_allclose(
            weights[update + 1] - x, expected - x, rtol=1e-8
        )


@pytest.mark.usefixtures("_float64")
def test_paper_v1_is_algorithm_1():
    optimizer = presets.paper_v1(num_langevin_steps=NUM_STEPS, seed=SEED)
    assert optimizer.gradients_per_update == NUM_STEPS + 1
    eta, alpha, gamma, rho = 0.1, 0.9, 0.1, 1e-4
    eta_inner = 0.1 * eta

    def update_rule(x, batches, update):
        position = mu = x
        for step in range(1, NUM_STEPS + 1):
            d = gradient(position, batches[step - 1]) - gamma * (x - position)
            thermal = 2 * np.sqrt(eta_inner) * normal(update, step)
            position = position - eta_inner * d + thermal
            mu = (1 - alpha) * mu + alpha * position
        dx = gradient(x, batches[NUM_STEPS])
        return x - eta * (rho * dx + gamma * (x - mu))

    assert_trajectory(*train(optimizer), update_rule)


def published_rule(thermal, alpha, scope):
    """Returns the update without γ outside, with inner Nesterov momentum."""
    eta, eta_inner, momentum = 1.0, 0.1, 0.9

    def update_rule(x, batches, update):
        position = mu = x
        velocity = 0.0
        for step in range(1, NUM_STEPS + 1):
            g = gradient(position, batches[step - 1])
            velocity = momentum * velocity - eta_inner * g
            position = (
                position
                + momentum * velocity
                - eta_inner * g
                + eta_inner * scope(update) * (x - position)
                + thermal(eta_inner) * normal(update, step)
            )
            mu = (1 - alpha) * mu + alpha * position
        return x - eta * (x - mu)

    return update_rule


@pytest.mark.usefixtures("_float64")
def test_iclr_2017_is_the_published_practice():
    optimizer = presets.iclr_2017(num_langevin_steps=NUM_STEPS, seed=SEED)
    assert optimizer.gradients_per_update == NUM_STEPS
    rule = published_rule(
        thermal=lambda eta_inner: 1e-4 * np.sqrt(eta_inner),
        alpha=0.75,
        scope=lambda update: 0.03 * (1 + 1e-3) ** update,
    )
    assert_trajectory(*train(optimizer), rule)


@pytest.mark.usefixtures("_float64")
def test_released_code_is_what_the_release_computes():
    optimizer = presets.released_code(num_langevin_steps=NUM_STEPS, seed=SEED)
    assert optimizer.gradients_per_update == NUM_STEPS
    rule = published_rule(
        thermal=lambda eta_inner: 1e-4 * np.sqrt(2 * eta_inner),
        # The release weighs the old mean by 0.75.
        alpha=0.25,
        scope=lambda update: 1e-4 * (1 + 1e-3) ** update,
    )
    assert_trajectory(*train(optimizer), rule)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_20_steps(preset):
    assert preset().num_langevin_steps == 20


def test_the_scope_of_iclr_2017_is_capped():
    # 1 / η', half of where the inner loop diverges, is reached after
    # log(10 / 0.03) / log(1.001) = 5812 updates.
    scope = presets.iclr_2017().scope
    assert float(scope(5700)) < 9.0
    assert float(scope(6000)) == float(scope(10**6)) == 10.0


def test_the_scope_of_the_release_is_not_capped():
    # 0.1 * 1e-4 * 1.001**t reaches 2 at t = 12,213.
    scope = presets.released_code().scope
    assert 0.1 * float(scope(12_100)) < 2 < 0.1 * float(scope(12_400))


@pytest.mark.parametrize("preset", PRESETS)
def test_overrides_replace_the_arguments_of_a_preset(preset):
    overrides = {
        "learning_rate": 0.25,
        "scope": 0.5,
        "num_langevin_steps": 2,
        "langevin_learning_rate": 0.125,
        "temperature": 0.0,
        "averaging_rate": None,
        "data_weight": 2.0,
        "scale_by_scope": True,
        "sampler": entropy_keras.SplitSGLD(),
        "start": "stationary",
        "share_batch": True,
        "seed": SEED,
        "clipnorm": 3.0,
        "name": "mine",
    }
    config = preset(**overrides).get_config()
    config["sampler"] = keras.saving.deserialize_keras_object(config["sampler"])
    assert {name: config[name] for name in overrides} == overrides


@pytest.mark.parametrize("preset", PRESETS)
def test_an_outer_optimizer_brings_its_learning_rate(preset):
    outer = keras.optimizers.Adam(0.02)
    optimizer = preset(outer_optimizer=outer)
    assert optimizer.outer_optimizer is outer
    assert float(optimizer.learning_rate) == np.float32(0.02)
    # Nothing else of the preset changes.
    given, plain = optimizer.get_config(), preset().get_config()
    different = {name for name in plain if given.get(name) != plain[name]}
    outer_arguments = {
        "learning_rate",
        "outer_optimizer",
        "weight_decay",
        "use_ema",
        "ema_momentum",
        "ema_overwrite_frequency",
        "gradient_accumulation_steps",
        "seed",
    }
    assert different <= outer_arguments
    with pytest.raises(ValueError, match="`learning_rate` must be set on"):
        preset(outer_optimizer=outer, learning_rate=0.1)


@pytest.mark.usefixtures("_float64")
def test_paper_v1_with_adam_ties_the_inner_step_to_adam():
    eta, alpha, gamma = 0.02, 0.9, 0.1
    optimizer = presets.paper_v1(
        num_langevin_steps=1,
        data_weight=0.0,
        temperature=0.0,
        outer_optimizer=keras.optimizers.Adam(0.02, epsilon=1.0),
    )
    weights, [[batch], _] = train(optimizer)
    # One step from x makes x - mu = alpha * η' * gradient. The first step of
    # Adam is η * g / (|g| + epsilon / sqrt(1 - beta_2)) with g = gamma *
    # (x - mu); so large an epsilon keeps it from hiding the size of g.
    g = gamma * alpha * 0.1 * eta * gradient(weights[0], batch)
    expected = -eta * g / (abs(g) + 1 / np.sqrt(1 - 0.999))
    np.testing.assert_allclose(weights[1] - weights[0], expected, rtol=1e-5)


def test_arguments_that_a_preset_has_no_use_for_may_be_replaced():
    assert float(presets.diloco(learning_rate=0.5).learning_rate) == 0.5
    assert presets.diloco(learning_rate=0.5).outer_optimizer.nesterov
    assert float(presets.lpf_sgd(learning_rate=0.25).learning_rate) == 0.25
    outer = keras.optimizers.SGD(0.5)
    assert presets.parle(outer_optimizer=outer).outer_optimizer is outer
    optimizer = presets.paper_v1(estimator="mean_gradient")
    assert (optimizer.averaging_rate, optimizer.scale_by_scope) == (None, False)
    with pytest.raises(ValueError, match="`learning_rate` must be set on"):
        presets.diloco(learning_rate=0.5, outer_optimizer=outer)
