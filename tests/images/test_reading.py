"""Metadata are read from every format, and their orientation says upright afterwards.

Files of every format are read with all of their bits, as other libraries read them.
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from steadylens.errors import ImageError
from steadylens.images.decoding import ImageBytes, opened
from steadylens.images.encoding import PNG_SIGNATURE
from steadylens.images.metadata.exif import tiff_tags, upright
from steadylens.images.reading import (
    ImageContent,
    Metadata,
    metadata_of,
    orientation_of,
    read_image_content,
    read_image_file,
)
from steadylens.images.tensors import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


XMP = b'<x:xmpmeta tiff:Orientation="6"/>'


def read(path: Path, *, sideways: bool = False) -> Metadata:
    with opened(path) as image:
        image.load()
        return metadata_of(path, image, sideways=sideways)


def segment(kind: int, content: bytes) -> bytes:
    """Returns the segment of a JPEG file that holds a resource of Photoshop."""
    resource = b"8BIM" + struct.pack(">HHI", kind, 0, len(content)) + content
    return b"\xff\xed" + struct.pack(">H", len(resource) + 16) + b"Photoshop 3.0\0" + resource


def exif(order: str, kind: int, orientation: int) -> bytes:
    """Returns EXIF of two tags, the maker's notes after the directory, in a byte order."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    value = struct.pack(
        order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation])
    )
    entries = struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    entries += struct.pack(f"{order}HHII", 0x927C, 7, 9, 38)
    return head + struct.pack(f"{order}H", 2) + entries + bytes(4) + b"the notes"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_only_the_orientation_changes_in_exif(tmp_path: Path, suffix: str, order: str, kind: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0" + exif(order, kind, 6))
    assert read(path).exif == exif(order, kind, 1)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_exif_that_turns_nothing_stays_byte_for_byte(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=b"Exif\0\0" + exif("<", 3, orientation))
    with opened(tmp_path / "a.png") as image:
        image.load()
        assert orientation_of(image) == 1
    assert read(tmp_path / "a.png").exif == exif("<", 3, orientation)


def test_an_orientation_in_xmp_counts_and_is_setupright(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", xmp=XMP)
    with opened(tmp_path / "a.jpg") as image:
        image.load()
        assert orientation_of(image) == 6
    assert read(tmp_path / "a.jpg").xmp == XMP.replace(b"6", b"1")


def test_a_file_that_says_nothing_has_no_metadata(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png") == Metadata()


def test_a_damaged_chunk_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(72, 72))
    content = bytearray((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.png").write_bytes(content)
    assert [kind for kind, _ in read(tmp_path / "b.png").chunks] == [b"pHYs"]
    with opened(tmp_path / "a.png") as image:
        image.load()
        content[content.index(b"pHYs") + 4] ^= 1
        (tmp_path / "a.png").write_bytes(content)
        assert metadata_of(tmp_path / "a.png", image, sideways=False).chunks == ()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("sideways", [False, True])
def test_a_turn_that_exchanges_the_sides_exchanges_what_is_said_of_them(
    tmp_path: Path, suffix: str, *, sideways: bool
) -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x011A], tags[0x011B] = 6, 72.0, 144.0
    tags.get_ifd(0x8769).update({0xA002: 8, 0xA003: 6})
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path, exif=tags, dpi=(72, 144))
    found, kept = read(path, sideways=sideways), Image.Exif()
    kept.load(found.exif)
    across, down = (144, 72) if sideways else (72, 144)
    assert found.dpi == pytest.approx((across, down), abs=0.02)
    assert (kept[0x0112], kept[0x011A], kept[0x011B]) == (1, across, down)
    part = kept.get_ifd(0x8769)
    assert (part[0xA002], part[0xA003]) == ((6, 8) if sideways else (8, 6))
    if suffix == "png":
        ((_, physical),) = found.chunks
        dots = [round(each / 0.0254) for each in (across, down)]
        assert physical == struct.pack(">IIB", *dots, 1)


@pytest.mark.parametrize("pointer", [0, 7, 5000, 2**32 - 1])
def test_exif_that_points_nowhere_costs_nothing(tmp_path: Path, pointer: int) -> None:
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x8769, 4, 1, pointer)
    whole = b"II" + struct.pack("<HIH", 42, 8, 2) + tags + bytes(4)
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + whole)
    found = read(tmp_path / "a.jpg", sideways=True).exif
    assert (len(found), found[18]) == (len(whole), 1)


