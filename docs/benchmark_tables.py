"""Fills pages from the JSON files in results/benchmarks/ that the scripts of benchmarks/ and examples/ write.

A table stands between `<!-- benchmark: NAME -->` and `<!-- end -->`; without a file, the page says so.
A test fails where the pages and the files no longer agree.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steadylens.files import replacing

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "classifiers", "gains"))
FOLDER = ROOT / "results" / "benchmarks"

UNMEASURED = "Not measured yet."
"""Stands for the tables of a benchmark that has no file."""

MARKED = re.compile(r"(<!-- benchmark: ([a-z_-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(found: dict[str, Any]) -> Iterator[str]:
    """Yields what a benchmark wrote as Markdown tables: single values first, then whatever has columns.

    A list of entries is a table with a row for each; mappings side by side with the same names are the
    columns of one table, and so is one with three names or more. Entries that hold more than values get
    tables of their own, under a title that says which entry it is.
    """
    single: list[tuple[str, ...]] = []
    columns: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    entries: dict[str, list[dict[str, Any]]] = {}
    for name, value in found.items():
        match value:
            case dict() if len(value) > 2 or _keys_beside(found, name):
                columns.setdefault(tuple(value), {})[words(name)] = value
            case dict():
                single += [(f"{words(name)}, {words(key)}", shown(each)) for key, each in value.items()]
            case [dict(), *_]:
                entries[words(name)] = value
            case _:
                single.append((words(name), shown(value)))
    if single:
        yield table(("what", "value"), single)
    for names, group in columns.items():
        yield table(
            ("", *group), [(words(name), *(shown(of[name]) for of in group.values())) for name in names]
        )
    for name, rows in entries.items():
        if any(isinstance(value, dict | list) for row in rows for value in row.values()):
            for row in rows:
                (first, value), *rest = row.items()
                yield f"**{words(first)} {value}**"
                yield from tables(dict(rest))
        else:
            yield f"**{name}**"
            yield table(
                [words(key) for key in rows[0]], [[shown(value) for value in row.values()] for row in rows]
            )


def _keys_beside(found: dict[str, Any], name: str) -> bool:
    """Says whether another mapping beside that of `name` has the same keys."""
    return any(
        isinstance(other, dict) and other.keys() == found[name].keys()
        for beside, other in found.items()
        if beside != name
    )


def words(name: str) -> str:
    """Returns the name of a value as people write it."""
    return name.replace("_", " ")


def shown(value: Any) -> str:
    """Returns a value as it stands in a table, numbers to three digits."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        case int():
            return f"{value:,}"
        case list():
            return ", ".join(map(str, value))
    return str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table whose first column is set to the left and whose others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def filled(text: str, folder: Path = FOLDER) -> str:
    """Returns the page with the tables between its markers."""

    def fill(marked: re.Match[str]) -> str:
        begin, name, end = marked.groups()
        file = folder / f"{name}.json"
        shown = tables(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else [UNMEASURED]
        return "\n\n".join([begin.rstrip(), *shown, end])

    return MARKED.sub(fill, text)


def main() -> None:
    """Writes the pages anew."""
    for page in PAGES:
        text = filled(page.read_text(encoding="utf-8"))
        with replacing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
