"""Records -> the paper's tables with its numbers beside ours, and those it lacks.

Where a row was measured twice, the later one counts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev

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
)
from steadylens.report.paper import IN_TABLE_3, IN_TABLE_4, SIGMAS_GREY, TABLE_2, TABLE_3, TABLE_4
from steadylens.report.tables import (
    DASH,
    NORM,
    NU,
    SIGMA,
    Cell,
    Line,
    Table,
    decibels,
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


def restoration_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the tables about restoration, once for each way in which noisy images were stored."""
    contractions = grouped(select(records, Contraction), by=lambda row: row.noise).values()
    return [
        *map(restoration_table, grouped(select(records, Restoring), by=lambda row: row.noise).values()),
        *map(hits_table, grouped(select(records, Hits), by=lambda row: row.noise).values()),
        *map(contraction_table, contractions),
        *map(contraction_by_norm_table, contractions),
    ]


def restoration_table(rows: Sequence[Restoring]) -> Table:
    """Lists the PSNR after each net and its gain, for one way of storing noisy images."""
    sigmas = sorted({row.sigma_grey for row in rows})
    found = {(row.network, row.sigma_grey): row for row in rows}
    networks = unique(row.network for row in rows)
    noisy = {row.sigma_grey: row.noisy_db for row in rows}
    lines = [line("noisy images", *(decibels(noisy[sigma]) for sigma in sigmas))]
    by_sigma = grouped(found.values(), by=lambda row: row.sigma_grey)
    best = {sigma: largest(row.restored_db for row in some) for sigma, some in by_sigma.items()}
    for name in networks:
        cells = (_restored_cell(found.get((name, sigma)), best[sigma]) for sigma in sigmas)
        lines.append(Line(cells=(Cell(text=name), *cells)))
    return Table(
        title="Restoration of Gaussian noise",
        caption=f"Mean PSNR in dB after each net, by {SIGMA} of the noise in grey levels of 255; {SIGMA} = 0 "
        "are clean images. Images that come back without any error have no finite PSNR and are left out.",
        beneath="Beneath stands the gain over the noisy images.",
        source=source(rows, count="images in each cell"),
        header=("network", *(f"{SIGMA} = {sigma:g}" for sigma in sigmas)),
        lines=tuple(lines),
    )


def hits_table(rows: Sequence[Hits]) -> Table:
    """Lists how often each net restored best, beside the paper's Table 2."""
    latest = {row.network: row for row in rows}.values()
    best = largest(row.top1 for row in latest), largest(row.top2 for row in latest)
    printed_samples = sum(row.top1 for row in TABLE_2.values())
    lines = []
    for row in latest:
        cells = [Cell(text=row.network)]
        printed = TABLE_2.get(row.network)
        paper = (printed.top1, printed.top2) if printed else (None, None)
        for count, printed_count, most in zip((row.top1, row.top2), paper, best, strict=True):
            cells.append(Cell(text=f"{count:,}"))
            cells.append(Cell(text=percent(count / row.samples, digits=1), best=count == most))
            share = None if printed_count is None else printed_count / printed_samples
            cells.append(Cell(text=percent(share, digits=1)))
        lines.append(Line(cells=tuple(cells)))
    return Table(
        title="Table 2. Which net restores best",
        caption="How many noisy images each net gave the best PSNR (top-1), or one of the two best (top-2).",
        source=source(rows, count="noisy images"),
        header=("network", "top-1", "in %", "paper, %", "top-2", "in %", "paper, %"),
        lines=tuple(lines),
    )


def contraction_table(rows: Sequence[Contraction]) -> Table:
    """Lists quantiles of each net's contraction quotients."""
    probabilities = sorted({probability for row in rows for probability, _ in row.quantiles})
    lines = []
    for row in {row.network: row for row in rows}.values():
        quotients = dict(row.quantiles)
        texts = (f"{quotients[p]:.3f}" if p in quotients else DASH for p in probabilities)
        lines.append(line(row.network, *texts, f"{row.largest:.3f}"))
    return Table(
        title="Contraction",
        caption=f"Quantiles of {NORM}F(x + {NU}) - F(x){NORM} / {NORM}{NU}{NORM} over noisy images: below 1, "
        "noise leaves the net smaller than it entered.",
        source=source(rows, count="noisy images"),
        header=("network", *(f"{100 * probability:g} %" for probability in probabilities), "largest"),
        lines=tuple(lines),
    )


