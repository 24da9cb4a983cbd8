"""Writes an image with all of its bits and metadata, in its own format or in another.

PNG, TIFF, BMP and PPM keep every pixel value. TIFF is compressed with Deflate. JPEG is written with full
colour resolution, JPEG and WebP at quality 95 unless another is asked for. If none is asked for, WebP is
lossless where the image came from a lossless file. PNG and TIFF are encoded by this package, since Pillow
writes 16 bits only in grey.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from steadylens.errors import ImageError
from steadylens.files import replacing
from steadylens.images.encoding import (
    TIFF_HEADER,
    TiffPage,
    as_rgb,
    becomes_colour,
    write_directories,
    write_png,
)
from steadylens.images.metadata.exif import with_thumbnail_of
from steadylens.images.pixels import Pixels, in_8_bits, strips
from steadylens.images.reading import (
    LAYOUT_LEFT_OUT,
    SWAPPED_LEFT_OUT,
    ImageContent,
    without_layout,
    without_swapped,
)

QUALITY = 95
"""The quality of JPEG and of lossy WebP, 1 to 100, unless another is asked for."""

_METADATA_NAMES = {
    "icc_profile": "a colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "dpi": "a resolution",
    "chunks": "texts and gamma as PNG does",
    "comment": "a comment",
    "captions": "IPTC",
}
"""What notes call the fields of `Metadata`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """What an image format can store.

    Attributes:
        suffix: The usual ending of its files.
        largest_side: The largest width and height.
        bits_16: Whether it stores 16 bits per channel.
        alpha: Whether it stores an alpha channel.
        metadata: Which fields of `Metadata` it stores.
        write: Writes an image to a file.
        quality: Whether it has a quality to choose, and with it the size of its files.
    """

    suffix: str
    largest_side: int
    bits_16: bool
    alpha: bool
    metadata: frozenset[str]
    write: Callable[[BinaryIO, ImageContent], None]
    quality: bool = False


def check_storable(content: ImageContent) -> None:
    """Checks that the format of an image can store it, before long work is done for it.

    Raises:
        ImageError: If the image is too large for the format, or has alpha and the format has none.
    """
    name, known = content.format, WRITABLE_FORMATS[content.format]
    height, width, channels = content.pixels.shape
    if max(height, width) > known.largest_side:
        raise ImageError(
            f"the image has {width:,}x{height:,} pixels, {name} holds {known.largest_side:,} "
            "a side; choose PNG"
        )
    if channels in (2, 4) and not known.alpha:
        raise ImageError(
            f"the image has alpha, which {name} does not hold; choose PNG, or a colour for what is "
            "transparent, such as --flatten white"
        )


def write_image_file(path: Path, content: ImageContent) -> tuple[str, ...]:
    """Writes an image to a file of its format; the file appears complete or not at all.

    Args:
        path: The file; its ending does not matter.
        content: The image.

    Returns:
        Notes on what the format cannot store, a phrase each.

    Raises:
        ImageError: If the format cannot store the image.
        StorageError: If the file cannot be written.
    """
    check_storable(content)
    with replacing(path) as temporary:
        return encode_image(temporary, content)


def encode_image(path: Path, content: ImageContent) -> tuple[str, ...]:
    """Writes an image to a file that nobody reads yet; see `write_image_file`."""
    if content.format == "TIFF":
        return encode_pages(path, [content])
    with path.open("wb") as file:
        return encode_single(file, content)


def encode_single(file: BinaryIO, content: ImageContent) -> tuple[str, ...]:
    """Writes an image in a format other than TIFF to an open file, or into memory; see `write_image_file`."""
    check_storable(content)
    content, notes = _fitted(content)
    if content.metadata.describes_layout and (content.relaid or len(content.pages) > 1):
        content = replace(content, metadata=without_layout(content.metadata))
        notes += (LAYOUT_LEFT_OUT,)
    with _explained(content.format):
        WRITABLE_FORMATS[content.format].write(file, content)
    return notes


def encode_pages(path: Path, contents: Iterable[ImageContent]) -> tuple[str, ...]:
    """Writes the pages of a TIFF to a file that nobody reads yet, one after another as they come.

    The first page knows how many pages its file had. If others are written, or a page is stored otherwise
    than in its file, a description of all pages is left out, as it would no longer be true.

    Args:
        path: The file.
        contents: The pages; memory holds one at a time.

    Returns:
        Notes on what cannot be stored, a phrase each.

    Raises:
        ImageError: If a page cannot be stored.
    """
    notes: dict[str, None] = {}
    pages: list[TiffPage] = []
    expected, same = 1, True
    with path.open("wb") as file:
        file.write(bytes(TIFF_HEADER))
        for each in contents:
            check_storable(each)
            content, further = _fitted(each)
            notes |= dict.fromkeys(further)
            expected = expected if pages else max(1, len(content.pages))
            same &= not (content.relaid or becomes_colour(content))
            with _explained("TIFF"):
                pages.append(TiffPage.written(file, content, pages[:1]))
            if content.metadata.big_endian and not pages[-1].metadata.big_endian:
                pages[-1] = replace(pages[-1], metadata=without_swapped(pages[-1].metadata))
                notes |= dict.fromkeys([SWAPPED_LEFT_OUT] if content.metadata.describes_imagej else [])
        described = any(page.metadata.describes_layout for page in pages)
        if described and not (same and len(pages) == expected):
            pages = [replace(page, metadata=without_layout(page.metadata)) for page in pages]
            notes[LAYOUT_LEFT_OUT] = None
        with _explained("TIFF"):
            write_directories(file, pages)
    return tuple(notes)


