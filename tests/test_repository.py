"""What the repository says about itself is true."""

import importlib.util
import json
import pathlib
import re
import runpy

import build_file
import matplotlib.image
import numpy as np
import pytest
import scipy.stats
import setuptools

import entropy_keras
from benchmarks import evidence

ROOT = pathlib.Path(__file__).parent.parent


def test_build_states_the_imports():
    assert (ROOT / "BUILD").read_text() == build_file.text()


def test_the_package_imports_nothing_of_the_trainers():
    for path in (ROOT / "entropy_keras").glob("**/*.py"):
        assert "trainers" not in path.read_text()


def test_the_training_program_imports_none_of_the_experiments():
    known = build_file.modules()
    for name, path in known.items():
        if not name.startswith("trainers.experiments"):
            imported = build_file.imports(path, known)
            assert not {n for n in imported if "experiments" in n}, name


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


@pytest.mark.parametrize("name", evidence.TABLES)
def test_pages_hold_the_tables_of_the_evidence(name):
    page = (ROOT / evidence.PAGES[name]).read_text()
    assert evidence.with_table(page, name) == page
    assert page.count("| Entropy-SGD, defaults |") == 1


def test_the_picture_of_the_evidence_is_drawn(tmp_path):
    evidence.draw(tmp_path / "evidence.png")
    drawn = matplotlib.image.imread(tmp_path / "evidence.png")
    shown = matplotlib.image.imread(ROOT / "docs" / "evidence.png")
    assert drawn.shape == shown.shape


def mean_and_error(pairs):
    """Returns the mean of pairs, its error, and the one over the other."""
    errors = [scipy.stats.sem(pairs.ravel())]
    if len(pairs) > 1:
        errors.append(scipy.stats.sem(pairs.mean(1)))
    return pairs.mean(), max(errors), pairs.mean() / max(errors)


def test_pages_quote_the_evidence():
    results = ROOT / "benchmarks" / "results"
    pages = [ROOT / page for page in evidence.PAGES.values()]
    text = " ".join(" ".join(p.read_text() for p in pages).split())
    sets = (
        "mnist_2k", "mnist_2k_50", "mnist_2k_noise", "mnist_2k_noise_50",
        "cifar10", "diamonds", "mnist_2k_noise_presets",
    )  # fmt: skip
    tables, runs = [], []
    for name in sets:
        path = results / "comparison" / f"{name}.json"
        found = json.loads(path.read_text())
        tables.append({r["method"]: r["error"] for r in found["table"]})
        errors = {}
        for winner in found["winners"]:
            errors.setdefault(winner["method"], []).append(winner["test_error"])
        runs.append({m: np.array(e) for m, e in errors.items()})
    for each, errors in zip(tables, runs, strict=True):
        for method in evidence.METHODS.keys() & each.keys():
            mean = errors[method].mean()
            assert mean == pytest.approx(each[method], abs=1e-3)
    _, clean, _, noisy, photographs, diamonds, published = runs
    for other in ("adamw", "sam"):
        ahead = mean_and_error(diamonds[other] - diamonds["adam_inside"])
        assert ahead[2] > 2
    updates = {
        w["updates"]
        for name in ("mnist_2k_50", "mnist_2k_noise_50")
        for w in evidence.results(name)["winners"]
        if w["method"] == "long_loop_tuned"
    }
    assert f"in {min(updates)} to {max(updates)} updates where SGD" in text
    means = [each["entropy_sgd_decay"].mean() for each in (clean, noisy)]
    assert "it has {:.2f} and {:.2f} % at 50 passes".format(*means) in text
    for found, ours, other, is_clear, quoted in (
        (noisy, "long_loop_tuned", "sgd", True, "SGD (by {})"),
        (noisy, "long_loop_tuned", "sgd_ema", True, "its average ({})"),
        (noisy, "long_loop_tuned", "adamw", True, "AdamW ({})"),
        (noisy, "long_loop_tuned", "sam", False, "from SAM nothing tells"),
        (clean, "long_loop_tuned", "sgd", False, "level with all of these"),
        (clean, "long_loop_tuned", "sgd_ema", False, ""),
        (clean, "long_loop_tuned", "adamw", False, ""),
        (clean, "long_loop_tuned", "sam", False, ""),
        (noisy, "entropy_sgd_decay", "sgd", False, "ahead by {}, which is sho"),
        (clean, "sgd", "entropy_sgd_decay", False, "(behind it by {})"),
        (photographs, "sgd", "entropy_sgd", False, "by {} as it is"),
        (photographs, "sgd", "entropy_sgd_defaults", True, "by {} with its d"),
        (photographs, "sgd", "long_loop_tuned", True, "long loops by {}"),
        (photographs, "entropy_sgd", "sam", True, "of SAM there ({})"),
        (diamonds, "sgd", "entropy_sgd", True, "by {} points on a table"),
        (published, "released_code", "adamw", True, "(by {} as released)"),
        (published, "released_code", "sam", False, "and ties with SAM"),
        (diamonds, "sgd", "adam_inside", True, "and behind SGD ({})"),
    ):
        mean, error, ratio = mean_and_error(found[other] - found[ours])
        assert (abs(ratio) > 2) == is_clear
        assert quoted.format(f"{abs(mean):.2f} ± {error:.2f}") in text
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


def test_files_that_are_named_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:entropy_keras|tests)/\w+\.py)`", text):
        assert (ROOT / name).is_file(), name
    assert "entropy_keras/legs.py" in text


def test_the_distribution_holds_the_package_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path("setup.py")
    modules = ROOT.glob("entropy_keras/**/*.py")
    folders = {m.parent.relative_to(ROOT).as_posix() for m in modules}
    assert {p.replace(".", "/") for p in given["packages"]} == folders
    assert given["package_data"] == {"entropy_keras": ["py.typed"]}
    assert (ROOT / "entropy_keras" / "py.typed").is_file()
    assert "prune tests" in (ROOT / "MANIFEST.in").read_text()


def test_all_know_what_is_needed(monkeypatch):
    monkeypatch.chdir(ROOT)
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path("setup.py")
    keras, _, tensorflow = (
        x.partition(">=")[2] for x in given["install_requires"]
    )
    python = given["python_requires"].removeprefix(">=")
    bounds = f"Python {python}, Keras {keras} and TensorFlow {tensorflow}"
    for page in ("README.md", "docs/install.md", "CHANGELOG.md"):
        assert f"needs {bounds}" in (ROOT / page).read_text(), page
    assert (
        f'"${{1:-python{python}}}" '
        f"'keras=={keras}.*' "
        f"'tensorflow=={tensorflow}.*'"
    ) in (ROOT / ".ci" / "versions").read_text()


def test_all_know_the_version():
    version = entropy_keras.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
