"""Photographs are cut into tiles without their labels, and split by whole photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadylens.data.datasets import load_dataset
from steadylens.data.photographs import list_tiles
from steadylens.data.sources import Selection
from steadylens.errors import DatasetError, SettingError
from steadylens.images.tensors import read_image
from steadylens.training.recipes import recipe_named
from steadylens.training.run import Run
from steadylens.training.stages import train_classifier, train_restorer


def paint(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Returns a folder of two lossless photographs, one of them deeper, and a JPEG."""
    root = tmp_path / "photographs"
    paint(root / "a.png", 50, 33, seed=1)
    paint(root / "deep" / "b.png", 32, 16, seed=2)
    paint(root / "c.jpg", 70, 64, seed=3)
    return root


def test_lossless_tiles_are_the_pixels_around_the_centre(photographs: Path) -> None:
    data = load_dataset(f"photographs:{photographs}", size=16)
    whole = read_image(photographs / "a.png")
    # 50 x 33 pixels hold three tiles by two, with one pixel over on the left.
    expected = [whole[:, y : y + 16, x : x + 16] for y in (0, 16) for x in (1, 17, 33)]
    images = torch.cat([data.train.images, data.validation.images])
    for tile in expected:
        assert (images == tile).all(dim=(1, 2, 3)).sum() == 1


def test_photographs_stored_with_loss_are_averaged_over_squares_of_2_and_of_3_pixels(
    photographs: Path,
) -> None:
    listing = list_tiles(photographs, 16)
    boxes = [tile.box for tile in listing.photographs if tile.path == "c.jpg"]
    assert boxes == [
        *((x, y, x + 32, y + 32) for y in (0, 32) for x in (3, 35)),
        (11, 8, 59, 56),
    ]
    data = load_dataset(f"photographs:{photographs}", size=16)
    whole = read_image(photographs / "c.jpg").float()
    images = torch.cat([data.train.images, data.validation.images]).float()
    for part, shrink in ((whole[:, 0:32, 3:35], 2), (whole[:, 8:56, 11:59], 3)):
        averaged = torch.nn.functional.avg_pool2d(part, shrink)
        assert ((images - averaged).abs() < 1).all(dim=(1, 2, 3)).sum() == 1


def test_whole_photographs_are_for_validation_and_none_for_testing(photographs: Path) -> None:
    data = load_dataset(f"photographs:{photographs}", size=16)
    train, validation = set(data.train.tracks.tolist()), set(data.validation.tracks.tolist())
    assert len(train) == 2
    assert len(validation) == 1
    assert not train & validation
    assert len(data.test) == 0
    assert len(data.train) + len(data.validation) == 6 + 2 + 5
    assert data.class_names == ()
    assert data.counts() == []


def test_photographs_turned_by_exif_are_cut_as_they_are_seen(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 48, 3), np.uint8)).save(tmp_path / "b.png", exif=exif)
    boxes = [tile.box for tile in list_tiles(tmp_path, 16).photographs if tile.path == "b.png"]
    assert boxes == [(0, y, 16, y + 16) for y in (0, 16, 32)]
    assert len(load_dataset(f"photographs:{tmp_path}", size=16).train) in (1, 3)


def test_tiles_are_of_256_pixels_unless_another_size_is_given(tmp_path: Path) -> None:
    for number in range(2):
        paint(tmp_path / f"{number}.png", 300, 260, seed=number)
    data = load_dataset(f"photographs:{tmp_path}")
    assert data.train.images.shape == (1, 3, 256, 256)


def test_what_is_too_small_or_no_image_is_noted(photographs: Path) -> None:
    paint(photographs / "small.jpg", 31, 40)
    (photographs / "raw.cr2").write_bytes(b"no format that is read")
    data = load_dataset(f"photographs:{photographs}", size=16)
    assert any("too small for a tile: 1, small.jpg" in note for note in data.notes)
    assert any("1 .cr2" in note for note in data.notes)


def test_a_changed_photograph_is_read_again(photographs: Path) -> None:
    before = load_dataset(f"photographs:{photographs}", size=16).fingerprint
    paint(photographs / "a.png", 50, 33, seed=9)
    assert load_dataset(f"photographs:{photographs}", size=16).fingerprint != before


def test_damaged_photographs_are_named_or_left_out(photographs: Path) -> None:
    (photographs / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"bad\.png.*--skip-damaged"):
        load_dataset(f"photographs:{photographs}", size=16)
    data = load_dataset(f"photographs:{photographs}", size=16, selection=Selection(skip_damaged=True))
    assert any("cannot be read" in note and "bad.png" in note for note in data.notes)


@pytest.mark.parametrize("size", [17, 300])
def test_a_folder_with_too_few_large_photographs_says_how_large_they_must_be(
    tmp_path: Path, size: int
) -> None:
    paint(tmp_path / "a.png", 20, 20)
    with pytest.raises(DatasetError, match=f"at least {size} pixels.*{2 * size}.*at least two"):
        load_dataset(f"photographs:{tmp_path}", size=size)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        load_dataset(f"photographs:{tmp_path / 'nowhere'}")


def test_a_restorer_learns_from_photographs_and_a_classifier_does_not(
    photographs: Path, tmp_path: Path
) -> None:
    data = load_dataset(f"photographs:{photographs}", size=32, selection=Selection(validation_share=0.4))
    run = Run(data=data, recipe=recipe_named("smoke"), seed=0, device=torch.device("cpu"))
    net = train_restorer(run, "UNet", tmp_path / "net.safetensors")
    assert net.info.validation["images"] == len(data.validation)
    assert net.info.classes == ()
    with pytest.raises(SettingError, match="without labels"):
        train_classifier(run, tmp_path / "classifier.safetensors")
