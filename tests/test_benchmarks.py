"""The commands under benchmarks/ run, and count what they say they count."""

import json
import subprocess
import sys

import pytest

from benchmarks import scaling


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_python_without_pytorch_is_refused():
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.pytorch", "--torch_python=false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Received: torch_python=false" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_an_update_allocates_little_beyond_what_it_needs(tmp_path):
    path = tmp_path / "memory.json"
    subprocess.run(
        [
            sys.executable, "-m", "benchmarks.memory",
            "--network=small_mnistfc", f"--output={path}",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    rows = json.loads(path.read_text())["memory"]
    # Position, mean and gradient, and with momentum the velocity.
    assert 3.0 <= rows["without momentum"]["weight_sized_tensors"] < 3.3
    assert 4.0 <= rows["with momentum"]["weight_sized_tensors"] < 4.4
