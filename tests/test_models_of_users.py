"""Models as users write them, with all that Keras lets them do.

Each one of `MODELS` is trained in two ways: with the inner loop, where it has
to learn, and without, where it has to be what plain SGD makes of it.
"""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import entropy_keras
from entropy_keras import landscape
from entropy_keras import passes

RNG = np.random.default_rng(0)
BATCH = 5
X = RNG.normal(size=[40, 6]).astype("float32")
Y = (X[:, :1] + 0.5 * X[:, 1:2] > 0).astype("float32")
TOKENS = RNG.integers(1, 10, size=[40, 7])
SEQUENCES = X[..., np.newaxis]


def dense(units=1, **arguments):
    inputs = keras.Input([6])
    hidden = layers.Dense(4, "tanh", **arguments)(inputs)
    return keras.Model(inputs, layers.Dense(units)(hidden))


def nested():
    inputs = keras.Input([6])
    tail = keras.Sequential([layers.Dense(3), layers.BatchNormalization()])
    return keras.Model(inputs, layers.Dense(1)(tail(dense(4)(inputs)))), X, Y


def partly_frozen():
    model = dense()
    model.layers[1].trainable = False
    return model, X, Y


def two_headed(structure):
    inputs = [keras.Input([2], name="a"), keras.Input([4], name="b")]
    joined = layers.concatenate(inputs)
    outputs = [layers.Dense(1, name=name)(joined) for name in ("c", "d")]
    x, y = [X[:, :2], X[:, 2:]], [Y, 1 - Y]
    losses, weights = ["mse", "mae"], [1.0, 0.25]
    if structure is dict:
        inputs, x = ({"a": v[0], "b": v[1]} for v in (inputs, x))
        outputs, y, losses, weights = (
            {"c": v[0], "d": v[1]} for v in (outputs, y, losses, weights)
        )
    model = keras.Model(inputs, outputs)
    return model, x, y, {"loss": losses, "loss_weights": weights}


def lists():
    return two_headed(list)


def dicts():
    return two_headed(dict)


def own_compute_loss():
    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.code = layers.Dense(3)
            self.readout = layers.Dense(6)
            self.error = keras.metrics.Mean(name="error")

        def call(self, inputs):
            return self.readout(self.code(inputs))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            error = keras.ops.mean(keras.ops.square(x - y_pred))
            self.error.update_state(error)
            return error + 0.1 * keras.ops.mean(self.code.kernel**2)

    return Autoencoder(), X, None, {}


def added_loss():
    class Penalty(layers.Layer):
        def call(self, inputs):
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    inputs = keras.Input([6])
    hidden = Penalty()(layers.Dense(4)(inputs))
    return keras.Model(inputs, layers.Dense(1)(hidden)), X, Y


def activity_regularizer():
    return dense(activity_regularizer=keras.regularizers.L2(0.1)), X, Y


def strong_regularizer():
    return dense(kernel_regularizer=keras.regularizers.L2(10.0)), X, Y


def constraints():
    inputs = keras.Input([6])
    hidden = layers.Dense(4, kernel_constraint="unit_norm")(inputs)
    outputs = layers.Dense(1, kernel_constraint="non_neg")(hidden)
    return keras.Model(inputs, outputs), X, Y


def shared_layer():
    inputs = [keras.Input([3]), keras.Input([3])]
    shared = layers.Dense(4, "tanh")
    difference = layers.subtract([shared(i) for i in inputs])
    model = keras.Model(inputs, layers.Dense(1)(difference))
    return model, [X[:, :3], X[:, 3:]], Y


def stateful(cell=layers.GRU):
    inputs = keras.Input(batch_shape=[BATCH, 6, 1])
    hidden = cell(4, stateful=True)(inputs)
    return keras.Model(inputs, layers.Dense(1)(hidden)), SEQUENCES, Y


def noisy():
    inputs = keras.Input([6])
    hidden = layers.Dropout(0.2, seed=3)(layers.GaussianNoise(0.1)(inputs))
    return keras.Model(inputs, layers.Dense(1)(hidden)), X, Y


class Counter(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False
        )

    def call(self, inputs):
        self.count.assign(self.count + 1)
        return inputs


