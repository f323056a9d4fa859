"""The training binary and what it stands on."""

import csv
import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape
from entropy_keras.landscape import products
from trainers import compare_runs
from trainers import config as config_lib
from trainers import data
from trainers import networks
from trainers import optimizers
from trainers import training

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Returns a small set of images whose class is where they are bright."""
    path = tmp_path_factory.mktemp("data") / "small.npz"

    def images(labels):
        noise = RNG.integers(0, 60, size=[len(labels), 28, 28])
        for image, label in zip(noise, labels, strict=True):
            image[8 * label : 8 * label + 8] += 120
        return noise.astype("uint8")

    y_train, y_test = RNG.integers(0, 3, 90), RNG.integers(0, 3, 30)
    np.savez(
        path,
        x_train=images(y_train),
        y_train=y_train,
        x_test=images(y_test),
        y_test=y_test,
    )
    return str(path)


def config_for(npz, **changes):
    return config_lib.Config(
        npz=npz,
        network="small_mnistfc",
        width=0.25,
        epochs=3,
        batch_size=8,
        **changes,
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small_mnistfc", 50_890),  # 784 * 64 + 64 + 64 * 10 + 10
        ("small_lenet", 47_658),  # as section 5.1 of the paper says
        ("mnistfc", 1_863_690),
        ("lenet", 431_220),
        ("all_cnn_bn", 1_372_254),
    ],
)
def test_networks_have_the_parameters_they_state(name, count):
    model = networks.build(name)
    assert sum(v.value.numpy().size for v in model.trainable_variables) == count
    assert model.output_shape == (None, 10)
    assert f"{count:,}" in networks.build.__doc__


def test_all_cnn_bn_is_all_cnn_c_with_batch_normalization():
    layers = networks.build("all_cnn_bn").layers
    channels = [
        layer.filters
        for layer in layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert channels == [96, 96, 96, 192, 192, 192, 192, 192, 10]
    norms = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 9


def test_char_lstm_has_the_parameters_of_the_paper():
    model = networks.build("char_lstm")
    counts = {
        v.path.split("/", 2)[-1]: v.value.numpy().size
        for v in model.trainable_variables
    }
    assert counts == {
        "initial_hidden_state": 48,
        "initial_cell_state": 48,
        "lstm/lstm_cell/kernel": 96 * 4 * 48,
        "lstm/lstm_cell/recurrent_kernel": 48 * 4 * 48,
        "lstm/lstm_cell/bias": 4 * 48,
        "kernel": 48 * 96,
        "bias": 96,
    }
    assert sum(counts.values()) == 32_640
    assert "32,640" in networks.build.__doc__
    assert model.output_shape == (None, None, 96)


def test_char_lstm_is_an_lstm_of_one_hot_vectors_from_its_initial_state():
    model = networks.build("char_lstm", 5, width=0.1)
    layer = model.layers[0]
    weights = [RNG.normal(size=w.shape) for w in layer.weights]
    layer.set_weights(weights)
    hidden, cell, kernel, recurrent, bias = weights
    symbols = RNG.integers(0, 5, [2, 7])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    outputs = []
    for symbol in symbols.T:
        z = kernel[symbol] + hidden @ recurrent + bias
        i, f, g, o = np.split(z, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    np.testing.assert_allclose(
        layer(symbols), np.stack(outputs, axis=1), atol=1e-5
    )


def test_char_lstm_has_hessian_products():
    model = networks.build("char_lstm", 4, width=0.1)
    x = RNG.integers(0, 4, [8, 6])
    objective = landscape.Objective(
        model,
        (x[:, :-1], x[:, 1:]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    vector = tf.constant(RNG.normal(size=objective.num_parameters), tf.float32)
    position = objective.position()
    product = products.hessian_product(objective)(position, vector)
    step = 1e-2
    difference = objective.gradient(position + step * vector)
    difference -= objective.gradient(position - step * vector)
    np.testing.assert_allclose(product, difference / (2 * step), atol=1e-3)
    # The learned initial state, which comes first, is part of it.
    assert np.abs(product[:10]).max() > 1e-2


def test_width_scales_a_network():
    assert networks.build("mnistfc", width=0.5).layers[1].units == 512


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="`name` must be one of"):
        networks.build("resnet")


def test_digits_are_split_by_class_and_seed():
    first, again = data.load("digits", seed=1), data.load("digits", seed=1)
    other = data.load("digits", seed=2)
    assert first.train.images.shape == (4000, 28, 28, 1)
    assert np.bincount(first.test.labels).tolist() == [100] * 10
    assert (first.test.images == again.test.images).all()
    assert (first.test.images != other.test.images).any()
    assert first.train.images.min() == 0
    assert first.train.images.max() == 1
    train = {image.tobytes() for image in first.train.images}
    assert not any(image.tobytes() in train for image in first.test.images)


def test_validation_comes_out_of_the_training_set(npz):
    whole = data.load("digits")
    split = data.load("digits", validation_fraction=0.2)
    assert len(split.validation.labels) == 800
    assert len(split.train.labels) == 3200
    assert (split.test.images == whole.test.images).all()


def test_a_text_becomes_sequences_and_what_follows(tmp_path):
    path = tmp_path / "text"
    path.write_text("é\t~\n" + "".join(chr(32 + i) for i in range(95)) + "abcd")
    split = data.load_text(
        str(path), sequence_length=5, validation_fraction=0.25
    )
    assert split.num_classes == 96
    parts = [split.train, split.validation, split.test]
    assert [part.images.shape for part in parts] == [(14, 5), (4, 5), (2, 5)]
    inputs, labels = (
        np.concatenate([part[i] for part in parts]).ravel() for i in (0, 1)
    )
    # What is not among the symbols is a space.
    codes = [0, 0, 94, 95, *range(95), 65, 66]
    assert inputs.tolist() == codes[:-1]
    assert labels.tolist() == codes[1:]


def test_an_epoch_order_is_a_function_of_seed_and_epoch():
    split = data.Split(np.zeros([10, 1, 1, 1]), np.arange(10))

    def labels(seed, epoch):
        order = data.EpochOrder(split, 3, seed)
        order.on_epoch_begin(epoch)
        return [y.numpy().tolist() for _, y in order.dataset]

    first = labels(0, 0)
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert sorted(sum(first, [])) == list(range(10))
    assert labels(0, 0) == first
    assert labels(0, 1) != first
    assert labels(1, 0) != first


def test_a_run_writes_what_it_promises(npz, tmp_path, capsys):
    workdir = tmp_path / "run"
    metrics = training.train_and_evaluate(config_for(npz), workdir)
    assert json.loads((workdir / "metrics.json").read_text()) == metrics
    # 90 samples are 12 mini-batches of 8, hence 3 updates of 5 in each of 3
    # epochs.
    assert metrics["updates"] == 9
    assert metrics["gradient_evaluations"] == 45
    assert metrics["test_accuracy"] > 0.9
    assert metrics["train_loss"] < 0.7
    assert metrics["seconds"] > 0
    config = json.loads((workdir / "config.json").read_text())
    assert config["batch_size"] == 8
    assert config["versions"]["keras"] == keras.__version__
    with (workdir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss", "val_accuracy", "gradient_evaluations"} <= set(rows[0])
    last = rows[-1]
    assert capsys.readouterr().out.splitlines()[-1] == (
        "pass 3 of 3: 45 of 45 gradients, 0:00:00 left, "
        f"loss {float(last['loss']):.4f}, "
        f"held-out error {100 - 100 * float(last['val_accuracy']):.2f} %"
    )
    read = compare_runs.read(workdir)
    assert read.metrics == metrics
    assert read.history[-1] == {k: float(v) for k, v in last.items()}
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((workdir / "logs").glob("train/events*"))
    loaded = keras.models.load_model(workdir / "model.keras")
    x = np.load(npz)["x_test"][..., np.newaxis].astype("float32") / 255
    saved = tf.saved_model.load(str(workdir / "saved_model"))
    np.testing.assert_allclose(saved.serve(x), loaded(x), atol=1e-5)
    # A finished run is not trained again.
    assert training.train_and_evaluate(config_for(npz), workdir) == metrics


def test_char_lstm_learns_a_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("ab" * 800)
    config = config_lib.Config(
        text=str(path),
        network="char_lstm",
        width=0.25,
        epochs=3,
        batch_size=2,
        validation_fraction=0.2,
    )
    metrics = training.train_and_evaluate(config, tmp_path / "run")
    # 49 sequences of 32: 5 for the test, 9 for validation.
    assert metrics["updates"] == 12
    assert metrics["validation_loss"] < 1
    assert metrics["test_accuracy"] > 0.9
    loaded = keras.models.load_model(tmp_path / "run" / "model.keras")
    x = RNG.integers(0, 96, [3, 50])
    saved = tf.saved_model.load(str(tmp_path / "run" / "saved_model"))
    np.testing.assert_allclose(
        saved.serve(x.astype("int32")), loaded(x), atol=1e-5
    )


@pytest.mark.parametrize("name", [n for n in optimizers.NAMES if n != "adamw"])
def test_baselines_make_one_update_per_gradient(npz, tmp_path, name):
    config = config_for(npz, optimizer=name)
    metrics = training.train_and_evaluate(config, tmp_path)
    per_update = {
        "entropy_sgd": 5, "entropy_adam": 5, "sharpness_aware": 2,
    }.get(name, 1)  # fmt: skip
    assert metrics["gradient_evaluations"] == metrics["updates"] * per_update
    assert metrics["test_accuracy"] > 0.5


def test_epochs_of_updates_are_longer_by_the_gradients_of_an_update(
    npz, tmp_path
):
    config = config_for(npz, epoch_unit="updates", num_langevin_steps=2)
    config = dataclasses.replace(config, epochs=1)
    metrics = training.train_and_evaluate(config, tmp_path)
    # As many updates as mini-batches: 12, of 2 gradients each.
    assert metrics["updates"] == 12
    assert metrics["gradient_evaluations"] == 24


def test_a_run_resumes_exactly(npz, tmp_path):
    config = config_for(
        npz, temperature=1e-6, momentum=0.5, scope_growth=0.1, maximum_scope=1.0
    )
    config = dataclasses.replace(config, network="lenet", width=0.1)
    whole = training.prepare(config, tmp_path / "whole")
    training.finish(whole)

    stopped = training.prepare(config, tmp_path / "stopped")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    on_epoch_end = stopped.checkpoint.on_epoch_end

    def save_and_stop(epoch, logs=None):
        on_epoch_end(epoch, logs)
        Stop().on_epoch_end(epoch)

    stopped.checkpoint.on_epoch_end = save_and_stop
    with pytest.raises(KeyboardInterrupt):
        training.finish(stopped)
    model = stopped.model
    variables = {id(v) for v in model.variables + model.optimizer.variables}
    with np.load(stopped.checkpoint.path) as arrays:
        assert len(arrays.files) == len(variables) + 1  # none twice, and rows

    resumed = training.prepare(config, tmp_path / "stopped")
    assert len(resumed.checkpoint.rows) == 2
    training.finish(resumed)
    for a, b in zip(
        whole.model.variables, resumed.model.variables, strict=True
    ):
        assert (a.numpy() == b.numpy()).all(), a.path
    for name in ("loss", "val_loss", "gradient_evaluations"):
        assert [r[name] for r in whole.checkpoint.rows] == [
            r[name] for r in resumed.checkpoint.rows
        ]


def test_another_configuration_is_refused(npz, tmp_path):
    training.prepare(config_for(npz), tmp_path)
    with pytest.raises(ValueError, match="'seed': 0"):
        training.prepare(config_for(npz, seed=1), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "all_cnn_bn"}, "`network` must take samples"),
        ({"npz": "missing.npz"}, "`npz` must be a file"),
        ({"text": "missing.txt"}, "`text` must be given without `npz`"),
        ({"npz": None, "text": "missing.txt"}, "`text` must be a file"),
        ({"network": "char_lstm"}, "`network` must take samples"),
        ({"npz": None, "dataset": "no_such_set"}, "`dataset` must be"),
        ({"scope": 100.0}, "`langevin_learning_rate` times `scope`"),
        ({"maximum_scope": 0.1}, "`maximum_scope` must be left out without"),
        ({"step_factor": 2.0}, "`step_factor` must be left out without sched"),
        ({"npz": None, "standardized": True}, "`standardized` must be left"),
    ],
)
def test_a_bad_configuration_is_refused(npz, tmp_path, changes, message):
    config = dataclasses.replace(config_for(npz), **changes)
    with pytest.raises(ValueError, match=message):
        training.prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_without_its_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", x_train=np.zeros([2, 28, 28]))
    with pytest.raises(ValueError, match=r"without \['y_train'"):
        data.load("digits", npz=str(tmp_path / "bad.npz"))


def test_a_text_that_is_too_short_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_text("x" * 64)
    with pytest.raises(ValueError, match="at least 65 characters"):
        data.load_text(str(path))
    path.write_text("x" * 65)
    assert len(data.load_text(str(path)).train.labels) == 1


def run_binary(*flags):
    return subprocess.run(
        [sys.executable, "-m", "trainers.train", *flags],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_binary_trains(npz, tmp_path):
    result = run_binary(
        f"--npz={npz}",
        f"--workdir={tmp_path}",
        "--network=small_mnistfc",
        "--epochs=1",
        "--averaging_rate=0",
        "--langevin_learning_rate=0",
    )
    assert result.returncode == 0, result.stderr
    assert '"test_accuracy"' in result.stdout
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["averaging_rate"] == 0
    assert config["langevin_learning_rate"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--scope=-1", "flag --scope=-1"),
        ("--scope=100", "error: `langevin_learning_rate` times `scope`"),
        *(
            pytest.param(flag, message, marks=pytest.mark.nightly)
            for flag, message in (
                ("--strategy=multi_worker", "error: `strategy` must be 'no"),
                ("stray", "error: all arguments are flags. Received: ['stra"),
            )
        ),
    ],
)
def test_the_binary_refuses_with_a_sentence(tmp_path, flag, message):
    result = run_binary(flag, f"--workdir={tmp_path / 'run'}")
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_each_class_has_samples_in_both_parts(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, [16, 8, 8]).astype("uint8")
    y = np.repeat([0, 1, 2], [4, 2, 10])
    path = tmp_path / "few.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    for fraction in (0.05, 0.9):
        loaded = data.load(
            "", npz=str(path), validation_fraction=fraction, seed=0
        )
        for part in (loaded.train, loaded.validation):
            assert set(part.labels) == {0, 1, 2}
    assert len(data.load("", npz=str(path), seed=0).validation.labels) == 0


def test_results_without_their_weights_are_refused(npz, tmp_path):
    run = training.prepare(config_for(npz), tmp_path)
    metrics = training.finish(run)
    assert training.finish(training.prepare(run.config, tmp_path)) == metrics
    (tmp_path / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match=r"a run with its checkpoint\.npz"):
        training.finish(training.prepare(run.config, tmp_path))
