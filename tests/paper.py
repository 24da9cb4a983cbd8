"""Numbers of the paper that only tests need, beside those of `steadylens.report.paper`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One row of Table 1.

    Attributes:
        maps: Feature maps, layer by layer.
        kernels: Side of each layer's kernels in pixels.
        parameters: Number of parameters, on RGB images.
        field: Side in pixels of the square of input that one output pixel depends on.
        margin: Pixels that the net without padding loses on each side.
        shortcut: Whether the input is added to what the last layer predicts.
    """

    maps: tuple[int, ...]
    kernels: tuple[int, ...]
    parameters: int
    field: int
    margin: int
    shortcut: bool


TABLE_1: Mapping[str, Architecture] = {
    "L11": Architecture(
        maps=(64, 32, 128, 64, 128, 64, 128, 64, 256, 128, 3),
        kernels=(3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3),
        parameters=397_411,
        field=13,
        margin=6,
        shortcut=True,
    ),
    "L9": Architecture(
        maps=(64, 32, 128, 64, 128, 64, 128, 64, 3),
        kernels=(3, 1, 3, 1, 3, 1, 3, 1, 3),
        parameters=215_075,
        field=11,
        margin=5,
        shortcut=True,
    ),
    "L7": Architecture(
        maps=(64, 32, 128, 64, 128, 64, 3),
        kernels=(3, 1, 3, 1, 3, 1, 3),
        parameters=132_963,
        field=9,
        margin=4,
        shortcut=True,
    ),
    "L5": Architecture(
        maps=(64, 32, 128, 64, 3),
        kernels=(3, 1, 3, 1, 3),
        parameters=50_851,
        field=7,
        margin=3,
        shortcut=True,
    ),
    "L3": Architecture(
        maps=(64, 32, 3), kernels=(3, 1, 3), parameters=4_739, field=5, margin=2, shortcut=True
    ),
    "Dong": Architecture(
        maps=(64, 32, 3), kernels=(9, 1, 5), parameters=20_099, field=13, margin=6, shortcut=False
    ),
}
"""The restoration nets."""

TEST_IMAGES = 12_630
"""Test images of GTSRB."""

EXPLORATORY_IMAGES = 1_263
"""Test images behind Table 2 and Fig. 3."""

NOISY_VERSIONS = 150
"""Noisy versions of each image, in Table 2 and Fig. 3; in Table 4, at each strength."""

ENSEMBLE_TOP1_PERCENT = 99.51
"""Accuracy of an ensemble of five single nets [21], on the same images as Table 3."""

CLASSIFIER_PARAMETERS = 1_123_449
"""Parameters of the single net [21]."""

FUSED_PARAMETERS = 1_520_860
"""Parameters of L11 and the single net together."""
