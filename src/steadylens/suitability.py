"""What a trained net is for, and what it is not good for, in sentences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from steadylens.classification import SignNet
from steadylens.fusion import FusedClassifier
from steadylens.preparation import PreparedClassifier
from steadylens.records import Measurement, Restoring
from steadylens.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.tables import SIGMA, decibels, select

RESTORING, CLASSIFYING = "image-to-image", "image-classification"
"""The tasks, as model hubs call them."""


def sources_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the sources of all images that a net learned from, in the end and before, as far as known."""
    origins = about.get("origins")
    before = list(origins.values()) if isinstance(origins, dict) else []
    known = [str(each.get("data", "")) for each in (about, *before) if isinstance(each, Mapping)]
    return tuple(dict.fromkeys(source for text in known for source in text.split(", ") if source))


def purpose_of(module: nn.Module, about: dict[str, Any]) -> tuple[str, str]:
    """Returns what a net does, and the name of that task on model hubs."""
    match module:
        case RestorationNet():
            text = f"A residual net of {module.depth} convolutions that takes noise out of images of any size"
        case DongNet():
            text = "A net of 3 convolutions, without a shortcut, that takes noise out of images of any size"
        case GaussianSmoothing():
            text = "A fixed Gaussian that smooths images, for comparison with a trained restoration net"
        case SignNet():
            return f"A classifier of {module.classes} traffic signs on images of 48x48 pixels.", CLASSIFYING
        case PreparedClassifier():
            return "A classifier of another library behind its own normalisation.", CLASSIFYING
        case FusedClassifier():
            stage = str(about.get("stage", ""))
            # A pair that nothing was trained for names no data.
            if stage.startswith("fusing") and about.get("data"):
                text = "A restorer in front of a frozen classifier, for which it was tuned without labels."
                return text, CLASSIFYING
            how = " that was fine-tuned behind it on noisy images" if stage.startswith("fine-tuning") else ""
            return f"A frozen restorer in front of a classifier{how}.", CLASSIFYING
        case _:
            text = f"A net of type {type(module).__name__} that restores images"
    return f"{text}.", RESTORING


def limits_of(about: dict[str, Any], task: str, figures: Sequence[Measurement]) -> Iterator[str]:
    """Yields what a net is not good for, as far as data and figures tell, a sentence each."""
    learned = [source for source in sources_of(about) if source.startswith("gtsrb")]
    if learned:
        who = "It was" if about.get("data") in learned else "What it began with was"
        yield (
            f"{who} trained on German traffic signs, cut out and resized to 48x48 pixels. Other motifs, "
            "cameras and resolutions were not measured."
        )
    if about.get("stage") == "classifier":
        yield "It was trained on clean images alone: noise changes its answers, as the figures say."
    elif about.get("data"):
        yield (
            "It was trained with synthetic additive noise. Blur, compression, weather and "
            "noise that depends on the brightness were not measured."
        )
    yield "It is no defence against an adversary: perturbations made to mislead were not measured."
    yield from _harms(select(figures, Restoring))
    if task == CLASSIFYING:
        yield (
            "Every image gets one of its classes, even if it shows none of them. No safety function should "
            "rest on it alone."
        )


def _harms(rows: Sequence[Restoring]) -> Iterator[str]:
    """Says at which strengths the measured images became worse by being restored."""
    falls = [
        f"from {decibels(row.noisy_db)} to {decibels(row.restored_db)} dB at {SIGMA} = {row.sigma_grey:g}"
        for row in sorted(rows, key=lambda row: row.sigma_grey)
        if row.restored_db < row.noisy_db < math.inf
    ]
    if falls:
        yield f"Slight noise becomes worse: the mean PSNR falls {', '.join(falls)}."
    for row in rows:
        if row.noisy_db == math.inf > row.restored_db:
            yield f"It changes clean images, too: their PSNR is {decibels(row.restored_db)} dB afterwards."
