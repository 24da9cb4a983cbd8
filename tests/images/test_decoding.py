"""Libtiff writes nothing to standard error while images are read, in however many threads, and writes again
afterwards. Only known formats are opened, with this package's limits instead of Pillow's, from every way in.
"""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from steadylens.errors import ImageError, ImageSizeError
from steadylens.images.decoding import (
    LARGEST_TILE,
    MOST_PIXELS,
    MOST_SCANS,
    MOST_TIMES_IN_SCANS,
    opened,
    opened_stream,
    pixel_count,
)
from steadylens.images.reading import ImageContent, read_image_file
from steadylens.images.tensors import read_image
from steadylens.serving.pages.demo import read_upload
from steadylens.serving.payloads import HttpError, decode_image


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def reduced(content: bytes, most_pixels: int, enough: int | None) -> tuple[int, int]:
    """Returns the size that an image is decoded at."""
    with opened_stream(
        io.BytesIO(content), name="it", most_pixels=most_pixels, way_out="", reducible_to=enough
    ) as image:
        image.load()
        return image.size


@pytest.mark.parametrize(
    ("most_pixels", "enough", "size"),
    [
        (2400, 5, (60, 40)),  # within the limit, all pixels count
        (2399, 5, (8, 5)),
        (2399, 6, (15, 10)),
        (2399, 11, (30, 20)),
        (599, 20, None),
        (40, 5, (8, 5)),
        (39, 5, None),
        (2399, 21, None),
        (2399, None, None),
    ],
)
def test_a_jpeg_above_the_limit_is_decoded_at_a_reduced_size_that_is_enough(
    most_pixels: int, enough: int | None, size: tuple[int, int] | None
) -> None:
    if size is None:
        with pytest.raises(ImageSizeError, match="60x40 pixels"):
            reduced(jpeg(), most_pixels, enough)
    else:
        assert reduced(jpeg(), most_pixels, enough) == size


def test_a_jpeg_of_several_scans_may_exceed_the_limit_less() -> None:
    content = jpeg(progressive=True)
    limit = 2400 // MOST_TIMES_IN_SCANS
    assert reduced(content, limit, 5) == (8, 5)
    with pytest.raises(ImageSizeError):
        reduced(content, limit - 1, 5)
    many = content[:-2] + b"\xff\xda\0\2" * 40 + b"\xff\xd9"
    with pytest.raises(ImageSizeError):
        reduced(many, limit, 5)


def test_other_formats_above_the_limit_are_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "PNG")
    with pytest.raises(ImageSizeError):
        reduced(buffer.getvalue(), 2399, 5)


SOUND = """
import io, sys, threading
from pathlib import Path
from PIL import Image
from steadylens.errors import ImageError
from steadylens.images.decoding import opened
from steadylens.images.decoding import libtiff_silenced

path = Path(sys.argv[1])

def fails():
    try:
        with opened(path) as image:
            image.load()
    except ImageError:
        return
    raise SystemExit("it was read")

def loud():
    try:
        Image.open(path).load()
    except OSError:
        return
    raise SystemExit("it was read")
"""


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "TIFF", compression="tiff_lzw")
    content = bytearray(buffer.getvalue())
    content[200:900] = b"\xff" * 700
    (tmp_path / "a.tif").write_bytes(content)
    return tmp_path / "a.tif"


def said(code: str, path: Path) -> str:
    """Returns what a process that runs the code writes to its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SOUND + code, str(path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow holds libtiff out of reach there")
def test_a_damaged_file_is_refused_without_a_word_and_others_hear_libtiff_as_before(damaged: Path) -> None:
    loud = said("loud()", damaged)
    assert loud.startswith("tempfile.tif: ")  # as Pillow names what it gives to libtiff
    assert said("fails()", damaged) == ""
    assert said("fails(); loud()", damaged) == loud


def test_what_pillow_logs_goes_where_the_program_wants_and_not_to_the_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "b.tif"
    Image.new("RGB", (9, 9)).save(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[277].overwrite(240)  # samples a pixel
    assert said("fails()", path) == ""
    assert "PIL.TiffImagePlugin" in said("import logging; logging.basicConfig(); fails()", path)


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow holds libtiff out of reach there")
def test_of_many_threads_none_lets_libtiff_speak_before_the_last_is_done(damaged: Path) -> None:
    code = """
threads = [threading.Thread(target=lambda: [fails() for _ in range(30)]) for _ in range(8)]
with libtiff_silenced():
    for thread in threads:
        thread.start()
    loud()
for thread in threads:
    thread.join()
