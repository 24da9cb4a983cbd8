"""Records of damage and of attacks whose numbers are small enough to be worked out by hand."""

import math

from steadylens.intervals import wilson_interval
from steadylens.records import Attacked, Corrupted, CorruptedComparison, Measurement, Norm
from tests.sample_records import PROVENANCE

IMAGES = 200

RIGHT = {
    "fog": ((150, 100), (170, 140)),
    "frost": ((150, 100), (151, 100)),
    "motion_blur": ((150, 100), (110, 80)),
    "jpeg_compression": ((150, 100), (140, 70)),
    "speckle_noise": ((150, 100), (190, 180)),
}
"""Kinds of damage, and right answers at severities 1 and 3, of the classifier alone and of the pair."""


def corrupted(network: str, kind: str, severity: int, correct: int, kept: int) -> Corrupted:
    lower, upper = wilson_interval(correct, IMAGES)
    return Corrupted(
        provenance=PROVENANCE, samples=IMAGES, seconds=1.0, network=network, corruption=kind,
        severity=severity, correct=correct, lower=lower, upper=upper, kept=kept,
    )  # fmt: skip


def corruption_records(*, paired: bool = True) -> list[Measurement]:
    """Returns records of a classifier alone and a pair that differ on as few images as they can."""
    rows: list[Measurement] = [
        corrupted("alone", "none", 0, 190, IMAGES),
        corrupted("pair", "none", 0, 188, IMAGES),
    ]
    for kind, counts in RIGHT.items():
        for network, some in zip(("alone", "pair"), counts, strict=True):
            rows += [
                corrupted(network, kind, severity, correct, correct + 5)
                for severity, correct in zip((1, 3), some, strict=True)
            ]
        ways = [after - before for before, after in zip(*counts, strict=True)]
        differences = [0] * IMAGES
        for way in ways:
            for place in range(abs(way)):
                differences[place] += int(math.copysign(1, way))
        if paired:
            pair = CorruptedComparison(
                provenance=PROVENANCE, samples=IMAGES, seconds=1.0, first="pair", second="alone",
                corruption=kind, severities=2, differences=tuple(differences),
            )  # fmt: skip
            rows.append(pair)
    return rows


RECORDS = corruption_records()


# Attacks.


def attacked(
    network: str, norm: Norm, epsilon: float, correct: int, *, restarts: int = 0, knows: bool = True
) -> Attacked:
    lower, upper = wilson_interval(correct, 100)
    return Attacked(
        provenance=PROVENANCE, samples=100, seconds=2.0, network=network, attack="PGD", norm=norm,
        epsilon=epsilon, steps=40, restarts=restarts, knows_restorer=knows, correct=correct, lower=lower,
        upper=upper,
    )  # fmt: skip


def attack_records() -> list[Measurement]:
    rows: list[Measurement] = []
    given: tuple[tuple[Norm, tuple[float, ...]], ...] = (("l2", (0.0, 0.25, 0.5)), ("linf", (0.0, 2 / 255)))
    for norm, bounds in given:
        for place, epsilon in enumerate(bounds):
            for restarts in (0, 1):
                rows.append(attacked("alone", norm, epsilon, 95 - 40 * place - restarts, restarts=restarts))
                rows.append(attacked("pair", norm, epsilon, 94 - 30 * place - restarts, restarts=restarts))
            rows.append(attacked("pair", norm, epsilon, 94 - 10 * place, knows=False))
    return rows


ATTACKS = attack_records()
