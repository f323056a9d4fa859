"""EntropyModel through Keras's front door."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import passes

RNG = np.random.default_rng(0)
X = RNG.normal(size=[120, 6]).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(dropout=0.0):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([6])
    x = keras.layers.Dense(8)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(dropout)(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def compiled(plain=None, jit_compile=False, run_eagerly=False, **arguments):
    model = entropy_keras.EntropyModel.from_model(plain or classifier())
    arguments = {"learning_rate": 0.5, "seed": 3, **arguments}
    model.compile(
        entropy_keras.EntropySGD(**arguments),
        loss=LOSS,
        metrics=["accuracy"],
        jit_compile=jit_compile,
        run_eagerly=run_eagerly,
    )
    return model


def fit(model, **arguments):
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, **arguments}
    return model.fit(X, Y, verbose=0, **arguments).history


@pytest.mark.parametrize(
    "data_weight", [0.5, pytest.param(0.0, marks=pytest.mark.nightly)]
)
def test_eager_graph_and_xla_agree(data_weight):
    settings = {"data_weight": data_weight, "temperature": 1e-6}
    losses, weights = [], []
    for mode in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        model = compiled(**mode, **settings)
        rows = 5 * model.optimizer.minibatches_per_update
        losses.append([
            model.train_on_batch(X[i : i + rows], Y[i : i + rows])[0]
            for i in range(20)
        ])
        weights.append(model.get_weights())
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, atol=1e-5)
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_fit_traces_once(jit_compile):
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs, training=False):
            if training:  # which runs when the train step is traced
                calls.append(1)
            return inputs

    inputs = keras.Input([6])
    plain = keras.Model(inputs, keras.layers.Dense(2)(Counted()(inputs)))
    model = compiled(plain, jit_compile=jit_compile)
    fit(model, epochs=3)  # 120 samples are 3 groups of 5 mini-batches of 8
    # One call for the pass at x, one for the body of the loop.
    assert len(calls) == 2


def test_the_loss_is_that_at_the_weights():
    model = compiled(learning_rate=0.0)
    history = fit(model, epochs=1)
    # With the outer step off, x stays: the first mini-batch of each group is
    # seen at x, in training mode.
    plain = classifier()
    expected = np.mean([
        float(LOSS(Y[i : i + 8], plain(X[i : i + 8], training=True)))
        for i in range(0, 120, 40)
    ])
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)


def test_another_optimizer_trains_as_keras_does():
    results = []
    for cls in (lambda m: m, entropy_keras.EntropyModel.from_model):
        keras.utils.set_random_seed(5)
        model = cls(classifier(dropout=0.3))
        keras.utils.set_random_seed(5)
        model.compile("adam", loss=LOSS)
        fit(model)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        assert (a == b).all()


def test_from_model_shares_layers_and_weights():
    plain = classifier()
    model = compiled(plain)
    before = plain.get_weights()
    fit(model)
    assert model.layers[-1] is plain.layers[-1]
    assert abs(plain.get_weights()[0] - before[0]).max() > 0.01


def test_from_model_keeps_dict_inputs_and_outputs():
    a, b = keras.Input([2], name="a"), keras.Input([3], name="b")
    joined = keras.layers.Concatenate()([a, b])
    plain = keras.Model(
        {"a": a, "b": b},
        {
            "sum": keras.layers.Dense(1, name="sum")(joined),
            "class": keras.layers.Dense(2, name="class")(joined),
        },
    )
    model = entropy_keras.EntropyModel.from_model(plain)
    model.compile(
        entropy_keras.EntropySGD(0.1),
        loss={"sum": "mse", "class": LOSS},
        metrics={"class": "accuracy"},
    )
    x = {"a": X[:, :2], "b": X[:, 2:5]}
    y = {"sum": X[:, :1], "class": Y}
    history = model.fit(x, y, batch_size=8, epochs=4, verbose=0).history
    assert {"loss", "sum_loss", "class_loss", "class_accuracy"} <= set(history)
    assert history["loss"][-1] < history["loss"][0]
    parts = np.add(history["sum_loss"], history["class_loss"])
    np.testing.assert_allclose(parts, history["loss"], rtol=0.05)
    assert set(model.predict(x, verbose=0)) == {"sum", "class"}


class Subclassed(entropy_keras.EntropyModel):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, "relu")
        self.readout = keras.layers.Dense(2)

    def call(self, inputs):
        return self.readout(self.hidden(inputs))


@pytest.mark.parametrize("start", ["anchor", "stationary"])
def test_a_subclass_builds_and_learns(start):
    entropy_keras.EntropyModel.from_model(classifier())  # a functional one
    model = Subclassed()
    model.compile(
        entropy_keras.EntropySGD(0.5, start=start, temperature=1e-8), loss=LOSS
    )
    history = fit(model, epochs=8)
    assert history["loss"][-1] < 0.9 * history["loss"][0]


def test_a_subclass_may_be_functional():
    class Headed(entropy_keras.EntropyModel):
        def __init__(self, units):
            inputs = keras.Input([6])
            super().__init__(inputs, keras.layers.Dense(units)(inputs))

    model = Headed(2)
    model.compile(entropy_keras.EntropySGD(0.1), loss=LOSS)
    assert fit(model)["loss"]
    assert isinstance(model, Headed)


def test_unused_variables_stay():
    inputs = keras.Input([6])
    used, unused = keras.layers.Dense(2), keras.layers.Dense(3)
    plain = keras.Model(inputs, [used(inputs), unused(inputs)])
    model = entropy_keras.EntropyModel.from_model(plain)
    model.compile(
        entropy_keras.EntropySGD(0.5, temperature=1.0), loss=[LOSS, None]
    )
    before = unused.get_weights()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(X, [Y, Y], batch_size=8, verbose=0)
    assert (unused.get_weights()[0] == before[0]).all()


def test_a_frozen_layer_stays():
    plain = classifier()
    plain.layers[1].trainable = False
    model = compiled(plain)
    before = plain.layers[1].get_weights()
    fit(model)
    assert (plain.layers[1].get_weights()[0] == before[0]).all()


def test_an_embedding_trains():
    inputs = keras.Input([4], dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(10, 3)(inputs))
    plain = keras.Model(inputs, keras.layers.Dense(2)(x))
    model = compiled(plain)
    tokens = RNG.integers(0, 10, size=[80, 4])
    labels = (tokens[:, 0] > 4).astype("int32")
    history = model.fit(tokens, labels, batch_size=8, epochs=12, verbose=0)
    assert history.history["loss"][-1] < 0.6 * history.history["loss"][0]


def test_saving_and_loading_goes_on_as_if_nothing_happened(tmp_path):
    whole = compiled(outer_optimizer=keras.optimizers.Adam(1e-2),
                     learning_rate=None)  # fmt: skip
    fit(whole, epochs=4)
    first = compiled(outer_optimizer=keras.optimizers.Adam(1e-2),
                     learning_rate=None)  # fmt: skip
    fit(first, epochs=2)
    first.save(tmp_path / "model.keras")
    second = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(second, entropy_keras.EntropyModel)
    second.fit(
        X, Y, batch_size=8, initial_epoch=2, epochs=4, shuffle=False, verbose=0
    )
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        assert (a == b).all()


def test_exported_model_serves_without_the_package(tmp_path):
    model = compiled()
    fit(model)
    model.export(tmp_path / "served", verbose=False)
    np.save(tmp_path / "x.npy", X[:5])
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1] + '/served')\n"
        "x = tf.constant(np.load(sys.argv[1] + '/x.npy'))\n"
        "np.save(sys.argv[1] + '/y.npy', served.serve(x))\n"
        "assert 'entropy_keras' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path)],
        check=True,
        cwd=tmp_path,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), model(X[:5]), atol=1e-6
    )


@pytest.mark.parametrize("sampler", ["sgld", "split_sgld"])
def test_an_update_is_the_same_bit_for_bit_every_time(sampler):
    inputs = keras.Input([6])
    hidden = keras.layers.Dense(8, "relu")(inputs)
    model = compiled(
        keras.Model(inputs, keras.layers.Dense(2)(hidden)),
        sampler=sampler,
    )
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [v.numpy() for v in variables]
    results = set()
    for _ in range(200):
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        model.train_on_batch(X[:60], Y[:60])
        results.add(b"".join(w.tobytes() for w in model.get_weights()))
    assert len(results) == 1


def test_it_learns():
    history = fit(compiled(), epochs=40)
    # SGD of the same number of gradients reaches 0.85 to 0.95 here.
    assert history["accuracy"][-1] > 0.75


def test_callbacks_of_keras_work(tmp_path):
    model = compiled()
    rates = []
    fit(
        model,
        epochs=3,
        validation_split=0.2,
        callbacks=[
            keras.callbacks.LearningRateScheduler(
                lambda epoch: 0.1 / (epoch + 1)
            ),
            keras.callbacks.EarlyStopping(patience=5),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: rates.append(
                    float(model.optimizer.learning_rate)
                )
            ),
        ],
    )
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.1 / 3], rtol=1e-6)
    assert pathlib.Path(tmp_path / "best.keras").exists()


@pytest.mark.parametrize(
    ("broken", "culprit", "jit_compile"),
    [("loss", "loss", False), ("gradient", "entropy gradient", True)],
)
def test_training_stops_before_a_number_that_is_not_finite(
    broken, culprit, jit_compile
):
    x = X.copy()
    if broken == "loss":
        x[41] = np.nan  # in the first mini-batch of the second group
    else:
        x[49] = np.nan  # in its second one, which is not reported
    model = compiled(jit_compile=jit_compile)
    good = compiled()
    good.fit(X[:40], Y[:40], batch_size=8, shuffle=False, verbose=0)
    with pytest.raises(
        FloatingPointError, match=f"The {culprit} is not finite at update 1"
    ):
        model.fit(x, Y, batch_size=8, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 1
    trainable = zip(
        model.trainable_variables, good.trainable_variables, strict=True
    )
    for a, b in trainable:
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_seed_states_are_neither_weights_nor_metrics():
    model = compiled(classifier(dropout=0.5))
    fit(model)
    assert len(passes.carried_states(model)) == 1


def test_ema_and_weight_decay_of_the_outer_optimizer():
    model = compiled(use_ema=True, ema_momentum=0.5, weight_decay=0.1)
    recorded = []
    fit(
        model,
        epochs=1,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: recorded.append(
                    model.get_weights()[0]
                )
            )
        ],
    )
    # Keras starts the average at the first value, and fit ends with it.
    average = recorded[0]
    for weights in recorded[1:]:
        average = 0.5 * average + 0.5 * weights
    np.testing.assert_allclose(model.get_weights()[0], average, atol=1e-6)


def test_config_of_the_optimizer_round_trips():
    schedules = keras.optimizers.schedules
    optimizers = [
        entropy_keras.EntropySGD(),
        entropy_keras.EntropySGD(
            schedules.CosineDecay(0.5, 10),
            scope=entropy_keras.ExponentialScope(0.1, 0.01, 1.0),
            langevin_learning_rate=None,
            sampler=entropy_keras.SplitSGLD(),
            global_clipnorm=1.0,
            weight_decay=0.1,
        ),
        entropy_keras.EntropySGD(
            outer_optimizer=keras.optimizers.Adam(
                schedules.CosineDecay(1.0, 5)
            ),
            langevin_learning_rate=schedules.CosineDecay(0.5, 10),
            sampler=entropy_keras.SGLD(0.5, nesterov=False),
        ),
    ]
    for optimizer in optimizers:
        config = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == optimizer.get_config()
        assert again.sampler == optimizer.sampler
    # A seed drawn at random is part of the configuration.
    assert optimizers[0].seed == optimizers[0].get_config()["seed"]


def test_checkpoint_of_tensorflow_restores_the_optimizer(tmp_path):
    model = compiled(outer_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
                     learning_rate=None)  # fmt: skip
    fit(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(
        str(tmp_path / "checkpoint")
    )
    other = compiled(outer_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
                     learning_rate=None)  # fmt: skip
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(
        path
    ).assert_existing_objects_matched()
    fit(model)
    fit(other)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_reported_is_keras_own(weighted):
    """With a short last batch, and with weights of the samples."""
    found = []
    for plain in (True, False):
        inputs = keras.Input([6])
        outputs = keras.layers.Dense(1, kernel_initializer="ones")(inputs)
        model = (keras.Model if plain else entropy_keras.EntropyModel)(
            inputs, outputs
        )
        model.compile(
            keras.optimizers.SGD(0.0)
            if plain
            else entropy_keras.SharpnessAware(0.0, learning_rate=0.0),
            "mse",
            metrics=["mse"],
            weighted_metrics=["mae"],
        )
        history = model.fit(
            X[:10],
            X[:10, :1],
            batch_size=8,
            shuffle=False,
            sample_weight=np.arange(10.0) if weighted else None,
            verbose=0,
        ).history
        found.append(history)
    assert found[1].keys() == found[0].keys()
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize("how", ["var_names", "var_list"])
def test_weights_are_left_out_of_the_decay(how):
    inputs = keras.Input([6])
    layer = keras.layers.Dense(1, bias_initializer="ones")
    model = entropy_keras.EntropyModel(inputs, layer(inputs))
    optimizer = entropy_keras.EntropySGD(
        0.5,
        weight_decay=0.1,
        scope=0.0,
        temperature=0.0,
        langevin_learning_rate=1e-9,
    )
    left_out = {"var_names": ["bias"], "var_list": [layer.bias]}
    optimizer.exclude_from_weight_decay(**{how: left_out[how]})
    model.compile(optimizer, "mse")
    kernel, bias = model.get_weights()
    model.train_on_batch(X, X[:, :1])
    np.testing.assert_allclose(model.get_weights()[0], 0.95 * kernel, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[1], bias, rtol=1e-5)
