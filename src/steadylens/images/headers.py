"""What an image file says of itself without being decoded: its kind, its directories, scans and end.

Pillow does not tell all of it: it may use other tags of a TIFF than the decoder does, and it does not count
the scans of a JPEG.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL.ExifTags import Base

_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""The types of TIFF tags that hold unsigned integers, and the letters of `struct` for them."""

_MOST_TIFF_TAGS = 65_535

MOST_PAGES = 100_000
"""The most pages of a TIFF."""

TOLD_TAGS = frozenset(
    {Base.NewSubfileType, Base.SamplesPerPixel, Base.SubIFDs, Base.ExtraSamples, 32997, 33628, 33629, 33630}
    | {33631, 34412, 37724, 50740}
)
"""The tags of which directories tell: they say what a page is, and what lies beside it."""

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)

_SCAN, _END, _FIRST_FRAME = b"\xda", b"\xd9", b"\xc0"

_MOST_MARKERS, _CHUNK_BYTES = 10_000, 2**16

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypcrx", "a raw photograph (CR3)"),
    (4, b"ftyp", "a video"),
    (0, b"GIF8", "a GIF image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL ", "a JPEG XL image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?", "a Radiance image"),
    (0, b"PF", "a portable map of floating point"),
    (0, b"Pf", "a portable map of floating point"),
    (0, b"P7", "a portable map with alpha (PAM)"),
    (0, b"DDS ", "a DirectDraw texture"),
    (0, b"qoif", "a QOI image"),
    (0, b"\0\0\x01\0", "an icon"),
    (0, b"SIMPLE  =", "a FITS image"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML document"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a Git LFS pointer, whose image was not fetched"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)
"""What other files are, by a place near their start and the bytes that stand there."""