def own_state():
    normalization = layers.Normalization()
    normalization.adapt(X)
    inputs = keras.Input([6])
    hidden = Counter()(normalization(inputs))
    hidden = layers.BatchNormalization()(layers.Dense(4)(hidden))
    return keras.Model(inputs, layers.Dense(1)(hidden)), X, Y


class Backbone(keras.Model):
    """A functional model with a constructor of its own, as in KerasHub."""

    def __init__(self, vocabulary=10, width=4, **kwargs):
        inputs = {
            name: keras.Input([None], dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        embedded = layers.Embedding(vocabulary, width)(inputs["token_ids"])
        mask = keras.ops.expand_dims(inputs["padding_mask"], -1)
        x = embedded * keras.ops.cast(mask, embedded.dtype)
        x = layers.LayerNormalization()(x + layers.Dense(width)(x))
        super().__init__(inputs=inputs, outputs=x, **kwargs)
        self.width = width


class Classifier(keras.Model):
    def __init__(self, backbone, **kwargs):
        pooled = layers.GlobalAveragePooling1D()(backbone(backbone.input))
        outputs = layers.Dense(1)(pooled)
        super().__init__(inputs=backbone.input, outputs=outputs, **kwargs)
        self.backbone = backbone


def backbone():
    x = {"token_ids": TOKENS, "padding_mask": (TOKENS > 3).astype("int32")}
    return Classifier(Backbone()), x, (TOKENS[:, :1] > 4).astype("float32")


MODELS = [
    nested, partly_frozen, lists, dicts, own_compute_loss, added_loss,
    activity_regularizer, strong_regularizer, constraints, shared_layer,
    stateful, noisy, own_state, backbone,
]  # fmt: skip


def train(make, optimizer, epochs=2, **arguments):
    """Returns a model that was trained, and the history of its training."""
    keras.utils.set_random_seed(1)
    model, x, y, *compiling = make()
    if isinstance(optimizer, entropy_keras.EntropySGD):
        model = entropy_keras.EntropyModel.from_model(model)
    (compiling,) = compiling or [{"loss": "mse"}]
    model.compile(optimizer, **compiling, **arguments)
    keras.utils.set_random_seed(2)
    history = model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0
    )
    return model, history.history


def without_effect(learning_rate=0.05, **arguments):
    return entropy_keras.EntropySGD(
        learning_rate, num_langevin_steps=0, data_weight=1.0, **arguments
    )


@pytest.mark.parametrize("make", MODELS)
def test_without_effect_it_is_plain_sgd(make):
    plain, expected = train(make, keras.optimizers.SGD(0.05))
    model, history = train(make, without_effect())
    assert isinstance(model, entropy_keras.EntropyModel)
    assert len(model.weights) == len(plain.weights)
    states = [m.variables + passes.carried_states(m) for m in (model, plain)]
    # Keras sums the sparse gradient of an embedding in another order, and some
    # processors round a product of nested models otherwise in another graph.
    rtol = {backbone: 1e-4, nested: 2e-6}.get(make, 0.0)
    atol = 1e-7 if rtol else 0.0
    for actual, other in zip(*states, strict=True):
        np.testing.assert_allclose(
            actual.numpy(), other.numpy(), rtol, atol, err_msg=other.path
        )
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


@pytest.mark.parametrize("make", MODELS)
def test_it_learns(make):
    optimizer = entropy_keras.EntropySGD(
        0.5, langevin_learning_rate=0.02, num_langevin_steps=2, seed=0
    )
    _, history = train(make, optimizer, epochs=5)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < 0.9 * history["loss"][0]


def entropy_sgd(**arguments):
    return entropy_keras.EntropySGD(
        **{"learning_rate": 0.5, "num_langevin_steps": 2, "seed": 0} | arguments
    )


def test_constraints_hold_after_every_outer_step():
    norms, smallest = [], []
    keras.utils.set_random_seed(1)
    model = entropy_keras.EntropyModel.from_model(constraints()[0])
    model.compile(entropy_sgd(temperature=1e-3), loss="mse")
    for _ in range(3):
        model.train_on_batch(X, Y)
        hidden, _, outputs, _ = model.get_weights()
        norms.append(np.linalg.norm(hidden, axis=0))
        smallest.append(outputs.min())
    np.testing.assert_allclose(norms, 1.0, rtol=1e-6)
    assert min(smallest) >= 0


def test_a_state_of_a_layer_moves_once_per_update():
    model, _ = train(own_state, entropy_sgd())
    counter, normalization = model.layers[2], model.layers[1]
    # 40 samples are 4 groups of 2 mini-batches of 5.
    assert int(counter.count) == int(model.optimizer.iterations) == 2 * 4
    np.testing.assert_allclose(normalization.mean[0], X.mean(0), atol=1e-6)


def recurrent_states(model):
    """Returns what goes from pass to pass but for the seeds, which count."""
    carried = passes.carried_states(model)
    return [v for v in carried if v.dtype.startswith("float")]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_state_of_a_recurrent_layer_goes_on_from_pass_to_pass(jit_compile):
    def sums():
        inputs = keras.Input(batch_shape=[BATCH, 6, 1])
        # Adds up all that it sees: identities instead of weights.
        hidden = layers.SimpleRNN(
            1, "linear", stateful=True, trainable=False,
            kernel_initializer="ones", recurrent_initializer="ones",
        )(inputs)  # fmt: skip
        return keras.Model(inputs, layers.Dense(1)(hidden)), SEQUENCES, Y

    model, _ = train(
        sums, entropy_sgd(learning_rate=0.0), jit_compile=jit_compile
    )
    (state,) = recurrent_states(model)
    expected = 2 * X.reshape(-1, BATCH, 6).sum((0, 2))  # in two epochs
    np.testing.assert_allclose(state[:, 0], expected, rtol=1e-4)


def test_a_file_holds_the_state_of_a_recurrent_layer(tmp_path):
    model, _ = train(lambda: stateful(layers.LSTM), entropy_sgd())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    states = [recurrent_states(m) for m in (model, loaded)]
    assert len(states[0]) == 2
    for expected, actual in zip(*states, strict=True):
        assert np.any(expected.numpy())
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())


