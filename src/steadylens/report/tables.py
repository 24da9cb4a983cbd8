"""What a table is, how it becomes Markdown, and how numbers and provenance are written in it."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from steadylens.records import Measurement

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"

DASH = "\N{EN DASH}"

NU = "\N{GREEK SMALL LETTER NU}"

NORM = "\N{DOUBLE VERTICAL LINE}"

INFINITY = "\N{INFINITY}"

Record = TypeVar("Record", bound=Measurement)

Item = TypeVar("Item")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        note: What stands small beneath it, an interval for example.
        best: Whether it is the best of the measured cells of its column.
    """

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row of cells.

    Attributes:
        printed: Whether the row stands in the paper and was not measured.
    """

    cells: tuple[Cell, ...]
    printed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table ready to be rendered: everything in it is text.

    Attributes:
        caption: One sentence on how to read it.
        source: What it counts over and where it comes from.
        header: One name for each column; the first column names the row.
        beneath: What the cells' notes tell, a sentence that is left out with them.
    """

    title: str
    caption: str
    source: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    beneath: str = ""

    def markdown(self, *, notes: bool = True) -> str:
        """Renders title, caption, lines and source.

        Args:
            notes: Whether the cells' notes are kept, in brackets.
        """
        rows = [tuple(_escaped(name) for name in self.header), ("---",) + ("---:",) * (len(self.header) - 1)]
        rows += [tuple(_markdown(cell, notes=notes) for cell in line.cells) for line in self.lines]
        grid = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        told = f"{self.caption} {self.beneath}" if notes and self.beneath else self.caption
        title, caption, foot = (_escaped(text) for text in (self.title, told, self.source))
        return f"### {title}\n\n{caption}\n\n{grid}\n\n{foot}\n"


def line(*texts: str, printed: bool = False) -> Line:
    """Makes a line of plain cells."""
    return Line(cells=tuple(Cell(text=text) for text in texts), printed=printed)


def source(rows: Sequence[Measurement], *, count: str) -> str:
    """Says what rows count over and where they come from, in one line.

    Args:
        rows: Rows that stand together in a table or a figure.
        count: What `samples` counts in them.
    """
    noises = unique(str(noise) for row in rows if (noise := getattr(row, "noise", None)))
    parts = [f"noise {'; '.join(noises)}"] if noises else []
    first = rows[0].provenance
    commits = unique(row.provenance.commit for row in rows)
    parts.append(f"{span(row.samples for row in rows)} {count}")
    seeds = [str(seed) for seed in sorted({row.provenance.seed for row in rows})]
    parts += [f"recipe {first.recipe}", f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"]
    parts.append(f"data {first.data}")
    parts.append(f"commit {', '.join(commits)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def select(records: Iterable[Measurement], kind: type[Record]) -> list[Record]:
    """Returns the records of one kind, in their order."""
    return [record for record in records if isinstance(record, kind)]


def first_run(records: Sequence[Record]) -> list[Record]:
    """Returns the records of the seed that comes first: those that a table or figure shows."""
    return [record for record in records if record.provenance.seed == records[0].provenance.seed]


def grouped(items: Iterable[Item], *, by: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Returns the items by key, keys and items in the order in which they come first."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(by(item), []).append(item)
    return groups


def unique(items: Iterable[Key]) -> list[Key]:
    """Returns each item once, in the order of its first appearance."""
    return list(dict.fromkeys(items))


def largest(values: Iterable[float | None]) -> float | None:
    """Returns the largest of the values that are there, or None if there is none."""
    return max((value for value in values if value is not None), default=None)


def percent(share: float | None, *, digits: int) -> str:
    """Writes a share as per cent, without the sign; a dash for None."""
    return DASH if share is None else f"{100 * share:.{digits}f}"


def decibels(value: float | None) -> str:
    """Writes a PSNR without its unit; a dash for None."""
    if value is None:
        return DASH
    return INFINITY if math.isinf(value) else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Writes a time with the two units that matter."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def span(counts: Iterable[int]) -> str:
    """Writes one count, or the smallest and the largest of several."""
    low, *_, high = sorted(counts) * 2
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _markdown(cell: Cell, *, notes: bool) -> str:
    text = _escaped(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} ({_escaped(cell.note)})" if notes and cell.note else text


def _escaped(text: str) -> str:
    for character in "\\|<*_`":
        text = text.replace(character, f"\\{character}")
    return text
