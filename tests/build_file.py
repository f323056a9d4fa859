"""What BUILD says of the imports. `python tests/build_file.py` rewrites it."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("entropy_keras", "trainers")
HEADER = """\
# One target per module, as `python tests/build_file.py` writes it from the
# imports. Third-party packages come from requirements, not from targets.

load("@rules_python//python:defs.bzl", "py_binary", "py_library")

package(default_visibility = ["//visibility:public"])
"""


def modules():
    """Returns the path of each module by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("**/*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path, known):
    """Returns the names of the modules, of those known, that one imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names]
            names = [n if n in known else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {name for name in names if name in known}
    return found


def target(name, path, known):
    is_binary = 'if __name__ == "__main__":' in path.read_text()
    lines = [
        "py_binary(" if is_binary else "py_library(",
        f'    name = "{name}",',
        f'    srcs = ["{path.relative_to(ROOT).as_posix()}"],',
    ]
    deps = sorted(imports(path, known))
    if len(deps) == 1:
        lines.append(f'    deps = [":{deps[0]}"],')
    elif deps:
        lines += ["    deps = [", *(f'        ":{d}",' for d in deps), "    ],"]
    return "\n".join([*lines, ")\n"])


def text():
    """Returns what BUILD has to hold."""
    known = modules()
    return "\n".join([HEADER, *(target(n, p, known) for n, p in known.items())])


if __name__ == "__main__":
    (ROOT / "BUILD").write_text(text())
