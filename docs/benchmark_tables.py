"""Fills docs/benchmarks.md from the JSON files in results/benchmarks/ that the scripts of benchmarks/ write.

A table stands between `<!-- benchmark: NAME -->` and `<!-- end -->`. A test fails where the page and the
files no longer agree.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steadylens.files import replacing

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
FOLDER = ROOT / "results" / "benchmarks"

MARKED = re.compile(r"(<!-- benchmark: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def lines(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yields what a benchmark wrote as a name and a value each, in its order.

    An entry of a list is named by its own first value, "samples 50" for example.
    """
    match found:
        case dict():
            for name, value in found.items():
                yield from lines(value, (*path, name.replace("_", " ")))
        case [dict(), *_]:
            for entry in found:
                (name, value), *rest = entry.items()
                yield from lines(dict(rest), (*path[:-1], f"{name.replace('_', ' ')} {value}"))
        case bool():
            yield ", ".join(path), "yes" if found else "no"
        case float():
            yield ", ".join(path), f"{found:.3g}" if abs(found) < 1000 else f"{found:,.0f}"
        case int():
            yield ", ".join(path), f"{found:,}"
        case list():
            yield ", ".join(path), ", ".join(map(str, found))
        case _:
            yield ", ".join(path), str(found)


def table(found: Any) -> str:
    """Returns what a benchmark wrote as a Markdown table."""
    rows = [f"| {name} | {value} |" for name, value in lines(found)]
    return "\n".join(["", "| what | value |", "| --- | ---: |", *rows, "", ""])


def filled(text: str, folder: Path = FOLDER) -> str:
    """Returns the page with the tables between its markers."""

    def fill(marked: re.Match[str]) -> str:
        begin, name, end = marked.groups()
        return begin + table(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))) + end

    return MARKED.sub(fill, text)


def main() -> None:
    """Writes the page anew."""
    text = filled(PAGE.read_text(encoding="utf-8"))
    with replacing(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
