"""The pixels of an image file as an array with all of their bits, and a view of what a restoration removed.

Pixels are grey or RGB, with or without alpha. Pillow decodes RGB with 16 bits per channel, but keeps only the
upper byte of each value. If it is told that the bytes come in the opposite order, it keeps the lower byte
instead; so such files are decoded twice.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from steadylens.errors import ImageError
from steadylens.images.decoding import ImageSource, opened, unknown_range, zero_is_white
from steadylens.images.headers import PagePlace

Pixels = NDArray[np.unsignedinteger[Any]]
"""(H, W, C), uint8 or uint16: C is 1 for grey and 3 for RGB, or one more with alpha, which comes last."""

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
"""What Pillow's other 8-bit modes become, and the note that says so."""

_CHANNELS_16 = {"LA;16": 2, "RGB;16": 3, "RGBA;16": 4, "RGBX;16": 3}
"""The 16-bit layouts of which Pillow keeps one byte of each value, and how many channels are kept here."""

_OPPOSITE_ORDER = {"B": "L", "L": "B"}

_NATIVE_ORDER = "L" if sys.byteorder == "little" else "B"


def read_pixels(
    path: ImageSource, image: ImageFile, page: PagePlace | None = None
) -> tuple[Pixels, list[str]]:
    """Returns the pixels of an opened file, and notes on what was converted.

    Args:
        path: The file.
        image: The same file, opened and not decoded yet.
        page: The place of the opened page of a TIFF, or None for the first.

    Raises:
        ImageError: If the pixel values are of a type that cannot be kept, such as floating point.
    """
    if isinstance(image, TiffImageFile):
        _check_tiff(path, image)
    raw, transparent, scale = _raw_mode(image), image.info.get("transparency"), key_scale(image)
    pixels: Pixels
    notes: list[str] = []
    if isinstance(image, PpmImageFile) and _ppm_maximum(image) != 255:
        pixels, notes = _read_ppm(path, image)
    elif raw[:-1] in _CHANNELS_16:
        pixels = _read_16_bits(path, image, raw, page)
    elif image.mode.startswith("I;16"):
        pixels = _fill(np.empty((image.height, image.width, 1), np.uint16), image)
        if zero_is_white(image):
            pixels = np.bitwise_not(pixels)
    else:
        pixels, notes = _read_8_bits(path, image)
    if transparent is not None and image.mode not in ("P", "PA") and pixels.shape[-1] in (1, 3):
        pixels = _with_alpha(pixels, np.array(transparent) * scale)
        notes.append("its transparent colour became an alpha channel")
    return pixels, notes


def key_scale(image: Image.Image) -> int:
    """Returns the factor for the transparent colour of an opened file that is not decoded yet.

    Pillow scales pixels of 2 and 4 bits up to 8 bits, but leaves the transparent colour as it is in the file.
    """
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(image), 1) if isinstance(image, ImageFile) else 1


