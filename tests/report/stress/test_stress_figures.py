"""The figures of damage and attacks draw the numbers of the records."""

import numpy as np
import pytest

from steadylens.records import Attacked
from steadylens.report.stress import stress_figures
from steadylens.report.stress.stress_tables import damages
from steadylens.report.tables import select
from tests.reading_figures import labelled, points_of
from tests.report.stress.stress_records import ATTACKS, RECORDS


def test_damage_has_a_point_for_each_kind_with_the_worst_on_top() -> None:
    (axes,) = stress_figures.damage(damages(RECORDS)).axes
    x, y = points_of(labelled(axes)["pair"])
    assert x == pytest.approx([-15, -10, 0.25, 15, 30])
    assert y == pytest.approx(range(5))
    assert axes.get_yticklabels()[0].get_text() == "motion blur"
    low, high = axes.get_ylim()
    assert low > high, "the first kind is on top"


def test_attacks_have_a_panel_for_each_norm_and_a_line_for_what_the_attack_knows() -> None:
    euclidean, largest = stress_figures.attacks(select(ATTACKS, Attacked)).axes
    lines = labelled(euclidean)
    assert points_of(lines["alone"])[1] == pytest.approx([94, 54, 14]), "after the strongest attack"
    assert points_of(lines["pair"])[1] == pytest.approx([93, 63, 33])
    transferred = lines["pair, images made for the classifier alone"]
    assert points_of(transferred)[1] == pytest.approx([94, 84, 74])
    assert transferred.get_linestyle() == "--"
    assert transferred.get_color() == lines["pair"].get_color()
    assert [label.get_text() for label in largest.get_xticklabels()] == ["0", "2/255"]
    band = np.asarray(euclidean.collections[0].get_paths()[0].vertices)[:, 1]
    alone = [row for row in select(ATTACKS, Attacked) if (row.network, row.norm) == ("alone", "l2")]
    assert band.min() == pytest.approx(100 * min(row.lower for row in alone))


def test_without_records_nothing_is_drawn() -> None:
    assert stress_figures.corruption_illustrations([]) == []
    assert stress_figures.attack_illustrations([]) == []
    (drawn,) = stress_figures.corruption_illustrations(RECORDS)
    assert drawn.source.startswith("200 images at each severity")
    (drawn,) = stress_figures.attack_illustrations(ATTACKS)
    assert drawn.source.startswith("100 images at each point")
