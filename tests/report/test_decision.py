"""The first table shows the right numbers, and its sentences claim no more than the intervals show."""

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.intervals import (
    mean_difference,
    paired_difference,
    shares_difference,
    wilson_interval,
)
from steadylens.records import (
    Accuracy,
    Attacked,
    Certificate,
    Comparison,
    Corrupted,
    CorruptedComparison,
    Cost,
    Measurement,
    NoisyComparison,
    Stability,
)
from steadylens.report.decision import compared, decision_tables
from steadylens.report.stress.certificates import certificate_tables, largest_radius
from steadylens.report.tables import DASH, Cell, Table, TableRow, select
from tests.sample_records import PROVENANCE, sample_records

RECORDS = sample_records()
BEHIND = "behind unet-gtsrb"
NAMES = {"original": "alone", "restoration + original": BEHIND}


def renamed(names: dict[str, str]) -> list[Measurement]:
    """Returns the records of some networks of the paper's run under the names that `compare` gives."""
    rows: list[Measurement] = []
    for row in RECORDS:
        if isinstance(row, Comparison | NoisyComparison | CorruptedComparison):
            if row.first in names and row.second in names:
                rows.append(replace(row, first=names[row.first], second=names[row.second]))
        elif (name := getattr(row, "network", None)) in names:
            rows.append(replace(row, network=names[name]))  # type: ignore[call-arg]
    return rows


COMPARED = renamed(NAMES)


def table_of(records: Sequence[Measurement]) -> Table:
    (table,) = decision_tables(records)
    return table


def row_of(table: Table, title: str) -> TableRow:
    (row,) = (row for row in table.rows if row.cells[0].text == title)
    return row


def told(table: Table, title: str) -> str:
    return row_of(table, title).cells[-1].text


def accuracy(network: str, correct: int, samples: int = 1000) -> Accuracy:
    lower, upper = wilson_interval(correct, samples)
    return Accuracy(
        provenance=PROVENANCE, samples=samples, seconds=1.0, network=network, k=1, correct=correct,
        lower=lower, upper=upper,
    )  # fmt: skip


def test_each_question_has_a_row() -> None:
    table = table_of(COMPARED)
    assert table.header == ("", "alone", BEHIND, "difference", "what it means")
    assert [row.cells[0].text for row in table.rows] == [
        "Clean images", "Gaussian noise", "Strong Gaussian noise", "Damage of the real world",
        "Damage: motion blur", "Damage: snow", "Proven answers within 0.25", "Mean radius of the proofs",
        "Attack within 0.25", "Attack within 1", "Attack within 2/255", "Attack within 8/255",
        "Time for an image", "Computation for an image",
    ]  # fmt: skip
    assert {len(row.cells) for row in table.rows} == {5}
    assert table.sentences


def test_clean_accuracy_has_a_paired_difference_whichever_network_comes_first() -> None:
    (pair,) = select(COMPARED, Comparison)
    cells = row_of(table_of(COMPARED), "Clean images").cells
    value, lower, upper = paired_difference(pair.only_second, pair.only_first, pair.samples)
    assert cells[3] == Cell(text=f"{100 * value:+.2f}", note=f"{100 * lower:+.2f} to {100 * upper:+.2f}")
    turned = replace(
        pair, first=pair.second, second=pair.first, only_first=pair.only_second, only_second=pair.only_first
    )
    rows = [turned if row is pair else row for row in COMPARED]
    assert row_of(table_of(rows), "Clean images").cells == cells


def test_without_a_paired_test_the_difference_follows_from_both_intervals() -> None:
    rows = [accuracy("alone", 900), accuracy(BEHIND, 950)]
    cells = row_of(table_of(rows), "Clean images").cells
    shares = [(row.correct / row.samples, row.lower, row.upper) for row in rows]
    value, lower, upper = (100 * number for number in shares_difference(shares[1], shares[0]))
    assert (cells[3].text, cells[3].note) == (f"{value:+.1f}", f"{lower:+.1f} to {upper:+.1f}")
    assert [cell.best for cell in cells[1:3]] == [False, True]
    assert cells[4].text == (
        f"Better: 95 of 100 clean images are classified correctly {BEHIND}, instead of 90."
    )


