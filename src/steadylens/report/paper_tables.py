"""Makes tables from records: the paper's, with its numbers beside the measured ones, and some that it lacks.

Of two records that measure the same, the later one counts.
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
    NoisyComparison,
    Restoring,
    Stability,
)
from steadylens.report.noise_names import noise_words
from steadylens.report.paper import IN_TABLE_3, IN_TABLE_4, SIGMAS_GREY, TABLE_2, TABLE_3, TABLE_4
from steadylens.report.tables import (
    DASH,
    NORM,
    NU,
    SIGMA,
    Cell,
    Table,
    TableRow,
    decibels,
    duration,
    grouped,
    largest,
    percent,
    select,
    source,
    span,
    text_row,
    unique,
)


def restoration_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the tables about restoration, once for each noise mode."""
    contractions = grouped(select(records, Contraction), by=lambda record: record.noise).values()
    return [
        *map(restoration_table, grouped(select(records, Restoring), by=lambda record: record.noise).values()),
        *map(hits_table, grouped(select(records, Hits), by=lambda record: record.noise).values()),
        *map(contraction_table, contractions),
        *map(contraction_by_norm_table, contractions),
    ]


def restoration_table(records: Sequence[Restoring]) -> Table:
    """Lists the PSNR after each net and its gain, for one noise mode."""
    sigmas = sorted({record.sigma_grey for record in records})
    found = {(record.network, record.sigma_grey): record for record in records}
    networks = unique(record.network for record in records)
    noisy = {record.sigma_grey: record.noisy_db for record in records}
    rows = [text_row("noisy images", *(decibels(noisy[sigma]) for sigma in sigmas))]
    by_sigma = grouped(found.values(), by=lambda record: record.sigma_grey)
    best = {sigma: largest(record.restored_db for record in some) for sigma, some in by_sigma.items()}
    for name in networks:
        cells = (_restored_cell(found.get((name, sigma)), best[sigma]) for sigma in sigmas)
        rows.append(TableRow(cells=(Cell(text=name), *cells)))
    return Table(
        title="Restoration of Gaussian noise",
        caption=f"Mean PSNR in dB after each net, by {SIGMA} of the noise in grey levels of 255; {SIGMA} = 0 "
        "are clean images. Images that are restored without any error have infinite PSNR and are left out.",
        notes_caption="The second number is the gain over the noisy images.",
        source=source(records, count="images in each cell"),
        header=("network", *(f"{SIGMA} = {sigma:g}" for sigma in sigmas)),
        rows=tuple(rows),
    )


def hits_table(records: Sequence[Hits]) -> Table:
    """Lists how often each net restored best, next to the paper's Table 2."""
    latest = {record.network: record for record in records}.values()
    best = largest(record.top1 for record in latest), largest(record.top2 for record in latest)
    printed_samples = sum(record.top1 for record in TABLE_2.values())
    rows = []
    for record in latest:
        cells = [Cell(text=record.network)]
        printed = TABLE_2.get(record.network)
        paper = (printed.top1, printed.top2) if printed else (None, None)
        for count, printed_count, most in zip((record.top1, record.top2), paper, best, strict=True):
            cells.append(Cell(text=f"{count:,}"))
            cells.append(Cell(text=percent(count / record.samples, digits=1), best=count == most))
            share = None if printed_count is None else printed_count / printed_samples
            cells.append(Cell(text=percent(share, digits=1)))
        rows.append(TableRow(cells=tuple(cells)))
    return Table(
        title="Table 2. Which net restores best",
        caption="How many noisy images each net gave the best PSNR (top-1), or one of the two best (top-2).",
        source=source(records, count="noisy images"),
        header=("network", "top-1", "in %", "paper, %", "top-2", "in %", "paper, %"),
        rows=tuple(rows),
    )


def contraction_table(records: Sequence[Contraction]) -> Table:
    """Lists quantiles of each net's contraction quotients."""
    probabilities = sorted({probability for record in records for probability, _ in record.quantiles})
    rows = []
    for record in {record.network: record for record in records}.values():
        quotients = dict(record.quantiles)
        texts = (f"{quotients[p]:.3f}" if p in quotients else DASH for p in probabilities)
        rows.append(text_row(record.network, *texts, f"{record.largest:.3f}"))
    return Table(
        title="Contraction",
        caption=f"Quantiles of {NORM}F(x + {NU}) - F(x){NORM} / {NORM}{NU}{NORM} over noisy images: below 1, "
        "the net makes noise smaller.",
        source=source(records, count="noisy images"),
        header=("network", *(f"{100 * probability:g} %" for probability in probabilities), "largest"),
        rows=tuple(rows),
    )


