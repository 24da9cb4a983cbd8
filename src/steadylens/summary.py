"""The few numbers of a run that matter, for the top of a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from steadylens.networks import ALONE, IN_TABLE_3, ORIGINAL, RESTORED
from steadylens.paper import TABLE_3, TABLE_4
from steadylens.records import Accuracy, Measurement, Restoring, Stability
from steadylens.tables import SIGMA, grouped, percent, select, unique
from steadylens.tabulation import overall


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
