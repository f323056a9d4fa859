"""The commands under benchmarks/ run, and count what they say they count."""

import subprocess
import sys

import pytest

from benchmarks import memory
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


def test_memory_is_that_of_the_largest_program(tmp_path):
    line = "  9MiB( 9%);  1MiB; allocation 1: size {}, preallocated-temp:\n"
    for name, size in (("a", "800B"), ("b", "1.50MiB"), ("c", "20.00KiB")):
        path = tmp_path / f"{name}-memory-usage-report.txt"
        path.write_text("Total bytes used: 9\n" + line.format(size))
    (tmp_path / "other.txt").write_text(line.format("9GiB"))
    assert memory.temporary_bytes(tmp_path) == 1.5 * 2**20


def test_a_folder_without_reports_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`folder` must hold a memory usage"):
        memory.temporary_bytes(tmp_path)
