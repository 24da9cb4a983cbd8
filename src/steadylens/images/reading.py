"""Reads an image file as a whole: all bits of its pixels, and its metadata.

The EXIF orientation is applied to the pixels, and the EXIF that is kept says upright, so that no program
turns them again. If a file holds several images, the first is read.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.images.decoding import MOST_PIXELS, READABLE_FORMATS, ImageSource, opened
from steadylens.images.exif import EXIF_KEYWORDS, exif_in_text, upright, without_pixels, without_thumbnails
from steadylens.images.pixels import Pixels, read_pixels

SIDEWAYS = frozenset({5, 6, 7, 8})
"""The EXIF orientations that exchange width and height."""

_KEPT_CHUNKS = frozenset({b"cHRM", b"cICP", b"gAMA", b"iTXt", b"pHYs", b"sRGB", b"tEXt", b"zTXt"})

_EXIF_TEXTS = tuple(f"{keyword}\0".encode() for keyword in EXIF_KEYWORDS)

_IPTC = 0x0404
"""The Photoshop resource that holds IPTC."""

_XMP_KEYWORD = b"XML:com.adobe.xmp\0"

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=\"|>))[1-8]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The metadata of an image file. What a file does not have is empty here.

    Attributes:
        icc_profile: The colour profile.
        exif: EXIF as a TIFF directory, without the prefix that JPEG has.
        xmp: The XMP packet.
        dpi: Dots per inch, horizontal and vertical, or None.
        chunks: Chunks of a PNG file that no other format has (gamma, texts), as type and content.
        comment: The comment of a JPEG file.
        captions: IPTC of a JPEG file.
    """

    icc_profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    comment: bytes = b""
    captions: bytes = b""


