"""The image contract: float, (N, C, H, W), RGB, in [0, 1]. Everything else is converted here, once.

Stored images are 8-bit, uint8 (N, 3, H, W). Noise is given in grey levels of 255 and divided here.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.files import replacing
from steadylens.images.decoding import opened, zero_is_white
from steadylens.images.preprocessing import Fit

GREY_LEVELS = 255
"""The highest grey level of an 8-bit image: a strength of sigma grey levels is sigma / 255 in [0, 1]."""

SQUASHED = Fit()
"""Squashed to the size, antialiased and bilinear."""

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""The endings of the files that count as images in a folder (compared in lower case)."""

WRITTEN_SUFFIXES = IMAGE_SUFFIXES - {".pbm", ".pgm"}
"""Those that a file of an RGB image may have."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive, as Pillow counts."""


def check_images(images: Tensor, *, channels: int | None = None, minimum_size: int = 1) -> None:
    """Refuses a batch that breaks the image contract in type or shape.

    The range is not looked at: noise that is not clipped leaves [0, 1] on purpose.

    Args:
        images: The batch to look at.
        channels: The channel count that is needed, or None if any will do.
        minimum_size: The smallest height and width that will do, in pixels.

    Raises:
        ImageError: If the batch is not a float tensor (N, C, H, W) of that many channels and that size.
    """
    if not images.is_floating_point():
        raise ImageError(
            f"images are {images.dtype}, the contract is float in [0, 1]; convert with steadylens.to_float"
        )
    if images.ndim != 4:
        raise ImageError(
            f"images have shape {tuple(images.shape)}, the contract is (N, C, H, W); "
            "add a batch axis with images[None] to a single image"
        )
    if channels is not None and images.shape[1] != channels:
        raise ImageError(f"images have {images.shape[1]} channels where {channels} are needed")
    if min(images.shape[-2:]) < minimum_size:
        raise ImageError(
            f"images are {images.shape[-2]}x{images.shape[-1]} pixels, at least "
            f"{minimum_size}x{minimum_size} are needed here; use larger images or a shallower net"
        )


def to_float(images: Tensor) -> Tensor:
    """Returns 8-bit images, uint8 of any shape, as float32 in [0, 1]."""
    if images.dtype != torch.uint8:
        raise ImageError(f"stored images are uint8, these are {images.dtype}")
    return images.to(torch.float32).div_(GREY_LEVELS)


def to_uint8(images: Tensor) -> Tensor:
    """Returns float images as 8-bit ones, uint8 of the same shape: clipped to [0, 1], rounded to nearest."""
    return images.clamp(0, 1).mul(GREY_LEVELS).round_().to(torch.uint8)


def quantize(images: Tensor) -> Tensor:
    """Returns float images rounded to the nearest of the 256 grey levels, still float; no clipping."""
    return images.mul(GREY_LEVELS).round_().div_(GREY_LEVELS)


def read_image(
    path: str | Path, *, box: Box | None = None, size: int | None = None, fit: Fit = SQUASHED
) -> Tensor:
    """Reads an image file as 8-bit RGB.

    Palette, grey, CMYK and 16-bit images are converted, transparency is dropped, the EXIF orientation
    is applied. Of an animation, the first frame is read.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or PPM file, of at most 200 megapixels.
        box: The part to keep, or None for the whole image. It must lie within the image.
        size: The height and width in pixels to make of it, or None to leave the size.
        fit: How it becomes a square of that size.

    Returns:
        The image, uint8 (3, H, W).

    Raises:
        ImageError: If the file is missing, is no image, is damaged or too narrow, or the box does not lie
            within it.
        SettingError: If the size is below 1, or the fit does not reach it.
    """
    if size is not None and size < 1:
        raise SettingError(f"size is {size}, it must be at least 1 pixel")
    with opened(Path(path)) as found:
        image = to_rgb(found)
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise ImageError(
                f"{path}: the box {box} does not lie within the {image.width}x{image.height} image; "
                "correct the annotation"
            )
        image = image.crop(box)
    if size is not None:
        try:
            image = fit.fitted(image, size)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an opened image as 8-bit RGB, turned as its EXIF orientation says.

    Palette, grey, CMYK and 16-bit images are converted, transparency is dropped.
    """
    inverted = zero_is_white(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would clip at 255 instead of scaling
        levels = np.asarray(image).astype(np.float64) / 65535 * GREY_LEVELS
        levels = GREY_LEVELS - levels if inverted else levels
        image = Image.fromarray(levels.clip(0, GREY_LEVELS).round().astype(np.uint8))
    image.info.pop("transparency", None)  # Pillow would try to keep it, and warn where it cannot
    return image.convert("RGB")


def write_image(path: str | Path, image: Tensor) -> None:
    """Writes one image, float (3, H, W) in [0, 1], as an 8-bit file of the format that `path` ends with.

    Raises:
        ImageError: If the image is not a float tensor (3, H, W).
        SettingError: If `path` has none of `WRITTEN_SUFFIXES`.
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    check_images(image[None], channels=3)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise SettingError(
            f"{path} does not end as an image file, use one of {', '.join(sorted(WRITTEN_SUFFIXES))}"
        )
    with replacing(path) as temporary:
        Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()).save(temporary)
