"""The numbers at the top of the page."""

from dataclasses import replace

from sample_records import sample_records
from steadylens.records import Accuracy, Restoring, Stability
from steadylens.summary import facts
from steadylens.tables import select

RECORDS = sample_records()


def test_facts_are_accuracy_stability_and_restoration() -> None:
    found = [(fact.name, fact.before, fact.after, fact.unit) for fact in facts(RECORDS)]
    assert found == [
        ("Accuracy on clean images", "98.93", "99.40", "%"),
        ("Stability under noise", "93.33", "98.00", "%"),
        ("Restoration", "27.9", "31.1", "dB"),
    ]


def test_facts_stand_beside_the_papers_numbers() -> None:
    accuracy, stability, _ = facts(RECORDS)
    assert "paper 99.05 and 99.52" in accuracy.note
    assert "paper 93.2 and 98.5" in stability.note


def test_restoration_names_the_best_net_and_where_it_helps_least() -> None:
    note = facts(RECORDS)[2].note
    assert "after L11" in note
    assert "the least gain is +0.19 dB, at \N{GREEK SMALL LETTER SIGMA} = 1" in note


def test_harm_to_slight_noise_is_not_hidden() -> None:
    rows = [replace(row, restored_db=30.8) for row in select(RECORDS, Restoring) if row.sigma_grey > 0]
    assert "the least gain is -17.63 dB" in facts(rows)[0].note


def test_without_the_fused_network_there_is_nothing_to_compare() -> None:
    rows = [
        row
        for row in RECORDS
        if isinstance(row, Accuracy | Stability) and row.network != "restoration + original"
    ]
    assert facts(rows) == []


def test_each_way_of_storing_noisy_images_is_summed_up_by_itself() -> None:
    rows = select(RECORDS, Stability)
    found = facts([*rows, *(replace(row, noise="unclipped") for row in rows)])
    assert [fact.name for fact in found] == ["Stability under noise"] * 2
    assert "noise unclipped" in found[1].note
