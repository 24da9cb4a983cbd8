"""How a photograph of any shape becomes a square image: by resizing both sides, or by a centre crop.

Most classifier libraries resize the shorter side and crop the centre. A classifier reaches its known accuracy
only on images that are prepared as in its training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Self

from PIL import Image

from steadylens.errors import ImageError, SettingError
from steadylens.images.decoding import MOST_PIXELS

_SHAPES = {"squash": False, "crop": True}

_FLOOR = "floor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How an image is resized and cropped to the square that a classifier takes.

    By default both sides are resized, whatever the aspect ratio. As text, in files and on the command line,
    a fit is `squash` or `crop`, followed by `:SIDE`, `:INTERPOLATION` and `:floor` if they differ from the
    defaults, for example `crop:256:bicubic`.

    Attributes:
        keeps_shape: Whether to resize the shorter side to `side` and keep the aspect ratio, instead of
            resizing both sides.
        side: The side to resize to, in pixels; None for the classifier's own size. What exceeds that size is
            cropped around the centre.
        interpolation: The interpolation; it is always antialiased.
        floors: If the margin is odd, whether the crop starts at half of it rounded down, as in transformers,
            instead of rounded to even, as in torchvision and timm.

    Raises:
        SettingError: If the side is below 1.

    Example:
        >>> from PIL import Image
        >>> Fit(keeps_shape=True, side=256).fitted(Image.new("RGB", (640, 480)), 224).size
        (224, 224)
    """

    keeps_shape: bool = False
    side: int | None = None
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    floors: bool = False

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 1:
            raise SettingError(f"images are to be resized to {self.side} pixels, it must be at least 1")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the fit that a text such as `crop:256:bicubic` describes.

        Raises:
            SettingError: If the text is not valid.
        """
        shape, *words = text.split(":")
        side = int(words.pop(0)) if words and words[0].isdecimal() else None
        names = {each.name.lower(): each for each in Image.Resampling}
        interpolation = names[words.pop(0)] if words and words[0] in names else Image.Resampling.BILINEAR
        if shape not in _SHAPES or words not in ([], [_FLOOR]):
            raise SettingError(
                f"a fit is {text!r}; it must be squash or crop, then :SIDE in pixels and :INTERPOLATION if "
                f"they are not the usual ones, for example crop:256:bicubic; there are {', '.join(names)}"
            )
        return cls(keeps_shape=_SHAPES[shape], side=side, interpolation=interpolation, floors=bool(words))

    def __str__(self) -> str:
        """Returns the text that `parse` reads."""
        words = ["crop" if self.keeps_shape else "squash"]
        words += [] if self.side is None else [str(self.side)]
        if self.interpolation is not Image.Resampling.BILINEAR:
            words.append(self.interpolation.name.lower())
        return ":".join([*words, *([_FLOOR] if self.floors else [])])

    def is_plain(self, size: int) -> bool:
        """Says whether images are only resized, bilinearly and on both sides, to `size` pixels."""
        bilinear = self.interpolation is Image.Resampling.BILINEAR
        return not self.keeps_shape and self.side in (None, size) and bilinear

    def simplest(self, size: int) -> Self:
        """Returns `Fit()` if it does the same for `size` pixels, else the fit as it is."""
        return type(self)() if self.is_plain(size) else self

    def check_size(self, size: int) -> None:
        """Refuses a size that is larger than the side that images are resized to.

        Raises:
            SettingError: If it is larger.
        """
        if self.side is not None and self.side < size:
            raise SettingError(
                f"images are resized to {self.side} pixels, of which no {size} can be cut out; resize to at "
                f"least {size}"
            )

    def fitted(self, image: Image.Image, size: int, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
        """Returns an image as a square of `size` pixels.

        Args:
            image: The image.
            size: Height and width of the square.
            most_pixels: The largest width times height of the resized image, before it is cropped.

        Raises:
            SettingError: If the size is larger than the side that images are resized to.
            ImageError: If the image is so narrow that it would become too large.
        """
        self.check_size(size)
        side = self.side or size
        shorter = min(image.size) if self.keeps_shape else None
        # Like the libraries, round the longer side down.
        width, height = (int(side * length / (shorter or length)) for length in image.size)
        if width * height > most_pixels:
            raise ImageError(
                f"an image of {image.width}x{image.height} pixels would become {width}x{height}, too much to "
                "cut a square out of; use a less narrow one"
            )
        resized = image.resize((width, height), self.interpolation)
        left, top = self._start(width - size), self._start(height - size)
        return resized.crop((left, top, left + size, top + size))

    def _start(self, margin: int) -> int:
        return margin // 2 if self.floors else round(margin / 2)


_ROUNDING = 1e-3
"""How far outside [0, 1] a mean may lie that was computed from a few images."""

Channels = tuple[float, ...]
"""A number for each of red, green and blue."""


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses a mean and a standard deviation by which images in [0, 1] cannot be normalised.

    Raises:
        SettingError: If one of the two is no sequence of finite numbers, they differ in length, a std is not
            positive, or a number is so large that it must be in grey levels.
    """
    given: dict[str, object] = {"mean": mean, "std": std}  # in Python anything may be given
    for name, numbers in given.items():
        if not isinstance(numbers, Sequence) or not all(isinstance(each, Real) for each in numbers):
            raise SettingError(
                f"{name} is {numbers!r}; give a number for each channel, for example (0.5, 0.5, 0.5)"
            )
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != len(std) or not finite or not all(deviation > 0 for deviation in std):
        raise SettingError(
            f"mean {tuple(mean)} and std {tuple(std)} must be equally long and finite, and std positive"
        )
    if min(mean, default=0) < -_ROUNDING or max((*mean, *std), default=0) > 1 + _ROUNDING:
        raise SettingError(
            f"mean {tuple(mean)} and std {tuple(std)} are not those of images in [0, 1], which lie in [0, 1] "
            "themselves; divide those of grey levels by 255"
        )


