"""Records -> tables of classifiers: the paper's Tables 3 and 4 with its rows beside ours, and those it lacks.

Where a row was measured twice, the later one counts.
"""

from collections.abc import Iterable, Sequence

from steadylens.networks import IN_TABLE_3, IN_TABLE_4
from steadylens.paper import SIGMAS_GREY, TABLE_3, TABLE_4
from steadylens.records import (
    Accuracy,
    Comparison,
    Cost,
    Curve,
    Measurement,
    Stability,
)
from steadylens.tables import (
    DASH,
    SIGMA,
    Cell,
    Line,
    Table,
    duration,
    grouped,
    largest,
    line,
    percent,
    select,
    source,
    span,
    unique,
)

INTERVALS = "Beneath stands the 95 % Wilson interval."

POPULATIONS = {"own": "the images that each network classifies correctly when clean", "all": "all images"}


def training_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table of training stages, if there are any."""
    curves = [curve for curve in select(records, Curve) if curve.steps]
    return [training_table(curves)] if curves else []


def accuracy_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes Table 3 and the comparisons of its rows, if there are any."""
    accuracies, comparisons = select(records, Accuracy), select(records, Comparison)
    tables = [accuracy_table(accuracies)] if accuracies else []
    return [*tables, comparison_table(comparisons)] if comparisons else tables


def stability_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes Table 4 once for each way of storing: on each network's own images, then on all images."""
    rows = select(records, Stability)
    groups = grouped(rows, by=lambda row: (row.noise, row.population))
    return [stability_table(groups[key]) for key in sorted(groups, key=lambda key: key[1] == "all")]


def cost_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes a table of costs for each size of image."""
    return [cost_table(rows) for rows in grouped(select(records, Cost), by=lambda row: row.size).values()]


def training_table(curves: Sequence[Curve]) -> Table:
    """Lists how long each stage of training took and where its loss began and ended."""
    return Table(
        title="Training stages",
        caption="The first and the last loss are means over the steps up to the first, and since the last "
        "but one, point of the stage's curve.",
        source=source(curves, count="images in a stage"),
        header=("stage", "steps", "time", "first loss", "last loss"),
        lines=tuple(
            line(
                curve.stage, f"{curve.steps[-1]:,}", duration(curve.seconds),
                f"{curve.losses[0]:.4g}", f"{curve.losses[-1]:.4g}",
            )
            for curve in curves
        ),
    )  # fmt: skip


def accuracy_table(rows: Sequence[Accuracy]) -> Table:
    """Lists top-k accuracy on clean images, beside the paper's Table 3."""
    ks = sorted({row.k for row in rows})
    found = {(row.network, row.k): row for row in rows}
    by_k = grouped(found.values(), by=lambda row: row.k)
    best = {k: largest(map(_share, some)) for k, some in by_k.items()}
    lines = []
    for name in unique(row.network for row in rows):
        cells = (_share_cell(found.get((name, k)), best[k], digits=2) for k in ks)
        lines.append(Line(cells=(Cell(text=name), *cells)))
        if printed := TABLE_3.get(IN_TABLE_3.get(name, name)):
            paper = {1: printed.top1_percent, 2: printed.top2_percent, 5: printed.top5_percent}
            lines.append(_printed_line((paper.get(k) for k in ks), digits=2))
    return Table(
        title="Table 3. Accuracy on clean images",
        caption="Share of the test images, in per cent, with the label among the first k answers.",
        beneath=INTERVALS,
        source=source(rows, count="test images"),
        header=("network", *(f"top-{k}" for k in ks)),
        lines=tuple(lines),
    )


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """Lists McNemar's test of each pair of networks."""
    pairs = {(row.first, row.second): row for row in rows}.values()
    return Table(
        title="Paired comparisons on clean images",
        caption="McNemar's exact test looks at the images that only one of two networks gets right; a small "
        "p says that chance alone would hardly make such a difference.",
        source=source(rows, count="test images"),
        header=("networks", "only the first right", "only the second right", "p"),
        lines=tuple(_comparison_line(row) for row in pairs),
    )


