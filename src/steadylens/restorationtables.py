"""Records -> tables of restoring: the paper's Table 2 with its numbers beside ours, PSNR, and contraction.

Where a row was measured twice, the later one counts.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from steadylens.paper import TABLE_2
from steadylens.records import Contraction, Hits, Measurement, Restoring
from steadylens.tables import (
    DASH,
    NORM,
    NU,
    SIGMA,
    Cell,
    Line,
    Table,
    decibels,
    grouped,
    largest,
    line,
    percent,
    select,
    source,
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
