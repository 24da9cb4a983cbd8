"""The pixels of an image file as an array, in all of their bits; and what a restoration removed.

Pixels are grey or RGB, with or without alpha. Pillow decodes 48-bit and 64-bit colours, but keeps the upper
byte of each value alone. The lower byte is what it keeps when it is told that the bytes come in the opposite
order; so such files are decoded twice.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from steadylens.errors import ImageError
from steadylens.images.decoding import opened, zero_is_white

Pixels = NDArray[np.unsignedinteger[Any]]
"""(H, W, C): C is 1 for grey, 3 for RGB, one more with alpha, which comes last; 8 or 16 bits each."""

STRIP_BYTES = 2**22
"""About how many bytes of an image are converted at a time."""

_PLAIN = ("L", "LA", "RGB", "RGBA")

_CONVERTED = {
    "1": ("L", "black and white became 8-bit grey"),
    "La": ("LA", "premultiplied alpha became straight"),
    "RGBa": ("RGBA", "premultiplied alpha became straight"),
    "RGBX": ("RGB", "the fourth channel, which is no alpha, was dropped"),
    "PA": ("RGBA", "its palette became RGB"),
    "CMYK": ("RGB", "CMYK became RGB, without a colour profile"),
    "YCbCr": ("RGB", "YCbCr became RGB"),
}

_BANDS = {"LA;16": 2, "RGB;16": 3, "RGBA;16": 4, "RGBX;16": 3}

_SWAPPED = {"B": "L", "L": "B"}

_NATIVE = "L" if sys.byteorder == "little" else "B"


def read_levels(path: Path, image: ImageFile) -> tuple[Pixels, list[str]]:
    """Returns the levels of an opened file, and notes on what had to be converted.

    Args:
        path: The file.
        image: The same, opened and not decoded yet.

    Raises:
        ImageError: If the levels are of a kind that cannot be kept, as floating-point ones.
    """
    if isinstance(image, TiffImageFile):
        _check_tiff(path, image)
    raw, key, scale = _raw_mode(image), image.info.get("transparency"), key_scale(image)
    levels: Pixels
    notes: list[str] = []
    if isinstance(image, PpmImageFile) and _highest(image) != 255:
        levels, notes = _portable(path, image)
    elif raw[:-1] in _BANDS:
        levels = _deep(path, image, raw)
        notes = ["the fourth channel, which is no alpha, was dropped"] if raw.startswith("RGBX") else []
    elif image.mode.startswith("I;16"):
        levels = _filled(image, np.empty((image.height, image.width, 1), np.uint16))
        if zero_is_white(image):
            levels = np.bitwise_not(levels)
    else:
        levels, notes = _shallow(path, image)
    if key is not None and image.mode not in ("P", "PA") and levels.shape[-1] in (1, 3):
        levels = _with_alpha(levels, np.array(key) * scale)
        notes.append("its transparent colour became an alpha channel")
    return levels, notes


def key_scale(image: Image.Image) -> int:
    """Returns what the transparent colour of an opened file, not decoded yet, is to be multiplied by.

    Pillow spreads the levels of 2 and 4 bits over 8, but leaves that colour as it stands in the file.
    """
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(image), 1) if isinstance(image, ImageFile) else 1


def plain_mode(image: Image.Image) -> tuple[str, list[str]] | None:
    """Returns the mode L, LA, RGB or RGBA that keeps what an 8-bit image shows, and notes on what changes.

    None stands for levels that have no known range.
    """
    if image.mode in _PLAIN:
        return image.mode, []
    if image.mode == "P":
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return mode, [f"its palette became {mode}"]
    if image.mode in _CONVERTED:
        mode, note = _CONVERTED[image.mode]
        return mode, [note]
    return None


def strips(levels: Pixels) -> Iterator[slice]:
    """Returns the rows of an image a few at a time."""
    height = levels.shape[0]
    rows = max(1, STRIP_BYTES // max(1, levels[:1].nbytes))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _shallow(path: Path, image: ImageFile) -> tuple[Pixels, list[str]]:
    if (plain := plain_mode(image)) is None:
        raise ImageError(
            f"{path} holds {image.mode} levels, which have no known range; convert it to 8 or 16 bits"
        )
    mode, notes = plain
    return _filled(image, np.empty((image.height, image.width, len(mode)), np.uint8), mode), notes


def _filled(image: Image.Image, levels: Any, mode: str | None = None) -> Any:
    for rows, strip in _decoded(image, levels, mode):
        levels[rows] = strip.reshape(levels[rows].shape)
    return levels


def _decoded(image: Image.Image, levels: Pixels, mode: str | None = None) -> Iterator[tuple[slice, Any]]:
    """Yields strips of an image: a second copy of a large one would cost more memory than all else."""
    image.load()
    for rows in strips(levels):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        yield rows, np.asarray(strip.convert(mode) if mode and mode != image.mode else strip)


def _with_alpha(levels: Pixels, key: NDArray[np.int64]) -> Pixels:
    opaque = np.iinfo(levels.dtype).max
    alpha = np.where((levels == key).all(axis=-1, keepdims=True), 0, opaque).astype(levels.dtype)
    return np.concatenate([levels, alpha], axis=-1)


def _raw_mode(image: ImageFile) -> str:
    """Returns how Pillow names the way in which levels lie in the file, as RGB;16B."""
    arguments = image.tile[0].args if image.tile else None
    name = arguments[0] if isinstance(arguments, tuple) else arguments
    name = name if isinstance(name, str) else ""
    return name[:-1] + _NATIVE if name.endswith(";16N") else name


def _deep(path: Path, image: ImageFile, raw: str) -> Pixels:
    levels = np.zeros((image.height, image.width, _BANDS[raw[:-1]]), np.uint16)
    if raw.startswith("LA"):  # two pairs of bytes: to Pillow, four channels of 8 bits
        _decode_as(image, "RGBA")
        for rows, strip in _decoded(image, levels):
            levels[rows] = strip.view(">u2")
        return levels
    _read_lower_bytes(path, raw[:-1] + _SWAPPED[raw[-1]], levels)
    _decode_as(image, raw)
    for rows, strip in _decoded(image, levels):
        levels[rows] |= strip.astype(np.uint16) << 8
    return levels


def _read_lower_bytes(path: Path, raw: str, levels: NDArray[np.uint16]) -> None:
    with opened(path, most_pixels=sys.maxsize) as again:  # its size was found to be within the limit
        _decode_as(again, raw)
        for rows, strip in _decoded(again, levels):
            levels[rows] |= strip


def _decode_as(image: ImageFile, raw: str) -> None:
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    image.load()


def _check_tiff(path: Path, image: TiffImageFile) -> None:
    bits = max(image.tag_v2.get(258, (1,)))
    if bits not in (1, 2, 4, 8, 16, 32, 64):  # the last two are told by their mode
        raise ImageError(f"{path} has levels of {bits} bits; convert it to 8 or 16 bits")
    channels = image.tag_v2.get(277, 1)
    if bits == 16 and channels > 1 and image.tag_v2.get(284) == 2:
        raise ImageError(
            f"{path} stores its 16-bit colours in separate planes, which are not read; "
            "store them pixel by pixel"
        )
    raw = _raw_mode(image)
    if bits == 16 and channels > 1 and raw[:-1] not in _BANDS:
        raise ImageError(f"{path} holds 16-bit levels as {raw or 'unknown'}, which are not read; use RGB")


def _highest(image: PpmImageFile) -> int:
    arguments = image.tile[0].args
    if isinstance(arguments, tuple):
        return int(arguments[1]) if isinstance(arguments[1], int) and arguments[1] else 255
    return 65535 if arguments == "I;16B" else 255


def _portable(path: Path, image: PpmImageFile) -> tuple[Pixels, list[str]]:
    highest, tile = _highest(image), image.tile[0]
    if tile.codec_name == "ppm_plain":
        raise ImageError(f"{path} holds levels of 0 to {highest} as text; store it as a binary portable map")
    bands = 3 if image.mode == "RGB" else 1
    stored: np.dtype[np.unsignedinteger[Any]] = np.dtype(">u2" if highest > 255 else np.uint8)
    count = image.height * image.width * bands
    flat = np.fromfile(path, stored, count, offset=tile.offset)
    if len(flat) < count or flat.max() > highest:
        raise ImageError(f"{path} is cut off or has levels above its highest, {highest}; replace the file")
    levels = flat.reshape(image.height, image.width, bands).astype(stored.newbyteorder("="))
    top = np.iinfo(levels.dtype).max
    if highest == top:
        return levels, []
    for rows in strips(levels):
        levels[rows] = (levels[rows].astype(np.uint32) * top + highest // 2) // highest
    return levels, [f"levels of 0 to {highest} became 0 to {top}"]


def residual_image(before: Pixels, after: Pixels) -> tuple[NDArray[np.uint8], float]:
    """Returns what was removed, before minus after, stretched so that it can be seen.

    Level 128 means that nothing was removed; the largest amount, up or down, becomes 127 levels above or
    below. So the amount removed at a pixel is (view - 128) / 127 times the scale.

    Args:
        before: (H, W, C), uint8 or uint16; alpha is left out.
        after: The same, restored.

    Returns:
        The view, uint8 of one or three channels, and its scale: the largest amount in grey levels of 255.
    """
    colours = before.shape[-1] - (before.shape[-1] in (2, 4))
    largest = 0
    for rows in strips(before):
        largest = max(largest, int(abs(_removed(before, after, rows, colours)).max()))
    view = np.empty((*before.shape[:2], colours), np.uint8)
    for rows in strips(before):
        part = _removed(before, after, rows, colours) / max(1, largest)
        view[rows] = np.rint(128 + 127 * part)
    return view, largest * 255 / float(np.iinfo(before.dtype).max)


def _removed(before: Pixels, after: Pixels, rows: slice, colours: int) -> NDArray[np.int32]:
    return before[rows, :, :colours].astype(np.int32) - after[rows, :, :colours].astype(np.int32)
