"""Workers of one command: one that is killed ends all, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

EPOCHS = 12


def launch(workdir):
    return subprocess.Popen(
        [
            sys.executable,
            *("-m", "trainers.launch", "--workers=2", "--"),
            *(f"--epochs={EPOCHS}", "--network=small_mnistfc"),
            *("--temperature=1e-6", f"--workdir={workdir}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def worker_of(process, index):
    """Returns the process number of a worker."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(listed.stdout.split()[index])


def values(workdir):
    with np.load(workdir / "checkpoint.npz") as arrays:
        return {n: arrays[n] for n in arrays.files if n != "rows"}


@pytest.mark.nightly
def test_a_killed_worker_ends_all_and_a_restart_loses_nothing(tmp_path):
    whole = launch(tmp_path / "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output[-3000:]

    checkpoint = tmp_path / "killed" / "checkpoint.npz"
    moments = random.Random(0)
    for kill in range(5):
        process = launch(tmp_path / "killed")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        if kill:  # the first of them while they start
            while not checkpoint.exists() or (
                checkpoint.stat().st_mtime_ns == before
            ):
                assert process.poll() is None
                time.sleep(0.01)
        time.sleep(moments.uniform(0.1, 3.0 if not kill else 0.2))
        os.kill(worker_of(process, kill % 2), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert output.splitlines()[-1].startswith("error: worker "), output
        assert "goes on from its last checkpoint" in output.splitlines()[-1]
    last = launch(tmp_path / "killed")
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output[-3000:]

    expected, actual = (values(tmp_path / n) for n in ("whole", "killed"))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_one_worker_is_refused():
    result = subprocess.run(
        [sys.executable, "-m", "trainers.launch", "--workers=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode
    assert "--workers=1" in result.stderr
