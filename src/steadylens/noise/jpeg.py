"""Noise in an image that is then stored as JPEG."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.images.tensors import to_float, to_uint8
from steadylens.noise.families import LossyFamily, Range, WrappedNoise, check_range, is_family

BEST_QUALITY = 100
"""The highest quality of a JPEG; libjpeg's scale begins at 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Jpeg(WrappedNoise):
    """Noise of another family, and then the image is stored as JPEG and read again.

    The noisy image is clipped and rounded to 8 bits, as an encoder gets it, whatever the degradation says.
    Even without noise the image changes. Pillow encodes and decodes on the CPU, about 0.5 ms for an image of
    48x48 pixels and 30 ms for one of 512x512; images on a GPU go to the host and back. As usual for
    photographs, colour is stored at half the resolution.

    Attributes:
        noise: The noise before storing; its strength is that of this family.
        quality: The range of the quality, from 1 to 100; a whole number of it is drawn for each sample.
    """

    quality: Range = (30, 95)

    def __post_init__(self) -> None:
        if not is_family(self.noise) or isinstance(self.noise, LossyFamily):
            raise SettingError(
                f"noise is {self.noise!r}; give a family of noise that is not stored yet, Gaussian() for "
                "example"
            )
        check_range("quality", self.quality, least=1, most=BEST_QUALITY)

    @property
    def name(self) -> str:
        """The name of the noise before the word JPEG."""
        return f"{self.noise.name} and JPEG"

    @property
    def density(self) -> Range:
        """The density of the noise."""
        return self.noise.density

    @property
    def factor(self) -> Range:
        """The factor of the noise."""
        return self.noise.factor

    def store(self, images: Tensor, *, qualities: list[int]) -> Tensor:
        """Returns images as they are after storing them as JPEG.

        Args:
            images: Noisy images, float (N, C, H, W) with one or three channels.
            qualities: The quality of each.

        Raises:
            ImageError: If the images have neither one channel nor three.
        """
        channels = images.shape[1]
        if channels not in (1, 3):
            raise ImageError(f"images have {channels} channels; JPEG stores 1 or 3, grey or RGB")
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        if channels == 1:
            pixels = pixels[..., 0]
        stored = [_through_jpeg(*pair) for pair in zip(pixels, qualities, strict=True)]
        found = torch.from_numpy(np.stack(stored)).view(len(images), *images.shape[2:], channels)
        return to_float(found.permute(0, 3, 1, 2).contiguous()).to(images)


def _through_jpeg(pixels: "np.typing.NDArray[np.uint8]", quality: int) -> "np.typing.NDArray[np.uint8]":
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
