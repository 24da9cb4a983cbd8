"""What a file says beside its pixels is read from every format, and no longer says how to turn them."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens.decoding import opened
from steadylens.metadata import Metadata, _upright, metadata_of, orientation_of, tiff_tags

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


def test_an_orientation_in_xmp_counts_and_is_set_upright(tmp_path: Path) -> None:
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
        assert len(_upright(whole[:length], sideways=True)) == length
    swapped = _upright(whole, sideways=True)
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
