"""A run killed again and again equals one that is left alone."""

import multiprocessing
import pathlib
import random
import time

import numpy as np
import pytest

from trainers import config
from trainers import training

EPOCHS = 50


def make_config(npz):
    return config.Config(
        npz=npz,
        network="lenet",
        width=0.1,
        epochs=EPOCHS,
        batch_size=4,
        temperature=1e-6,
        scope_growth=0.01,
        maximum_scope=1.0,
    )


def train(npz, workdir):
    training.train_and_evaluate(make_config(npz), workdir)


def values(workdir):
    with np.load(pathlib.Path(workdir) / "checkpoint.npz") as arrays:
        return {n: arrays[n] for n in arrays.files if n != "rows"}


@pytest.mark.nightly
def test_kills_at_random_moments_change_nothing(tmp_path):
    num_kills = 20
    rng = np.random.default_rng(0)
    npz = str(tmp_path / "data.npz")
    np.savez(
        npz,
        x_train=rng.integers(0, 255, [60, 28, 28], "uint8"),
        y_train=rng.integers(0, 2, 60),
        x_test=rng.integers(0, 255, [8, 28, 28], "uint8"),
        y_test=rng.integers(0, 2, 8),
    )
    # Each process is forked from one that has imported TensorFlow, not used it.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["trainers.training"])

    def start(workdir):
        process = processes.Process(target=train, args=(npz, workdir))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0

    checkpoint = tmp_path / "killed" / "checkpoint.npz"

    def stamp():
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    moments = random.Random(0)
    stamps = set()
    for kill in range(num_kills):
        process = start(tmp_path / "killed")
        if kill % 2 == 0:  # while it trains or saves, else while it starts
            before = stamp()
            while stamp() == before and process.is_alive():
                time.sleep(0.01)
        process.join(moments.uniform(0.0, 3.0 if kill % 2 else 0.6))
        assert process.is_alive(), "the run must outlast its killers"
        process.kill()
        process.join()
        stamps.add(stamp())
    assert len(stamps) >= (num_kills + 1) // 2
    last = start(tmp_path / "killed")
    last.join()
    assert last.exitcode == 0

    expected = values(tmp_path / "whole")
    actual = values(tmp_path / "killed")
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert (value == actual[name]).all(), name