def test_noise_counts_over_all_images_and_each_image_once() -> None:
    rows = [row for row in COMPARED if not isinstance(row, NoisyComparison)]
    table = table_of(rows)
    known = [row for row in select(rows, Stability) if row.population == "all" and row.network == "alone"]
    mean = sum(row.correct / row.samples for row in known) / len(known)
    cell = row_of(table, "Gaussian noise").cells[1]
    lower, upper = wilson_interval(mean * 12_630, 12_630)
    assert cell.text == f"{100 * mean:.1f}"
    assert cell.note == f"{100 * lower:.1f}{DASH}{100 * upper:.1f}"
    strongest = max(known, key=lambda row: row.sigma_grey)
    shown = row_of(table, "Strong Gaussian noise").cells[1]
    assert shown.text == f"{100 * strongest.correct / strongest.samples:.1f}"
    assert strongest.samples == 2 * strongest.images


def test_differences_on_the_same_noisy_images_are_taken_where_there_are_any() -> None:
    (mean,) = (row for row in select(COMPARED, NoisyComparison) if row.sigma_grey is None)
    cells = row_of(table_of(COMPARED), "Gaussian noise").cells
    assert cells[3].text == f"{100 * mean.difference:+.2f}"
    assert cells[3].note == f"{100 * mean.lower:+.2f} to {100 * mean.upper:+.2f}"
    turned = [
        replace(row, first=row.second, second=row.first, difference=-row.difference, lower=-row.upper,
                upper=-row.lower) if isinstance(row, NoisyComparison) else row
        for row in COMPARED
    ]  # fmt: skip
    assert row_of(table_of(turned), "Gaussian noise").cells == cells


def test_another_kind_of_noise_has_a_row_of_its_own() -> None:
    rows = select(COMPARED, Stability)
    camera = [replace(row, noise="poisson, clipped, 8-bit") for row in rows]
    titles = [row.cells[0].text for row in table_of([*rows, *camera]).rows]
    assert titles[1:4] == ["Gaussian noise", "Strong Gaussian noise", "Poisson-Gaussian noise"]
    unclipped = [replace(row, noise="unclipped") for row in rows]
    assert len(table_of([*rows, *unclipped]).rows) == len(table_of(rows).rows)


def test_of_the_kinds_of_damage_the_worst_is_told_before_the_best() -> None:
    table = table_of(COMPARED)
    worst, best = row_of(table, "Damage: motion blur"), row_of(table, "Damage: snow")
    assert table.rows.index(worst) < table.rows.index(best)
    assert worst.cells[-1].text.startswith("Worse: ")
    assert [cell.best for cell in worst.cells[1:3]] == [True, False]
    assert best.cells[-1].text.startswith("Better: ")
    assert row_of(table, "Damage of the real world").cells[0].note == "1,000 images; mean of 3 kinds"


def test_damage_is_compared_image_by_image_where_the_records_tell() -> None:
    pairs = {row.corruption: row for row in select(COMPARED, CorruptedComparison)}
    cells = row_of(table_of(COMPARED), "Damage of the real world").cells
    by_kind = [[count / 5 for count in row.differences] for row in pairs.values()]
    per_image = [sum(values) / 3 for values in zip(*by_kind, strict=True)]
    value, lower, upper = (100 * number for number in mean_difference(per_image))
    assert (cells[3].text, cells[3].note) == (f"{value:+.1f}", f"{lower:+.1f} to {upper:+.1f}")
    snow = [count / 5 for count in pairs["snow"].differences]
    value, lower, upper = (100 * number for number in mean_difference(snow, confidence=1 - 0.05 / 3))
    cells = row_of(table_of(COMPARED), "Damage: snow").cells
    assert (cells[3].text, cells[3].note) == (f"{value:+.1f}", f"{lower:+.1f} to {upper:+.1f}")
    unpaired = [row for row in COMPARED if not isinstance(row, CorruptedComparison)]
    assert row_of(table_of(unpaired), "Damage: snow").cells[3].note != cells[3].note