def contraction_by_norm_table(records: Sequence[Contraction]) -> Table:
    """Lists the highest recorded quantile of each net's contraction quotients by the norm of the noise."""
    edges = records[0].norm_edges
    probability = records[0].quantiles[-1][0]
    return Table(
        title="Contraction by the norm of the noise",
        caption=f"The {100 * probability:g} % quantile of the quotients, for noise whose norm "
        f"{NORM}{NU}{NORM} is between the two numbers.",
        source=source(records, count="noisy images"),
        header=("network", *(f"{low:.1f} to {high:.1f}" for low, high in pairwise(edges))),
        rows=tuple(
            text_row(name, *(f"{some[-1]:.3f}" if some else DASH for some in record.quantiles_by_norm))
            for name, record in {record.network: record for record in records}.items()
        ),
    )


def _restored_cell(record: Restoring | None, best: float | None) -> Cell:
    if record is None:
        return Cell(text=DASH)
    gain = record.restored_db - record.noisy_db
    note = f"{gain:+z.2f}" if math.isfinite(gain) else ""
    return Cell(text=decibels(record.restored_db), note=note, best=record.restored_db == best)


INTERVALS = "The range is the 95 % Wilson interval."

POPULATIONS = {"own": "the images that each network classifies correctly when clean", "all": "all images"}


def training_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table of training stages, if there are records of any."""
    curves = [curve for curve in select(records, Curve) if curve.steps]
    return [training_table(curves)] if curves else []


def accuracy_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes Table 3 and the table of paired comparisons, if there are records for them."""
    accuracies, comparisons = select(records, Accuracy), select(records, Comparison)
    tables = [accuracy_table(accuracies)] if accuracies else []
    return [*tables, comparison_table(comparisons)] if comparisons else tables


def stability_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes Table 4 for each noise mode, Gaussian noise first, and then each other kind of noise.

    For each kind, there are first the tables on each network's own images, then those on all images.
    """
    groups = grouped(select(records, Stability), by=lambda record: (record.noise, record.population))
    kinds = ["Gaussian", *unique(noise_words(noise).name for noise, _ in groups)]
    order = sorted(groups, key=lambda key: (kinds.index(noise_words(key[0]).name), key[1] == "all"))
    return [stability_table(groups[key]) for key in order]


def difference_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes a table of paired differences under noise for each noise mode."""
    groups = grouped(select(records, NoisyComparison), by=lambda record: record.noise)
    return [difference_table(some) for some in groups.values()]


def cost_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes a table of costs for each size of image."""
    by_size = grouped(select(records, Cost), by=lambda record: record.size)
    return [cost_table(some) for some in by_size.values()]


def training_table(curves: Sequence[Curve]) -> Table:
    """Lists for each stage of training its time, first loss and last loss."""
    return Table(
        title="Training stages",
        caption="The first loss is the mean over the steps up to the first point of the stage's curve, the "
        "last loss the mean over the steps between its last two points.",
        source=source(curves, count="images in a stage"),
        header=("stage", "steps", "time", "first loss", "last loss"),
        rows=tuple(
            text_row(
                curve.stage, f"{curve.steps[-1]:,}", duration(curve.seconds),
                f"{curve.losses[0]:.4g}", f"{curve.losses[-1]:.4g}",
            )
            for curve in curves
        ),
    )  # fmt: skip


def accuracy_table(records: Sequence[Accuracy]) -> Table:
    """Lists top-k accuracy on clean images, next to the paper's Table 3."""
    ks = sorted({record.k for record in records})
    found = {(record.network, record.k): record for record in records}
    by_k = grouped(found.values(), by=lambda record: record.k)
    best = {k: largest(map(_share, some)) for k, some in by_k.items()}
    rows = []
    for name in unique(record.network for record in records):
        cells = (_share_cell(found.get((name, k)), best[k], digits=2) for k in ks)
        rows.append(TableRow(cells=(Cell(text=name), *cells)))
        if printed := TABLE_3.get(IN_TABLE_3.get(name, name)):
            paper = {1: printed.top1_percent, 2: printed.top2_percent, 5: printed.top5_percent}
            rows.append(_printed_row((paper.get(k) for k in ks), digits=2))
    return Table(
        title="Table 3. Accuracy on clean images",
        caption="Share of the test images, in per cent, with the label among the first k answers.",
        notes_caption=INTERVALS,
        source=source(records, count="test images"),
        header=("network", *(f"top-{k}" for k in ks)),
        rows=tuple(rows),
    )


