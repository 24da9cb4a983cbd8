"""A small U-Net that restores: it sees a whole sign, at a fourteenth of L11's computation.

The image is unshuffled to half its resolution, then residual blocks work at 1/2, 1/4 and 1/8 of it. No
convolution has a bias, so that the net scales with its input and carries over to strengths of noise that it
was not trained on (Mohan, Kadkhodaie, Simoncelli, Fernandez-Granda, *Robust and Interpretable Blind Image
Denoising via Bias-Free Convolutional Neural Networks*, ICLR 2020).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.images.tensors import check_images
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import LEAKY_SLOPE, check_channels

WIDTHS = (40, 64, 96)
"""Feature maps at 1/2, 1/4 and 1/8 of the resolution."""

ALIGNMENT = 8
"""The coarsest feature maps have 1/8 of the image's height and width."""

TILE = 1736
"""Tiles may be so large, since feature maps are small: their overlap adds a seventh to the computation, and
one takes some 600 MB in float32."""

BORDER = 2
"""Pixels that are reflected around the image, so that the finest level sees more than zeros there."""

RING = BORDER // 2
"""The same at half the resolution."""

INPUT_SCALE = 255 / 64
"""Makes 8-bit values multiples of 1/64, which bfloat16 represents exactly."""


class RestorationUNet(nn.Module):
    """A residual U-Net: predicts a pattern and adds it to the image.

    Unlike the nets of Table 1 it pads inside, so it has no form that loses a margin. It is equivariant to
    shifts by 8 pixels, not to smaller ones.

    Args:
        channels: Channels of the images, 3 for RGB.

    Raises:
        SettingError: If `channels` is below 1.

    Example:
        >>> import torch
        >>> RestorationUNet()(torch.rand(1, 3, 20, 30)).shape
        torch.Size([1, 3, 20, 30])
    """

    kind = "RestorationUNet"
    task = RESTORING
    purpose = "A residual U-Net that takes noise out of images of any size."
    margin = 56
    alignment = ALIGNMENT
    tile = TILE
    minimum_size = ALIGNMENT + BORDER

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        check_channels(channels)
        self.channels = channels
        half, quarter, eighth = WIDTHS
        self.head = _convolution(4 * channels, half)
        self.encode_half, self.to_quarter = _Block(half), _halving(half, quarter)
        self.encode_quarter, self.to_eighth = _Block(quarter), _halving(quarter, eighth)
        self.middle = _Block(eighth)
        self.from_eighth, self.decode_quarter = _doubling(eighth, quarter), _Block(quarter)
        self.from_quarter, self.decode_half = _doubling(quarter, half), _Block(half)
        self.tail = _convolution(half, 4 * channels)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a net like this one."""
        return {"channels": self.channels}

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"channels={self.channels}"

    def initialize(self, *, generator: torch.Generator) -> None:
        """Draws fresh weights (He et al., 2015), scaled for residual blocks; the net starts as the identity.

        Args:
            generator: Source of the weights, on the net's device.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                fan: Literal["fan_in", "fan_out"] = "fan_in" if isinstance(layer, nn.Conv2d) else "fan_out"
                nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE, mode=fan, generator=generator)
        with torch.no_grad():
            # No rectifier follows these.
            for layer in (self.head, self.to_quarter, self.to_eighth, self.from_eighth, self.from_quarter):
                layer.weight *= 0.7
            for part in self.modules():
                if isinstance(part, _Block):
                    part.second.weight *= 0.5
        nn.init.zeros_(self.tail.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images, `images` + `pattern(images)`.

        Args:
            images: (N, C, H, W) in [0, 1], of any height and width from 10 pixels on.

        Returns:
            (N, C, H, W); not clipped, so a value can lie slightly outside [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract or is too small.
        """
        return images + self.pattern(images)

    def pattern(self, images: Tensor) -> Tensor:
        """Returns what is added to the images, (N, C, H, W)."""
        check_images(images, channels=self.channels, minimum_size=self.minimum_size)
        if images.numel() == 0:  # PyTorch leaves an empty batch as it is instead of unshuffling it
            return torch.zeros_like(images)
        height, width = images.shape[-2:]
        # Sides become multiples of 8; around that, the finest level alone sees a ring of reflected pixels.
        below, right = -height % ALIGNMENT, -width % ALIGNMENT
        around = (BORDER, BORDER + right, BORDER, BORDER + below)
        scaled = F.pad(images, around, mode="reflect") * INPUT_SCALE
        half = self.encode_half(self.head(F.pixel_unshuffle(scaled, 2)))
        quarter = self.encode_quarter(self.to_quarter(half[..., RING:-RING, RING:-RING]))
        maps = self.middle(self.to_eighth(quarter))
        maps = self.decode_quarter(self.from_eighth(maps) + quarter)
        maps = self.decode_half(F.pad(self.from_quarter(maps), [RING] * 4) + half)
        pattern = F.pixel_shuffle(self.tail(maps), 2) / INPUT_SCALE
        return pattern[..., BORDER : BORDER + height, BORDER : BORDER + width]


class _Block(nn.Module):
    """A residual block: x + conv(leaky(conv(x)))."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(maps, maps), _convolution(maps, maps)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.second(F.leaky_relu(self.first(maps), LEAKY_SLOPE))  # type: ignore[no-any-return]


def _convolution(maps_in: int, maps_out: int) -> nn.Conv2d:
    return nn.Conv2d(maps_in, maps_out, 3, padding=1, bias=False)


def _halving(maps_in: int, maps_out: int) -> nn.Conv2d:
    return nn.Conv2d(maps_in, maps_out, 2, stride=2, bias=False)


def _doubling(maps_in: int, maps_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(maps_in, maps_out, 2, stride=2, bias=False)