def test_the_intervals_of_chosen_kinds_are_wider_than_that_of_a_single_kind() -> None:
    def width(records: Sequence[Measurement], title: str) -> float:
        lower, upper = row_of(table_of(records), title).cells[3].note.split(" to ")
        return float(upper) - float(lower)

    blurred = [row for row in COMPARED if getattr(row, "corruption", "") == "motion_blur"]
    assert width(COMPARED, "Damage: motion blur") > width(blurred, "Damage of the real world")
    assert "Damage: motion blur" not in [row.cells[0].text for row in table_of(blurred).rows]


def test_certified_accuracy_is_that_of_a_plain_loop_and_paired() -> None:
    table = table_of(COMPARED)
    radii: dict[str, list[float]] = {}
    for record in select(COMPARED, Certificate):
        if record.sigma == 0.25:
            for _, label, answer, _, radius in record.images:
                radii.setdefault(record.network, []).append(radius if answer == label else 0.0)
    cells = row_of(table, "Proven answers within 0.25").cells
    for cell, name in zip(cells[1:3], ("alone", BEHIND), strict=True):
        assert cell.text == f"{100 * sum(radius >= 0.25 for radius in radii[name]) / 300:.1f}"
    pairs = list(zip(radii[BEHIND], radii["alone"], strict=True))
    counts = sum(a >= 0.25 > b for a, b in pairs), sum(b >= 0.25 > a for a, b in pairs)
    value, lower, upper = (100 * number for number in paired_difference(*counts, 300))
    assert (cells[3].text, cells[3].note) == (f"{value:+.1f}", f"{lower:+.1f} to {upper:+.1f}")


def test_it_is_said_that_the_noise_of_the_proofs_was_chosen_by_its_result() -> None:
    said = "of 2 that at which a network scores best on these images"
    assert said in row_of(table_of(COMPARED), "Proven answers within 0.25").cells[0].note
    one = [row for row in COMPARED if not isinstance(row, Certificate) or row.sigma == 0.25]
    assert "scores best" not in row_of(table_of(one), "Proven answers within 0.25").cells[0].note


def test_wrong_answers_prove_nothing() -> None:
    (record,) = (row for row in select(COMPARED, Certificate) if (row.network, row.sigma) == (BEHIND, 0.25))
    wrong = replace(
        record, images=tuple((i, label, label + 1, count, 9.0) for i, label, _, count, _ in record.images)
    )
    rows = [row for row in COMPARED if not isinstance(row, Certificate) or row.sigma == 0.25]
    table = table_of([wrong if row is record else row for row in rows])
    assert row_of(table, "Proven answers within 0.25").cells[2].text == "0.0"
    assert row_of(table, "Mean radius of the proofs").cells[2].text == "0.00"


def test_the_mean_radius_is_compared_on_the_same_images_and_is_that_of_the_certificates() -> None:
    pair = {row.network: row for row in select(COMPARED, Certificate) if row.sigma == 0.25}
    radii = {
        name: [radius if answer == label else 0.0 for _, label, answer, _, radius in row.images]
        for name, row in pair.items()
    }
    largest = max(largest_radius(row) for row in pair.values())
    cells = row_of(table_of([*pair.values()]), "Mean radius of the proofs").cells
    for cell, name in zip(cells[1:3], ("alone", BEHIND), strict=True):
        mean = fmean(radii[name])
        low, high = (largest * end for end in wilson_interval(mean / largest * 300, 300))
        assert (cell.text, cell.note) == (f"{mean:.2f}", f"{low:.2f}{DASH}{high:.2f}")
    shares = [(a - b) / largest for a, b in zip(radii[BEHIND], radii["alone"], strict=True)]
    value, lower, upper = (largest * number for number in mean_difference(shares))
    assert (cells[3].text, cells[3].note) == (f"{value:+.2f}", f"{lower:+.2f} to {upper:+.2f}")
    (certified,) = certificate_tables([*pair.values()])
    assert {row.cells[-1].text for row in certified.rows} == {f"{fmean(some):.3f}" for some in radii.values()}


