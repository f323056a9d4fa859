"""The commands under benchmarks/ run, and count what they say they count."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from scipy.sparse.linalg import aslinearoperator

from benchmarks import baselines
from benchmarks import common
from benchmarks import communication
from benchmarks import curvature_problem
from benchmarks import curvature_tools
from benchmarks import scaling
from entropy_keras import samplers


def run(module, path, *arguments):
    """Runs a benchmark and returns what it wrote."""
    subprocess.run(
        [sys.executable, "-m", module, f"--output={path}", *arguments],
        check=True,
        capture_output=True,
    )
    return json.loads(path.read_text())


def test_sam_takes_the_gradient_uphill():
    x = np.array([[1.0, 2.0], [-0.5, 1.0], [2.0, 0.0]], "float32")
    y = np.array([[1.0], [0.0], [-1.0]], "float32")
    inputs = keras.Input([2])
    dense = keras.layers.Dense(1, use_bias=False)
    model = baselines.SAMModel(inputs, dense(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    weights = dense.kernel.numpy()

    def gradient(at):
        return 2 / 3 * x.T @ (x @ at - y)

    first = gradient(weights)
    uphill = weights + 0.05 * first / np.linalg.norm(first)
    model.fit(x, y, batch_size=3, verbose=0)
    np.testing.assert_allclose(
        dense.kernel.numpy(), weights - 0.1 * gradient(uphill), rtol=1e-5
    )


def test_weights_are_laid_out_as_pytorch_has_them():
    rng = np.random.default_rng(0)
    model = keras.Sequential([
        keras.Input([4, 5, 2]),
        keras.layers.Conv2D(3, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
    ])
    arrays = [rng.normal(size=v.shape) for v in model.trainable_variables]
    filters, _, kernel, bias = curvature_problem.as_torch(model, arrays)
    assert filters[2, 1, 0, 2] == pytest.approx(arrays[0][0, 2, 1, 2])
    image = rng.normal(size=[2, 3, 3])
    np.testing.assert_allclose(
        kernel @ image.transpose(2, 0, 1).ravel(),
        image.ravel() @ arrays[2],
        rtol=1e-5,
    )
    np.testing.assert_allclose(bias, arrays[3], rtol=1e-6)

    model = curvature_problem.transformer()
    arrays = [rng.normal(size=v.shape) for v in model.trainable_variables]
    found = curvature_problem.as_torch(model, arrays)
    x, heads = rng.normal(size=64), rng.normal(size=[4, 16])
    query, output = arrays[1], arrays[7]
    np.testing.assert_allclose(
        found[1] @ x, np.einsum("d,dhk->hk", x, query).ravel(), atol=1e-4
    )
    np.testing.assert_allclose(
        found[7] @ heads.ravel(),
        np.einsum("hk,hkd->d", heads, output),
        atol=1e-4,
    )


def test_what_the_tools_need_is_found_from_a_known_spectrum():
    eigenvalues = np.r_[np.full(2000, 0.01), 5.0, 10.0]
    operator = aslinearoperator(np.diag(eigenvalues))
    truth = eigenvalues.sum()  # 35
    # Random signs see no error of a diagonal.
    assert curvature_tools.signs_for(operator, truth, 0.02) == 0
    assert curvature_tools.products_for(operator, truth, 0.02) == 12
    assert curvature_tools.steps_for(operator, np.array([10.0, 5.0]), 1e-3) == 3
    found = curvature_tools.errors_of(
        "trace", [[30.0, 40.0], [39.0, 31.5]], {"trace": [35.0]}
    )
    assert found == {"trace": pytest.approx(0.25 / 35 / 2**0.5, abs=1e-6)}
    found = curvature_tools.errors_of(
        "eigenvalues", [[9.0, 5.0]], {"eigenvalues": [10.0, 5.0]}
    )
    assert found == {"values": 0.1}


def test_outputs_are_refused_at_once_where_nothing_can_be_written(tmp_path):
    defined = flags.FlagValues()
    file = tmp_path / "file"
    file.touch()
    for define, wrong, fits in (
        (common.output_file, [tmp_path, tmp_path / "no/file"], [file, ""]),
        (common.output_folder, [file], [tmp_path, tmp_path / "new", ""]),
    ):
        define(flag_values=defined)
        for path in fits:
            defined(["command", f"--output={path}"])
        for path in wrong:
            with pytest.raises(flags.IllegalFlagValueError, match="output="):
                defined(["command", f"--output={path}"])
        del defined.output


def test_gradients_alone_return_their_mean():
    anchor = tf.constant([1.0, -2.0])
    setting = samplers.Setting(tf.constant(0.1), tf.constant(0.0))
    position, state = baselines.GradientsAlone().move(
        anchor + 3.0, tf.constant([4e5, -1e5]), anchor, None, (), setting
    )
    np.testing.assert_allclose(position, [0.6, -1.9], rtol=1e-6)
    assert state == ()


@pytest.mark.nightly
def test_gradient_time_relates_all_to_the_better_sgd(tmp_path):
    tables = run(
        "benchmarks.gradient_time", tmp_path / "times.json",
        "--jit_compile=off", "--jit_compile=auto", "--rounds=3", "--updates=2",
        "--epochs=1", "--batch_size=2",
    )["time_per_gradient_over_sgd"]  # fmt: skip
    assert list(tables) == ["2"]
    rows = tables["2"]
    assert len(rows) == 14
    sgd = [rows[f"sgd, jit={jit}"] for jit in ("off", "auto")]
    assert min(row["smallest"] for row in sgd) == 1.0
    assert min(row["ratio"] for row in sgd) >= 1.0
    for row in rows.values():
        assert row["smallest"] <= row["ratio"] <= row["largest"]
        assert row["compile_seconds"] > 0 < row["milliseconds"]
    # `fit` makes the variables before it traces.
    assert rows["entropy_sgd, jit=off"]["traces"] == 1
    assert rows["entropy_sgd, diagnostics, jit=off"]["traces"] == 1


@pytest.mark.nightly
def test_pipeline_relates_inputs_to_ready_groups(tmp_path):
    rows = run(
        "benchmarks.pipeline", tmp_path / "pipeline.json",
        "--network=char_lstm", "--batch_size=2", "--updates=3", "--rounds=3",
    )["time_over_ready_groups"]  # fmt: skip
    assert list(rows) == [
        "ready groups", "mini-batches", "of a known size", "arrays"
    ]  # fmt: skip
    assert rows["ready groups"]["ratio"] == 1.0
    for row in rows.values():
        assert 0 < row["smallest"] <= row["ratio"] <= row["largest"]
        assert row["milliseconds_per_update"] > 0


@pytest.mark.nightly
def test_scaling_times_what_it_says():
    tables = scaling.measure(widths=[4, 6], steps=[1, 3], rounds=3)
    sizes = {
        name: [(row["weights"], row["inner_steps"]) for row in rows]
        for name, rows in tables.items()
    }
    # Two layers of n units have 2 (n**2 + n) weights.
    assert sizes == {
        "weights": [(40, 5), (84, 5)],
        "inner_steps": [(84, 1), (84, 3)],
    }
    for row in tables["weights"] + tables["inner_steps"]:
        # The first update compiles.
        assert 0 < 1e-3 * row["milliseconds"] < row["first_update_seconds"]
        assert row["nanoseconds_per_weight_and_step"] == pytest.approx(
            1e6 * row["milliseconds"] / (row["weights"] * row["inner_steps"])
        )


@pytest.mark.nightly
@pytest.mark.parametrize("benchmark", ["pytorch", "curvature --epochs=0"])
def test_a_python_without_pytorch_is_refused(benchmark):
    module, *rest = f"benchmarks.{benchmark}".split()
    result = subprocess.run(
        [sys.executable, "-m", module, *rest, "--torch_python=false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Received: torch_python=false" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.nightly
def test_an_update_allocates_little_beyond_what_it_needs(tmp_path):
    rows = run(
        "benchmarks.memory", tmp_path / "memory.json", "--network=mnistfc"
    )["memory"]
    # Position, mean and gradient, and with momentum the velocity.
    assert 3.0 <= rows["without momentum"]["weight_sized_tensors"] < 3.1
    assert 4.0 <= rows["with momentum"]["weight_sized_tensors"] < 4.1


@pytest.mark.nightly
def test_the_check_of_a_gpu_runs_without_one(tmp_path):
    rows = run(
        "benchmarks.gpu", tmp_path / "gpu.json", "--updates=4", "--rounds=1"
    )["rows"]
    assert len(rows) == 9
    assert all(row["agrees"] for row in rows)
    assert all(row["host_operations"] == [] for row in rows)


@pytest.mark.nightly
def test_talking_less_is_counted_and_timed(tmp_path):
    subprocess.run(
        [
            sys.executable, "-m", "benchmarks.devices", "--rounds=3",
            "--updates=2", f"--output={tmp_path}",
        ],
        check=True,
    )  # fmt: skip
    found = json.loads((tmp_path / "devices.json").read_text())
    for name, sent in found["sent"].items():
        expected = 6 if "synchronized" in name else 1
        assert sent["collectives_per_update"] == expected
    assert found["sent"]["EntropySGD, K = 20"][
        "bytes_per_gradient"
    ] == pytest.approx(50_890 * 4 / 20, rel=1e-3)


def test_the_efficiency_of_talking_less_by_hand():
    work = communication.Work("", weights=250e6, compute=0.5)
    link = communication.Link("", latency=0.25, bandwidth=1e9)
    # 2 * 3 * 0.25 s of latency, 2 * 3 / 4 * 1e9 bytes in 1.5 s.
    assert communication.all_reduce_seconds(4, 1e9, link) == pytest.approx(3.0)
    assert communication.efficiency(4, 6, work, link) == pytest.approx(0.5)
    assert communication.efficiency(1, 1, work, link) == 1.0


@pytest.mark.nightly
def test_every_sampler_is_timed(tmp_path):
    rows = run(
        "benchmarks.samplers", tmp_path / "samplers.json", "--rounds=3",
        "--updates=1", "--network=small_mnistfc",
    )["time_per_gradient_over_sgld"]  # fmt: skip
    assert rows["sgld"]["ratio"] == 1.0
    for name in samplers.NAMES:
        assert any(row.startswith(name) for row in rows), name