def orientation_of(image: ImageFile) -> int:
    """Returns the EXIF orientation of a decoded image, 1 to 8; 1 for a TIFF, which Pillow turns itself."""
    orientation = image.getexif().get(Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def metadata_of(path: ImageSource, image: ImageFile, *, sideways: bool) -> Metadata:
    """Returns the metadata of a decoded file, with the orientation set to upright.

    Args:
        path: The file.
        image: The same file, opened and decoded.
        sideways: Whether its orientation exchanges width and height; the resolutions are exchanged then, too.
    """
    turned = orientation_of(image) != 1
    if isinstance(image, TiffImageFile):
        exif = _exif_of_tiff(image)
    else:
        exif = _bytes(image.info.get("exif")) or exif_in_text(image.info)
    exif, xmp = exif.removeprefix(b"Exif\0\0"), without_thumbnails(_bytes(image.info.get("xmp")))
    chunks, dpi = _chunks(path) if image.format == "PNG" else (), _resolution(image)
    if turned:
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
        chunks = tuple(each for each in chunks if not each[1].startswith(b"Raw profile type xmp"))
    if exif:
        chunks = tuple(each for each in chunks if not each[1].startswith(_EXIF_TEXTS))
    if turned or sideways:
        exif = upright(exif, sideways=sideways)
    if sideways:
        dpi = dpi and (dpi[1], dpi[0])
        chunks = tuple((kind, _lying(content) if kind == b"pHYs" else content) for kind, content in chunks)
    of_jpeg = image.info if isinstance(image, JpegImageFile) else {}
    return Metadata(
        icc_profile=_bytes(image.info.get("icc_profile")),
        exif=exif,
        xmp=xmp,
        dpi=dpi,
        chunks=chunks,
        comment=_bytes(of_jpeg.get("comment")),
        captions=_bytes(of_jpeg.get("photoshop", {}).get(_IPTC)),
    )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _resolution(image: ImageFile) -> tuple[float, float] | None:
    try:
        across, down = map(float, image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _exif_of_tiff(image: TiffImageFile) -> bytes:
    """Returns the tags of a TIFF file that other formats keep in EXIF."""
    kept = without_pixels(image.getexif())
    return kept.tobytes() if len(kept) else b""


def _lying(physical: bytes) -> bytes:
    """Returns the content of a pHYs chunk (pixels per metre) with its two resolutions exchanged."""
    return physical[4:8] + physical[:4] + physical[8:]


def _chunks(path: ImageSource) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind not in _KEPT_CHUNKS:
                file.seek(length + 4, 1)
            else:
                content, check = file.read(length), file.read(4)
                whole = check == struct.pack(">I", zlib.crc32(kind + content))
                if whole and not content.startswith(_XMP_KEYWORD):
                    found.append((kind, content))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContent:
    """The content of an image file.

    Attributes:
        pixels: (H, W, C), uint8 or uint16: grey or RGB, with alpha last if there are two or four channels.
        format: PNG, JPEG, WEBP, TIFF, BMP or PPM.
        lossless: Whether the file stores the exact pixel values.
        metadata: Colour profile, EXIF and the like.
        first_of_several: Whether the file holds further images, which are not included.
        notes: What reading converted or left out, a phrase each.
        quality: The quality to write JPEG and WebP at, 1 to 100, or None for the usual one.
    """

    pixels: Pixels
    format: str
    lossless: bool
    metadata: Metadata
    first_of_several: bool = False
    notes: tuple[str, ...] = ()
    quality: int | None = None


def read_image_file(path: Path, *, most_pixels: int = MOST_PIXELS) -> ImageContent:
    """Reads an image file with all of its bits and metadata.

    8 and 16 bits, grey and RGB, and alpha are kept. Palettes, CMYK and black and white are converted to 8-bit
    RGB or grey, with a note. Call it from one thread at a time: it changes Python's warning filters while it
    runs.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or PPM file; its content decides, not its name.
        most_pixels: Larger images (width times height) are refused before anything is decoded.

    Raises:
        ImageError: If the file is missing, damaged, too large, or its pixel values cannot be kept.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = read_image_content(path, most_pixels=most_pixels)
    warned = {" ".join(str(each.message).split()) for each in caught}
    return replace(content, notes=(*content.notes, *sorted(warned)))


def read_image_content(
    path: ImageSource,
    *,
    most_pixels: int = MOST_PIXELS,
    way_out: str = "raise the limit if you trust the file",
    formats: Collection[str] = READABLE_FORMATS,
) -> ImageContent:
    """Reads an image file, on disk or in memory, as `read_image_file` does, but lets warnings of Pillow pass.

    Several threads may call it at a time.

    Args:
        path: The file.
        most_pixels: Larger images (width times height) are refused before anything is decoded.
        way_out: What the user can do about an image that is too large, for the error message.
        formats: Which of `READABLE_FORMATS` are accepted.

    Raises:
        ImageError: If the file is missing, damaged, too large, or its pixel values cannot be kept.
    """
    with opened(path, most_pixels=most_pixels, way_out=way_out, formats=formats) as image:
        # Pillow forgets the orientation of a TIFF once it has turned the pixels.
        of_tiff = image.tag_v2.get(Base.Orientation, 1) if isinstance(image, TiffImageFile) else 1
        pixels, notes = read_pixels(path, image)
        if further := _has_further_images(image):
            notes.append("of several images in the file, the first is restored")
        sideways = of_tiff in SIDEWAYS or orientation_of(image) in SIDEWAYS
        metadata = metadata_of(path, image, sideways=sideways)
        if image.mode == "CMYK":
            metadata = replace(metadata, icc_profile=b"")
        return ImageContent(
            pixels=_turned(pixels, orientation_of(image)),
            format=image.format or "PPM",
            lossless=_is_lossless(path, image),
            metadata=metadata,
            first_of_several=further,
            notes=tuple(notes),
        )


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _has_further_images(image: ImageFile) -> bool:
    match image:
        case TiffImageFile():
            return bool(image.is_animated)
        case PngImageFile() | WebPImageFile():
            return bool(getattr(image, "n_frames", 1) > 1)
    return "mp" in image.info  # the index of several images in one JPEG file


def _is_lossless(path: ImageSource, image: ImageFile) -> bool:
    """Says whether a file stores exact pixel values; in a WebP file, the type of the pixel chunk tells."""
    if isinstance(image, WebPImageFile):
        with path.open("rb") as file:
            content = file.read()
        place = 12
        while (kind := content[place : place + 4]) not in (b"VP8L", b"VP8 ", b""):
            size = int.from_bytes(content[place + 4 : place + 8], "little")
            place += 16 + 8 if kind == b"ANMF" else 8 + size + size % 2
        return kind == b"VP8L"
    return not isinstance(image, JpegImageFile)
