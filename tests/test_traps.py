"""What implementations of Entropy-SGD get wrong, one test per trap."""

import copy

import keras
import langevin
import numpy as np
import pytest
import reference
import tensorflow as tf

import entropy_keras

MINIBATCH = 4
PENALTY = 0.5
CURVATURE = 2 * PENALTY
# Linear in the gradient and without memory, for closed forms.
PLAIN = entropy_keras.SGLD(momentum=0.0)
START = np.array([[1.0], [-2.0]], dtype="float32")
Schedule = keras.optimizers.schedules.ExponentialDecay


def make_penalty_model(**arguments):
    """Returns a model whose only loss is `PENALTY * sum(weights**2)`."""
    arguments = {"temperature": 0.0, "sampler": PLAIN} | arguments
    inputs = keras.Input([2])
    outputs = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_regularizer=keras.regularizers.L2(PENALTY),
    )(inputs)
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(entropy_keras.EntropySGD(**arguments), loss="mse")
    model.set_weights([START])
    return model


def fit_on_zeros(model, num_updates):
    """Fits data that the loss of a linear model does not depend on."""
    rows = MINIBATCH * num_updates * model.optimizer.minibatches_per_update
    model.fit(
        np.zeros([rows, 2], dtype="float32"),
        np.zeros([rows, 1], dtype="float32"),
        batch_size=MINIBATCH,
        verbose=0,
    )
    return model.get_weights()[0]


def entropy_force(scope, **settings):
    """Returns (x - mean) / x on the penalty, whose minimum is 0.

    There <x'> = scope * x / (curvature + scope), so x - <x'> is
    curvature / (curvature + scope) of x, and x - mean is r times that.
    """
    ratio = langevin.displacement_ratio(CURVATURE, scope=scope, **settings)
    return ratio * CURVATURE / (CURVATURE + scope)


# 3. Mean, position and velocity begin anew at every update.


@pytest.mark.parametrize("averaging_rate", [0.25, None])
def test_position_and_mean_start_at_x_at_every_update(averaging_rate):
    model = make_penalty_model(
        learning_rate=0.5,
        scope=0.5,
        num_langevin_steps=3,
        averaging_rate=averaging_rate,
    )
    force = entropy_force(
        0.5, averaging_rate=averaging_rate, num_steps=3, step_size=0.1
    )
    # Every update multiplies the weights by the same factor.
    weights = fit_on_zeros(model, num_updates=4)
    np.testing.assert_allclose(weights, START * (1 - 0.5 * force) ** 4, 1e-5)


def test_velocity_starts_at_zero_at_every_update():
    # By Nesterov's rule on the gradient w (curvature 1), with step size 0.1,
    # momentum 0.9 and no scope, from x: velocity -0.1 x, move -0.19 x, position
    # 0.81 x; then velocity -0.171 x, move -0.2349 x, position 0.5751 x. With
    # averaging rate 1 and learning rate 1 the weights become the position.
    model = make_penalty_model(
        learning_rate=1.0,
        scope=0.0,
        num_langevin_steps=2,
        averaging_rate=1.0,
        sampler=entropy_keras.SGLD(momentum=0.9),
    )
    weights = fit_on_zeros(model, num_updates=3)
    np.testing.assert_allclose(weights, START * 0.5751**3, rtol=1e-5)


# 4. The inner step size is tied to the outer learning rate, or fixed.


@pytest.mark.parametrize(
    ("langevin_learning_rate", "step_sizes"),
    [
        (None, [0.1, 0.05, 0.025]),
        (0.1, [0.1, 0.1, 0.1]),
        (Schedule(0.4, 1, 0.25), [0.4, 0.1, 0.025]),
    ],
    ids=["tied", "fixed", "scheduled"],
)
def test_inner_step_size_under_a_learning_rate_schedule(
    langevin_learning_rate, step_sizes
):
    model = make_penalty_model(
        learning_rate=Schedule(1.0, 1, 0.5),
        langevin_learning_rate=langevin_learning_rate,
        num_langevin_steps=1,
        averaging_rate=1.0,
    )
    # One inner step from x displaces by step_size * curvature * x.
    expected = START
    for learning_rate, step_size in zip(
        [1.0, 0.5, 0.25], step_sizes, strict=True
    ):
        expected = expected * (1 - learning_rate * step_size * CURVATURE)
    weights = fit_on_zeros(model, num_updates=3)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_the_tie_follows_a_learning_rate_that_is_set():
    model = make_penalty_model(
        learning_rate=1.0,
        langevin_learning_rate=None,
        num_langevin_steps=1,
        averaging_rate=1.0,
    )
    weights = fit_on_zeros(model, num_updates=1)
    np.testing.assert_allclose(weights, START * (1 - 1.0 * 0.1), rtol=1e-5)
    model.optimizer.learning_rate = 0.5
    weights = fit_on_zeros(model, num_updates=1)
    np.testing.assert_allclose(
        weights, START * (1 - 1.0 * 0.1) * (1 - 0.5 * 0.05), rtol=1e-5
    )


