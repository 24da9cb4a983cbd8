"""Images as tensors: float, (N, C, H, W), RGB, in [0, 1]. Everything else is converted to that here.

Stored images are uint8, (N, 3, H, W). Noise strengths are given in grey levels: 255 of them are the range.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.files import replacing
from steadylens.images.decoding import ImageBytes, opened, zero_is_white
from steadylens.images.pixels import in_8_bits
from steadylens.images.preprocessing import Fit

GREY_LEVELS = 255
"""The largest value of an 8-bit pixel: a noise strength of sigma grey levels is sigma / 255 in [0, 1]."""

SQUASHED = Fit()
"""Resizes to the square without keeping the aspect ratio, bilinear and antialiased."""

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""The endings of image files in a folder, in lower case."""

WRITTEN_SUFFIXES = IMAGE_SUFFIXES - {".pbm", ".pgm"}
"""The endings that a file of an RGB image may have."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive, as in Pillow."""


STRONGEST_NOISE_GREY = 75
"""Standard deviation in grey levels of the strongest noise that images may have without being clipped."""

_BLOCK = 8
"""Height and width in pixels of the blocks whose range is checked."""

_MOST_BLOCKS = 8
"""How many blocks are checked along each side of an image, and in how many images of a batch."""


def check_images(images: Tensor, *, channels: int | None = None, minimum_size: int = 1) -> None:
    """Refuses a batch of the wrong type, shape or range; see `check_form` and `check_range`.

    Args:
        images: The batch.
        channels: The number of channels, or None to accept any.
        minimum_size: The smallest height and width in pixels.

    Raises:
        ImageError: If the batch is not a float tensor (N, C, H, W) with these channels and this size, or
            its values lie far outside [0, 1].
    """
    check_form(images, channels=channels, minimum_size=minimum_size)
    check_range(images)


def check_form(images: Tensor, *, channels: int | None = None, minimum_size: int = 1) -> None:
    """Refuses a batch of the wrong type or shape, whatever its values: those of a poor restorer may be any.

    Args:
        images: The batch.
        channels: The number of channels, or None to accept any.
        minimum_size: The smallest height and width in pixels.

    Raises:
        ImageError: If the batch is not a float tensor (N, C, H, W) with these channels and this size.
    """
    if not images.is_floating_point():
        raise ImageError(
            f"images are {images.dtype}, they must be float in [0, 1]; convert with steadylens.to_float"
        )
    if images.ndim != 4:
        raise ImageError(
            f"images have shape {tuple(images.shape)}, it must be (N, C, H, W); "
            "add a batch axis with images[None] to a single image"
        )
    if channels is not None and images.shape[1] != channels:
        raise ImageError(f"images have {images.shape[1]} channels where {channels} are needed")
    if min(images.shape[-2:]) < minimum_size:
        raise ImageError(
            f"images are {images.shape[-2]}x{images.shape[-1]} pixels, at least "
            f"{minimum_size}x{minimum_size} are needed here; use larger images or a shallower net"
        )


