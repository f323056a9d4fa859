"""Makes a page of each example of the gallery."""

import pathlib
import re
from typing import Any

_CELL = re.compile(r"^# %%(.*)\n", re.M)


def on_files(files: Any, config: Any) -> Any:
    """Adds a page beside each example; MkDocs calls it.

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
            name = str(path.with_suffix(".md"))
            page = as_markdown(file.content_string, path.name)
            files.append(File.generated(config, name, content=page))
    return files


def as_markdown(script: str, name: str) -> str:
    """Returns a script of cells as a page.

    Args:
        script: Text in which `# %% [markdown]` begins a cell of comments and
            `# %%` one of code.
        name: Its file, which the page links to.

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
    parts.append(f"[{name}]({name}) is this page as a script.")
    return "\n\n".join(parts) + "\n"