def other_format(start: bytes) -> str | None:
    """Returns what a file is that is not read here, by its first 32 bytes; None if that is not known."""
    known = (kind for place, mark, kind in _OTHER_FORMATS if start[place:].startswith(mark))
    return next(known, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class TiffDirectory:
    """Where a directory of a TIFF file is, which describes one page, and what it says of its size.

    Attributes:
        start: The place of the directory in the file, in bytes.
        following: The place of the next one; 0 if it is the last.
        size: Width and height of the page in pixels, before it is turned; 0 where it does not say.
        tile: The largest tile width and height; 0 if the page has no tiles.
        length: How many bytes its entries have.
        numbers: Of each of `TOLD_TAGS`, how many values it has, and the first if they are few whole numbers,
            else 0.
    """

    start: int
    following: int
    size: tuple[int, int]
    tile: tuple[int, int]
    length: int
    numbers: dict[int, tuple[int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PagePlace:
    """Where a page of a TIFF file is.

    Attributes:
        directory: The place of its directory in the file, in bytes.
        shift: How many bytes its pixels lie behind those that the directory tells: some programs write one
            directory for many pages of one size.
    """

    directory: int
    shift: int = 0


def tiff_directory(stream: BinaryIO, start: int | None = None) -> TiffDirectory:
    """Reads a directory of a TIFF file.

    Args:
        stream: The file.
        start: The place of the directory, or None for the first.

    Raises:
        ValueError: If the directory is not a valid one.
        struct.error: If it is cut off.
    """
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head.startswith(b"II") else ">"
    big = head[2:4] == struct.pack(f"{order}H", 43)
    place, counted, entry = (order + each for each in (("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")))
    if start is None:
        (start,) = struct.unpack_from(place, head, 8 if big else 4)
    stream.seek(start)
    (count,) = struct.unpack(counted, stream.read(struct.calcsize(counted)))
    if count > _MOST_TIFF_TAGS:
        raise ValueError(f"its directory claims {count:,} entries")
    sides = dict.fromkeys((Base.ImageWidth, Base.ImageLength, Base.TileWidth, Base.TileLength), 0)
    numbers: dict[int, tuple[int, int]] = {}
    for tag, kind, values, packed in struct.iter_unpack(entry, stream.read(count * struct.calcsize(entry))):
        letter = _TIFF_NUMBERS.get(kind)
        size = struct.calcsize(letter) if letter else math.inf
        first = struct.unpack_from(order + letter, packed)[0] if letter and size <= len(packed) else 0
        few = values * size <= len(packed)
        if tag in TOLD_TAGS:
            numbers[tag] = (values, first if few else 0)
        if tag in sides:
            if letter is None:
                raise ValueError(f"a side of it or of its tiles is of type {kind}")
            sides[tag] = max(sides[tag], first)
    end = stream.read(struct.calcsize(place))
    width, height, across, down = sides.values()
    return TiffDirectory(
        start=start,
        following=struct.unpack(place, end)[0] if len(end) == struct.calcsize(place) else 0,
        size=(width, height),
        tile=(across, down),
        length=count * struct.calcsize(entry),
        numbers=numbers,
    )


def tiff_directories(stream: BinaryIO) -> Iterator[TiffDirectory]:
    """Yields the directories of a TIFF file in order, each once, even if they follow each other in a circle.

    Raises:
        ValueError: If a directory is not a valid one, directories overlap, or there are too many.
        struct.error: If one is cut off.
    """
    found, start, length, size = set[int](), None, 0, stream.seek(0, os.SEEK_END)
    while True:
        directory = tiff_directory(stream, start)
        found.add(directory.start)
        length += directory.length
        if length > size:
            raise ValueError("its directories overlap")
        if len(found) > MOST_PAGES:
            raise ValueError(f"it has more than {MOST_PAGES:,} pages")
        yield directory
        start = directory.following
        if start == 0 or start in found:
            return


def png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields the kind and length in bytes of each chunk of a PNG file, with the stream at its content."""
    place = 8
    while True:
        stream.seek(place)
        if len(head := stream.read(8)) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        place += length + 12
        if kind == b"IEND":
            return


def riff_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields the kind and length in bytes of each chunk of a WebP file, with the stream at its content."""
    stream.seek(4)
    size, place = int.from_bytes(stream.read(4), "little"), 12
    while place < size + 8:
        stream.seek(place)
        if len(head := stream.read(8)) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        yield kind, length
        place += 8 + length + length % 2


def count_jpeg_scans(stream: BinaryIO) -> int:
    """Returns the number of scans of the first image of a JPEG file; each costs a pass over all pixels.

    If the file is damaged, so that decoders may read on at any place, everything that looks like a scan
    counts.
    """
    count, place = 0, 0
    for _ in range(_MOST_MARKERS):
        marker, end = _next_marker(stream, place)
        if marker == _END:
            return count
        if count and marker < _FIRST_FRAME:
            break
        count += marker == _SCAN
        stream.seek(end)
        # Skip the content of the segment, which may hold a thumbnail with scans of its own.
        place = end + max(2, int.from_bytes(stream.read(2)))
    return count + _count_scan_marks(stream, place)


def jpeg_end(stream: BinaryIO) -> int:
    """Returns the place behind the first image of a JPEG file, in bytes; that of the end if it is damaged."""
    place = 0
    for _ in range(_MOST_MARKERS):
        marker, end = _next_marker(stream, place)
        if marker == _END:
            return end
        stream.seek(end)
        place = end + max(2, int.from_bytes(stream.read(2)))
    return stream.seek(0, os.SEEK_END)


def _next_marker(stream: BinaryIO, place: int) -> tuple[bytes, int]:
    """Returns the next marker and the place after it; at the end of the file, the marker of the end."""
    while True:
        stream.seek(place)
        chunk = stream.read(_CHUNK_BYTES)
        if found := _JPEG_MARKER.search(chunk):
            return found[1], place + found.end()
        if len(chunk) < 2:
            return _END, place
        place += len(chunk) - 1


def _count_scan_marks(stream: BinaryIO, place: int) -> int:
    stream.seek(place)
    count, last = 0, b""
    while chunk := stream.read(_CHUNK_BYTES):
        count += (last + chunk).count(b"\xff" + _SCAN)
        last = chunk[-1:]
    return count