def test_a_file_knows_the_precision_of_its_model(tmp_path):
    model = dense(dtype="mixed_float16")
    model.dtype_policy = keras.DTypePolicy("mixed_float16")
    model = entropy_keras.EntropyModel.from_model(model)
    model.compile(entropy_sgd(), loss="mse")
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    # Where the global policy is another one.
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == "mixed_float16"
    expected, actual = (m.optimizer.variables for m in (model, loaded))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), b.path)


@pytest.mark.parametrize("make", [nested, own_compute_loss])
def test_a_trained_model_keeps_its_weights(make):
    plain, _ = train(make, "adam")
    before = plain.get_weights()
    model = entropy_keras.EntropyModel.from_model(plain)
    assert len(before) == len(model.get_weights())
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_freezing_and_thawing_takes_a_new_compile():
    model = entropy_keras.EntropyModel.from_model(dense())
    layer, moved = model.layers[1], []
    for trainable in (True, False, True):
        layer.trainable = trainable
        model.compile(entropy_sgd(), loss="mse")
        before = layer.get_weights()[0]
        model.fit(X, Y, batch_size=BATCH, verbose=0)
        moved.append(np.any(layer.get_weights()[0] != before))
    assert moved == [True, False, True]


def test_freezing_after_the_optimizer_is_built():
    model = entropy_keras.EntropyModel.from_model(dense())
    model.compile(entropy_sgd(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    layer = model.layers[1]
    layer.trainable = False
    frozen, before = layer.get_weights()[0], model.get_weights()[-1]
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    np.testing.assert_array_equal(layer.get_weights()[0], frozen)
    assert np.any(model.get_weights()[-1] != before)


def test_a_frozen_plain_model_freezes_the_one_that_shares_its_layers():
    plain = dense()
    model = entropy_keras.EntropyModel.from_model(plain)
    plain.trainable = False
    assert not model.trainable_variables


def test_an_entropy_model_is_a_layer_of_another(tmp_path):
    inputs = keras.Input([6])
    inner = entropy_keras.EntropyModel.from_model(dense(4))
    model = entropy_keras.EntropyModel(inputs, layers.Dense(1)(inner(inputs)))
    model.compile(entropy_sgd(), loss="mse")
    before = inner.get_weights()[0]
    model.fit(X, Y, batch_size=BATCH, verbose=0)
    assert np.any(inner.get_weights()[0] != before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_that_assigns_its_weights_is_refused():
    inputs = keras.Input([6])
    layer = layers.SpectralNormalization(layers.Dense(1))
    model = entropy_keras.EntropyModel(inputs, layer(inputs))
    model.compile(entropy_sgd(), loss="mse")
    before = layer.get_weights()
    with pytest.raises(ValueError, match="`SpectralNormalization`") as error:
        model.train_on_batch(X, Y)
    assert str(error.value).endswith(f" to {layer.layer.kernel.path}")
    for a, b in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_loss_without_trainable_variables_is_keras_error(
    run_eagerly, diagnostics
):
    inputs = keras.Input([6])
    outputs = layers.Lambda(keras.ops.stop_gradient)(layers.Dense(1)(inputs))
    model = entropy_keras.EntropyModel(inputs, outputs)
    optimizer = entropy_sgd(diagnostics=diagnostics)
    model.compile(optimizer, loss="mse", run_eagerly=run_eagerly)
    with pytest.raises(ValueError, match="No gradients provided for any"):
        model.train_on_batch(X, Y)


def test_a_batch_by_hand_is_traced_once():
    calls = []

    class Traced(layers.Layer):
        def call(self, inputs, training=False):
            if training:
                calls.append(1)
            return inputs

    inputs = keras.Input([6])
    model = entropy_keras.EntropyModel(
        inputs, layers.Dense(1)(Traced()(inputs))
    )
    model.compile(entropy_sgd(), loss="mse", metrics=["mae"])
    for _ in range(2):
        model.train_on_batch(X, Y)
    # One call for the pass at x, one for the body of the loop.
    assert len(calls) == 2


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("application", "arguments"),
    [
        (keras.applications.MobileNet, {"alpha": 0.25}),
        (
            keras.applications.MobileNetV3Small,
            {"alpha": 0.75, "minimalistic": True},
        ),
    ],
    ids=["mobilenet", "mobilenet_v3"],
)
def test_an_application_trains_and_is_exported(
    application, arguments, tmp_path
):
    plain = application(
        weights=None, input_shape=(32, 32, 3), classes=2, **arguments
    )
    model = entropy_keras.EntropyModel.from_model(plain)
    # Without noise it is traced in half the time.
    model.compile(
        entropy_sgd(
            learning_rate=0.1, langevin_learning_rate=0.01, temperature=0.0
        ),
        loss="sparse_categorical_crossentropy",
    )
    x = RNG.uniform(size=[8, 32, 32, 3]).astype("float32")
    before = model.get_weights()
    losses = model.fit(x, np.tile([0, 1], 4), batch_size=2, verbose=0).history[
        "loss"
    ]
    assert np.isfinite(losses).all()
    assert int(model.optimizer.iterations) == 2
    for variable, value in zip(model.weights, before, strict=True):
        assert np.isfinite(variable.numpy()).all()
        if variable.trainable and "kernel" in variable.path:
            assert np.any(variable.numpy() != value), variable.path
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.serve(x), model(x, training=False), atol=1e-5
    )


class OwnMetrics(entropy_keras.EntropyModel):
    """Has a `metrics` property without a tracker that is called loss."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)
        self.total = keras.metrics.Mean(name="total")

    def call(self, inputs):
        return self.dense(inputs)

    @property
    def metrics(self):
        return [self.total]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.total.update_state(tf.reduce_sum(y))
        return {"total": self.total.result()}


def test_a_model_may_have_metrics_of_its_own():
    model = OwnMetrics()
    model.compile(entropy_sgd(), loss="mse")
    x, y = X.reshape(len(X), -1), np.ones([len(X), 1])
    history = model.fit(x, y, batch_size=BATCH, verbose=0).history
    np.testing.assert_allclose(history["total"], [BATCH])


@keras.saving.register_keras_serializable(package="test_models_of_users")
class Doubled(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def test_a_subclass_of_sequential_keeps_its_call():
    plain = Doubled([keras.Input([3]), layers.Dense(1)])
    x = np.ones([4, 3], "float32")
    expected = plain(x).numpy()
    model = entropy_keras.EntropyModel.from_model(plain)
    np.testing.assert_array_equal(model(x).numpy(), expected)
    model.compile(entropy_sgd(), loss="mse")
    model.fit(x, expected, batch_size=2, verbose=0)
    np.testing.assert_allclose(model(x), 2 * model.layers[0](x), rtol=1e-6)


class Auxiliary(keras.Model):
    """Has a head that only training knows."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(4, "relu")
        self.head, self.other = layers.Dense(1), layers.Dense(1)

    def call(self, inputs, training=False):
        hidden = self.hidden(inputs)
        if training:
            self.add_loss(tf.reduce_mean(self.other(hidden) ** 2))
        return self.head(hidden)


@pytest.mark.parametrize("form", ["arrays", "dataset", "batches"])
def test_a_layer_that_only_training_uses_is_trained(form):
    x = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
    y = x[:, :1].copy()
    results = []
    for entropic in (False, True):
        keras.utils.set_random_seed(1)
        model = Auxiliary()
        optimizer = keras.optimizers.SGD(0.1)
        if entropic:
            model = entropy_keras.EntropyModel.from_model(model)
            optimizer = entropy_keras.EntropySGD(
                0.1, num_langevin_steps=0, data_weight=1.0
            )
        model.compile(optimizer, loss="mse")
        if form == "batches":
            for start in range(0, 40, 4):
                model.train_on_batch(x[start : start + 4], y[start : start + 4])
        else:
            data = {"x": x, "y": y, "batch_size": 4}
            if form == "dataset":
                rows = tf.data.Dataset.from_tensor_slices((x, y))
                data = {"x": rows.batch(4)}
            model.fit(**data, shuffle=False, verbose=0)
        results.append(model.get_weights())
    assert len(results[0]) == 6
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable(package="test_models_of_users")
class Child(entropy_keras.EntropyModel):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


@keras.saving.register_keras_serializable(package="test_models_of_users")
class Stranger(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.dense = layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    ("kind", "copied"),
    [
        ("functional", "deepcopy"),
        ("extended", "pickle"),
        ("child", "pickle"),
    ],
)
def test_a_copy_goes_on_as_the_model_does(kind, copied):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3])
    model = {
        "functional": lambda: entropy_keras.EntropyModel(
            inputs, layers.Dense(1)(inputs)
        ),
        "child": Child,
        "extended": lambda: entropy_keras.EntropyModel.from_model(Stranger()),
    }[kind]()
    x = np.random.default_rng(0).normal(size=[20, 3]).astype("float32")
    model.compile(entropy_sgd(), loss="mse")
    arguments = {"batch_size": 2, "shuffle": False, "verbose": 0}
    model.fit(x, x[:, :1], **arguments)
    if copied == "pickle":
        copy_of_it = pickle.loads(pickle.dumps(model))
    else:
        copy_of_it = copy.deepcopy(model)
    assert isinstance(copy_of_it, entropy_keras.EntropyModel)
    for one in (model, copy_of_it):
        one.fit(x, x[:, :1], **arguments)
    for a, b in zip(model.get_weights(), copy_of_it.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class OwnLoss(Child):
    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return tf.reduce_mean((y - y_pred) ** 2)


@pytest.mark.filterwarnings("ignore:`build")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("form", ["own_loss", "generator"])
def test_a_subclass_that_build_alone_has_built_trains(form):
    x = np.ones([20, 3], "float32")
    model = OwnLoss() if form == "own_loss" else Child()
    model.build((None, 3))
    if form == "own_loss":
        model.compile(entropy_sgd())
        model.fit(x, x[:, :1], batch_size=2, verbose=0)
    else:
        model.compile(entropy_sgd(), loss="mse")
        batches = ((x[i : i + 2], x[i : i + 2, :1]) for i in range(0, 20, 2))
        model.fit(batches, steps_per_epoch=2, verbose=0)
    assert int(model.optimizer.iterations) > 0


def test_half_precision_alone_trains():
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        inputs = keras.Input([6], dtype="float16")
        hidden = layers.Dense(3000, "relu", dtype="float16")(inputs)
        outputs = layers.Dense(1, dtype="float16")(hidden)
        model = entropy_keras.EntropyModel(inputs, outputs)
        model.compile(entropy_sgd(langevin_learning_rate=1e-3), loss="mse")
        x = np.random.default_rng(0).normal(size=[20, 6]).astype("float16")
        # A guard that sums in half precision overflows on 18,000 weights.
        model.fit(x, x[:, :1], batch_size=2, verbose=0)
    finally:
        keras.config.set_floatx(before)
    assert {v.dtype for v in model.trainable_variables} == {"float16"}


class Traced(keras.layers.Layer):
    """A dense layer, computed by a `tf.function` or as it is."""

    def __init__(self, traced):
        super().__init__()
        self._multiply = tf.function(self._once) if traced else self._once

    def build(self, shape):
        self.kernel = self.add_weight(shape=[shape[-1], 2], name="inner")

    def _once(self, x):
        return tf.matmul(x, self.kernel)

    def call(self, x):
        return self._multiply(x)


TRAINED = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "entropy_sgd": lambda: entropy_keras.EntropySGD(1.0, num_langevin_steps=2),
    "sharpness_aware": entropy_keras.SharpnessAware,
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("traced", [False, True])
def test_weights_that_a_function_reads_are_refused(traced, name):
    inputs = keras.Input([6])
    layer = Traced(traced)
    outputs = keras.layers.Dense(1)(layer(inputs))
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(TRAINED[name](), "mse")
    before = layer.kernel.numpy()
    if traced and name != "sgd":
        with pytest.raises(ValueError, match="reads traced.*/inner in a func"):
            model.fit(X, Y, verbose=0)
    else:
        model.fit(X, Y, verbose=0)
        assert (layer.kernel.numpy() != before).all()


@pytest.mark.parametrize(
    "measure",
    [
        lambda *of: landscape.hessian_matrix(*of, verbose=0),
        landscape.epsilon_sharpness,
        landscape.local_energy,
        lambda model, data, loss: landscape.local_predictions(
            model, X, data, 1e4, 1e-3, loss, num_samples=8, num_chains=2
        ),
    ],
)
@pytest.mark.parametrize("traced", [False, True])
def test_landscape_refuses_weights_that_a_function_reads(traced, measure):
    model = keras.Sequential([
        keras.Input([6]),
        Traced(traced),
        keras.layers.Dense(1),
    ])
    model.compile(loss="mse")
    data = X, Y
    if traced:
        with pytest.raises(ValueError, match="/inner in a function"):
            measure(model, data, "mse")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measure(model, data, "mse")


class Drawing(keras.layers.Layer):
    """Adds noise, by a seed of its own or by the one that Keras shares."""

    def __init__(self, own):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0) if own else None

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@pytest.mark.parametrize("own", [False, True])
def test_random_numbers_without_a_seed_are_refused(own):
    inputs = keras.Input([6])
    outputs = keras.layers.Dense(1)(Drawing(own)(inputs))
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(entropy_keras.EntropySGD(seed=0), "mse")
    if own:
        model.fit(X, Y, verbose=0)
    else:
        with pytest.raises(ValueError, match="keras.random.SeedGenerator"):
            model.fit(X, Y, verbose=0)


def test_float8_is_refused():
    inputs = keras.Input([6])
    layer = keras.layers.Dense(1)
    model = entropy_keras.EntropyModel(inputs, layer(inputs))
    layer.quantize("float8")
    model.compile(entropy_keras.EntropySGD(), "mse")
    with pytest.raises(ValueError, match="another precision than float8"):
        model.fit(X, Y, verbose=0)


def test_a_sequential_model_keeps_all_outputs():
    plain = keras.Sequential([
        keras.Input([6, 1]),
        keras.layers.LSTM(2, return_state=True),
    ])
    model = entropy_keras.EntropyModel.from_model(plain)
    x = SEQUENCES
    for found, expected in zip(model(x), plain(x), strict=True):
        np.testing.assert_array_equal(found, expected)
