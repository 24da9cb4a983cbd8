"""What is chosen on the page -> what the page shows, as HTML."""

import math
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from steadylens.errors import SettingError, SteadylensError
from steadylens.kinds import KINDS, Noise
from steadylens.pretrained import PRETRAINED
from steadylens.trial import MOST_SIDE, Nets, Trial, draw_sign, fitted, read_upload, resized, try_out
from steadylens.uploads import encode_png

SEEN_PIXELS = 128
"""Height and width up to which a picture is enlarged without smoothing."""

_DRAWN = (
    "Drawn signs are no photographs, from which these nets learned: about one drawn sign in four is misread "
    "even without noise."
)
_CHOSEN = "This example was chosen for its change: the noise changes no answer for most drawn signs."
_READ_SMALL = (
    "The classifiers read every picture resized to {0}x{0} pixels, which averages much of the noise away."
)
_SHRUNK = "The image has {0:,}x{1:,} pixels; to be quick, the page works on at most {2} a side."
_SUMMARIES = {
    (False, False): "The noise changed neither answer.",
    (True, False): "The noise changed the answer of the classifier alone, not of the fused one.",
    (False, True): "The noise changed the answer of the fused classifier, not of the one alone.",
    (True, True): "The noise changed both answers.",
}


class Choice(NamedTuple):
    """What somebody has chosen, in the order of the page's inputs.

    Attributes:
        file: Path of an uploaded image, or None for a drawn sign.
        sign: Class of the drawn sign.
        drawing: Seed of the drawing.
        kind: Name of the kind of noise, one of `KINDS`.
        strength_grey: Strength of the noise in grey levels.
        percent: Share of the values that are noisy, in percent.
        shared: Whether the channels share the noise.
        seed: Seed of the noise.
        own_size: Whether an uploaded image keeps its size.
    """

    file: str | None = None
    sign: int = 18
    drawing: int = 0
    kind: str = "Gaussian"
    strength_grey: float = 30
    percent: float = 20
    shared: bool = False
    seed: int = 0
    own_size: bool = False

    def image(self) -> Image.Image:
        """Returns the chosen image, at its own size."""
        return draw_sign(self.sign, self.drawing) if self.file is None else read_upload(Path(self.file))

    def noise(self) -> Noise:
        """Returns the chosen noise."""
        return Noise(
            kind=KINDS[self.kind],
            strength_grey=_number("strength", self.strength_grey),
            share=_number("share", self.percent) / 100,
            shared=self.shared,
            seed=self.seed,
        )


def answer(choice: Choice, nets: Nets) -> str:
    """Returns what the page shows, as HTML; a problem that can be mended becomes its message."""
    try:
        image = choice.image()
        small = resized(image, nets.classifier.size, fit=nets.classifier.fit)
        trial = try_out(fitted(image) if choice.own_size else small, choice.noise(), nets)
    except SteadylensError as problem:
        return _render(problem=str(problem))
    return _render(
        problem="",
        summary=_SUMMARIES[trial.classifier.changed, trial.fused.changed],
        trial=trial,
        views={name: _View.of(getattr(trial, name)) for name in ("clean", "noisy", "pattern", "restored")},
        origin="drawn sign" if choice.file is None else Path(choice.file).name,
        drawn=choice.sign if choice.file is None else None,
        restorer=nets.restorer.name,
        notes=list(_notes(choice, image, trial, nets)),
    )


class _View(NamedTuple):
    """A picture as an HTML page holds it."""

    source: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether its pixels shall be seen."""
        return max(self.width, self.height) <= SEEN_PIXELS

    @classmethod
    def of(cls, picture: Tensor) -> Self:
        source = f"data:image/png;base64,{b64encode(encode_png(picture)).decode()}"
        return cls(source=source, width=picture.shape[2], height=picture.shape[1])


def _notes(choice: Choice, image: Image.Image, trial: Trial, nets: Nets) -> Iterator[str]:
    if choice.file is None and {nets.classifier.name, nets.fused.name} <= {*PRETRAINED}:
        yield _DRAWN
        if choice == Choice() and trial.classifier.changed:
            yield _CHOSEN
    if choice.own_size and max(image.size) > MOST_SIDE:
        yield _SHRUNK.format(*image.size, MOST_SIDE)
    if max(trial.clean.shape) > nets.classifier.size:
        yield _READ_SMALL.format(nets.classifier.size)


def _number(name: str, value: float | None) -> float:
    if value is None:
        raise SettingError(f"the {name} is empty; enter a number")
    return value


def _decibels(value: float) -> str:
    return f"PSNR {value:.1f} dB" if math.isfinite(value) else "identical to the clean image"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _render(**content: Any) -> str:
    loader = PackageLoader("steadylens")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(decibels=_decibels, percent=_percent)
    return environment.get_template("trial.html").render(content)
