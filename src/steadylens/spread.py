"""What changes from seed to seed: mean and spread of the numbers that matter."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from steadylens.records import Accuracy, Measurement, Stability
from steadylens.tables import DASH, Cell, Line, Table, grouped, percent, select, source, unique
from steadylens.tabulation import overall

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
