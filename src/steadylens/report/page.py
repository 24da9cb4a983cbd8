"""Records -> one page that anyone can open, or its tables as Markdown. Needs the records alone, no net."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from steadylens.errors import RecordError
from steadylens.files import replacing
from steadylens.records import Accuracy, Measurement, Picture, Restoring, Stability
from steadylens.report.paper import ALONE, CITATION, IN_TABLE_3, ORIGINAL, RESTORED, TABLE_3, TABLE_4
from steadylens.report.paper_tables import (
    accuracy_tables,
    cost_tables,
    overall,
    restoration_tables,
    spread_tables,
    stability_tables,
    training_tables,
)
from steadylens.report.tables import (
    SIGMA,
    Table,
    duration,
    first_run,
    grouped,
    line,
    percent,
    select,
    source,
    span,
    unique,
)

if TYPE_CHECKING:
    from steadylens.report.figures import Illustration


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One of the few numbers that matter, as `before` and `after` the restoration net came in."""

    name: str
    before: str
    after: str
    unit: str
    note: str


def facts(records: Sequence[Measurement]) -> list[Fact]:
    """Returns the numbers for the top of the page, those that there are records for."""
    return [*_accuracy_facts(records), *_stability_facts(records), *_restoration_facts(records)]


def _accuracy_facts(records: Sequence[Measurement]) -> list[Fact]:
    rows = {row.network: row for row in select(records, Accuracy) if row.k == 1}
    if (pair := _compared(rows)) is None:
        return []
    before, after = (percent(rows[name].correct / rows[name].samples, digits=2) for name in pair)
    note = f"top-1, {' and '.join(pair)}"
    if pair == (ORIGINAL, RESTORED):
        paper = " and ".join(f"{TABLE_3[IN_TABLE_3[name]].top1_percent:.2f}" for name in pair)
        note = f"top-1, original and fused network; paper {paper}"
    return [Fact(name="Accuracy on clean images", before=before, after=after, unit="%", note=note)]


def _stability_facts(records: Sequence[Measurement]) -> list[Fact]:
    own = [row for row in select(records, Stability) if row.population == "own"]
    found = []
    for noise, rows in grouped(own, by=lambda row: row.noise).items():
        if (pair := _compared(row.network for row in rows)) is None:
            continue
        means = [overall([row for row in rows if row.network == name]) for name in pair]
        if None in means:
            continue
        before, after = (percent(mean, digits=2) for mean in means)
        note = f"overall, {' and '.join(pair)}; noise {noise}"
        if pair == (ORIGINAL, RESTORED):
            paper = " and ".join(f"{TABLE_4[name].overall_percent:.1f}" for name in pair)
            note = f"overall, original and fused network; noise {noise}; paper {paper}"
        found.append(Fact(name="Stability under noise", before=before, after=after, unit="%", note=note))
    return found


