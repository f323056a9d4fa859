"""What the training program shows: its flags, its progress, runs together."""

import dataclasses
import io
import pathlib
import re
import subprocess
import sys

from matplotlib.figure import Figure

from trainers import compare_runs
from trainers import config as config_lib
from trainers import progress
from trainers import report

ROOT = pathlib.Path(__file__).parent.parent


GROUPS = [
    "Data",
    "Network",
    "Optimizer",
    "Entropy-SGD alone",
    "Training",
    "Output",
]


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"trainers.{program}", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


def test_help_shows_every_flag_once_in_its_group():
    # Not in this process, where flags of other programs may have its names.
    result = run("train", "--help")
    assert result.returncode == 0, result.stderr
    introduction, *parts = re.split(
        r"^(\S.*):$", result.stdout, flags=re.MULTILINE
    )
    assert introduction.startswith("Trains a network of the paper")
    assert parts[::2] == GROUPS
    found = {
        group: re.findall(r"^  --(?:\[no\])?(\w+):", text, re.MULTILINE)
        for group, text in zip(parts[::2], parts[1::2], strict=True)
    }
    fields = [field.name for field in dataclasses.fields(config_lib.Config)]
    assert sorted(sum(found.values(), [])) == sorted([*fields, "workdir"])
    own = [*config_lib.ENTROPY_FIELDS, "scope_growth", "maximum_scope"]
    assert found["Entropy-SGD alone"] == sorted(own)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_that_goes_on_where_a_run_was(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    bar = progress.Progress(gradients_per_update=5)
    bar.set_params({"epochs": 3, "steps": 4})
    shown = []

    def call(method, *arguments):
        method(*arguments)
        shown.append(terminal.getvalue().split("\r")[-1])

    call(bar.on_epoch_begin, 1)
    bar._bar.mininterval, bar._bar.dynamic_miniters = 0, False
    call(bar.on_train_batch_end, 0, {"loss": 0.5})
    bar.on_train_batch_end(3, {"loss": 0.375})
    call(bar.on_epoch_end, 1, {"loss": 0.25, "val_accuracy": 0.875})
    bar.on_epoch_begin(2)
    call(bar.on_train_batch_end, 1, {"loss": 0.125})
    bar.on_train_end()
    steps = [re.search(r" (\d+)/60 \[", text).group(1) for text in shown]
    assert steps == ["20", "25", "40", "50"]
    # Elapsed and left, then the speed, then what was learned.
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d, .* gradients/s, ", shown[1])
    assert shown[1].rstrip().endswith("s, loss 0.5000]")
    assert shown[2].rstrip().endswith("loss 0.2500, held-out error 12.50 %]")
    assert shown[3].rstrip().endswith("loss 0.1250, held-out error 12.50 %]")


def make_run(workdir, accuracy, finished=True, **changes):
    """Writes what a run of two passes leaves behind."""
    workdir.mkdir()
    config = {"network": "lenet", "seed": 0, "data": "0123456789", "clip": None}
    versions = {"keras": changes.pop("keras", "3.15")}
    report.write_json(
        workdir / "config.json", config | changes | {"versions": versions}
    )
    if not finished:
        return workdir
    metrics = {"test_accuracy": accuracy, "test_loss": 0.25}
    costs = {"updates": 6, "gradient_evaluations": 30, "seconds": 1.25}
    report.write_json(workdir / "metrics.json", metrics | costs)
    rows = [
        {"gradient_evaluations": 15 * i, "loss": 1 / i, "accuracy": 0.5}
        | {"val_loss": 2 / i, "val_accuracy": accuracy - 0.25 * (2 - i)}
        for i in (1, 2)
    ]
    report.write_history(workdir / "history.csv", rows)
    return workdir


def test_runs_are_shown_by_what_differs_and_others_by_name(tmp_path):
    first = make_run(tmp_path / "first", 0.75, scope=0.5, keras="3.16")
    best = make_run(tmp_path / "best", 0.875, seed=1, data="abcdefghij")
    # What a later version added and left at `None` is no difference.
    report.write_json(
        best / "config.json",
        report.read_json(best / "config.json") | {"new": None},
    )
    wrong = {
        make_run(tmp_path / "begun", 0.5, finished=False): "is not finished",
        tmp_path / "nothing": "it has no config.json",
        make_run(tmp_path / "other", 0.5): "not a run of `trainers.train`",
        make_run(tmp_path / "damaged", 0.5): "metrics.json is damaged",
        make_run(tmp_path / "cut", 0.5): "no whole history.csv",
    }
    report.write_json(tmp_path / "other" / "config.json", {"seed": 0})
    (tmp_path / "damaged" / "metrics.json").write_text("{")
    (tmp_path / "cut" / "history.csv").write_text("epoch,loss\n1,0.5\n2")
    picture = tmp_path / "curves.png"
    result = run(
        "compare_runs", first, *wrong, best, first, f"--picture={picture}"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "| run | seed | data | keras | scope | test error, % | test loss | "
        "updates | gradients | seconds |",
        "| --- " * 10 + "|",
        "| best | 1 | abcdefgh | 3.15 | – | 12.50 | 0.2500 | 6 | 30 | 1.2 |",
        "| first | 0 | 01234567 | 3.16 | 0.5 | 25.00 | 0.2500 | 6 | 30 | 1.2 |",
    ]
    lines = result.stderr.splitlines()
    assert len(lines) == len(wrong)
    for line, (workdir, why) in zip(lines, wrong.items(), strict=True):
        assert line.startswith("left out: ")
        assert str(workdir) in line
        assert why in line
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_finished_run_is_an_error(tmp_path):
    result = run("compare_runs", tmp_path)
    assert result.returncode == 1
    assert "error: none of the folders is of a finished run" in result.stderr


def test_the_picture_shows_the_curves(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *_, **__: drawn.append(figure)
    )
    runs = [
        compare_runs.read(make_run(tmp_path / name, accuracy))
        for name, accuracy in (("a", 0.75), ("b", 0.5))
    ]
    compare_runs.plot(tmp_path / "curves.png", runs)
    loss, error = (
        [(c.get_linestyle(), *map(list, c.get_data())) for c in axes.lines]
        for axes in drawn[0].axes
    )
    x = [15.0, 30.0]
    assert loss == [(":", x, [1.0, 0.5]), ("-", x, [2.0, 1.0])] * 2
    assert error == [
        (":", x, [50.0, 50.0]), ("-", x, [50.0, 25.0]),
        (":", x, [50.0, 50.0]), ("-", x, [75.0, 50.0]),
    ]  # fmt: skip
    legend = drawn[0].legends[0].get_texts()
    assert [text.get_text() for text in legend] == ["a", "b"]