# 5. The scope in the outer step: only if asked for.


@pytest.mark.parametrize("scale_by_scope", [False, True])
def test_growing_scope_scales_the_outer_step_only_if_asked(scale_by_scope):
    model = make_penalty_model(
        learning_rate=0.5,
        scope=entropy_keras.ExponentialScope(0.5, 1.0, maximum_scope=3.0),
        num_langevin_steps=2,
        averaging_rate=0.75,
        scale_by_scope=scale_by_scope,
    )
    expected = START
    for scope in (0.5, 1.0, 2.0, 3.0):
        force = entropy_force(
            scope, averaging_rate=0.75, num_steps=2, step_size=0.1
        )
        factor = scope if scale_by_scope else 1.0
        expected = expected * (1 - 0.5 * factor * force)
    weights = fit_on_zeros(model, num_updates=4)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


# 6. Every inner step has a mini-batch of its own, the data term another.


class RecordingModel(entropy_keras.EntropyModel):
    """Notes the targets of every gradient evaluation."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        self.targets.append(y.numpy().ravel().tolist())
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def record_targets(num_updates, **arguments):
    inputs = keras.Input([1])
    model = RecordingModel(inputs, keras.layers.Dense(1)(inputs))
    optimizer = entropy_keras.EntropySGD(
        num_langevin_steps=3, scope=0.1, **arguments
    )
    model.compile(optimizer, loss="mse", run_eagerly=True)
    model.targets = []
    rows = 2 * num_updates * optimizer.minibatches_per_update
    targets = np.arange(float(rows))
    model.fit(targets, targets, batch_size=2, shuffle=False, verbose=0)
    return model.targets


def test_every_inner_step_sees_a_fresh_minibatch():
    assert record_targets(num_updates=2) == [
        [0.0, 1.0],
        [2.0, 3.0],
        [4.0, 5.0],
        [6.0, 7.0],
        [8.0, 9.0],
        [10.0, 11.0],
    ]


def test_the_data_term_sees_a_minibatch_of_its_own():
    # That at x, the last of each group, is evaluated first.
    assert record_targets(num_updates=2, data_weight=0.5) == [
        [6.0, 7.0],
        [0.0, 1.0],
        [2.0, 3.0],
        [4.0, 5.0],
        [14.0, 15.0],
        [8.0, 9.0],
        [10.0, 11.0],
        [12.0, 13.0],
    ]


@pytest.mark.parametrize(("data_weight", "num_passes"), [(0.0, 3), (0.5, 4)])
def test_a_shared_batch_serves_the_whole_update(data_weight, num_passes):
    targets = record_targets(
        num_updates=2, data_weight=data_weight, share_batch=True
    )
    assert targets == [[0.0, 1.0]] * num_passes + [[2.0, 3.0]] * num_passes


# 7. Clocks count updates.


def test_the_clock_of_adam_counts_updates():
    adam = {"beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.125}
    model = make_penalty_model(
        scope=0.5,
        num_langevin_steps=3,
        data_weight=0.25,
        averaging_rate=0.75,
        outer_optimizer=keras.optimizers.Adam(0.25, **adam),
    )
    force = entropy_force(0.5, averaging_rate=0.75, num_steps=3, step_size=0.1)
    outer, expected = reference.OuterAdam(**adam), [START]
    for _ in range(4):
        # data_weight times the gradient, and the displacement.
        gradient = (0.25 * CURVATURE + force) * expected[0]
        expected = outer.apply(expected, [gradient], 0.25)
    weights = fit_on_zeros(model, num_updates=4)
    np.testing.assert_allclose(weights, expected[0], rtol=1e-5)
    assert int(model.optimizer.iterations) == 4
    assert int(model.optimizer.outer_optimizer.iterations) == 4


def test_the_clock_of_a_schedule_counts_updates():
    model = make_penalty_model(
        learning_rate=Schedule(1.0, 1, 0.5),
        scope=0.5,
        num_langevin_steps=3,
        averaging_rate=0.75,
    )
    force = entropy_force(0.5, averaging_rate=0.75, num_steps=3, step_size=0.1)
    weights = fit_on_zeros(model, num_updates=3)
    expected = START * (1 - force) * (1 - 0.5 * force) * (1 - 0.25 * force)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


# 8. The live weights are x.


class Watcher(keras.layers.Dense):
    """Notes the live kernel and the one that it computes with."""

    def call(self, inputs, training=None):
        if tf.executing_eagerly() and training:
            self.passes.append((self.live.numpy(), self.kernel.value.numpy()))
        return super().call(inputs)


class WeightsAtBatchEnd(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights()[0])


@pytest.mark.parametrize("data_weight", [0.0, 0.5])
def test_the_live_weights_are_x_throughout(data_weight):
    inputs, layer = keras.Input([2]), Watcher(1, use_bias=False)
    model = entropy_keras.EntropyModel(inputs, layer(inputs))
    optimizer = entropy_keras.EntropySGD(
        learning_rate=0.5,
        num_langevin_steps=3,
        data_weight=data_weight,
        temperature=1e-4,
    )
    model.compile(optimizer, loss="mse", run_eagerly=True)
    layer.passes = []
    # Outside of a pass this is the TensorFlow variable itself, whatever value
    # a pass puts in its place.
    layer.live = layer.kernel.value
    start, at_batch_end = model.get_weights()[0], WeightsAtBatchEnd()
    num_passes, num_updates = optimizer.gradients_per_update, 3
    rows = MINIBATCH * num_passes * num_updates
    rng = np.random.default_rng(0)
    model.fit(
        rng.normal(size=[rows, 2]),
        rng.normal(size=[rows, 1]),
        batch_size=MINIBATCH,
        callbacks=[at_batch_end],
        verbose=0,
    )
    assert len(layer.passes) == num_passes * num_updates
    for update, x in enumerate([start, *at_batch_end.weights[:-1]]):
        first = num_passes * update
        passes = layer.passes[first : first + num_passes]
        for live, _ in passes:
            np.testing.assert_array_equal(live, x)
        moved = [not np.array_equal(used, x) for _, used in passes]
        # The first pass is at x; with a data term the first inner step is too.
        at_x = 2 if data_weight else 1
        assert moved == [False] * at_x + [True] * (num_passes - at_x)
        # The update itself has moved x.
        assert not np.array_equal(at_batch_end.weights[update], x)
    np.testing.assert_array_equal(
        model.get_weights()[0], at_batch_end.weights[-1]
    )


class InterruptedModel(entropy_keras.EntropyModel):
    """Stops at the third gradient evaluation."""

    def compute_loss(self, *args, **kwargs):
        self.num_passes += 1
        if self.num_passes == 3:
            raise KeyboardInterrupt
        return super().compute_loss(*args, **kwargs)


def test_an_interruption_leaves_x():
    inputs = keras.Input([2])
    model = InterruptedModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile(entropy_keras.EntropySGD(), loss="mse", run_eagerly=True)
    model.num_passes, before = 0, model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.ones([20, 2]), np.ones([20, 1]), batch_size=4, verbose=0)
    for actual, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(actual, expected)


# 9. What belongs to x alone, and random seeds.


@pytest.mark.parametrize("data_weight", [0.0, 0.5])
def test_batch_statistics_move_once_per_update_as_reported(data_weight):
    inputs = keras.Input([2])
    hidden = keras.layers.Dense(3, use_bias=False)(inputs)
    hidden = keras.layers.BatchNormalization(momentum=0.75)(hidden)
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(hidden))
    optimizer = entropy_keras.EntropySGD(
        learning_rate=0.25,
        langevin_learning_rate=0.05,
        num_langevin_steps=3,
        data_weight=data_weight,
    )
    model.compile(optimizer, loss="mse")
    normalization, num_passes = model.layers[2], optimizer.gradients_per_update
    rng = np.random.default_rng(0)
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(size=[num_passes * MINIBATCH, 2])
        x *= np.repeat(1.0 + np.arange(num_passes), MINIBATCH)[:, None]
        # The pass at x sees the first mini-batch, or the last for the data
        # term; its statistics enter with weight 1 - momentum.
        rows = slice(-MINIBATCH, None) if data_weight else slice(MINIBATCH)
        activation = x[rows] @ model.get_weights()[0]
        mean = 0.75 * mean + 0.25 * activation.mean(0)
        variance = 0.75 * variance + 0.25 * activation.var(0)
        model.train_on_batch(x, rng.normal(size=[len(x), 1]))
        np.testing.assert_allclose(normalization.moving_mean, mean, 1e-4, 1e-6)
        np.testing.assert_allclose(
            normalization.moving_variance, variance, 1e-4
        )


@pytest.mark.parametrize("data_weight", [0.0, 0.5])
def test_loss_and_metrics_are_those_at_x(data_weight):
    inputs = keras.Input([2])
    outputs = keras.layers.Dense(1, use_bias=False)(inputs)
    model = entropy_keras.EntropyModel(inputs, outputs)
    optimizer = entropy_keras.EntropySGD(
        learning_rate=0.0,  # x stays, while the chain moves
        langevin_learning_rate=0.5,
        num_langevin_steps=3,
        data_weight=data_weight,
    )
    model.compile(optimizer, loss="mse", metrics=["mae"])
    rng, rows = np.random.default_rng(0), optimizer.gradients_per_update
    x, y = rng.normal(size=[2 * rows, 4, 2]), rng.normal(size=[2 * rows, 4, 1])
    history = model.fit(
        x.reshape(-1, 2),
        y.reshape(-1, 1),
        batch_size=4,
        shuffle=False,
        verbose=0,
    ).history
    # Of the first mini-batch of each group, or of the last for the data term.
    reported = slice(rows - 1 if data_weight else 0, None, rows)
    errors = x[reported] @ model.get_weights()[0] - y[reported]
    assert history["loss"] == [pytest.approx((errors**2).mean(), rel=1e-5)]
    assert history["mae"] == [pytest.approx(abs(errors).mean(), rel=1e-5)]


class Masks(keras.layers.Layer):
    """Notes the masks that a dropout before it applies to ones."""

    def call(self, inputs):
        if tf.executing_eagerly():
            self.seen.append(tuple(np.array(inputs[0]) > 0))
        return inputs


@pytest.mark.parametrize("share_batch", [False, True])
@pytest.mark.parametrize("data_weight", [0.0, 0.5])
def test_no_dropout_mask_is_repeated(data_weight, share_batch):
    inputs, masks = keras.Input([64]), Masks()
    hidden = masks(keras.layers.Dropout(0.5, seed=3)(inputs))
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(hidden))
    optimizer = entropy_keras.EntropySGD(
        num_langevin_steps=3, data_weight=data_weight, share_batch=share_batch
    )
    model.compile(optimizer, loss="mse", run_eagerly=True)
    masks.seen = []
    rows = 2 * optimizer.minibatches_per_update
    model.fit(np.ones([rows, 64]), np.ones([rows, 1]), batch_size=1, verbose=0)
    # One mask per pass of two updates. Two of 64 bits are equal by chance with
    # probability 2**-64.
    assert len(masks.seen) == 2 * optimizer.gradients_per_update
    assert len(set(masks.seen)) == len(masks.seen)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("data_weight", [0.0, 0.5])
def test_a_fit_uses_one_seed_per_gradient(data_weight, jit_compile):
    inputs, dropout = keras.Input([4]), keras.layers.Dropout(0.5, seed=3)
    hidden = keras.layers.Dropout(0.5, seed=4)(dropout(inputs))
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(hidden))
    optimizer = entropy_keras.EntropySGD(
        num_langevin_steps=3, data_weight=data_weight
    )
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    before = dropout.seed_generator.state.value.numpy()
    rows = 2 * MINIBATCH * optimizer.minibatches_per_update
    model.fit(
        np.ones([rows, 4]),
        np.ones([rows, 1]),
        batch_size=MINIBATCH,
        epochs=3,
        verbose=0,
    )
    # A generator counts its seeds in the second entry of its state.
    num_gradients = 3 * 2 * optimizer.gradients_per_update
    after = dropout.seed_generator.state.value.numpy()
    assert (after - before).tolist() == [0, num_gradients]


# 10. Regularization losses are those at the position.


@pytest.mark.parametrize("scope", [0.0, 0.03, 5.0])
def test_regularization_is_that_of_the_position(scope):
    model = make_penalty_model(
        learning_rate=1.0,
        scope=scope,
        num_langevin_steps=20,
        langevin_learning_rate=0.1,
        averaging_rate=0.75,
    )
    force = entropy_force(
        scope, averaging_rate=0.75, num_steps=20, step_size=0.1
    )
    weights = fit_on_zeros(model, num_updates=1)
    np.testing.assert_allclose(weights, START * (1 - force), rtol=1e-5)


def test_the_mean_gradient_of_a_regularization_is_that_of_the_positions():
    # Each step multiplies the distance from <x'> = 0.5 / (1 + 0.5) x = x / 3 by
    # 1 - 0.5 * (1 + 0.5) = 0.25: positions x, 0.5 x, 0.375 x. The gradient is
    # the position, its mean 0.625 x.
    model = make_penalty_model(
        learning_rate=1.0,
        scope=0.5,
        num_langevin_steps=3,
        langevin_learning_rate=0.5,
        averaging_rate=None,
        estimator="mean_gradient",
    )
    weights = fit_on_zeros(model, num_updates=1)
    np.testing.assert_allclose(weights, START * (1 - 0.625), rtol=1e-5)


# 11. Weight decay is decoupled, and scaled by the learning rate.


@pytest.mark.parametrize("learning_rate", [1.0, 0.1])
def test_weight_decay_is_decoupled_and_scaled(learning_rate):
    model = make_penalty_model(
        learning_rate=learning_rate,
        weight_decay=0.25,
        scope=0.5,
        num_langevin_steps=3,
        averaging_rate=0.75,
    )
    force = entropy_force(0.5, averaging_rate=0.75, num_steps=3, step_size=0.1)
    # Once per update, of x, and unseen by the chain: no other curvature.
    weights = fit_on_zeros(model, num_updates=2)
    factor = 1 - learning_rate * (0.25 + force)
    np.testing.assert_allclose(weights, START * factor**2, rtol=1e-5)


# 12. Clipping acts on each gradient of the loss.


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [
        # The gradients are the means of the mini-batches: (30, 40), (0.6, 0),
        # (0, -8) and, for the data term, (3, 4).
        ({}, [(30, 40), (0.6, 0), (0, -8), (3, 4)]),
        ({"clipnorm": 1.0}, [(0.6, 0.8), (0.6, 0), (0, -1), (0.6, 0.8)]),
        ({"global_clipnorm": 5.0}, [(3, 4), (0.6, 0), (0, -5), (3, 4)]),
        ({"clipvalue": 3.5}, [(3.5, 3.5), (0.6, 0), (0, -3.5), (3, 3.5)]),
    ],
    ids=["none", "clipnorm", "global_clipnorm", "clipvalue"],
)
@pytest.mark.parametrize("data_weight", [0.0, 2.0])
def test_clipping_acts_on_each_inner_gradient(clipping, clipped, data_weight):
    # The loss is linear: the mean over the batch of weights . features.
    inputs = keras.Input([2])
    outputs = keras.layers.Dense(1, use_bias=False)(inputs)
    model = entropy_keras.EntropyModel(inputs, outputs)
    optimizer = entropy_keras.EntropySGD(
        learning_rate=1.0,
        scope=0.0,
        num_langevin_steps=3,
        langevin_learning_rate=0.5,
        temperature=0.0,
        averaging_rate=1.0,
        data_weight=data_weight,
        sampler=PLAIN,
        **clipping,
    )
    model.compile(optimizer, loss=lambda target, prediction: prediction)
    model.set_weights([START])
    features = np.array([(30, 40), (0.6, 0), (0, -8), (3, 4)])
    features = np.repeat(features[: optimizer.gradients_per_update], 2, axis=0)
    model.train_on_batch(features, np.zeros([len(features), 1]))
    # The displacement, 0.5 times the sum over the steps, is not clipped again.
    step = 0.5 * np.sum(clipped[:3], 0) + data_weight * np.array(clipped[3])
    np.testing.assert_allclose(
        model.get_weights()[0].ravel(), START.ravel() - step, 1e-5, 1e-5
    )


# Switched off, the method is what it wraps.


def make_network(model_class):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([3])
    hidden = keras.layers.Dense(
        8, kernel_regularizer=keras.regularizers.L2(0.01)
    )(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(0.25)(keras.layers.ReLU()(hidden))
    return model_class(inputs, keras.layers.Dense(2)(hidden))


@pytest.mark.parametrize(
    "outer",
    [
        keras.optimizers.SGD(
            Schedule(0.05, 4, 0.5), momentum=0.9, nesterov=True
        ),
        keras.optimizers.Adam(0.01, weight_decay=0.01),
    ],
    ids=["sgd", "adam"],
)
def test_without_inner_steps_it_is_the_outer_optimizer(outer):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[40, 3]), rng.normal(size=[40, 2])
    results = []
    for entropy in (False, True):
        optimizer = copy.deepcopy(outer)
        if entropy:
            optimizer = entropy_keras.EntropySGD(
                num_langevin_steps=0,
                data_weight=1.0,
                outer_optimizer=optimizer,
            )
        model = make_network(
            entropy_keras.EntropyModel if entropy else keras.Model
        )
        model.compile(optimizer, loss="mse", metrics=["mae"])
        start = model.get_weights()
        keras.utils.set_random_seed(2)
        history = model.fit(x, y, batch_size=16, epochs=3, verbose=0).history
        seeds = [
            layer.seed_generator.state.value.numpy()
            for layer in model.layers
            if isinstance(layer, keras.layers.Dropout)
        ]
        results.append((history, [*model.get_weights(), *seeds]))
    for before, plain, entropy in zip(
        start, results[0][1], results[1][1], strict=False
    ):
        assert np.any(before != plain)
        np.testing.assert_array_equal(entropy, plain)
    np.testing.assert_array_equal(results[1][1][-1], results[0][1][-1])
    # The mean loss over samples may be summed in another order.
    assert results[0][0].keys() == results[1][0].keys()
    for name, values in results[0][0].items():
        np.testing.assert_allclose(results[1][0][name], values, rtol=1e-6)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)]
)
def test_without_noise_and_scope_it_is_sgd_restarted(momentum, nesterov):
    num_steps, num_updates = 4, 3
    rng = np.random.default_rng(0)
    rows = MINIBATCH * num_steps * num_updates
    x, y = rng.normal(size=[rows, 3]), rng.normal(size=[rows, 2])

    def make_dense(model_class):
        keras.utils.set_random_seed(1)
        inputs = keras.Input([3])
        hidden = keras.layers.Dense(
            8, "tanh", kernel_regularizer=keras.regularizers.L2(0.01)
        )(inputs)
        return model_class(inputs, keras.layers.Dense(2)(hidden))

    model = make_dense(entropy_keras.EntropyModel)
    optimizer = entropy_keras.EntropySGD(
        learning_rate=1.0,
        scope=0.0,
        num_langevin_steps=num_steps,
        langevin_learning_rate=0.1,
        temperature=0.0,
        averaging_rate=1.0,
        sampler=entropy_keras.SGLD(momentum, nesterov=nesterov),
    )
    model.compile(optimizer, loss="mse")
    model.fit(x, y, batch_size=MINIBATCH, shuffle=False, verbose=0)

    plain = make_dense(keras.Model)
    batches = np.arange(rows).reshape(num_updates, num_steps, MINIBATCH)
    for group in batches:
        plain.compile(
            keras.optimizers.SGD(0.1, momentum=momentum, nesterov=nesterov),
            loss="mse",
        )
        for batch in group:
            plain.train_on_batch(x[batch], y[batch])
    for a, e in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)
