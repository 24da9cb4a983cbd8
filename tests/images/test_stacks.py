"""Stacks come out as they went in: pages, tags and what programs say of them, as tifffile reads it.

What is no longer true of a file is left out. Real writers make the files: tifffile and Pillow.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from steadylens.errors import ImageError, ImageSizeError
from steadylens.images import encoding
from steadylens.images.decoding import pixel_count
from steadylens.images.reading import FIRST_OF_SEVERAL, LAYOUT_LEFT_OUT, ImageContent, read_image_file
from steadylens.images.writing import encode_pages, write_image_file

DICE = np.random.default_rng(0)

GREY = DICE.integers(0, 65536, (6, 20, 30), dtype=np.uint16)

COLOURS = DICE.integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)


def pages_of(path: Path) -> Iterator[ImageContent]:
    first = read_image_file(path)
    yield first
    for page in first.pages[1:]:
        yield read_image_file(path, page=page)


def copied(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Writes all pages of a file into another, which is returned with the notes."""
    target = path.with_name("copy.tif")
    return target, encode_pages(target, pages_of(path))


def described(path: Path) -> str | None:
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags.get(270)
        return None if tag is None else str(tag.value)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("stack", [GREY, COLOURS], ids=["grey", "colours"])
def test_a_stack_of_imagej_keeps_its_pages_and_all_that_imagej_says(
    tmp_path: Path, stack: NDArray[Any], byteorder: Any
) -> None:
    metadata: dict[str, Any] = {
        "axes": "TZYX" if stack.ndim == 3 else "ZYXS", "spacing": 0.5, "unit": "\\u00B5m", "finterval": 2.0,
        "Labels": [f"page {number}" for number in range(len(stack))], "Overlays": [b"overlay" * 9],
    }  # fmt: skip
    shaped = stack.reshape(2, 3, 20, 30) if stack.ndim == 3 else stack
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, shaped, imagej=True, byteorder=byteorder, resolution=(5.1, 5.1), metadata=metadata)
    target, notes = copied(path)
    assert notes == ()
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(target) as after:
        assert after.is_imagej
        assert after.byteorder == byteorder
        assert np.array_equal(after.asarray(), shaped)
        assert after.series[0].axes == before.series[0].axes
        assert after.imagej_metadata == before.imagej_metadata
        for tag in (270, 282, 283, 296, 50838, 50839):
            one, other = (file.pages.first.tags[tag] for file in (before, after))
            assert (one.dtype, one.value) == (other.dtype, other.value)
        # ImageJ reads the pages from behind the first, and only if they are not compressed.
        offsets = [page.dataoffsets[0] for page in after.pages]
        sizes = [sum(page.databytecounts) for page in after.pages]
        assert offsets == [offsets[0] + sizes[0] * number for number in range(len(stack))]
        assert after.pages.first.compression == 1


def test_a_stack_of_ome_keeps_its_description_to_the_letter(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"axes": "TCYX", "PhysicalSizeX": 0.3, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", GREY.reshape(3, 2, 20, 30), metadata=metadata, compression="zlib"
    )
    target, notes = copied(tmp_path / "a.ome.tif")
    assert notes == ()
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as before, tifffile.TiffFile(target) as after:
        assert after.is_ome
        assert after.ome_metadata == before.ome_metadata
        assert "µm" in str(after.ome_metadata)
        assert after.series[0].axes == "TCYX"
        assert np.array_equal(after.asarray(), GREY.reshape(3, 2, 20, 30))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_shaped_stack_of_tifffile_keeps_its_shape_and_the_tags_of_each_page(
    tmp_path: Path, bigtiff: bool
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=bigtiff) as file:
        file.write(GREY.reshape(2, 3, 20, 30), photometric="minisblack", metadata={"axes": "TZYX"})
        for number, page in enumerate(COLOURS):
            tags = [(65000, "d", 2, (number / 3, 1e-9), True), (65001, "s", 0, f"stage {number}", True)]
            file.write(
                page[: 20 - number], subfiletype=2, extratags=tags, datetime=f"2026:01:0{number + 1} 10:00:00"
            )
    target, notes = copied(tmp_path / "a.tif")
    assert notes == ()
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(target) as after:
        assert [series.shape for series in after.series] == [series.shape for series in before.series]
        assert np.array_equal(after.series[0].asarray(), GREY.reshape(2, 3, 20, 30))
        for one, other in zip(before.pages, after.pages, strict=True):
            assert isinstance(one, tifffile.TiffPage)
            assert isinstance(other, tifffile.TiffPage)
            assert np.array_equal(one.asarray(), other.asarray())
            for tag in (254, 270, 306, 65000, 65001):
                assert one.tags.valueof(tag) == other.tags.valueof(tag)


