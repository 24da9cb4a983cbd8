"""Tables of a report: their parts, their Markdown, and the texts of numbers and provenance in them."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from steadylens.records import Measurement

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"

EPSILON = "\N{GREEK SMALL LETTER EPSILON}"

DASH = "\N{EN DASH}"

NU = "\N{GREEK SMALL LETTER NU}"

NORM = "\N{DOUBLE VERTICAL LINE}"

INFINITY = "\N{INFINITY}"

TIMES = "\N{MULTIPLICATION SIGN}"

Record = TypeVar("Record", bound=Measurement)

Item = TypeVar("Item")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        note: A second, smaller text, an interval for example.
        best: Whether it is the best of the measured cells of its column.
    """

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row of a table.

    Attributes:
        printed: Whether the numbers are those that the paper prints, not measured ones.
    """

    cells: tuple[Cell, ...]
    printed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of texts.

    Attributes:
        caption: How to read the table, in one sentence.
        source: What it counts over and where the records come from.
        header: One name for each column; the first column names the row.
        notes_caption: What the cells' notes mean; it is left out where notes are.
        sentences: Whether the last column holds sentences. A page then shows each row as a card where it is
            narrow.
    """

    title: str
    caption: str
    source: str
    header: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes_caption: str = ""
    sentences: bool = False

    def markdown(self, *, notes: bool = True) -> str:
        """Returns the table as Markdown.

        Args:
            notes: Whether to add the cells' notes in brackets.
        """
        aligned = ["---", *["---:"] * (len(self.header) - 1)]
        if self.sentences:
            aligned[-1] = "---"
        texts = [tuple(_escaped(name) for name in self.header), tuple(aligned)]
        texts += [tuple(_markdown(cell, notes=notes) for cell in row.cells) for row in self.rows]
        grid = "\n".join(f"| {' | '.join(row)} |" for row in texts)
        caption = f"{self.caption} {self.notes_caption}" if notes and self.notes_caption else self.caption
        title, caption, foot = (_escaped(text) for text in (self.title, caption, self.source))
        return f"### {title}\n\n{caption}\n\n{grid}\n\n{foot}\n"


def text_row(*texts: str, printed: bool = False) -> TableRow:
    """Returns a row of cells without notes."""
    return TableRow(cells=tuple(Cell(text=text) for text in texts), printed=printed)


def source(records: Sequence[Measurement], *, count: str) -> str:
    """Returns a line that says what records count over and where they come from.

    Args:
        records: The records of a table or a figure.
        count: What `samples` counts in them.
    """
    noises = unique(str(noise) for record in records if (noise := getattr(record, "noise", None)))
    parts = [f"noise {'; '.join(noises)}"] if noises else []
    first = records[0].provenance
    commits = unique(record.provenance.commit for record in records)
    parts.append(f"{span(record.samples for record in records)} {count}")
    seeds = [str(seed) for seed in sorted({record.provenance.seed for record in records})]
    parts += [f"recipe {first.recipe}", f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"]
    parts.append(f"data {first.data}")
    parts.append(f"commit {', '.join(commits)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def select(records: Iterable[Measurement], record_type: type[Record]) -> list[Record]:
    """Returns the records of one type, in their order."""
    return [record for record in records if isinstance(record, record_type)]


def first_run(records: Sequence[Record]) -> list[Record]:
    """Returns the records of the first seed, which tables and figures show."""
    return [record for record in records if record.provenance.seed == records[0].provenance.seed]


def grouped(items: Iterable[Item], *, by: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Returns the items by key; keys and items keep their order."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(by(item), []).append(item)
    return groups


def unique(items: Iterable[Key]) -> list[Key]:
    """Returns each item once, in the order of first appearance."""
    return list(dict.fromkeys(items))


def largest(values: Iterable[float | None]) -> float | None:
    """Returns the largest value that is not None, or None if there is none."""
    return max((value for value in values if value is not None), default=None)


def percent(share: float | None, *, digits: int) -> str:
    """Returns a share in per cent, without the sign; a dash for None."""
    return DASH if share is None else f"{100 * share:.{digits}f}"


def decibels(value: float | None) -> str:
    """Returns the text of a PSNR, without its unit; a dash for None."""
    if value is None:
        return DASH
    return INFINITY if math.isinf(value) else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Returns the text of a time, in at most two units."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def span(counts: Iterable[int]) -> str:
    """Returns the text of one count, or of the smallest and the largest of several."""
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
