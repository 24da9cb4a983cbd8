"""An image processor of transformers is imitated, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from steadylens.errors import CheckpointError, SettingError
from steadylens.fitting import Fit
from steadylens.processors import image_processing

MOST, MEAN = 2.01 / 255, 0.1 / 255
"""How far a pixel may be off, and all of them on average: a tensor is rounded otherwise than by Pillow."""

BICUBIC = Image.Resampling.BICUBIC

PROCESSORS: dict[str, Any] = {
    "squash:32": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
    "squash:36:bicubic": lambda: transformers.DeiTImageProcessor(
        size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}
    ),
    "crop:45:bicubic": lambda: transformers.ConvNextImageProcessor(
        size={"shortest_edge": 40}, crop_pct=0.875
    ),
    "squash:384:bicubic": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "crop:32:bicubic": lambda: transformers.BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "crop:40": lambda: transformers.MobileNetV1ImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
}


def photograph(width: int, height: int) -> Image.Image:
    """Returns a photograph of edges and smooth parts, in which a shift by a pixel is seen."""
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), BICUBIC)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_squares_are_those_of_the_processor(name: str, tmp_path: Path) -> None:
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    found = image_processing(tmp_path)
    assert found.fit == Fit.parse(f"{name}:floor")
    read: Any = transformers.AutoImageProcessor.from_pretrained
    again = read(tmp_path)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.mean, found.std))
    for shape in ((90, 120), (131, 100), (102, 101)):
        image = photograph(*shape)
        mine = torch.from_numpy(np.array(found.fit.fitted(image, found.size))).permute(2, 0, 1) / 255
        theirs = again(image, return_tensors="pt")["pixel_values"][0] * std + mean
        assert theirs.shape == mine.shape
        apart = (mine - theirs).abs()
        assert float(apart.max()) <= MOST
        assert float(apart.mean()) <= MEAN


def test_mean_and_deviation_are_those_of_the_processor(tmp_path: Path) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    transformers.ViTImageProcessor(image_mean=mean, image_std=std).save_pretrained(tmp_path)
    found = image_processing(tmp_path)
    assert found.size == 224
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.std == pytest.approx(std, abs=1e-6)


def test_a_processor_that_swaps_channels_is_refused(tmp_path: Path) -> None:
    transformers.MobileViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(SettingError, match="does more than make images square, scale and normalise them"):
        image_processing(tmp_path)


def test_a_fit_that_is_not_known_can_be_said_by_hand(tmp_path: Path) -> None:
    transformers.LevitImageProcessor().save_pretrained(tmp_path)  # it has a ratio of its own
    with pytest.raises(SettingError, match=r"in a way that is not made here, .*; give a fit"):
        image_processing(tmp_path)
    fit = Fit(keeps_shape=True, side=256, interpolation=BICUBIC)
    assert image_processing(tmp_path, fit=fit).fit is fit


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no image processor; save that of the classifier"):
        image_processing(tmp_path)