def comparison_table(records: Sequence[Comparison]) -> Table:
    """Lists McNemar's test of each pair of networks."""
    pairs = {(record.first, record.second): record for record in records}.values()
    return Table(
        title="Paired comparisons on clean images",
        caption="McNemar's exact test looks at the images that only one of two networks gets right; a small "
        "p means that chance alone would rarely make such a difference.",
        source=source(records, count="test images"),
        header=("networks", "only the first right", "only the second right", "p"),
        rows=tuple(_comparison_row(record) for record in pairs),
    )


def stability_table(records: Sequence[Stability]) -> Table:
    """Lists accuracy under noise of one kind, mode and population, Gaussian next to the paper's Table 4."""
    noise = noise_words(records[0].noise)
    population, images = records[0].population, span(record.images for record in records)
    sigmas = sorted({record.sigma_grey for record in records})
    found = {(record.network, record.sigma_grey): record for record in records}
    by_sigma = grouped(found.values(), by=lambda record: record.sigma_grey)
    best = {sigma: largest(map(_share, some)) for sigma, some in by_sigma.items()}
    means = {name: overall(some) for name, some in grouped(records, by=lambda record: record.network).items()}
    rows = []
    for name, mean in means.items():
        cells = [_share_cell(found.get((name, sigma)), best[sigma], digits=1) for sigma in sigmas]
        cells.append(Cell(text=percent(mean, digits=2), best=mean == largest(means.values())))
        rows.append(TableRow(cells=(Cell(text=name), *cells)))
        printed = TABLE_4.get(IN_TABLE_4.get(name, name))
        if printed and population == "own" and noise.gaussian:
            paper: dict[float, float] = dict(zip(SIGMAS_GREY, printed.percent, strict=True))
            values = (*(paper.get(sigma) for sigma in sigmas), printed.overall_percent)
            rows.append(_printed_row(values, digits=1))
    return Table(
        title=f"{'Table 4. ' if noise.gaussian else ''}Accuracy under {noise.name} noise ({noise.storage}), "
        f"on {POPULATIONS[population]}",
        caption=f"In per cent, by {SIGMA} {noise.strength}; overall is the mean over the strengths above 0."
        f"{' ' if noise.hint else ''}{noise.hint}",
        notes_caption=INTERVALS,
        source=source(records, count=f"noisy images in each cell, of {images} images"),
        header=("network", *(f"{sigma:g}" for sigma in sigmas), "overall"),
        rows=tuple(rows),
    )


def difference_table(records: Sequence[NoisyComparison]) -> Table:
    """Lists how much better one network is than each other one on the same noisy images."""
    found = {(record.first, record.second, record.sigma_grey): record for record in records}
    sigmas = sorted({record.sigma_grey for record in records if record.sigma_grey is not None})
    pairs = unique((record.first, record.second) for record in records)
    columns = [*sigmas, None]
    noise = noise_words(records[0].noise)
    return Table(
        title=f"Paired differences under {noise.name} noise ({noise.storage}), on all images",
        caption="Accuracy of the first network less that of the second on the same noisy images, in "
        f"percentage points, by {SIGMA} {noise.strength}; overall is the mean.",
        notes_caption="The range is the 95 % interval over images.",
        source=source(records, count="noisy images in a number"),
        header=("networks", *(f"{sigma:g}" for sigma in sigmas), "overall"),
        rows=tuple(
            TableRow(
                cells=(
                    Cell(text=f"{first} against {second}"),
                    *(_difference_cell(found.get((first, second, column))) for column in columns),
                )
            )
            for first, second in pairs
        ),
    )


def _difference_cell(record: NoisyComparison | None) -> Cell:
    if record is None:
        return Cell(text=DASH)
    points = (100 * value for value in (record.difference, record.lower, record.upper))
    difference, lower, upper = (f"{value:+z.2f}" for value in points)
    return Cell(text=difference, note=f"{lower} to {upper}")


def cost_table(records: Sequence[Cost]) -> Table:
    """Lists what each network costs on images of one size."""
    size = records[0].size
    batches = sorted({record.samples for record in records})
    columns = (f"milliseconds in batches of {batch}" for batch in batches)
    times = {(record.network, record.samples): f"{record.milliseconds:.3g}" for record in records}
    return Table(
        title=f"Cost for images of {size} x {size} pixels",
        caption="Multiply-adds and time are for one image; training is the time of all stages together.",
        source=f"On {', '.join(unique(record.provenance.device for record in records))}. "
        + source(records, count="images in a batch"),
        header=("network", "parameters", "million multiply-adds", *columns, "training"),
        rows=tuple(
            text_row(
                name,
                f"{some[0].parameters:,}",
                f"{some[0].multiplications / 1e6:,.1f}",
                *(times.get((name, batch), DASH) for batch in batches),
                duration(some[0].training_seconds) if some[0].training_seconds else DASH,
            )
            for name, some in grouped(records, by=lambda record: record.network).items()
        ),
    )


