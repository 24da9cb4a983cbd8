"""Only known formats are opened, within limits that are ours and not Pillow's, by whatever way they come."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steadylens.decoding import LARGEST_TILE, MOST_PIXELS, MOST_SCANS, opened
from steadylens.errors import ImageError, ImageSizeError
from steadylens.imagefiles import ImageContent, read_image_file
from steadylens.images import read_image
from steadylens.trial import read_upload
from steadylens.uploads import Refusal, decode_image


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM"])
def test_known_formats_are_opened_whatever_their_name(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.dat", name)
    with opened(tmp_path / "a.dat") as image:
        assert (image.format, image.size) == (name, (5, 4))


@pytest.mark.parametrize(
    "content", [b"", b"text", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS", b"Pf 1 1 1.0 "]
)
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png is not an image of a known format: PNG, JPEG"):
        opened(tmp_path / "a.png").__enter__()


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
    with pytest.raises(ImageError, match="an animation whose first image does not fill it"):
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
    levels = np.random.default_rng(0).integers(0, 65536, (9, 9, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="rgb", tile=(side, side), compression="zlib")
    assert np.array_equal(read_image_file(tmp_path / "a.tif").levels, levels)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with (
        pytest.raises(ImageError, match=r"a\.png is no regular file; name one that holds an image"),
        opened(tmp_path / "a.png"),
    ):
        pass


def test_levels_that_are_not_read_are_told_from_damage(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 3), np.float32), photometric="rgb")
    with (
        pytest.raises(ImageError, match=r"a\.tif holds levels of a kind that is not read; convert"),
        opened(tmp_path / "a.tif"),
    ):
        pass


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        opened(tmp_path / "a.png").__enter__()
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        opened(tmp_path).__enter__()


# Every way into the package.


def uploaded(path: Path) -> object:
    try:
        return decode_image(path.read_bytes(), most_pixels=MOST_PIXELS)
    except Refusal as refusal:
        raise ImageError(refusal.reason) from refusal


WAYS = (read_image, read_image_file, read_upload, uploaded)


def tiles(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in (322, 323):
            file.pages.first.tags[tag].overwrite(16_384)


def scans(path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG", progressive=True)
    head, _, tail = buffer.getvalue().partition(b"\xff\xda")
    scan = b"\xff\xda" + tail.partition(b"\xff\xda")[0]
    path.write_bytes(head + scan * MOST_SCANS + b"\xff\xda" + tail)


def floats(path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.float32)).save(path, "TIFF")


def whole_numbers(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 200, np.int32)).save(path, "TIFF")


def giant(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path, "PNG", compress_level=1)


def damaged(path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(path, "TIFF", compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:900] = b"\xff" * 700
    path.write_bytes(content)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiles, "tiles of 16,384x16,384 pixels"),
        (scans, "more than 100 scans"),
        (floats, "F levels, which have no known range"),
        (whole_numbers, "I levels, which have no known range"),
        (giant, "20,000x20,000 pixels"),
        (damaged, "damaged|cannot be read"),
        (lambda path: path.write_bytes(b"GIF89a"), "not an image of a known format"),
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
    levels = np.random.default_rng(0).integers(0, top, (40, 50), dtype=dtype, endpoint=True)
    tifffile.imwrite(tmp_path / "a.tif", levels, **options)
    expected = (top - levels if "photometric" in options else levels) / top
    assert abs(grey_of(read(tmp_path / "a.tif")) - expected).max() < 0.51 / 255


def grey_of(found: object) -> NDArray[np.float64]:
    """Returns the grey levels of what any of the ways returns, (H, W) in [0, 1]."""
    if isinstance(found, ImageContent):
        levels = found.levels[..., 0]
    else:
        assert isinstance(found, Tensor | Image.Image)
        levels = np.asarray(found)
        levels = levels[0] if levels.shape[0] == 3 else levels[..., 0]
    return levels / np.iinfo(levels.dtype).max
