"""2 + 2 epochs with a save between equal 4, bit for bit."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=[60, 5]).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
MODES = {
    "eager": {"run_eagerly": True},
    "graph": {},
    "xla": {"jit_compile": True},
}


def functional():
    inputs = keras.Input([5])
    x = keras.layers.Dense(6)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.ReLU()(x))
    return entropy_keras.EntropyModel(inputs, keras.layers.Dense(2)(x))


@keras.saving.register_keras_serializable(package="test_resume")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, "relu")
        self.dropout = keras.layers.Dropout(0.3)
        self.readout = keras.layers.Dense(2)

    def call(self, inputs, training=None):
        x = self.dropout(self.hidden(inputs), training=training)
        return self.readout(x)


def subclassed():
    return entropy_keras.EntropyModel.from_model(Subclassed())


def compiled(make, mode):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(
        entropy_keras.EntropySGD(
            outer_optimizer=keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(0.05, 12)
            ),
            scope=entropy_keras.ExponentialScope(0.1, 0.1, 1.0),
            temperature=1e-5,
            data_weight=0.1,
            seed=4,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **MODES[mode],
    )
    return model


def fit(model, first, last, **arguments):
    model.fit(
        X,
        Y,
        batch_size=4,
        initial_epoch=first,
        epochs=last,
        shuffle=False,
        verbose=0,
        **arguments,
    )


def through_file(model, path, make, mode):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def through_weights(model, path, make, mode):
    model.save_weights(path / "model.weights.h5")
    new = compiled(make, mode)
    new(X[:1])
    new.compile_from_config(model.get_compile_config())
    new.load_weights(path / "model.weights.h5")
    return new


def through_checkpoint(model, path, make, mode):
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    name = saved.save(str(path / "checkpoint"))
    new = compiled(make, mode)
    new(X[:1])
    new.compile(new.optimizer, loss=new.loss, **MODES[mode])
    new.optimizer.build(new.trainable_variables)
    tf.train.Checkpoint(model=new, optimizer=new.optimizer).restore(
        name
    ).assert_existing_objects_matched()
    return new


@functools.cache
def unbroken(make, mode):
    """Returns all variables after four epochs, by path."""
    keras.utils.set_random_seed(0)
    model = compiled(make, mode)
    fit(model, 0, 4)
    return [(v.path, v.numpy()) for v in model.variables]


def assert_same(model, expected):
    assert len(model.variables) == len(expected)
    for variable, (path, value) in zip(model.variables, expected, strict=True):
        assert (variable.numpy() == value).all(), path


WAYS = [through_file, through_weights, through_checkpoint]


CASES = [
    *((functional, way, "graph") for way in WAYS),
    (subclassed, through_file, "graph"),
    *(
        pytest.param(*case, marks=pytest.mark.nightly)
        for case in (
            (functional, through_file, "eager"),
            (functional, through_file, "xla"),
            (subclassed, through_weights, "graph"),
            (subclassed, through_checkpoint, "graph"),
        )
    ),
]


@pytest.mark.parametrize(("make", "way", "mode"), CASES)
def test_two_and_two_epochs_are_four(make, way, mode, tmp_path):
    first = compiled(make, mode)
    fit(first, 0, 2)
    second = way(first, tmp_path, make, mode)
    assert isinstance(second, entropy_keras.EntropyModel)
    assert len(second.optimizer.carried_states) == 1
    fit(second, 2, 4)
    assert_same(second, unbroken(make, mode))


def test_backup_and_restore_goes_on_after_an_interruption(tmp_path):
    first = compiled(functional, "graph")

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(first, 0, 4, callbacks=[Interrupt(), backup])
    second = compiled(functional, "graph")
    second.optimizer.build(second.trainable_variables)
    fit(second, 0, 4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    assert_same(second, unbroken(functional, "graph"))


def test_weights_of_an_entropy_model_load_into_a_plain_one(tmp_path):
    model = compiled(functional, "graph")
    fit(model, 0, 1)
    model.save_weights(tmp_path / "model.weights.h5")
    plain = keras.Model(model.input, model.output)
    other = keras.models.clone_model(plain)
    other.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert (a == b).all()
