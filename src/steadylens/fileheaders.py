"""What an image file is about to make a decoder do, told by its bytes before anything is decoded.

Pillow does not tell: of the tags of a TIFF it may heed others than the decoder does, and it counts no scans.
"""

import re
import struct
from typing import BinaryIO

_TILE_SIDES = (322, 323)
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TAGS = 65_535

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)
_SCAN, _END, _FIRST_FRAME = b"\xda", b"\xd9", b"\xc0"
_MOST_MARKERS, _PIECE = 10_000, 2**16


def tile_of_tiff(stream: BinaryIO) -> tuple[int, int]:
    """Returns the largest width and height of a tile that the first image of a TIFF names; 0 where none is.

    Raises:
        ValueError: If its first directory cannot be one.
        struct.error: If it is cut off.
    """
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head.startswith(b"II") else ">"
    big = head[2:4] == struct.pack(f"{order}H", 43)
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
    stream.seek(start)
    counted = f"{order}{'Q' if big else 'H'}"
    (count,) = struct.unpack(counted, stream.read(struct.calcsize(counted)))
    if count > _MOST_TAGS:
        raise ValueError(f"its directory claims {count:,} entries")
    entry = f"{order}HHQ8s" if big else f"{order}HHI4s"
    sides = dict.fromkeys(_TILE_SIDES, 0)
    for tag, kind, _, value in struct.iter_unpack(entry, stream.read(count * struct.calcsize(entry))):
        if tag in sides:
            if kind not in _NUMBERS:
                raise ValueError(f"the side of its tiles is of type {kind}")
            sides[tag] = max(sides[tag], *struct.unpack_from(order + _NUMBERS[kind], value))
    width, height = sides.values()
    return width, height


def scans_of_jpeg(stream: BinaryIO) -> int:
    """Returns how many scans the first image of a JPEG file has; each costs a pass over all pixels.

    Where a decoder may lose its way in a damaged file, whatever looks like a scan counts.
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
        place = end + max(2, int.from_bytes(stream.read(2)))  # past its content; a thumbnail lies in one
    return count + _count(stream, place)


def _next_marker(stream: BinaryIO, place: int) -> tuple[bytes, int]:
    """Returns the next marker and where it ends; at the end of the file, the end of the image."""
    while True:
        stream.seek(place)
        piece = stream.read(_PIECE)
        if found := _MARKER.search(piece):
            return found[1], place + found.end()
        if len(piece) < 2:
            return _END, place
        place += len(piece) - 1


def _count(stream: BinaryIO, place: int) -> int:
    stream.seek(place)
    count, last = 0, b""
    while piece := stream.read(_PIECE):
        count += (last + piece).count(b"\xff" + _SCAN)
        last = piece[-1:]
    return count
