"""Writes an image with all of its bits and metadata, in its own format or in another.

PNG, TIFF, BMP and PPM keep every pixel value. TIFF is compressed with Deflate. JPEG is written with full
colour resolution, JPEG and WebP at quality 95 unless another is asked for. If none is asked for, WebP is
lossless where the image came from a lossless file. Pillow writes 16-bit PNG only in grey, so PNG and TIFF are
encoded here.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffTags
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from steadylens.errors import ImageError
from steadylens.files import replacing
from steadylens.images.exif import tiff_tags, with_thumbnail_of
from steadylens.images.pixels import Pixels, in_8_bits, strips
from steadylens.images.reading import ImageContent, Metadata

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

QUALITY = 95
"""The quality of JPEG and of lossy WebP, 1 to 100, unless another is asked for."""

_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour types of PNG, by the number of channels."""

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

Bytes = NDArray[np.uint8]


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
    name, known = content.format, WRITABLE_FORMATS[content.format]
    notes: tuple[str, ...] = ()
    if content.pixels.itemsize == 2 and not known.bits_16:
        content = replace(content, pixels=in_8_bits(content.pixels))
        notes = (f"{name} holds 8 bits, so 16 bits were rounded",)
    if content.metadata.icc_profile[16:20] == b"GRAY" and _becomes_colour(content):
        content = replace(content, metadata=replace(content.metadata, icc_profile=b""))
        notes += (f"{name} holds this grey as colours, so its colour profile was left out",)
    held = {field: text for field, text in _METADATA_NAMES.items() if getattr(content.metadata, field)}
    if lost := [text for field, text in held.items() if field not in known.metadata]:
        notes += (f"{name} does not hold {', '.join(lost)}, left out",)
    if content.metadata.exif:
        exif = with_thumbnail_of(content.metadata.exif, content.pixels)
        content = replace(content, metadata=replace(content.metadata, exif=exif))
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            known.write(file, content)
        except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
            raise ImageError(
                f"the image cannot be written as {name}: {error}; choose another format"
            ) from error
    return notes


def _becomes_colour(content: ImageContent) -> bool:
    """Says whether grey is written as RGB.

    WebP has no grey, and few programs read a TIFF of 16-bit grey with alpha.
    """
    channels, bits_16 = content.pixels.shape[-1], content.pixels.itemsize == 2
    return channels < 3 and (
        content.format == "WEBP" or (content.format == "TIFF" and channels == 2 and bits_16)
    )


def _write_png(file: BinaryIO, content: ImageContent) -> None:
    write_png(file, content.pixels, content.metadata)


def write_png(file: BinaryIO, pixels: Pixels, metadata: Metadata) -> None:
    """Writes an image as a PNG file.

    Args:
        file: Where to write.
        pixels: (H, W, C), uint8 or uint16, with one to four channels: grey or RGB, alpha last.
        metadata: What to write beside the pixels.
    """
    height, width, channels = pixels.shape
    file.write(PNG_SIGNATURE)
    kind = _PNG_COLOUR_TYPES[channels]
    _write_chunk(file, b"IHDR", struct.pack(">2I5B", width, height, 8 * pixels.itemsize, kind, 0, 0, 0))
    _write_metadata(file, metadata)
    packer = zlib.compressobj(6)
    above = np.zeros(width * channels * pixels.itemsize, np.uint8)
    for rows in strips(pixels):
        strip = np.ascontiguousarray(pixels[rows]).astype(pixels.dtype.newbyteorder(">"))
        lines = strip.view(np.uint8).reshape(len(strip), -1)
        _write_chunk(file, b"IDAT", packer.compress(_filtered(lines, above, channels * pixels.itemsize)))
        above = lines[-1]
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_metadata(file: BinaryIO, metadata: Metadata) -> None:
    if metadata.icc_profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    for kind, content in metadata.chunks:
        if not (kind == b"sRGB" and metadata.icc_profile):  # a PNG may have only one of the two
            _write_chunk(file, kind, content)
    if metadata.dpi is not None and b"pHYs" not in dict(metadata.chunks):
        across, down = (round(dots / 0.0254) for dots in metadata.dpi)
        _write_chunk(file, b"pHYs", struct.pack(">2IB", across, down, 1))
    if metadata.xmp:
        _write_chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    if metadata.exif:
        _write_chunk(file, b"eXIf", metadata.exif)


