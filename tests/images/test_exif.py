"""Thumbnails show the image that they lie in, and nothing else of EXIF is moved."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD

from steadylens.images.metadata.exif import (
    LARGEST_THUMBNAIL,
    with_thumbnail_of,
    without_thumbnail_resources,
    without_thumbnails,
)
from steadylens.images.reading import read_image_file
from steadylens.images.writing import write_image_file
from steadylens.inference.restorer import restore

SCENE = np.dstack([*np.mgrid[:60, :80] * 3, np.full((60, 80), 40)]).astype(np.uint8)
"""An image that looks different however it is turned."""


def jpeg(pixels: NDArray[Any], size: tuple[int, int], quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def exif(order: str, thumbnail: bytes, *, orientation: int = 6, behind: bytes = b"", kind: int = 4) -> bytes:
    """Returns EXIF of two directories: an orientation in each, the thumbnail in the second, and a note."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    turned = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    first = struct.pack(f"{order}H", 2) + turned + struct.pack(f"{order}HHI4s", 0x9286, 7, 4, b"note")
    first += struct.pack(f"{order}I", 38)
    length = struct.pack(order + ("HH" if kind == 3 else "I"), *[len(thumbnail), 0][: 5 - kind])
    second = struct.pack(f"{order}H", 3) + turned + struct.pack(f"{order}HHII", 0x0201, 4, 1, 80)
    second += struct.pack(f"{order}HHI", 0x0202, kind, 1) + length + bytes(4)
    return head + first + second + thumbnail + behind


def thumbnail_of(content: bytes, orientation: int = 1) -> Image.Image | None:
    """Returns the thumbnail as Pillow finds it."""
    tags = Image.Exif()
    tags.load(content)
    found = tags.get_ifd(IFD.IFD1)
    if 0x0201 not in found:
        return None
    assert found.get(0x0112, 1) == orientation
    place = found[0x0201]
    return Image.open(io.BytesIO(content[place : place + found[0x0202]]))


