"""Losses come first, every number follows from the records, and the words do not promise a defence."""

from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.intervals import paired_difference, wilson_interval
from steadylens.records import Corrupted, CorruptedComparison, Measurement, Norm
from steadylens.report.stress.stress_tables import (
    attack_lead,
    attack_tables,
    bound_text,
    corruption_lead,
    corruption_tables,
    difference_over_images,
)
from steadylens.report.tables import DASH, Cell, Table
from tests.report.stress.stress_records import (
    ATTACKS,
    IMAGES,
    RECORDS,
    RIGHT,
    attacked,
    corrupted,
    corruption_records,
)
from tests.sample_records import PROVENANCE

MINUS = "\N{MINUS SIGN}"


def row_of(table: Table, name: str) -> dict[str, Cell]:
    (row,) = [row for row in table.rows if row.cells[0].text == name]
    return dict(zip(table.header, row.cells, strict=True))


def number(text: str) -> float:
    return float(text.replace(MINUS, "-"))


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60))
def test_with_one_version_of_each_image_the_interval_is_that_of_agresti_and_min(
    differences: list[int],
) -> None:
    found = difference_over_images(differences)
    value, lower, upper = paired_difference(differences.count(1), differences.count(-1), len(differences))
    assert (found.value, found.lower, found.upper) == pytest.approx((value, lower, upper), abs=1e-6)


def test_the_interval_of_a_mean_difference_holds_the_true_one() -> None:
    import numpy as np  # noqa: PLC0415

    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        differences = random.binomial(5, 0.8, 200) - random.binomial(5, 0.75, 200)
        found = difference_over_images((differences / 5).tolist())
        held += found.lower <= 0.05 <= found.upper
    assert 0.93 <= held / 400 <= 0.99


def test_losses_come_first() -> None:
    table = corruption_tables(RECORDS)[0]
    assert [row.cells[0].text for row in table.rows] == [
        "motion blur", "JPEG compression", "frost", "fog", "speckle noise"
    ]  # fmt: skip
    differences = [number(row.cells[3].text) for row in table.rows]
    assert differences == sorted(differences)


def test_a_row_holds_the_means_over_severities() -> None:
    row = row_of(corruption_tables(RECORDS)[0], "fog")
    assert (row["alone"].text, row["pair"].text) == ("62.5", "77.5")
    lower, upper = wilson_interval(125, IMAGES)
    assert row["alone"].note == f"{100 * lower:.1f} to {100 * upper:.1f}"
    assert row["difference"].text == "+15.0"
    assert (row["flips, alone"].text, row["flips, pair"].text) == ("35.0", "20.0")


def test_a_paired_interval_is_narrower_than_one_from_shares() -> None:
    widths = []
    for records in (RECORDS, corruption_records(paired=False)):
        lower, upper = row_of(corruption_tables(records)[0], "frost")["difference"].note.split(" to ")
        widths.append(number(upper) - number(lower))
    assert widths[0] < widths[1] / 2


def test_mce_and_mfr_are_relative_to_the_classifier_alone_over_the_common_kinds() -> None:
    row = row_of(corruption_tables(RECORDS)[1], "pair")
    common = [counts for kind, counts in RIGHT.items() if kind != "speckle_noise"]
    errors = [(400 - sum(pair)) / (400 - sum(alone)) for alone, pair in common]
    flips = [(390 - sum(pair)) / (390 - sum(alone)) for alone, pair in common]
    assert number(row["mCE"].text) == pytest.approx(100 * fmean(errors), abs=0.05)
    assert number(row["mFR"].text) == pytest.approx(100 * fmean(flips), abs=0.05)
    assert row["without damage"].text == "94.0"
    assert row["damaged"].text == f"{100 * fmean(sum(pair) / 400 for _, pair in RIGHT.values()):.1f}"
    alone = row_of(corruption_tables(RECORDS)[1], "alone")
    assert (alone["mCE"].text, alone["mFR"].text, alone["difference"].text) == ("100.0", "100.0", DASH)
    assert "over 4 kinds, without speckle noise" in corruption_tables(RECORDS)[1].caption


def test_a_kind_without_errors_of_the_classifier_alone_is_left_out_of_mce() -> None:
    perfect = [
        replace(row, correct=IMAGES, kept=IMAGES)
        if isinstance(row, Corrupted) and (row.network, row.corruption) == ("alone", "fog")
        else row
        for row in RECORDS
    ]
    cell = row_of(corruption_tables(perfect)[1], "pair")["mCE"]
    assert cell.note == "without 1 kind"
    some = [row for row in perfect if not isinstance(row, CorruptedComparison)]
    alone = [row for row in some if isinstance(row, Corrupted) and row.corruption in ("fog", "none")]
    assert row_of(corruption_tables(alone)[1], "pair")["mCE"].text == DASH


def test_accuracy_by_severity_is_the_mean_over_kinds() -> None:
    row = row_of(corruption_tables(RECORDS)[2], "pair")
    assert row["severity 3"].text == f"{100 * fmean(pair[1] / IMAGES for _, pair in RIGHT.values()):.1f}"


