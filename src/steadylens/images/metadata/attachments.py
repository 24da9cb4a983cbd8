"""What lies beside the picture in an image file and is not kept: videos, depth maps, layers, further images.

Programs put it into segments, chunks and tags of their own, or behind the picture. It belongs to the picture
as it was, or cannot be written again, so restored files do not hold it; here it is found, so that users hear
of it.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.images.decoding import ImageSource
from steadylens.images.headers import MOST_PAGES, PagePlace, TiffDirectory, jpeg_end, png_chunks, riff_chunks

FURTHER_IMAGES = "further images"

_KNOWN_SEGMENTS = (
    ("APP0", b"JFIF"), ("APP0", b"JFXX"), ("APP1", b"Exif\0\0"), ("APP1", b"http://ns.adobe.com/xap/1.0/\0"),
    ("APP2", b"ICC_PROFILE\0"), ("APP2", b"MPF\0"), ("APP12", b"Ducky"), ("APP13", b"Photoshop 3.0\0"),
    ("APP13", b"Adobe_CM"), ("APP14", b"Adobe"), ("COM", b""),
)  # fmt: skip
"""The segments of a JPEG that are kept, or say how it is stored."""

_SEGMENT_NAMES = (
    ("APP1", b"http://ns.adobe.com/xmp/extension/\0", "extended XMP, such as a depth map"),
    ("APP1", b"FLIR\0", "thermal data"),
    ("APP2", b"urn:iso:std:iso:ts:21496:-1\0", "a gain map's description"),
    ("APP11", b"JP", "content credentials (JUMBF)"),
)

_CLIPPING_PATHS = range(0x07D0, 0x0BB7)
"""The Photoshop resources that hold paths."""

KEPT_CHUNKS = frozenset(
    {b"cHRM", b"cICP", b"cLLI", b"gAMA", b"iTXt", b"mDCV", b"oFFs", b"pCAL", b"pHYs", b"sCAL", b"sRGB"}
    | {b"sTER", b"tEXt", b"zTXt"}
)
"""The chunks of a PNG that are kept as they are. Others are kept if their name says that they may be copied
though the pixels change."""

_PIXEL_CHUNKS = frozenset(
    {
        b"IHDR",
        b"PLTE",
        b"IDAT",
        b"IEND",
        b"tRNS",
        b"iCCP",
        b"eXIf",
        b"bKGD",
        b"hIST",
        b"sBIT",
        b"sPLT",
        b"tIME",
    }
    | {b"iDOT", b"acTL", b"fcTL", b"fdAT"}
)
"""The chunks that say how pixels are stored or shown, and those of the profile and of EXIF."""

_WEBP_CHUNKS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ANMF"})

_BITS = {
    "1": 1, "1;I": 1, "P;1": 1, "P;4": 4, "L": 8, "P": 8, "I;16B": 16, "BGR;15": 16, "BGR;16": 16, "RGB": 24,
    "BGR": 24, "BGRX": 32, "BGRA": 32, "BGAR": 32, "RGBX": 32, "XBGR": 32, "ABGR": 32,
}  # fmt: skip
"""How many bits a pixel of a bitmap or a portable map has, by Pillow's name of its layout."""

_TIFF_TAGS = {
    Base.SubIFDs: "images below its pages (SubIFDs), such as reduced ones",
    33628: "MetaMorph's data",
    33629: "MetaMorph's data",
    33630: "MetaMorph's data",
    33631: "MetaMorph's data",
    34412: "Zeiss LSM data",
    37724: "Photoshop layers",
    50740: "a camera's private data",
}
"""The tags that hold further images, or places in the file that change."""

_IMAGE_DEPTH = 32997

_XMP_PARTS = (
    b"http://ns.google.com/photos/1.0/container/", b"http://ns.google.com/photos/1.0/container/item/",
    b"http://ns.google.com/photos/1.0/depthmap/", b"http://ns.google.com/photos/1.0/image/",
    b"http://ns.google.com/photos/1.0/audio/", b"http://ns.google.com/photos/dd/1.0/",
    b"http://ns.adobe.com/hdr-gain-map/1.0/", b"http://ns.apple.com/HDRGainMap/1.0/",
    b"http://ns.apple.com/pixeldatainfo/1.0/",
)  # fmt: skip
"""The namespaces of XMP that describe further parts of a file."""

_XMP_NAMESPACE = re.compile(rb"\bxmlns:([\w.-]+)\s*=\s*[\"']([^\"']*)[\"']")

