"""Opens image files that a stranger may have made: whatever is wrong with one is an `ImageError`.

What a file is, its first bytes decide, not its name. Only formats that are read here are tried: Pillow alone
would also start a PostScript interpreter. Every way into the package, from a path or over the network, leads
through here, so that all have the same limits.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.errors import ImageError, ImageSizeError
from steadylens.fileheaders import scans_of_jpeg, tile_of_tiff
from steadylens.tiffmessages import without_messages

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
