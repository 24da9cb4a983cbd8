"""Opens image files that a stranger may have made: whatever is wrong with one is an `ImageError`.

What a file is, its first bytes decide, not its name. Only formats that are read here are tried: Pillow alone
would also start a PostScript interpreter. Every way into the package, from a path or over the network, leads
through here, so that all have the same limits. Some limits are read from a file's bytes before anything is
decoded, because Pillow does not tell: of the tags of a TIFF it may use others than the decoder does, and it
counts no scans.
"""

import ctypes
import logging
import math
import re
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.errors import ImageError, ImageSizeError

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


_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")

_LOGGER, _NOWHERE = logging.getLogger("PIL.TiffImagePlugin"), logging.NullHandler()

_turn = threading.Lock()

_readers = 0

_before: dict[str, int | None] = {}


@contextmanager
def without_messages() -> Iterator[None]:
    """Silences libtiff within the block, save where Pillow holds it out of reach (Windows)."""
    global _readers  # noqa: PLW0603 - what libtiff keeps is one for the process, too
    with _turn:
        if _readers == 0:
            _before.update({name: _set(name, None) for name in _HANDLERS})
            _LOGGER.addHandler(_NOWHERE)
        _readers += 1
    try:
        yield
    finally:
        with _turn:
            _readers -= 1
            if _readers == 0:
                _LOGGER.removeHandler(_NOWHERE)
                for name in _HANDLERS:
                    _set(name, _before.pop(name))


def _set(name: str, handler: int | None) -> int | None:
    """Sets a handler of the libtiff that Pillow uses, and returns the one before."""
    library = ctypes.CDLL(_imaging.__file__)
    function: Any = getattr(library, name, None)
    if function is None:
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function(handler)  # type: ignore[no-any-return]


FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""The formats that are read, as Pillow calls them."""

MOST_PIXELS = 200_000_000
"""Width times height up to which an image is read unless another limit is given."""

LARGEST_TILE = 2**22
"""Pixels that a tile of a TIFF may have in any case, though the limit be lower: it is decoded whole."""

MOST_SCANS = 100
"""Scans of a JPEG: progressive ones commonly have ten, and each costs a pass over all pixels."""


class _Tiff(TiffImageFile):
    """A TIFF file: turned in any case, and without the limit that Pillow sets for the whole process."""

    def load(self) -> Any:
        """Decodes the pixels."""
        if self._tile_size != self._size:
            self.filename = ""  # else Pillow would map them by the size that the image has once it is turned
        return super().load()

    def load_prepare(self) -> None:
        if self._im is None:
            # None leaves memory untouched: a damaged file may claim more than it holds.
            self.im = Image.new(self.mode, self._tile_size, None).im
        super().load_prepare()


_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"RIFF": WebPImageFile,
    b"II*\0": _Tiff,
    b"MM\0*": _Tiff,
    b"II+\0": _Tiff,
    b"MM\0+": _Tiff,
    b"BM": BmpImageFile,
    **{b"P%d" % kind: PpmImageFile for kind in range(1, 7)},
}


@contextmanager
def opened(
    path: Path, *, most_pixels: int = MOST_PIXELS, way_out: str = "raise the limit if you trust the file"
) -> Iterator[ImageFile]:
    """Lends an image file that is opened but not decoded yet; see `opened_stream`.

    Raises:
        ImageError: If the file is missing, too, or cannot be opened.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # to open a pipe would be to wait for it
            raise ImageError(f"{path} is no regular file; name one that holds an image")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}; replace the file") from error
    with (
        file,
        opened_stream(file, name=str(path), most_pixels=most_pixels, way_out=way_out, path=path) as image,
    ):
        yield image


@contextmanager
def opened_stream(
    stream: BinaryIO,
    *,
    name: str,
    most_pixels: int,
    way_out: str,
    formats: Collection[str] = FORMATS,
    path: Path | None = None,
) -> Iterator[ImageFile]:
    """Lends an image that is opened but not decoded yet.

    Of a file with several images, it is the first. Whatever goes wrong in the block counts as a fault of
    the file, for Pillow's readers raise nearly anything on damaged ones. What libtiff would write to the
    process's standard error meanwhile is left out.

    Args:
        stream: The content of an image file, which can be sought in.
        name: What the errors call it.
        most_pixels: Width times height that is refused if it is exceeded, before anything is decoded.
        way_out: What to do about an image that is too large, for the error.
        formats: Which of `FORMATS` are read.
        path: Where the content lies as a file, if it does: large plain pixels are then mapped, not copied.

    Yields:
        The opened image; it is closed at the end of the block.

    Raises:
        ImageSizeError: If the image, or a tile of a TIFF, is too large.
        ImageError: If it is of no such format, or damaged, or would take too long to decode.
    """
    try:
        reader = _reader_of(stream, name, formats)
        _check_headers(stream, name, reader, most_pixels)
        stream.seek(0)
        # Not by Image.open, whose limit of pixels is one for the whole process.
        with without_messages(), reader(stream, None if path is None else str(path)) as image:
            _check_size(image, name, most_pixels, way_out)
            yield image
    except ImageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "unknown pixel mode" in reason:
            raise ImageError(
                f"{name} holds levels of a kind that is not read; convert it to grey or RGB of 8 or 16 bits"
            ) from error
        raise ImageError(f"{name} cannot be read: {reason}; replace the file") from error


def zero_is_white(image: Image.Image) -> bool:
    """Says whether an opened file of 16-bit grey counts from white; Pillow inverts 8-bit ones alone."""
    return isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0


def _reader_of(stream: BinaryIO, name: str, formats: Collection[str]) -> type[ImageFile]:
    start = stream.read(16)
    for magic, reader in _READERS.items():
        if start.startswith(magic) and reader.format in formats:
            return reader
    *others, last = ("WebP" if known == "WEBP" else known for known in formats)
    raise ImageError(f"{name} is not an image of a known format: {', '.join(others)} or {last}")


def _check_headers(stream: BinaryIO, name: str, reader: type[ImageFile], most_pixels: int) -> None:
    if reader is _Tiff:
        width, height = tile_of_tiff(stream)
        if width * height > max(most_pixels, LARGEST_TILE):
            raise ImageSizeError(
                f"{name} has tiles of {width:,}x{height:,} pixels; save it with smaller ones"
            )
    if reader is JpegImageFile and scans_of_jpeg(stream) > MOST_SCANS:
        raise ImageError(f"{name} is a JPEG of more than {MOST_SCANS} scans; save it as a baseline JPEG")


def _check_size(image: ImageFile, name: str, most_pixels: int, way_out: str) -> None:
    if math.prod(image.size) > most_pixels:
        raise ImageSizeError(
            f"{name} has {image.width:,}x{image.height:,} pixels, {math.prod(image.size) / 1e6:,.1f} "
            f"megapixels; at most {most_pixels / 1e6:,g} are read, {way_out}"
        )
    if min(image.size) < 1:
        raise ImageError(f"{name} has no pixels ({image.width}x{image.height}); replace the file")
    if image.mode == "F" or (image.mode == "I" and not isinstance(image, PpmImageFile)):
        raise ImageError(
            f"{name} holds {image.mode} levels, which have no known range; convert it to 8 or 16 bits"
        )
    if isinstance(image, PngImageFile) and image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise ImageError(f"{name} is an animation whose first image does not fill it; replace the file")
