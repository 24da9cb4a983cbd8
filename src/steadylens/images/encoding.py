"""Encodes PNG and TIFF with all bits: Pillow writes 16 bits a channel only in grey, and no typed tags.

A TIFF is written page by page: first the pixels of all pages, then what describes them, so that memory holds
the pixels of one page.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import TiffTags
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from steadylens.images.metadata.exif import tiff_tags
from steadylens.images.pixels import Pixels, strips
from steadylens.images.reading import ImageContent, Metadata

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""The colour types of PNG, by the number of channels."""

Bytes = NDArray[np.uint8]

_FILTERED_BYTES = 2**18
"""About so many bytes are filtered at a time: they and what is made of them fit into a processor's cache."""

_SAMPLE_BYTES, _MOST_SAMPLES = 2**15, 8
"""How large the samples are by which it is chosen how to pack an image, and how many there are at most."""

_WORTH = 1.04
"""How much larger samples may become where that is quicker."""

TIFF_HEADER = 16
"""The bytes that are kept free for the header of a TIFF."""

_MOST_TIFF_BYTES = 2**32 - 2**28
"""How many bytes of pixels a TIFF has at most that is no BigTIFF: its directories need room, too."""


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
    packer = _packing(pixels).packer()
    for rows in strips(pixels, _FILTERED_BYTES):
        if packed := packer.compress(_filtered(pixels, rows)):
            _write_chunk(file, b"IDAT", packed)
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


class _Packing(NamedTuple):
    """How Deflate packs bytes: a level and a strategy of zlib."""

    level: int
    strategy: int

    def packer(self) -> "zlib._Compress":
        return zlib.compressobj(self.level, strategy=self.strategy)

    def size(self, content: bytes) -> int:
        """Returns how many bytes the content becomes."""
        packer = self.packer()
        return len(packer.compress(content)) + len(packer.flush())


_RUNS = _Packing(6, zlib.Z_RLE)
"""Looks for runs of one byte only: quicker by far, and smaller for most noise and what is restored of it."""

_REPEATS = _Packing(4, zlib.Z_DEFAULT_STRATEGY)
"""Looks for anything that repeats. Higher levels save a twentieth, and take two to five times as long."""


