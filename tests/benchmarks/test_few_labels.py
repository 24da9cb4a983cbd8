"""The benchmark of few labels gives every way the same labelled tracks, and goes on where it stopped."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from steadylens.data.datasets import Dataset, ImageSet
from tests.benchmark_modules import benchmark


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with benchmark("few_labels") as module:
        recipe = module.RECIPE
        short = {
            part: replace(getattr(recipe, part), steps=2, batch=4, augmentation=None)
            for part in ("classifier", "fine_tuning")
        }
        monkeypatch.setattr(module, "RECIPE", replace(recipe, **short))
        monkeypatch.setattr(module, "TRACKS", (1, 2))
        monkeypatch.setattr(module, "default_device", lambda: torch.device("cpu"))
        yield module


@pytest.fixture
def signs() -> ImageSet:
    """Returns images of two classes: five tracks of three images, and two tracks of one."""
    tracks = torch.tensor([track for track in range(5) for _ in range(3)] + [10, 11])
    images = torch.zeros(len(tracks), 3, 48, 48, dtype=torch.uint8)
    return ImageSet(images=images, labels=(tracks >= 10).long(), tracks=tracks)


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_whole_tracks_of_every_class_are_labelled(
    few_labels: ModuleType, signs: ImageSet, count: int
) -> None:
    kept = few_labels.few_tracks(signs, count, seed=0)
    for label, tracks in ((0, 5), (1, 2)):
        found = kept.tracks[kept.labels == label]
        assert len(found.unique()) == min(count, tracks)
        for track in found.unique():
            assert (found == track).sum() == (signs.tracks == track).sum()


def test_each_seed_draws_tracks_of_its_own(few_labels: ModuleType, signs: ImageSet) -> None:
    drawn = [tuple(few_labels.few_tracks(signs, 2, seed=seed).tracks.tolist()) for seed in range(8)]
    assert drawn == [tuple(few_labels.few_tracks(signs, 2, seed=seed).tracks.tolist()) for seed in range(8)]
    assert len(set(drawn)) > 2


def test_all_ways_are_measured_and_no_net_is_trained_twice(
    few_labels: ModuleType, tiny_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=2, test_images=8)
    rows = found["accuracy"]
    assert [row["tracks a class"] for row in rows] == 5 * [1] + 5 * [2]
    assert len({row["sign net trained on"] for row in rows}) == 5
    for row in rows:
        for sigma in few_labels.SIGMAS:
            mean, deviation = (float(part) for part in row[f"sigma {sigma}"].split(" \N{PLUS-MINUS SIGN} "))
            assert 0 <= mean <= 100
            assert deviation >= 0
    assert capsys.readouterr().out.count("finished") == 2 * 2 * 4  # counts, seeds, trained nets
    again = few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=2, test_images=8)
    assert again == found
    assert "finished" not in capsys.readouterr().out
