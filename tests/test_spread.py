"""Mean and spread over seeds, against the standard library on rows that are known."""

from dataclasses import replace
from statistics import stdev

from sample_records import sample_records
from steadylens.records import Accuracy, Measurement, Stability
from steadylens.spread import spread_tables
from steadylens.tables import select

RECORDS = sample_records()
SHARES = {3: 0.99, 4: 0.98, 5: 0.985}
"""Accuracy of the original network by seed, in rows of 1,000 images."""


def of_seed(row: Accuracy | Stability, seed: int) -> Accuracy | Stability:
    samples = 1000
    correct = round(SHARES[seed] * samples)
    return replace(row, provenance=replace(row.provenance, seed=seed), samples=samples, correct=correct)


def repeated(*seeds: int) -> list[Measurement]:
    """Returns the records, and the original network's rows once for each seed."""
    rows = [row for row in RECORDS if isinstance(row, Accuracy | Stability) and row.network == "original"]
    others = [row for row in RECORDS if row not in rows]
    return [*others, *(of_seed(row, seed) for seed in seeds for row in rows)]


def test_a_run_of_one_seed_has_no_spread() -> None:
    assert spread_tables(RECORDS) == []


def test_networks_that_were_trained_once_are_left_out() -> None:
    (table,) = spread_tables(repeated(3, 4, 5))
    assert [line.cells[0].text for line in table.lines] == ["original"]


def test_mean_and_deviation_are_the_samples() -> None:
    (table,) = spread_tables(repeated(3, 4, 5))
    spread = 100 * stdev(SHARES.values())
    for cell in table.lines[0].cells[1:]:  # accuracy, and the mean over all strengths
        assert cell.text == f"98.50 \N{PLUS-MINUS SIGN} {spread:.2f}"
        assert cell.note == "98.00\N{EN DASH}99.00"


def test_there_is_a_column_for_each_number_that_matters() -> None:
    (table,) = spread_tables(repeated(3, 4))
    noises = {row.noise for row in select(RECORDS, Stability)}
    expected = [f"overall, {population} images, {noise}" for noise in noises for population in ("own", "all")]
    assert list(table.header) == ["network", "top-1, clean", *expected]


def test_a_number_of_one_seed_alone_has_no_column() -> None:
    unclipped = [
        replace(row, noise="unclipped", provenance=replace(row.provenance, seed=3))
        for row in select(RECORDS, Stability)
        if row.network == "original"
    ]
    assert spread_tables([*repeated(3, 4), *unclipped]) == spread_tables(repeated(3, 4))


def test_of_rows_that_were_measured_twice_the_later_counts() -> None:
    wrong = [replace(row, correct=1) for row in repeated(4) if isinstance(row, Accuracy | Stability)]
    assert spread_tables([*wrong, *repeated(3, 4, 5)]) == spread_tables(repeated(3, 4, 5))


def test_the_source_names_all_seeds() -> None:
    (table,) = spread_tables(repeated(3, 4, 5))
    assert table.source == (
        "Noise clipped, 8-bit; 1,000 images or noisy images in a number; recipe fast; seeds 3, 4, 5; "
        "data GTSRB (sha256 5f2c9a01); commit 0123abc."
    )
