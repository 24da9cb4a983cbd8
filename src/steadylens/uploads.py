"""Bytes that a stranger sent -> an image; what cannot be one is refused with an HTTP status.

The content decides what an image is, not its declared type. Only formats whose readers are compiled code
are read: one whose reader is a Python loop could hold up everybody. Nothing is written to disk.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images import to_rgb

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""The image formats that are read, as Pillow calls them."""

MEDIA_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/webp")
"""The content types of a body that is an image."""

FORM_TYPE = "multipart/form-data"
"""The content type of a body that is a form with an image as its only file."""

MOST_SCANS = 100
"""Scans of a progressive JPEG: common ones have ten, and each costs a pass over all pixels."""

LARGEST_TILE = 2**20
"""Pixels of a tile of a TIFF; it is decoded whole even if the image is smaller."""

_BOUNDARY = re.compile(
    r';\s*boundary=(?:"([ !#-\[\]-~]{1,70})"|([!#-:<-~]{1,70}))\s*(?:;|$)', re.ASCII | re.IGNORECASE
)
_TILE_SIDES = (322, 323)
_SHORT, _LONG = 3, 4


class Refusal(Exception):  # noqa: N818 - an answer, no failure of ours
    """A request that gets no answer but the reason.

    Args:
        status: The HTTP status, 4xx or 503.
        reason: The value, the rule and the way out; it is sent to the client.
        closing: Whether the connection must close, because the rest of the body is not read.
    """

    def __init__(self, status: int, reason: str, *, closing: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.closing = status, reason, closing


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadLimits:
    """How large an upload may be, and how slow.

    Attributes:
        bytes: Size of a request's body.
        pixels: Width times height of an image; known, and checked, before anything is decoded.
        seconds: Time from a request's headers to the end of its body.

    Raises:
        SettingError: If a limit is not a positive, finite number.
    """

    bytes: int = 2**23
    pixels: int = 2**21
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("bytes", "pixels", "seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}, a limit must be positive and finite")


def checked_type(headers: Mapping[str, str]) -> str:
    """Returns the content type of a request, one of `MEDIA_TYPES` or `FORM_TYPE`, with its parameters.

    Args:
        headers: The headers of the request; names are in lower case, or compared without regard to it.

    Raises:
        Refusal: 415 if it is another, or if the body is compressed once more.
    """
    declared, _, parameters = headers.get("content-type", "").partition(";")
    kind = declared.strip().lower()
    if kind not in (*MEDIA_TYPES, FORM_TYPE):
        raise Refusal(
            415,
            f"the content type is {kind[:80] or 'not given'}; send an image as "
            f"{', '.join(MEDIA_TYPES)}, or as the only file of {FORM_TYPE}",
            closing=True,
        )
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Refusal(415, f"the content encoding is {encoding}; send the image as it is", closing=True)
    return f"{kind};{parameters}"


def file_of_form(body: bytes, declared: str) -> bytes:
    """Returns the only file of a form (RFC 7578).

    Args:
        body: The body of the request.
        declared: Its content type, which names the boundary of the parts.

    Raises:
        Refusal: 400 if the form is cut off or damaged, or has no file or several.
    """
    found = _BOUNDARY.search(declared)
    if found is None:
        raise Refusal(400, "the form has no boundary of 1 to 70 ASCII characters; send an ordinary form")
    boundary = found[1] or found[2]
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if len(parts) < 2 or first or not parts[-1].startswith(b"--"):
        raise Refusal(400, "the form is cut off or does not fit its boundary; send it again")
    files = []
    for part in parts[:-1]:
        head, ended, content = part.partition(b"\r\n\r\n")
        if ended and b"; filename" in head:
            files.append(content)
    if len(files) != 1:
        raise Refusal(400, f"the form holds {len(files)} files; send exactly one image")
    return files[0]


def decode_image(content: bytes, *, most_pixels: int, size: int | None = None) -> Tensor:
    """Decodes an image as `read_image` reads a file: 8-bit RGB, turned as EXIF says, resized if asked.

    Args:
        content: The file's content, of one of `FORMATS`.
        most_pixels: Width times height that is refused if it is exceeded, before decoding.
        size: The height and width in pixels to resize to (antialiased bilinear), or None to leave the size.

    Returns:
        The image, uint8 (3, H, W).

    Raises:
        Refusal: 400 if there is nothing, 413 if the image is too large, 422 if it cannot be decoded.
    """
    if not content:
        raise Refusal(400, "the image is empty; send the content of an image file")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as opened:
            _check(opened, content, most_pixels)
            image = to_rgb(opened)
    except Refusal:
        raise
    except UnidentifiedImageError as error:
        raise Refusal(422, f"the content is no image of a known format, which are {_KNOWN}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refusal(413, f"the image has too many pixels; {most_pixels} are accepted") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        detail = f" ({error})" if isinstance(error, OSError) else ""
        raise Refusal(422, f"the image cannot be decoded{detail}; it is damaged or cut off") from error
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def encode_png(image: Tensor) -> bytes:
    """Returns an image, uint8 (3, H, W), as a PNG file; packed quickly rather than tightly."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


_KNOWN = ", ".join(FORMATS)


def _check(opened: Image.Image, content: bytes, most_pixels: int) -> None:
    if opened.width * opened.height > most_pixels:
        raise Refusal(
            413,
            f"the image has {opened.width}x{opened.height} pixels; {most_pixels} are accepted, "
            "send a smaller one",
        )
    if opened.mode == "F":
        raise Refusal(422, "the image holds floating-point values, whose range is unknown; send 8 or 16 bits")
    # Within a scan, 0xFF is followed by 0x00: what is counted are markers, and those of a thumbnail.
    if opened.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
        raise Refusal(422, f"the JPEG has more than {MOST_SCANS} scans; send a baseline JPEG")
    if opened.format == "TIFF" and (pixels := _pixels_of_a_tile(content)) > max(most_pixels, LARGEST_TILE):
        raise Refusal(413, f"the TIFF has tiles of {pixels} pixels; send one of smaller tiles, or of strips")


def _pixels_of_a_tile(content: bytes) -> int:
    """Returns what libtiff may take for a tile: of tags that stand twice, it heeds another than Pillow."""
    order = "<" if content.startswith(b"II") else ">"
    if content[2:4] != struct.pack(f"{order}H", 42):
        raise Refusal(422, "the TIFF is a BigTIFF or damaged; send an ordinary one")
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    sides = dict.fromkeys(_TILE_SIDES, 0)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        if tag in sides:
            (side,) = struct.unpack_from(order + {_SHORT: "H", _LONG: "I"}[kind], content, place + 8)
            sides[tag] = max(sides[tag], side)
    return math.prod(sides.values())
