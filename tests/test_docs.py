"""What the site says is true: its code runs, its numbers are measured."""

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest

import entropy_keras
from entropy_keras import callbacks
from entropy_keras import landscape
from entropy_keras import presets

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))


def blocks(page, language):
    text = page.read_text()
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=[pytest.mark.nightly] * (p.stem == "devices"))
        for p in PAGES
        if blocks(p, "python")
    ],
    ids=lambda p: p.stem,
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}[{number}]", "exec"), names)


def test_every_block_has_a_language_that_is_looked_at():
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.M)
        assert set(fences[::2]) <= {"python", "bash", "text"}, page.name
        assert set(fences[1::2]) <= {""}, page.name
        for command in blocks(page, "bash"):
            subprocess.run(["bash", "-n", "-c", command], check=True)
        for name in re.findall(
            r"python -m (trainers(?:\.\w+)+)", page.read_text()
        ):
            path = ROOT.joinpath(*name.split("."))
            if path.is_dir():
                path /= "__main__"
            program = path.with_suffix(".py").read_text()
            assert '__name__ == "__main__"' in program, name


def test_the_reference_holds_all_that_is_public():
    text = "".join(p.read_text() for p in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)", text, re.M))
    for module in (entropy_keras, callbacks, presets, landscape):
        for name in module.__all__:
            if callable(getattr(module, name)):
                assert f"{module.__name__}.{name}" in listed


def test_files_that_the_pages_name_exist():
    for page in PAGES:
        for name in re.findall(
            r"`((?:benchmarks|tests|trainers|entropy_keras)/[\w/.]+)`",
            page.read_text(),
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def winners(method):
    results = ROOT / "benchmarks" / "results" / "comparison"
    return [
        winner["values"] | winner["choices"]
        for name in ("mnist_2k", "mnist_2k_50", "mnist_2k_noise",
                     "mnist_2k_noise_50")
        for winner in json.loads((results / f"{name}.json").read_text())[
            "winners"
        ]
        if winner["method"] == method
    ]  # fmt: skip


def test_the_memory_of_long_loops_is_what_was_measured():
    path = ROOT / "benchmarks" / "results" / "long_loops" / "cifar.json"
    rows = json.loads(path.read_text())["rows"]
    page = (DOCS / "devices.md").read_text()
    for row in (r for r in rows if r["dtype"] == "uint8"):
        steps, groups = row["num_langevin_steps"], row["groups_per_update"]
        (floats,) = (
            r
            for r in rows
            if r["dtype"] == "float32"
            and r["num_langevin_steps"] == steps
            and r["groups_per_update"] == groups
        )
        cells = [
            f"{each[part] / 1e6:,.0f} MB"
            for each in (row, floats)
            for part in ("bytes_of_group", "peak_bytes")
        ]
        assert f"| {steps} | {groups} | {' | '.join(cells)} |" in page


def test_the_figures_of_the_paper_are_quoted_as_they_were_found():
    page = (ROOT / "benchmarks" / "README.md").read_text()
    paths = (ROOT / "benchmarks" / "results" / "paper").glob("*/results.json")
    found = [json.loads(path.read_text()) for path in paths]
    assert len(found) >= 3
    for each in found:
        digits = 1 if each.get("measure") == "perplexity" else 2
        for row in each["table"]:
            cell = f"{row['final_error']:.{digits}f}"
            if row["deviation"] is not None:
                cell += f" ± {row['deviation']:.{digits}f}"
            costs = f"{row['updates']:,} | {row['gradient_evaluations']:,}"
            assert f"| {cell} | {costs} |" in page


def test_what_tuned_runs_chose_is_what_they_chose():
    text = (DOCS / "choose.md").read_text()
    cold, warm = winners("entropy_sgd"), winners("entropy_sgd_warm")
    assert len(cold) == len(warm) == 12
    for argument, knob in {
        "`learning_rate`, annealed": "learning_rate",
        "`langevin_learning_rate` |": "step_size",
        "`scope` |": "scope",
        "penalty on the weights |": "weight_decay",
        "`temperature` |": "temperature",
    }.items():
        (row,) = (x for x in text.splitlines() if x.startswith(f"| {argument}"))
        for cell, runs in zip(row.split("|")[3:5], (cold, warm), strict=True):
            if cell.strip():
                values = [run[knob] for run in runs]
                expected = min(values), np.median(values), max(values)
                quoted = [float(x) for x in cell.split(",")]
                np.testing.assert_allclose(quoted, expected, rtol=0.07)
    twenties = [sum(r["num_langevin_steps"] == 20 for r in x) for x in
                (cold, warm)]  # fmt: skip
    assert twenties == [10, 7]
    assert "20 in ten of twelve | 20 in seven of twelve" in text
    decays = [run["weight_decay"] for run in cold]
    steps = [run["step_size"] for run in cold]
    assert sum(0.001 <= decay <= 0.0164 for decay in decays) == 10
    assert sum(0.08 <= step <= 0.175 for step in steps) == 10
    inside = [run["weight_decay"] for run in winners("adam_inside")]
    assert (min(inside), max(inside)) == pytest.approx((0.002, 2.6), rel=0.1)