def _write_chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _filtered(lines: Bytes, above: Bytes, step: int) -> bytes:
    """Returns lines of bytes, each filtered by the best of PNG's five filters.

    As the specification recommends, the best one has the smallest sum of absolute differences.
    """
    up = np.vstack([above, lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], corner[:, step:] = lines[:, :-step], up[:, :-step]
    mean = (left.astype(np.uint16) + up) // 2
    best, lowest = lines.copy(), _cost(lines)
    chosen = np.zeros(len(lines), np.uint8)
    for number, predicted in enumerate((left, up, mean.astype(np.uint8), _paeth(left, up, corner)), start=1):
        differences = lines - predicted
        cost = _cost(differences)
        better = cost < lowest
        best[better], lowest[better], chosen[better] = differences[better], cost[better], number
    return np.hstack([chosen[:, None], best]).tobytes()


def _cost(differences: Bytes) -> NDArray[np.int64]:
    costs: NDArray[np.int64] = np.minimum(differences, -differences).sum(axis=1, dtype=np.int64)
    return costs


def _paeth(left: Bytes, up: Bytes, corner: Bytes) -> Bytes:
    """Returns the neighbour nearest to left + up - corner; on a tie left comes first, then up."""
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    to_left, to_up, to_corner = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)


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
    pixels = _as_rgb(pixels) if pixels.shape[-1] == 2 else pixels
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
    pixels = content.pixels
    if _becomes_colour(content):
        pixels = _as_rgb(pixels)
    height, width, channels = pixels.shape
    tags, parts = _metadata_tags(content.metadata), list(strips(pixels))
    tags[Base.ImageWidth], tags[Base.ImageLength] = width, height
    tags[Base.BitsPerSample], tags[Base.SamplesPerPixel] = (8 * pixels.itemsize,) * channels, channels
    tags[Base.Compression], tags[Base.Predictor] = 8, 2  # Deflate, of differences
    tags[Base.PhotometricInterpretation] = 1 if channels < 3 else 2  # grey or RGB
    tags[Base.PlanarConfiguration], tags[Base.RowsPerStrip] = 1, parts[0].stop
    if channels in (2, 4):
        tags[Base.ExtraSamples] = 2  # straight alpha
    tags.tagtype[Base.StripOffsets] = tags.tagtype[Base.StripByteCounts] = TiffTags.LONG
    # Placeholders that are as long as the real ones.
    tags[Base.StripOffsets] = tags[Base.StripByteCounts] = (0,) * len(parts)
    file.seek(8 + len(tags.tobytes(8)))
    counts = [file.write(zlib.compress(_differences(pixels[rows]), 6)) for rows in parts]
    # Pillow adds the length of the directory to the offsets.
    tags[Base.StripOffsets], tags[Base.StripByteCounts] = (0, *accumulate(counts[:-1])), tuple(counts)
    file.seek(0)
    file.write(b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8))


def _differences(pixels: Pixels) -> bytes:
    """Returns pixels as differences from the pixel to the left, which compress better (TIFF's predictor)."""
    differences = pixels.astype(pixels.dtype.newbyteorder("<"))
    differences[:, 1:] -= pixels[:, :-1]
    return differences.tobytes()


def _as_rgb(pixels: Pixels) -> Pixels:
    """Returns grey with alpha, (H, W, 2), as RGB with alpha."""
    return pixels[..., [0, 0, 0, 1]]


def _metadata_tags(known: Metadata) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if known.dpi is not None:
        tags[Base.XResolution], tags[Base.YResolution], tags[Base.ResolutionUnit] = *known.dpi, 2  # inches
    if known.exif:
        for tag, value in tiff_tags(known.exif).items():
            tags[tag] = value
    if known.xmp:
        tags.tagtype[Base.XMLPacket], tags[Base.XMLPacket] = TiffTags.BYTE, known.xmp
    if known.icc_profile:
        tags.tagtype[Base.InterColorProfile] = TiffTags.UNDEFINED
        tags[Base.InterColorProfile] = known.icc_profile
    return tags


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