def shows(thumbnail: Image.Image, scene: NDArray[Any]) -> bool:
    expected = np.array(Image.fromarray(scene).resize(thumbnail.size, Image.Resampling.LANCZOS)).astype(int)
    return bool(abs(np.array(thumbnail.convert("RGB")) - expected).mean() < 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_thumbnail_of_a_turned_photograph_is_made_anew(tmp_path: Path, suffix: str, order: str) -> None:
    known = exif(order, jpeg(255 - SCENE, (40, 30)))
    Image.fromarray(SCENE).save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0" + known)
    content = read_image_file(tmp_path / f"a.{suffix}")
    write_image_file(tmp_path / f"b.{suffix}", content)
    with Image.open(tmp_path / f"b.{suffix}") as image:
        written = image.info["exif"].removeprefix(b"Exif\0\0")
    thumbnail = thumbnail_of(written)
    assert thumbnail is not None
    assert thumbnail.size == (30, 40)
    assert shows(thumbnail, np.rot90(SCENE, -1))
    assert written[26:38] == known[26:38], "what is beside it stays where it is"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_of_any_kind_have_a_thumbnail(channels: int, dtype: Any) -> None:
    pixels = SCENE[..., [0, 1, 2, 0]][..., :channels].astype(dtype) * (257 if dtype == np.uint16 else 1)
    known = exif("<", jpeg(SCENE, (40, 30)), orientation=1)
    thumbnail = thumbnail_of(with_thumbnail_of(known, pixels))
    assert thumbnail is not None
    assert shows(thumbnail, SCENE[..., [0, 0, 0]] if channels < 3 else SCENE)


@pytest.mark.parametrize("behind", [b"", bytes(8), b"a maker's note"])
@pytest.mark.parametrize("kind", [3, 4])
def test_a_thumbnail_that_is_larger_than_the_one_before_moves_nothing(behind: bytes, kind: int) -> None:
    known = exif(">", jpeg(np.zeros_like(SCENE), (40, 30)), orientation=1, behind=behind, kind=kind)
    found = with_thumbnail_of(known, SCENE)
    thumbnail = thumbnail_of(found)
    assert thumbnail is not None
    assert shows(thumbnail, SCENE)
    if any(behind):
        assert found[len(known) - len(behind) : len(known)] == behind


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_pil_image_that_is_restored_has_a_thumbnail_of_itself_turned_as_it_is(mode: str) -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(SCENE).convert(mode)
    image.save(buffer, "JPEG", exif=b"Exif\0\0" + exif("<", jpeg(255 - SCENE, (40, 30))), quality=95)
    with Image.open(buffer) as photo:
        restored = restore(photo, lambda images: images, margin=0)
    known = restored.info["exif"]
    tags = Image.Exif()
    tags.load(known)
    assert (tags[0x0112], tags.get_ifd(IFD.IFD1)[0x0112]) == (6, 6)
    assert known.startswith(b"Exif\0\0")
    thumbnail = thumbnail_of(known.removeprefix(b"Exif\0\0"), orientation=6)
    assert thumbnail is not None
    assert shows(thumbnail, np.array(image.convert("RGB")))


@pytest.mark.parametrize("place", [0, 10, 40])
def test_a_thumbnail_that_is_said_to_lie_in_a_directory_destroys_none(place: int) -> None:
    known = bytearray(exif("<", jpeg(SCENE, (40, 30))))
    struct.pack_into("<I", known, 60, place)
    found = with_thumbnail_of(bytes(known), SCENE)
    assert thumbnail_of(found) is None
    assert found[:34] == known[:34]


def uncompressed(known: bytes) -> bytes:
    """Returns EXIF in which the data of the thumbnail are no JPEG."""
    return known.replace(b"\xff\xd8\xff", b"\0\0\0")


def beyond_the_end(known: bytes) -> bytes:
    return known[:90]


@pytest.mark.parametrize("spoil", [uncompressed, beyond_the_end])
def test_a_thumbnail_that_cannot_be_made_anew_is_removed(spoil: Callable[[bytes], bytes]) -> None:
    known = spoil(exif("<", jpeg(SCENE, (40, 30))))
    found = with_thumbnail_of(known, SCENE)
    assert thumbnail_of(found) is None
    assert len(found) == len(known)
    tags = Image.Exif()
    tags.load(found)
    assert tags[0x9286] == b"note"


def test_a_thumbnail_that_does_not_fit_into_a_jpeg_is_made_smaller_or_removed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    old = jpeg(np.zeros_like(noise), (500, 500))
    found = with_thumbnail_of(exif("<", old, behind=b"\1" * 40_000), noise)
    assert len(found) <= 65_527
    assert thumbnail_of(found) is None
    whole = with_thumbnail_of(exif("<", old, orientation=1), noise)
    thumbnail = thumbnail_of(whole)
    assert len(whole) <= 65_527
    assert thumbnail is not None
    assert max(thumbnail.size) == 500 <= LARGEST_THUMBNAIL


@pytest.mark.parametrize("damaged", [b"MM\0:", b"\0\0\0\0", b"II", b"II*\0\1"])
def test_exif_that_is_none_is_left_out_and_that_is_said(tmp_path: Path, damaged: bytes) -> None:
    Image.fromarray(SCENE).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif("<", jpeg(SCENE, (40, 30))))
    content = (tmp_path / "a.jpg").read_bytes()
    if len(damaged) == 4:
        content = content.replace(b"Exif\0\0II*\0", b"Exif\0\0" + damaged)
    else:
        segment = b"\xff\xe1" + struct.pack(">H", len(damaged) + 8) + b"Exif\0\0" + damaged
        Image.fromarray(SCENE).save(tmp_path / "a.jpg")
        content = (tmp_path / "a.jpg").read_bytes().replace(b"\xff\xdb", segment + b"\xff\xdb", 1)
    (tmp_path / "a.jpg").write_bytes(content.replace(b"\xff\xe0", b"\xff\xed", 1))  # else Pillow looks sooner
    found = read_image_file(tmp_path / "a.jpg")
    assert "its EXIF is damaged and was left out" in found.notes
    write_image_file(tmp_path / "b.jpg", found)
    assert read_image_file(tmp_path / "b.jpg").metadata.exif == b""


