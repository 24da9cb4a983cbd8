"""Records -> figures with their captions, one list for each part of a report."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from steadylens import figures
from steadylens.paper import CITATION
from steadylens.records import (
    Contraction,
    Curve,
    Density,
    Hits,
    Measurement,
    Restoring,
    Scatter,
    Stability,
)
from steadylens.tables import SIGMA, grouped, select, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Illustration:
    """A figure ready for a page: everything in it is text.

    Attributes:
        caption: One sentence on how to read it.
        source: What it shows and where it comes from.
        image: The SVG file in base64.
    """

    title: str
    caption: str
    source: str
    image: str


def method_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws both parts of Fig. 1, if there are densities of noise."""
    if not (rows := select(records, Density)):
        return []
    method = Illustration(
        title="Figure 1. The method",
        caption="The restoration net is trained alone; then it is frozen and the classifier is fine-tuned "
        "behind it.",
        source=f"After {CITATION}.",
        image=_encoded(figures.method()),
    )
    densities = Illustration(
        title="Figure 1. Noise of the degradation module",
        caption="What single values of noise look like, for each family at one strength; a bin that towers "
        "over the others is cut off and bears its height.",
        source=source(rows, count="values in a histogram"),
        image=_encoded(figures.densities(rows)),
    )
    return [method, densities]


def training_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws the training curves, if there are any."""
    if not (curves := [curve for curve in select(records, Curve) if curve.steps]):
        return []
    training = Illustration(
        title="Training curves",
        caption="Mean loss of each stage, step by step.",
        source=source(curves, count="images in a stage"),
        image=_encoded(figures.training(curves)),
    )
    return [training]


def restoration_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws PSNR by strength, then Fig. 3, each once for every way in which noisy images were stored."""
    finite = [row for row in select(records, Restoring) if isfinite(row.noisy_db)]
    by_sigma = grouped(finite, by=lambda row: row.noise).values()
    explored = [row for row in records if isinstance(row, Scatter | Contraction | Hits)]
    by_noise = grouped(explored, by=lambda row: row.noise).values()
    return [*map(_restoration, by_sigma), *map(_exploration, by_noise)]


def stability_illustrations(records: Sequence[Measurement]) -> list[Illustration]:
    """Draws accuracy by strength once for every way of storing and population of images."""
    groups = grouped(select(records, Stability), by=lambda row: (row.population == "all", row.noise))
    return [_stability(groups[key]) for key in sorted(groups)]


def _restoration(rows: Sequence[Restoring]) -> Illustration:
    return Illustration(
        title="Restoration by strength of noise",
        caption=f"Mean PSNR by {SIGMA}, and its gain: a net helps where its curve lies above the dashed one, "
        "and harms where it lies below.",
        source=source(rows, count="images at each point"),
        image=_encoded(figures.restoration(rows)),
    )


def _exploration(rows: Sequence[Scatter | Contraction | Hits]) -> Illustration:
    figure = figures.exploration(select(rows, Scatter), select(rows, Contraction), select(rows, Hits))
    return Illustration(
        title="Figure 3. Restoration net by net",
        caption="Top: PSNR of each noisy image before and after each net, with a fitted line and parabola; "
        "on the dotted diagonal a net changes nothing. Bottom: the noise that comes out of a net against "
        "that which goes in, and how strong the noise is where each net restores best.",
        source=source(rows, count="noisy images, some of which are drawn"),
        image=_encoded(figure),
    )


def _stability(rows: Sequence[Stability]) -> Illustration:
    own = rows[0].population == "own"
    return Illustration(
        title=f"Stability, on {'the images that each network classifies correctly' if own else 'all images'}",
        caption=f"Accuracy by {SIGMA} of the noise; bands are 95 % Wilson intervals.",
        source=source(rows, count="noisy images at each point"),
        image=_encoded(figures.stability(rows)),
    )


def _encoded(figure: "Figure") -> str:
    return base64.b64encode(figures.svg(figure).encode()).decode("ascii")
