"""Other libraries read from PNG files of any depth and number of channels what was written.

Files keep every bit and all metadata that their format can store, as other readers confirm.
"""

import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, IptcImagePlugin

from steadylens.errors import ImageError, StorageError
from steadylens.images.encoding import write_png
from steadylens.images.pixels import STRIP_BYTES
from steadylens.images.reading import ImageContent, Metadata, read_image_file
from steadylens.images.writing import WRITABLE_FORMATS, write_image_file
from tests.inference.inspecting.scenes import levels, noise, scene


def png(pixels: NDArray[Any], metadata: Metadata | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, pixels, metadata or Metadata())
    return file.getvalue()


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.integers(1, 4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    smooth=st.booleans(),
)
def test_opencv_reads_what_was_written(
    height: int, width: int, channels: int, dtype: Any, smooth: bool
) -> None:
    pixels = (
        np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    )
    if smooth:  # so that other filters serve best
        pixels = np.cumsum(pixels // 60, axis=int(width % 2)).astype(dtype)
    read = cv2.imdecode(np.frombuffer(png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    expected = {1: pixels[..., 0], 2: pixels[..., [0, 0, 0, -1]], 3: pixels[..., ::-1]}.get(channels)
    if channels == 4:
        expected = pixels[..., [2, 1, 0, 3]]
    assert expected is not None
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_of_several_strips_is_read_by_others(dtype: Any) -> None:
    pixels = random(dtype, 3, (1100, 1500))
    pixels[200:] //= 3  # so that other filters serve best
    pixels = np.cumsum(pixels, axis=0, dtype=dtype)
    read = cv2.imdecode(np.frombuffer(png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read[..., ::-1], pixels)


def by_pillow(pixels: NDArray[Any]) -> int:
    """Returns how many bytes the PNG file has that Pillow writes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return len(buffer.getvalue())


def test_a_smooth_image_packs_about_as_well_as_by_pillow() -> None:
    rows, columns = np.mgrid[:200, :200]
    pixels = np.dstack([rows, columns, (rows + columns) // 2]).astype(np.uint8)
    assert len(png(pixels)) < 1.2 * by_pillow(pixels)


@pytest.mark.parametrize("sigma_grey", [0, 1, 3, 10, 50])
def test_a_photograph_packs_about_as_well_as_by_pillow_whatever_its_noise(sigma_grey: float) -> None:
    pixels = levels(scene(500, 700) + noise((500, 700, 3), sigma_grey))
    assert len(png(pixels)) < 1.1 * by_pillow(pixels)


@pytest.mark.parametrize(
    ("dtype", "channels", "size"), [(np.uint16, 4, (1, 70_000)), (np.uint8, 3, (3, 100_000))]
)
def test_a_row_may_be_longer_than_what_is_filtered_at_a_time(
    dtype: Any, channels: int, size: tuple[int, int]
) -> None:
    pixels = random(dtype, channels, size)
    read = cv2.imdecode(np.frombuffer(png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read[..., [2, 1, 0, 3][:channels]], pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_repeats_is_packed_far_smaller(channels: int) -> None:
    tile = random(np.uint8, channels, (16, 40))
    assert len(png(np.tile(tile, (30, 20, 1)))) < 0.1 * 600 * tile.size


def test_an_image_of_which_every_part_differs_packs_about_as_well_as_by_pillow() -> None:
    flat = np.kron(random(np.uint8, 3, (12, 15)), np.ones((40, 40, 1), np.uint8))
    pixels = np.vstack([flat, levels(scene(480, 600)), random(np.uint8, 3, (480, 600))])
    assert len(png(pixels)) < 1.1 * by_pillow(pixels)


def test_the_metadata_is_read_by_pillow() -> None:
    metadata = Metadata(
        icc_profile=b"profile", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>", dpi=(300, 150),
        chunks=((b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Title\0a sign"), (b"sRGB", b"\0")),
    )  # fmt: skip
    with Image.open(io.BytesIO(png(np.zeros((2, 2, 3), np.uint8), metadata))) as image:
        image.load()
        assert image.info["icc_profile"] == b"profile"
        assert image.info["exif"] == b"Exif\0\0" + metadata.exif
        assert image.info["xmp"] == b"<x/>"
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["Title"] == "a sign"
        assert "srgb" not in image.info  # it must not stand beside a profile


RANDOM = np.random.default_rng(0)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif() -> bytes:
    """Returns EXIF with parts: text, fractions, bytes, and where the image was taken."""
    tags = Image.Exif()
    tags[0x010F], tags[0x0131], tags[0x9C9B] = "maker", "program", b"t\0i\0"
    tags.get_ifd(0x8769).update({0x829A: 0.004, 0x9003: "2024:01:02 03:04:05", 0x9286: b"ASCII\0\0\0word"})
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.5)})
    tags[0x8769], tags[0x8825] = tags.get_ifd(0x8769), tags.get_ifd(0x8825)
    return tags.tobytes().removeprefix(b"Exif\0\0")


KNOWN = Metadata(icc_profile=PROFILE, exif=exif(), xmp=b"<x:xmpmeta/>", dpi=(300, 300))


def content(pixels: NDArray[Any], name: str, metadata: Metadata = KNOWN) -> ImageContent:
    return ImageContent(pixels=pixels, format=name, lossless=True, metadata=metadata)


def random(dtype: Any, channels: int, size: tuple[int, int] = (11, 13)) -> NDArray[Any]:
    return RANDOM.integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


@given(
    name=st.sampled_from(["PNG", "TIFF", "BMP", "PPM", "WEBP"]),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    channels=st.integers(1, 4),
    deep=st.booleans(),
)
def test_lossless_formats_give_back_every_bit(
    tmp_path_factory: pytest.TempPathFactory, name: str, size: tuple[int, int], channels: int, deep: bool
) -> None:
    kind = WRITABLE_FORMATS[name]
    channels = channels if kind.alpha else {2: 1, 4: 3}.get(channels, channels)
    pixels = random(np.uint16 if deep and kind.bits_16 else np.uint8, channels, size)
    path = tmp_path_factory.mktemp("a") / f"a{kind.suffix}"
    assert write_image_file(path, content(pixels, name, Metadata())) == ()
    read = read_image_file(path)
    becomes_colour = name == "WEBP" or (channels == 2 and (name == "BMP" or (name == "TIFF" and deep)))
    if becomes_colour and channels < 3:
        pixels = pixels[..., [0, 0, 0, 1][: channels + 2]]
    if name == "WEBP" and channels == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
    assert read.pixels.dtype == pixels.dtype
    assert np.array_equal(read.pixels, pixels)
    assert (read.format, read.lossless) == (name, True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_tiff_of_several_strips_is_read_by_tifffile(tmp_path: Path, dtype: Any, channels: int) -> None:
    width = 3 * STRIP_BYTES // 2000 // channels // np.dtype(dtype).itemsize
    pixels = random(dtype, channels, (1000, width))
    write_image_file(tmp_path / "a.tiff", content(pixels, "TIFF"))
    if channels == 2 and dtype == np.uint16:  # as RGB, since nearly nothing reads 16-bit grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert len(file.pages[0].dataoffsets) > 1
        assert np.array_equal(file.asarray().reshape(pixels.shape), pixels)


@pytest.mark.parametrize("name", ["TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_read_by_opencv(tmp_path: Path, name: str, channels: int) -> None:
    pixels = random(np.uint16, channels)
    path = tmp_path / f"a{WRITABLE_FORMATS[name].suffix}"
    write_image_file(path, content(pixels, name, Metadata()))
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read.reshape(pixels.shape), pixels[..., ::-1])


def test_a_bitmap_with_alpha_is_read_by_pillow(tmp_path: Path) -> None:
    pixels = random(np.uint8, 4)
    write_image_file(tmp_path / "a.bmp", content(pixels, "BMP"))
    with Image.open(tmp_path / "a.bmp") as image:
        assert np.array_equal(np.array(image), pixels)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_lossy_formats_are_near(tmp_path: Path, name: str) -> None:
    rows, columns = np.mgrid[:64, :64] * 4
    pixels = np.dstack([rows, columns, 255 - rows]).astype(np.uint8)
    path = tmp_path / "a"
    write_image_file(path, replace(content(pixels, name), lossless=False))
    read = read_image_file(path)
    assert not read.lossless
    assert abs(read.pixels.astype(int) - pixels).mean() < 1


@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
def test_a_lower_quality_is_smaller_and_as_pillow_writes_it(tmp_path: Path, name: str) -> None:
    pixels = np.asarray(Image.effect_noise((64, 64), 60).convert("RGB"))
    sizes = []
    for quality in (None, 95, 60, 20):
        content = ImageContent(
            pixels=pixels, format=name, lossless=False, metadata=Metadata(), quality=quality
        )
        write_image_file(tmp_path / "a", content)
        sizes.append((tmp_path / "a").stat().st_size)
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, quality=20, subsampling=0, exact=True)
    with Image.open(file) as expected, Image.open(tmp_path / "a") as written:
        assert np.array_equal(np.asarray(written), np.asarray(expected))


def test_a_webp_of_exact_pixels_is_lossless_unless_a_quality_is_asked_for(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    content = ImageContent(pixels=pixels, format="WEBP", lossless=True, metadata=Metadata())
    for quality, exact in ((None, True), (90, False)):
        write_image_file(tmp_path / "a.webp", replace(content, quality=quality))
        assert np.array_equal(read_image_file(tmp_path / "a.webp").pixels, pixels) is exact


def test_jpeg_keeps_its_colours_at_full_resolution(tmp_path: Path) -> None:
    write_image_file(tmp_path / "a.jpg", content(random(np.uint8, 3), "JPEG"))
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "BMP"])
def test_16_bits_are_rounded_where_8_are_all_and_that_is_said(tmp_path: Path, name: str) -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    (note,) = write_image_file(tmp_path / "a", content(pixels, name, Metadata()))
    assert note == f"{name} holds 8 bits, so 16 bits were rounded"
    read = read_image_file(tmp_path / "a").pixels[..., 0]
    expected = np.rint(pixels[..., 0] / 257)
    assert abs(read - expected).max() <= (3 if name == "JPEG" else 0)


def said(path: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Returns what Pillow reads: the tags of EXIF, and those of its parts."""
    with Image.open(path) as image:
        tags = image.getexif()
        return dict(tags), dict(tags.get_ifd(0x8769)), dict(tags.get_ifd(0x8825))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_exif_xmp_and_resolution_are_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a"
    write_image_file(path, content(random(np.uint8, 3), name))
    read = read_image_file(path).metadata
    assert read.icc_profile == PROFILE
    assert read.xmp == KNOWN.xmp
    if name != "WEBP":  # which has none of its own
        assert read.dpi == pytest.approx((300, 300), abs=0.02)
    if name != "TIFF":  # whose EXIF is spread over its own tags
        assert read.exif == KNOWN.exif
    main, camera, place = said(path)
    assert (main[0x010F], main[0x0131], main[0x9C9B]) == ("maker", "program", b"t\0i\0")
    assert float(camera[0x829A]) == pytest.approx(0.004)
    assert (camera[0x9003], camera[0x9286]) == ("2024:01:02 03:04:05", b"ASCII\0\0\0word")
    assert (place[1], [float(part) for part in place[2]]) == ("N", [48, 51, 29.5])


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("before", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_metadata_survive_from_any_format_to_any_other(tmp_path: Path, before: str, name: str) -> None:
    write_image_file(tmp_path / "a", content(random(np.uint8, 3), before))
    first = read_image_file(tmp_path / "a")
    write_image_file(tmp_path / "b", replace(first, format=name))
    write_image_file(tmp_path / "c", content(random(np.uint8, 3), name))
    again = read_image_file(tmp_path / "b").metadata
    assert (again.icc_profile, again.xmp) == (PROFILE, KNOWN.xmp)
    (main, camera, place), (wanted, wanted_camera, wanted_place) = said(tmp_path / "b"), said(tmp_path / "c")
    for tag in (0x010F, 0x0131, 0x9C9B):
        assert main[tag] == wanted[tag]
    assert camera == wanted_camera
    assert place == wanted_place


def test_what_png_alone_says_is_kept(tmp_path: Path) -> None:
    known = Metadata(
        chunks=((b"gAMA", b"\0\0\xb1\x8f"), (b"tEXt", b"Title\0a sign"), (b"pHYs", b"\0\0\0\1" * 2 + b"\0"))
    )
    write_image_file(tmp_path / "a.png", content(random(np.uint8, 3), "PNG", known))
    assert read_image_file(tmp_path / "a.png").metadata.chunks == known.chunks


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("JPEG", (2, 2, 4), "has alpha, which JPEG does not hold; choose PNG"),
        ("PPM", (2, 2, 2), "has alpha, which PPM does not hold"),
        ("WEBP", (1, 16_384, 3), "16,384x1 pixels, WEBP holds 16,383 a side; choose PNG"),
        ("JPEG", (65_501, 1, 1), "JPEG holds 65,500 a side"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        write_image_file(tmp_path / "a", content(np.zeros(shape, np.uint8), name))
    assert list(tmp_path.iterdir()) == []


def test_metadata_too_long_for_a_format_are_refused(tmp_path: Path) -> None:
    known = Metadata(exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0" + bytes(70_000))
    with pytest.raises(ImageError, match=r"cannot be written as JPEG.*too long; choose another format"):
        write_image_file(tmp_path / "a", content(random(np.uint8, 3), "JPEG", known))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another place"):
        write_image_file(tmp_path / "file" / "a.png", content(random(np.uint8, 3), "PNG"))


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("PNG", ()),
        ("TIFF", ("texts and gamma as PNG does",)),
        ("WEBP", ("a resolution", "texts and gamma as PNG does")),
        ("BMP", ("a colour profile", "EXIF", "XMP", "texts and gamma as PNG does")),
        ("PPM", ("a colour profile", "EXIF", "XMP", "a resolution", "texts and gamma as PNG does")),
    ],
)
def test_what_a_format_does_not_say_is_told(tmp_path: Path, name: str, lost: tuple[str, ...]) -> None:
    known = replace(KNOWN, chunks=((b"tEXt", b"Title\0a word"),))
    notes = write_image_file(tmp_path / "a", content(random(np.uint8, 3), name, known))
    assert notes == ((f"{name} does not hold {', '.join(lost)}, left out",) if lost else ())
    assert write_image_file(tmp_path / "b", content(random(np.uint8, 3), name, Metadata())) == ()


GREY_PROFILE = bytes(16) + b"GRAY" + bytes(108)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("PNG", 1), ("PNG", 2), ("JPEG", 1), ("WEBP", 1), ("WEBP", 2), ("TIFF", 1), ("TIFF", 2)],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_for_grey_stays_where_grey_does(
    tmp_path: Path, name: str, channels: int, dtype: Any
) -> None:
    known = Metadata(icc_profile=GREY_PROFILE)
    notes = write_image_file(tmp_path / "a", content(random(dtype, channels), name, known))
    found = read_image_file(tmp_path / "a")
    grey = found.pixels.shape[-1] < 3
    assert grey == (name != "WEBP" and not (name == "TIFF" and channels == 2 and dtype == np.uint16))
    assert found.metadata.icc_profile == (GREY_PROFILE if grey else b"")
    assert any("so its colour profile was left out" in note for note in notes) != grey


def test_a_jpeg_keeps_its_comment_and_its_captions(tmp_path: Path) -> None:
    caption = b"\x1c\x02\x78\0\x06a word"
    known = Metadata(comment=b"said", captions=caption)
    assert write_image_file(tmp_path / "a.jpg", content(random(np.uint8, 3), "JPEG", known)) == ()
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["comment"] == b"said"
        told = IptcImagePlugin.getiptcinfo(image)
    assert told == {(2, 120): b"a word"}
    assert read_image_file(tmp_path / "a.jpg").metadata == known
    (note,) = write_image_file(tmp_path / "a.png", content(random(np.uint8, 3), "PNG", known))
    assert note == "PNG does not hold a comment, IPTC, left out"
