"""Every number in a table is that of a record or of the paper.

Means and standard deviations over seeds agree with the standard library.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from steadylens.records import (
    Accuracy,
    Contraction,
    Cost,
    Hits,
    Measurement,
    NoisyComparison,
    Restoring,
    Stability,
)
from steadylens.report import paper
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
from steadylens.report.tables import DASH, Table, TableRow, select
from tests.reading_tables import best_in_column, cells, texts
from tests.sample_records import SIGMAS, sample_records

RECORDS = sample_records()

MAKERS = (
    training_tables,
    restoration_tables,
    accuracy_tables,
    stability_tables,
    difference_tables,
    cost_tables,
)


RESTORING, HITS, CONTRACTION, BY_NORM = restoration_tables(RECORDS)


def test_restoration_table_has_noisy_restored_and_gain() -> None:
    rows = [row for row in select(RECORDS, Restoring) if row.network == "L7"]
    assert [float(text) for text in texts(RESTORING, "L7")] == pytest.approx(
        [row.restored_db for row in rows], abs=0.005
    )
    assert texts(RESTORING, "noisy images")[:2] == ["\N{INFINITY}", "48.43"]
    gains = [float(cell.note) for cell in cells(RESTORING, "L7")[1:]]
    assert gains == pytest.approx([row.restored_db - row.noisy_db for row in rows[1:]], abs=0.005)


def test_restoration_table_has_no_gain_over_clean_images() -> None:
    assert cells(RESTORING, "L11")[0].note == ""


def test_restoration_table_marks_the_best_net_and_never_the_noisy_images() -> None:
    assert all(best_in_column(RESTORING, column) == ["L11"] for column in range(1, len(SIGMAS) + 2))


def test_table_2_gives_counts_and_per_cent_next_to_the_papers() -> None:
    row = next(row for row in select(RECORDS, Hits) if row.network == "L11")
    count1, share1, paper1, count2, share2, paper2 = texts(HITS, "L11")
    assert (count1, count2) == (f"{row.top1:,}", f"{row.top2:,}")
    assert float(share1) == pytest.approx(100 * row.top1 / row.samples, abs=0.05)
    assert float(share2) == pytest.approx(100 * row.top2 / row.samples, abs=0.05)
    assert (paper1, paper2) == ("50.5", "77.5")


def test_table_2_marks_the_net_with_most_hits() -> None:
    most = max(select(RECORDS, Hits), key=lambda row: row.top1)
    assert best_in_column(HITS, 2) == [most.network]
    assert best_in_column(HITS, 3) == []


def test_contraction_table_gives_quantiles_and_the_largest_quotient() -> None:
    row = select(RECORDS, Contraction)[0]
    expected = [f"{quotient:.3f}" for _, quotient in row.quantiles] + [f"{row.largest:.3f}"]
    assert texts(CONTRACTION, row.network) == expected
    assert CONTRACTION.header[1:] == ("50 %", "90 %", "99 %", "99.9 %", "largest")


def test_contraction_by_norm_gives_the_highest_quantile_of_each_bin() -> None:
    assert BY_NORM.header[1:] == ("0.0 to 5.0", "5.0 to 10.0", "10.0 to 15.0")
    assert texts(BY_NORM, "L11") == ["0.950", DASH, "0.850"]
    assert "99.9 % quantile" in BY_NORM.caption


def test_a_record_that_was_measured_again_counts_once() -> None:
    rows = select(RECORDS, Hits)
    again = replace(rows[0], top1=7)
    (table,) = restoration_tables([*rows, again])
    assert [row.cells[0].text for row in table.rows].count("L11") == 1
    assert texts(table, "L11")[0] == "7"


OWN, ALL = stability_tables(RECORDS)
(DIFFERENCES,) = difference_tables(RECORDS)


ACCURACY, COMPARISON = accuracy_tables(RECORDS)


def printed_after(table: Table, name: str) -> TableRow | None:
    """Returns the row of the paper below a network's row, if there is one."""
    names = [row.cells[0].text for row in table.rows]
    following = table.rows[names.index(name) + 1 :]
    return following[0] if following and following[0].printed else None


def test_training_table_has_stage_steps_time_and_losses() -> None:
    (table,) = training_tables(RECORDS)
    assert texts(table, "classifier") == ["10,000", "11 min 46 s", "3.485", "0.3742"]


def test_table_3_gives_accuracy_with_its_interval() -> None:
    rows = [row for row in select(RECORDS, Accuracy) if row.network == "original"]
    found = cells(ACCURACY, "original")
    assert [cell.text for cell in found] == [f"{100 * row.correct / row.samples:.2f}" for row in rows]
    assert found[0].note == f"{100 * rows[0].lower:.2f}\N{EN DASH}{100 * rows[0].upper:.2f}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("original", ["99.05", "99.69", "99.81"]), ("restoration + original", ["99.52", "99.80", "99.85"])],
)
def test_table_3_has_the_numbers_of_the_paper_below_its_own(name: str, expected: list[str]) -> None:
    row = printed_after(ACCURACY, name)
    assert row is not None
    assert [cell.text for cell in row.cells[1:]] == expected


