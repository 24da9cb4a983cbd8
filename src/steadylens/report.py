"""Records -> one page that anyone can open, or its tables as Markdown. Needs the records alone, no net."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from steadylens.errors import RecordError
from steadylens.files import replacing
from steadylens.paper import CITATION
from steadylens.records import Measurement, Picture
from steadylens.restorationtables import restoration_tables
from steadylens.spread import spread_tables
from steadylens.summary import facts
from steadylens.tables import Table, duration, first_run, grouped, line, select, source, span, unique
from steadylens.tabulation import accuracy_tables, cost_tables, stability_tables, training_tables

if TYPE_CHECKING:
    from steadylens.illustrations import Illustration

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
    from steadylens import illustrations  # noqa: F401, PLC0415


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
        loader=PackageLoader("steadylens"),
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
    from steadylens import illustrations  # noqa: PLC0415

    sections = (
        Section(
            title="Method",
            lead="A small net restores an image before the classifier sees it. It learns from clean images "
            "that a degradation module spoils afresh at every step.",
            illustrations=illustrations.method_illustrations(records),
        ),
        Section(
            title="Training",
            lead="Restoration nets and classifier are trained apart; then the classifier is fine-tuned "
            "behind the frozen restoration net.",
            illustrations=illustrations.training_illustrations(records),
            tables=training_tables(records),
        ),
        Section(
            title="Restoration",
            lead="How close each net brings noisy images to the clean ones, and whether noise shrinks in it.",
            illustrations=illustrations.restoration_illustrations(records),
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
            illustrations=illustrations.stability_illustrations(records),
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
