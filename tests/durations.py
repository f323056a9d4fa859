"""Tells how long each file of the tests took, beside an earlier run.

    python -m pytest --junitxml=tests.xml
    python tests/durations.py tests.xml --before=earlier.json --output=now.json

Seconds are those of the tests of a file one after the other: with two workers
the whole takes about half of their sum.
"""

import argparse
import collections
import json
import pathlib
import xml.etree.ElementTree


def read(path: pathlib.Path) -> dict[str, object]:
    """Reads what pytest wrote.

    Args:
        path: The file of `--junitxml`.

    Returns:
        The wall time in `seconds`, the number of `tests`, those that were
        skipped among them, and the seconds of each file in `files`.
    """
    (suite,) = xml.etree.ElementTree.parse(path).getroot()
    files: collections.Counter[str] = collections.Counter()
    for case in suite:
        files[case.attrib["classname"]] += float(case.attrib["time"])
    return {
        "seconds": round(float(suite.attrib["time"])),
        "tests": int(suite.attrib["tests"]),
        "files": {name: round(s, 1) for name, s in files.most_common()},
    }


def table(now: dict[str, object], before: dict[str, object]) -> str:
    """Returns both runs as Markdown, the slowest files first."""
    rows = [
        "| | before, s | now, s |",
        "|---|---|---|",
        f"| all of it, wall time | {before['seconds']} | {now['seconds']} |",
        f"| number of tests | {before['tests']} | {now['tests']} |",
    ]
    files = [dict(run["files"]) for run in (before, now)]
    names = sorted(
        set(files[0]) | set(files[1]),
        key=lambda name: -max(f.get(name, 0.0) for f in files),
    )
    for name in names[:40]:
        seconds = [f"{f[name]:.1f}" if name in f else "" for f in files]
        rows.append(f"| `{name}` | {seconds[0]} | {seconds[1]} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Prints the table, and writes the run as JSON if there is a path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("junit", type=pathlib.Path)
    parser.add_argument("--before", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    now = read(options.junit)
    if options.output:
        options.output.write_text(json.dumps(now, indent=1) + "\n")
    print(table(now, json.loads(options.before.read_text())), end="")


if __name__ == "__main__":
    main()
