"""Tables of classes count what the records count, and a wrong order of classes is noticed in the answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steadylens.records import Confusion
from steadylens.report import drawing, figures
from steadylens.report.class_tables import MOST_CLASSES, class_table, class_tables, confusions_table, doubts
from steadylens.report.tables import select
from tests.sample_records import CLASSES, PROVENANCE, sample_records

RECORDS = select(sample_records(), Confusion)


def confusion(matrix: Any, names: Sequence[str] = ()) -> Confusion:
    """Returns the record of a matrix: rows are labels, columns are answers."""
    cells = tuple((int(i), int(j), int(matrix[i, j])) for i, j in np.argwhere(matrix))
    names = names or [str(number) for number in range(matrix.shape[1])]
    return Confusion(
        provenance=PROVENANCE, samples=int(matrix.sum()), seconds=1.0, network="net",
        class_names=tuple(names), cells=cells,
    )  # fmt: skip


def test_each_class_has_its_images_and_each_network_its_share() -> None:
    table = class_table(RECORDS)
    assert table.header == ("class", "images", *(row.network for row in RECORDS))
    assert [row.cells[0].text for row in table.rows] == list(CLASSES)
    for label, row in enumerate(table.rows):
        assert row.cells[1].text == "100"
        shares = [f"{97 - wrong - label}.0" for wrong in range(len(RECORDS))]
        assert [cell.text for cell in row.cells[2:]] == shares
        assert [cell.best for cell in row.cells[2:]] == [True, False, False, False, False]


def test_wrong_answers_are_sorted_by_how_often_they_are_given() -> None:
    table = confusions_table(RECORDS)
    first = table.rows[0].cells
    assert first[0].text == "keep right \N{RIGHTWARDS ARROW} speed limit 20"
    assert [cell.text for cell in first[1:]] == ["7", "8", "9", "10", "11"]
    assert table.rows[-1].cells[0].text.endswith("\N{RIGHTWARDS ARROW} none")


def test_networks_without_errors_have_no_table_of_errors() -> None:
    assert [table.title for table in class_tables([confusion(5 * np.eye(3, dtype=int))])] == [
        "Accuracy by class"
    ]
    assert class_tables([]) == []


def test_of_many_classes_the_worst_are_shown() -> None:
    matrix = np.diag(np.full(100, 10))
    matrix[90, 90], matrix[90, 3] = 2, 8
    table = class_table([confusion(matrix)])
    assert len(table.rows) == MOST_CLASSES
    assert "90" in [row.cells[0].text for row in table.rows]
    assert f"Of 100 classes, the {MOST_CLASSES} with the lowest accuracy are shown" in table.caption


def test_classes_without_images_have_no_row() -> None:
    matrix = np.zeros((5, 5), dtype=int)
    matrix[1, 1] = matrix[3, 1] = 4
    record = confusion(matrix)
    assert [row.cells[0].text for row in class_table([record]).rows] == ["1", "3"]
    (axes, _) = figures.confusion([record]).axes
    assert np.asarray(axes.images[0].get_array()).tolist() == [[0, 100, 0, 0, 0], [0, 100, 0, 0, 0]]


def test_the_matrix_of_each_network_is_drawn_with_its_names() -> None:
    *panels, _ = figures.confusion(RECORDS[:2]).axes
    for axes, record in zip(panels, RECORDS, strict=False):
        drawn = np.asarray(axes.images[0].get_array())
        for label, answer, count in record.cells:
            assert answer < 0 or drawn[label, answer] == count
        assert axes.get_title(loc="left") == record.network
        assert [text.get_text().replace("\\$", "$") for text in axes.get_yticklabels()] == list(CLASSES)
    assert "</svg>" in drawing.svg(figures.confusion(RECORDS[:1])), "a name with dollars is no formula"


def test_a_matrix_of_many_classes_has_their_numbers() -> None:
    matrix = np.diag(np.full(43, 10))
    matrix[5] = 0
    figure = figures.confusion([confusion(matrix)])
    figure.draw_without_rendering()
    ticks = {text.get_text() for text in figure.axes[0].get_yticklabels()} - {""}
    assert ticks
    assert all(tick.isdecimal() and tick != "5" for tick in ticks)


TEXT_ORDER = sorted((str(number) for number in range(12)), key=str)


def test_classes_in_another_order_are_noticed_and_one_is_named() -> None:
    matrix = np.zeros((12, 12), dtype=int)
    for label, name in enumerate(TEXT_ORDER):
        matrix[label, int(name)] = 20  # the net numbers classes by their value
    (doubt,) = doubts([confusion(matrix, TEXT_ORDER)])
    assert doubt.startswith(
        "net is right on 16.7% of the images, and on 100.0% if its classes are in another order"
    )
    assert "(its class 2 seems to be '2', not '10'): give the names in its order with --class-names" in doubt


@pytest.mark.parametrize("seed", range(5))
def test_a_net_that_guesses_is_doubted_without_an_order_being_made_up(seed: int) -> None:
    random = np.random.default_rng(seed)
    guessed = random.multinomial(30, np.full(10, 0.1), size=10)
    constant = np.zeros((10, 10), dtype=int)
    constant[:, 4] = 30
    few = random.multinomial(2, np.full(43, 1 / 43), size=43)
    for matrix in (guessed, constant, few):
        found = doubts([confusion(matrix)])
        assert "another order than" not in "".join(found)
    assert "a guess on 10.0%" in doubts([confusion(constant)])[0]


def test_good_and_middling_networks_are_not_doubted() -> None:
    assert doubts(sample_records()) == []
    middling = np.full((10, 10), 3) + np.diag(np.full(10, 15))
    assert doubts([confusion(middling)]) == []


def test_the_most_frequent_class_is_a_guess_too() -> None:
    matrix = np.array([[80, 0], [20, 0]])
    assert "a guess on 80.0%" in doubts([confusion(matrix)])[0]


def test_the_latest_record_of_a_network_counts() -> None:
    wrong = replace(RECORDS[0], cells=((0, 1, 100),), samples=100)
    assert class_table([RECORDS[0]]) == class_tables([wrong, RECORDS[0]])[0]
