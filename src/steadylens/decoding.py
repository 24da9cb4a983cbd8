"""Opens image files that a stranger may have made: whatever is wrong with one is an `ImageError`.

What a file is, its first bytes decide, not its name. Only formats that are read here are tried: Pillow alone
would also start a PostScript interpreter.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.errors import ImageError

MOST_PIXELS = 200_000_000
"""Width times height up to which a file is read unless another limit is given."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_LARGEST_TILE = 1 << 22
"""What a tile of a TIFF may hold in any case, though the image be smaller: it is decoded whole."""


class _Tiff(TiffImageFile):
    """A TIFF file, without the limit of pixels that Pillow sets for the whole process."""

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
def opened(path: Path, *, most_pixels: int = MOST_PIXELS) -> Iterator[ImageFile]:
    """Lends an image file that is opened but not decoded yet: PNG, JPEG, WebP, TIFF, BMP or PPM.

    Of a file with several images, it is the first. Whatever goes wrong in the block counts as a fault of
    the file, for Pillow's readers raise nearly anything on damaged ones.

    Args:
        path: The file.
        most_pixels: Width times height that is refused if it is exceeded, before anything is decoded.

    Yields:
        The opened image; it is closed at the end of the block.

    Raises:
        ImageError: If the file is missing, is of no known format, is too large or is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            reader = next((found for magic, found in _READERS.items() if start.startswith(magic)), None)
            if reader is None:
                raise ImageError(f"{path} is not an image of a known format: {known_formats()}")
            file.seek(0)
            # Not by Image.open, whose limit of pixels is one for the whole process.
            with reader(file, str(path)) as image:
                _check_size(path, image, most_pixels)
                yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path} cannot be read: {reason}; replace the file") from error


def known_formats() -> str:
    """Returns the names of the formats that are read, as a list in words."""
    return "PNG, JPEG, WebP, TIFF, BMP or PPM"


def _check_size(path: Path, image: Image.Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise ImageError(
            f"{path} has {image.width:,}x{image.height:,} pixels, {image.width * image.height / 1e6:,.1f} "
            f"megapixels; at most {most_pixels / 1e6:,g} are read, raise the limit if you trust the file"
        )
    if isinstance(image, TiffImageFile):
        tile = [image.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        if math.prod(tile) > max(most_pixels, _LARGEST_TILE):
            raise ImageError(f"{path} has tiles of {tile[0]:,}x{tile[1]:,} pixels; save it with smaller ones")
    if min(image.size) < 1:
        raise ImageError(f"{path} has no pixels ({image.width}x{image.height}); replace the file")
    if isinstance(image, PngImageFile) and image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise ImageError(f"{path} is an animation whose first image does not fill it; replace the file")