def check_size(size: object) -> None:
    """Refuses what is no height and width of a square in pixels.

    Raises:
        SettingError: If it is no whole number, or below 1.
    """
    if not isinstance(size, int) or size < 1:
        raise SettingError(
            f"size is {size!r}, it must be a number of pixels from 1 on, the height and width of a square; "
            "for a classifier of oblong images, give the longer side and resize in a module around it"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """What is done to photographs before a classifier reads them.

    They are fitted into a square, then a mean is subtracted and the result divided by a deviation.

    Attributes:
        size: Height and width of the square in pixels.
        mean: What is subtracted from each channel, for images in [0, 1]: three numbers for RGB, or one for a
            classifier of grey images.
        std: What each channel is then divided by.
        fit: How a photograph becomes a square of that size.

    Raises:
        SettingError: If the size is no number from 1 on or beyond the fit, or mean and deviation are not
            three finite numbers each, or one, as `check_normalization` says.
    """

    size: int
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    fit: Fit = Fit()

    def __post_init__(self) -> None:
        check_normalization(self.mean, self.std)
        check_size(self.size)
        if len(self.mean) not in (1, 3):
            raise SettingError(
                f"mean {self.mean} and std {self.std}: a classifier reads RGB images, with three numbers for "
                "its mean and three for its deviation, or grey ones, with one each"
            )
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        self.fit.check_size(self.size)
        object.__setattr__(self, "fit", self.fit.simplest(self.size))


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessingOptions:
    """A user's changes to a classifier's preprocessing; None keeps the classifier's own value.

    Attributes:
        size: Height and width of the images in pixels.
        mean: What is subtracted from each channel, for images in [0, 1].
        std: What each channel is then divided by.
        fit: How photographs become squares.

    Raises:
        SettingError: If a mean is given without a deviation, or a deviation without a mean.
    """

    size: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingError("give both mean and std, or neither")

    def over(self, known: Preprocessing) -> Preprocessing:
        """Returns what is known of a classifier's preprocessing, with what is said here instead."""
        return Preprocessing(
            size=known.size if self.size is None else self.size,
            mean=known.mean if self.mean is None else self.mean,
            std=known.std if self.std is None else self.std,
            fit=known.fit if self.fit is None else self.fit,
        )
