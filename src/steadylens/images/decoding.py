"""Opens untrusted image files: whatever is wrong with one raises an `ImageError`.

The first bytes of a file decide its format, not its name. Only the formats listed here are tried, because
Pillow on its own would also start a PostScript interpreter. Every way into the package, from a path or over
the network, uses this module, so that all have the same limits.
"""

import ctypes
import logging
import math
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import PIL
from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.errors import ImageError, ImageSizeError
from steadylens.images.headers import (
    PagePlace,
    count_jpeg_scans,
    other_format,
    tiff_directories,
    tiff_directory,
)

READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""The formats that are read, by Pillow's names."""

MOST_PIXELS = 200_000_000
"""The largest width times height that is read, unless another limit is given."""

LARGEST_TILE = 2**22
"""Pixels that a tile of a TIFF may always have, even above a lower limit: a tile is decoded as a whole."""

MOST_TIMES_IN_SCANS = 8
"""How many times the limit a JPEG of several scans may have in pixels where it is decoded at reduced size:
decoders keep numbers for every pixel of its full size."""

MOST_SCANS = 100
"""The most scans of a JPEG. Progressive files usually have ten; each costs a pass over all pixels."""

# Numbers from the file formats.

_BMP_RLE4 = 2
"""The compression of a bitmap with 4-bit run lengths."""

_SAMPLE_FORMATS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex numbers"}
"""The sample formats of TIFF that are not unsigned, which is 1."""

# What libtiff and Pillow report of damaged TIFF files.

_LIBTIFF_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")

_TIFF_LOGGER, _NULL_HANDLER = logging.getLogger("PIL.TiffImagePlugin"), logging.NullHandler()

_lock = threading.Lock()

_silencers = 0

_handlers_before: dict[str, int | None] = {}

_PILLOW_REASONS = {
    "decoder error -2": "its compressed pixels are damaged or cut off",
    "decoder error -1": "its compressed pixels are damaged",
    "decoder error -9": "memory ran out",
    "unrecognized data stream contents": "its compressed pixels are damaged",
    "broken data stream when reading image file": "its compressed pixels are damaged",
    "image file is truncated": "it is cut off",
    "not enough image data": "it is cut off",
    "Truncated File Read": "it is cut off",
    "buffer is not large enough": "it is cut off",
    "could not create decoder object": "it is damaged or cut off",
}
"""What messages of Pillow mean, by a part of them."""