@given(st.lists(st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)), min_size=2, max_size=40))
def test_radii_are_called_better_or_worse_only_if_the_interval_excludes_zero(
    pairs: list[tuple[float, float]],
) -> None:
    (some,) = (row for row in select(COMPARED, Certificate) if (row.network, row.sigma) == (BEHIND, 0.25))
    before, after = (
        replace(
            some, network=name, samples=len(pairs),
            images=tuple((index, 1, 1, 900, pair[place]) for index, pair in enumerate(pairs)),
        )
        for place, name in enumerate(("alone", BEHIND))
    )  # fmt: skip
    cells = row_of(table_of([before, after]), "Mean radius of the proofs").cells
    lower, upper = (float(end) for end in cells[3].note.split(" to "))
    if cells[4].text.startswith("No measurable difference"):
        assert lower <= 0 <= upper
    else:
        assert lower >= 0 if cells[4].text.startswith("Better") else upper <= 0
        mean = fmean(second - first for first, second in pairs)
        assert cells[4].text.startswith("Better" if mean > 0 else "Worse")


def test_each_row_of_shares_tells_on_how_many_images_it_rests() -> None:
    notes = {row.cells[0].text: row.cells[0].note for row in table_of(COMPARED).rows}
    assert notes["Clean images"] == "12,630 images"
    assert notes["Strong Gaussian noise"].startswith("12,630 images; ")
    assert notes["Damage: snow"].startswith("1,000 images; ")
    assert notes["Proven answers within 0.25"].startswith("300 images; ")
    assert notes["Mean radius of the proofs"].startswith("300 images; ")
    attacked = {row.samples for row in select(COMPARED, Attacked)}
    assert notes["Attack within 1"].startswith(f"{min(attacked):,} images; ")


def damaged(kinds: dict[str, int]) -> list[Measurement]:
    """Returns records of two networks under some kinds of damage, by how many answers more are right."""
    rows: list[Measurement] = []
    for kind, more in kinds.items():
        for name, correct in (("alone", 50), (BEHIND, 50 + more)):
            lower, upper = wilson_interval(correct, 100)
            rows.append(
                Corrupted(
                    provenance=PROVENANCE, samples=100, seconds=1.0, network=name, corruption=kind,
                    severity=3, correct=correct, lower=lower, upper=upper, kept=40,
                )
            )  # fmt: skip
    return rows


def test_kinds_of_damage_with_the_same_difference_share_a_row() -> None:
    many = [f"kind{number}" for number in range(4)]
    table = table_of(damaged({"fog": 20} | dict.fromkeys(many, 0) | {"snow": 20}))
    titles = [row.cells[0].text for row in table.rows if row.cells[0].text.startswith("Damage:")]
    assert titles == ["Damage: 4 kinds", "Damage: fog, snow"]
    cells = row_of(table, "Damage: 4 kinds").cells
    assert cells[0].note == "100 images; lowest difference of 6 kinds, the same for each"
    assert cells[3].text == "+0.0"
    alike = table_of(damaged(dict.fromkeys(many, 5)))
    assert not [row for row in alike.rows if row.cells[0].text.startswith("Damage:")]


def test_a_proof_is_of_the_vote() -> None:
    assert "not for a single answer" in told(table_of(COMPARED), "Proven answers within 0.25")


def test_the_attack_that_leaves_the_fewest_answers_counts() -> None:
    cells = row_of(table_of(COMPARED), "Attack within 1").cells
    for cell, name in zip(cells[1:3], ("alone", BEHIND), strict=True):
        least = min(
            row.correct / row.samples
            for row in select(COMPARED, Attacked)
            if (row.network, row.norm, row.epsilon) == (name, "l2", 1.0)
        )
        assert cell.text == f"{100 * least:.1f}"
    assert "no defence against an attacker who knows it" in cells[-1].text


def test_an_attack_that_does_not_know_the_restorer_does_not_speak_for_one_that_does() -> None:
    rows = [row for row in select(COMPARED, Attacked) if not row.knows_restorer or row.network == "alone"]
    cells = row_of(table_of(rows), "Attack within 1").cells
    assert cells[0].note.endswith("does not know the restorer")
    assert cells[-1].text.endswith("It tells nothing about an attacker who knows the restorer.")


