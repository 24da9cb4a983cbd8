"""A file becomes another: restored, in its own format, with all that it said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens.decoding import MOST_PIXELS
from steadylens.errors import ImageError
from steadylens.filerestoration import restore_file
from steadylens.inference import restorer_of
from steadylens.restoration import GaussianSmoothing


def test_a_turned_photograph_is_restored_upright_with_its_alpha_and_what_it_said(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 15, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "maker"
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif, icc_profile=b"profile" * 30)
    told: list[tuple[int, int]] = []
    notes = restore_file(
        tmp_path / "a.png", tmp_path / "out" / "b.png", restorer_of(GaussianSmoothing(), tile=13),
        view=tmp_path / "out" / "view.png", format=None, most_pixels=MOST_PIXELS,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (10, 15)
        assert np.array_equal(np.array(image)[..., 3], np.rot90(pixels)[..., 3])
        assert not np.array_equal(np.array(image)[..., :3], np.rot90(pixels)[..., :3])
        assert image.info["icc_profile"] == b"profile" * 30
        assert (image.getexif()[0x0112], image.getexif()[0x010F]) == (1, "maker")
    with Image.open(tmp_path / "out" / "view.png") as view:
        assert (view.mode, view.size) == ("RGB", (10, 15))
    assert told[-1][0] == told[-1][1] > 1
    assert notes[-1].startswith("view.png shows what was removed: nothing at 128")


def test_a_file_of_several_images_is_not_replaced_by_its_first(tmp_path: Path) -> None:
    pages = [Image.new("L", (15, 15), level) for level in (10, 200)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    before = path.read_bytes()

    def restored(target: Path) -> tuple[str, ...]:
        return restore_file(
            path, target, restorer_of(GaussianSmoothing()), view=None, format=None,
            most_pixels=MOST_PIXELS, progress=lambda done, total: None,
        )  # fmt: skip

    with pytest.raises(ImageError, match=r"a\.tif holds several images, of which the first alone would stay"):
        restored(path)
    assert path.read_bytes() == before
    assert restored(tmp_path / "b.tif") == ("of several images in the file, the first is restored",)
    assert path.read_bytes() == before
