"""PNG files of any depth and number of channels hold what other libraries read from them."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from steadylens.metadata import Metadata
from steadylens.pngwriting import write_png


def png(levels: NDArray[Any], metadata: Metadata | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, levels, metadata or Metadata())
    return file.getvalue()


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    channels=st.integers(1, 4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    smooth=st.booleans(),
)
def test_opencv_reads_what_was_written(
    height: int, width: int, channels: int, dtype: Any, smooth: bool
) -> None:
    levels = (
        np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    )
    if smooth:  # so that other filters serve best
        levels = np.cumsum(levels // 60, axis=int(width % 2)).astype(dtype)
    read = cv2.imdecode(np.frombuffer(png(levels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    expected = {1: levels[..., 0], 2: levels[..., [0, 0, 0, -1]], 3: levels[..., ::-1]}.get(channels)
    if channels == 4:
        expected = levels[..., [2, 1, 0, 3]]
    assert expected is not None
    assert np.array_equal(read, expected)


def test_an_image_of_several_strips_is_read_by_pillow(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (1100, 1500, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(levels))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.array(image), levels)


def test_a_smooth_image_packs_about_as_well_as_by_pillow() -> None:
    rows, columns = np.mgrid[:200, :200]
    levels = np.dstack([rows, columns, (rows + columns) // 2]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    assert len(png(levels)) < 1.2 * len(buffer.getvalue())


def test_the_metadata_is_read_by_pillow() -> None:
    metadata = Metadata(
        icc_profile=b"profile", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>", dpi=(300, 150),
        chunks=((b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Title\0a sign"), (b"sRGB", b"\0")),
    )  # fmt: skip
    with Image.open(io.BytesIO(png(np.zeros((2, 2, 3), np.uint8), metadata))) as image:
        image.load()
        assert image.info["icc_profile"] == b"profile"
        assert image.info["exif"] == b"Exif\0\0" + metadata.exif
        assert image.info["xmp"] == b"<x/>"
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["Title"] == "a sign"
        assert "srgb" not in image.info  # it must not stand beside a profile