def test_table_3_has_no_printed_row_for_networks_that_the_paper_lacks() -> None:
    assert printed_after(ACCURACY, "strong noise augmentation") is None


def test_comparisons_give_both_counts_and_the_p_value() -> None:
    assert texts(COMPARISON, "original against restoration + original") == ["23", "67", "3.8e-06"]


@pytest.mark.parametrize(("table", "population"), [(OWN, "own"), (ALL, "all")])
def test_table_4_gives_every_networks_accuracy_by_strength(table: Table, population: str) -> None:
    rows = [row for row in select(RECORDS, Stability) if row.population == population]
    for name in {row.network for row in rows}:
        expected = [f"{100 * row.correct / row.samples:.1f}" for row in rows if row.network == name]
        assert texts(table, name)[:-1] == expected


def test_the_overall_column_is_the_mean_over_the_strengths() -> None:
    rows = [row for row in select(RECORDS, Stability) if (row.population, row.network) == ("own", "original")]
    mean = fmean(row.correct / row.samples for row in rows)
    assert overall(rows) == pytest.approx(mean)
    assert texts(OWN, "original")[-1] == f"{100 * mean:.2f}"


def test_the_overall_column_leaves_clean_images_out() -> None:
    rows = [row for row in select(RECORDS, Stability) if (row.population, row.network) == ("own", "original")]
    clean = replace(rows[0], sigma_grey=0.0, correct=rows[0].samples)
    assert overall([clean, *rows]) == overall(rows)
    assert overall([clean]) is None


def test_table_4_marks_the_best_network_of_each_strength_and_never_the_papers() -> None:
    assert best_in_column(OWN, OWN.header.index("40")) == ["restoration + original"]
    assert best_in_column(OWN, OWN.header.index("overall")) == ["restoration + original"]
    assert not any(cell.best for row in OWN.rows if row.printed for cell in row.cells)


def test_networks_that_are_equally_good_are_all_marked() -> None:
    rows = [replace(row, correct=9) for row in select(RECORDS, Accuracy)]
    (table,) = accuracy_tables(rows)
    assert len(best_in_column(table, 1)) == len({row.network for row in rows})


@pytest.mark.parametrize("name", ["original", "fine-tuned on noisy images", "restoration + original"])
def test_table_4_on_own_images_has_the_numbers_of_the_paper_below_its_own(name: str) -> None:
    row = printed_after(OWN, name)
    expected = paper.TABLE_4[name]
    assert row is not None
    assert [float(cell.text) for cell in row.cells[1:]] == [*expected.percent, expected.overall_percent]


def test_gaussian_smoothing_is_compared_with_the_papers_row_of_the_shorter_name() -> None:
    row = printed_after(OWN, "Gaussian smoothing as first layer")
    assert row is not None
    assert row.cells[-1].text == "94.9"


def test_table_4_on_all_images_has_no_printed_rows() -> None:
    assert not any(row.printed for row in ALL.rows)


def test_strengths_that_the_paper_lacks_are_dashes_in_its_rows() -> None:
    rows = [replace(row, sigma_grey=row.sigma_grey + 0.5) for row in select(RECORDS, Stability)]
    row = printed_after(stability_tables(rows)[0], "original")
    assert row is not None
    assert [cell.text for cell in row.cells[1:-1]] == ["\N{EN DASH}"] * len(SIGMAS)


def test_a_network_that_was_not_measured_at_a_strength_has_a_dash_there() -> None:
    rows = select(RECORDS, Stability)[2:]
    assert texts(stability_tables(rows)[0], "original")[0] == "\N{EN DASH}"


def test_each_noise_mode_has_tables_of_its_own() -> None:
    rows = select(RECORDS, Stability)
    tables = stability_tables([*rows, *(replace(row, noise="unclipped") for row in rows)])
    sources = [table.source.split(";")[0] for table in tables]
    assert sources == ["Noise clipped, 8-bit", "Noise unclipped"] * 2


def test_each_kind_of_noise_has_its_own_tables_after_gaussian_noise_and_no_numbers_of_the_paper() -> None:
    rows = select(RECORDS, Stability)
    kinds = [replace(row, noise=f"{kind}, clipped, 8-bit") for kind in ("jpeg", "banded") for row in rows]
    tables = stability_tables([*kinds, *rows])
    assert [table.title.split(" (")[0] for table in tables] == [
        *["Table 4. Accuracy under Gaussian noise"] * 2,
        *["Accuracy under JPEG after Gaussian noise"] * 2,
        *["Accuracy under banded noise"] * 2,
    ]
    assert [" on all images" in table.title for table in tables] == [False, True] * 3
    assert tables[:2] == stability_tables(rows)
    assert "quality from 50 to 95" in tables[2].caption
    assert "on mid-grey images" in tables[4].caption
    assert not any(row.printed for table in tables[2:] for row in table.rows)


