"""Writes an image with all of its bits and metadata, in the format it came in or in another.

PNG, TIFF, BMP and PPM keep every pixel as it is. TIFF is packed by Deflate. JPEG is written at quality 95
with its colours at full resolution; WebP at quality 95, or lossless where the image came from a lossless
file. Pillow writes PNG of 16 bits in grey alone, so those in colour are written here.
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
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from steadylens.errors import ImageError
from steadylens.files import replacing
from steadylens.images.pixels import Pixels, strips
from steadylens.images.reading import ImageContent, Metadata, tiff_tags

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}

Bytes = NDArray[np.uint8]


def write_png(file: BinaryIO, levels: Pixels, metadata: Metadata) -> None:
    """Writes an image as a PNG file.

    Args:
        file: Where to write.
        levels: (H, W, C), uint8 or uint16, of one to four channels: grey or RGB, alpha last.
        metadata: What to write beside the levels.
    """
    height, width, channels = levels.shape
    file.write(SIGNATURE)
    kind = _COLOUR_TYPES[channels]
    _write_chunk(file, b"IHDR", struct.pack(">2I5B", width, height, 8 * levels.itemsize, kind, 0, 0, 0))
    _write_metadata(file, metadata)
    packer = zlib.compressobj(6)
    above = np.zeros(width * channels * levels.itemsize, np.uint8)
    for rows in strips(levels):
        strip = np.ascontiguousarray(levels[rows]).astype(levels.dtype.newbyteorder(">"))
        lines = strip.view(np.uint8).reshape(len(strip), -1)
        _write_chunk(file, b"IDAT", packer.compress(_filtered(lines, above, channels * levels.itemsize)))
        above = lines[-1]
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_metadata(file: BinaryIO, metadata: Metadata) -> None:
    if metadata.icc_profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc_profile))
    for kind, content in metadata.chunks:
        if not (kind == b"sRGB" and metadata.icc_profile):  # one of them may stand in a file
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
    """Returns lines of bytes, each as its differences from what the best of the five filters predicts.

    The best one has the smallest sum of differences, as the specification recommends.
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
    """Returns whichever neighbour is nearest to left + up - corner; left, then up, where several are."""
    a, b, c = left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)
    to_left, to_up, to_corner = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    nearest = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, nearest)


QUALITY = 95
"""Of JPEG and of lossy WebP, 0 to 100."""

_SAID = {
    "icc_profile": "a colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "dpi": "a resolution",
    "chunks": "texts and gamma as PNG does",
    "comment": "a comment",
    "captions": "IPTC",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFormat:
    """What an image format holds.

    Attributes:
        suffix: The usual ending of its files.
        most: Pixels across and down that it holds at most.
        deep: Whether it holds 16 bits a level.
        alpha: Whether it holds an alpha channel.
        says: Which of the fields of `Metadata` it holds.
        write: Writes the levels and metadata of an image to a file.
    """

    suffix: str
    most: int
    deep: bool
    alpha: bool
    says: frozenset[str]
    write: Callable[[BinaryIO, ImageContent], None]


def write_image_file(path: Path, content: ImageContent) -> tuple[str, ...]:
    """Writes an image to a file of its format; the file appears whole or not at all.

    Args:
        path: The file; its ending does not matter.
        content: The image.

    Returns:
        Notes on what the format cannot keep, a phrase each.

    Raises:
        ImageError: If the format cannot hold the image.
        StorageError: If the file cannot be written.
    """
    kind = FORMATS[content.format]
    height, width, channels = content.levels.shape
    if max(height, width) > kind.most:
        raise ImageError(
            f"the image has {width:,}x{height:,} pixels, {content.format} holds {kind.most:,} "
            "a side; choose PNG"
        )
    if channels in (2, 4) and not kind.alpha:
        raise ImageError(f"the image has alpha, which {content.format} does not hold; choose PNG")
    notes: tuple[str, ...] = ()
    if content.levels.itemsize == 2 and not kind.deep:
        content, notes = _in_8_bits(content), (f"{content.format} holds 8 bits, so 16 bits were rounded",)
    if content.metadata.icc_profile[16:20] == b"GRAY" and _becomes_colour(content):
        content = replace(content, metadata=replace(content.metadata, icc_profile=b""))
        notes += (f"{content.format} holds this grey as colours, so its colour profile was left out",)
    told = {field: name for field, name in _SAID.items() if getattr(content.metadata, field)}
    if lost := [name for field, name in told.items() if field not in kind.says]:
        notes += (f"{content.format} does not hold {', '.join(lost)}, left out",)
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            kind.write(file, content)
        except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
            raise ImageError(
                f"the image cannot be written as {content.format}: {error}; choose another format"
            ) from error
    return notes


def _in_8_bits(content: ImageContent) -> ImageContent:
    levels = np.empty(content.levels.shape, np.uint8)
    for rows in strips(content.levels):
        levels[rows] = (content.levels[rows].astype(np.uint32) + 128) // 257
    return replace(content, levels=levels)


def _becomes_colour(content: ImageContent) -> bool:
    """Says whether grey is written as RGB: WebP has none, and a TIFF of 16 bits with alpha few can read."""
    channels, deep = content.levels.shape[-1], content.levels.itemsize == 2
    return channels < 3 and (
        content.format == "WEBP" or (content.format == "TIFF" and channels == 2 and deep)
    )


def _write_png(file: BinaryIO, content: ImageContent) -> None:
    write_png(file, content.levels, content.metadata)


def _write_jpeg(file: BinaryIO, content: ImageContent) -> None:
    known = content.metadata
    options = {"dpi": known.dpi} if known.dpi else {}
    exif = b"Exif\0\0" + known.exif if known.exif else b""
    _pillow(content.levels).save(
        file, "JPEG", quality=QUALITY, subsampling=0, icc_profile=known.icc_profile, exif=exif,
        xmp=known.xmp, comment=known.comment, extra=_captions(known.captions), **options,
    )  # fmt: skip


def _captions(iptc: bytes) -> bytes:
    """Returns the segment of a JPEG file that holds IPTC, within a resource of Photoshop."""
    if not iptc:
        return b""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    segment = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment


def _write_webp(file: BinaryIO, content: ImageContent) -> None:
    known = content.metadata
    _pillow(content.levels).save(
        file, "WEBP", quality=QUALITY, lossless=content.lossless, exact=True, icc_profile=known.icc_profile,
        exif=known.exif, xmp=known.xmp,
    )  # fmt: skip


def _write_bmp(file: BinaryIO, content: ImageContent) -> None:
    levels, known = content.levels, content.metadata
    dpi = known.dpi or (96, 96)
    if levels.shape[-1] in (1, 3):
        _pillow(levels).save(file, "BMP", dpi=dpi)
        return
    levels = _coloured(levels) if levels.shape[-1] == 2 else levels
    # With alpha, Pillow leaves out the masks that tell where it lies: a header of version 4 has them.
    height, width, _ = levels.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    dots = [round(each / 0.0254) for each in dpi]
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, 4 * width * height, *dots, 0, 0)
    start = 14 + len(header) + len(masks)
    file.write(b"BM" + struct.pack("<IHHI", start + 4 * width * height, 0, 0, start) + header + masks)
    for row in levels[::-1]:
        file.write(row[:, [2, 1, 0, 3]].tobytes())


