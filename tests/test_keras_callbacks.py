"""Keras's own callbacks, with EntropySGD."""

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

import entropy_keras
from entropy_keras import entropy_sgd

X = np.random.default_rng(0).normal(size=[20, 3]).astype("float32")
Y = X @ np.array([[1.0], [-2.0], [0.5]], "float32")
START = [np.array([[0.5], [0.5], [-0.5]], "float32"), np.zeros(1, "float32")]


def compiled(**arguments):
    inputs = keras.Input([3])
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile(
        entropy_keras.EntropySGD(
            0.5, temperature=0.0, seed=0, diagnostics=True, **arguments
        ),
        loss="mse",
    )
    return model


@pytest.fixture(scope="module")
def shared():
    return compiled()


@pytest.fixture
def model(shared):
    restart(shared)
    return shared


def restart(model, weights=START):
    model.set_weights(weights)
    model.optimizer.learning_rate = 0.5


class Recorder(keras.callbacks.Callback):
    """Records the weights and the learning rate after each update."""

    def __init__(self):
        super().__init__()
        self.weights, self.rates = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())
        self.rates.append(float(self.model.optimizer.learning_rate))


def fit(model, *callbacks, epochs=3, **arguments):
    recorder = Recorder()
    arguments = {"x": X, "y": Y, "shuffle": False, "verbose": 0, **arguments}
    # Four samples per gradient, five gradients: one update per epoch.
    history = model.fit(
        batch_size=4,
        epochs=epochs,
        callbacks=[recorder, *callbacks],
        **arguments,
    )
    return recorder, history.history


def assert_trajectory_follows(model, recorder):
    """Without noise each update is the rate times what the start gives."""
    starts = [START, *recorder.weights[:-1]]
    for before, after, rate in zip(
        starts, recorder.weights, recorder.rates, strict=True
    ):
        restart(model, before)
        model.optimizer.learning_rate = 1.0
        model.train_on_batch(X, Y)
        unit = model.get_weights()
        for w0, w1, w in zip(before, after, unit, strict=True):
            np.testing.assert_allclose(w1 - w0, rate * (w - w0), atol=1e-6)


def test_a_scheduler_changes_the_outer_step(model):
    rates = [0.5, 0.25, 0.0]
    recorder, _ = fit(
        model, keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    )
    assert recorder.rates == rates
    assert abs(recorder.weights[1][0] - recorder.weights[0][0]).max() > 1e-3
    assert_trajectory_follows(model, recorder)


def test_a_plateau_lowers_the_outer_step(model):
    # No loss falls by 100, so each epoch but the first is on a plateau.
    recorder, _ = fit(
        model,
        keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=1, min_delta=100.0
        ),
    )
    assert recorder.rates == [0.5, 0.5, 0.25]
    assert_trajectory_follows(model, recorder)


def test_early_stopping_restores_the_outer_weights(model):
    # The loss falls, so for `mode="max"` the first epoch is the best.
    recorder, history = fit(
        model,
        keras.callbacks.EarlyStopping(
            "loss", mode="max", patience=2, restore_best_weights=True
        ),
        epochs=9,
    )
    restored = model.get_weights()
    assert len(history["loss"]) == 3
    assert abs(restored[0] - recorder.weights[-1][0]).max() > 1e-3
    assert_trajectory_follows(model, recorder)
    np.testing.assert_array_equal(restored[0], recorder.weights[0][0])


def test_a_checkpoint_holds_the_outer_weights(model, tmp_path):
    # At learning rate 0 the chain moves and x does not.
    model.optimizer.learning_rate = 0.0
    path = tmp_path / "{batch}.weights.h5"
    _, history = fit(
        model,
        keras.callbacks.ModelCheckpoint(
            path, save_weights_only=True, save_freq=1
        ),
        epochs=1,
    )
    assert history["displacement"][0] > 1e-2
    saved = list(tmp_path.iterdir())
    assert len(saved) == 1
    restart(model, [w + 1 for w in START])
    model.load_weights(saved[0])
    np.testing.assert_array_equal(model.get_weights()[0], START[0])


def test_the_guard_raises_after_terminate_on_nan_has_stopped(model):
    model.stop_training = False
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        fit(model, keras.callbacks.TerminateOnNaN(), x=X * np.nan)
    assert model.stop_training
    np.testing.assert_array_equal(model.get_weights()[0], START[0])


def test_terminate_on_nan_stops_where_the_loss_is_scaled():
    # There the guard leaves the update to Keras's scale of the loss.
    model = compiled()
    restart(model)
    plain = model.optimizer
    model.compile(keras.optimizers.LossScaleOptimizer(plain), loss="mse")
    _, history = fit(
        model, keras.callbacks.TerminateOnNaN(), x=X * np.nan, epochs=4
    )
    assert len(history["loss"]) == 1
    np.testing.assert_array_equal(model.get_weights()[0], START[0])


def test_swapped_weights_are_the_average_of_x():
    model = compiled(use_ema=True, ema_momentum=0.5)
    restart(model)
    evaluated = []
    watcher = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: evaluated.append(
            model.get_weights()
        )
    )
    recorder, _ = fit(
        model,
        keras.callbacks.SwapEMAWeights(),
        watcher,
        validation_data=(X, Y),
        validation_batch_size=20,
    )
    average = recorder.weights[0][0]  # with which Keras begins
    for seen, weights in zip(evaluated, recorder.weights, strict=True):
        average = 0.5 * average + 0.5 * weights[0]
        np.testing.assert_allclose(seen[0], average, atol=1e-6)
    assert abs(evaluated[-1][0] - recorder.weights[-1][0]).max() > 1e-3
    # Each update went on from x, not from the average.
    restart(model, recorder.weights[1])
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(
        model.get_weights()[0], recorder.weights[2][0], atol=1e-6
    )


def test_swapping_without_an_average_is_refused(model):
    with pytest.raises(ValueError, match="Received: use_ema=False"):
        fit(
            model,
            keras.callbacks.SwapEMAWeights(),
            validation_data=(X, Y),
        )


def test_diagnostics_are_in_the_files_of_tensorboard(model, tmp_path):
    _, history = fit(model, keras.callbacks.TensorBoard(tmp_path))
    events = event_accumulator.EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    names = set(history) - {"loss", "val_loss"}
    assert set(entropy_sgd.MEASUREMENTS) < names
    for name in names:
        values = [
            float(tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(f"epoch_{name}")
        ]
        np.testing.assert_allclose(values, history[name], rtol=1e-5)
