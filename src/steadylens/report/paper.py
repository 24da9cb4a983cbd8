"""The numbers that the paper prints, which reports show beside the measured ones.

Percentages are as printed, from 0 to 100. Networks have the paper's names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ORIGINAL = "original"

FINE_TUNED = "fine-tuned on noisy images"

SMOOTHED = "Gaussian smoothing as first layer"

RESTORED = "restoration + original"

AUGMENTED = "strong noise augmentation"
"""A baseline that the paper lacks, as are the two below; the four networks above are the paper's."""

TOGETHER = "restoration and original, trained together"

WIDER = "wider classifier, fine-tuned on noisy images"
"""As many multiply-adds as restorer and classifier have together."""

ALONE = "alone"
"""The classifier without a restorer, where it is compared with itself behind restorers."""

IN_TABLE_3 = {ORIGINAL: "single", RESTORED: "restoration + single"}
"""Names in the paper's Table 3 of the networks that have other names in its Table 4."""

IN_TABLE_4 = {SMOOTHED: "Gaussian smoothing"}
"""Names in the paper's Table 4 of networks that have longer names here."""

CITATION = (
    "Hamed H. Aghdam, Elnaz J. Heravi, Domenec Puig: Fusing Convolutional Neural Networks with a "
    "Restoration Network for Increasing Accuracy and Stability, 2016"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HitCounts:
    """One row of Table 2: for how many noisy images a net gave the best PSNR, or one of the two best."""

    top1: int
    top2: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TopAccuracy:
    """One row of Table 3: the share of clean test images whose label is among the k most likely classes.

    Attributes:
        top1_percent: k = 1.
        top2_percent: k = 2, or None where the paper prints none.
        top5_percent: k = 5, or None where the paper prints none.
    """

    top1_percent: float
    top2_percent: float | None
    top5_percent: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyAccuracy:
    """One row of Table 4: accuracy under Gaussian noise.

    Attributes:
        percent: Accuracy at each strength of `SIGMAS_GREY`.
        overall_percent: The last column. It is the mean of the row to within 0.1: the paper seems to average
            before it rounds (it prints 93.2 and 94.9 where the means of the printed rows are 93.1 and 94.8).
    """

    percent: tuple[float, ...]
    overall_percent: float


TABLE_2: Mapping[str, HitCounts] = {
    "L11": HitCounts(top1=95_739, top2=146_854),
    "L9": HitCounts(top1=5_184, top2=32_874),
    "L7": HitCounts(top1=36_395, top2=117_268),
    "L5": HitCounts(top1=6_759, top2=24_903),
    "L3": HitCounts(top1=39_548, top2=47_250),
    "Dong": HitCounts(top1=5_825, top2=9_751),
}
"""Hits on 189,450 noisy images.

The paper's text says 52 % and 76 % for L11; these counts give 50.5 % and 77.5 %.
"""

TABLE_3: Mapping[str, TopAccuracy] = {
    "single": TopAccuracy(top1_percent=99.05, top2_percent=99.69, top5_percent=99.81),
    "restoration + single": TopAccuracy(top1_percent=99.52, top2_percent=99.80, top5_percent=99.85),
    "single net of [22]": TopAccuracy(top1_percent=98.80, top2_percent=None, top5_percent=None),
}
"""Accuracy on the clean test images of GTSRB."""

SIGMAS_GREY = (1, 2, 4, 8, 10, 15, 20, 25, 30, 35, 40)
"""Standard deviations of Table 4's Gaussian noise, in grey levels of 255."""

TABLE_4: Mapping[str, NoisyAccuracy] = {
    "original": NoisyAccuracy(
        percent=(99.0, 98.9, 98.9, 98.3, 97.8, 96.5, 93.4, 90.3, 87.0, 83.7, 80.6), overall_percent=93.2
    ),
    "fine-tuned on noisy images": NoisyAccuracy(
        percent=(100.0, 99.9, 99.8, 99.3, 99.0, 98.3, 96.8, 95.0, 92.9, 90.7, 88.4), overall_percent=96.4
    ),
    "Gaussian smoothing": NoisyAccuracy(
        percent=(99.9, 99.9, 99.8, 99.3, 98.9, 97.7, 95.2, 92.6, 89.6, 86.5, 83.6), overall_percent=94.9
    ),
    "restoration + original": NoisyAccuracy(
        percent=(100.0, 100.0, 99.9, 99.8, 99.7, 99.4, 98.8, 98.1, 97.1, 95.9, 94.4), overall_percent=98.5
    ),
}
"""Stability: accuracy on noisy versions of the test images that each network classifies correctly when clean.

So each row counts over different images. The paper does not say whether noisy images were clipped to [0, 1].
"""
