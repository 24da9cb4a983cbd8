"""The rivals of the benchmarks are what their names say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "rivals.py"
METHODS = ("OpenCV non-local means", "scikit-image non-local means", "scikit-image wavelets",
           "scikit-image total variation")  # fmt: skip


@pytest.fixture(scope="module")
def rivals() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rivals", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rivals"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
    noisy = (clean + np.random.default_rng(0).normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8)
    before = np.square(noisy - clean).mean()
    after = {
        setting: np.square(rivals.CLASSICAL[name].restore(noisy, 20.0, setting) - clean).mean()
        for setting in rivals.CLASSICAL[name].settings
    }
    assert min(after.values()) < before / 2
    assert rivals.CLASSICAL[name].restore(noisy, 20.0, 1.0).dtype == np.uint8
