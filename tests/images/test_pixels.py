"""Strips cover an image, and pixels are read with all of their bits; `test_reading` compares whole files.

The view of what was removed and its scale give back the amounts.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steadylens.images.decoding import opened
from steadylens.images.pixels import STRIP_BYTES, flattened, in_8_bits, read_pixels, residual_image, strips


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_strips_cover_the_rows_once_and_stay_small(height: int, width: int) -> None:
    pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
    found = list(strips(pixels))
    assert [row for rows in found for row in range(height)[rows]] == list(range(height))
    assert all((rows.stop - rows.start) * width * 3 <= max(STRIP_BYTES, width * 3) for rows in found)


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17)])
def test_a_transparent_colour_of_few_bits_is_scaled_as_the_pixels_are(
    tmp_path: Path, bits: int, step: int
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    values = np.arange(8) % 2**bits
    packed = np.packbits([int(bit) for value in values for bit in f"{value:0{bits}b}"]).tobytes()
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 8, 1, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 1)) + chunk(b"IDAT", zlib.compress(b"\0" + packed))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    with opened(tmp_path / "a.png") as image:
        pixels, notes = read_pixels(tmp_path / "a.png", image)
    assert pixels[0, :, 0].tolist() == (values * step).tolist()
    assert pixels[0, :, 1].tolist() == np.where(values == 1, 0, 255).tolist()
    assert "its transparent colour became an alpha channel" in notes


def test_an_image_of_many_strips_is_read_whole(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(0, 256, (1200, 1500, 3), dtype=np.uint8)
    Image.fromarray(expected).save(tmp_path / "a.bmp")
    with opened(tmp_path / "a.bmp") as image:
        pixels, _ = read_pixels(tmp_path / "a.bmp", image)
    assert len(list(strips(pixels))) > 1
    assert np.array_equal(pixels, expected)


@given(dtype=st.sampled_from([np.uint8, np.uint16]), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_view_and_its_scale_give_back_what_was_removed(dtype: Any, channels: int, seed: int) -> None:
    top = np.iinfo(dtype).max
    before, after = np.random.default_rng(seed).integers(0, top + 1, (2, 6, 7, channels)).astype(dtype)
    view, scale = residual_image(before, after)
    colours = {2: 1, 4: 3}.get(channels, channels)
    removed = (before[..., :colours].astype(float) - after[..., :colours]) * 255 / top
    assert view.shape == (6, 7, colours)
    assert scale == pytest.approx(abs(removed).max())
    assert abs((view - 128.0) / 127 * scale - removed).max() <= scale / 254 + 1e-9


def test_every_16_bit_value_is_rounded_to_the_nearest_of_8_bits() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(in_8_bits(values), (values / 257).round())


def test_nothing_removed_is_grey_of_no_scale() -> None:
    pixels = np.full((3, 4, 3), 9, np.uint8)
    view, scale = residual_image(pixels, pixels)
    assert (view == 128).all()
    assert scale == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
def test_transparent_pixels_look_as_they_do_on_a_background(
    dtype: Any, channels: int, colour: tuple[int, int, int]
) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top + 1, (9, 8, channels)).astype(dtype)
    flat = flattened(pixels, colour)
    assert flat.dtype == dtype
    assert flat.shape[-1] == (1 if channels == 2 and len({*colour}) == 1 else 3)
    share = pixels[..., -1:] / top
    background = np.array(colour[: flat.shape[-1]]) * (top / 255)
    expected = pixels[..., :-1] * share + background * (1 - share)
    assert abs(flat - expected).max() <= 0.51


def test_opaque_pixels_stay_and_wholly_transparent_ones_become_the_background() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    assert np.array_equal(flattened(pixels, (1, 2, 3)), pixels[..., :3])
    pixels[..., 3] = 0
    assert (flattened(pixels, (1, 2, 3)) == (1, 2, 3)).all()
