"""What the repository says about itself is true."""

import importlib.util
import json
import pathlib
import re

import build_file
import numpy as np
import pytest

import entropy_keras

ROOT = pathlib.Path(__file__).parent.parent


def test_build_states_the_imports():
    assert (ROOT / "BUILD").read_text() == build_file.text()


def test_the_package_imports_nothing_of_the_trainers():
    for path in (ROOT / "entropy_keras").glob("**/*.py"):
        assert "trainers" not in path.read_text()


def test_the_landscape_knows_neither_optimizer_nor_model():
    known = build_file.modules()
    reached, left = set(), {n for n in known if ".landscape" in n}
    while left:
        name = left.pop()
        reached.add(name)
        if name != "entropy_keras":
            left |= build_file.imports(known[name], known) - reached
    machinery = {"model", "update", "entropy_sgd", "multi_gradient", "guard"}
    assert not reached & {f"entropy_keras.{name}" for name in machinery}


def test_all_is_documented():
    for name in entropy_keras.__all__:
        if name != "__version__":
            assert getattr(entropy_keras, name).__doc__


def readme_blocks(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    swap, own = readme_blocks("python")
    names = {}
    exec(compile(swap, "README.md", "exec"), names)
    assert names["model"].optimizer.iterations > 0
    exec(compile(own, "README.md", "exec"), names)
    names["model"].compile(names["Lookahead"](0.5), loss="mse")
    names["model"].fit(names["x"], names["y"][:, None], verbose=0)
    assert names["model"].optimizer.iterations > 0
    assert (tmp_path / "saved_model").is_dir()


def test_readme_quotes_the_evidence():
    results = ROOT / "benchmarks" / "results"
    text = " ".join((ROOT / "README.md").read_text().split())
    found = json.loads((results / "comparison" / "mnist_2k.json").read_text())
    rows = {row["method"]: row for row in found["table"]}
    for name, method in (
        ("AdamW", "adamw"), ("SGD", "sgd"), ("SAM", "sam"),
        ("Entropy-SGD", "entropy_sgd"),
    ):  # fmt: skip
        assert f"{name} {rows[method]['error']:.2f}" in text
        errors = [
            e
            for winner in found["winners"]
            if winner["method"] == method
            for e in winner["test_error"]
        ]
        assert rows[method]["error"] == pytest.approx(np.mean(errors), abs=1e-3)
    entropy = rows["entropy_sgd"]
    behind = (
        f"{entropy['behind_the_best']:.2f} ± {entropy['standard_error']:.2f}"
    )
    assert f"({behind} behind AdamW)" in text
    assert f"untuned {rows['entropy_sgd_defaults']['error']:.2f}" in text
    table = (results / "temperature" / "temperature.md").read_text()
    assert "| noise taken out | 0 | 10 | 8.11" in table
    assert "| noise taken out | 0.03 | 10 | 7.06" in table
    assert "(8.1 to 7.1 % at 0.03" in text


def test_readme_has_two_commands_of_the_environment():
    commands = readme_blocks("bash")
    assert len(commands) == 2
    modules = [
        re.search(r"python -m (\S+)", command.strip()).group(1)
        for command in commands
    ]
    assert modules == ["trainers.train", "pytest"]
    for module in modules:
        assert importlib.util.find_spec(module)


def test_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:entropy_keras|tests)/\w+\.py)`", text):
        assert (ROOT / name).is_file(), name


def test_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "[Unreleased]" in text or f"[{entropy_keras.__version__}]" in text
