"""Tables become Markdown; numbers and provenance become text."""

import math
from dataclasses import replace

import pytest

from steadylens.records import Cost, Restoring
from steadylens.report.tables import (
    Cell,
    Table,
    TableRow,
    decibels,
    duration,
    grouped,
    percent,
    select,
    source,
    span,
    text_row,
)
from tests.sample_records import PROVENANCE, restorings, sample_records

TABLE = Table(
    title="A title",
    caption="A caption.",
    source="A source.",
    header=("name", "first", "second"),
    rows=(
        text_row("one", "1", "2"),
        TableRow(cells=(Cell(text="two"), Cell(text="3", note="2-4", best=True), Cell(text="4"))),
    ),
)


def test_markdown_has_title_caption_rows_and_source_with_the_best_cells_bold() -> None:
    assert TABLE.markdown() == (
        "### A title\n\nA caption.\n\n"
        "| name | first | second |\n| --- | ---: | ---: |\n| one | 1 | 2 |\n| two | **3** (2-4) | 4 |\n\n"
        "A source.\n"
    )


def test_markdown_can_leave_out_the_notes() -> None:
    assert "| two | **3** | 4 |" in TABLE.markdown(notes=False)


def test_markdown_escapes_what_would_break_a_table_or_become_html() -> None:
    text = replace(TABLE, rows=(text_row("a|b", "<script>", "*x*"),)).markdown()
    assert r"| a\|b | \<script> | \*x\* |" in text


def test_source_names_noise_samples_recipe_seed_data_and_commit() -> None:
    rows = select(restorings(), Restoring)
    assert source(rows, count="images") == (
        "Noise clipped, 8-bit; 1,263 images; recipe fast; seed 3; data GTSRB (sha256 5f2c9a01); "
        "commit 0123abc."
    )


def test_source_has_the_range_of_samples_and_every_commit() -> None:
    row = select(restorings(), Restoring)[0]
    other = replace(row, samples=9, provenance=replace(PROVENANCE, commit="fedcba9"))
    text = source([row, other], count="images")
    assert "9 to 1,263 images" in text
    assert "commit 0123abc, fedcba9." in text


def test_select_keeps_one_type_in_its_order() -> None:
    rows = select(sample_records(), Cost)
    assert [row.network for row in rows] == ["L11", "original", "restoration + original"]


def test_grouped_keeps_the_order_of_first_appearance() -> None:
    assert grouped(["ba", "a", "bb"], by=lambda word: word[0]) == {"b": ["ba", "bb"], "a": ["a"]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (9000, "2 h 30 min")],
)
def test_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_duration_never_writes_sixty_seconds() -> None:
    assert duration(59.99) == "1 min 00 s"
    assert duration(3599.7) == "1 h 00 min"


def test_missing_and_infinite_numbers_have_signs() -> None:
    assert (percent(None, digits=1), decibels(None)) == ("\N{EN DASH}", "\N{EN DASH}")
    assert decibels(math.inf) == "\N{INFINITY}"


def test_span_writes_one_count_or_two() -> None:
    assert (span([5]), span([2000, 5, 7])) == ("5", "5 to 2,000")
