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
    """Rotates, scales, shifts, brightens and contrasts each image by amounts of its own.

    Every amount is drawn uniformly from minus to plus the setting. The border is repeated outwards.

    Attributes:
        rotation_degrees: Largest rotation.
        scale: Largest relative change of size, below 1.
        shift: Largest shift, as a share of the image's side.
        brightness: Largest change of level, in [0, 1] of the full range.
        contrast: Largest relative change of contrast about the image's mean, below 1.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.12
    shift: float = 0.07
    brightness: float = 0.15
    contrast: float = 0.3

    def __post_init__(self) -> None:
        """Refuses amounts that are negative, not finite or would empty the image."""
        for name in ("rotation_degrees", "shift", "brightness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}, it must be a number of at least 0")
        for name in ("scale", "contrast"):
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
        draws = (
            torch.rand(6, len(images), generator=generator, device=images.device, dtype=images.dtype) * 2 - 1
        )
        angle = draws[0] * math.radians(self.rotation_degrees)
        zoom = 1 / (1 + draws[1] * self.scale)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        # affine_grid counts a side as 2, so a share of the side is twice as much there.
        shift_x, shift_y = 2 * self.shift * draws[2], 2 * self.shift * draws[3]
        # For the same reason a rotation of an oblong image must weigh its sides against each other.
        oblong = images.shape[2] / images.shape[3]
        rows = [cos, -sin * oblong, shift_x, sin / oblong, cos, shift_y]
        matrices = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        gain = 1 + draws[4].view(-1, 1, 1, 1) * self.contrast
        offset = draws[5].view(-1, 1, 1, 1) * self.brightness
        return ((moved - mean) * gain + mean + offset).clamp_(0, 1)