def _packing(pixels: Pixels) -> _Packing:
    """Returns the way to pack an image that is quick and makes it small, by what samples become."""
    height = len(pixels)
    rows = max(1, min(height, _SAMPLE_BYTES // pixels[:1].nbytes))
    count = min(_MOST_SAMPLES, height // rows)
    tops = ((height - rows) * (2 * number + 1) // (2 * count) for number in range(count))
    samples = [_filtered(pixels, slice(top, top + rows)) for top in tops]
    runs, repeats = (sum(map(packing.size, samples)) for packing in (_RUNS, _REPEATS))
    return _RUNS if runs <= _WORTH * repeats else _REPEATS


def _filtered(pixels: Pixels, rows: slice) -> bytes:
    """Returns rows of an image as bytes, each filtered by the best of PNG's five filters.

    As the specification recommends, the best one has the smallest sum of absolute differences.
    """
    step = pixels.shape[-1] * pixels.itemsize
    seen = np.ascontiguousarray(pixels[max(0, rows.start - 1) : rows.stop])
    seen = seen.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(len(seen), -1)
    lines = seen[rows.start > 0 :]
    up = seen[:-1] if rows.start else np.vstack([np.zeros_like(seen[:1]), seen[:-1]])
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


def becomes_colour(content: ImageContent) -> bool:
    """Says whether grey is written as RGB.

    WebP has no grey, and few programs read a TIFF of 16-bit grey with alpha.
    """
    channels, bits_16 = content.pixels.shape[-1], content.pixels.itemsize == 2
    return channels < 3 and (
        content.format == "WEBP" or (content.format == "TIFF" and channels == 2 and bits_16)
    )


def as_rgb(pixels: Pixels) -> Pixels:
    """Returns grey with alpha, (H, W, 2), as RGB with alpha."""
    return pixels[..., [0, 0, 0, 1]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TiffPage:
    """A page of a TIFF whose pixels are written: what its directory says.

    Attributes:
        metadata: What is written beside the pixels.
        shape: Height, width and channels.
        bits: Bits per channel.
        rows: How many rows a strip has.
        strips: Where each strip lies in the file, and how many bytes it has.
        plain: Whether the pixels are not compressed.
    """

    metadata: Metadata
    shape: tuple[int, int, int]
    bits: int
    rows: int
    strips: tuple[tuple[int, int], ...]
    plain: bool

    @classmethod
    def written(cls, file: BinaryIO, content: ImageContent, first: Sequence[Self]) -> Self:
        """Writes the pixels of a page.

        Args:
            file: Where to write them.
            content: The page.
            first: The first page of the file, if this one is not it.
        """
        pixels = as_rgb(content.pixels) if becomes_colour(content) else content.pixels
        # ImageJ takes the pages of its own files to lie one after another, uncompressed.
        plain = first[0].plain if first else len(content.pages) > 1 and content.metadata.describes_imagej
        big_endian = (first[0] if first else content).metadata.big_endian
        if not first and len(content.pages) * pixels.nbytes > _MOST_TIFF_BYTES:
            big_endian = False  # Pillow knows no BigTIFF of that kind
        kind = pixels.dtype.newbyteorder(">" if big_endian else "<")
        parts, written = list(strips(pixels)), []
        for rows in parts:
            place = file.tell()
            strip = (pixels[rows].astype(kind) if plain else _differences(pixels[rows], kind)).tobytes()
            written.append((place, file.write(strip if plain else zlib.compress(strip, 6))))
        height, width, channels = pixels.shape
        return cls(
            metadata=replace(content.metadata, big_endian=big_endian),
            shape=(height, width, channels),
            bits=8 * pixels.itemsize,
            rows=parts[0].stop,
            strips=tuple(written),
            plain=plain,
        )

    def directory(self, place: int, *, big: bool) -> bytearray:
        """Returns the directory of the page, with all that it refers to but the pixels.

        Args:
            place: Where it will lie in the file.
            big: Whether the file is a BigTIFF, whose places have 8 bytes.
        """
        height, width, channels = self.shape
        tags, number = _metadata_tags(self.metadata, big=big), TiffTags.LONG8 if big else TiffTags.LONG
        tags[Base.ImageWidth], tags[Base.ImageLength] = width, height
        tags[Base.BitsPerSample], tags[Base.SamplesPerPixel] = (self.bits,) * channels, channels
        tags[Base.PhotometricInterpretation] = 1 if channels < 3 else 2  # grey or RGB
        tags[Base.PlanarConfiguration], tags[Base.RowsPerStrip] = 1, self.rows
        tags[Base.Compression] = 1 if self.plain else 8  # none, or Deflate
        if not self.plain:
            tags[Base.Predictor] = 2  # differences
        if channels in (2, 4):
            tags[Base.ExtraSamples] = 2  # straight alpha
        tags.tagtype[Base.StripOffsets] = tags.tagtype[Base.StripByteCounts] = number
        places, tags[Base.StripByteCounts] = zip(*self.strips, strict=True)
        tags[Base.StripOffsets] = (0,) * len(places)
        packed = bytearray(tags.tobytes(place))
        order, letter = ">" if self.metadata.big_endian else "<", "Q" if big else "I"
        index = sorted(tags).index(Base.StripOffsets)
        # Pillow takes the places to be behind the directory, so they are set here.
        value = (20 + 20 * index) if big else (10 + 12 * index)
        if len(places) > 1:
            value = struct.unpack_from(order + letter, packed, value)[0] - place
        struct.pack_into(f"{order}{len(places)}{letter}", packed, value, *places)
        return packed


def write_directories(file: BinaryIO, pages: Sequence[TiffPage]) -> None:
    """Writes the directories of a TIFF behind its pixels, and then its header."""
    place = file.tell() + file.tell() % 2
    big, order = place > _MOST_TIFF_BYTES, ">" if pages[0].metadata.big_endian else "<"
    mark = b"MM" if order == ">" else b"II"
    head = struct.pack(f"{order}3HQ", 43, 8, 0, place) if big else struct.pack(f"{order}HI", 42, place)
    for page in pages:
        directory = page.directory(place, big=big)
        following = place + len(directory) + len(directory) % 2
        if page is not pages[-1]:
            (count,) = struct.unpack_from(order + ("Q" if big else "H"), directory)
            end = (8 + 20 * count) if big else (2 + 12 * count)
            struct.pack_into(order + ("Q" if big else "I"), directory, end, following)
        file.seek(place)
        file.write(directory)
        place = following
    file.seek(0)
    file.write(mark + head)


def _differences(pixels: Pixels, kind: np.dtype[Any]) -> Pixels:
    """Returns pixels as differences from the pixel to the left, which compress better (TIFF's predictor)."""
    differences = pixels.astype(kind)
    differences[:, 1:] -= pixels[:, :-1]
    return differences


def _metadata_tags(known: Metadata, *, big: bool) -> ImageFileDirectory_v2:
    prefix = b"MM" if known.big_endian else b"II"
    tags = ImageFileDirectory_v2(b"II+" + bytes(13) if big else b"II*" + bytes(5), prefix=prefix)
    if known.dpi is not None:
        tags[Base.XResolution], tags[Base.YResolution], tags[Base.ResolutionUnit] = *known.dpi, 2  # inches
    if known.exif:
        for tag, value in tiff_tags(known.exif).items():
            tags[tag] = value
    for tag, kind, value in known.tags:
        tags.tagtype[tag], tags[tag] = kind, value
    if known.xmp:
        tags.tagtype[Base.XMLPacket], tags[Base.XMLPacket] = TiffTags.BYTE, known.xmp
    if known.icc_profile:
        tags.tagtype[Base.InterColorProfile] = TiffTags.UNDEFINED
        tags[Base.InterColorProfile] = known.icc_profile
    return tags
