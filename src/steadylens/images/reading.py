"""Reads an image file as a whole: all bits of its pixels, and its metadata.

The EXIF orientation is applied to the pixels, and the EXIF that is kept says upright, so that no program
turns them again. If a file holds several images, the first is read, or the asked page of a TIFF.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.ExifTags import IFD, Base
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from steadylens.images.decoding import MOST_PIXELS, READABLE_FORMATS, ImageSource, opened
from steadylens.images.headers import PagePlace, png_chunks, tiff_directories
from steadylens.images.metadata.attachments import (
    FURTHER_IMAGES,
    attachments_of,
    is_mask,
    may_be_copied,
    planes_of,
    tiff_attachments,
    without_parts,
)
from steadylens.images.metadata.exif import (
    ABOUT_PIXELS,
    EXIF_KEYWORDS,
    exif_in_text,
    is_exif,
    tiff_tags,
    upright,
    without_pixels,
    without_thumbnail_resources,
    without_thumbnails,
)
from steadylens.images.pixels import Pixels, read_pixels

SIDEWAYS = frozenset({5, 6, 7, 8})
"""The EXIF orientations that exchange width and height."""

FIRST_OF_SEVERAL = "of several images in the file, the first is restored"
"""The note on a file of which only the first image is read."""

LAYOUT_LEFT_OUT = "its description of how images are stored was left out, as it is no longer true"
"""The note on a description that was removed because it would no longer be true."""

SWAPPED_LEFT_OUT = "labels and overlays of ImageJ were left out, as files above 4 GB have another byte order"
"""The note on tags that were removed because their numbers would be read in the wrong order."""

_LAYOUT = re.compile(
    rb"\s*(ImageJ=|SCIFIO=|\{\"shape\":|shape=\(|<OME\b|<\?xml[^>]*>\s*(<!--.*?-->\s*)*<OME\b)", re.DOTALL
)
"""How descriptions begin that say how the images of a TIFF are stored: ImageJ's, tifffile's and OME's."""

_IMAGEJ_TAGS = frozenset({50838, 50839})
"""What ImageJ adds to its description: labels, overlays, lookup tables."""

_LAYOUT_TAGS = frozenset({Base.ImageDescription, *_IMAGEJ_TAGS})

_PAGE_TAGS = frozenset({Base.NewSubfileType, Base.PageNumber})
"""The tags about a page among others, which only TIFF has."""

_EXIF_TEXTS = tuple(f"{keyword}\0".encode() for keyword in EXIF_KEYWORDS)

_IPTC = 0x0404
"""The Photoshop resource that holds IPTC."""