_XMP_ALONE = rb"GCamera:(?:MotionPhoto|MicroVideo)\w*|xmpNote:HasExtendedXMP"
"""Single properties that do so."""


def attachments_of(source: ImageSource, image: ImageFile) -> list[str]:
    """Returns what lies beside the picture in an opened file and is not kept, a phrase each.

    The pages of a TIFF are no attachments, since they can be kept; see `tiff_attachments`.

    Args:
        source: The file.
        image: The same file, opened.
    """
    if isinstance(image, TiffImageFile):
        return []
    with source.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        match image:
            case JpegImageFile():
                found, end = list(_beside_jpeg(image)), jpeg_end(file)
            case PngImageFile():
                chunks = list(png_chunks(file))
                found = [f"the data of a program ({_ascii(kind)})" for kind, _ in chunks if _is_foreign(kind)]
                end = 8 + sum(length + 12 for _, length in chunks)
            case WebPImageFile():
                chunks = list(riff_chunks(file))
                found = [
                    f"the data of a program ({_ascii(kind)})"
                    for kind, _ in chunks
                    if kind not in _WEBP_CHUNKS
                ]
                end = 12 + sum(8 + length + length % 2 for _, length in chunks)
            case BmpImageFile() if _has_profile(file):
                found, end = ["a colour profile"], size
            case BmpImageFile() | PpmImageFile():
                found, end = [], _end_of_pixels(image) or size
            case _:
                found, end = [], size
        file.seek(end)
        found += _behind(file.read())
    if getattr(image, "n_frames", 1) > 1:
        found.insert(0, FURTHER_IMAGES)
    return list(dict.fromkeys(found))


def tiff_attachments(source: ImageSource, image: TiffImageFile, pages: list[TiffDirectory]) -> list[str]:
    """Returns what a TIFF holds beside its pages and is not kept, a phrase each.

    Args:
        source: The file.
        image: The file, opened at its first page.
        pages: All of its directories.
    """
    found = [text for tag, text in _TIFF_TAGS.items() if any(tag in page.numbers for page in pages)]
    if any(is_mask(page) for page in pages):
        found.append("a transparency mask")
    if any(_extra_samples(page) > 1 for page in pages) or _drops_channel(image):
        found.append("channels beside the colours")
    if images_in_one(image, pages) > len(pages) and not planes_of(source, image, pages):
        found.insert(0, FURTHER_IMAGES)
    return list(dict.fromkeys(found))


def planes_of(source: ImageSource, image: TiffImageFile, directories: list[TiffDirectory]) -> list[PagePlace]:
    """Returns the pages of a TIFF that has one directory for all of them, or nothing if it has no such pages.

    ImageJ writes stacks of more than 4 GB so, MetaMorph all stacks, and tifffile if it is asked to:
    uncompressed, one behind the other.
    """
    tags, count = image.tag_v2, images_in_one(image, directories)
    if (
        len(directories) > 1
        or not 1 < count <= MOST_PAGES
        or _IMAGE_DEPTH in tags
        or tags.get(Base.Compression, 1) != 1
    ):
        return []
    starts, lengths = (_as_tuple(tags.get(tag, ())) for tag in (Base.StripOffsets, Base.StripByteCounts))
    size = sum(lengths)
    behind = all(
        start + length == following
        for start, length, following in zip(starts, lengths, starts[1:], strict=False)
    )
    with source.open("rb") as file:
        fits = bool(starts) and starts[0] + count * size <= file.seek(0, os.SEEK_END)
    if not (behind and fits and size and len(starts) == len(lengths)):
        return []
    return [PagePlace(directory=directories[0].start, shift=size * number) for number in range(count)]


def _as_tuple(values: Any) -> tuple[int, ...]:
    return values if isinstance(values, tuple) else (values,)


def is_mask(page: TiffDirectory) -> bool:
    """Says whether a page of a TIFF is the transparency mask of another."""
    return bool(page.numbers.get(Base.NewSubfileType, (1, 0))[1] & 4)


def without_parts(xmp: bytes) -> bytes:
    """Returns XMP without what it says of further parts of the file."""
    known = {prefix for prefix, space in _XMP_NAMESPACE.findall(xmp) if space in _XMP_PARTS}
    names = rb"|".join([_XMP_ALONE, *(re.escape(prefix) + rb":[\w.-]+" for prefix in sorted(known))])
    xmp = re.sub(rb"\s+(?:%s)\s*=\s*(?:\"[^\"]*\"|'[^']*')" % names, b"", xmp)
    return re.sub(rb"<(%s)(?:\s[^<>]*)?(?:/>|(?<!/)>.*?</\1\s*>)" % names, b"", xmp, flags=re.DOTALL)