"""
    assert said(code, damaged) == ""
    assert said(code + "loud()", damaged) == said("loud()", damaged)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_known_formats_are_opened_whatever_their_name(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.dat", name)
    with opened(tmp_path / "a.dat") as image:
        assert (image.format, image.size) == (name, (5, 4))


@pytest.mark.parametrize(
    "content", [b"\0", b"text", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS", b"Pf 1 1 1.0 "]
)
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png is .*not an image of a known format: PNG, JPEG"):
        opened(tmp_path / "a.png").__enter__()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"GIF89a", "a GIF image"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, whose image was not fetched"),
    ],
)
def test_a_file_of_another_format_is_named_as_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    message = rf"a\.jpg is {kind}, not an image of a known format: PNG, JPEG, .*; convert it"
    with pytest.raises(ImageError, match=message):
        opened(tmp_path / "a.jpg").__enter__()


def test_an_image_that_pillow_writes_as_avif_is_known_as_one(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", "AVIF")
    with pytest.raises(ImageError, match=r"a\.jpg is an AVIF image"):
        opened(tmp_path / "a.jpg").__enter__()


def test_an_empty_file_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"a\.jpg is empty; replace the file"):
        opened(tmp_path / "a.jpg").__enter__()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "ppm"])
def test_a_file_that_is_cut_off_says_so_in_words(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ImageError, match=rf"a\.{suffix} (cannot be read: .*|is )cut off"):
        read_image_file(path)


def test_damaged_pixels_are_told_in_words(tmp_path: Path) -> None:
    spoiled(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif cannot be read: its compressed pixels are damaged"):
        read_image_file(tmp_path / "a.tif")


def rle4(width: int, height: int, runs: bytes) -> bytes:
    """Returns a bitmap of 16 grey levels, its pixels in 4-bit run lengths, from the last row to the first."""
    palette = b"".join(bytes([17 * level] * 3 + [0]) for level in range(16))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 4, 2, len(runs), 2835, 2835, 16, 16)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def test_a_bitmap_of_4_bit_run_lengths_is_read_rightly_or_not_at_all(tmp_path: Path) -> None:
    # Five pixels one by one, which is an odd number, then two equal ones: older Pillows lose the fifth.
    runs = b"\0\5\x12\x34\x50\0" + b"\2\x67" + b"\0\0" + b"\7\x89" + b"\0\1"
    (tmp_path / "a.bmp").write_bytes(rle4(7, 2, runs))
    if int(PIL.__version__.partition(".")[0]) < 13:
        with pytest.raises(ImageError, match=r"4-bit run lengths, which Pillow .* reads wrongly; save it"):
            read_image_file(tmp_path / "a.bmp")
        return
    expected = 17 * np.array([[8, 9, 8, 9, 8, 9, 8], [1, 2, 3, 4, 5, 6, 7]])
    assert np.array_equal(read_image_file(tmp_path / "a.bmp").pixels, expected[..., None].repeat(3, -1))


def test_what_goes_wrong_in_the_block_is_the_fault_of_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    message = r"a\.png cannot be read: ZeroDivisionError; replace the file"
    with pytest.raises(ImageError, match=message), opened(tmp_path / "a.png"):
        raise ZeroDivisionError
    with pytest.raises(ImageError, match="cannot be read: of two lines; replace"), opened(tmp_path / "a.png"):
        raise ValueError("of two\nlines")


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
def test_the_limit_of_pillow_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a", name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with opened(tmp_path / "a", most_pixels=81) as image:
        image.load()
    with pytest.raises(ImageSizeError, match=r"9x9 pixels, 0\.0 megapixels; at most 8e-05 are read"):
        opened(tmp_path / "a", most_pixels=80).__enter__()


def test_an_animation_that_leaves_its_canvas_open_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">2I", 9000, 9000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="an animation whose first image is smaller than the whole"):
        opened(tmp_path / "a.png").__enter__()


def test_a_tiff_whose_tiles_are_far_larger_than_it_is_refused(tmp_path: Path) -> None:
    path, side = tmp_path / "tiles.tif", 2064
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=(side, side), compression="zlib")
    with pytest.raises(ImageSizeError, match="tiles of 2,064x2,064 pixels"):
        opened(path, most_pixels=LARGEST_TILE).__enter__()
    with opened(path, most_pixels=side**2) as image:
        image.load()


def test_a_tiff_of_16_bits_within_the_limit_is_read_though_its_tile_is_larger_than_it(tmp_path: Path) -> None:
    side = 2064
    assert side**2 > LARGEST_TILE
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 9, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(side, side), compression="zlib")
    assert np.array_equal(read_image_file(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with (
        pytest.raises(ImageError, match=r"a\.png is not a regular file; give an image file"),
        opened(tmp_path / "a.png"),
    ):
        pass


def test_pixel_values_that_are_not_read_are_told_from_damage(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 3), np.float32), photometric="rgb")
    with (
        pytest.raises(ImageError, match=r"a\.tif holds pixel values of a type that is not read; convert"),
        opened(tmp_path / "a.tif"),
    ):
        pass


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        opened(tmp_path / "a.png").__enter__()
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        opened(tmp_path).__enter__()


def uploaded(path: Path) -> object:
    try:
        return decode_image(path.read_bytes(), most_pixels=MOST_PIXELS)
    except HttpError as refusal:
        raise ImageError(refusal.reason) from refusal


WAYS = (read_image, read_image_file, read_upload, uploaded)


def tiles(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in (322, 323):
            file.pages.first.tags[tag].overwrite(16_384)


def progressive(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG", progressive=True)
    head, _, tail = buffer.getvalue().partition(b"\xff\xda")
    scan = b"\xff\xda" + tail.partition(b"\xff\xda")[0]
    path.write_bytes(head + scan * MOST_SCANS + b"\xff\xda" + tail)


def floats(path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.float32)).save(path, "TIFF")


def whole_numbers(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 200, np.int32)).save(path, "TIFF")


def signed_bytes(path: Path) -> None:
    tifffile.imwrite(path, np.full((9, 9), -1, np.int8))  # as unsigned, that would be white


def signed_words(path: Path) -> None:
    tifffile.imwrite(path, np.full((9, 9), -1, np.int16))


def twelve_bits(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((9, 9), np.uint16))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[258].overwrite(12)


def giant(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path, "PNG", compress_level=1)


def spoiled(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path, "TIFF", compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:900] = b"\xff" * 700
    path.write_bytes(content)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiles, "tiles of 16,384x16,384 pixels"),
        (progressive, "more than 100 scans"),
        (floats, "floating point, and does not say which of them are black and white"),
        (whole_numbers, "in 32-bit signed integers, and does not say which"),
        (signed_bytes, "in 8-bit signed integers, and does not say which of them are black and white"),
        (signed_words, "in 16-bit signed integers, and does not say which of them are black and white"),
        (twelve_bits, "pixel values of 12 bits; convert it to 8 or 16 bits"),
        (giant, "20,000x20,000 pixels"),
        (spoiled, "damaged|cannot be read"),
        (lambda path: path.write_bytes(b"GIF89a"), "is a GIF image, not an image of a known format"),
    ],
)
def test_every_way_in_refuses_what_the_others_refuse(
    tmp_path: Path, make: Callable[[Path], object], message: str, read: Callable[[Path], object]
) -> None:
    make(tmp_path / "a")
    with pytest.raises(ImageError, match=message):
        read(tmp_path / "a")


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [{"bigtiff": True}, {"tile": (32, 32)}, {"byteorder": ">"}, {"photometric": "miniswhite"}],
    ids=str,
)
def test_every_way_in_reads_a_tiff_of_any_layout(
    tmp_path: Path, options: dict[str, Any], dtype: type, read: Callable[[Path], object]
) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (40, 50), dtype=dtype, endpoint=True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    expected = (top - pixels if "photometric" in options else pixels) / top
    assert abs(grey_of(read(tmp_path / "a.tif")) - expected).max() < 0.51 / 255


def grey_of(found: object) -> NDArray[np.float64]:
    """Returns the grey image that any way in returns, (H, W) in [0, 1]."""
    if isinstance(found, ImageContent):
        pixels = found.pixels[..., 0]
    else:
        assert isinstance(found, Tensor | Image.Image)
        pixels = np.asarray(found)
        pixels = pixels[0] if pixels.shape[0] == 3 else pixels[..., 0]
    return pixels / np.iinfo(pixels.dtype).max


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_the_number_of_pixels_is_told_from_the_start_of_a_file(tmp_path: Path, name: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((130, 70), 50).convert("RGB").save(file, name)
    (tmp_path / "a").write_bytes(file.getvalue())
    (tmp_path / "bad").write_bytes(file.getvalue()[:6] + b"no image")
    assert pixel_count(tmp_path / "a") == 130 * 70
    assert pixel_count(tmp_path / "bad") == 0
    assert pixel_count(tmp_path) == pixel_count(tmp_path / "none") == 0
