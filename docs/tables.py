"""Fills the tables of README.md and of the pages with results in docs/ from the records in results/.

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
    Attacked,
    Certificate,
    Comparison,
    Contraction,
    Corrupted,
    Cost,
    Curve,
    Hits,
    Measurement,
    NoisyComparison,
    Restoring,
    Stability,
    read_records,
)
from steadylens.report.decision import decision_tables
from steadylens.report.paper import FINE_TUNED, ORIGINAL, TOGETHER, WIDER
from steadylens.report.paper_tables import (
    accuracy_tables,
    cost_tables,
    difference_tables,
    restoration_tables,
    stability_tables,
    training_tables,
    variation_tables,
)
from steadylens.report.stress import attack_tables, certificate_tables, corruption_tables
from steadylens.report.tables import SIGMA, Table, first_run, select, source, text_row

ROOT = Path(__file__).resolve().parent.parent

README, INDEX, RESULTS, STEADINESS, PHOTOGRAPHS = (
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "steadiness.md",
    ROOT / "docs" / "photographs.md",
)

PAGES = {README: False, INDEX: False, RESULTS: True, STEADINESS: True, PHOTOGRAPHS: True}
"""The pages with tables, and whether they show the cells' notes (intervals, gains)."""

SIGNS = "gtsrb-"
"""How the name of a run on traffic signs begins; titles leave it out."""

STRESS_RUN = "-stress"
"""How the name of a run ends that is shown on docs/steadiness.md only."""

PHOTOGRAPH_RUN = "photographs"
"""The run that is shown on docs/photographs.md only."""

FIRST_PAGE_RUN = "gtsrb-unet"
"""The run that README.md and docs/index.md show: that of the classifiers in the package."""

PACKAGED_RUNS = ("gtsrb-restorers", FIRST_PAGE_RUN)
"""The runs about nets in the package, which are shown before all others."""

FIRST_PAGE_NOISE = "clipped, 8-bit"
"""The noise that these two show: on images as they are stored."""

GLANCE = {
    ORIGINAL: "classifier alone",
    TOGETHER: "restorer in front, both tuned together",
    FINE_TUNED: "baseline: classifier tuned on the same noise, no restorer",
    WIDER: "baseline: the same with a larger classifier, of the pair's cost",
}
"""The networks that these two show, in words."""

GLANCE_SIGMAS = (4, 15, 25, 40)
"""The strengths that these two show, in grey levels of 255."""

STRESS = Certificate | Corrupted | Attacked
"""Records of what docs/steadiness.md shows."""

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
        "differences": difference_tables(select(shown, NoisyComparison)),
        "variation": variation_tables(records),
        "cost": cost_tables(select(shown, Cost)),
        "training": training_tables(select(shown, Curve)),
        "summary": decision_tables(shown) if any(isinstance(row, STRESS) for row in shown) else [],
        "certificates": certificate_tables(shown),
        "corruptions": corruption_tables(shown),
        "attacks": attack_tables(shown),
        "glance": glance_tables(shown),
    }


def glance_tables(records: Sequence[Measurement]) -> list[Table]:
    """Returns the few numbers that tell how much a restorer helps, with the baseline that needs none."""
    top1 = {row.network: row for row in select(records, Accuracy) if row.k == 1}
    rows = [row for row in select(records, Stability) if row.population == "all"]
    known = {(row.network, row.sigma_grey): row for row in rows if row.noise == FIRST_PAGE_NOISE}
    if not known or not all(name in top1 for name in GLANCE):
        return []
    shown = [known[name, sigma] for name in GLANCE for sigma in GLANCE_SIGMAS]
    table_rows = []
    for name, title in GLANCE.items():
        shares: list[Accuracy | Stability] = [top1[name]]
        shares += [known[name, sigma] for sigma in GLANCE_SIGMAS]
        table_rows.append(text_row(title, *(f"{row.correct / row.samples:.1%}" for row in shares)))
    table = Table(
        title="How much it helps",
        caption="Traffic signs (GTSRB): right answers on clean images, and under Gaussian noise whose "
        f"standard deviation {SIGMA} is in grey levels of 255.",
        source=source(shown, count="noisy images in a cell"),
        header=("", "clean", *(f"{SIGMA} = {sigma:g}" for sigma in GLANCE_SIGMAS)),
        rows=tuple(table_rows),
    )
    return [table]


def filled(text: str, runs: Mapping[str, Sequence[Measurement]], *, notes: bool) -> str:
    """Returns a page with the tables of all runs between its markers.

    Args:
        text: The page.
        runs: Records by the name of their run. Runs are kept apart: each has tables of its own.
        notes: Whether to show the cells' notes.

    Raises:
        ValueError: If a marker names no table.
    """
    if len(runs) == 1:
        known = [tables_named(records) for records in runs.values()]
    else:
        known = [_called(name.removeprefix(SIGNS), records) for name, records in runs.items()]

    def fill(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name not in tables_named([]):
            raise ValueError(f"there is no table {name!r}; choose one of {', '.join(tables_named([]))}")
        tables = [table.markdown(notes=notes) for run in known for table in run[name]]
        return "\n".join([begin, *(tables or [UNMEASURED]), end])

    return MARKED.sub(fill, text)


def _called(run: str, records: Sequence[Measurement]) -> dict[str, list[Table]]:
    """Returns the tables of one of several runs, each with the run's name in its title."""
    return {
        name: [replace(table, title=f"{table.title}: {run}") for table in tables]
        for name, tables in tables_named(records).items()
    }


def recorded_runs(folder: Path = ROOT / "results") -> dict[str, list[Measurement]]:
    """Returns the records of each run in a folder, those of packaged nets first, by the files' names."""
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: (path.stem not in PACKAGED_RUNS, path.stem))
    return {path.stem: read_records(path) for path in paths}


def runs_of_page(
    runs: Mapping[str, Sequence[Measurement]], page: Path
) -> Mapping[str, Sequence[Measurement]]:
    """Returns the records that a page shows: those of one run, or all of signs, with or without stress."""
    if page in (README, INDEX, PHOTOGRAPHS):
        shown = PHOTOGRAPH_RUN if page == PHOTOGRAPHS else FIRST_PAGE_RUN
        return {shown: runs[shown]}
    return {
        name: records
        for name, records in runs.items()
        if name != PHOTOGRAPH_RUN and (page == STEADINESS or not name.endswith(STRESS_RUN))
    }


def main() -> None:
    """Updates the pages."""
    runs = recorded_runs()
    for page, notes in PAGES.items():
        text = filled(page.read_text(encoding="utf-8"), runs_of_page(runs, page), notes=notes)
        with replacing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
