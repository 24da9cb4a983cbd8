"""What lies beside the picture is named, wherever a format keeps it; files without it say nothing."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens.images.metadata.attachments import without_parts
from steadylens.images.reading import read_image_file
from steadylens.images.writing import write_image_file

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8))

VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(range(256)) * 500


def segment(name: int, content: bytes) -> bytes:
    return b"\xff" + bytes([0xE0 + name]) + struct.pack(">H", len(content) + 2) + content


def jpeg(path: Path, *segments: bytes, behind: bytes = b"", **options: object) -> tuple[str, ...]:
    PICTURE.save(path, "JPEG", **options)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"".join(segments) + content[2:] + behind)
    return read_image_file(path).left_out


@pytest.mark.parametrize(
    ("segments", "left_out"),
    [
        ([segment(1, b"http://ns.adobe.com/xmp/extension/\0" + b"0")], "extended XMP, such as a depth map"),
        ([segment(1, b"FLIR\0\1\0\0" + bytes(50))] * 3, "thermal data"),
        ([segment(3, b"\x12\x34" * 90)], "the data of a program (APP3 ?4?4?4?4?4?4?4?4)"),
        ([segment(11, b"JP\0\1" + bytes(20))], "content credentials (JUMBF)"),
        ([segment(6, b"GoPro\0" + bytes(20))], "the data of a program (APP6 GoPro)"),
        ([segment(13, b"Photoshop 3.0\x008BIM\x07\xd0\0\0\0\0\0\4path")], "clipping paths"),
        ([segment(0, b"JFXX\0\x10" + bytes(20)), segment(12, b"Ducky\0\1\0\4\0\0\0\x50")], ""),
        ([segment(13, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\4IPTC")], ""),
    ],
)  # fmt: skip
def test_segments_of_a_jpeg_are_kept_or_named(tmp_path: Path, segments: list[bytes], left_out: str) -> None:
    assert jpeg(tmp_path / "a.jpg", *segments) == ((left_out,) if left_out else ())


@pytest.mark.parametrize("progressive", [False, True])
def test_a_photograph_with_all_that_is_kept_has_nothing_beside_it(
    tmp_path: Path, *, progressive: bool
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    options: dict[str, object] = {"exif": exif, "icc_profile": b"profile" * 20_000, "comment": b"a word"}
    found = jpeg(tmp_path / "a.jpg", xmp=b"<x/>", progressive=progressive, behind=bytes(4000), **options)
    assert found == ()


@pytest.mark.parametrize(
    ("behind", "left_out"),
    [
        (VIDEO, ["a video (0.1 MB behind the picture)"]),
        (b"MotionPhoto_Data" + VIDEO, ["a video (0.1 MB behind the picture)"]),
        (b"\xff\xd8\xff\xe0" + bytes(50) + VIDEO, ["further images", "a video (0.1 MB behind the picture)"]),
        (b"\xff\xd8\xff\xe0" + bytes(50), ["further images"]),
        (b"hidden words", ["data behind the picture (12 bytes)"]),
        (b"\0\0\xff\r\n", []),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "ppm"])
def test_what_lies_behind_a_picture_is_named(
    tmp_path: Path, suffix: str, behind: bytes, left_out: list[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes() + behind)
    assert read_image_file(path).left_out == tuple(left_out)


def test_two_portable_maps_in_one_file_are_two_images(tmp_path: Path) -> None:
    for mode in ("1", "L", "RGB"):
        path = tmp_path / "a.pnm"
        PICTURE.convert(mode).save(path, "PPM")
        assert read_image_file(path).left_out == ()
        path.write_bytes(path.read_bytes() * 2)
        assert read_image_file(path).left_out == ("further images",)


def test_bitmaps_of_any_depth_have_nothing_behind_them(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        for width in (13, 16):
            PICTURE.convert(mode).resize((width, 9)).save(tmp_path / "a.bmp")
            assert read_image_file(tmp_path / "a.bmp").left_out == ()


def test_a_profile_of_a_bitmap_is_named(tmp_path: Path) -> None:
    header = struct.pack(
        "<IiiHHIIiiII4I4s60xII4x", 124, 2, 2, 1, 24, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, b"DEBM", 140, 9
    )
    content = b"BM" + struct.pack("<IHHI", 14 + len(header) + 25, 0, 0, 14 + len(header)) + header
    (tmp_path / "a.bmp").write_bytes(content + bytes(16) + b"a profile")
    assert read_image_file(tmp_path / "a.bmp").left_out == ("a colour profile",)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_chunk_of_a_png_is_copied_if_it_says_that_it_may_be_and_named_if_not(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    safe, unsafe = chunk(b"prVt", b"a word"), chunk(b"mkBS", b"layers")
    known, colours = chunk(b"tIME", bytes(7)), chunk(b"cLLI", bytes(8))
    (tmp_path / "a.png").write_bytes(content[:33] + safe + unsafe + known + colours + content[33:])
    found = read_image_file(tmp_path / "a.png")
    assert found.left_out == ("the data of a program (mkBS)",)
    assert found.metadata.chunks == ((b"prVt", b"a word"), (b"cLLI", bytes(8)))
    write_image_file(tmp_path / "b.png", found)
    assert read_image_file(tmp_path / "b.png").metadata.chunks == found.metadata.chunks


def test_a_chunk_of_a_webp_that_is_not_kept_is_named(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.webp", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>")
    assert read_image_file(tmp_path / "a.webp").left_out == ()
    content = (tmp_path / "a.webp").read_bytes() + b"C2PA\4\0\0\0data"
    (tmp_path / "a.webp").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert read_image_file(tmp_path / "a.webp").left_out == ("the data of a program (C2PA)",)


def test_all_comments_of_a_jpeg_are_kept(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg", *(b"\xff\xfe\0\x05" + word for word in (b"one", b"two")))
    content = read_image_file(tmp_path / "a.jpg")
    assert content.metadata.comment == b"one\ntwo"
    assert content.left_out == ()


XMP = b"""<x:xmpmeta><rdf:RDF><rdf:Description
 xmlns:Camera="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Parts="http://ns.google.com/photos/1.0/container/" xmlns:Item='http://ns.google.com/photos/1.0/container/item/'
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"
 GCamera:MotionPhoto="1" GCamera:MicroVideoOffset='1234' xmpNote:HasExtendedXMP="AB" hdrgm:Version="1.0"
 dc:format="image/jpeg"><dc:title>a &lt;Parts:Directory&gt;</dc:title>
<Parts:Directory><rdf:Seq><rdf:li><Parts:Item Item:Mime="video/mp4"
 Item:Length="99"/></rdf:li></rdf:Seq></Parts:Directory>
<hdrgm:GainMapMax>3</hdrgm:GainMapMax><hdrgm:Empty /></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_xmp_no_longer_names_what_was_left_out() -> None:
    found = without_parts(XMP)
    for gone in (
        b"MotionPhoto",
        b"MicroVideo",
        b"HasExtendedXMP",
        b"Directory><",
        b"video/mp4",
        b"GainMap",
        b"Empty",
    ):
        assert gone not in found
    for kept in (
        b'dc:format="image/jpeg">',
        b"<dc:title>a &lt;Parts:Directory&gt;</dc:title>",
        b"</rdf:Description>",
    ):
        assert kept in found
    assert found.count(b"<") - found.count(b"</") == 4
    plain = b'<x:xmpmeta><rdf:Description dc:format="image/jpeg"/></x:xmpmeta>'
    assert without_parts(plain) == plain