def plain_mode(image: Image.Image) -> tuple[str, list[str]] | None:
    """Returns the mode L, LA, RGB or RGBA that keeps what an 8-bit image shows, and notes on what changes.

    None means that the pixel values have no known range.
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


def strips(pixels: Pixels, strip_bytes: int = STRIP_BYTES) -> Iterator[slice]:
    """Returns the rows of an image, a few at a time, of about so many bytes."""
    height = pixels.shape[0]
    rows = max(1, strip_bytes // max(1, pixels[:1].nbytes))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def in_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """Returns 16-bit pixels scaled to 8 bits and rounded to nearest."""
    rounded = np.empty(pixels.shape, np.uint8)
    for rows in strips(pixels):
        rounded[rows] = (pixels[rows].astype(np.uint32) + 128) // 257
    return rounded


def flattened(pixels: Pixels, colour: tuple[int, int, int]) -> Pixels:
    """Returns pixels without alpha, as they look on a background.

    Args:
        pixels: (H, W, 2) or (H, W, 4), uint8 or uint16: grey or RGB, alpha last.
        colour: Red, green and blue of the background, 0 to 255. Grey becomes RGB if it is not grey.
    """
    top = np.iinfo(pixels.dtype).max
    channels = 1 if pixels.shape[-1] == 2 and len({*colour}) == 1 else 3
    background = np.array(colour[:channels], np.float32) * (top / 255)
    flat = np.empty((*pixels.shape[:2], channels), pixels.dtype)
    for rows in strips(pixels):
        alpha = pixels[rows, :, -1:].astype(np.float32) / top
        flat[rows] = np.rint(background + (pixels[rows, :, :-1] - background) * alpha)
    return flat


def blended(before: Pixels, after: Pixels, strength: float) -> Pixels:
    """Returns an image between two: before + strength x (after - before), rounded to nearest.

    Args:
        before: (H, W, C), uint8 or uint16.
        after: The restored image, of the same shape and type.
        strength: From 0, which gives `before`, to 1, which gives `after`.
    """
    if strength in (0, 1):
        return after if strength else before
    mixed = np.empty_like(before)
    for rows in strips(before):
        first = before[rows].astype(np.float32)
        mixed[rows] = np.rint(first + np.float32(strength) * (after[rows] - first))
    return mixed


def _read_8_bits(path: ImageSource, image: ImageFile) -> tuple[Pixels, list[str]]:
    if (plain := plain_mode(image)) is None:
        raise unknown_range(str(path), image)
    mode, notes = plain
    return _fill(np.empty((image.height, image.width, len(mode)), np.uint8), image, mode), notes


def _fill(pixels: Any, image: Image.Image, mode: str | None = None) -> Any:
    for rows, strip in _decoded(image, pixels, mode):
        pixels[rows] = strip.reshape(pixels[rows].shape)
    return pixels


def _decoded(image: Image.Image, pixels: Pixels, mode: str | None = None) -> Iterator[tuple[slice, Any]]:
    """Yields an image in strips: a second copy of a large one would take more memory than all the rest."""
    image.load()
    for rows in strips(pixels):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        yield rows, np.asarray(strip.convert(mode) if mode and mode != image.mode else strip)


def _with_alpha(pixels: Pixels, transparent: NDArray[np.int64]) -> Pixels:
    opaque = np.iinfo(pixels.dtype).max
    alpha = np.where((pixels == transparent).all(axis=-1, keepdims=True), 0, opaque).astype(pixels.dtype)
    return np.concatenate([pixels, alpha], axis=-1)


def _raw_mode(image: ImageFile) -> str:
    """Returns Pillow's name for the layout of the pixels in the file, such as RGB;16B."""
    arguments = image.tile[0].args if image.tile else None
    name = arguments[0] if isinstance(arguments, tuple) else arguments
    name = name if isinstance(name, str) else ""
    return name[:-1] + _NATIVE_ORDER if name.endswith(";16N") else name


def _read_16_bits(path: ImageSource, image: ImageFile, raw: str, page: PagePlace | None) -> Pixels:
    pixels = np.zeros((image.height, image.width, _CHANNELS_16[raw[:-1]]), np.uint16)
    if raw.startswith("LA"):  # two pairs of bytes, which Pillow can decode as four channels of 8 bits
        _decode_as(image, "RGBA")
        for rows, strip in _decoded(image, pixels):
            pixels[rows] = strip.view(">u2")
        return pixels
    _read_lower_bytes(path, raw[:-1] + _OPPOSITE_ORDER[raw[-1]], pixels, page)
    _decode_as(image, raw)
    for rows, strip in _decoded(image, pixels):
        pixels[rows] |= strip.astype(np.uint16) << 8
    return pixels


def _read_lower_bytes(
    path: ImageSource, raw: str, pixels: NDArray[np.uint16], page: PagePlace | None
) -> None:
    with opened(
        path, most_pixels=sys.maxsize, page=page
    ) as again:  # its size is known to be within the limit
        _decode_as(again, raw)
        for rows, strip in _decoded(again, pixels):
            pixels[rows] |= strip