def stability_table(rows: Sequence[Stability]) -> Table:
    """Lists accuracy under Gaussian noise for one storage and population, beside the paper's Table 4."""
    population = rows[0].population
    sigmas = sorted({row.sigma_grey for row in rows})
    found = {(row.network, row.sigma_grey): row for row in rows}
    by_sigma = grouped(found.values(), by=lambda row: row.sigma_grey)
    best = {sigma: largest(map(_share, some)) for sigma, some in by_sigma.items()}
    means = {name: overall(some) for name, some in grouped(rows, by=lambda row: row.network).items()}
    lines = []
    for name, mean in means.items():
        cells = [_share_cell(found.get((name, sigma)), best[sigma], digits=1) for sigma in sigmas]
        cells.append(Cell(text=percent(mean, digits=2), best=mean == largest(means.values())))
        lines.append(Line(cells=(Cell(text=name), *cells)))
        printed = TABLE_4.get(IN_TABLE_4.get(name, name))
        if printed and population == "own":
            paper: dict[float, float] = dict(zip(SIGMAS_GREY, printed.percent, strict=True))
            values = (*(paper.get(sigma) for sigma in sigmas), printed.overall_percent)
            lines.append(_printed_line(values, digits=1))
    return Table(
        title=f"Table 4. Accuracy under Gaussian noise ({rows[0].noise}), on {POPULATIONS[population]}",
        caption=f"In per cent, by {SIGMA} of the noise in grey levels of 255; overall is the mean over the "
        "strengths above 0.",
        beneath=INTERVALS,
        source=source(rows, count=f"noisy images in each cell, of {span(row.images for row in rows)} images"),
        header=("network", *(f"{sigma:g}" for sigma in sigmas), "overall"),
        lines=tuple(lines),
    )


def cost_table(rows: Sequence[Cost]) -> Table:
    """Lists what each network costs on images of one size."""
    size = rows[0].size
    batches = sorted({row.samples for row in rows})
    columns = (f"milliseconds in batches of {batch}" for batch in batches)
    times = {(row.network, row.samples): f"{row.milliseconds:.3g}" for row in rows}
    return Table(
        title=f"Cost for images of {size} x {size} pixels",
        caption="Multiply-adds and time are for one image; training is the time of all stages together.",
        source=f"On {', '.join(unique(row.provenance.device for row in rows))}. "
        + source(rows, count="images in a batch"),
        header=("network", "parameters", "million multiply-adds", *columns, "training"),
        lines=tuple(
            line(
                name,
                f"{some[0].parameters:,}",
                f"{some[0].multiplications / 1e6:,.1f}",
                *(times.get((name, batch), DASH) for batch in batches),
                duration(some[0].training_seconds) if some[0].training_seconds else DASH,
            )
            for name, some in grouped(rows, by=lambda row: row.network).items()
        ),
    )


def overall(rows: Sequence[Stability]) -> float | None:
    """Returns one network's mean accuracy over the strengths above 0, if there are any."""
    shares = {row.sigma_grey: _share(row) for row in rows if row.sigma_grey > 0}
    return sum(shares.values()) / len(shares) if shares else None


def _share(row: Accuracy | Stability) -> float:
    return row.correct / row.samples


def _share_cell(row: Accuracy | Stability | None, best: float | None, *, digits: int) -> Cell:
    if row is None:
        return Cell(text=DASH)
    interval = f"{percent(row.lower, digits=digits)}{DASH}{percent(row.upper, digits=digits)}"
    return Cell(text=percent(_share(row), digits=digits), note=interval, best=_share(row) == best)


def _comparison_line(row: Comparison) -> Line:
    pair = f"{row.first} against {row.second}"
    return line(pair, f"{row.only_first:,}", f"{row.only_second:,}", f"{row.p_value:.2g}")


def _printed_line(percentages: Iterable[float | None], *, digits: int) -> Line:
    texts = (DASH if value is None else f"{value:.{digits}f}" for value in percentages)
    return line("in the paper", *texts, printed=True)
