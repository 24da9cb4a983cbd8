"""What the restoration nets are measured beside: two well-known nets, for speed alone, and classical methods.

The nets have random weights, so that they say nothing of quality. The classical methods are told the strength
of the noise, which ours is not, and have one setting more, to be chosen on the very images: all in their
favour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration
from torch import Tensor, nn

Picture = NDArray[np.uint8]
"""Height x width x RGB."""


class ColourDnCNN(nn.Module):
    """CDnCNN-B: twenty 3x3 convolutions of 64 maps, whose result is subtracted (batch norm folded in)."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(18) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
        first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), *hidden, last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, H, W)."""
        return images - self.layers(images)  # type: ignore[no-any-return]


class ColourFFDNet(nn.Module):
    """FFDNet: twelve 3x3 convolutions of 96 maps at half the resolution, beside a map of the noise level."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(10) for layer in (nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())]
        first, last = nn.Conv2d(13, 96, 3, padding=1), nn.Conv2d(96, 12, 3, padding=1)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2), _NoiseMap(), first, nn.ReLU(), *hidden, last, nn.PixelShuffle(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, H, W) of even height and width."""
        return self.layers(images)  # type: ignore[no-any-return]


class _NoiseMap(nn.Module):
    """Adds a map of the noise level, 25 grey levels."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images, torch.full_like(images[:, :1], 25 / 255)], 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Classical:
    """A method without weights.

    Attributes:
        restore: (picture, sigma in grey levels, setting) -> restored picture.
        settings: What may be tried, as multiples of the method's usual setting.
    """

    restore: Callable[[Picture, float, float], Picture]
    settings: Sequence[float] = (1.0,)


def _opencv_means(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    strength = setting * sigma_grey
    found = cv2.fastNlMeansDenoisingColored(picture, None, strength, strength, 7, 21)
    return found.astype(np.uint8, copy=False)


def _means(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    sigma = sigma_grey / 255
    return _stored(
        restoration.denoise_nl_means(
            picture / np.float32(255),
            h=0.8 * setting * sigma,
            sigma=sigma,
            fast_mode=True,
            patch_size=5,
            patch_distance=6,
            channel_axis=-1,
        )
    )


def _wavelets(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    return _stored(
        restoration.denoise_wavelet(
            picture / np.float32(255),
            sigma=setting * sigma_grey / 255,
            convert2ycbcr=True,
            rescale_sigma=True,
            channel_axis=-1,
        )
    )


def _total_variation(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    weight = setting * sigma_grey / 255
    total_variation: Callable[..., Any] = restoration.denoise_tv_chambolle
    return _stored(total_variation(picture / np.float32(255), weight=weight, channel_axis=-1))


def _stored(picture: NDArray[Any]) -> Picture:
    stored: Picture = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return stored


CLASSICAL: Mapping[str, Classical] = {
    "OpenCV non-local means": Classical(restore=_opencv_means, settings=(0.4, 0.7, 1.0, 1.4)),
    "scikit-image non-local means": Classical(restore=_means, settings=(0.5, 0.75, 1.0, 1.25)),
    "scikit-image wavelets": Classical(restore=_wavelets, settings=(0.5, 0.75, 1.0, 1.25)),
    "scikit-image total variation": Classical(restore=_total_variation, settings=(0.4, 0.7, 1.0, 1.4)),
}
"""The methods by name."""
