"""A GPU gives the results of the CPU, and all experiments run on it; skipped without a GPU."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from steadylens.checkpoints.checkpoint import load_state, save_state
from steadylens.data.datasets import Dataset
from steadylens.evaluation.workflows import reproduce
from steadylens.metrics import psnr
from steadylens.nets.architecture import restorer_named
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.noise.named import NAMED, named_degradation
from steadylens.progress import Update
from steadylens.records import read_records
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run
from tests.mapped import mapped
from tests.tiny_runs import sign_training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")

STEPS = 6


def on_gpu(data: Dataset) -> Dataset:
    parts = {name: getattr(data, name).to("cuda") for name in ("train", "validation", "test")}
    return replace(data, **parts)


@pytest.mark.parametrize("name", ["L11", "L3", "Dong"])
def test_a_net_restores_as_on_the_cpu(name: str) -> None:
    net = restorer_named(name, padding="reflect").eval()
    generator = torch.Generator().manual_seed(1)
    initialize_xavier(net, generator=generator)
    images = torch.rand(4, 3, 40, 56, generator=generator)
    with torch.inference_mode():
        expected = net(images)
        assert torch.allclose(net.to("cuda")(images.to("cuda")).cpu(), expected, atol=5e-3)


def test_smoothing_is_as_on_the_cpu() -> None:
    smoothing = GaussianSmoothing()
    images = torch.rand(2, 3, 20, 30)
    expected = smoothing(images)
    assert torch.allclose(smoothing.to("cuda")(images.to("cuda")).cpu(), expected, atol=2e-3)


def test_gaussian_noise_has_its_strength() -> None:
    grey = torch.full((50, 3, 48, 48), 0.5, device="cuda")
    noisy = gaussian_degradation(20)(grey, generator=torch.Generator("cuda").manual_seed(1))
    assert psnr(noisy, grey).mean().item() == pytest.approx(22.1, abs=0.1)  # 20 log10(255 / 20)


@pytest.mark.parametrize("name", NAMED)
def test_every_kind_of_noise_is_drawn_on_the_gpu(name: str) -> None:
    grey = torch.full((200, 3, 32, 32), 0.5, device="cuda")
    degrade = named_degradation(name, 20)
    noisy = degrade(grey, generator=torch.Generator("cuda").manual_seed(1))
    assert noisy.is_cuda
    assert torch.equal(noisy, degrade(grey, generator=torch.Generator("cuda").manual_seed(1)))
    measured = (noisy - grey).mul(255).square().mean().sqrt().item()
    assert 5 < measured < 19 if name == "jpeg" else measured == pytest.approx(20, abs=1)


def test_degradation_repeats_with_its_generator_and_keeps_the_contract() -> None:
    images = torch.rand(64, 3, 48, 48, device="cuda")
    first, again = (
        Degradation(versions=2)(images, generator=torch.Generator("cuda").manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert first.shape == (128, 3, 48, 48)
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_training_that_was_cut_off_goes_on_with_the_same_draws(tiny_data: Dataset, tmp_path: Path) -> None:
    data = on_gpu(tiny_data)
    whole, first, second = (
        sign_training(data, optimization=OneCycleAdam(learning_rate=1e-3), steps=STEPS, device="cuda")
        for _ in range(3)
    )
    losses = [progress.loss for progress in whole.run()]
    resumed = [progress.loss for progress in islice(first.run(), 3)]
    save_state(tmp_path / "a.training", *first.state())
    second.resume(*load_state(tmp_path / "a.training"))
    resumed += [progress.loss for progress in second.run()]
    # A GPU adds up in an order of its own, so equal draws give nearly equal losses.
    assert resumed == pytest.approx(losses, rel=0.02)


def test_images_that_stay_in_a_file_train_as_those_in_the_memory_of_the_gpu(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    adam, curves = OneCycleAdam(learning_rate=1e-3), []
    for data in (tiny_data, mapped(tiny_data, tmp_path)):
        training = sign_training(on_gpu(data), optimization=adam, steps=STEPS, device="cuda")
        curves.append([progress.loss for progress in training.run()])
    assert curves[1] == pytest.approx(curves[0], rel=0.02)


def test_the_whole_paper_runs(tiny_data: Dataset, tmp_path: Path) -> None:
    news: list[Update] = []
    recipe = replace(SMOKE, nets=("L5", "L3"), front="L5")
    run = Run(data=on_gpu(tiny_data), recipe=recipe, seed=0, device=torch.device("cuda"), observe=news.append)
    page = reproduce(run, tmp_path)
    assert page.is_file()
    records = read_records(tmp_path / "records.jsonl")
    assert {row.provenance.device for row in records} == {torch.cuda.get_device_name()}
    news.clear()
    assert reproduce(run, tmp_path) == page
    assert {update.state for update in news} == {"skipped"}