def overall(records: Sequence[Stability]) -> float | None:
    """Returns one network's mean accuracy over the strengths above 0, or None if there are none."""
    shares = {record.sigma_grey: _share(record) for record in records if record.sigma_grey > 0}
    return sum(shares.values()) / len(shares) if shares else None


def _share(record: Accuracy | Stability) -> float:
    return record.correct / record.samples


def _share_cell(record: Accuracy | Stability | None, best: float | None, *, digits: int) -> Cell:
    if record is None:
        return Cell(text=DASH)
    interval = f"{percent(record.lower, digits=digits)}{DASH}{percent(record.upper, digits=digits)}"
    return Cell(text=percent(_share(record), digits=digits), note=interval, best=_share(record) == best)


def _comparison_row(record: Comparison) -> TableRow:
    pair = f"{record.first} against {record.second}"
    return text_row(pair, f"{record.only_first:,}", f"{record.only_second:,}", f"{record.p_value:.2g}")


def _printed_row(percentages: Iterable[float | None], *, digits: int) -> TableRow:
    texts = (DASH if value is None else f"{value:.{digits}f}" for value in percentages)
    return text_row("in the paper", *texts, printed=True)


MEAN_AND_DEVIATION = "{} \N{PLUS-MINUS SIGN} {}"


def variation_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table of means and standard deviations over seeds, if there are several seeds.

    Args:
        records: Records of one recipe and data, of any types and seeds.
    """
    measured = [record for record in records if isinstance(record, Accuracy | Stability)]
    latest = {_subject(record): record for record in measured}.values()
    by_number = grouped(latest, by=lambda record: (record.network, getattr(record, "noise", None)))
    shown = [record for some in by_number.values() if _seeds(some) > 1 for record in some]
    if not shown:
        return []
    by_network = grouped(shown, by=lambda record: record.network)
    numbers = {name: _numbers(some) for name, some in by_network.items()}
    columns = unique(column for own in numbers.values() for column in own)
    table = Table(
        title="Variation over seeds",
        caption="In per cent: mean and standard deviation over trainings with different seeds, of the "
        "classifier and of what is tuned from it; the restorer in front is the same.",
        notes_caption="The range is from the smallest to the largest.",
        source=source(shown, count="images or noisy images in a number"),
        header=("network", *columns),
        rows=tuple(_variation_row(name, own, columns) for name, own in numbers.items()),
    )
    return [table]


def _subject(record: Accuracy | Stability) -> tuple[object, ...]:
    """Returns what a record measures: network, seed and conditions."""
    match record:
        case Accuracy():
            condition: tuple[object, ...] = (record.k,)
        case Stability():
            condition = (record.noise, record.population, record.sigma_grey)
    return record.network, record.provenance.seed, *condition


def _seeds(records: Sequence[Accuracy | Stability]) -> int:
    return len({record.provenance.seed for record in records})


def _numbers(records: Sequence[Accuracy | Stability]) -> Mapping[str, list[float]]:
    """Returns one network's numbers by column, one for each seed."""
    numbers: dict[str, list[float]] = {}
    for record in select(records, Accuracy):
        if record.k == 1:
            numbers.setdefault("top-1, clean", []).append(record.correct / record.samples)
    measured = select(records, Stability)
    groups = grouped(measured, by=lambda record: (record.noise, record.population, record.provenance.seed))
    for (noise, population, _), some in groups.items():
        if (mean := overall(some)) is not None:
            numbers.setdefault(f"overall, {population} images, {noise}", []).append(mean)
    return numbers


def _variation_row(name: str, numbers: Mapping[str, list[float]], columns: Sequence[str]) -> TableRow:
    return TableRow(
        cells=(Cell(text=name), *(_variation_cell(numbers.get(column, [])) for column in columns))
    )


def _variation_cell(values: Sequence[float]) -> Cell:
    if len(values) < 2:
        return Cell(text=DASH)
    text = MEAN_AND_DEVIATION.format(percent(fmean(values), digits=2), percent(stdev(values), digits=2))
    low, high = percent(min(values), digits=2), percent(max(values), digits=2)
    return Cell(text=text, note=f"{low}{DASH}{high}")
