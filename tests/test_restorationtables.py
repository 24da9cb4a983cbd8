"""Every number about restoring is a record's, or the paper's."""

from dataclasses import replace

import pytest

from reading_tables import best_in_column, cells, texts
from sample_records import SIGMAS, sample_records
from steadylens.records import Contraction, Hits, Restoring
from steadylens.restorationtables import restoration_tables
from steadylens.tables import DASH, select

RECORDS = sample_records()
RESTORING, HITS, CONTRACTION, BY_NORM = restoration_tables(RECORDS)


def test_restoration_table_holds_noisy_restored_and_gain() -> None:
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


def test_table_2_gives_counts_and_per_cent_beside_the_papers() -> None:
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


def test_a_row_that_was_measured_again_counts_once() -> None:
    rows = select(RECORDS, Hits)
    again = replace(rows[0], top1=7)
    (table,) = restoration_tables([*rows, again])
    assert [line.cells[0].text for line in table.lines].count("L11") == 1
    assert texts(table, "L11")[0] == "7"
