"""What is said of a net follows from what it is, what it learned from, and what was measured."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from sample_records import sample_records
from steadylens.classification import SignNet
from steadylens.fusion import FusedClassifier
from steadylens.preparation import PreparedClassifier
from steadylens.records import Restoring
from steadylens.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.suitability import CLASSIFYING, RESTORING, limits_of, purpose_of, sources_of

ORIGINS = {
    "restorer": {"name": "l3-gtsrb", "data": "gtsrb:DIR", "licence": "MIT"},
    "classifier": {"name": "timm:NAME"},
}
PAIR = FusedClassifier(nn.Identity(), SignNet())
RESTORED = next(row for row in sample_records() if isinstance(row, Restoring) and row.sigma_grey > 0)


@pytest.mark.parametrize(
    ("module", "task", "words"),
    [
        (RestorationNet(depth=7), RESTORING, "A residual net of 7 convolutions"),
        (DongNet(), RESTORING, "without a shortcut"),
        (GaussianSmoothing(), RESTORING, "A fixed Gaussian"),
        (SignNet(classes=9), CLASSIFYING, "A classifier of 9 traffic signs"),
        (PAIR, CLASSIFYING, "A frozen restorer in front of"),
        (PreparedClassifier(nn.Flatten(), size=8), CLASSIFYING, "A classifier of another library"),
        (nn.Identity(), RESTORING, "A net of type Identity that restores images"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_net_has_a_purpose_and_a_task(module: nn.Module, task: str, words: str) -> None:
    text, found = purpose_of(module, {})
    assert found == task
    assert words in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("about", "sources"),
    [
        ({}, ()),
        ({"data": "signs", "origins": ORIGINS}, ("signs", "gtsrb:DIR")),
        ({"origins": {"restorer": {"data": "folder:a, gtsrb:DIR"}, "classifier": {"data": "folder:a"}}},
         ("folder:a", "gtsrb:DIR")),
        ({"data": "signs", "origins": 3}, ("signs",)),
        ({"origins": {"restorer": "l3-gtsrb"}}, ()),
    ],
)  # fmt: skip
def test_the_sources_are_those_of_the_net_and_of_what_it_began_with(
    about: dict[str, Any], sources: tuple[str, ...]
) -> None:
    assert sources_of(about) == sources


def test_only_a_pair_that_was_fine_tuned_is_said_to_be() -> None:
    for stage in ("fine-tuning mine", "fusing mine"):
        text, _ = purpose_of(PAIR, {"stage": stage})
        assert ("fine-tuned" in text) == (stage == "fine-tuning mine")


@pytest.mark.parametrize("data", ["signs", ""])
def test_only_a_restorer_that_was_tuned_for_its_classifier_is_said_to_be(data: str) -> None:
    text, _ = purpose_of(PAIR, {"stage": "fusing mine", "data": data})
    assert ("tuned without labels" in text) == bool(data)


def test_the_limits_tell_at_which_strengths_restoring_does_harm() -> None:
    rows = [
        replace(RESTORED, sigma_grey=2, noisy_db=42.0, restored_db=41.5),
        replace(RESTORED, sigma_grey=1, noisy_db=48.0, restored_db=44.25),
        replace(RESTORED, sigma_grey=25, noisy_db=20.7, restored_db=29.7),
        replace(RESTORED, sigma_grey=0, noisy_db=float("inf"), restored_db=45.0),
    ]
    sigma = "\N{GREEK SMALL LETTER SIGMA}"
    limits = list(limits_of({}, RESTORING, rows))
    assert (
        "Slight noise becomes worse: the mean PSNR falls from 48.00 to 44.25 dB at "
        f"{sigma} = 1, from 42.00 to 41.50 dB at {sigma} = 2."
    ) in limits
    assert "It changes clean images, too: their PSNR is 45.00 dB afterwards." in limits
    unharmed = [rows[2], replace(rows[3], restored_db=float("inf"))]
    assert not any(
        "becomes worse" in limit or "clean" in limit for limit in limits_of({}, RESTORING, unharmed)
    )


@pytest.mark.parametrize(
    ("about", "task", "words", "told"),
    [
        ({"data": "gtsrb:DIR"}, RESTORING, "trained on German traffic signs", True),
        ({"data": "folder:DIR"}, RESTORING, "trained on German traffic signs", False),
        ({"origins": ORIGINS}, CLASSIFYING, "What it began with was trained on German", True),
        ({"origins": {"restorer": {"name": "mine"}}}, CLASSIFYING, "trained on German traffic signs", False),
        ({"data": "folder:DIR"}, RESTORING, "trained with synthetic additive noise", True),
        ({}, RESTORING, "trained", False),
        ({"stage": "classifier", "data": "signs"}, CLASSIFYING, "trained on clean images alone", True),
        ({"stage": "classifier", "data": "signs"}, CLASSIFYING, "synthetic additive noise", False),
        ({}, CLASSIFYING, "No safety function should rest on it alone", True),
        ({}, RESTORING, "No safety function should rest on it alone", False),
        ({}, RESTORING, "no defence against an adversary", True),
    ],
)
def test_the_limits_are_those_of_its_data_and_its_task(
    about: dict[str, Any], task: str, words: str, *, told: bool
) -> None:
    assert any(words in limit for limit in limits_of(about, task, [])) == told
