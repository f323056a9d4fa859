"""Two processes train one model, as two devices apart and averaged would."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import workers_worker as worker

TOLERANCE = 2e-6


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def workers():
    """Returns what each of the two workers found."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, worker.__file__, "nan"],
            env={
                "PATH": "",
                "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
                "TF_CONFIG": json.dumps({
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def test_workers_agree_exactly(workers):
    assert workers[0] == workers[1]


@pytest.mark.parametrize("name", worker.OPTIMIZERS)
def test_an_update_is_the_average_of_single_devices(workers, name):
    rows = worker.STEPS * worker.SIZE if name == "entropy" else worker.SIZE
    x, y = worker.data(1)
    alone = [
        worker.fit(
            worker.network(name), name, x[start : start + rows],
            y[start : start + rows], worker.SIZE,
        )
        for start in (0, rows)
    ]  # fmt: skip
    start = worker.network(name).get_weights()
    change = 0.0
    for first, second, found, before in zip(
        *alone, workers[0][name]["weights"], start, strict=True
    ):
        mean = (np.array(first) + second) / 2
        np.testing.assert_allclose(found, mean, atol=TOLERANCE)
        change = max(change, np.abs(mean - before).max())
    assert change > 1000 * TOLERANCE


@pytest.mark.parametrize("name", worker.OPTIMIZERS)
def test_evaluate_and_predict_are_those_of_one_process(workers, name):
    model = worker.network(name)
    worker.fit(model, name, *worker.data(1), worker.SIZE)
    found = workers[0][name]
    model.set_weights([np.array(w) for w in found["weights"]])
    x, y = worker.data(2)
    evaluated = model.evaluate(x, y, batch_size=8, verbose=0)
    np.testing.assert_allclose(found["evaluated"], evaluated, rtol=1e-5)
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(found["predicted"], predicted, atol=1e-5)
    changes = [
        np.abs(np.array(a) - b).max()
        for a, b in zip(found["trained"], found["weights"], strict=True)
    ]
    assert max(changes) > 0.01


def test_nan_on_one_worker_stops_all_and_writes_nothing(workers):
    for found in workers:
        assert "not finite" in found["stopped"]
        assert found["kept"]