def test_pages_of_pillow_with_profiles_and_resolutions_keep_their_own(tmp_path: Path) -> None:
    images = [Image.fromarray(page) for page in COLOURS[:3]]
    images[0].encoderinfo = {"dpi": (72, 72), "icc_profile": b"first profile"}
    images[1].encoderinfo = {"dpi": (300, 300)}
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:], icc_profile=b"of all")
    before = list(pages_of(tmp_path / "a.tif"))
    target, _ = copied(tmp_path / "a.tif")
    after = list(pages_of(target))
    assert len(after) == 3
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.metadata.icc_profile, one.metadata.dpi) == (
            other.metadata.icc_profile,
            other.metadata.dpi,
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_each_page_is_read_whatever_its_size_and_kind(
    tmp_path: Path, channels: int, dtype: Any, compression: str | None
) -> None:
    options: dict[str, Any] = {"photometric": "rgb"} if channels > 1 else {}
    options |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    pixels = [DICE.integers(0, 255, (20 + side, 30, channels), dtype=dtype) for side in range(4)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for each in pixels:
            file.write(each.squeeze(), compression=compression, metadata=None, **options)
    found = list(pages_of(tmp_path / "a.tif"))
    assert all(np.array_equal(one.pixels, other) for one, other in zip(found, pixels, strict=True))
    assert pixel_count(tmp_path / "a.tif") == sum(each.shape[0] * 30 for each in pixels)
    target, _ = copied(tmp_path / "a.tif")
    with tifffile.TiffFile(target) as file:
        assert all(
            np.array_equal(page.asarray(), each.squeeze())
            for page, each in zip(file.pages, pixels, strict=True)
        )


def turned(path: Path) -> None:
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 6, False)])


def on_its_head(path: Path) -> None:
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 3, False)])


def of_one_bit(path: Path) -> None:
    tifffile.imwrite(path, GREY > 30_000, photometric="minisblack")


def in_planes(path: Path) -> None:
    tifffile.imwrite(path, np.moveaxis(COLOURS, -1, 1), photometric="rgb", planarconfig="separate")


def with_a_mask(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(GREY[0])
        file.write(GREY[1] > 9, subfiletype=4, photometric=4, metadata=None)


@pytest.mark.parametrize("make", [turned, on_its_head, of_one_bit, in_planes])
def test_a_description_that_is_no_longer_true_is_left_out(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.tif")
    assert '"shape"' in str(described(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        count = len(file.pages)
    target, notes = copied(tmp_path / "a.tif")
    assert LAYOUT_LEFT_OUT in notes
    assert described(target) is None
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == count
        assert [page.asarray().size > 0 for page in file.pages] == [True] * count


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}], ids=str)
@pytest.mark.parametrize("name", ["TIFF", "PNG"])
def test_of_a_stack_whose_first_page_alone_is_kept_no_description_stays(
    tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, metadata={"axes": "ZYX"}, **options)
    content = read_image_file(tmp_path / "a.tif")
    assert content.notes == (FIRST_OF_SEVERAL,)
    notes = write_image_file(tmp_path / "b", replace(content, format=name))
    assert notes == (LAYOUT_LEFT_OUT,)
    again = read_image_file(tmp_path / "b")
    assert b"20" not in again.metadata.exif.replace(b"2026", b"")
    if name == "TIFF":
        assert described(tmp_path / "b") is None
        assert np.array_equal(tifffile.imread(tmp_path / "b"), GREY[0])


def test_a_description_in_words_stays_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, description="Größe: two cells".encode(), metadata=None)
    content = read_image_file(tmp_path / "a.tif")
    assert write_image_file(tmp_path / "b.tif", content) == ()
    tag = "Größe: two cells".encode()
    assert tag in (tmp_path / "b.tif").read_bytes()


def stack_of_imagej(path: Path) -> None:
    tifffile.imwrite(path, GREY, metadata={"axes": "ZYX"}, imagej=True)


def with_a_tag(tag: int, path: Path) -> None:
    tifffile.imwrite(path, GREY[0], extratags=[(tag, "B", 4, b"data", True)])


def with_a_fourth_colour(path: Path) -> None:
    pixels = COLOURS[0][..., [0, 1, 2, 0]]
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])


