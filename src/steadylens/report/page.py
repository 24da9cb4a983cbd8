"""Writes a report from records: one HTML page, or its tables as Markdown. No net is needed."""

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
from steadylens.report.class_tables import class_tables, doubts
from steadylens.report.decision import decision_tables
from steadylens.report.noise_names import noise_words, only_gaussian
from steadylens.report.paper import (
    ALONE,
    CITATION,
    IN_TABLE_3,
    ORIGINAL,
    RESTORED,
    TABLE_3,
    TABLE_4,
    TOGETHER,
)
from steadylens.report.paper_tables import (
    accuracy_tables,
    cost_tables,
    difference_tables,
    overall,
    restoration_tables,
    stability_tables,
    training_tables,
    variation_tables,
)
from steadylens.report.stress.certificates import (
    certificate_illustrations,
    certificate_tables,
    certificates_lead,
)
from steadylens.report.stress.stress_tables import (
    attack_lead,
    attack_tables,
    corruption_lead,
    corruption_tables,
)
from steadylens.report.tables import (
    SIGMA,
    Table,
    duration,
    first_run,
    grouped,
    percent,
    select,
    source,
    span,
    text_row,
    unique,
)

if TYPE_CHECKING:
    from steadylens.report.drawing import Illustration


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One of the main numbers at the top of the page, before and after restoration."""

    name: str
    before: str
    after: str
    unit: str
    note: str


def facts(records: Sequence[Measurement]) -> list[Fact]:
    """Returns the main numbers that there are records for."""
    return [*_accuracy_facts(records), *_stability_facts(records), *_restoration_facts(records)]


def _accuracy_facts(records: Sequence[Measurement]) -> list[Fact]:
    top1 = {record.network: record for record in select(records, Accuracy) if record.k == 1}
    if (pair := _compared(top1)) is None:
        return []
    before, after = (percent(top1[name].correct / top1[name].samples, digits=2) for name in pair)
    note = f"top-1, {' and '.join(pair)}"
    if pair == (ORIGINAL, RESTORED):
        paper = " and ".join(f"{TABLE_3[IN_TABLE_3[name]].top1_percent:.2f}" for name in pair)
        note = f"top-1, original and fused network; paper {paper}"
    return [Fact(name="Accuracy on clean images", before=before, after=after, unit="%", note=note)]


def _stability_facts(records: Sequence[Measurement]) -> list[Fact]:
    own = [record for record in select(records, Stability) if record.population == "own"]
    found = []
    for noise, some in grouped(own, by=lambda record: record.noise).items():
        if (pair := _compared(record.network for record in some)) is None:
            continue
        means = [overall([record for record in some if record.network == name]) for name in pair]
        if None in means:
            continue
        before, after = (percent(mean, digits=2) for mean in means)
        words = noise_words(noise)
        note = f"overall, {' and '.join(pair)}, each on what it gets right when clean; noise {words.storage}"
        if pair == (ORIGINAL, RESTORED) and words.gaussian:
            paper = " and ".join(f"{TABLE_4[name].overall_percent:.1f}" for name in pair)
            note = (
                f"overall, original and fused network, each on what it gets right when clean; noise {noise}; "
                f"paper {paper}"
            )
        name = f"Stability under {'' if only_gaussian(own) else f'{words.name} '}noise"
        found.append(Fact(name=name, before=before, after=after, unit="%", note=note))
    return found


def _compared(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the two networks that the page compares: the classifier alone, and behind the restorer."""
    found = unique(names)
    if {ORIGINAL, TOGETHER} <= set(found):
        return ORIGINAL, TOGETHER
    if {ORIGINAL, RESTORED} <= set(found):
        return ORIGINAL, RESTORED
    others = [name for name in found if name != ALONE]
    return (ALONE, others[0]) if ALONE in found and others else None


