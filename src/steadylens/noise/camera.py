"""Noise as cameras make it: it depends on brightness, or neighbouring pixels share it.

The strength of each family is the standard deviation of the noise over a mid-grey image, in grey levels of
255. So families of equal strength add the same power, and differ in how it is spread.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from steadylens.errors import ImageError, SettingError
from steadylens.images.tensors import GREY_LEVELS
from steadylens.noise.families import (
    NORMAL,
    Distribution,
    Range,
    Strength,
    check_range,
    check_share,
    check_strength,
)

MANY_PHOTONS = 1 << 20
"""From so many photons at white the counts are drawn from a normal distribution: their skewness is 0.001."""

DEMOSAICED_SHARE = (9 / 16 + 5 / 8 + 9 / 16) / 3
"""Mean variance of red, green and blue after bilinear demosaicing of noise of variance 1.

A quarter of the pixels measure red themselves, for half of them it is the mean of two neighbours, and for the
last quarter that of four: (1 + 2/2 + 1/4) / 4 = 9/16; blue likewise. Half the pixels measure green, and for
the others it is the mean of four: (1 + 1/4) / 2 = 5/8.
"""

MOST_BLUR = 8
"""The widest blur of correlated noise, in pixels: its kernel has 49 weights."""

LEAST_BLUR = 1e-3
"""Narrower blurs count as this one, whose kernel is a single pixel; 0 would divide by 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _CameraNoise:
    """What the families of this module share.

    Attributes:
        strength: The range of standard deviations on mid-grey images.
    """

    strength: Strength = field(default_factory=Strength)
    distribution: ClassVar[Distribution] = NORMAL
    density: ClassVar[Range] = (1.0, 1.0)
    factor: ClassVar[Range] = (1.0, 1.0)

    def __post_init__(self) -> None:
        check_strength(self.strength)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoissonGaussian(_CameraNoise):
    """Poisson noise of the photons and Gaussian noise of their reading: bright pixels are noisier.

    Where an image has the brightness x, the variance of the noise is x / photons + read^2 (Foi et al. 2008,
    Eq. 3): a straight line. The noise has mean 0, and every pixel and channel its own.

    Attributes:
        strength: The range of standard deviations on mid-grey images.
        read_share: The share of the variance on mid-grey images that comes from reading, from 0 to 1.

    References:
        Foi, Trimeche, Katkovnik, Egiazarian: Practical Poissonian-Gaussian noise modeling and fitting for
        single-image raw-data. IEEE Transactions on Image Processing 17, 2008.
    """

    read_share: float = 0.1
    name: ClassVar[str] = "Poisson-Gaussian"
    shared: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _CameraNoise.__post_init__(self)
        check_share("read_share", self.read_share)

    @classmethod
    def of_camera(cls, *, photons: float, read_grey: float = 0.0) -> "PoissonGaussian":
        """Returns the noise of a camera.

        Args:
            photons: Mean number of photons that a white pixel counts, above 0.
            read_grey: Standard deviation of the noise of reading, in grey levels of 255.

        Raises:
            SettingError: If there are no photons, or a number is negative or not finite.
        """
        if not (0 < photons < math.inf and 0 <= read_grey < math.inf):
            raise SettingError(
                f"photons is {photons}, read_grey {read_grey}; give a finite number of photons above 0, "
                "1000 for example, and at least 0 grey levels"
            )
        read = (read_grey / GREY_LEVELS) ** 2
        variance = 0.5 / photons + read
        return cls(strength=Strength.fixed(GREY_LEVELS * math.sqrt(variance)), read_share=read / variance)

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise for images; see `ImageFamily`."""
        brightness = images.float().clamp(min=0)
        per_photon = 2 * (1 - self.read_share) * sigma.square()  # the brightness of one photon
        counted = per_photon > 1 / MANY_PHOTONS
        normal = self.read_share * sigma.square() + torch.where(counted, 0.0, per_photon) * brightness
        noise = _normal(images.shape, generator).mul_(normal.sqrt())
        if counted.any():
            mean = brightness / torch.where(counted, per_photon, 1.0)
            counts = torch.poisson(mean, generator=generator)
            noise += (counts - mean).mul_(torch.where(counted, per_photon, 0.0))
        return noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Demosaiced(_CameraNoise):
    """Gaussian noise of a sensor with a Bayer mosaic, as it is after bilinear demosaicing.

    The sensor measures one colour at each pixel (RGGB, beginning at a random place of the pattern), with
    noise of its own. The two other colours are the means of the nearest pixels that measured them. So the
    noise is blurred, and each colour has its own. Only RGB images can have it.

    Attributes:
        strength: The range of standard deviations after demosaicing, over all pixels and channels.
        mosaics_image: Whether the image passes the mosaic, too, and loses detail even without noise. If not,
            only the noise does; as demosaicing is linear, the noise is the same.
    """

    mosaics_image: bool = False
    name: ClassVar[str] = "demosaiced"
    shared: ClassVar[float] = 0.0

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise for images; see `ImageFamily`.

        Raises:
            ImageError: If the images are not RGB.
        """
        count, channels, height, width = images.shape
        if channels != 3:
            raise ImageError(
                f"images have {channels} channels, noise of a Bayer mosaic needs 3: red, green and blue"
            )
        measured = _bayer_pattern(count, height + 2, width + 2, generator)
        # One pixel more on every side, as if the image were a part of a larger photograph.
        values = _normal((count, 1, height + 2, width + 2), generator).mul_(sigma)
        values = values.div_(math.sqrt(DEMOSAICED_SHARE)) * measured
        if not self.mosaics_image:
            return _interpolated(values)
        scene = pad(images.float(), (1, 1, 1, 1), mode="replicate")
        return _interpolated(values + scene * measured).sub_(images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resized(_CameraNoise):
    """Gaussian noise of a smaller image that was enlarged bilinearly: its grains are larger than pixels.

    The image is a part of the enlarged one that begins at a random place. Only the noise is resized.

    Attributes:
        strength: The range of standard deviations after resizing.
        shared: The probability that all channels of a sample share one pattern; else each has its own.
        scale: By how much the smaller image was enlarged, at least 1.
    """

    shared: float = 0.5
    scale: float = 2.0
    name: ClassVar[str] = "resized"

    def __post_init__(self) -> None:
        _CameraNoise.__post_init__(self)
        check_share("shared", self.shared)
        if not 1 <= self.scale < math.inf:
            raise SettingError(f"scale is {self.scale}; noise is enlarged, by a number of at least 1")

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise for images; see `ImageFamily`."""
        count, channels, height, width = images.shape
        starts = torch.rand((2, count, 1), generator=generator, device=generator.device)
        sides = (height, width)
        small = (int((side - 1) / self.scale) + 3 for side in sides)
        noise = _of_channels(lambda planes: (count, planes, *small), channels, shared, generator)
        for axis, start, side in zip((2, 3), starts, sides, strict=True):
            place = torch.arange(side, device=images.device) / self.scale + start
            first = place.floor()
            share = place - first
            # Interpolation makes the noise weaker; how much depends on where the pixels lie.
            strength = ((1 - share).square() + share.square()).mean(dim=1).sqrt().view(-1, 1, 1, 1)
            line = (count, 1, side, 1) if axis == 2 else (count, 1, 1, side)
            sizes = [*noise.shape]
            sizes[axis] = side
            index = first.long().view(line).expand(sizes)
            noise = torch.lerp(
                noise.gather(axis, index), noise.gather(axis, index + 1), share.view(line)
            ).div_(strength)
        return noise.mul_(sigma)


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlated(_CameraNoise):
    """Gaussian noise that was blurred, as smoothing, demosaicing and resizing in a camera leave it.

    It is the sum of a pattern that all channels share and of one that each channel has for itself. Every
    sample draws a blur for the first and another for the others, and the share of the variance that the first
    has, from 0 to 1.

    Attributes:
        strength: The range of standard deviations after the blur.
        blur: The range of the standard deviation of the Gaussian blur in pixels, from 0, white noise, to 8.
    """

    blur: Range = (0.3, 2.0)
    name: ClassVar[str] = "correlated"
    shared: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _CameraNoise.__post_init__(self)
        check_range("blur", self.blur, most=MOST_BLUR)

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise for images; see `ImageFamily`."""
        count, channels, height, width = images.shape
        if count == 0:
            return torch.empty_like(images, dtype=torch.float32)
        draws = torch.rand((3, count, 1), generator=generator, device=generator.device)
        low, high = self.blur
        blurs = low + (high - low) * draws[:2]
        blurs = torch.cat([blurs[0], blurs[1].expand(count, channels)], dim=1).flatten()
        radius = math.ceil(3 * high)
        place = torch.arange(-radius, radius + 1, device=blurs.device)
        kernels = torch.exp(-(place / blurs.clamp(min=LEAST_BLUR)[:, None]).square() / 2)
        kernels = kernels / kernels.norm(dim=1, keepdim=True)  # so that the variance stays 1
        planes = len(kernels)
        noise = _normal((1, planes, height + 2 * radius, width + 2 * radius), generator)
        with torch.autocast(noise.device.type, enabled=False):  # which would round the noise
            noise = conv2d(noise, kernels.view(planes, 1, -1, 1), groups=planes)
            noise = conv2d(noise, kernels.view(planes, 1, 1, -1), groups=planes)
        noise = noise.view(count, channels + 1, height, width)
        share = draws[2].view(-1, 1, 1, 1)
        common, own = noise[:, :1], noise[:, 1:]
        return (common * share.sqrt() + own * (1 - share).sqrt()).mul_(sigma)


@dataclass(frozen=True, kw_only=True, slots=True)
class Banded(_CameraNoise):
    """Gaussian noise that is constant along each row, or along each column, as of sensors read in lines.

    Attributes:
        strength: The range of standard deviations from line to line.
        shared: The probability that the channels of a sample share the bands; else each has its own.
        columns: The probability that the bands of a sample are columns; else they are rows.
    """

    shared: float = 0.5
    columns: float = 0.5
    name: ClassVar[str] = "banded"

    def __post_init__(self) -> None:
        _CameraNoise.__post_init__(self)
        check_share("shared", self.shared)
        check_share("columns", self.columns)

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise for images; see `ImageFamily`."""
        count, channels, height, width = images.shape
        upright = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) < self.columns
        rows = _of_channels(lambda planes: (count, planes, height, 1), channels, shared, generator)
        columns = _of_channels(lambda planes: (count, planes, 1, width), channels, shared, generator)
        return torch.where(upright, columns, rows).mul_(sigma)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _of_channels(
    shape: Callable[[int], tuple[int, ...]], channels: int, shared: Tensor, generator: torch.Generator
) -> Tensor:
    """Returns normal values with a plane for each channel, which are equal in the samples that share one."""
    own = _normal(shape(channels), generator)
    return torch.where(shared, own[:, :1], own)


def _bayer_pattern(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Returns 1 where a colour is measured, float (N, 3, H, W); the pattern begins at one of four places."""
    device = generator.device
    start = torch.randint(2, (2, count, 1, 1, 1), generator=generator, device=device)
    odd_row = (torch.arange(height, device=device).view(1, 1, -1, 1) + start[0]) % 2 == 1
    odd_column = (torch.arange(width, device=device).view(1, 1, 1, -1) + start[1]) % 2 == 1
    red, blue = ~odd_row & ~odd_column, odd_row & odd_column
    return torch.cat([red, odd_row ^ odd_column, blue], dim=1).float()


def _interpolated(values: Tensor) -> Tensor:
    """Fills in what was not measured, and is 0, by the mean of the nearest measured pixels.

    Args:
        values: Red, green and blue where they were measured, float (N, 3, H + 2, W + 2).

    Returns:
        All colours within the border of one pixel, float (N, 3, H, W).
    """
    upright = values[:, :, :-2] + values[:, :, 2:]
    middle = values[:, :, 1:-1]
    beside = middle[..., :-2] + middle[..., 2:] + upright[..., 1:-1]
    diagonal = upright[..., :-2] + upright[..., 2:]
    weight = torch.tensor([0.25, 0.0, 0.25], device=values.device).view(3, 1, 1)  # green has none diagonally
    side = torch.tensor([0.5, 0.25, 0.5], device=values.device).view(3, 1, 1)
    return middle[..., 1:-1] + beside * side + diagonal * weight