def check_range(images: Tensor) -> None:
    """Refuses images whose values lie far outside [0, 1]: grey levels, or images that were normalised.

    Noise that is not clipped leaves [0, 1] on purpose, and a restorer may, but not everywhere by much. So
    what counts is by how much the values of a block of 8x8 pixels lie outside on average. Noise of standard
    deviation s does that to a black block by 0.4 s. The limit of 0.26 is seven standard deviations above what
    noise of 75 grey levels does; images in [-1, 1] exceed it wherever they are darker than 0.37. In smaller
    images chance is larger, and so is the limit. Of large images and batches a part is checked, so that the
    check takes 0.03 to 0.3 ms.

    Where looking at values is impossible or would hold up a device, nothing is checked: while a net is
    traced or compiled, and on a GPU while gradients are recorded. Nor are images through which a gradient
    flows: they come from a net in training, whose restored images may be far off for a while. Inside a block
    of `accepting_any_range` nothing is checked either.

    Args:
        images: Float (N, C, H, W).

    Raises:
        ImageError: If a block lies further outside, or holds a value that is not a number.
    """
    if images.numel() == 0 or _hides_values(images) or _accepts_any_range.get():
        return
    images = images.detach()
    height, width = (min(_BLOCK, side) for side in images.shape[-2:])
    steps = (
        side * math.ceil(length // side / _MOST_BLOCKS)
        for side, length in zip((height, width), images.shape[-2:], strict=True)
    )
    some = images[:: math.ceil(len(images) / _MOST_BLOCKS)]
    blocks = some.unfold(2, height, next(steps)).unfold(3, width, next(steps))
    furthest = (blocks - blocks.clamp(0, 1)).abs().mean(dim=(-2, -1)).max()
    limit = STRONGEST_NOISE_GREY / GREY_LEVELS * (0.4 + 4 / math.sqrt(height * width))
    try:
        fits = float(furthest) <= limit
    except RuntimeError:  # within torch.func.vmap
        return
    if not fits:
        low, high = (float(end) for end in torch.aminmax(images))
        raise ImageError(
            f"images reach from {low:.3g} to {high:.3g}, they must lie in [0, 1]; divide grey levels by 255, "
            "or undo a normalisation by images * std + mean: a classifier's own comes after the restorer; "
            f"clip noise that is stronger than {STRONGEST_NOISE_GREY} grey levels"
        )


_accepts_any_range = ContextVar("accepts any range", default=False)


@contextmanager
def accepting_any_range() -> Iterator[None]:
    """Lets nets accept images of any range inside the block, in this thread.

    It is for noise that is neither weak nor clipped, as that of certificates: a net that refuses some noisy
    images would be another function than the one that is certified. It is also for what a restorer hands to
    the classifier behind it.
    """
    token = _accepts_any_range.set(True)
    try:
        yield
    finally:
        _accepts_any_range.reset(token)


def _hides_values(images: Tensor) -> bool:
    """Whether the values of a tensor cannot be looked at, or only by waiting for a device."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    waiting = images.device.type != "cpu" and (
        torch.is_grad_enabled() or (images.is_cuda and torch.cuda.is_current_stream_capturing())
    )
    return torch.compiler.is_compiling() or tracing or images.is_meta or images.requires_grad or waiting


def to_float(images: Tensor) -> Tensor:
    """Returns uint8 images of any shape as float32 in [0, 1]."""
    if images.dtype != torch.uint8:
        raise ImageError(f"images are {images.dtype}, only uint8 is converted to float in [0, 1]")
    return images.to(torch.float32).div_(GREY_LEVELS)


def to_uint8(images: Tensor) -> Tensor:
    """Returns float images as uint8 of the same shape: clipped to [0, 1] and rounded to nearest."""
    return images.clamp(0, 1).mul(GREY_LEVELS).round_().to(torch.uint8)


def quantize(images: Tensor) -> Tensor:
    """Returns float images rounded to the nearest 8-bit value, still float and not clipped."""
    return images.mul(GREY_LEVELS).round_().div_(GREY_LEVELS)


def array_to_tensor(pixels: NDArray[Any]) -> Tensor:
    """Returns an image (H, W, C) as a tensor (C, H, W) that shares its memory and is not contiguous."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def tensor_to_array(image: Tensor) -> NDArray[Any]:
    """Returns an image (C, H, W) as an array (H, W, C), which shares its memory if that is on the CPU."""
    array: NDArray[Any] = image.permute(1, 2, 0).cpu().numpy()
    return array


def pil_to_tensor(image: Image.Image) -> Tensor:
    """Returns a PIL image in RGB as uint8 (3, H, W)."""
    return array_to_tensor(np.array(image)).contiguous()


def tensor_to_pil(image: Tensor) -> Image.Image:
    """Returns an image, uint8 (3, H, W), as a PIL image in RGB."""
    return Image.fromarray(tensor_to_array(image))


def read_image(
    path: str | Path | ImageBytes, *, box: Box | None = None, size: int | None = None, fit: Fit = SQUASHED
) -> Tensor:
    """Reads an image file as 8-bit RGB.

    Palette, grey, CMYK and 16-bit images are converted, transparency is dropped, and the EXIF orientation is
    applied. If a file holds several images, the first is read.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or PPM file of at most 200 megapixels, or the content of one.
        box: The part of the image to keep, or None for all of it.
        size: Height and width of the result in pixels, or None to keep the size.
        fit: How the image is resized to a square of that size.

    Returns:
        The image, uint8 (3, H, W).

    Raises:
        ImageError: If the file is missing, is not an image, is damaged or too narrow, or the box does not
            lie within the image.
        SettingError: If the size is below 1, or larger than the side that `fit` resizes to.
    """
    if size is not None and size < 1:
        raise SettingError(f"size is {size}, it must be at least 1 pixel")
    with opened(path if isinstance(path, ImageBytes) else Path(path)) as found:
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
    return pil_to_tensor(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an opened image as 8-bit RGB, with its EXIF orientation applied.

    Palette, grey, CMYK and 16-bit images are converted, and transparency is dropped.
    """
    inverted = zero_is_white(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip at 255 instead of scaling
        pixels = in_8_bits(np.asarray(image).clip(0, 65535).astype(np.uint16))
        image = Image.fromarray(np.bitwise_not(pixels) if inverted else pixels)
    image.info.pop("transparency", None)  # Pillow would try to keep it, and warn if it cannot
    return image.convert("RGB")


def write_image(path: str | Path, image: Tensor) -> None:
    """Writes one image, float (3, H, W) in [0, 1], as an 8-bit file; the ending of `path` decides the format.

    Raises:
        ImageError: If the image is not a float tensor (3, H, W).
        SettingError: If `path` has none of `WRITTEN_SUFFIXES`.
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    check_images(image[None], channels=3)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise SettingError(
            f"{path} does not end like an image file; use one of {', '.join(sorted(WRITTEN_SUFFIXES))}"
        )
    with replacing(path) as temporary:
        tensor_to_pil(to_uint8(image)).save(temporary)