def test_cost_is_told_as_a_factor() -> None:
    cells = row_of(table_of(COMPARED), "Computation for an image").cells
    assert [cell.text for cell in cells[1:]] == [
        "76.4", "1,146", "\N{MULTIPLICATION SIGN} 15",
        f"An image needs 15 times as many multiply-adds {BEHIND}.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "title", "option"),
    [
        (Corrupted, "Damage of the real world", "--corruptions"),
        (Certificate, "Proven answers", "--certify"),
        (Attacked, "Attacks", "--attacks"),
        (Stability, "Noise", ""),
        (Accuracy, "Clean images", ""),
        (Cost, "Cost", ""),
    ],
)
def test_what_was_not_measured_is_told_with_the_command_that_measures_it(
    kind: type[Measurement], title: str, option: str
) -> None:
    row = row_of(table_of([each for each in COMPARED if not isinstance(each, kind)]), title)
    assert {cell.text for cell in row.cells[1:-1]} == {DASH}
    with_option = f" with {option}" if option else ""
    assert row.cells[-1].text == f"Not measured. steadylens compare measures it{with_option}."


def test_several_pairs_have_columns_of_their_own_and_share_a_sentence() -> None:
    table = table_of(renamed(NAMES | {"strong noise augmentation": "tuned"}))
    assert table.header[1:-1] == (
        "alone", "tuned", BEHIND, "difference tuned", f"difference {BEHIND}",
    )  # fmt: skip
    assert told(table, "Damage: snow") == (
        f"Better: 92 of 100 images with snow are classified correctly with tuned, 94 {BEHIND}, instead of 84."
    )


def test_a_network_that_lacks_a_measurement_has_a_dash() -> None:
    rows = renamed(NAMES | {"strong noise augmentation": "tuned"})
    rows = [row for row in rows if not (isinstance(row, Attacked) and row.network == "tuned")]
    cells = row_of(table_of(rows), "Attack within 1").cells
    assert [cells[2].text, cells[4].text] == [DASH, DASH]
    assert "tuned" not in cells[-1].text


def test_the_papers_run_has_the_baseline_without_a_restorer_beside_it() -> None:
    table = table_of(RECORDS)
    assert table.header[1:4] == ("original", "restoration + original", "strong noise augmentation")
    assert "after training on noise" in told(table, "Damage: snow")


def test_networks_trained_together_come_before_those_fused_afterwards() -> None:
    together = "restoration and original, trained together"
    found = compared([accuracy(name, 9, 10) for name in ("original", "restoration + original", together)])
    assert found is not None
    assert found.others == (together,)


@pytest.mark.parametrize("names", [(), ("alone",), ("original",), ("original", "l3"), ("fused", "sign")])
def test_without_two_networks_to_compare_there_is_no_table(names: tuple[str, ...]) -> None:
    assert decision_tables([accuracy(name, 9, 10) for name in names]) == []


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_sentence_says_better_or_worse_only_if_the_interval_excludes_zero(before: int, after: int) -> None:
    cells = row_of(table_of([accuracy("alone", before), accuracy(BEHIND, after)]), "Clean images").cells
    lower, upper = (float(end) for end in cells[3].note.split(" to "))
    sentence = cells[4].text
    if sentence.startswith("No measurable difference"):
        assert lower <= 0 <= upper
        assert not any(cell.best for cell in cells)
        assert sentence.endswith(" better).")
    else:
        assert sentence.startswith("Better" if after > before else "Worse")
        assert lower >= 0 if after > before else upper <= 0
        count, of, instead = re.findall(r"(?<![\w-])[\d,]+(?![\w-])", sentence)
        shown = [int(number.replace(",", "")) for number in (count, instead)]
        assert (shown[0] > shown[1]) == (after > before)
        assert shown[0] == pytest.approx(after * int(of.replace(",", "")) / 1000, abs=0.5)


def test_the_markdown_aligns_sentences_to_the_left() -> None:
    assert "| --- | ---: | ---: | ---: | --- |" in table_of(COMPARED).markdown()
