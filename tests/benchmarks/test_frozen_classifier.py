"""The benchmark of a classifier that must not change counts kept answers, and tunes on validation images."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.data.datasets import Dataset
from steadylens.intervals import paired_difference
from steadylens.nets.architecture import restorer_named
from steadylens.training.recipes import SMOKE
from tests.benchmark_modules import benchmark
from tests.tiny_runs import Notebook, run_of


@pytest.fixture(scope="module")
def frozen() -> Iterator[ModuleType]:
    with benchmark("frozen_classifier") as module:
        yield module


class Darkest(nn.Module):
    """Answers which row of an image is the darkest."""

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, H)."""
        return -images.mean(dim=(1, 3))


def test_a_perfect_restorer_keeps_every_answer_and_noise_costs_some(frozen: ModuleType) -> None:
    clean = torch.randint(256, (200, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    wanted = Darkest()(clean).argmax(dim=1)

    class Perfect(nn.Module):
        """Returns the clean images in their order, whatever it gets."""

        place = 0

        def forward(self, images: Tensor) -> Tensor:
            start = self.place % len(clean)
            self.place += len(images)
            return clean[start : start + len(images)]

    assert frozen.kept(Perfect(), Darkest(), clean, wanted).same.all()
    shares = frozen.kept(nn.Identity(), Darkest(), clean, wanted).same.double().mean(dim=1)
    assert shares[0] == 1
    assert shares[-1] < shares[2] < 1


def test_a_cell_has_the_share_and_its_paired_difference(frozen: ModuleType) -> None:
    alone = torch.zeros(len(frozen.SIGMAS), 50, dtype=torch.bool)
    alone[:, :30] = True
    own = alone.clone()
    own[-1, 30:40], own[-1, 0] = True, False
    cells = frozen.Kept(same=own).cells(frozen.Kept(same=alone))
    assert cells[f"sigma {frozen.SIGMAS[0]}"] == "60.00"
    difference, lower, upper = (100 * value for value in paired_difference(10, 1, 50))
    assert cells[f"sigma {frozen.SIGMAS[-1]}"] == f"78.00 ({difference:+.2f}, {lower:+.2f} to {upper:+.2f})"
    less = frozen.Kept(same=own).less(frozen.Kept(same=alone))
    assert less[f"sigma {frozen.SIGMAS[-1]}"] == f"{difference:+.2f} ({lower:+.2f} to {upper:+.2f})"
    assert less[f"sigma {frozen.SIGMAS[0]}"].startswith("+0.00 (-")


def test_a_restorer_is_tuned_at_each_rate_and_the_best_one_chosen(
    frozen: ModuleType, tiny_data: Dataset, tmp_path: Path
) -> None:
    run = run_of(tiny_data, Notebook(), recipe=SMOKE)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4)).requires_grad_(False)
    restorer = restorer_named("L3")
    before = {name: value.clone() for name, value in restorer.state_dict().items()}
    best, net, shares = frozen.tuned(run, restorer, classifier, 8, tmp_path)
    assert list(shares) == ["not tuned", *(f"{rate:g}" for rate in frozen.RATES)]
    assert float(shares[best]) == max(map(float, shares.values()))
    assert (net is restorer) == (best == "not tuned")
    assert all(torch.equal(value, before[name]) for name, value in restorer.state_dict().items())


@pytest.mark.parametrize("tune", [(), ("second", "first")])
def test_a_classifier_gets_a_row_for_each_restorer_and_one_for_what_was_tuned(
    frozen: ModuleType, tiny_data: Dataset, tmp_path: Path, tune: tuple[str, ...]
) -> None:
    run = run_of(tiny_data, Notebook(), recipe=SMOKE)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4)).requires_grad_(False)
    restorers = {"first": restorer_named("L3"), "second": restorer_named("Dong")}
    given = Namespace(tune=tune, images=6, choice_images=4, work=tmp_path)
    found = frozen.measured("net", run, classifier, restorers, given)
    rows = [row["restorer"] for row in found["net: answers kept in per cent of 6"]]
    assert rows[:3] == ["none", "first", "second"]
    tuned_rows = rows[3:]
    for row in tuned_rows:
        restorer, tuned_at, rate = row.partition(", tuned without labels at ")
        assert tuned_at
        assert restorer in tune
        assert rate in {f"{each:g}" for each in frozen.RATES}
    assert [row["restorer"] for row in found["net: the same less that of first"]] == ["second"]
    less_before = found.get("net: the same, tuned less untuned", [])
    assert [row["restorer"] for row in less_before] == tuned_rows
    less_first = found.get("net: the same, tuned, less that of first, tuned", [])
    assert [row["restorer"].partition(",")[0] for row in less_first] == (["second"] if tune else [])
    trials = found.get("net: answers kept after tuning at each rate, in per cent, validation images", [])
    assert [row["restorer"] for row in trials] == list(tune)
    assert all(len(row) == 2 + len(frozen.RATES) for row in trials)  # its name, untuned, and each rate


def test_a_restorer_that_was_tuned_before_is_not_tuned_again(
    frozen: ModuleType, tiny_data: Dataset, tmp_path: Path
) -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4)).requires_grad_(False)
    restorer = restorer_named("L3")
    before, after = Notebook(), Notebook()
    first, again = (
        frozen.tuned(run_of(tiny_data, notebook, recipe=SMOKE), restorer, classifier, 8, tmp_path)
        for notebook in (before, after)
    )
    assert first[2] == again[2]
    assert len([*tmp_path.glob("kept-*.npy")]) == 1 + len(frozen.RATES)
    assert "advanced" in before.states
    assert "advanced" not in after.states


def test_the_net_of_timm_is_trained_once_and_then_loaded(
    frozen: ModuleType, tiny_data: Dataset, tmp_path: Path
) -> None:
    run = run_of(tiny_data, Notebook(), recipe=SMOKE)
    trained, loaded = (frozen.synthetic_classifier(run, 2, tmp_path) for _ in range(2))
    assert fingerprint(loaded) == fingerprint(trained)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(images), trained(images))
    assert trained(images).shape == (2, len(tiny_data.class_names))
    assert not any(value.requires_grad for net in (trained, loaded) for value in net.parameters())