class _Tiff(TiffImageFile):
    """A page of a TIFF file: its orientation is always applied, without Pillow's limit for the whole process.

    Args:
        file: The file.
        name: Its path, or None.
        page: The place of the page, or None for the first.
    """

    def __init__(self, file: BinaryIO, name: str | None = None, page: PagePlace | None = None) -> None:
        self._page = page
        super().__init__(file, name)

    def _seek(self, frame: int) -> None:
        if self._page is not None and not self._frame_pos:
            self._TiffImageFile__next = self._page.directory  # Pillow would read all pages before it, too
        super()._seek(frame)

    def _setup(self) -> None:
        super()._setup()
        if self._page is not None and self._page.shift:
            self.tile = [tile._replace(offset=tile.offset + self._page.shift) for tile in self.tile]

    def load(self) -> Any:
        """Decodes the pixels."""
        if self._tile_size != self._size:
            self.filename = ""  # else Pillow would map the file with the size of the turned image
        return super().load()

    def load_prepare(self) -> None:
        if self._im is None:
            # None leaves the memory untouched: a damaged file may claim more pixels than it holds.
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
"""What reads a file, by its first bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBytes:
    """An image file in memory, which is read wherever a path is.

    Attributes:
        content: The content of the file.
        name: Its name in error messages.
    """

    content: bytes
    name: str = "the image"

    def open(self, _: Literal["rb"]) -> BinaryIO:
        """Returns the content as a file that is open for reading, as `Path.open` does."""
        return BytesIO(self.content)

    def __str__(self) -> str:
        return self.name


ImageSource = Path | ImageBytes
"""Where an image file is: on disk or in memory."""


@contextmanager
def opened(
    source: ImageSource,
    *,
    most_pixels: int = MOST_PIXELS,
    way_out: str = "raise the limit if you trust the file",
    formats: Collection[str] = READABLE_FORMATS,
    page: PagePlace | None = None,
) -> Iterator[ImageFile]:
    """Opens an image file without decoding it yet, and closes it at the end of the block.

    See `opened_stream`.

    Raises:
        ImageError: Also if the file is missing or cannot be opened.
    """
    name = str(source)
    with (
        _opened_file(source) as file,
        opened_stream(
            file, name=name, most_pixels=most_pixels, way_out=way_out, formats=formats, page=page
        ) as image,
    ):
        yield image


def _opened_file(path: ImageSource) -> BinaryIO:
    if isinstance(path, ImageBytes):
        return path.open("rb")
    try:
        # Opening a pipe would wait until somebody writes to it.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ImageError(f"{path} is not a regular file; give an image file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}; replace the file") from error


@contextmanager
def opened_stream(
    stream: BinaryIO,
    *,
    name: str,
    most_pixels: int,
    way_out: str,
    formats: Collection[str] = READABLE_FORMATS,
    reducible_to: int | None = None,
    page: PagePlace | None = None,
) -> Iterator[ImageFile]:
    """Opens an image without decoding it yet, and closes it at the end of the block.

    If a file holds several images, the first is opened, or the asked page of a TIFF. Every exception within
    the block counts as a fault of the file, because Pillow's readers raise nearly anything on damaged files.
    Within the block, libtiff writes nothing to standard error.

    Args:
        stream: The content of an image file; it must be seekable. If it is a file on disk, large uncompressed
            pixels are mapped instead of copied.
        name: The name of the image in error messages.
        most_pixels: Larger images (width times height) are refused before anything is decoded.
        way_out: What the user can do about an image that is too large, for the error message.
        formats: Which of `READABLE_FORMATS` are accepted.
        reducible_to: The height and width that are enough, or None for all pixels. A JPEG above the limit is
            then decoded at 1/2, 1/4 or 1/8 of its size, but at no less than this.
        page: The place of a page of a TIFF, or None for the first.

    Raises:
        ImageSizeError: If the image, or a tile of a TIFF, is too large.
        ImageError: If the format is not accepted, or the file is damaged or would take too long to decode.
    """
    try:
        reader = _reader_of(stream, name, formats)
        _check_headers(stream, name, reader, most_pixels, page)
        stream.seek(0)
        place = {} if page is None else {"page": page}
        # Image.open has one pixel limit for the whole process.
        with libtiff_silenced(), reader(stream, _path_of(stream), **place) as image:
            if reducible_to is not None and isinstance(image, JpegImageFile):
                _reduce_jpeg(image, stream, most_pixels, reducible_to)
            _check_size(image, name, most_pixels, way_out)
            yield image
    except ImageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "unknown pixel mode" in reason:
            raise ImageError(
                f"{name} holds pixel values of a type that is not read; convert it to grey or RGB with 8 or "
                "16 bits"
            ) from error
        if isinstance(error, KeyError):  # of a table in Pillow
            reason = f"its header holds {reason}, which means nothing"
        reason = next((text for known, text in _PILLOW_REASONS.items() if known in reason), reason)
        raise ImageError(f"{name} cannot be read: {reason}; replace the file") from error


def _path_of(stream: BinaryIO) -> str | None:
    """Returns the path of a file on disk, or None for a stream in memory."""
    path = getattr(stream, "name", None)
    return path if isinstance(path, str) else None


def pixel_count(path: Path) -> int:
    """Returns width times height of all pages as a file says, without decoding it; 0 if it does not.

    Nothing is said of a damaged file: whoever decodes it does.
    """
    if not path.is_file():  # opening a pipe would wait
        return 0
    try:
        with path.open("rb") as file, libtiff_silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = _reader_of(file, str(path), READABLE_FORMATS)
            if reader is _Tiff:
                return sum(math.prod(page.size) for page in tiff_directories(file))
            file.seek(0)
            with reader(file) as image:
                return math.prod(image.size)
    except Exception:  # Pillow's readers raise nearly anything on damaged files
        return 0


def zero_is_white(image: Image.Image) -> bool:
    """Says whether 0 is white in an opened 16-bit grey TIFF. Pillow inverts only 8-bit ones."""
    return (
        isinstance(image, TiffImageFile)
        and image.mode.startswith("I;16")
        and image.tag_v2.get(Base.PhotometricInterpretation) == 0
    )


def unknown_range(name: str, image: Image.Image) -> ImageError:
    """Returns the error for an image whose pixel values have no known range, such as floating-point ones."""
    held = {"F": "floating-point pixel values", "I": "32-bit pixel values"}.get(image.mode)
    if isinstance(image, TiffImageFile) and (formats := _unknown_formats(image)):
        bits = max(image.tag_v2.get(Base.BitsPerSample, (1,)))
        held = f"pixel values in {bits}-bit {' and '.join(formats)}"
    return ImageError(
        f"{name} holds {held or f'pixel values of another kind ({image.mode})'}, and does not say which of "
        "them are black and white; convert it to unsigned 8 or 16 bits, from 0 for black to 255 or 65535 for "
        "white"
    )


def _unknown_formats(image: TiffImageFile) -> list[str]:
    """Returns what the sample formats of a TIFF are that are not unsigned."""
    stored = image.tag_v2.get(Base.SampleFormat, (1,))
    kinds = stored if isinstance(stored, tuple) else (stored,)
    return sorted({_SAMPLE_FORMATS.get(kind, f"sample format {kind}") for kind in kinds if kind != 1})


def _reader_of(stream: BinaryIO, name: str, formats: Collection[str]) -> type[ImageFile]:
    start = stream.read(32)
    for magic, reader in _READERS.items():
        if start.startswith(magic) and reader.format in formats:
            return reader
    *others, last = ("WebP" if known == "WEBP" else known for known in formats)
    readable = f"{', '.join(others)} or {last}"
    if not start:
        raise ImageError(f"{name} is empty; replace the file")
    if kind := other_format(start):
        raise ImageError(f"{name} is {kind}, not an image of a known format: {readable}; convert it")
    raise ImageError(f"{name} is not an image of a known format: {readable}; replace the file")


def _check_headers(
    stream: BinaryIO, name: str, reader: type[ImageFile], most_pixels: int, page: PagePlace | None
) -> None:
    if reader is _Tiff:
        width, height = tiff_directory(stream, None if page is None else page.directory).tile
        if width * height > max(most_pixels, LARGEST_TILE):
            raise ImageSizeError(
                f"{name} has tiles of {width:,}x{height:,} pixels; save it with smaller ones"
            )
    if reader is JpegImageFile and count_jpeg_scans(stream) > MOST_SCANS:
        raise ImageError(f"{name} is a JPEG of more than {MOST_SCANS} scans; save it as a baseline JPEG")


def _reduce_jpeg(image: JpegImageFile, stream: BinaryIO, most_pixels: int, side: int) -> None:
    """Has a JPEG above the limit decoded at a reduced size within it, if one is large enough."""
    pixels, width, height = math.prod(image.size), *image.size
    reductions = [
        by
        for by in (8, 4, 2)
        if min(image.size) >= by * side and math.ceil(width / by) * math.ceil(height / by) <= most_pixels
    ]
    if pixels > most_pixels and reductions:
        scans = count_jpeg_scans(stream)
        times = math.inf if scans == 1 else min(MOST_TIMES_IN_SCANS, MOST_SCANS / scans)
        if pixels <= times * most_pixels:
            image.draft(image.mode, (width // reductions[0], height // reductions[0]))


def _check_size(image: ImageFile, name: str, most_pixels: int, way_out: str) -> None:
    if math.prod(image.size) > most_pixels:
        raise ImageSizeError(
            f"{name} has {image.width:,}x{image.height:,} pixels, {math.prod(image.size) / 1e6:,.1f} "
            f"megapixels; at most {most_pixels / 1e6:,g} are read, {way_out}"
        )
    if min(image.size) < 1:
        raise ImageError(f"{name} has no pixels ({image.width}x{image.height}); replace the file")
    if isinstance(image, TiffImageFile):
        _check_samples(name, image)
    if image.mode == "F" or (image.mode == "I" and not isinstance(image, PpmImageFile)):
        raise unknown_range(name, image)
    if isinstance(image, BmpImageFile) and image.info.get("compression") == _BMP_RLE4 and _misreads_rle4():
        raise ImageError(
            f"{name} is a bitmap with 4-bit run lengths, which Pillow {PIL.__version__} reads wrongly; "
            "save it without compression, or install Pillow 13"
        )
    if isinstance(image, PngImageFile) and image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise ImageError(
            f"{name} is an animation whose first image is smaller than the whole; replace the file"
        )


def _check_samples(name: str, image: TiffImageFile) -> None:
    """Refuses pixel values of a TIFF that Pillow would read, but whose range it does not keep."""
    if _unknown_formats(image):  # 8-bit ones would be read as unsigned: -1 as 255
        raise unknown_range(name, image)
    bits = max(image.tag_v2.get(Base.BitsPerSample, (1,)))
    if bits not in (1, 2, 4, 8, 16, 32, 64):  # 32 and 64 bits are refused by their mode
        raise ImageError(f"{name} has pixel values of {bits} bits; convert it to 8 or 16 bits")


def _misreads_rle4() -> bool:
    """Says whether Pillow is older than 13.0."""
    return int(PIL.__version__.partition(".")[0]) < 13


@contextmanager
def libtiff_silenced() -> Iterator[None]:
    """Keeps libtiff from writing to standard error within the block.

    It has no effect on Windows, where Pillow does not export libtiff's functions.
    """
    global _silencers  # noqa: PLW0603 - libtiff's handlers are also one for the whole process
    with _lock:
        if _silencers == 0:
            _handlers_before.update({name: _set_handler(name, None) for name in _LIBTIFF_HANDLERS})
            _TIFF_LOGGER.addHandler(_NULL_HANDLER)
        _silencers += 1
    try:
        yield
    finally:
        with _lock:
            _silencers -= 1
            if _silencers == 0:
                _TIFF_LOGGER.removeHandler(_NULL_HANDLER)
                for name in _LIBTIFF_HANDLERS:
                    _set_handler(name, _handlers_before.pop(name))


def _set_handler(name: str, handler: int | None) -> int | None:
    """Sets a handler of the libtiff within Pillow and returns the previous one."""
    library = ctypes.CDLL(_imaging.__file__)
    function: Any = getattr(library, name, None)
    if function is None:
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return function(handler)  # type: ignore[no-any-return]