def test_paired_differences_name_the_noise() -> None:
    rows = [replace(row, noise="resized, clipped") for row in select(RECORDS, NoisyComparison)]
    (table,) = difference_tables(rows)
    assert table.title.startswith("Paired differences under resized noise (clipped)")


def test_differences_are_in_percentage_points_with_their_interval_and_the_mean_last() -> None:
    assert (DIFFERENCES.header[0], DIFFERENCES.header[-1]) == ("networks", "overall")
    assert len(DIFFERENCES.rows) == len({row.second for row in select(RECORDS, NoisyComparison)})
    for row in DIFFERENCES.rows:
        first, second = row.cells[0].text.split(" against ")
        (mean,) = (
            record
            for record in select(RECORDS, NoisyComparison)
            if (record.first, record.second, record.sigma_grey) == (first, second, None)
        )
        assert row.cells[-1].text == f"{100 * mean.difference:+.2f}"
        assert row.cells[-1].note == f"{100 * mean.lower:+.2f} to {100 * mean.upper:+.2f}"


def test_cost_table_gives_parameters_multiply_adds_and_times_for_each_size() -> None:
    rows = select(RECORDS, Cost)
    small, large = cost_tables([*rows, replace(rows[0], size=480)])
    assert texts(small, "L11") == ["397,411", "1,070.0", "5.35", "2 h 30 min"]
    assert (small.title, large.title) == (
        "Cost for images of 48 x 48 pixels",
        "Cost for images of 480 x 480 pixels",
    )
    assert "one GPU" in small.source


def test_cost_table_gives_every_batch_size_a_column_of_times() -> None:
    row = next(row for row in select(RECORDS, Cost) if row.network == "L11")
    (table,) = cost_tables([row, replace(row, samples=1, milliseconds=9.5)])
    assert table.header[3:5] == ("milliseconds in batches of 1", f"milliseconds in batches of {row.samples}")
    assert texts(table, "L11")[2:4] == ["9.5", "5.35"]


def all_tables() -> Sequence[Table]:
    return [table for make in MAKERS for table in make(RECORDS)]


def test_every_row_has_as_many_cells_as_the_header() -> None:
    assert all(len(row.cells) == len(table.header) for table in all_tables() for row in table.rows)


def test_the_source_of_every_table_has_recipe_seed_data_and_commit() -> None:
    parts = ("recipe fast", "seed 3", "data GTSRB (sha256 5f2c9a01)", "commit 0123abc")
    assert all(part in table.source for table in all_tables() for part in parts)


def test_no_records_make_no_tables() -> None:
    assert [make([]) for make in MAKERS] == [[]] * len(MAKERS)


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


def test_a_run_of_one_seed_has_no_variation() -> None:
    assert variation_tables(RECORDS) == []


def test_networks_that_were_trained_once_have_no_variation() -> None:
    (table,) = variation_tables(repeated(3, 4, 5))
    assert [row.cells[0].text for row in table.rows] == ["original"]


def test_mean_and_deviation_are_the_samples() -> None:
    (table,) = variation_tables(repeated(3, 4, 5))
    deviation = 100 * stdev(SHARES.values())
    for cell in table.rows[0].cells[1:]:  # accuracy, and the mean over all strengths
        assert cell.text == f"98.50 \N{PLUS-MINUS SIGN} {deviation:.2f}"
        assert cell.note == "98.00\N{EN DASH}99.00"


def test_there_is_a_column_for_each_number_that_matters() -> None:
    (table,) = variation_tables(repeated(3, 4))
    noises = {row.noise for row in select(RECORDS, Stability)}
    expected = [f"overall, {population} images, {noise}" for noise in noises for population in ("own", "all")]
    assert list(table.header) == ["network", "top-1, clean", *expected]


def test_a_number_of_one_seed_alone_has_no_column() -> None:
    unclipped = [
        replace(row, noise="unclipped", provenance=replace(row.provenance, seed=3))
        for row in select(RECORDS, Stability)
        if row.network == "original"
    ]
    assert variation_tables([*repeated(3, 4), *unclipped]) == variation_tables(repeated(3, 4))


def test_of_records_that_were_measured_twice_the_later_counts() -> None:
    wrong = [replace(row, correct=1) for row in repeated(4) if isinstance(row, Accuracy | Stability)]
    assert variation_tables([*wrong, *repeated(3, 4, 5)]) == variation_tables(repeated(3, 4, 5))


def test_the_source_names_all_seeds() -> None:
    (table,) = variation_tables(repeated(3, 4, 5))
    assert table.source == (
        "Noise clipped, 8-bit; 1,000 images or noisy images in a number; recipe fast; seeds 3, 4, 5; "
        "data GTSRB (sha256 5f2c9a01); commit 0123abc."
    )