def contraction_by_norm_table(rows: Sequence[Contraction]) -> Table:
    """Lists the highest recorded quantile of each net's contraction quotients by the noise's norm."""
    edges = rows[0].norm_edges
    probability = rows[0].quantiles[-1][0]
    return Table(
        title="Contraction by the norm of the noise",
        caption=f"The {100 * probability:g} % quantile of the quotients, for noise whose norm "
        f"{NORM}{NU}{NORM} lies between the two numbers.",
        source=source(rows, count="noisy images"),
        header=("network", *(f"{low:.1f} to {high:.1f}" for low, high in pairwise(edges))),
        lines=tuple(
            line(name, *(f"{some[-1]:.3f}" if some else DASH for some in row.quantiles_by_norm))
            for name, row in {row.network: row for row in rows}.items()
        ),
    )


def _restored_cell(row: Restoring | None, best: float | None) -> Cell:
    if row is None:
        return Cell(text=DASH)
    gain = row.restored_db - row.noisy_db
    note = f"{gain:+z.2f}" if math.isfinite(gain) else ""
    return Cell(text=decibels(row.restored_db), note=note, best=row.restored_db == best)


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


MEAN_AND_DEVIATION = "{} \N{PLUS-MINUS SIGN} {}"


def spread_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table of mean and spread over seeds, if networks were trained with several.

    Args:
        records: Rows of one recipe and data, of any kinds and seeds.
    """
    latest = {_cell_of(row): row for row in records if isinstance(row, Accuracy | Stability)}.values()
    by_number = grouped(latest, by=lambda row: (row.network, getattr(row, "noise", None)))
    shown = [row for some in by_number.values() if _seeds(some) > 1 for row in some]
    if not shown:
        return []
    by_network = grouped(shown, by=lambda row: row.network)
    measured = {name: _numbers(some) for name, some in by_network.items()}
    columns = unique(column for numbers in measured.values() for column in numbers)
    table = Table(
        title="Spread over seeds",
        caption="In per cent: mean and standard deviation over the seeds with which the classifier was "
        "trained, and fine-tuned behind the same restorer.",
        beneath="Beneath stand the smallest and the largest.",
        source=source(shown, count="images or noisy images in a number"),
        header=("network", *columns),
        lines=tuple(_line(name, numbers, columns) for name, numbers in measured.items()),
    )
    return [table]


def _cell_of(row: Accuracy | Stability) -> tuple[object, ...]:
    """Returns what a row says, but for the number: of rows that say the same, the later one counts."""
    match row:
        case Accuracy():
            place: tuple[object, ...] = (row.k,)
        case Stability():
            place = (row.noise, row.population, row.sigma_grey)
    return row.network, row.provenance.seed, *place


def _seeds(rows: Sequence[Accuracy | Stability]) -> int:
    return len({row.provenance.seed for row in rows})


def _numbers(rows: Sequence[Accuracy | Stability]) -> Mapping[str, list[float]]:
    """Returns one network's numbers by what they say, one for each seed."""
    numbers: dict[str, list[float]] = {}
    for row in select(rows, Accuracy):
        if row.k == 1:
            numbers.setdefault("top-1, clean", []).append(row.correct / row.samples)
    cells = grouped(select(rows, Stability), by=lambda row: (row.noise, row.population, row.provenance.seed))
    for (noise, population, _), some in cells.items():
        if (mean := overall(some)) is not None:
            numbers.setdefault(f"overall, {population} images, {noise}", []).append(mean)
    return numbers


def _line(name: str, numbers: Mapping[str, list[float]], columns: Sequence[str]) -> Line:
    return Line(cells=(Cell(text=name), *(_cell(numbers.get(column, [])) for column in columns)))


def _cell(values: Sequence[float]) -> Cell:
    if len(values) < 2:
        return Cell(text=DASH)
    text = MEAN_AND_DEVIATION.format(percent(fmean(values), digits=2), percent(stdev(values), digits=2))
    low, high = percent(min(values), digits=2), percent(max(values), digits=2)
    return Cell(text=text, note=f"{low}{DASH}{high}")