@pytest.mark.parametrize(
    ("make", "left_out"),
    [
        (with_a_mask, "a transparency mask"),
        (stack_of_imagej, ""),
        (partial(with_a_tag, 37724), "Photoshop layers"),
        (partial(with_a_tag, 34412), "Zeiss LSM data"),
        (with_a_fourth_colour, "channels beside the colours"),
    ],
)  # fmt: skip
def test_what_is_no_page_is_told(tmp_path: Path, make: Any, left_out: str) -> None:
    make(tmp_path / "a.tif")
    content = read_image_file(tmp_path / "a.tif")
    assert content.left_out == ((left_out,) if left_out else ())
    if left_out:
        assert content.notes == (f"left out, since only the picture is restored: {left_out}",)
        target, _ = copied(tmp_path / "a.tif")
        assert read_image_file(target).left_out == ()
        assert len(list(pages_of(target))) == 1


def test_reduced_images_below_a_page_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(GREY[0], subifds=1, metadata={"axes": "YX"})
        file.write(GREY[0, ::2, ::2], subfiletype=1)
    (left_out,) = read_image_file(tmp_path / "a.ome.tif").left_out
    assert left_out == "images below its pages (SubIFDs), such as reduced ones"


def of_imagej_above_4_gb(path: Path) -> None:
    tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "ZYX", "Labels": list("abcdef")})
    with tifffile.TiffFile(path) as file:
        first, second = file.pages[0].offset, file.pages[1].offset
    content = bytearray(path.read_bytes())
    (count,) = struct.unpack_from("<H", content, first)
    place = first + 2 + 12 * count
    assert struct.unpack_from("<I", content, place)[0] == second
    content[place : place + 4] = bytes(4)  # as ImageJ writes stacks of more than 4 GB
    path.write_bytes(content)


def truncated(path: Path) -> None:
    tifffile.imwrite(path, GREY, metadata={"axes": "ZYX", "truncate": True}, truncate=True)


def of_colours_truncated(path: Path) -> None:
    tifffile.imwrite(path, COLOURS.astype(np.uint16) * 257, photometric="rgb", truncate=True)


@pytest.mark.parametrize("make", [of_imagej_above_4_gb, truncated, of_colours_truncated])
def test_pages_that_have_no_directory_of_their_own_are_kept(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1
        expected = file.asarray()
    assert read_image_file(tmp_path / "a.tif").left_out == ()
    target, notes = copied(tmp_path / "a.tif")
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == len(expected)
        assert np.array_equal(file.asarray(), expected)
        if make is of_imagej_above_4_gb:
            assert notes == ()
            assert file.imagej_metadata is not None
            assert file.imagej_metadata["Labels"] == list("abcdef")
        else:
            assert notes == (LAYOUT_LEFT_OUT,)


def test_pages_without_directories_that_are_cut_off_are_told(tmp_path: Path) -> None:
    of_imagej_above_4_gb(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content.replace(b"images=6", b"images=9"))
    found = read_image_file(tmp_path / "a.tif")
    assert found.left_out == ("further images",)
    assert found.notes == (FIRST_OF_SEVERAL,)
    write_image_file(tmp_path / "b.tif", found)
    assert described(tmp_path / "b.tif") is None


def test_a_file_above_4_gb_becomes_a_bigtiff_that_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_MOST_TIFF_BYTES", 100)
    exif = Image.Exif()
    exif[0x010F], exif[0x8769] = "maker", {0x9003: "2026:01:02 03:04:05"}
    for byteorder in ("<", ">"):
        tifffile.imwrite(tmp_path / "a.tif", GREY, byteorder=byteorder, metadata={"axes": "ZYX"})
        pages = list(pages_of(tmp_path / "a.tif"))
        pages[0] = replace(pages[0], metadata=replace(pages[0].metadata, exif=exif.tobytes()))
        assert encode_pages(tmp_path / "b.tif", iter(pages)) == ()
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert (file.is_bigtiff, file.byteorder) == (True, "<")
            assert np.array_equal(file.asarray(), GREY)
            assert json.loads(str(described(tmp_path / "b.tif"))) == {"shape": [6, 20, 30], "axes": "ZYX"}
        with Image.open(tmp_path / "b.tif") as image:
            assert image.getexif().get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"


def test_every_page_is_checked_against_the_limits(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY[0])
        file.write(np.zeros((200, 300), np.uint8))
        file.write(np.zeros((16, 16), np.int8))
    first = read_image_file(tmp_path / "a.tif", most_pixels=1000)
    with pytest.raises(ImageSizeError, match="300x200 pixels"):
        read_image_file(tmp_path / "a.tif", most_pixels=1000, page=first.pages[1])
    with pytest.raises(ImageError, match="8-bit signed integers"):
        read_image_file(tmp_path / "a.tif", page=first.pages[2])
