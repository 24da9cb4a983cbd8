"""An upload is decoded as reading the file would, or refused with a reason; there is no third way."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steadylens.errors import SettingError
from steadylens.images.decoding import MOST_SCANS
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import read_image
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.signature import Signature
from steadylens.serving.payloads import (
    MEDIA_TYPES,
    OTHER_NAMES,
    HttpError,
    Reply,
    Restoring,
    UploadLimits,
    checked_type,
    decode_image,
    encode_png,
)

T = TypeVar("T")

PIXELS = 10_000
LEVELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(Image.fromarray(LEVELS), "JPEG", exif=exif)


RGB = Image.fromarray(LEVELS)
FILES = {
    "rgb.png": written(RGB, "PNG"),
    "palette.png": written(RGB.quantize(16), "PNG", transparency=0),
    "grey.png": written(RGB.convert("L"), "PNG"),
    "alpha.png": written(RGB.convert("RGBA"), "PNG"),
    "deep.png": written(Image.fromarray(LEVELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "rgb.jpg": written(RGB, "JPEG"),
    "progressive.jpg": written(RGB, "JPEG", progressive=True),
    "cmyk.jpg": written(RGB.convert("CMYK"), "JPEG"),
    "turned.jpg": turned(),
    "rgb.webp": written(RGB, "WEBP"),
    "rgb.tif": written(RGB, "TIFF", compression="tiff_lzw"),
    "big.tif": written(RGB, "TIFF", big_tiff=True),
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes) -> bytes:
    """Returns a PNG of one bit a pixel with the given compressed content."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def refused(content: bytes) -> HttpError:
    with pytest.raises(HttpError) as caught:
        decode_image(content, most_pixels=PIXELS)
    return caught.value


def attempted(call: Callable[[], T]) -> T | int:
    """Returns what the call returns, or the status with which it is refused."""
    try:
        return call()
    except HttpError as refusal:
        return refusal.status


