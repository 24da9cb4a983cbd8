"""The rivals of the benchmarks are what their names say."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.benchmark_modules import benchmark

METHODS = ("OpenCV non-local means", "scikit-image non-local means", "scikit-image wavelets",
           "scikit-image total variation")  # fmt: skip


@pytest.fixture(scope="module")
def rivals() -> Iterator[ModuleType]:
    with benchmark("rivals") as module:
        yield module


@pytest.mark.parametrize(("name", "parameters"), [("ColourDnCNN", 668_227), ("ColourFFDNet", 852_108)])
def test_a_net_has_the_published_number_of_parameters_and_keeps_the_shape(
    rivals: ModuleType, name: str, parameters: int
) -> None:
    net: nn.Module = getattr(rivals, name)().eval()
    assert sum(weights.numel() for weights in net.parameters()) == parameters
    assert net(torch.rand(2, 3, 10, 14)).shape == (2, 3, 10, 14)


def test_the_methods_are_those_that_are_tested(rivals: ModuleType) -> None:
    assert tuple(rivals.CLASSICAL) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_classical_method_takes_noise_out_of_a_smooth_picture(rivals: ModuleType, name: str) -> None:
    rows = np.linspace(60, 190, 48)
    clean = np.stack([np.add.outer(rows / 2, rows[::-1] / 2)] * 3, axis=-1)
    clean = (clean / 255).astype(np.float32)
    noisy = (clean + np.random.default_rng(0).normal(0, 20 / 255, clean.shape)).astype(np.float32)
    before = np.square(noisy - clean).mean()
    after = {
        setting: np.square(rivals.CLASSICAL[name].restore(noisy, 20.0, setting) - clean).mean()
        for setting in rivals.CLASSICAL[name].settings
    }
    assert min(after.values()) < before / 2
    assert rivals.CLASSICAL[name].restore(noisy, 20.0, 1.0).dtype == np.float32


def matconvnet_file(path: Path, layers: Sequence[tuple[str, Sequence[NDArray[np.float32]]]]) -> Path:
    """Writes layers as MATLAB 7.3 does: weights (H, W, in, out) with reversed axes, behind references."""
    with h5py.File(path, "w") as file:
        places = []
        for number, (kind, weights) in enumerate(layers):
            layer = file.create_group(f"layer{number}")
            layer["type"] = np.frombuffer(kind.encode(), np.uint8).astype(np.uint16)[:, None]
            parts = []
            for part, array in enumerate(weights):
                parts.append(file.create_dataset(f"layer{number}-{part}", data=array.T).ref)
            layer.create_dataset("weights", data=np.array(parts, h5py.ref_dtype)[:, None])
            places.append(layer.ref)
        file.create_group("net").create_dataset("layers", data=np.array(places, h5py.ref_dtype)[:, None])
    return path


def test_published_weights_are_read_in_the_order_of_their_authors(rivals: ModuleType, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(3, 2, 4, 5)).astype(np.float32)  # H, W, in, out; not square
    bias = generator.normal(size=(5, 1)).astype(np.float32)
    path = matconvnet_file(tmp_path / "net.mat", [("conv", [kernel, bias]), ("relu", [])])
    ((found, found_bias),) = rivals.matconvnet_weights(path)
    assert torch.equal(found, torch.from_numpy(kernel).permute(3, 2, 0, 1))
    assert torch.equal(found_bias, torch.from_numpy(bias[:, 0]))


def test_published_ffdnet_numbers_the_pixels_of_a_block_by_columns(
    rivals: ModuleType, tmp_path: Path
) -> None:
    """Each layer hands its first maps on; the first reads one pixel of each block, and the last writes it."""
    place = {"row 0, column 0": 0, "row 1, column 0": 1, "row 0, column 1": 2, "row 1, column 1": 3}
    widths = [13, *[96] * 11, 12]
    layers = []
    for maps_in, maps_out in pairwise(widths):
        kernel = np.zeros((3, 3, maps_in, maps_out), np.float32)
        kernel[1, 1, range(12), range(12)] = 1
        kernel[1, 1, place["row 1, column 0"], place["row 1, column 0"]] = 0 if maps_out == 12 else 1
        layers.append(("conv", [kernel, np.zeros((maps_out, 1), np.float32)]))
    net = rivals.published_ffdnet(matconvnet_file(tmp_path / "net.mat", layers))
    image = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    expected = image.clone()
    expected[:, 0, 1::2, 0::2] = 0  # of the first colour alone
    assert torch.equal(net(image, 15.0), expected)