def _restoration_facts(records: Sequence[Measurement]) -> list[Fact]:
    finite = [record for record in select(records, Restoring) if isfinite(record.noisy_db)]
    noisy = [record for record in finite if record.sigma_grey > 0]
    by_noise = grouped(noisy, by=lambda record: record.noise)
    return [_restoration_fact(noise, some) for noise, some in by_noise.items()]


def _restoration_fact(noise: str, records: Sequence[Restoring]) -> Fact:
    nets = grouped(records, by=lambda record: record.network)
    best = max(nets, key=lambda name: fmean(record.restored_db for record in nets[name]))
    gains = {record.sigma_grey: record.restored_db - record.noisy_db for record in nets[best]}
    least = min(gains, key=gains.__getitem__)
    return Fact(
        name="Restoration",
        before=f"{fmean(record.noisy_db for record in nets[best]):.1f}",
        after=f"{fmean(record.restored_db for record in nets[best]):.1f}",
        unit="dB",
        note=f"mean PSNR, noisy and after {best}; noise {noise}; the least gain is {gains[least]:+z.2f} dB, "
        f"at {SIGMA} = {least:g}",
    )


GALLERIES: dict[int | str, tuple[str, str]] = {
    2: (
        "Figure 2. What the restoration net does",
        "Images of several classes, with the pattern that the net adds.",
    ),
    4: (
        "Figure 4. Answers corrected by restoration",
        "Images that the original network gets wrong and the fused network gets right.",
    ),
    "saved": (
        "Answers corrected by restoration",
        "Noisy images that the classifier gets wrong alone and right behind the restorer: the noisy image "
        "with the answer of the classifier alone, and the restored image with the answer of both.",
    ),
    "lost": (
        "Answers spoiled by restoration",
        "Noisy images that the classifier gets right alone and wrong behind the restorer.",
    ),
}
"""Title and caption for each value of `Picture.figure`, in the order of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Rows of sample images."""

    title: str
    caption: str
    source: str
    pictures: Sequence[Picture]

    @property
    def columns(self) -> int:
        """Number of images in the longest row."""
        return max(len(picture.panels) for picture in self.pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        lead: What the section is about, in one sentence, or in as many as a guarantee needs.
        warnings: Why its numbers may be wrong, one sentence each.
    """

    title: str
    lead: str
    warnings: Sequence[str] = ()
    illustrations: "Sequence[Illustration]" = ()
    tables: Sequence[Table] = ()
    galleries: Sequence[Gallery] = ()


def require_drawing() -> None:
    """Checks that figures can be drawn, before hours of measuring.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    from steadylens.report import figures  # noqa: F401, PLC0415


def write_report(records: Sequence[Measurement], path: Path) -> None:
    """Writes tables and figures as one self-contained HTML file.

    Args:
        records: Records of one recipe and data, of any types; sections without records are left out. Tables
            and figures show the first seed, except for the variation over seeds.
        path: The file to write.

    Raises:
        RecordError: If there are no records, or they are from more than one recipe or data set.
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
        sections=_sections(shown, variation_tables(records)),
        provenance=_provenance(records),
        measurements=_measurements(records),
        citation=CITATION,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_tables(records: Sequence[Measurement], path: Path) -> None:
    """Writes the tables as Markdown.

    Args:
        records: Records of one recipe and data, as for `write_report`.
        path: The file to write.

    Raises:
        RecordError: If there are no records, or they are from more than one recipe or data set.
        StorageError: If the file cannot be written.
    """
    _check(records)
    makers = (
        decision_tables,
        training_tables,
        restoration_tables,
        accuracy_tables,
        class_tables,
        stability_tables,
        difference_tables,
        certificate_tables,
        corruption_tables,
        attack_tables,
        cost_tables,
    )
    tables = [table for make in makers for table in make(first_run(records))] + variation_tables(records)
    text = "\n".join(table.markdown() for table in tables)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check(records: Sequence[Measurement]) -> None:
    if not records:
        raise RecordError("there are no records to report; measure first, for example: steadylens evaluate")
    runs = unique((record.provenance.recipe, record.provenance.data) for record in records)
    if len(runs) > 1:
        names = "; ".join(f"recipe {recipe}, data {data}" for recipe, data in runs)
        raise RecordError(
            f"the records are of {len(runs)} runs ({names}); a report shows one run, give only its records"
        )


def _sections(records: Sequence[Measurement], variation: Sequence[Table]) -> list[Section]:
    """Returns the sections that there are records for: the summary, then the rest in the paper's order."""
    # matplotlib is optional, and tables do not need it.
    from steadylens.report import figures  # noqa: PLC0415
    from steadylens.report.stress import stress_figures  # noqa: PLC0415

    sections = (
        Section(
            title="Summary",
            lead="What a restorer in front of the classifier gains and what it costs, question by question. "
            "The sections below have the details.",
            warnings=doubts(records),
            tables=decision_tables(records),
        ),
        Section(
            title="Method",
            lead="A small net restores an image before the classifier sees it. It learns from clean images "
            "to which a degradation module adds new noise at every step.",
            illustrations=figures.method_illustrations(records),
        ),
        Section(
            title="Training",
            lead="Restoration nets and classifier are trained separately; then the classifier is fine-tuned "
            "behind the frozen restoration net.",
            illustrations=figures.training_illustrations(records),
            tables=training_tables(records),
        ),
        Section(
            title="Restoration",
            lead="How close each net brings noisy images to the clean ones, and whether noise gets smaller.",
            illustrations=figures.restoration_illustrations(records),
            tables=restoration_tables(records),
        ),
        Section(
            title="Accuracy",
            lead="How the restoration net changes the answers on images without noise.",
            warnings=doubts(records),
            illustrations=figures.accuracy_illustrations(records),
            tables=[*accuracy_tables(records), *class_tables(records)],
        ),
        Section(
            title="Stability",
            lead="How often an answer stays right when "
            f"{'Gaussian ' if only_gaussian(select(records, Stability)) else ''}noise is added.",
            illustrations=figures.stability_illustrations(records),
            tables=[*stability_tables(records), *difference_tables(records)],
        ),
        Section(
            title="Certificates",
            lead=certificates_lead(records),
            illustrations=certificate_illustrations(records),
            tables=certificate_tables(records),
        ),
        Section(
            title="Corruptions",
            lead=corruption_lead(records),
            illustrations=stress_figures.corruption_illustrations(records),
            tables=corruption_tables(records),
        ),
        Section(
            title="Attacks",
            lead=attack_lead(records),
            illustrations=stress_figures.attack_illustrations(records),
            tables=attack_tables(records),
        ),
        Section(
            title="Variation",
            lead="How much the numbers change when networks are trained with another seed.",
            tables=variation,
        ),
        Section(
            title="Cost",
            lead="What each network takes to run and to train.",
            tables=cost_tables(records),
        ),
        Section(
            title="Samples",
            lead="Single images, with every pixel enlarged to a square.",
            galleries=_galleries(records),
        ),
    )
    return [section for section in sections if section.illustrations or section.tables or section.galleries]


def _galleries(records: Sequence[Measurement]) -> list[Gallery]:
    pictures = select(records, Picture)
    groups: dict[int | str, list[Picture]] = {**grouped(pictures, by=lambda record: record.figure)}
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
    origins = unique(record.provenance for record in records)
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
    """Lists what was measured. Records that were measured together have the same time, which counts once."""
    groups = grouped(records, by=lambda record: type(record).__name__)
    rows = [
        text_row(name, f"{len(some):,}", span(record.samples for record in some), _time(some))
        for name, some in groups.items()
    ]
    return Table(
        title="What was measured",
        caption="The records behind this page by type, the number of samples that each counts over, and the "
        "time of training and measuring; records that were measured together share their time.",
        source="",
        header=("type", "records", "samples in a record", "time"),
        rows=(*rows, text_row("together", f"{len(records):,}", "", _time(records))),
    )


def _time(records: Sequence[Measurement]) -> str:
    return duration(sum({record.seconds for record in records}))
