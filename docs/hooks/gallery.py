"""Makes a page and a notebook of each example of the gallery."""

import pathlib
import re
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]
_CELL = re.compile(r"^# %%(.*)\n", re.M)
_INCLUDED = re.compile(r'^# --8<-- "(.+)"$', re.M)


def on_files(files: Any, config: Any) -> Any:
    """Adds a page and a notebook beside each example; MkDocs calls it.

    Args:
        files: The files of the site.
        config: Its configuration.

    Returns:
        The files.
    """
    from mkdocs.structure.files import File

    for file in list(files):
        path = pathlib.PurePosixPath(file.src_uri)
        if path.parent.name == "gallery" and path.suffix == ".py":
            for suffix, content in (
                (".md", as_markdown(file.content_string, path.stem)),
                (".ipynb", as_notebook(file.content_string)),
            ):
                name = str(path.with_suffix(suffix))
                files.append(File.generated(config, name, content=content))
    return files


def as_markdown(script: str, name: str) -> str:
    """Returns a script of cells as a page.

    Args:
        script: Text in which `# %% [markdown]` begins a cell of comments and
            `# %%` one of code.
        name: That of its file and of the notebook, without suffix; the page
            links to both.

    Returns:
        Markdown.
    """
    _, *cells = _CELL.split(script)
    parts = []
    for kind, text in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", text.strip(), flags=re.M))
        else:
            parts.append(f"```python\n{text.strip()}\n```")
    parts.append(
        f"[{name}.py]({name}.py) is this page as a script, "
        f"[{name}.ipynb]({name}.ipynb) as a notebook."
    )
    return "\n\n".join(parts) + "\n"


def as_notebook(script: str) -> str:
    """Returns a script of cells as a notebook, the same at every call.

    Args:
        script: As in `as_markdown`.

    Returns:
        JSON of nbformat 4, without outputs.
    """
    import jupytext

    # Without the docstring, which is no cell.
    text = script[script.index("# %%") :]
    notebook = jupytext.reads(_INCLUDED.sub(_comment, text), fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws them at random.
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
    }
    return jupytext.writes(notebook, fmt="ipynb")


def _comment(match: re.Match[str]) -> str:
    """Returns the file that a page includes, as comments."""
    lines = (_ROOT / match[1]).read_text(encoding="utf-8").splitlines()
    return "\n".join(f"# {line}" for line in lines)