def test_exif_that_is_cut_off_keeps_its_length() -> None:
    tags = struct.pack("<HHII", 0x011A, 5, 1, 40) + struct.pack("<HHII", 0x011B, 5, 1, 48)
    whole = b"II" + struct.pack("<HIH", 42, 8, 2) + tags
    for length in range(len(whole)):
        assert len(upright(whole[:length], sideways=True)) == length
    swapped = upright(whole, sideways=True)
    assert struct.unpack_from("<I", swapped, 18)[0] == 48


def test_a_jpeg_tells_its_comment_and_its_captions(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", comment=b"a word", extra=segment(0x0404, b"IPTC"))
    found = read(tmp_path / "a.jpg")
    assert (found.comment, found.captions) == (b"a word", b"IPTC")
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", extra=segment(0x03ED, b"a resolution"))
    assert read(tmp_path / "a.jpg").captions == b""


def test_tags_about_the_pixels_of_another_file_are_left_out() -> None:
    tags = Image.Exif()
    tags[0x0100], tags[0x0103], tags[0x010F] = 640, 6, "maker"
    assert dict(tiff_tags(tags.tobytes())) == {0x010F: "maker"}


RANDOM = np.random.default_rng(0)


DEEP = RANDOM.integers(0, 65536, (9, 14, 4), dtype=np.uint16)


PLAIN = RANDOM.integers(0, 256, (9, 14, 4), dtype=np.uint8)


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def interlaced_png(pixels: NDArray[Any]) -> bytes:
    """Returns a PNG file in the seven passes of Adam7, for others to read."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, 8 * pixels.itemsize, kind, 0, 0, 1)
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    lines = [
        b"\0" + line.tobytes()
        for top, left, down, across in PASSES
        for line in big[top::down, left::across]
        if line.size
    ]
    return (
        PNG_SIGNATURE
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


def saved(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def written_by_opencv(path: Path, pixels: NDArray[Any], *options: int) -> Path:
    order = [2, 1, 0, 3][: pixels.shape[-1]] if pixels.shape[-1] > 1 else [0]
    assert cv2.imwrite(str(path), pixels[..., order], options)
    return path


def same(content: ImageContent, pixels: NDArray[Any]) -> bool:
    return content.pixels.dtype == pixels.dtype and np.array_equal(content.pixels, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "ppm", "webp"])
def test_8_bits_are_read_as_they_were_written(tmp_path: Path, suffix: str, channels: int) -> None:
    if (suffix, channels) in {("bmp", 2), ("bmp", 4), ("ppm", 2), ("ppm", 4), ("webp", 1), ("webp", 2)}:
        channels = 3
    pixels = PLAIN[..., :channels]
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", pixels[..., 0] if channels == 1 else pixels, **options)
    content = read_image_file(path)
    assert same(content, pixels)
    assert (content.format.lower(), content.lossless, content.notes) == (suffix, True, ())


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_lossy_files_are_read_as_pillow_does_and_known_for_it(tmp_path: Path, suffix: str, name: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", PLAIN[..., :3])
    content = read_image_file(path)
    with Image.open(path) as image:
        assert same(content, np.array(image))
    assert (content.format, content.lossless) == (name, False)


def test_a_lossless_webp_is_known_behind_its_metadata(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.webp", PLAIN, lossless=True, exact=True, icc_profile=b"0" * 301)
    assert read_image_file(path).lossless


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PLAIN[..., :3], format="TIFF")
    assert read_image_file(path).format == "TIFF"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm", "jpg", "webp"])
def test_a_file_in_memory_is_read_as_one_on_disk(tmp_path: Path, suffix: str, dtype: Any) -> None:
    if dtype is np.uint16 and suffix in ("jpg", "webp"):
        dtype = np.uint8
    pixels: NDArray[Any] = (DEEP >> (8 if dtype is np.uint8 else 0)).astype(dtype)[
        ..., : 4 if suffix == "png" else 3
    ]
    path = written_by_opencv(tmp_path / f"a.{suffix}", pixels)
    if suffix in ("jpg", "webp"):
        with Image.open(path) as image:
            image.save(path, exif=b"Exif\0\0" + exif("<", 3, 6), icc_profile=b"0" * 301)
    on_disk = read_image_file(path)
    in_memory = read_image_content(ImageBytes(content=path.read_bytes()))
    assert same(in_memory, on_disk.pixels)
    assert in_memory.metadata == on_disk.metadata
    assert (in_memory.format, in_memory.lossless) == (on_disk.format, on_disk.lossless)


def test_what_is_wrong_in_memory_is_told_by_its_name() -> None:
    for content, formats, reason in ((b"text", ("PNG", "JPEG"), "known format: PNG or JPEG"), (b"", (), "")):
        with pytest.raises(ImageError, match=f"^upload is (empty|not an image of a {reason})"):
            read_image_content(ImageBytes(content=content, name="upload"), formats=formats or ("PNG", "TIFF"))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_read_as_opencv_wrote_them(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = DEEP[..., :channels]
    assert same(read_image_file(written_by_opencv(tmp_path / f"a.{suffix}", pixels)), pixels)


def test_16_bits_of_a_portable_map_are_read_as_opencv_wrote_them(tmp_path: Path) -> None:
    for channels, name in ((1, "a.pgm"), (3, "a.ppm")):
        pixels = DEEP[..., :channels]
        assert same(read_image_file(written_by_opencv(tmp_path / name, pixels)), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_16_bits_of_any_tiff_are_read_as_tifffile_wrote_them(
    tmp_path: Path, channels: int, byteorder: Any, compression: str | None, tile: tuple[int, int] | None
) -> None:
    pixels = np.tile(DEEP, (3, 3, 1))[..., :channels]
    path = tmp_path / "a.tiff"
    photometric = "minisblack" if channels == 1 else "rgb"
    extra = ["unassalpha"] if channels == 4 else None
    planes: Any = "contig" if channels > 1 else None
    tifffile.imwrite(
        path, pixels if channels > 1 else pixels[..., 0], byteorder=byteorder, compression=compression,
        photometric=photometric, extrasamples=extra, tile=tile, planarconfig=planes,
    )  # fmt: skip
    assert same(read_image_file(path), pixels)


def test_grey_whose_zero_is_white_comes_with_zero_as_black(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", DEEP[..., 0], photometric="miniswhite")
    assert same(read_image_file(tmp_path / "a.tiff"), 65535 - DEEP[..., :1])


def test_16_bit_grey_with_alpha_and_interlacing_are_read(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        (tmp_path / "a.png").write_bytes(interlaced_png(DEEP[..., :channels]))
        assert same(read_image_file(tmp_path / "a.png"), DEEP[..., :channels])


@pytest.mark.parametrize(
    ("highest", "dtype"), [(1, np.uint8), (100, np.uint8), (1023, np.uint16), (65534, np.uint16)]
)
@pytest.mark.parametrize("kind", [5, 6])
def test_a_portable_map_is_scaled_to_8_or_16_bits(
    tmp_path: Path, kind: int, highest: int, dtype: Any
) -> None:
    pixels = RANDOM.integers(0, highest + 1, (5, 6, 1 if kind == 5 else 3), dtype=np.uint16)
    stored = pixels.astype(np.uint8 if highest < 256 else ">u2")
    (tmp_path / "a.pnm").write_bytes(b"P%d\n# a word\n6 5\n%d\n" % (kind, highest) + stored.tobytes())
    content = read_image_file(tmp_path / "a.pnm")
    assert same(content, np.floor(pixels * float(np.iinfo(dtype).max) / highest + 0.5).astype(dtype))
    assert content.notes == (f"pixel values of 0 to {highest} became 0 to {np.iinfo(dtype).max}",)


def palette(path: Path) -> Path:
    Image.fromarray(PLAIN[..., :3]).quantize(8).save(path)
    return path


def clear_palette(path: Path) -> Path:
    Image.fromarray(PLAIN[..., :3]).quantize(8).save(path, transparency=bytes([0, 50, 255]))
    return path


def bilevel(path: Path) -> Path:
    Image.fromarray(PLAIN[..., 0] > 127).save(path)
    return path


def clear_colour(path: Path) -> Path:
    return saved(path, PLAIN[..., :3], transparency=tuple(PLAIN[0, 0, :3].tolist()))


@pytest.mark.parametrize(
    ("make", "mode", "note"),
    [
        (palette, "RGB", "its palette became RGB"),
        (clear_palette, "RGBA", "its palette became RGBA"),
        (bilevel, "L", "black and white became 8-bit grey"),
        (clear_colour, "RGBA", "its transparent colour became an alpha channel"),
    ],
)
def test_what_is_converted_is_said(
    tmp_path: Path, make: Callable[[Path], Path], mode: str, note: str
) -> None:
    path = make(tmp_path / "a.png")
    content = read_image_file(path)
    with Image.open(path) as image:
        assert same(content, np.array(image.convert(mode)).reshape(9, 14, -1))
    assert content.notes == (note,)


def test_cmyk_becomes_rgb_and_loses_a_profile_that_would_no_longer_fit(tmp_path: Path) -> None:
    Image.fromarray(PLAIN[..., :3]).convert("CMYK").save(tmp_path / "a.tiff", icc_profile=b"of ink")
    content = read_image_file(tmp_path / "a.tiff")
    assert same(content, PLAIN[..., :3])
    assert content.metadata.icc_profile == b""
    assert content.notes == ("CMYK became RGB, without a colour profile",)


def test_a_16_bit_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    grey = DEEP[..., 0].copy()
    grey[2, 3] = 4660
    image = Image.fromarray(grey)
    image.save(tmp_path / "a.png", transparency=4660)
    content = read_image_file(tmp_path / "a.png")
    assert same(content, np.dstack([grey, np.where(grey == 4660, 0, 65535).astype(np.uint16)]))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_of_several_images_the_first_is_read_and_that_is_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    content = read_image_file(tmp_path / f"a.{suffix}")
    assert (content.pixels[..., :3] == [255, 0, 0]).all()
    assert "of several images in the file, the first is restored" in content.notes


def test_a_picture_format_of_phones_is_a_jpeg_of_several_images(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    content = read_image_file(tmp_path / "a.jpg")
    assert content.format == "JPEG"
    assert content.notes == ("of several images in the file, the first is restored",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_come_upright_and_say_so(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    path = saved(tmp_path / f"a.{suffix}", PLAIN[..., :3], exif=exif)
    flat = saved(tmp_path / f"flat.{suffix}", PLAIN[..., :3])
    content, stored = read_image_file(path), read_image_file(flat).pixels
    mirrored = stored.transpose(1, 0, 2)
    upright = {
        1: stored, 2: np.fliplr(stored), 3: np.rot90(stored, 2), 4: np.flipud(stored), 5: mirrored,
        6: np.rot90(stored, -1), 7: np.rot90(mirrored, 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    assert same(content, upright)
    kept = Image.Exif()
    kept.load(content.metadata.exif)
    assert kept.get(0x0112, 1) == 1
    assert kept[0x010F] == "maker"


@pytest.mark.parametrize("pixels", [PLAIN[..., :1], PLAIN[..., :3], DEEP[..., :1], DEEP[..., :3]])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_plain_pixels_of_a_tiff_come_upright_too(
    tmp_path: Path, pixels: NDArray[Any], orientation: int
) -> None:
    tags = [(0x0112, 3, 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", pixels.squeeze(), extratags=tags, resolution=(72, 144), resolutionunit=2
    )
    content = read_image_file(tmp_path / "a.tif")
    upright = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    upright = upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright
    assert same(content, upright[::-1] if orientation in (3, 4, 7, 8) else upright)
    assert content.metadata.dpi == pytest.approx((144, 72) if orientation > 4 else (72, 144))
    rgb = read_image(tmp_path / "a.tif").permute(1, 2, 0).numpy()
    assert np.abs(rgb - content.pixels / (257 if pixels.itemsize == 2 else 1)).max() <= 1


def test_an_orientation_that_is_no_number_turns_nothing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLAIN[..., 0], extratags=[(0x0112, "s", 0, "upright", True)])
    assert same(read_image_file(tmp_path / "a.tif"), PLAIN[..., :1])


def floats(path: Path) -> None:
    Image.fromarray(PLAIN[..., 0].astype(np.float32)).save(path)


def whole_numbers(path: Path) -> None:
    Image.fromarray(PLAIN[..., 0].astype(np.int32)).save(path)


def separate_planes(path: Path) -> None:
    tifffile.imwrite(path, np.moveaxis(DEEP[..., :3], -1, 0), photometric="rgb", planarconfig="separate")


def deep_ink(path: Path) -> None:
    tifffile.imwrite(path, DEEP, photometric="separated")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            floats,
            "holds pixel values in 32-bit floating point, and does not say which of them are black and white",
        ),
        (whole_numbers, "holds pixel values in 32-bit signed integers"),
        (separate_planes, "separate planes, which are not read"),
        (deep_ink, "16-bit pixels as CMYK;16L, which is not read; use RGB"),
        (lambda path: path.write_bytes(b"P3 1 1 1000 5 5 5"), "pixel values of 0 to 1000 as text"),
        (lambda path: path.write_bytes(b"P5 2 2 1000 "), "is cut off"),
        (lambda path: path.write_bytes(b"P5 1 1 100 \xff"), "pixel values above its maximum, 100"),
    ],
)
def test_pixel_values_that_cannot_be_kept_are_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=message):
        read_image_file(tmp_path / "a.tiff")


def test_more_pixels_than_asked_for_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PLAIN[..., :3])
    path.write_bytes(path.read_bytes()[:60])  # there is nothing to decode
    with pytest.raises(ImageError, match=r"14x9 pixels.*at most 0\.0001 are read, raise the limit"):
        read_image_file(path, most_pixels=100)


def test_what_pillow_warns_of_is_noted(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", PLAIN[..., :3], exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0")
    (note,) = read_image_file(path).notes
    assert "EXIF" in note
