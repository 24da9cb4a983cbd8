"""The benchmark of the estimate of noise judges photographs that no training on their folder learns from."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from steadylens.data.datasets import load_dataset
from steadylens.inference.inspecting import NoiseLevel
from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def noise_level() -> Iterator[ModuleType]:
    with benchmark("noise_level") as module:
        yield module


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(20):
        Image.new("RGB", (256, 256), (10 * number, 0, 0)).save(folder / f"{number:02}.png")
    Image.new("RGB", (512, 512), (255, 0, 0)).save(folder / "lossy.jpg")
    return folder


def test_only_photographs_for_validation_are_judged(noise_level: ModuleType, photographs: Path) -> None:
    data = load_dataset(f"photographs:{photographs}", seed=0)
    reds = {int(image[0, 0, 0]) for image in data.validation.images}
    found = noise_level.unseen(photographs)
    assert [10 * int(path.stem) for path in found] == sorted(reds - {254, 255})
    assert len(found) in (1, 2)


def test_noise_is_judged_as_it_is_strong(noise_level: ModuleType, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:192, :192]
    pixels = (128 + 60 * np.sin(rows / 40) * np.cos(columns / 50)).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "smooth.png")
    levels = {
        (kind, grey): level
        for kind, grey, level in noise_level.judged("unet-gtsrb", [tmp_path / "smooth.png"], [])
    }
    assert levels["none", 0].grey < 2
    assert levels["Gaussian", 25].grey == pytest.approx(25, rel=0.2)
    assert levels["enlarged", 10].coarse_grey == pytest.approx(10, rel=0.2)


def test_a_row_tells_the_median_the_spread_and_the_shares(noise_level: ModuleType) -> None:
    levels = [
        NoiseLevel(grey=value, coarse_grey=value, change_grey=0.0) for value in np.arange(0.0, 4.1, 0.1)
    ]
    row = noise_level.row("Gaussian", 2, [*levels, NoiseLevel()])
    assert row["noise, 8-bit"] == "Gaussian, 2"
    assert row["photographs"] == 42
    assert row["by the net"] == "2 (0.2 to 3.8)"
    assert row["judged clean"] == f"{100 * 10 / 42:.0f} %"
    assert row["called coarse"] == "0 %"
