"""Fills the tables of README.md and docs/results.md from the records in results/, one file of records a run.

A table is between `<!-- table: NAME -->` and `<!-- end -->`. Run this after results/ has changed; a test
fails where a page and the records disagree.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from steadylens.files import replacing
from steadylens.records import (
    Accuracy,
    Comparison,
    Contraction,
    Cost,
    Curve,
    Hits,
    Measurement,
    Restoring,
    Stability,
    read_records,
)
from steadylens.report.paper import FINE_TUNED, ORIGINAL, RESTORED
from steadylens.report.paper_tables import (
    accuracy_tables,
    cost_tables,
    restoration_tables,
    stability_tables,
    training_tables,
    variation_tables,
)
from steadylens.report.tables import Table, first_run, select

ROOT = Path(__file__).resolve().parent.parent

PAGES = {ROOT / "README.md": False, ROOT / "docs" / "results.md": True}
"""The pages with tables, and whether they show the cells' notes (intervals, gains)."""

FIRST_PAGE_RUN = "gtsrb-long"
"""The run that README.md shows: that of the nets in the package."""

FIRST_PAGE_NETWORKS = (ORIGINAL, FINE_TUNED, RESTORED)
FIRST_PAGE_NOISE = "clipped, 8-bit"
"""The networks and noise that README.md shows: the paper's network and its two rivals, on stored images."""

UNMEASURED = "No records yet. A run writes these tables to `tables.md` in its own folder.\n"
"""Replaces a table that there are no records for."""

MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables_named(records: Sequence[Measurement]) -> dict[str, list[Table]]:
    """Returns the tables of one run by the names in the markers."""
    shown = first_run(records)
    by_population = {
        population: [row for row in select(shown, Stability) if row.population == population]
        for population in ("own", "all")
    }
    return {
        "restoration": restoration_tables(select(shown, Restoring)),
        "hits": restoration_tables(select(shown, Hits)),
        "contraction": restoration_tables(select(shown, Contraction)),
        "accuracy": accuracy_tables(select(shown, Accuracy)),
        "comparison": accuracy_tables(select(shown, Comparison)),
        "stability": stability_tables(by_population["own"]),
        "stability-all": stability_tables(by_population["all"]),
        "variation": variation_tables(records),
        "cost": cost_tables(select(shown, Cost)),
        "training": training_tables(select(shown, Curve)),
    }


def filled(text: str, runs: Mapping[str, Sequence[Measurement]], *, notes: bool) -> str:
    """Returns a page with the tables of all runs between its markers.

    Args:
        text: The page.
        runs: Records by the name of their run. Runs are kept apart: each has tables of its own.
        notes: Whether to show the cells' notes.

    Raises:
        ValueError: If a marker names no table.
    """
    known = [_called(records) if len(runs) > 1 else tables_named(records) for records in runs.values()]

    def fill(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name not in tables_named([]):
            raise ValueError(f"there is no table {name!r}; choose one of {', '.join(tables_named([]))}")
        tables = [table.markdown(notes=notes) for run in known for table in run[name]]
        return "\n".join([begin, *(tables or [UNMEASURED]), end])

    return MARKED.sub(fill, text)


def _called(records: Sequence[Measurement]) -> dict[str, list[Table]]:
    """Returns the tables of one of several runs, each with the run's recipe in its title."""
    recipe = records[0].provenance.recipe
    return {
        name: [replace(table, title=f"{table.title}: {recipe}") for table in tables]
        for name, tables in tables_named(records).items()
    }


def recorded_runs(folder: Path = ROOT / "results") -> dict[str, list[Measurement]]:
    """Returns the records of each run in a folder, in the order of the files' names."""
    return {path.stem: read_records(path) for path in sorted(folder.glob("*.jsonl"))}


def runs_of_page(
    runs: Mapping[str, Sequence[Measurement]], *, notes: bool
) -> Mapping[str, Sequence[Measurement]]:
    """Returns the records that a page shows: all of them, or those of the first page."""
    if notes:
        return runs
    rows = [row for row in runs[FIRST_PAGE_RUN] if isinstance(row, Accuracy | Stability)]
    chosen = [row for row in rows if row.network in FIRST_PAGE_NETWORKS]
    return {
        FIRST_PAGE_RUN: [row for row in chosen if isinstance(row, Accuracy) or row.noise == FIRST_PAGE_NOISE]
    }


def main() -> None:
    """Updates both pages."""
    runs = recorded_runs()
    for page, notes in PAGES.items():
        text = filled(page.read_text(encoding="utf-8"), runs_of_page(runs, notes=notes), notes=notes)
        with replacing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
