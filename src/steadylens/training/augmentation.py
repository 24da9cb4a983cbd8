"""Random changes of a classifier's training images: pose, light, sharpness, and hidden parts.

`Augmentation` is cheap and mild. `StrongAugmentation` also shears, blurs and hides parts, for long trainings:
a net that sees an image hundreds of times must not see the same image again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS, check_images


class Augmenting(Protocol):
    """Changes each image of a batch at random."""

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns changed copies of the images, (N, C, H, W) in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random rotation, scale, shift, brightness and contrast, drawn for each image.

    Every amount is drawn uniformly between minus and plus the setting. Pixels from outside the image repeat
    its border.

    Attributes:
        rotation_degrees: Largest rotation.
        scale: Largest relative change of size, below 1.
        shift: Largest shift, as a share of the image's side.
        brightness: Largest change of brightness, for images in [0, 1].
        contrast: Largest relative change of contrast around the image's mean, below 1.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.12
    shift: float = 0.07
    brightness: float = 0.15
    contrast: float = 0.3

    def __post_init__(self) -> None:
        """Refuses amounts that are negative or not finite, and a scale or contrast of 1 or more."""
        _check_amounts(self, "rotation_degrees", "shift", "brightness")
        for name in ("scale", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must lie in [0, 1)")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns augmented copies of the images.

        Args:
            images: (N, C, H, W) in [0, 1].
            generator: Generator for the amounts, on the images' device.

        Returns:
            (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        check_images(images)
        draws = (
            torch.rand(6, len(images), generator=generator, device=images.device, dtype=images.dtype) * 2 - 1
        )
        angle = draws[0] * math.radians(self.rotation_degrees)
        zoom = 1 / (1 + draws[1] * self.scale)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        # In affine_grid a side has length 2, so a share of the side is doubled.
        shift_x, shift_y = 2 * self.shift * draws[2], 2 * self.shift * draws[3]
        moved = _sampled(images, (cos, -sin, shift_x, sin, cos, shift_y))
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        gain = 1 + draws[4].view(-1, 1, 1, 1) * self.contrast
        offset = draws[5].view(-1, 1, 1, 1) * self.brightness
        return ((moved - mean) * gain + mean + offset).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class StrongAugmentation:
    """Random pose, light, blur, hidden rectangles and weak noise, for trainings of many thousand steps.

    In this order: pose; blur by motion or by too few pixels; gamma, saturation, brightness, contrast and an
    uneven light; a hidden rectangle; weak Gaussian noise, rounded to 8 bits. Amounts are drawn uniformly
    between minus and plus the setting, for each image. Pixels from outside the image repeat its border.

    Attributes:
        rotation_degrees: Largest rotation.
        scale: Largest change of size, as a natural logarithm: sizes run from e^-scale to e^scale.
        stretch: The same for the width alone; the height changes by the inverse factor.
        shear: Largest shear, as a tangent.
        shift: Largest shift, as a share of the image's side.
        unmoved_share: Share of the images that are only shifted, by up to 2 whole pixels, and so stay sharp.
        light: Factor on all changes of light; 1 changes brightness by a factor of up to 2.
        blurred_share: Share of each batch that is blurred, rounded to whole images: half of them by motion of
            2 to 9 pixels, half by shrinking them to between 30 and 70 percent of their size, all to the same.
        hidden_share: Share of the images with a hidden rectangle, a tenth to a third of a side wide and high.
        noise_grey: Largest standard deviation of the noise, in grey levels; 0 for none. Three in ten images
            have noise.
    """

    rotation_degrees: float = 15.0
    scale: float = 0.17
    stretch: float = 0.1
    shear: float = 0.12
    shift: float = 0.1
    unmoved_share: float = 0.15
    light: float = 1.0
    blurred_share: float = 0.3
    hidden_share: float = 0.15
    noise_grey: float = 8.0

    def __post_init__(self) -> None:
        """Refuses amounts that are negative or not finite, and shares outside [0, 1]."""
        _check_amounts(self, "rotation_degrees", "scale", "stretch", "shear", "shift", "light", "noise_grey")
        for name in ("unmoved_share", "blurred_share", "hidden_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must lie in [0, 1]")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns augmented copies of the images.

        Args:
            images: (N, C, H, W) in [0, 1].
            generator: Generator for all amounts, on the images' device.

        Returns:
            (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        check_images(images)
        changed = self._blurred(self._moved(images, generator), generator)
        changed = self._hidden(self._lit(changed, generator), generator)
        return self._with_noise(changed, generator)

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = _symmetric((7, len(images)), images, generator)
        moves = torch.rand(len(images), generator=generator, device=images.device) >= self.unmoved_share
        angle = draws[0] * math.radians(self.rotation_degrees) * moves
        zoom, stretch = (-self.scale * draws[1] * moves).exp(), (self.stretch * draws[2] * moves).exp()
        shear = self.shear * draws[3] * moves
        cos, sin = torch.cos(angle), torch.sin(angle)
        height, width = images.shape[-2:]
        shift_x, shift_y = (
            torch.where(moves, 2 * self.shift * draw, (2.49 * draw).round() * 2 / side)
            for draw, side in ((draws[4], width), (draws[5], height))
        )
        across, down = zoom * stretch, zoom / stretch
        matrix = (cos * across, (shear * cos - sin) * down, shift_x, sin * across, (shear * sin + cos) * down)
        return _sampled(images, (*matrix, shift_y))

    def _blurred(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count = round(len(images) * self.blurred_share / 2)
        if count == 0:
            return images
        order = torch.randperm(len(images), generator=generator, device=images.device)
        blurred = images.clone()
        by_motion, by_shrinking = order[:count], order[count : 2 * count]
        blurred[by_motion] = _blur_by_motion(images[by_motion], generator)
        sides = images.shape[-2:]
        # One size for the batch: images of different sizes cannot be resized together.
        share = 0.3 + 0.4 * float(torch.rand((), generator=generator, device=images.device))
        small = F.interpolate(
            images[by_shrinking],
            size=[max(1, round(side * share)) for side in sides],
            mode="bilinear",
            antialias=True,
        )
        blurred[by_shrinking] = F.interpolate(small, size=list(sides), mode="bilinear")
        return blurred

    def _lit(self, images: Tensor, generator: torch.Generator) -> Tensor:
        gamma, saturation, brightness, slope_x, slope_y, offset = self.light * _symmetric(
            (6, len(images), 1, 1, 1), images, generator
        )
        tint = self.light * _symmetric((len(images), images.shape[1], 1, 1), images, generator)
        lit = images.clamp(0, 1).pow((0.4 * gamma).exp())
        grey = lit.mean(dim=1, keepdim=True)
        lit = grey + (lit - grey) * (1 + 0.4 * saturation)
        height, width = images.shape[-2:]
        down = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)[:, None]
        across = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
        uneven = (0.35 * (slope_x * across + slope_y * down)).exp()
        gain = (0.7 * brightness + 0.1 * tint).exp() * uneven
        return torch.addcmul(0.05 * offset, lit, gain).clamp(0, 1)

    def _hidden(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        draws = torch.rand(
            (6, len(images), 1, 1, 1), generator=generator, device=images.device, dtype=images.dtype
        )
        tall, wide = height * (0.1 + 0.23 * draws[0]), width * (0.1 + 0.23 * draws[1])
        top, left = draws[2] * (height - tall), draws[3] * (width - wide)
        rows = torch.arange(height, device=images.device)[:, None] + 0.5
        columns = torch.arange(width, device=images.device) + 0.5
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        colours = torch.rand(
            (len(images), images.shape[1], 1, 1),
            generator=generator,
            device=images.device,
            dtype=images.dtype,
        )
        cover = 0.7 * draws[4] + 0.3 * colours
        return torch.where(inside & (draws[5] < self.hidden_share), cover, images)

    def _with_noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.noise_grey == 0:
            return images
        draws = torch.rand(
            (2, len(images), 1, 1, 1), generator=generator, device=images.device, dtype=images.dtype
        )
        strength = (draws[0] < 0.3) * draws[1] * (self.noise_grey / GREY_LEVELS)
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return ((images + strength * noise).clamp(0, 1) * GREY_LEVELS).round() / GREY_LEVELS


def _check_amounts(settings: object, *names: str) -> None:
    for name in names:
        if not 0 <= (amount := getattr(settings, name)) < math.inf:
            raise SettingError(f"{name} is {amount}, it must be a number of at least 0")


def _symmetric(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws uniformly from [-1, 1)."""
    draws = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
    return draws * 2 - 1


