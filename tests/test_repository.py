"""What the repository says about itself is true."""

import ast
import importlib.util
import pathlib
import re

import pytest

import entropy_keras

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("entropy_keras", "trainers")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).glob("**/*.py")
    if path != ROOT / "trainers" / "__init__.py"
)


def build_targets():
    """Returns the sources and dependencies of each target of BUILD."""
    targets = {}
    for call in ast.walk(ast.parse((ROOT / "BUILD").read_text())):
        if isinstance(call, ast.Call) and call.func.id.startswith("py_"):
            values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            (source,) = values["srcs"]
            deps = {d.removeprefix(":") for d in values.get("deps", [])}
            targets[values["name"]] = (ROOT / source, deps)
    return targets


def imported_modules(path):
    """Returns the targets that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package in PACKAGES:
                found |= {module} if module else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name in PACKAGES}
    return found


def test_build_has_one_target_per_module():
    assert sorted(path for path, _ in build_targets().values()) == MODULES


@pytest.mark.parametrize("name", build_targets())
def test_build_states_the_imports(name):
    path, deps = build_targets()[name]
    assert deps == imported_modules(path)


def test_the_package_imports_nothing_of_the_trainers():
    for path in (ROOT / "entropy_keras").glob("**/*.py"):
        assert "trainers" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_and_functions_stay_readable(path):
    source = path.read_text()
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno - docstring.count("\n")
            assert length <= 50, node.name


def test_all_is_documented():
    for name in entropy_keras.__all__:
        if name != "__version__":
            assert getattr(entropy_keras, name).__doc__


def readme_blocks(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = readme_blocks("python")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["model"].optimizer.iterations > 0
    assert (tmp_path / "saved_model").is_dir()


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
