"""The benchmark of precisions tells the loss of mean PSNR on the same noise, in every engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def precisions() -> Iterator[ModuleType]:
    with benchmark("precisions") as module:
        yield module


def db(clean: np.ndarray, image: np.ndarray) -> float:
    psnr: Callable[..., float] = peak_signal_noise_ratio
    return psnr(clean, image, data_range=1)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    rows, columns = np.mgrid[:64, :72]
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        pixels = 128 + 100 * np.sin((rows + columns * number) / 15)
        Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(path)
    return paths


def test_the_loss_is_that_of_the_mean_psnr_of_clipped_images(
    precisions: ModuleType, photographs: list[Path]
) -> None:
    def exact(images: Tensor) -> Tensor:
        return images * 0.9 + 0.05

    def coarse(images: Tensor) -> Tensor:
        return (images * 9).round() / 9

    engines = {"exact": exact, "coarse": coarse}
    rows = precisions.costs(engines, photographs)
    assert [row["engine"] for row in rows] == ["exact", "coarse"]
    for case in precisions.CASES:
        losses = []
        for pair in precisions.noisy_pairs(photographs, case):
            clean = pair.clean.double().numpy()
            best, worse = (engine(pair.noisy).clamp(0, 1).double().numpy() for engine in (exact, coarse))
            losses.append(db(clean, best) - db(clean, worse))
        column = f"loss at sigma {case.sigma_grey}"
        assert rows[0][column] == "0.000"
        assert float(rows[1][column]) == pytest.approx(np.mean(losses), abs=1e-3)


def test_all_engines_of_a_net_are_measured_and_bfloat16_costs_little(
    precisions: ModuleType, photographs: list[Path]
) -> None:
    engines = precisions.engines_of("l3-gtsrb", photographs[2:])
    losses = {row["engine"]: float(row["loss at sigma 25"]) for row in precisions.costs(engines, photographs)}
    assert list(losses) == list(engines)
    for engine in ("PyTorch, bfloat16", "OpenVINO, bfloat16"):
        assert abs(losses[engine]) < 0.1
    for engine in ("ONNX Runtime, int8", "OpenVINO, int8"):
        assert losses[engine] < 5
