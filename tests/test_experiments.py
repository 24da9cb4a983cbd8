"""The experiments measure the chosen images, keep what they measured, and know when it is out of date."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.datasets import Dataset, ImageSet
from steadylens.experiments import (
    chosen_tests,
    curve_of,
    example_densities,
    measure_networks,
    measure_restorers,
)
from steadylens.recipes import SMOKE
from steadylens.records import Accuracy, Comparison, Hits, Restoring, Stability
from steadylens.restoration import GaussianSmoothing
from steadylens.run import Run, Update


@pytest.fixture
def news() -> list[Update]:
    return []


@pytest.fixture
def run(news: list[Update]) -> Run:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = ImageSet(images=pixels, labels=torch.arange(12) % 3, tracks=torch.arange(12))
    data = Dataset(
        train=images, validation=images, test=images, class_names=("a", "b", "c"), source="made up",
        fingerprint="0123456789ab", notes=(),
    )  # fmt: skip
    return Run(data=data, recipe=SMOKE, seed=0, device=torch.device("cpu"), observe=news.append)


class Linear(nn.Module):
    """A small classifier of 8x8 images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(192, 3, generator=generator), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def states(news: list[Update]) -> set[str]:
    return {update.state for update in news}


def restorers() -> dict[str, nn.Module]:
    return {"identity": nn.Identity(), "smoothing": GaussianSmoothing(sigma_pixels=0.5)}


def test_restorers_are_measured_by_strength_and_against_each_other(run: Run, tmp_path: Path) -> None:
    records = measure_restorers(run, restorers(), tmp_path)
    restoring = [row for row in records if isinstance(row, Restoring)]
    assert [(row.network, row.sigma_grey, row.samples) for row in restoring] == [
        (name, sigma, 4) for sigma in (0, 25) for name in restorers()
    ]
    assert [row.network for row in records if isinstance(row, Hits)] == list(restorers())


def test_networks_are_measured_clean_and_under_noise(run: Run, tmp_path: Path) -> None:
    records = measure_networks(run, {"one": Linear(1), "two": Linear(2)}, tmp_path)
    assert [(row.network, row.k) for row in records if isinstance(row, Accuracy)] == [
        ("one", 1), ("one", 2), ("two", 1), ("two", 2)
    ]  # fmt: skip
    assert [(row.first, row.second) for row in records if isinstance(row, Comparison)] == [("one", "two")]
    cells = {
        (row.noise, row.network, row.sigma_grey): row.samples
        for row in records
        if isinstance(row, Stability) and row.population == "all"
    }
    assert cells == {
        (noise, name, sigma): images
        for noise, images in (("clipped, 8-bit", 8), ("unclipped", 4))
        for name in ("one", "two")
        for sigma in (1, 40)
    }


def test_what_was_measured_is_not_measured_again(run: Run, news: list[Update], tmp_path: Path) -> None:
    networks = {"one": Linear(1)}
    first = measure_restorers(run, restorers(), tmp_path) + measure_networks(run, networks, tmp_path)
    assert "skipped" not in states(news)
    news.clear()
    again = measure_restorers(run, restorers(), tmp_path) + measure_networks(run, networks, tmp_path)
    assert states(news) == {"skipped"}
    assert again == first


def test_other_weights_are_measured_anew(run: Run, news: list[Update], tmp_path: Path) -> None:
    measure_networks(run, {"one": Linear(1)}, tmp_path)
    news.clear()
    measure_networks(run, {"one": Linear(2)}, tmp_path)
    assert "skipped" not in states(news)


def test_other_settings_are_measured_anew(run: Run, news: list[Update], tmp_path: Path) -> None:
    measure_restorers(run, restorers(), tmp_path)
    news.clear()
    evaluation = replace(run.recipe.evaluation, psnr_sigmas_grey=(10,))
    other = replace(run, recipe=replace(run.recipe, evaluation=evaluation))
    records = measure_restorers(other, restorers(), tmp_path)
    assert {row.sigma_grey for row in records if isinstance(row, Restoring)} == {10}
    skipped = [update.stage for update in news if update.state == "skipped"]
    assert skipped == ["hits and contraction"]  # on which those strengths have no bearing


def test_renamed_nets_are_measured_under_their_new_names(run: Run, tmp_path: Path) -> None:
    measure_restorers(run, restorers(), tmp_path)
    renamed = dict(zip(("new", "newer"), restorers().values(), strict=True))
    records = measure_restorers(run, renamed, tmp_path)
    assert {row.network for row in records if isinstance(row, Restoring | Hits)} == {"new", "newer"}


def test_the_choice_of_test_images_depends_on_the_seed_alone(run: Run) -> None:
    first, again = chosen_tests(run, 5), chosen_tests(run, 5)
    assert torch.equal(first.tracks, again.tracks)
    assert len(set(first.tracks.tolist())) == 5
    assert first.tracks.tolist() == sorted(first.tracks.tolist())
    assert any(chosen_tests(replace(run, seed=s), 5).tracks.tolist() != first.tracks.tolist() for s in (1, 2))


def test_a_larger_choice_holds_the_smaller(run: Run) -> None:
    assert set(chosen_tests(run, 4).tracks.tolist()) < set(chosen_tests(run, 8).tracks.tolist())


@pytest.mark.parametrize("count", [None, 12, 100])
def test_all_test_images_are_chosen_where_no_fewer_are_wished(run: Run, count: int | None) -> None:
    assert chosen_tests(run, count) is run.data.test


def test_a_curve_is_what_the_file_of_a_net_says(run: Run) -> None:
    about = {"curve": [[1, 0.5, 0.1], [2, 0.25, 0.05]], "samples": 20, "seconds": 3.0, "stage": "classifier"}
    about |= {"commit": "of then", "versions": {"torch": "of then"}}
    curve = curve_of(run, about)
    assert (curve.provenance.commit, curve.provenance.versions) == ("of then", (("torch", "of then"),))
    assert (curve.steps, curve.losses, curve.learning_rates) == ((1, 2), (0.5, 0.25), (0.1, 0.05))
    assert (curve.stage, curve.samples, curve.seconds) == ("classifier", 20, 3.0)


def test_the_densities_of_figure_1_are_not_cut_off() -> None:
    densities = example_densities()
    assert len({name for name, _, _ in densities}) == 5
    assert not any(degradation.clip or degradation.quantize for _, _, degradation in densities)
