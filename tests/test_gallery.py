"""The examples of the gallery run, and show what their pages say."""

import pathlib
import re
import runpy
import subprocess
import sys

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
GALLERY = DOCS / "gallery"
HOOK = runpy.run_path(str(DOCS / "hooks" / "gallery.py"))
SCRIPTS = sorted(GALLERY.glob("*.py"))
NUMBER = re.compile(r"-?[\d.]+(e-\d+)?")


def claims_of_swap(rows):
    assert rows["SGD, 0.1"]["updates"] == 800
    assert rows["Entropy-SGD, 0.1"]["updates"] == 160
    losses = [row["training loss"] for row in rows.values()]
    assert losses[0] < losses[2] < losses[1]
    assert max(row["test error"] for row in rows.values()) < 3


def claims_of_noisy_labels(rows):
    learned = [row["of wrong labels learned"] for row in rows.values()]
    assert learned[0] > 1.5 * learned[1] > 1.5 * learned[2]
    errors = [row["test error"] for row in rows.values()]
    assert errors[0] > errors[1] > max(errors[2:])


def claims_of_flatness(rows):
    trained = {n: row for n, row in rows.items() if n != "initial"}
    losses = {n: row["loss"] for n, row in trained.items()}
    traces = {n: row["trace"] for n, row in trained.items()}
    costs = {n: row["noise"] for n, row in trained.items()}
    assert min(losses, key=losses.get) == min(traces, key=traces.get) == "SGD"
    assert min(costs, key=costs.get) == "Entropy-SGD at 0.03"


def claims_of_calibration(rows):
    errors = {n: row["calibration error"] for n, row in rows.items()}
    assert errors["averaged at 0.03"] < 0.5 * errors["the weights"]
    assert errors["averaged at 1 / N"] < errors["the weights"]


def claims_of_transfer(rows):
    updates = {n: row.get("updates") for n, row in rows.items()}
    assert updates["frozen base, SGD"] == 400
    assert updates["frozen base, Entropy-SGD"] == 80
    errors = {n: row.get("test error") for n, row in rows.items()}
    for name in ("frozen base, SGD", "frozen base, Entropy-SGD"):
        assert errors[name] < errors["no base, Adam"] - 15
    assert rows["the frozen base"]["weights changed"] == 0


def claims_of_text(rows):
    adam, *inside, sgd = rows.values()
    for row in inside:
        assert abs(row["test error"] - adam["test error"]) < 1.5
        assert row["updates"] * 4 < adam["updates"]
        assert row["test error"] < sgd["test error"] - 4


def claims_of_two_workers(rows):
    assert [row["exchanges"] for row in rows.values()] == [400, 80, 20]
    for row in rows.values():
        sent = 4e-6 * 4810 * row["exchanges"]
        assert row["MB from each worker"] == pytest.approx(sent, abs=0.01)
    errors = [row["test error"] for row in rows.values()]
    assert max(errors) - min(errors) < 1.5
    assert max(errors) < 4


def claims_of_curvature(rows):
    small, large, layer, _ = rows.values()
    for row in (small, large):
        assert row["of the layers together"] == pytest.approx(
            row["trace"], rel=0.05
        )
        assert row["smallest"] < 0 < row["largest eigenvalue"] < row["trace"]
    assert small["loss"] < large["loss"]
    assert small["trace"] < large["trace"]
    assert layer["weights"] == 170


def rows(text):
    """Returns the numbers of each line by its name and the words beside."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(": ")
        if not name.startswith("chains"):
            found[name] = {}
            for part in rest.split(", "):
                part = part.split(" ±")[0].removesuffix(" %")
                words = NUMBER.sub("", part).replace("%", "").split()
                number = float(NUMBER.search(part).group())
                found[name][" ".join(words)] = number
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_an_example_shows_what_its_page_says(script, tmp_path):
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert (tmp_path / f"{script.stem}.png").is_file()
    check(script, result.stdout)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_page_shows_what_was_found(script):
    text = script.read_text()
    assert f'--8<-- "docs/gallery/{script.stem}.txt"' in text
    assert f"]({script.stem}.png)" in text
    assert script.with_suffix(".png").stat().st_size < 100_000
    check(script, script.with_suffix(".txt").read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_notebook_is_its_script(script):
    pytest.importorskip("jupytext", reason="needs .[docs]")
    import nbformat

    text = script.read_text()
    written = HOOK["as_notebook"](text)
    assert written == HOOK["as_notebook"](text)
    notebook = nbformat.reads(written, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    _, *cells = re.split(r"^# %%", text, flags=re.M)
    cells = [cell.partition("\n") for cell in cells]
    code = [body.strip() for kind, _, body in cells if not kind]
    assert code == [c.source for c in notebook.cells if c.cell_type == "code"]
    told = "\n".join(
        c.source for c in notebook.cells if c.cell_type == "markdown"
    )
    found = script.with_suffix(".txt").read_text()
    assert f"```text\n{found}```" in told
    assert "--8<--" not in told


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_page_links_to_its_script_and_notebook(script):
    page = HOOK["as_markdown"](script.read_text(), script.stem)
    for name in (script.name, f"{script.stem}.ipynb"):
        assert f"[{name}]({name})" in page.splitlines()[-1]


def check(script, text):
    globals()[f"claims_of_{script.stem}"](rows(text))