def test_an_orientation_that_is_none_is_not_copied() -> None:
    known = exif("<", jpeg(SCENE, (40, 30)), orientation=999)
    thumbnail = thumbnail_of(with_thumbnail_of(known, SCENE))
    assert thumbnail is not None
    assert shows(thumbnail, SCENE)


def test_exif_without_a_thumbnail_or_cut_off_stays_as_it_is() -> None:
    tags = Image.Exif()
    tags[0x010F] = "maker"
    plain = tags.tobytes()
    assert with_thumbnail_of(plain, SCENE) == plain
    known = exif("<", b"")
    for length in range(38):
        assert with_thumbnail_of(known[:length], SCENE) == known[:length]


def test_xmp_loses_its_thumbnails_alone() -> None:
    one, other = b"<x><dc:title>a</dc:title>", b"</x>"
    for prefix in (b"xmp", b"xap"):
        thumbnails = b"<%s:Thumbnails><rdf:Alt>...</rdf:Alt>\n</%s:Thumbnails>" % (prefix, prefix)
        assert without_thumbnails(one + thumbnails + other) == one + other
    assert without_thumbnails(one + other) == one + other


def test_photoshop_resources_lose_their_thumbnails_alone(tmp_path: Path) -> None:
    def resource(kind: int, name: bytes, content: bytes) -> bytes:
        named = bytes([len(name)]) + name + bytes((len(name) + 1) % 2)
        return b"8BIM" + struct.pack(">H", kind) + named + struct.pack(">I", len(content)) + content

    kept = (
        resource(0x0404, b"", b"IPTC"),
        resource(0x07D0, b"a path", b"\0\6" * 3),
        resource(0x0428, b"odd", b"12"),
    )
    thumbnails = resource(0x040C, b"", b"\xff\xd8\xff\xd9"), resource(0x0409, b"old", b"\xff\xd8")
    whole = kept[0] + thumbnails[0] + kept[1] + thumbnails[1] + kept[2]
    assert without_thumbnail_resources(whole) == b"".join(kept)
    for length in range(len(whole)):
        assert len(without_thumbnail_resources(whole[:length])) <= length
    tifffile.imwrite(tmp_path / "a.tif", SCENE, extratags=[(34377, "B", len(whole), whole, True)])
    write_image_file(tmp_path / "b.tif", read_image_file(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert b"".join(kept) in (tmp_path / "b.tif").read_bytes()
        assert thumbnails[0] not in (tmp_path / "b.tif").read_bytes()
        assert 34377 in file.pages.first.tags
    write_image_file(tmp_path / "c.png", replace(read_image_file(tmp_path / "a.tif"), format="PNG"))
    assert thumbnails[0] not in (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_text_of_a_tiff_that_is_not_ascii_stays_to_the_letter(tmp_path: Path, suffix: str) -> None:
    text = "Größe 5 µm".encode()
    tifffile.imwrite(tmp_path / "a.tif", SCENE, description=text, metadata=None)
    content = read_image_file(tmp_path / "a.tif")
    write_image_file(
        tmp_path / "b", replace(content, format={"tif": "TIFF", "png": "PNG", "jpg": "JPEG"}[suffix])
    )
    assert text in (tmp_path / "b").read_bytes()


def test_exif_that_a_png_has_as_text_becomes_exif(tmp_path: Path) -> None:
    known = b"Exif\0\0" + exif("<", jpeg(255 - SCENE, (40, 30)))
    text = f"\nexif\n{len(known):8}\n{known.hex()}\n".encode()
    chunk = b"zTXtRaw profile type exif\0\0" + zlib.compress(text)
    Image.fromarray(SCENE).save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(plain[:33] + whole + plain[33:])
    content = read_image_file(tmp_path / "a.png")
    assert np.array_equal(content.pixels, np.rot90(SCENE, -1))
    assert content.metadata.chunks == ()
    write_image_file(tmp_path / "b.png", replace(content))
    with Image.open(tmp_path / "b.png") as image:
        assert image.getexif()[0x0112] == 1
        thumbnail = thumbnail_of(image.info["exif"].removeprefix(b"Exif\0\0"))
    assert thumbnail is not None
    assert shows(thumbnail, np.rot90(SCENE, -1))
