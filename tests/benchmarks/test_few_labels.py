"""The benchmark of few labels gives every way the same labelled tracks, and goes on where it stopped."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType

import pytest
import torch

from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import SettingError
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
    found = few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=range(2), test_images=8)
    rows = found["accuracy"]
    assert [row["tracks a class"] for row in rows] == 5 * [1] + 5 * [2]
    assert len({row["sign net trained on"] for row in rows}) == 5
    for row in rows:
        for sigma in few_labels.SIGMAS:
            mean, deviation = (float(part) for part in row[f"sigma {sigma}"].split(" \N{PLUS-MINUS SIGN} "))
            assert 0 <= mean <= 100
            assert deviation >= 0
    assert capsys.readouterr().out.count("finished") == 2 * 2 * 4  # counts, seeds, trained nets
    again = few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=range(2), test_images=8)
    assert again == found
    assert "finished" not in capsys.readouterr().out


def test_what_each_seed_gave_is_kept_and_more_seeds_are_added(
    few_labels: ModuleType, tiny_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"
    few_labels.main(tiny_data, "l3-gtsrb", tmp_path / "here", seeds=[0], test_images=8, kept=kept)
    capsys.readouterr()
    both = few_labels.main(
        tiny_data, "l3-gtsrb", tmp_path / "elsewhere", seeds=range(2), test_images=8, kept=kept
    )
    assert capsys.readouterr().out.count("finished") == 2 * 4, "only the second seed is trained"
    entries = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(entry["tracks"], entry["seed"]) for entry in entries] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for row in both["accuracy"]:
        by_seed = [
            entry["accuracies"][row["sign net trained on"]][1]
            for entry in entries
            if entry["tracks"] == row["tracks a class"]
        ]
        assert row["sigma 15"] == f"{fmean(by_seed):.2f} \N{PLUS-MINUS SIGN} {stdev(by_seed):.2f}"


def test_what_was_measured_with_other_settings_is_not_mixed_in(
    few_labels: ModuleType, tiny_data: Dataset, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.jsonl"
    few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=[0], test_images=8, kept=kept)
    before = kept.read_text()
    with pytest.raises(SettingError, match=r"kept\.jsonl was measured with .*'test images': 8.* not with"):
        few_labels.main(tiny_data, "l3-gtsrb", tmp_path, seeds=[0], test_images=4, kept=kept)
    assert kept.read_text() == before


def test_gains_are_differences_of_the_same_seed(few_labels: ModuleType) -> None:
    ways = ("clean images", "noisy images", "noisy images, together with the restorer")
    found = {
        (count, seed): dict(
            zip(ways, ([9.0] * 4, [50.0 + 10 * seed] * 4, [53.0 + 12 * seed] * 4), strict=True)
        )
        for count in few_labels.TRACKS
        for seed in (0, 1)
    }
    (row, _) = few_labels.tables(found, [0, 1])["gain over noisy images alone"]
    assert row["sign net trained on"] == "noisy images, together with the restorer"
    assert row["sigma 40"] == f"+4.00 \N{PLUS-MINUS SIGN} {stdev([3, 5]):.2f}"