_XMP_KEYWORD = b"XML:com.adobe.xmp\0"

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=\"|>))[1-8]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """The metadata of an image file. What a file does not have is empty here.

    Attributes:
        icc_profile: The colour profile.
        exif: EXIF as a TIFF directory, without the prefix that JPEG has.
        xmp: The XMP packet.
        dpi: Dots per inch, horizontal and vertical, or None.
        chunks: Chunks of a PNG file that no other format has (gamma, texts), as type and content.
        comment: The comment of a JPEG file.
        captions: IPTC of a JPEG file.
        tags: Tags of a TIFF file as tag, type and value. EXIF holds them, too, but not their types.
        big_endian: Whether a TIFF file stores numbers with the highest byte first. Tags of other programs may
            hold numbers in that order.
    """

    icc_profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    comment: bytes = b""
    captions: bytes = b""
    tags: tuple[tuple[int, int, Any], ...] = ()
    big_endian: bool = False

    @property
    def describes_layout(self) -> bool:
        """Whether a description says how the images of a TIFF are stored, as ImageJ, tifffile and OME do."""
        return _LAYOUT.match(self._description) is not None

    @property
    def describes_imagej(self) -> bool:
        """Whether ImageJ wrote the description."""
        return self._description.startswith(b"ImageJ=")

    @property
    def _description(self) -> bytes:
        return _bytes({tag: value for tag, _, value in self.tags}.get(Base.ImageDescription))


def without_layout(known: Metadata) -> Metadata:
    """Returns metadata without a description of how images are stored, which they no longer are."""
    if not known.describes_layout:
        return known
    exif = tiff_tags(known.exif)
    for tag in _LAYOUT_TAGS & set(exif):
        del exif[tag]
    tags = tuple(each for each in known.tags if each[0] not in _LAYOUT_TAGS)
    return replace(known, exif=exif.tobytes() if len(exif) else b"", tags=tags)


def without_swapped(known: Metadata) -> Metadata:
    """Returns metadata without the tags in which ImageJ keeps numbers in the byte order of the file."""
    return replace(known, tags=tuple(each for each in known.tags if each[0] not in _IMAGEJ_TAGS))


def orientation_of(image: ImageFile) -> int:
    """Returns the EXIF orientation of a decoded image, 1 to 8; 1 for a TIFF, which Pillow turns itself."""
    orientation = image.getexif().get(Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def metadata_of(path: ImageSource, image: ImageFile, *, sideways: bool) -> Metadata:
    """Returns the metadata of a decoded file, with the orientation set to upright.

    Args:
        path: The file.
        image: The same file, opened and decoded.
        sideways: Whether its orientation exchanges width and height; the resolutions are exchanged then, too.
    """
    turned = orientation_of(image) != 1
    if isinstance(image, TiffImageFile):
        exif = _exif_of_tiff(image)
    else:
        exif = _bytes(image.info.get("exif")) or exif_in_text(image.info)
    exif, xmp = exif.removeprefix(b"Exif\0\0"), without_thumbnails(_bytes(image.info.get("xmp")))
    chunks, dpi = _chunks(path) if image.format == "PNG" else (), _resolution(image)
    if turned:
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
        chunks = tuple(each for each in chunks if not each[1].startswith(b"Raw profile type xmp"))
    if exif:
        chunks = tuple(each for each in chunks if not each[1].startswith(_EXIF_TEXTS))
    if turned or sideways:
        exif = upright(exif, sideways=sideways)
    if sideways:
        dpi = dpi and (dpi[1], dpi[0])
        chunks = tuple((kind, _lying(content) if kind == b"pHYs" else content) for kind, content in chunks)
    of_jpeg = image.info if isinstance(image, JpegImageFile) else {}
    applist = image.applist if isinstance(image, JpegImageFile) else []
    comments = [text for name, text in applist if name == "COM"]
    tiff = image.tag_v2 if isinstance(image, TiffImageFile) else None
    return Metadata(
        icc_profile=_bytes(image.info.get("icc_profile")),
        exif=exif,
        xmp=xmp,
        dpi=dpi,
        chunks=chunks,
        comment=b"\n".join(comments),
        captions=_bytes(of_jpeg.get("photoshop", {}).get(_IPTC)),
        tags=() if tiff is None else tuple(_typed_tags(tiff, sideways=sideways)),
        big_endian=tiff is not None and tiff.prefix == b"MM",
    )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _resolution(image: ImageFile) -> tuple[float, float] | None:
    try:
        across, down = map(float, image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _exif_of_tiff(image: TiffImageFile) -> bytes:
    """Returns the tags of a TIFF file that other formats keep in EXIF."""
    kept = without_pixels(image.getexif())
    return kept.tobytes() if len(kept) else b""


def _typed_tags(tags: ImageFileDirectory_v2, *, sideways: bool) -> Iterator[tuple[int, int, Any]]:
    """Yields the tags of a TIFF that are kept, without those that refer to other directories."""
    left_out = {
        IFD.Exif,
        IFD.GPSInfo,
        IFD.Interop,
        *((Base.XResolution, Base.YResolution) if sideways else ()),
    }
    for tag in sorted(set(tags) - (ABOUT_PIXELS - _PAGE_TAGS) - left_out):
        value = tags[tag]
        if tag == Base.ImageResources:
            value = without_thumbnail_resources(_bytes(value))
        yield tag, tags.tagtype[tag], value.encode("latin-1") if isinstance(value, str) else value


def _lying(physical: bytes) -> bytes:
    """Returns the content of a pHYs chunk (pixels per metre) with its two resolutions exchanged."""
    return physical[4:8] + physical[:4] + physical[8:]


def _chunks(path: ImageSource) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    with path.open("rb") as file:
        for kind, length in png_chunks(file):
            if may_be_copied(kind):
                content, check = file.read(length), file.read(4)
                whole = check == struct.pack(">I", zlib.crc32(kind + content))
                if whole and not content.startswith(_XMP_KEYWORD):
                    found.append((kind, content))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContent:
    """The content of an image file.

    Attributes:
        pixels: (H, W, C), uint8 or uint16: grey or RGB, with alpha last if there are two or four channels.
        format: PNG, JPEG, WEBP, TIFF, BMP or PPM.
        lossless: Whether the file stores the exact pixel values.
        metadata: Colour profile, EXIF and the like.
        left_out: What lies beside the picture in the file and is not included, a phrase each.
        pages: The places of all pages of a TIFF; one or none if it is not a stack.
        relaid: Whether the file stores the pixels otherwise, so that a description of it is no longer true:
            turned, in other channels or bits, or among images that are not included.
        notes: What reading converted or left out, a phrase each.
        quality: The quality to write JPEG and WebP at, 1 to 100, or None for the usual one.
    """

    pixels: Pixels
    format: str
    lossless: bool
    metadata: Metadata
    left_out: tuple[str, ...] = ()
    pages: tuple[PagePlace, ...] = ()
    relaid: bool = False
    notes: tuple[str, ...] = ()
    quality: int | None = None


def read_image_file(
    path: Path, *, most_pixels: int = MOST_PIXELS, page: PagePlace | None = None
) -> ImageContent:
    """Reads an image file with all of its bits and metadata.

    8 and 16 bits, grey and RGB, and alpha are kept. Palettes, CMYK and black and white are converted to 8-bit
    RGB or grey, with a note. Call it from one thread at a time: it changes Python's warning filters while it
    runs.

    Args:
        path: A PNG, JPEG, WebP, TIFF, BMP or PPM file; its content decides, not its name.
        most_pixels: Larger images (width times height) are refused before anything is decoded.
        page: The place of a page of a TIFF, or None for the first image.

    Raises:
        ImageError: If the file is missing, damaged, too large, or its pixel values cannot be kept.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = read_image_content(path, most_pixels=most_pixels, page=page)
    warned = {" ".join(str(each.message).split()) for each in caught}
    return replace(content, notes=(*content.notes, *sorted(warned)))


