"""Shows within which radius networks provably keep their answers: a table, and curves by radius."""

from collections.abc import Iterable, Sequence
from statistics import NormalDist, fmean, median
from typing import TYPE_CHECKING

import numpy as np

from steadylens.intervals import wilson_interval
from steadylens.records import Certificate, Measurement
from steadylens.report.tables import (
    DASH,
    SIGMA,
    Cell,
    Table,
    TableRow,
    grouped,
    percent,
    select,
    source,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from steadylens.report.drawing import Illustration

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The Euclidean radii of the table, for images in [0, 1]."""

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"

LAST_COLUMNS = ("abstains", "median radius", "mean radius")

MOST_PANELS_IN_A_ROW = 3

_CURVE_POINTS = 301
"""How many radii a curve is drawn at."""

GUARANTEE = (
    "What is certified is the smoothed network, which answers what the network answers most often when "
    "Gaussian noise is added to the image; the network's own answer to the image is not. A certificate "
    "guarantees that no change of the image, by chance or on purpose, changes the smoothed answer, if the "
    "Euclidean norm of the change, over all pixels and channels with values in [0, 1], is below the "
    "certified radius. It says nothing of larger changes, which blur, rain or another view mostly are. {risk}"
)


def certificates_lead(records: Sequence[Measurement]) -> str:
    """Returns in plain words what the certificates of a report guarantee, and how surely."""
    alphas = sorted({record.alpha for record in latest_certificates(records)})
    shares = " or ".join(f"{100 * alpha:g} %" for alpha in alphas)
    risk = f"Each certificate is wrong with a probability of at most {shares}." if alphas else ""
    return GUARANTEE.format(risk=risk).strip()


def latest_certificates(records: Sequence[Measurement]) -> list[Certificate]:
    """Returns the latest record of each network and strength of noise, by strength and then by network."""
    found = {(record.sigma, record.network): record for record in select(records, Certificate)}
    return sorted(found.values(), key=lambda record: record.sigma)


def certified_accuracy(record: Certificate, radius: float) -> tuple[int, int]:
    """Counts the images whose answer is right and certified to stay so within a radius.

    Args:
        record: The certificates of one network.
        radius: Euclidean radius, for images in [0, 1]. For 0 it is the accuracy of the smoothed network on
            the images as they are, where abstaining counts as wrong.

    Returns:
        The number of those images, and the number of all.
    """
    right = sum(answer == label and reach >= radius for _, label, answer, _, reach in record.images)
    return right, len(record.images)


def proven_radii(record: Certificate) -> dict[int, float]:
    """Returns the certified radius of each image by its index, 0 where the answer is wrong or there is none.

    Their mean is the average certified radius of Zhai et al., "MACER", ICLR 2020.
    """
    return {index: reach if answer == label else 0.0 for index, label, answer, _, reach in record.images}


def largest_radius(record: Certificate) -> float:
    """Returns the largest radius that can be certified with so many versions: if all get one answer."""
    return record.sigma * NormalDist().inv_cdf(record.alpha ** (1 / record.versions))


def certificate_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table of certified accuracy, if there are records for it."""
    if not (shown := latest_certificates(records)):
        return []
    return [_certified_table(shown)]


def _certified_table(records: Sequence[Certificate]) -> Table:
    best = {}  # by strength and radius, where networks differ
    for sigma, some in grouped(records, by=lambda record: record.sigma).items():
        for radius in RADII:
            counts = {certified_accuracy(record, radius)[0] for record in some}
            if len(counts) > 1:
                best[sigma, radius] = max(counts)
    rows = []
    for record in records:
        cells = [
            _accuracy_cell(record, radius, best=best.get((record.sigma, radius), -1)) for radius in RADII
        ]
        radii = [*proven_radii(record).values()]
        abstained = sum(answer < 0 for _, _, answer, _, _ in record.images)
        cells += [
            _share_cell(abstained, len(radii)),
            Cell(text=f"{median(radii):.3f}"),
            Cell(text=f"{fmean(radii):.3f}"),
        ]
        rows.append(TableRow(cells=(Cell(text=f"{record.network}, {SIGMA} = {record.sigma:g}"), *cells)))
    return Table(
        title="Certified accuracy",
        caption="Share of the images, in per cent, whose smoothed answer is right and provably stays so "
        f"under every change with a Euclidean norm below the radius; {SIGMA} is that of the smoothing noise, "
        "for values in [0, 1]. At radius 0 it is the smoothed network's accuracy on unchanged images; "
        "abstaining counts as wrong. The last columns have the share of images where the network abstains, "
        f"and the median and the mean radius of right answers, 0 for wrong ones and where it abstains (the "
        f"mean is known as average certified radius). {DASH} marks radii that "
        "so many noisy versions cannot certify, whatever the network.",
        notes_caption="Small numbers are 95 % Wilson intervals over the images.",
        source=f"{_samples(records)} {source(records, count='test images')}",
        header=("network", *(f"radius {radius:g}" for radius in RADII), *LAST_COLUMNS),
        rows=tuple(rows),
    )


def _accuracy_cell(record: Certificate, radius: float, *, best: int) -> Cell:
    if radius > largest_radius(record):
        return Cell(text=DASH)
    right, images = certified_accuracy(record, radius)
    return _share_cell(right, images, best=right == best)


def _share_cell(count: int, images: int, *, best: bool = False) -> Cell:
    """Returns a share of the images in per cent, with its Wilson interval."""
    lower, upper = (percent(end, digits=1) for end in wilson_interval(count, images))
    return Cell(text=percent(count / images, digits=1), note=f"{lower}{DASH}{upper}", best=best)


def _samples(records: Sequence[Certificate]) -> str:
    """Returns in a sentence how many noisy versions were classified."""
    kinds = dict.fromkeys(
        (record.first_versions, record.versions, record.alpha, record.precision) for record in records
    )
    texts = [
        f"{first:,} noisy versions of each image choose the answer and {versions:,} bound its probability, "
        f"{ALPHA} = {alpha:g}, networks in {precision}"
        for first, versions, alpha, precision in kinds
    ]
    return f"{'; or '.join(texts)}."


def certificate_illustrations(records: Sequence[Measurement]) -> "list[Illustration]":
    """Draws certified accuracy by radius, if there are records for it."""
    if not (shown := latest_certificates(records)):
        return []
    from steadylens.report.drawing import Illustration, encoded  # noqa: PLC0415 - matplotlib is optional

    drawn = Illustration(
        title="Certified accuracy by radius",
        caption="Share of the images whose smoothed answer is right and certified at least to this radius, "
        f"for each {SIGMA} of the smoothing noise; bands are 95 % Wilson intervals. A curve ends at the "
        "largest radius that so many noisy versions can certify.",
        source=f"{_samples(shown)} {source(shown, count='test images in each curve')}",
        image=encoded(certified_curves(shown)),
    )
    return [drawn]


def certified_curves(records: Sequence[Certificate]) -> "Figure":
    """Draws each network's certified accuracy against the radius, one panel for each strength of noise."""
    from steadylens.report import drawing  # noqa: PLC0415 - matplotlib is optional

    by_sigma = grouped(records, by=lambda record: record.sigma)
    columns = min(MOST_PANELS_IN_A_ROW, len(by_sigma))
    figure, panels = drawing.grid(len(by_sigma), columns=columns, height=3.6)
    styles = drawing.line_styles(dict.fromkeys(record.network for record in records))
    for axes, (sigma, some) in zip(panels, by_sigma.items(), strict=True):
        for place, record in enumerate(some):
            radii, counts = _curve(record)
            images, style = len(record.images), styles[record.network]
            lower, upper = np.transpose([wilson_interval(count, images) for count in counts])
            axes.fill_between(radii, 100 * lower, 100 * upper, color=style["color"], alpha=0.15, linewidth=0)
            shares = [100 * count / images for count in counts]
            between = _CURVE_POINTS // 6
            start = place * between // len(some)  # the markers of networks with equal curves stay apart
            axes.plot(radii, shares, label=record.network, markevery=(start, between), **style)
        axes.set(xlim=(0, None), ylim=(0, 101))
        drawing.style_axes(axes, title=f"$\\sigma$ = {sigma:g}")
    drawing.shared_labels(figure, "Euclidean radius, for values in [0, 1]", "certified accuracy (%)")
    drawing.common_legend(figure, _one_line_of_each(line for axes in panels for line in axes.lines))
    return figure


def _curve(record: Certificate) -> tuple[list[float], list[int]]:
    """Returns radii up to the largest, and how many answers are right and certified to each; then none is."""
    reaches = sorted(reach for _, label, answer, _, reach in record.images if answer == label)
    end = max(largest_radius(record), *reaches) if reaches else largest_radius(record)
    radii = np.linspace(0, end, _CURVE_POINTS)
    counts = len(reaches) - np.searchsorted(reaches, radii, side="left")
    return [*radii.tolist(), end], [*counts.tolist(), 0]


def _one_line_of_each(lines: "Iterable[Line2D]") -> "list[Line2D]":
    """Returns one line for each network, as a network may lack in a panel."""
    return list({str(line.get_label()): line for line in lines}.values())
