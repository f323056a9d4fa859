"""A bad update changes nothing but the failure flag or the loss scale."""

import keras
import lookahead
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import guard

BATCH = 4
X = np.random.default_rng(0).normal(size=[40, 3, 3]).astype("float32")
Y = X[:, 0, :1].copy()
OPTIMIZERS = {
    "entropy_sgd": lambda: entropy_keras.EntropySGD(
        0.5, seed=0, outer_optimizer=None, use_ema=True, diagnostics=True
    ),
    "adam_inside": lambda: entropy_keras.EntropySGD(
        sampler=entropy_keras.InnerOptimizer(keras.optimizers.Adam(0.01)),
        outer_optimizer=keras.optimizers.Adam(0.01),
        metric="rms_gradients",
        seed=0,
    ),
    "sharpness_aware": lambda: entropy_keras.SharpnessAware(
        direction="momentum",
        outer_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
    ),
    "lookahead": lambda: lookahead.Lookahead(0.5),
}
MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
}


def make_model(policy, batch_size):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input(batch_shape=[batch_size, 3, 3]),
        layers.SimpleRNN(4, stateful=True, dtype=policy),
        layers.BatchNormalization(dtype=policy),
        layers.Dropout(0.2, dtype=policy),
        layers.Dense(1, dtype=policy),
        layers.Activation("linear", dtype="float32"),
    ])
    model.dtype_policy = keras.DTypePolicy(policy)
    return entropy_keras.EntropyModel.from_model(model)


def state_of(model):
    """Returns all that an update may change, by the path of the variable."""
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
        *(s for s in model.layers[1].states or () if model.layers),
    ]
    return {f"{v.path} {id(v)}": (v, v.numpy()) for v in variables}


# Each optimizer in each precision, mode and with each bad number.
CASES = [
    ("entropy_sgd", "eager", "float32", np.nan),
    ("entropy_sgd", "xla", "float32", np.nan),
    ("entropy_sgd", "graph", "mixed_float16", np.nan),
    ("adam_inside", "graph", "float32", np.inf),
    ("adam_inside", "eager", "mixed_float16", np.inf),
    ("sharpness_aware", "graph", "float32", np.inf),
    ("sharpness_aware", "eager", "mixed_float16", np.nan),
    ("lookahead", "eager", "float32", np.nan),
    *(
        pytest.param(*case, marks=pytest.mark.nightly)
        for case in (
            ("sharpness_aware", "xla", "float32", np.nan),
            ("lookahead", "xla", "mixed_float16", np.nan),
        )
    ),
]


@pytest.mark.parametrize(("name", "mode", "policy", "bad"), CASES)
def test_a_bad_batch_changes_nothing(name, mode, policy, bad):
    model = make_model(policy, BATCH)
    model.compile(
        OPTIMIZERS[name](), loss="mse", metrics=["mae"], **MODES[mode]
    )
    rows = BATCH * model._multi_gradient().minibatches_per_update
    model.train_on_batch(X[:rows], Y[:rows])
    if policy == "mixed_float16":
        model.optimizer.dynamic_scale.assign(8.0)
    before = state_of(model)
    x = X[:rows].copy()
    x[-1, 2] = bad  # in the last mini-batch
    model.train_function(iter([(tf.constant(x), tf.constant(Y[:rows]))]))
    if policy == "float32":
        with pytest.raises(FloatingPointError, match=" is not finite at upd"):
            guard.raise_on_failure(model.optimizer)
    for path, (variable, value) in before.items():
        if "dynamic_scale" in path:
            assert float(variable) == 4.0
        elif "step_counter" in path:
            assert int(variable) == 0
        else:
            np.testing.assert_array_equal(variable.numpy(), value, path)
    # And it goes on as if the batch had not been.
    model.train_on_batch(X[:rows], Y[:rows])
    after = [v.numpy() for v, _ in before.values()]
    assert all(np.isfinite(value).all() for value in after)
    assert any(
        np.any(value != old)
        for value, (_, old) in zip(after, before.values(), strict=True)
    )


def test_a_step_that_overflows_is_not_taken():
    model = entropy_keras.EntropyModel.from_model(
        keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    )
    model.compile(
        entropy_keras.SharpnessAware(0.0, learning_rate=3e38), loss="mse"
    )
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match="The result of the outer"):
        model.train_on_batch(np.full([4, 1], 10.0), np.zeros([4, 1]))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrap", [list, keras.callbacks.CallbackList])
def test_an_epoch_that_failed_is_not_done_and_its_files_train_on(
    tmp_path, wrap, monkeypatch
):
    monkeypatch.setattr(guard, "_PERIOD", 1e9)  # it looks at the end alone
    bad, good = np.full([40, 2], np.nan), np.ones([40, 2])
    model = entropy_keras.EntropyModel.from_model(
        keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    )
    model.compile(entropy_keras.EntropySGD(seed=0), loss="mse")
    done = entropy_keras.callbacks.Checkpoint(tmp_path / "done.npz")
    every = keras.callbacks.ModelCheckpoint(tmp_path / "m.keras", save_freq=1)
    arguments = {"batch_size": 8, "verbose": 0}
    callbacks = wrap([done, every])
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.set_model(model)
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        model.fit(bad, bad[:, :1], callbacks=callbacks, **arguments)
    assert done.restore(model) == 0 == len(done.rows)
    saved = keras.models.load_model(tmp_path / "m.keras")
    assert int(saved.optimizer.failure) == guard.LOSS  # in the midst of it
    for each in (model, saved):
        each.fit(good, good[:, :1], callbacks=[done], **arguments)
        assert int(each.optimizer.failure) == guard.FINE
        assert int(each.optimizer.iterations) == 1


def test_nothing_is_written_until_the_host_has_seen_a_failure():
    x = np.ones([40, 1], "float32")
    x[7] = np.nan  # in the second of ten updates
    model = entropy_keras.EntropyModel.from_model(
        keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    )
    model.compile(
        entropy_keras.SharpnessAware(0.0, learning_rate=0.1), loss="mse"
    )
    seen = []

    class Watcher(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_weights()[0].item())

    with pytest.raises(FloatingPointError, match="at update 1"):
        model.fit(
            x, x, batch_size=4, shuffle=False, verbose=0, callbacks=[Watcher()]
        )
    # The host learned of it at the end of the epoch, at no cost.
    assert len(seen) == 10
    assert len(set(seen)) == 1
    model.fit(x[8:], x[8:], batch_size=4, verbose=0)
    assert model.get_weights()[0].item() != seen[0]


def test_training_stops_within_an_epoch(monkeypatch):
    monkeypatch.setattr(guard, "_PERIOD", 0.0)
    inputs = keras.Input([3])
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile(entropy_keras.EntropySGD(seed=0), "mse")
    begun = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begun.append(batch)
    )
    x = np.full([40, 3], np.nan, "float32")
    with pytest.raises(FloatingPointError):
        model.fit(x, x[:, :1], batch_size=1, verbose=0, callbacks=[count])
    assert len(begun) == 1