def test_the_lead_tells_first_what_gets_worse() -> None:
    assert corruption_lead(RECORDS) == (
        f"pair: clearly worse than alone under 2 of 5 kinds of damage (motion blur {MINUS}15.0 points, JPEG "
        f"compression {MINUS}10.0 points); clearly better under 2 (speckle noise +30.0 points, fog +15.0 "
        "points); under 1 the difference may be chance."
    )
    alike = [
        row for row in RECORDS if not isinstance(row, Corrupted | CorruptedComparison) or "frost" in str(row)
    ]
    assert "worse than alone under none of 1 kinds of damage; clearly better under none" in corruption_lead(
        alike
    )


def test_a_kind_is_clear_only_where_it_would_be_among_all_kinds_that_are_looked_at() -> None:
    def kind(name: str, lost: int) -> list[Measurement]:
        pair = CorruptedComparison(
            provenance=PROVENANCE, samples=IMAGES, seconds=1.0, first="pair", second="alone",
            corruption=name, severities=1, differences=(-1,) * lost + (0,) * (IMAGES - lost),
        )  # fmt: skip
        alone = corrupted("alone", name, 1, 150, 150)
        return [alone, corrupted("pair", name, 1, 150 - lost, 150 - lost), pair]

    upper = paired_difference(0, 6, IMAGES)[2]
    assert upper < 0 < paired_difference(0, 6, IMAGES, confidence=1 - 0.05 / 19)[2]
    one = kind("fog", 6)
    assert "clearly worse than alone under 1 of 1" in corruption_lead(one)
    many = [*one, *(row for number in range(18) for row in kind(f"kind {number}", 0))]
    assert "clearly worse than alone under none of 19" in corruption_lead(many)
    table = corruption_tables(many)[0]
    assert row_of(table, "fog")["difference"].note.endswith(f"{MINUS}{-100 * upper:.1f}")
    assert "holds for all 19 kinds at once" in table.notes_caption


def test_a_network_alone_has_tables_and_no_difference() -> None:
    alone = [row for row in RECORDS if isinstance(row, Corrupted) and row.network == "alone"]
    overall, by_severity = corruption_tables(alone)
    assert [row.cells[0].text for row in overall.rows] == ["alone"]
    assert len(by_severity.rows) == 1
    assert corruption_lead(alone).startswith("How often answers stay right")
    assert (corruption_tables([]), corruption_lead([])) == ([], "")


# Attacks.


def test_each_norm_has_a_table_of_networks_and_attacks_by_bound() -> None:
    euclidean, largest = attack_tables(ATTACKS)
    assert euclidean.header == ("network", "attack", "no change", "ε = 0.25", "ε = 0.5")
    assert largest.header[-1] == "ε = 2/255"
    assert [tuple(cell.text for cell in row.cells) for row in euclidean.rows] == [
        ("alone", "PGD", "95.0", "55.0", "15.0"),
        ("pair", "PGD", "94.0", "64.0", "34.0"),
        ("alone", "PGD, 1 random restart", "94.0", "54.0", "14.0"),
        ("pair", "PGD, 1 random restart", "93.0", "63.0", "33.0"),
        ("pair", "images made against the classifier alone", "94.0", "84.0", "74.0"),
    ]
    lower, upper = wilson_interval(55, 100)
    assert euclidean.rows[0].cells[3].note == f"{100 * lower:.1f} to {100 * upper:.1f}"


def test_the_lead_calls_a_restorer_no_defence_and_tells_by_how_much() -> None:
    text = attack_lead(ATTACKS)
    assert text.startswith(
        "A restorer is no defence against someone who knows it; here is by how much it is not."
    )
    assert (
        "Where the Euclidean norm of the change is at most 0.5, right answers remain for alone 14 %, pair "
        "33 % (74 % on images made against the classifier alone)." in text
    )
    assert attack_tables([]) == []


def test_the_lead_says_where_images_made_against_the_classifier_alone_beat_the_attack_end_to_end() -> None:
    pair = attacked("pair", "l2", 0.5, 30)
    shown = attacked("pair", "l2", 0.5, 40, knows=False)
    alone = attacked("alone", "l2", 0.5, 20)
    for only, told in ((0, False), (10, False), (11, True)):
        text = attack_lead([alone, replace(pair, only_transferred=only), shown])
        assert (
            "would have left 41 % for pair, more than those images do: the restorer hides" in text
        ) == told
    assert "hides" not in attack_lead([alone, pair, shown]), "older records do not tell"


def test_images_made_against_the_classifier_alone_are_no_attack_of_their_own_on_it() -> None:
    again = attacked("alone", "l2", 0.25, 3, knows=False)
    assert attack_tables([*ATTACKS, again]) == attack_tables(ATTACKS)


@pytest.mark.parametrize(
    ("norm", "epsilon", "text"),
    [("linf", 8 / 255, "8/255"), ("linf", 0.01, "0.01"), ("l2", 0.5, "0.5"), ("l2", 2 / 255, "0.007843")],
)
def test_a_bound_is_told_in_grey_levels_where_it_is_a_whole_number(
    norm: Norm, epsilon: float, text: str
) -> None:
    assert bound_text(norm, epsilon) == text
