"""Only known formats are opened, within a limit of pixels that is ours and not Pillow's."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from steadylens.decoding import opened
from steadylens.errors import ImageError


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
    with pytest.raises(ImageError, match=r"9x9 pixels, 0\.0 megapixels; at most 8e-05 are read"):
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
    path = tmp_path / "tiles.tif"
    pixels = np.zeros((16, 16), np.uint8)
    tifffile.imwrite(path, pixels, tile=(8192, 8192), compression="zlib")
    with pytest.raises(ImageError, match="tiles of 8,192x8,192 pixels"), opened(path, most_pixels=10**6):
        pass
