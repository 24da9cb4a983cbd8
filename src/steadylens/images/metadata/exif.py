"""EXIF as bytes: the orientation and the thumbnail are brought up to date, and nothing else is moved.

Makers' notes hold places within EXIF, so its parts stay where they are.
"""

import io
import re
import struct
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.Image import Exif
from PIL.JpegImagePlugin import JpegImageFile

from steadylens.images.pixels import Pixels, in_8_bits

LARGEST_THUMBNAIL = 512
"""The largest width or height of a thumbnail in pixels, even if the one before was larger."""

MOST_EXIF_BYTES = 65_527
"""What a JPEG holds of EXIF. It does not grow above that, or above its size, for the sake of a thumbnail."""

_THUMBNAIL_QUALITIES = (85, 60, 30)
"""The qualities that are tried until a thumbnail is small enough."""

_JPEG_PLACE, _JPEG_LENGTH = 0x0201, 0x0202
"""The tags that say where the thumbnail is and how many bytes it has."""

_THUMBNAIL_RESOURCES = frozenset({0x0409, 0x040C})

EXIF_KEYWORDS = ("Raw profile type exif", "Raw profile type APP1")
"""The keywords of texts in PNG files that hold EXIF."""

_XMP_THUMBNAILS = re.compile(rb"<(x[am]p:Thumbnails)\b.*?</\1\s*>", re.DOTALL)

ABOUT_PIXELS = frozenset(
    {*range(254, 267), *range(273, 282), 284, *range(288, 294), 297, 301, 317, *range(320, 348)}
    | {*range(512, 533), 700, 32997, 32998, 34675, 33628, 33629, 33630, 33631, 34412, 37724, 50740}
)
"""The TIFF tags that say how pixels are stored, and those of the profile and of XMP, which are kept apart.
Also those that hold places in the file, which change, or layers of the picture as it was."""


def tiff_tags(exif: bytes) -> Exif:
    """Returns the EXIF tags, sub-directories included, without those about how pixels are stored."""
    source = Exif()
    source.load(exif)
    return without_pixels(source)


def is_exif(content: bytes) -> bool:
    """Says whether EXIF begins as it must; else programs refuse the whole file, or read no EXIF."""
    return len(content) >= 8 and content.startswith((b"II*\0", b"MM\0*"))


def exif_in_text(texts: Mapping[str | tuple[int, int], object]) -> bytes:
    """Returns the EXIF that a PNG file holds as text, in hexadecimal digits, as some programs write it.

    Args:
        texts: The texts of the file by their keywords.
    """
    for keyword in EXIF_KEYWORDS:
        if isinstance(text := texts.get(keyword), str):
            with suppress(ValueError):
                return bytes.fromhex("".join(text.split("\n")[3:]))
    return b""


def without_pixels(source: Exif) -> Exif:
    """Returns tags without those about how pixels are stored, and those of the profile and of XMP."""
    kept = Exif()
    for tag in set(source) - ABOUT_PIXELS:
        if tag in (IFD.Exif, IFD.GPSInfo):
            kept[tag] = {key: _text_as_bytes(value) for key, value in source.get_ifd(tag).items()}
        elif tag == Base.ImageResources and isinstance(source[tag], bytes):
            kept[tag] = without_thumbnail_resources(source[tag])
        else:
            kept[tag] = _text_as_bytes(source[tag])
    return kept