def _decode_as(image: ImageFile, raw: str) -> None:
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]
    image.load()


def _check_tiff(path: ImageSource, image: TiffImageFile) -> None:
    bits = max(image.tag_v2.get(Base.BitsPerSample, (1,)))
    channels = image.tag_v2.get(Base.SamplesPerPixel, 1)
    if bits == 16 and channels > 1 and image.tag_v2.get(Base.PlanarConfiguration) == 2:
        raise ImageError(
            f"{path} stores its 16-bit colours in separate planes, which are not read; "
            "store them pixel by pixel"
        )
    raw = _raw_mode(image)
    if bits == 16 and channels > 1 and raw[:-1] not in _CHANNELS_16:
        raise ImageError(f"{path} holds 16-bit pixels as {raw or 'unknown'}, which is not read; use RGB")


def _ppm_maximum(image: PpmImageFile) -> int:
    """Returns the pixel value that means white, as the header of a portable map says."""
    arguments = image.tile[0].args
    if isinstance(arguments, tuple):
        return int(arguments[1]) if isinstance(arguments[1], int) and arguments[1] else 255
    return 65535 if arguments == "I;16B" else 255


def _read_ppm(path: ImageSource, image: PpmImageFile) -> tuple[Pixels, list[str]]:
    maximum, tile = _ppm_maximum(image), image.tile[0]
    if tile.codec_name == "ppm_plain":
        raise ImageError(
            f"{path} holds pixel values of 0 to {maximum} as text; store it as a binary portable map"
        )
    channels = 3 if image.mode == "RGB" else 1
    stored: np.dtype[np.unsignedinteger[Any]] = np.dtype(">u2" if maximum > 255 else np.uint8)
    count = image.height * image.width * channels
    with path.open("rb") as file:
        file.seek(tile.offset)
        content = file.read(count * stored.itemsize)
    flat = np.frombuffer(content, stored, len(content) // stored.itemsize)
    if len(flat) < count or flat.max() > maximum:
        raise ImageError(
            f"{path} is cut off or has pixel values above its maximum, {maximum}; replace the file"
        )
    pixels = flat.reshape(image.height, image.width, channels).astype(stored.newbyteorder("="))
    top = np.iinfo(pixels.dtype).max
    if maximum == top:
        return pixels, []
    for rows in strips(pixels):
        pixels[rows] = (pixels[rows].astype(np.uint32) * top + maximum // 2) // maximum
    return pixels, [f"pixel values of 0 to {maximum} became 0 to {top}"]


def residual_image(before: Pixels, after: Pixels) -> tuple[NDArray[np.uint8], float]:
    """Returns an image of the residual, before minus after, stretched so that it can be seen.

    128 means that nothing was removed; the largest amount in either direction becomes 127 above or below. So
    the amount removed at a pixel is (view - 128) / 127 times the scale.

    Args:
        before: (H, W, C), uint8 or uint16; alpha is ignored.
        after: The restored image, of the same shape and type.

    Returns:
        The view, uint8 with one or three channels, and its scale: the largest amount, in 8-bit grey levels.
    """
    colours = before.shape[-1] - (before.shape[-1] in (2, 4))
    largest = 0
    for rows in strips(before):
        largest = max(largest, int(abs(_residual(before, after, rows, colours)).max()))
    view = np.empty((*before.shape[:2], colours), np.uint8)
    for rows in strips(before):
        part = _residual(before, after, rows, colours) / max(1, largest)
        view[rows] = np.rint(128 + 127 * part)
    return view, largest * 255 / float(np.iinfo(before.dtype).max)


def _residual(before: Pixels, after: Pixels, rows: slice, colours: int) -> NDArray[np.int32]:
    return before[rows, :, :colours].astype(np.int32) - after[rows, :, :colours].astype(np.int32)