def _write_ppm(file: BinaryIO, content: ImageContent) -> None:
    levels = content.levels
    height, width, channels = levels.shape
    top = np.iinfo(levels.dtype).max
    file.write(b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, width, height, top))
    for rows in strips(levels):
        file.write(levels[rows].astype(levels.dtype.newbyteorder(">")).tobytes())


def _write_tiff(file: BinaryIO, content: ImageContent) -> None:
    levels = content.levels
    if _becomes_colour(content):
        levels = _coloured(levels)
    height, width, channels = levels.shape
    tags, parts = _directory(content), list(strips(levels))
    tags[256], tags[257], tags[258] = width, height, (8 * levels.itemsize,) * channels
    tags[259], tags[262], tags[284], tags[317] = 8, 1 if channels < 3 else 2, 1, 2
    tags[277], tags[278] = channels, parts[0].stop
    if channels in (2, 4):
        tags[338] = 2  # straight alpha
    tags.tagtype[273] = tags.tagtype[279] = 4
    tags[273] = tags[279] = (0,) * len(parts)  # not known yet, but as long as they will be
    file.seek(8 + len(tags.tobytes(8)))
    counts = [file.write(zlib.compress(_differences(levels[rows]), 6)) for rows in parts]
    # Pillow counts the offsets of strips from the end of the directory.
    tags[273], tags[279] = (0, *accumulate(counts[:-1])), tuple(counts)
    file.seek(0)
    file.write(b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8))


def _differences(levels: Pixels) -> bytes:
    """Returns levels as differences from the pixel to the left, which pack better (the predictor of TIFF)."""
    differences = levels.astype(levels.dtype.newbyteorder("<"))
    differences[:, 1:] -= levels[:, :-1]
    return differences.tobytes()


def _coloured(levels: Pixels) -> Pixels:
    """Returns grey with alpha as RGB with alpha."""
    return levels[..., [0, 0, 0, 1]]


def _directory(content: ImageContent) -> ImageFileDirectory_v2:
    known, tags = content.metadata, ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if known.dpi is not None:
        tags[282], tags[283], tags[296] = *known.dpi, 2
    if known.exif:
        for tag, value in tiff_tags(known.exif).items():
            tags[tag] = value
    for tag, packet in ((700, known.xmp), (34675, known.icc_profile)):
        if packet:
            tags.tagtype[tag] = 1 if tag == 700 else 7
            tags[tag] = packet
    return tags


def _pillow(levels: Pixels) -> Image.Image:
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


_MOST_SAID = frozenset({"icc_profile", "exif", "xmp"})

FORMATS: dict[str, ImageFormat] = {
    "PNG": ImageFormat(
        suffix=".png", most=2**31 - 1, deep=True, alpha=True, says=_MOST_SAID | {"dpi", "chunks"},
        write=_write_png,
    ),
    "JPEG": ImageFormat(
        suffix=".jpg", most=65_500, deep=False, alpha=False,
        says=_MOST_SAID | {"dpi", "comment", "captions"}, write=_write_jpeg,
    ),
    "WEBP": ImageFormat(
        suffix=".webp", most=16_383, deep=False, alpha=True, says=_MOST_SAID, write=_write_webp
    ),
    "TIFF": ImageFormat(
        suffix=".tiff", most=2**32 - 1, deep=True, alpha=True, says=_MOST_SAID | {"dpi"}, write=_write_tiff
    ),
    "BMP": ImageFormat(
        suffix=".bmp", most=2**31 - 1, deep=False, alpha=True, says=frozenset({"dpi"}), write=_write_bmp
    ),
    "PPM": ImageFormat(
        suffix=".ppm", most=2**31 - 1, deep=True, alpha=False, says=frozenset(), write=_write_ppm
    ),
}  # fmt: skip
"""The formats that can be written, by the names that Pillow gives them."""