def _text_as_bytes(value: object) -> object:
    """Returns text that is not ASCII as the bytes that Pillow read; it would write ? for each letter."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def without_thumbnail_resources(resources: bytes) -> bytes:
    """Returns the image resources of Photoshop without thumbnails, which show the image as it was."""
    kept, place = b"", 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        (kind,) = struct.unpack_from(">H", resources, place + 4)
        start = place + 6 + (resources[place + 6] + 2) // 2 * 2
        end = start + 4 + int.from_bytes(resources[start : start + 4])
        end += end % 2
        if kind not in _THUMBNAIL_RESOURCES:
            kept += resources[place:end]
        place = end
    return kept + resources[place:]


def upright(exif: bytes, *, sideways: bool) -> bytes:
    """Sets the orientation to upright by changing single bytes, so that no offset within EXIF changes."""
    if len(exif) < 8:
        return exif
    order = "<" if exif.startswith(b"II") else ">"
    patched = bytearray(exif)
    main = _entries(exif, order, struct.unpack_from(f"{order}I", exif, 4)[0])
    _turn(patched, order, main, 1)
    if sideways:
        _exchange(patched, main, Base.XResolution, Base.YResolution)
        if (entry := main.get(IFD.Exif)) is not None:
            further = _entries(exif, order, struct.unpack_from(f"{order}I", exif, entry + 8)[0])
            _exchange(patched, further, Base.ExifImageWidth, Base.ExifImageHeight)
    return bytes(patched)


def _turn(exif: bytearray, order: str, entries: dict[int, int], orientation: int) -> None:
    """Sets the orientation of a directory, if it says one."""
    if (entry := entries.get(Base.Orientation)) is not None:
        kind = struct.unpack_from(f"{order}H", exif, entry + 2)[0]
        struct.pack_into(order + ("I" if kind == 4 else "H"), exif, entry + 8, orientation)


def _entries(exif: bytes, order: str, start: int) -> dict[int, int]:
    """Returns the place of each entry of a directory by its tag, for entries that lie within EXIF."""
    if start + 2 > len(exif):
        return {}
    count = struct.unpack_from(f"{order}H", exif, start)[0]
    places = range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12)
    return {struct.unpack_from(f"{order}H", exif, place)[0]: place for place in places}


def _exchange(exif: bytearray, entries: dict[int, int], one: int, other: int) -> None:
    """Exchanges the types and values of two tags, if both are there."""
    if one in entries and other in entries:
        first, second = (slice(entries[tag] + 2, entries[tag] + 12) for tag in (one, other))
        exif[first], exif[second] = exif[second], exif[first]


def with_thumbnail_of(exif: bytes, pixels: Pixels) -> bytes:
    """Returns EXIF whose thumbnail shows an image, if it has one at all.

    The new thumbnail is a JPEG that is about as large as the one before, and turned as the image is. One that
    is not a JPEG, or does not fit, is removed.

    Args:
        exif: EXIF as a TIFF directory.
        pixels: (H, W, C), uint8 or uint16: the image.
    """
    order = "<" if exif.startswith(b"II") else ">"
    try:
        pointer = _pointer_to_thumbnail(exif, order)
        (start,) = struct.unpack_from(f"{order}I", exif, pointer)
        entries = _entries(exif, order, start) if start else {}
    except struct.error:
        return exif  # it is cut off
    if not entries:
        return exif
    place, length = (_number(exif, order, entries.get(tag)) for tag in (_JPEG_PLACE, _JPEG_LENGTH))
    before = exif[place : place + length]
    patched = bytearray(exif)
    apart = all(place >= end or place + length <= begin for begin, end in _directories(exif, order, start))
    if length and apart and place + length <= len(exif) and (side := _longest_side(before)):
        for quality in _THUMBNAIL_QUALITIES:
            thumbnail = _jpeg(pixels, min(side, LARGEST_THUMBNAIL), quality)
            whole = _put(patched, thumbnail, place, length)
            if len(whole) <= max(len(exif), MOST_EXIF_BYTES):
                new_place = place if len(thumbnail) <= length else len(whole) - len(thumbnail)
                struct.pack_into(f"{order}HII", whole, entries[_JPEG_PLACE] + 2, 4, 1, new_place)
                struct.pack_into(f"{order}HII", whole, entries[_JPEG_LENGTH] + 2, 4, 1, len(thumbnail))
                _turn(whole, order, entries, _orientation_of(exif, order))
                return bytes(whole)
    struct.pack_into(f"{order}I", patched, pointer, 0)
    if apart:  # else it is damaged
        patched[place : place + len(before)] = bytes(len(before))
    return bytes(patched)


def _orientation_of(exif: bytes, order: str) -> int:
    main = _entries(exif, order, struct.unpack_from(f"{order}I", exif, 4)[0])
    orientation = _number(exif, order, main.get(Base.Orientation))
    return orientation if orientation in range(1, 9) else 1


def without_thumbnails(xmp: bytes) -> bytes:
    """Returns XMP without its thumbnails, which show the image as it was."""
    return _XMP_THUMBNAILS.sub(b"", xmp)


def _pointer_to_thumbnail(exif: bytes, order: str) -> int:
    """Returns where the place of the second directory stands, which describes the thumbnail."""
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    return int(start) + 2 + 12 * int(count)


def _directories(exif: bytes, order: str, thumbnail: int) -> list[tuple[int, int]]:
    """Returns begin and end of the head and the two directories of EXIF."""
    places = (struct.unpack_from(f"{order}I", exif, 4)[0], thumbnail)
    counts = [struct.unpack_from(f"{order}H", exif, place)[0] for place in places]
    return [(0, 8), *((place, place + 6 + 12 * count) for place, count in zip(places, counts, strict=True))]


def _number(exif: bytes, order: str, entry: int | None) -> int:
    if entry is None:
        return 0
    kind = struct.unpack_from(f"{order}H", exif, entry + 2)[0]
    return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)[0])


def _longest_side(jpeg: bytes) -> int:
    """Returns the larger of width and height of a thumbnail in pixels; 0 if it is no JPEG."""
    with suppress(Exception), JpegImageFile(io.BytesIO(jpeg)) as image:
        return max(image.size)
    return 0


def _jpeg(pixels: Pixels, side: int, quality: int) -> bytes:
    step = max(1, max(pixels.shape[:2]) // (4 * side))  # enough pixels for a good thumbnail
    some = pixels[::step, ::step]
    some = in_8_bits(some) if some.dtype == np.uint16 else some
    colours = some[..., 0] if some.shape[-1] < 3 else some[..., :3]
    image = Image.fromarray(np.ascontiguousarray(colours))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _put(exif: bytearray, thumbnail: bytes, place: int, length: int) -> bytearray:
    """Returns EXIF with a thumbnail in the place of another of that length, or at the end if it is longer."""
    if len(thumbnail) <= length:
        return exif[:place] + thumbnail.ljust(length, b"\0") + exif[place + length :]
    if not any(exif[place + length :]):
        return exif[:place] + thumbnail
    return exif[:place] + bytes(length) + exif[place + length :] + thumbnail