def _fitted(content: ImageContent) -> tuple[ImageContent, tuple[str, ...]]:
    """Returns an image as its format can store it, and notes on what that cannot."""
    name, known = content.format, WRITABLE_FORMATS[content.format]
    notes: tuple[str, ...] = ()
    if content.pixels.itemsize == 2 and not known.bits_16:
        content = replace(content, pixels=in_8_bits(content.pixels), relaid=True)
        notes = (f"{name} holds 8 bits, so 16 bits were rounded",)
    if content.metadata.icc_profile[16:20] == b"GRAY" and becomes_colour(content):
        content = replace(content, metadata=replace(content.metadata, icc_profile=b""))
        notes += (f"{name} holds this grey as colours, so its colour profile was left out",)
    held = {field: text for field, text in _METADATA_NAMES.items() if getattr(content.metadata, field)}
    if lost := [text for field, text in held.items() if field not in known.metadata]:
        notes += (f"{name} does not hold {', '.join(lost)}, left out",)
    if content.metadata.exif:
        exif = with_thumbnail_of(content.metadata.exif, content.pixels)
        content = replace(content, metadata=replace(content.metadata, exif=exif))
    return content, notes


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
        raise ImageError(f"the image cannot be written as {name}: {error}; choose another format") from error


def _write_png(file: BinaryIO, content: ImageContent) -> None:
    write_png(file, content.pixels, content.metadata)


def _write_jpeg(file: BinaryIO, content: ImageContent) -> None:
    known = content.metadata
    options = {"dpi": known.dpi} if known.dpi else {}
    exif = b"Exif\0\0" + known.exif if known.exif else b""
    _pillow(content.pixels).save(
        file, "JPEG", quality=content.quality or QUALITY, subsampling=0, icc_profile=known.icc_profile,
        exif=exif, xmp=known.xmp, comment=known.comment, extra=_captions(known.captions), **options,
    )  # fmt: skip


def _captions(iptc: bytes) -> bytes:
    """Returns the JPEG segment that holds IPTC within a Photoshop resource."""
    if not iptc:
        return b""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    segment = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment


def _write_webp(file: BinaryIO, content: ImageContent) -> None:
    known, lossless = content.metadata, content.lossless and content.quality is None
    _pillow(content.pixels).save(
        file, "WEBP", quality=content.quality or QUALITY, lossless=lossless, exact=True,
        icc_profile=known.icc_profile, exif=known.exif, xmp=known.xmp,
    )  # fmt: skip


def _write_bmp(file: BinaryIO, content: ImageContent) -> None:
    pixels, known = content.pixels, content.metadata
    dpi = known.dpi or (96, 96)
    if pixels.shape[-1] in (1, 3):
        _pillow(pixels).save(file, "BMP", dpi=dpi)
        return
    pixels = as_rgb(pixels) if pixels.shape[-1] == 2 else pixels
    # With alpha, the header needs masks that say which channel lies where; Pillow does not write them.
    height, width, _ = pixels.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    dots = [round(each / 0.0254) for each in dpi]
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 4 * width * height, *dots, 0, 0)
    start = 14 + len(header) + len(masks)
    file.write(b"BM" + struct.pack("<IHHI", start + 4 * width * height, 0, 0, start) + header + masks)
    for row in pixels[::-1]:
        file.write(row[:, [2, 1, 0, 3]].tobytes())


def _write_ppm(file: BinaryIO, content: ImageContent) -> None:
    pixels = content.pixels
    height, width, channels = pixels.shape
    top = np.iinfo(pixels.dtype).max
    file.write(b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, top))
    for rows in strips(pixels):
        file.write(pixels[rows].astype(pixels.dtype.newbyteorder(">")).tobytes())


def _write_tiff(file: BinaryIO, content: ImageContent) -> None:
    file.write(bytes(TIFF_HEADER))
    write_directories(file, [TiffPage.written(file, content, [])])


def _pillow(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


_COMMON_METADATA = frozenset({"icc_profile", "exif", "xmp"})

WRITABLE_FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        suffix=".png",
        largest_side=2**31 - 1,
        bits_16=True,
        alpha=True,
        metadata=_COMMON_METADATA | {"dpi", "chunks"},
        write=_write_png,
    ),
    "JPEG": ImageFormat(
        suffix=".jpg",
        largest_side=65_500,
        bits_16=False,
        alpha=False,
        metadata=_COMMON_METADATA | {"dpi", "comment", "captions"},
        write=_write_jpeg,
        quality=True,
    ),
    "WEBP": ImageFormat(
        suffix=".webp",
        largest_side=16_383,
        bits_16=False,
        alpha=True,
        metadata=_COMMON_METADATA,
        write=_write_webp,
        quality=True,
    ),
    "TIFF": ImageFormat(
        suffix=".tiff",
        largest_side=2**32 - 1,
        bits_16=True,
        alpha=True,
        metadata=_COMMON_METADATA | {"dpi"},
        write=_write_tiff,
    ),
    "BMP": ImageFormat(
        suffix=".bmp",
        largest_side=2**31 - 1,
        bits_16=False,
        alpha=True,
        metadata=frozenset({"dpi"}),
        write=_write_bmp,
    ),
    "PPM": ImageFormat(
        suffix=".ppm",
        largest_side=2**31 - 1,
        bits_16=True,
        alpha=False,
        metadata=frozenset(),
        write=_write_ppm,
    ),
}
"""The formats that can be written, by Pillow's names."""