def _compared(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the two networks that the page is about: the paper's, or a classifier and its first pair."""
    found = unique(names)
    if {ORIGINAL, RESTORED} <= set(found):
        return ORIGINAL, RESTORED
    others = [name for name in found if name != ALONE]
    return (ALONE, others[0]) if ALONE in found and others else None


def _restoration_facts(records: Sequence[Measurement]) -> list[Fact]:
    noisy = [row for row in select(records, Restoring) if row.sigma_grey > 0 and isfinite(row.noisy_db)]
    return [
        _restoration_fact(noise, rows) for noise, rows in grouped(noisy, by=lambda row: row.noise).items()
    ]


def _restoration_fact(noise: str, rows: Sequence[Restoring]) -> Fact:
    nets = grouped(rows, by=lambda row: row.network)
    best = max(nets, key=lambda name: fmean(row.restored_db for row in nets[name]))
    gains = {row.sigma_grey: row.restored_db - row.noisy_db for row in nets[best]}
    least = min(gains, key=gains.__getitem__)
    return Fact(
        name="Restoration",
        before=f"{fmean(row.noisy_db for row in nets[best]):.1f}",
        after=f"{fmean(row.restored_db for row in nets[best]):.1f}",
        unit="dB",
        note=f"mean PSNR, noisy and after {best}; noise {noise}; the least gain is {gains[least]:+z.2f} dB, "
        f"at {SIGMA} = {least:g}",
    )


GALLERIES: dict[int | str, tuple[str, str]] = {
    2: (
        "Figure 2. What the restoration net does",
        "Samples of the classes, with the pattern that the net adds.",
    ),
    4: (
        "Figure 4. Put right by restoration",
        "Images that the original network gets wrong and the fused one right.",
    ),
    "saved": (
        "Answers that restoration saved",
        "Noisy images that the classifier alone gets wrong and behind the restorer right: the noisy image "
        "with the answer alone, and the restored one with the answer behind the restorer.",
    ),
    "lost": (
        "Answers that restoration lost",
        "Noisy images that the classifier gets right alone and wrong behind the restorer.",
    ),
}
"""Title and caption by `Picture.figure`, in the order of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Rows of images that people look at."""

    title: str
    caption: str
    source: str
    pictures: Sequence[Picture]

    @property
    def columns(self) -> int:
        """Images in the longest row."""
        return max(len(picture.panels) for picture in self.pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        lead: One sentence on what it is about.
    """

    title: str
    lead: str
    illustrations: "Sequence[Illustration]" = ()
    tables: Sequence[Table] = ()
    galleries: Sequence[Gallery] = ()


def require_drawing() -> None:
    """Makes sure that figures can be drawn, before hours are spent on what they show.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    from steadylens.report import figures  # noqa: F401, PLC0415


def write_report(records: Sequence[Measurement], path: Path) -> None:
    """Writes the tables and figures that the records allow for as one self-contained HTML file.

    Args:
        records: Rows of one recipe and data, of any kinds; what there are no rows for is left out. Tables and
            figures are of the seed that comes first, but for the spread over seeds.
        path: The file to write.

    Raises:
        RecordError: If there are no records, or they are of more than one recipe or data.
        MissingExtraError: If matplotlib is not installed.
        StorageError: If the file cannot be written.
    """
    _check(records)
    shown = first_run(records)
    environment = Environment(
        loader=PackageLoader("steadylens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        run=records[0].provenance,
        facts=facts(shown),
        sections=_sections(shown, spread_tables(records)),
        provenance=_provenance(records),
        measurements=_measurements(records),
        citation=CITATION,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_tables(records: Sequence[Measurement], path: Path) -> None:
    """Writes the tables that the records allow for as Markdown.

    Args:
        records: Rows of one recipe and data, as for `write_report`.
        path: The file to write.

    Raises:
        RecordError: If there are no records, or they are of more than one recipe or data.
        StorageError: If the file cannot be written.
    """
    _check(records)
    makers = (training_tables, restoration_tables, accuracy_tables, stability_tables, cost_tables)
    tables = [table for make in makers for table in make(first_run(records))] + spread_tables(records)
    text = "\n".join(table.markdown() for table in tables)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check(records: Sequence[Measurement]) -> None:
    if not records:
        raise RecordError("there are no records to report; measure first, for example: steadylens evaluate")
    runs = unique((row.provenance.recipe, row.provenance.data) for row in records)
    if len(runs) > 1:
        names = "; ".join(f"recipe {recipe}, data {data}" for recipe, data in runs)
        raise RecordError(
            f"the records are of {len(runs)} runs ({names}); a report is of one, give only its rows"
        )


def _sections(records: Sequence[Measurement], spread: Sequence[Table]) -> list[Section]:
    """Returns the parts of the page that there are records for, in the paper's order."""
    # Tables alone shall do without matplotlib, which is optional.
    from steadylens.report import figures  # noqa: PLC0415

    sections = (
        Section(
            title="Method",
            lead="A small net restores an image before the classifier sees it. It learns from clean images "
            "that a degradation module spoils afresh at every step.",
            illustrations=figures.method_illustrations(records),
        ),
        Section(
            title="Training",
            lead="Restoration nets and classifier are trained apart; then the classifier is fine-tuned "
            "behind the frozen restoration net.",
            illustrations=figures.training_illustrations(records),
            tables=training_tables(records),
        ),
        Section(
            title="Restoration",
            lead="How close each net brings noisy images to the clean ones, and whether noise shrinks in it.",
            illustrations=figures.restoration_illustrations(records),
            tables=restoration_tables(records),
        ),
        Section(
            title="Accuracy",
            lead="What the restoration net does to the answers on images without noise.",
            tables=accuracy_tables(records),
        ),
        Section(
            title="Stability",
            lead="How often an answer stays right when Gaussian noise comes in.",
            illustrations=figures.stability_illustrations(records),
            tables=stability_tables(records),
        ),
        Section(
            title="Spread",
            lead="How far the numbers depend on the luck of one training.",
            tables=spread,
        ),
        Section(
            title="Cost",
            lead="What each network takes to run and to train.",
            tables=cost_tables(records),
        ),
        Section(
            title="Pictures",
            lead="Single images, every pixel enlarged to a square.",
            galleries=_galleries(records),
        ),
    )
    return [section for section in sections if section.illustrations or section.tables or section.galleries]


def _galleries(records: Sequence[Measurement]) -> list[Gallery]:
    groups: dict[int | str, list[Picture]] = {**grouped(select(records, Picture), by=lambda row: row.figure)}
    return [
        Gallery(
            title=GALLERIES[figure][0],
            caption=GALLERIES[figure][1],
            source=source(groups[figure], count="image in each row"),
            pictures=groups[figure],
        )
        for figure in GALLERIES
        if figure in groups
    ]


def _provenance(records: Sequence[Measurement]) -> list[tuple[str, str]]:
    origins = unique(row.provenance for row in records)
    versions = unique(pair for origin in origins for pair in origin.versions)
    return [
        ("recipe", origins[0].recipe),
        ("seed", str(origins[0].seed)),
        ("data", origins[0].data),
        ("commit", ", ".join(unique(origin.commit for origin in origins))),
        ("device", ", ".join(unique(origin.device for origin in origins))),
        ("versions", ", ".join(f"{library} {version}" for library, version in versions)),
    ]


def _measurements(records: Sequence[Measurement]) -> Table:
    """Lists what was measured. Rows that were measured together bear the same time, which counts once."""
    groups = grouped(records, by=lambda row: type(row).__name__)
    lines = [
        line(kind, f"{len(rows):,}", span(row.samples for row in rows), _time(rows))
        for kind, rows in groups.items()
    ]
    return Table(
        title="What was measured",
        caption="The kinds of record behind this page, what a row of each counts over, and what training and "
        "measuring took; what was measured together shares its time.",
        source="",
        header=("kind", "rows", "samples in a row", "time"),
        lines=(*lines, line("together", f"{len(records):,}", "", _time(records))),
    )


def _time(rows: Sequence[Measurement]) -> str:
    return duration(sum({row.seconds for row in rows}))
