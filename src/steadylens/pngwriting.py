"""Writes PNG files of 8 or 16 bits a level in any number of channels; Pillow writes 16 bits in grey alone."""

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from steadylens.levels import Levels, strips
from steadylens.metadata import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}

Bytes = NDArray[np.uint8]


def write_png(file: BinaryIO, levels: Levels, metadata: Metadata) -> None:
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
