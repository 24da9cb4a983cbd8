"""The benchmark of training steps counts what a step computes, and tells how much of its time that takes."""

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.training.recipes import UNET
from tests.benchmark_modules import benchmark


@pytest.fixture(scope="module")
def steps() -> Iterator[ModuleType]:
    with benchmark("steps") as module:
        yield module


def test_a_step_computes_what_its_patches_need(steps: ModuleType) -> None:
    last = UNET.unet.parts[-1]
    with FlopCounterMode(display=False) as counter:
        RestorationUNet()(torch.rand(1, 3, last.patch, last.patch)).sum().backward()
    found = steps.measured("U-Net, signs", timed=2, profiled=1, rate=100.0)
    gflop = 1e-9 * last.batch * counter.get_total_flops()
    assert found["GFLOP of convolutions and products"] == pytest.approx(gflop)
    assert found["share of matrix rate"] == pytest.approx(gflop / found["seconds a step"] / 100)
    assert 0.2 < found["their share of the time"] < 1


def test_of_a_long_training_some_steps_are_run_and_of_its_phases_the_last(steps: ModuleType) -> None:
    recipe = steps.short(UNET, 9)
    assert recipe.unet == replace(UNET.unet.parts[-1], steps=9)
    assert {recipe.classifier.steps, recipe.fine_tuning.steps, recipe.noise_training.steps} == {9}
