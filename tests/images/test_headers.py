"""The tiles, pages and scans counted in a file are those that decoders find, whatever tricks hide them."""

import io
import random
import struct
import time
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from steadylens.images.headers import MOST_PAGES, count_jpeg_scans, tiff_directories, tiff_directory

SCAN, END = b"\xff\xda\0\2", b"\xff\xd9"


COMMENT = b"\xff\xfe\0\6" + SCAN
"""A segment whose content looks like a scan."""


def scans(content: bytes) -> int:
    return count_jpeg_scans(io.BytesIO(content))


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"progressive": True}, 10)])
def test_the_scans_of_a_file_are_counted(options: dict[str, object], count: int) -> None:
    assert scans(jpeg(**options)) == count


def test_scans_within_a_thumbnail_or_behind_the_image_do_not_count() -> None:
    content = jpeg(exif=b"Exif\0\0" + SCAN * 200)
    assert content.count(SCAN) == 200
    assert scans(content + SCAN * 200) == 1


def test_a_recording_behind_a_photograph_does_not_count() -> None:
    assert scans(jpeg() + random.Random(0).randbytes(10**7)) == 1  # noqa: S311 - no secret


@pytest.mark.parametrize("pad", [b"", b"\xff", b"\0\0", b"\xff\0", b"\xff\xd3", b"\xff\x01", b"\0" * 2**16])
def test_whatever_stands_between_scans_hides_none(pad: bytes) -> None:
    assert scans(b"\xff\xd8" + (SCAN + pad) * 150 + END) == 150


def test_a_segment_that_decoders_look_into_after_damage_hides_no_scan() -> None:
    hidden = b"\xff\x50\0\xff" + SCAN * 60
    assert scans(b"\xff\xd8" + SCAN + hidden + END) == 61


def test_segments_between_scans_are_skipped_as_decoders_do() -> None:
    assert scans(b"\xff\xd8" + COMMENT + (SCAN + COMMENT) * 3 + END) == 3


def test_so_many_segments_that_following_them_takes_long_are_not_followed() -> None:
    content = b"\xff\xd8" + SCAN + b"\xff\xfe\0\2" * 300_000 + SCAN * 150
    assert scans(content) == 151


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xfe"])
def test_an_image_that_is_cut_off_before_its_scan_has_none(content: bytes) -> None:
    assert scans(content) == 0


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_tile_of_a_file_is_found(byteorder: str, bigtiff: bool) -> None:
    buffer = io.BytesIO()
    pixels = np.zeros((20, 70), np.uint8)
    options: dict[str, Any] = {"byteorder": byteorder, "bigtiff": bigtiff}
    tifffile.imwrite(buffer, pixels, tile=(32, 48), **options)
    assert tiff_directory(buffer).tile == (48, 32)
    tifffile.imwrite(plain := io.BytesIO(), pixels, **options)
    assert tiff_directory(plain).tile == (0, 0)


def directory(*entries: tuple[int, int, int]) -> io.BytesIO:
    """Returns a TIFF that holds no more than tags of one number, each of a tag, a type and a value."""
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed)


def test_of_tags_that_stand_twice_the_larger_counts() -> None:
    found = tiff_directory(directory((322, 4, 16), (322, 4, 4096), (323, 3, 512), (323, 4, 16)))
    assert found.tile == (4096, 512)


def test_a_number_that_is_too_long_for_the_file_counts_as_none() -> None:
    assert tiff_directory(directory((256, 16, 5), (65000, 16, 5), (257, 4, 7))).size == (0, 7)


def test_a_directory_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ValueError, match="of type 5"):
        tiff_directory(directory((322, 5, 16)))
    with pytest.raises(ValueError, match=r"claims 1,099,511,627,776 entries"):
        tiff_directory(io.BytesIO(b"II+\0\x08\0\0\0" + struct.pack("<2Q", 16, 2**40)))
    with pytest.raises(struct.error):
        tiff_directory(io.BytesIO(directory((322, 4, 16), (323, 4, 16)).getvalue()[:-3]))


@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_page_of_a_stack_is_found(bigtiff: bool) -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=bigtiff) as file:
        for side in (16, 40, 20):
            file.write(np.zeros((side, 30), np.uint8))
    assert [page.size for page in tiff_directories(buffer)] == [(30, 16), (30, 40), (30, 20)]
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as written:
        places = [page.offset for page in written.pages]
    assert [page.start for page in tiff_directories(buffer)] == places
    assert tiff_directory(buffer, places[1]).size == (30, 40)


def test_directories_that_overlap_or_are_too_many_are_refused_soon() -> None:
    chained = bytearray(b"II*\0\x08\0\0\0" + b"\2" * 20_000)  # wherever it is read, it has 514 entries
    for place in range(8, 6000, 12):
        chained[place + 6170 : place + 6174] = struct.pack("<I", place + 12)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="its directories overlap"):
        list(tiff_directories(io.BytesIO(bytes(chained))))
    empty = b"".join(struct.pack("<HI", 0, 14 + 6 * number) for number in range(MOST_PAGES + 9))
    with pytest.raises(ValueError, match="more than 100,000 pages"):
        list(tiff_directories(io.BytesIO(b"II*\0\x08\0\0\0" + empty)))
    assert time.perf_counter() - begin < 20


def test_pages_that_follow_each_other_in_a_circle_are_found_once() -> None:
    first = struct.pack("<IHHHIII", 8, 1, 256, 4, 1, 5, 26)
    second = struct.pack("<HHHIII", 1, 256, 4, 1, 6, 8)
    stream = io.BytesIO(b"II*\0" + first + second)
    assert [page.size for page in tiff_directories(stream)] == [(5, 0), (6, 0)]
