"""The table and the curves of certificates count what a plain loop counts."""

import subprocess
import sys
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from steadylens.records import Certificate, Measurement
from steadylens.report.stress.certificates import (
    GUARANTEE,
    RADII,
    certificate_illustrations,
    certificate_tables,
    certificates_lead,
    certified_accuracy,
    certified_curves,
    largest_radius,
)
from steadylens.report.tables import DASH, Table
from tests.sample_records import PROVENANCE

ROWS = (
    (3, 0, 0, 995, 0.61),
    (5, 1, 1, 900, 0.25),
    (8, 1, 0, 950, 0.4),
    (9, 2, -1, 510, 0.0),
    (12, 2, 2, 700, 0.1),
)
"""Index, label, answer, count and radius of five images: three right, one wrong, one without an answer."""


def certificate(network: str = "alone", sigma: float = 0.25, **changes: object) -> Certificate:
    given = Certificate(
        provenance=PROVENANCE, samples=len(ROWS), seconds=1.0, network=network, sigma=sigma,
        first_versions=100, versions=1000, alpha=0.001, images=ROWS,
    )  # fmt: skip
    return replace(given, **changes)  # type: ignore[arg-type]


def table_of(*records: Measurement) -> Table:
    (table,) = certificate_tables(records)
    return table


@pytest.mark.parametrize(
    ("radius", "right"), [(0.0, 3), (0.1, 3), (0.11, 2), (0.25, 2), (0.26, 1), (0.61, 1), (0.62, 0)]
)
def test_answers_count_that_are_right_and_certified_to_the_radius(radius: float, right: int) -> None:
    assert certified_accuracy(certificate(), radius) == (right, 5)


def test_an_image_without_an_answer_never_counts() -> None:
    assert certified_accuracy(certificate(images=((0, 2, -1, 400, 0.0),)), 0.0) == (0, 1)


def test_a_row_shows_accuracy_by_radius_abstentions_and_radii() -> None:
    (row,) = table_of(certificate()).rows
    texts = [cell.text for cell in row.cells]
    assert texts == [
        "alone, \N{GREEK SMALL LETTER SIGMA} = 0.25",
        "60.0", "40.0", "20.0", DASH, DASH, "20.0", f"{median([0.61, 0.25, 0, 0, 0.1]):.3f}", "0.192",
    ]  # fmt: skip
    low, high = binomtest(2, 5).proportion_ci(0.95, method="wilson")
    assert row.cells[2].note == f"{100 * low:.1f}{DASH}{100 * high:.1f}"
    assert not any(cell.best for cell in row.cells)


def test_the_largest_radius_is_that_of_one_answer_to_all_versions() -> None:
    assert largest_radius(certificate()) == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 1000)))
    assert largest_radius(certificate(versions=100_000)) > 0.75 + 0.2


def test_the_best_network_of_each_strength_is_marked_where_networks_differ() -> None:
    worse = certificate(
        "worse", images=((0, 0, 0, 990, 0.55), (1, 1, 1, 600, 0.01), *ROWS[3:4] * 3)
    )  # as good at 0.5
    table = table_of(certificate(), worse, certificate("only", sigma=0.5))
    marks = {row.cells[0].text.split(",")[0]: [cell.best for cell in row.cells[1:4]] for row in table.rows}
    assert marks == {"alone": [True, True, False], "worse": [False, False, False], "only": [False] * 3}


def test_rows_are_in_the_order_of_strength_and_the_latest_of_each_counts() -> None:
    table = table_of(
        certificate("alone", 0.5), certificate("pair", 0.12), certificate("alone", 0.12),
        certificate("alone", 0.5, images=ROWS[:1]),
    )  # fmt: skip
    assert [row.cells[0].text[-4:] for row in table.rows] == ["0.12", "0.12", " 0.5"]
    assert [row.cells[0].text.split(",")[0] for row in table.rows] == ["pair", "alone", "alone"]
    assert table.rows[2].cells[1].text == "100.0"


def test_the_source_tells_how_many_versions_and_in_which_format() -> None:
    text = table_of(certificate(precision="bfloat16")).source
    assert "100 noisy versions of each image choose the answer and 1,000 bound its probability" in text
    assert "= 0.001, networks in bfloat16. " in text
    assert "5 test images" in text


def test_the_lead_tells_the_probability_of_an_error() -> None:
    lead = certificates_lead([certificate()])
    assert lead.endswith("Each certificate is wrong with a probability of at most 0.1 %.")
    assert "0.1 % or 5 %" in certificates_lead([certificate(), certificate("pair", alpha=0.05)])
    assert "What is certified is the smoothed network" in lead
    assert GUARANTEE.startswith("What is certified")


def test_without_certificates_there_is_nothing() -> None:
    assert certificate_tables([]) == []
    assert certificate_illustrations([]) == []


def test_curves_have_the_certified_accuracy_of_each_network_in_a_panel_for_each_strength() -> None:
    records = [certificate(name, sigma) for sigma in (0.12, 0.25) for name in ("alone", "pair")]
    figure = certified_curves(records)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["$\\sigma$ = 0.12", "$\\sigma$ = 0.25"]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["alone", "pair"]
        x, y = (np.asarray(axis, dtype=float) for axis in axes.lines[0].get_data())
        for radius, share in zip(x[:-1].tolist(), y[:-1].tolist(), strict=True):
            right, images = certified_accuracy(records[0], radius)
            assert share == pytest.approx(100 * right / images)
        assert (x[0], y[0], y[-1]) == (0, 60, 0)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["alone", "pair"]


def test_a_curve_ends_at_the_largest_radius_that_can_be_certified() -> None:
    (axes,) = certified_curves([certificate()]).axes
    assert max(np.asarray(axes.lines[0].get_xdata(), dtype=float)) == largest_radius(certificate())
    assert len(RADII) == 5


def test_tables_need_neither_pytorch_nor_matplotlib() -> None:
    code = "import sys, steadylens.report.stress.certificates; "
    code += "print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
