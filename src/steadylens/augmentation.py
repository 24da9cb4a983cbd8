"""Small changes of pose and light for a classifier's training images, a batch at a time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from steadylens.errors import SettingError
from steadylens.images import check_images


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Moves and bends each image, and changes its light, by amounts of its own.

    Every amount is drawn uniformly from minus to plus the setting. The border is repeated outwards.

    Attributes:
        rotation_degrees: Largest rotation.
        scale: Largest relative change of size, below 1.
        shift: Largest shift, as a share of the image's side.
        stretch: Largest relative change of width, below 1; the height changes the other way.
        shear: Largest shear, as the tangent of its angle.
        exposure_stops: Largest change of exposure; each stop doubles or halves the light.
        cast: Largest relative change of the light in each channel by itself, below 1.
        brightness: Largest change of level, in [0, 1] of the full range.
        contrast: Largest relative change of contrast about the image's mean, below 1.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.12
    shift: float = 0.07
    stretch: float = 0.0
    shear: float = 0.0
    exposure_stops: float = 0.0
    cast: float = 0.0
    brightness: float = 0.15
    contrast: float = 0.3

    def __post_init__(self) -> None:
        """Refuses amounts that are negative, not finite or would empty the image."""
        for name in ("rotation_degrees", "shift", "shear", "exposure_stops", "brightness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}, it must be a number of at least 0")
        for name in ("scale", "stretch", "cast", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must lie in [0, 1)")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns changed copies of the images.

        Args:
            images: (N, C, H, W) in [0, 1].
            generator: Source of the amounts, on the images' device.

        Returns:
            (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        check_images(images)
        moved = self._moved(images, generator)
        lit = moved * self._light(images, generator)
        mean = lit.mean(dim=(1, 2, 3), keepdim=True)
        contrast, brightness = _draws(2, images, generator)[..., None, None, None]
        gain, offset = 1 + contrast * self.contrast, brightness * self.brightness
        changed: Tensor = (lit - mean) * gain + mean + offset
        return changed.clamp_(0, 1)

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        rotation, scale, right, down, stretch, shear = _draws(6, images, generator)
        angle = rotation * math.radians(self.rotation_degrees)
        zoom = 1 / (1 + scale * self.scale)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        width, slant = 1 + stretch * self.stretch, shear * self.shear
        # affine_grid counts a side as 2, so a share of the side is twice as much there.
        shift_x, shift_y = 2 * self.shift * right, 2 * self.shift * down
        # For the same reason a rotation of an oblong image must weigh its sides against each other.
        oblong = images.shape[2] / images.shape[3]
        across = [cos / width, (cos * slant - sin * width) * oblong, shift_x]
        along = [sin / width / oblong, sin * slant + cos * width, shift_y]
        matrices = torch.stack([*across, *along], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _light(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Returns what the light of each channel is multiplied by, (N, C, 1, 1)."""
        exposure, *casts = _draws(1 + images.shape[1], images, generator)
        factors = torch.exp2(exposure * self.exposure_stops)[:, None] * (
            1 + torch.stack(casts, dim=1) * self.cast
        )
        return factors[..., None, None]


def _draws(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns numbers from -1 to 1, (count, N)."""
    shape = (count, len(images))
    return torch.rand(shape, generator=generator, device=images.device, dtype=images.dtype) * 2 - 1