def _sampled(images: Tensor, matrix: tuple[Tensor, ...]) -> Tensor:
    """Returns images that are read at moved places; pixels from outside repeat the border.

    Args:
        images: (N, C, H, W).
        matrix: The six numbers, (N,) each, of a 2x3 matrix from places in the output to places in the input,
            where the image's height is 2. For an oblong image they are those of a square one.
    """
    # affine_grid gives both sides a length of 2, so a rotation needs the aspect ratio of the image.
    oblong = images.shape[2] / images.shape[3]
    xx, xy, x, yx, yy, y = matrix
    rows = torch.stack([xx, xy * oblong, x, yx / oblong, yy, y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


LONGEST_MOTION = 9
"""Pixels that an image moves at most while it is blurred."""


def _blur_by_motion(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurs each image along a line of random direction, 2 to 9 pixels long."""
    count, channels = images.shape[:2]
    length, angle = torch.rand((2, count, 1), generator=generator, device=images.device, dtype=images.dtype)
    length = 2 + (LONGEST_MOTION - 2) * length
    reach = LONGEST_MOTION // 2 + 1
    side = 2 * reach + 1
    points = torch.linspace(-0.5, 0.5, 33, device=images.device, dtype=images.dtype) * length
    x, y = reach + points * torch.cos(math.pi * angle), reach + points * torch.sin(math.pi * angle)
    # A point counts for each pixel by how near it is, as in bilinear interpolation.
    pixels = torch.arange(side, device=images.device)
    near_x = (1 - (x[..., None] - pixels).abs()).clamp_min(0)
    near_y = (1 - (y[..., None] - pixels).abs()).clamp_min(0)
    kernels = near_y.mT @ near_x / points.shape[1]
    # A group for each channel of each image, so that each image has its own kernel.
    flat = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    weights = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(flat, weights, groups=count * channels).view_as(images)