@pytest.mark.parametrize(
    ("size", "fit"), [(None, Fit()), (48, Fit()), (24, Fit(keeps_shape=True, side=30))], ids=str
)
@pytest.mark.parametrize("name", FILES)
def test_an_upload_is_the_image_that_reading_the_file_gives(
    name: str, size: int | None, fit: Fit, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    expected = read_image(path, size=size, fit=fit)
    assert torch.equal(decode_image(FILES[name], most_pixels=PIXELS, size=size, fit=fit), expected)


@pytest.mark.parametrize(("length", "refused"), [(4000, True), (17, True), (16, False)])
def test_an_upload_too_narrow_to_be_cut_is_refused(length: int, refused: bool) -> None:
    narrow = encode_png(torch.zeros(3, 1, length, dtype=torch.uint8)).content
    fit = Fit(keeps_shape=True, side=256)
    answer = attempted(lambda: decode_image(narrow, most_pixels=PIXELS, size=224, fit=fit))
    assert (answer == 422) if refused else (not isinstance(answer, int) and answer.shape == (3, 224, 224))


def test_an_image_within_the_limit_is_accepted_and_one_pixel_more_is_not() -> None:
    assert decode_image(FILES["rgb.png"], most_pixels=600).shape == (3, 20, 30)
    with pytest.raises(
        HttpError, match=r"30x20 pixels.* at most 0\.000599 are read, send a smaller one"
    ) as caught:
        decode_image(FILES["rgb.png"], most_pixels=599)
    assert caught.value.status == 413


@pytest.mark.parametrize("side", [101, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    assert refused(png(side, side, zlib.compress(bytes(100)))).status == 413


def test_a_bomb_is_refused_where_pillow_only_warns() -> None:
    assert refused(png(10_000, 10_000, zlib.compress(bytes(100)))).status == 413


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb.tif", "rgb.webp"])
def test_a_truncated_image_is_refused(name: str) -> None:
    content = FILES[name]
    for length in (len(content) // 8, len(content) // 2, len(content) - 40):
        assert refused(content[:length]).status == 422


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"hello, I am no image", 422, "not an image of a known format"),
        (written(RGB, "GIF"), 422, "JPEG, PNG, TIFF or WebP"),
        (written(RGB, "BMP"), 422, "JPEG, PNG, TIFF or WebP"),
        (written(RGB, "PPM"), 422, "JPEG, PNG, TIFF or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "not an image of a known format"),
        (
            written(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"),
            422,
            "does not say which of them are black",
        ),
        (FILES["rgb.jpg"][:-2] + b"\xff\xda\0\2" * MOST_SCANS, 422, "scans"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(content: bytes, status: int, reason: str) -> None:
    refusal = refused(content)
    assert refusal.status == status
    assert reason in refusal.reason
    assert "0x" not in refusal.reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what a damaged file holds
@given(
    name=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 2**31),
)
def test_a_damaged_image_is_decoded_or_refused_and_nothing_else(
    name: str, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(FILES[name])
    for place, value in changes:
        content[place % len(content)] = value
    cut = bytes(content[: 1 + length % len(content)])
    image = attempted(lambda: decode_image(cut, most_pixels=PIXELS))
    if isinstance(image, int):
        assert image in (413, 422)
    else:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        assert image.shape[1:].numel() <= PIXELS


def tiff(tags: list[tuple[int, int]], data: bytes) -> bytes:
    """Returns a TIFF of 16x16 grey pixels, deflated, with further tags of numbers."""
    fixed = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    place = 8 + 2 + 12 * (len(fixed) + len(tags) + 2) + 4
    entries = sorted([*fixed, *tags, (324, place), (325, len(data))], key=lambda entry: entry[0])
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + data


@pytest.mark.parametrize(
    "tags", [[(322, 4096), (323, 4096)], [(322, 4096), (322, 16), (323, 4096), (323, 16)]]
)
def test_a_tiff_of_tiles_far_larger_than_itself_is_refused(tags: list[tuple[int, int]]) -> None:
    small = tiff([(322, 16), (323, 16)], zlib.compress(bytes(256)))
    assert decode_image(small, most_pixels=PIXELS).shape == (3, 16, 16)
    refusal = refused(tiff(tags, zlib.compress(bytes(4096**2))))
    assert refusal.status == 413
    assert "tiles of 4,096x4,096 pixels" in refusal.reason


def test_a_png_comes_back_as_it_was() -> None:
    image = torch.from_numpy(LEVELS).permute(2, 0, 1)
    assert torch.equal(decode_image(encode_png(image).content, most_pixels=PIXELS), image)


@pytest.mark.parametrize("declared", [*MEDIA_TYPES, *OTHER_NAMES, "Image/PNG", "image/jpeg; q=1"])
def test_the_type_of_an_image_is_accepted(declared: str) -> None:
    assert checked_type({"content-type": declared}).partition(";")[0] in (*MEDIA_TYPES, *OTHER_NAMES)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "image/svg+xml"},
        {"content-type": "application/json"},
        {"content-type": "image/png", "content-encoding": "gzip"},
    ],
)
def test_another_type_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(HttpError) as caught:
        checked_type(headers)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "wrong",
    [{"bytes": 0}, {"pixels": -1}, {"seconds": 0.0}, {"seconds": float("nan")}, {"seconds": float("inf")}],
)
def test_a_limit_that_is_not_positive_and_finite_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        UploadLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", [Fit(), Fit(keeps_shape=True, side=64)], ids=str)
def test_a_telephones_photograph_is_read_within_the_usual_limits_nearly_as_from_a_file(
    fit: Fit, tmp_path: Path
) -> None:
    levels = Image.fromarray(LEVELS).resize((4000, 3000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photograph.jpg"
    levels.save(path, quality=30, exif=exif)
    content = path.read_bytes()
    usual = UploadLimits().pixels
    found = decode_image(content, most_pixels=usual, size=48, fit=fit)
    expected = read_image(path, size=48, fit=fit)
    assert (found.int() - expected.int()).abs().max() <= 2
    with pytest.raises(HttpError, match=r"12\.0 megapixels") as caught:
        decode_image(content, most_pixels=usual)
    assert caught.value.status == 413


def identity(images: torch.Tensor) -> torch.Tensor:
    return images


RGBA = Image.fromarray(np.dstack([LEVELS, LEVELS[..., 0]]))
COLOURS = {
    "alpha.png": written(RGBA, "PNG", dpi=(72, 36)),
    "transparent.png": written(RGB.quantize(16), "PNG", transparency=0),
    "grey-alpha.png": written(RGB.convert("LA"), "PNG"),
    "profile.jpg": written(RGB, "JPEG", icc_profile=bytes(300), comment=b"said", exif=b"Exif\0\0II*\0"),
    "turned.jpg": turned(),
    "cmyk.jpg": FILES["cmyk.jpg"],
    "deep.png": FILES["deep.png"],
    "profile.webp": written(RGBA, "WEBP", lossless=True, icc_profile=bytes(300)),
}


@pytest.mark.parametrize("name", COLOURS)
def test_a_restored_image_is_what_the_command_writes(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / name, tmp_path / "restored"
    source.write_bytes(COLOURS[name])
    restore_file(
        RestoreJob(source=source, target=target),
        lambda images, _: images,
        settings=RestoreSettings(format="PNG", most_pixels=PIXELS),
    )
    predictor = Restoring(identity, Signature())
    upload = predictor.decode(COLOURS[name], most_pixels=PIXELS)
    results = predictor(upload.pixels[None])
    content, kind, _ = predictor.encoder({})(list(results), [upload.file])
    assert kind == "image/png"
    assert content == target.read_bytes()


@pytest.mark.parametrize("name", ["alpha.png", "deep.png"])
def test_a_strength_makes_so_much_of_the_change(name: str) -> None:
    predictor = Restoring(identity, Signature())
    upload = predictor.decode(COLOURS[name], most_pixels=PIXELS)
    before = upload.pixels.double()
    after = (before / 2).to(upload.pixels.dtype)
    for text, strength in (("0", 0), ("0.25", 0.25), ("1e0", 1)):
        content, *_ = predictor.encoder({"strength": text})([after], [upload.file])
        found = predictor.decode(content, most_pixels=PIXELS).pixels
        assert found.dtype == upload.pixels.dtype
        assert (found.double() - (before + strength * (after.double() - before))).abs().max() <= 0.5


@pytest.mark.parametrize("text", ["", "much", "-0.1", "1.01", "nan", "inf", " 1", "1_0", "1e999", "\u0661"])
def test_a_strength_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HttpError, match=r"strength is .* it must be a number from 0 to 1") as caught:
        Restoring(identity, Signature()).encoder({"strength": text})
    assert caught.value.status == 422


def test_the_metadata_of_a_file_are_kept() -> None:
    predictor = Restoring(identity, Signature())
    for name, mode in (("profile.webp", "RGBA"), ("profile.jpg", "RGB"), ("grey-alpha.png", "LA")):
        upload = predictor.decode(COLOURS[name], most_pixels=PIXELS)
        content, *_ = predictor.encoder({})([upload.pixels], [upload.file])
        with Image.open(io.BytesIO(content)) as image:
            assert image.mode == mode
            assert image.info.get("icc_profile") == (bytes(300) if "profile" in name else None)


def test_notes_fit_into_a_header_and_say_how_many_were_left_out() -> None:
    assert Reply(b"", "image/png").headers == {}
    notes = tuple(f"note {number} of \u00e4 file\n" for number in range(500))
    for count in (1, 9, 500):
        (header,) = Reply(b"", "image/png", notes[:count]).headers.values()
        assert len(header) <= 4096
        assert header.isascii()
        assert "\n" not in header
        *listed, last = json.loads(header)
        if count < 500:
            assert (*listed, last) == notes[:count]
        else:
            assert tuple(listed) == notes[: len(listed)]
            assert last == f"{500 - len(listed)} further notes"
