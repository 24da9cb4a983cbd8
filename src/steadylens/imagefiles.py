"""Image files read whole: every level in all of its bits, and what the file says beside them.

Pixels come upright: they are turned as EXIF says, and the EXIF that is kept says upright, so that nobody
turns them again. Of a file with several images, the first is read.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.decoding import MOST_PIXELS, opened
from steadylens.levels import Levels, read_levels
from steadylens.metadata import Metadata, metadata_of, orientation_of

SIDEWAYS = frozenset({5, 6, 7, 8})
"""The orientations, as EXIF counts, whose turning exchanges width and height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContent:
    """What an image file holds.

    Attributes:
        levels: (H, W, C), uint8 or uint16: grey or RGB, and alpha as the last channel of two or four.
        format: PNG, JPEG, WEBP, TIFF, BMP or PPM.
        lossless: Whether the file keeps every level.
        metadata: Colour profile, EXIF and the like.
        first_of_several: Whether the file holds further images, which are not here.
        notes: What was converted or left out in reading, a phrase each.
    """

    levels: Levels
    format: str
    lossless: bool
    metadata: Metadata
    first_of_several: bool = False
    notes: tuple[str, ...] = ()


def read_image_file(path: Path, *, most_pixels: int = MOST_PIXELS) -> ImageContent:
    """Reads an image file with all of its bits and metadata.

    8 and 16 bits a level, grey and RGB, and alpha are kept. Palettes, CMYK and black-and-white are converted
    to 8-bit RGB or grey, and noted. It changes Python's warning filters while it runs, so it is not for
    several threads at a time.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or PPM file; its content counts, not its name.
        most_pixels: Width times height that is refused if it is exceeded, before anything is decoded.

    Raises:
        ImageError: If the file is missing, damaged, too large, or of a kind that cannot be kept.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = _read(path, most_pixels)
    told = {" ".join(str(each.message).split()) for each in caught}
    return replace(content, notes=(*content.notes, *sorted(told)))


def _read(path: Path, most_pixels: int) -> ImageContent:
    with opened(path, most_pixels=most_pixels) as image:
        told = image.tag_v2.get(Base.Orientation, 1) if isinstance(image, TiffImageFile) else 1
        levels, notes = read_levels(path, image)
        if further := _has_further_images(image):
            notes.append("of several images in the file, the first is restored")
        # A TIFF is turned by now, and tells no more.
        sideways = told in SIDEWAYS or orientation_of(image) in SIDEWAYS
        metadata = metadata_of(path, image, sideways=sideways)
        if image.mode == "CMYK":
            metadata = replace(metadata, icc_profile=b"")
        return ImageContent(
            levels=_turned(levels, orientation_of(image)),
            format=image.format or "PPM",
            lossless=_is_lossless(path, image),
            metadata=metadata,
            first_of_several=further,
            notes=tuple(notes),
        )


def _turned(levels: Levels, orientation: int) -> Levels:
    if orientation in SIDEWAYS:
        levels = levels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    return np.ascontiguousarray(levels)


def _has_further_images(image: ImageFile) -> bool:
    match image:
        case TiffImageFile():
            return bool(image.is_animated)
        case PngImageFile() | WebPImageFile():
            return bool(getattr(image, "n_frames", 1) > 1)
    return "mp" in image.info  # the index of the images in a JPEG file


def _is_lossless(path: Path, image: ImageFile) -> bool:
    """Says whether a file keeps every level; of a WebP file, the chunk of its pixels tells."""
    if isinstance(image, WebPImageFile):
        with path.open("rb") as file:
            content = file.read()
        place = 12
        while (kind := content[place : place + 4]) not in (b"VP8L", b"VP8 ", b""):
            size = int.from_bytes(content[place + 4 : place + 8], "little")
            place += 16 + 8 if kind == b"ANMF" else 8 + size + size % 2
        return kind == b"VP8L"
    return not isinstance(image, JpegImageFile)