def read_image_content(
    path: ImageSource,
    *,
    most_pixels: int = MOST_PIXELS,
    way_out: str = "raise the limit if you trust the file",
    formats: Collection[str] = READABLE_FORMATS,
    page: PagePlace | None = None,
) -> ImageContent:
    """Reads an image file, on disk or in memory, as `read_image_file` does, but lets warnings of Pillow pass.

    Several threads may call it at a time.

    Args:
        path: The file.
        most_pixels: Larger images (width times height) are refused before anything is decoded.
        way_out: What the user can do about an image that is too large, for the error message.
        formats: Which of `READABLE_FORMATS` are accepted.
        page: The place of a page of a TIFF, or None for the first image.

    Raises:
        ImageError: If the file is missing, damaged, too large, or its pixel values cannot be kept.
    """
    with opened(path, most_pixels=most_pixels, way_out=way_out, formats=formats, page=page) as image:
        # Pillow forgets the orientation of a TIFF once it has turned the pixels.
        of_tiff = image.tag_v2.get(Base.Orientation, 1) if isinstance(image, TiffImageFile) else 1
        pages, left_out = _beside(path, image) if page is None else ((), [])
        stored = _stored_shape(image) if isinstance(image, TiffImageFile) else None
        pixels, notes = read_pixels(path, image, page)
        if len(pages) > 1 or FURTHER_IMAGES in left_out:
            notes.append(FIRST_OF_SEVERAL)
        if others := [each for each in left_out if each != FURTHER_IMAGES]:
            notes.append(f"left out, since only the picture is restored: {', '.join(others)}")
        sideways = of_tiff in SIDEWAYS or orientation_of(image) in SIDEWAYS
        metadata = metadata_of(path, image, sideways=sideways)
        if metadata.exif and not is_exif(metadata.exif):
            metadata = replace(metadata, exif=b"")
            notes.append("its EXIF is damaged and was left out")
        if image.mode == "CMYK":
            metadata = replace(metadata, icc_profile=b"")
        if page is not None and page.shift:
            metadata = without_layout(metadata)  # it stands on the first page
        if left_out:
            metadata = replace(metadata, xmp=without_parts(metadata.xmp))
        pixels = _turned(pixels, orientation_of(image))
        return ImageContent(
            pixels=pixels,
            format=image.format or "PPM",
            lossless=_is_lossless(path, image),
            metadata=metadata,
            left_out=tuple(left_out),
            pages=tuple(pages),
            relaid=stored not in (None, (*pixels.shape, 8 * pixels.itemsize))
            or of_tiff in range(2, 9)
            or FURTHER_IMAGES in left_out
            or (any(each.shift for each in pages) and not metadata.describes_imagej),
            notes=tuple(notes),
        )


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _beside(path: ImageSource, image: ImageFile) -> tuple[list[PagePlace], list[str]]:
    """Returns the pages of a TIFF, without masks, and what a file holds beside its picture or its pages."""
    if not isinstance(image, TiffImageFile):
        return [], attachments_of(path, image)
    with path.open("rb") as file:
        directories = list(tiff_directories(file))
    pages = [PagePlace(directory=each.start) for each in directories if not is_mask(each)]
    return planes_of(path, image, directories) or pages, tiff_attachments(path, image, directories)


def _stored_shape(image: TiffImageFile) -> tuple[int, int, int, int]:
    """Returns height, width, channels and bits of a page as stored; no channels if they lie apart."""
    tags = image.tag_v2
    channels = tags.get(Base.SamplesPerPixel, 1)
    apart = channels > 1 and tags.get(Base.PlanarConfiguration) == 2
    bits = max(tags.get(Base.BitsPerSample, (1,)))
    return tags[Base.ImageLength], tags[Base.ImageWidth], 0 if apart else channels, bits


def _is_lossless(path: ImageSource, image: ImageFile) -> bool:
    """Says whether a file stores exact pixel values; in a WebP file, the type of the pixel chunk tells."""
    if isinstance(image, WebPImageFile):
        with path.open("rb") as file:
            content = file.read()
        place = 12
        while (kind := content[place : place + 4]) not in (b"VP8L", b"VP8 ", b""):
            size = int.from_bytes(content[place + 4 : place + 8], "little")
            place += 16 + 8 if kind == b"ANMF" else 8 + size + size % 2
        return kind == b"VP8L"
    return not isinstance(image, JpegImageFile)