def may_be_copied(kind: bytes) -> bool:
    """Says whether a chunk of a PNG is kept: it is known, or its name says that it suits other pixels."""
    return kind in KEPT_CHUNKS or (kind not in _PIXEL_CHUNKS and kind[:1].islower() and kind[3:].islower())


def _is_foreign(kind: bytes) -> bool:
    return kind not in _PIXEL_CHUNKS and not may_be_copied(kind)


def _beside_jpeg(image: JpegImageFile) -> Iterator[str]:
    if "mp" in image.info:
        yield FURTHER_IMAGES
    for name, content in image.applist:
        if (
            any(name == known and content.startswith(start) for known, start in _KNOWN_SEGMENTS)
            or not content
        ):
            continue
        named = (text for known, start, text in _SEGMENT_NAMES if name == known and content.startswith(start))
        yield next(named, f"the data of a program ({name} {_ascii(content[:16].partition(bytes(1))[0])})")
    if any(kind in _CLIPPING_PATHS for kind in image.info.get("photoshop", ())):
        yield "clipping paths"


def _behind(content: bytes) -> list[str]:
    """Returns what lies behind the picture; bytes that only fill the file up are nothing."""
    if not content.strip(b"\0\xff \r\n"):
        return []
    if b"ftyp" in content[: 2**16] or b"\0\0ftyp" in content:
        images = [FURTHER_IMAGES] if content.startswith(b"\xff\xd8") else []
        return [*images, f"a video ({_megabytes(len(content))} behind the picture)"]
    if content.startswith((b"\xff\xd8\xff", b"P4", b"P5", b"P6")):
        return [FURTHER_IMAGES]
    return [f"data behind the picture ({_megabytes(len(content))})"]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def _ascii(content: bytes) -> str:
    return "".join(chr(each) if 32 < each < 127 else "?" for each in content) or "unnamed"


def _end_of_pixels(image: BmpImageFile | PpmImageFile) -> int:
    """Returns the place behind the pixels of a bitmap or a binary portable map; 0 if it is not known."""
    tile = image.tile[0]
    raw, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    bits = _BITS.get(str(raw), 0)
    if tile.codec_name == "ppm" and others:
        bits = (3 if image.mode == "RGB" else 1) * (16 if others[0] > 255 else 8)
    elif tile.codec_name != "raw":
        return 0  # pixels as text, or run lengths
    line = math.ceil(image.width * bits / 8)
    line += -line % 4 if isinstance(image, BmpImageFile) else 0
    return int(tile.offset) + line * image.height if bits else 0


def _has_profile(bitmap: BinaryIO) -> bool:
    """Says whether a bitmap has a colour profile, which Pillow does not read."""
    bitmap.seek(14)
    header = bitmap.read(60)
    return int.from_bytes(header[:4], "little") >= 124 and header[56:] in (b"DEBM", b"KNIL")


def _extra_samples(page: TiffDirectory) -> int:
    return page.numbers.get(Base.ExtraSamples, (0, 0))[0]


def _drops_channel(image: TiffImageFile) -> bool:
    """Says whether a channel of the opened page is no colour and no alpha, so that it is not kept."""
    extra = image.tag_v2.get(Base.ExtraSamples, ())
    kinds = extra if isinstance(extra, tuple) else (extra,)
    return bool(kinds) and image.mode not in ("LA", "RGBA", "PA")


def images_in_one(image: TiffImageFile, pages: list[TiffDirectory]) -> int:
    """Returns how many images a TIFF says that it holds in its first directory; 1 if it says nothing."""
    numbers = pages[0].numbers
    count = max(numbers.get(33629, (1, 0))[0], numbers.get(_IMAGE_DEPTH, (1, 1))[1])
    description = str(image.tag_v2.get(Base.ImageDescription, ""))
    if description.startswith("ImageJ=") and (
        images := re.search(r"^images=(\d+)", description, re.MULTILINE)
    ):
        count = max(count, int(images[1]))
    if description.startswith('{"shape":'):
        with suppress(ValueError, TypeError, KeyError, ZeroDivisionError):
            told = json.loads(description)
            values = math.prod(pages[0].size) * numbers.get(Base.SamplesPerPixel, (1, 1))[1]
            count = max(count, math.prod(told["shape"]) // values if told.get("truncated") else 1)
    return count
