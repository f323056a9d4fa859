"""The explicit Hessian: right, resumable, and refused where it cannot be."""

import json
import re

import keras
import numpy as np
import psutil
import pytest
import quadratic

from entropy_keras import landscape
from entropy_keras.landscape import hessian

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def problem():
    """A convolutional network, with max pooling, and 30 samples."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input([8, 8, 1]),
        keras.layers.Conv2D(2, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(7, "tanh"),
        keras.layers.Dense(3),
    ])
    rng = np.random.default_rng(0)
    images = rng.normal(size=[30, 8, 8, 1]).astype("float32")
    return model, (images, rng.integers(0, 3, 30))


@pytest.fixture(scope="module")
def naive(problem):
    """The same matrix, product by product."""
    operator = landscape.hessian_operator(*problem, LOSS)
    return operator @ np.eye(operator.shape[0], dtype="float32")


@pytest.mark.parametrize("columns_at_once", [None, 5])
def test_blocks_equal_products(problem, naive, columns_at_once):
    # 13 leaves a ragged last batch.
    matrix = landscape.hessian_matrix(
        *problem,
        LOSS,
        columns_at_once=columns_at_once,
        batch_size=13,
        verbose=0,
    )
    np.testing.assert_allclose(matrix, naive, atol=1e-6 * np.abs(naive).max())
    np.testing.assert_array_equal(matrix, matrix.T)


def test_recurrent_network():
    # Its gradients loop, so they cannot be vectorized.
    model = keras.Sequential([
        keras.Input([3, 2]),
        keras.layers.SimpleRNN(2, use_bias=False),
        keras.layers.Dense(3, use_bias=False),
    ])
    rng = np.random.default_rng(0)
    data = rng.normal(size=[6, 3, 2]), rng.integers(0, 3, 6)
    matrix = landscape.hessian_matrix(model, data, LOSS, verbose=0)
    operator = landscape.hessian_operator(model, data, LOSS)
    vector = rng.normal(size=len(matrix)).astype("float32")
    np.testing.assert_allclose(matrix @ vector, operator @ vector, atol=1e-6)


def test_mirror_by_tiles():
    full = np.arange(49.0).reshape(7, 7)
    full += full.T
    matrix = np.triu(full)
    hessian._mirror(matrix, size=3)
    np.testing.assert_array_equal(matrix, full)


def test_announces_time_and_size(problem, capsys):
    landscape.hessian_matrix(*problem, LOSS, verbose=1)
    announced = capsys.readouterr().out
    assert re.search(
        r"Hessian: 177 columns to compute, 0\.00 GB, about \d+\.\d minutes",
        announced,
    )
    assert "177/177" in announced


class _KilledError(Exception):
    pass


def test_interrupted_assembly_goes_on(problem, naive, tmp_path, monkeypatch):
    path = tmp_path / "hessian.npy"
    record = hessian._ProgressFile.record

    def die_at_the_third(self, matrix, done):
        if done == 3:
            raise _KilledError
        record(self, matrix, done)

    monkeypatch.setattr(hessian._ProgressFile, "record", die_at_the_third)
    with pytest.raises(_KilledError):
        landscape.hessian_matrix(*problem, LOSS, path=path, verbose=0)
    monkeypatch.undo()
    assert json.loads(path.with_suffix(".json").read_text())["done"] == 2

    begun = []
    columns = hessian._Block.columns
    monkeypatch.setattr(
        hessian._Block,
        "columns",
        lambda self, first: begun.append(self.index) or columns(self, first),
    )
    matrix = landscape.hessian_matrix(*problem, LOSS, path=path, verbose=0)
    np.testing.assert_allclose(matrix, naive, atol=1e-6 * np.abs(naive).max())
    assert set(begun) == {2, 3, 4, 5}
    assert isinstance(matrix, np.memmap)

    # A finished file is not computed again, whatever the batches.
    begun.clear()
    again = landscape.hessian_matrix(
        *problem, LOSS, path=path, batch_size=7, verbose=0
    )
    np.testing.assert_array_equal(again, matrix)
    assert not begun


@pytest.mark.parametrize("other", ["weights", "data", "loss"])
def test_path_of_another_hessian_is_refused(problem, tmp_path, other):
    model, (images, labels) = problem
    path = tmp_path / "hessian.npy"
    landscape.hessian_matrix(model, (images, labels), LOSS, path=path)
    loss = LOSS
    if other == "weights":
        model = keras.models.clone_model(model)
    elif other == "data":
        images = images * 2
    else:
        loss = keras.losses.SparseCategoricalCrossentropy()
    with pytest.raises(ValueError, match=r"`path` must be new, or of the same"):
        landscape.hessian_matrix(model, (images, labels), loss, path=path)


def test_file_of_something_else_is_refused(problem, tmp_path):
    path = tmp_path / "hessian.npy"
    path.write_text("mine")
    with pytest.raises(ValueError, match="`path` must be new"):
        landscape.hessian_matrix(*problem, LOSS, path=path)
    assert path.read_text() == "mine"


def test_what_does_not_fit_is_refused(problem, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ValueError, match=r"`path` must be a file: .* GB"):
        landscape.hessian_matrix(*problem, LOSS)


@pytest.mark.parametrize("value", [0, 1.5, "many"])
def test_columns_at_once_is_checked(problem, value):
    with pytest.raises(ValueError, match="`columns_at_once` must be None or"):
        landscape.hessian_matrix(*problem, LOSS, columns_at_once=value)


def test_columns_that_are_wrong_are_refused(monkeypatch):
    right = hessian._Block.columns
    monkeypatch.setattr(
        hessian._Block,
        "columns",
        lambda self, first: 1.1 * right(self, first),
    )
    with pytest.raises(ValueError, match="vectorizes right"):
        landscape.hessian_matrix(*quadratic.Regression().arguments, verbose=0)
