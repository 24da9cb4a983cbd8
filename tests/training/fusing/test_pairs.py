"""A pair is written whole, whether nothing was trained or the restorer, and never twice."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.checkpoints.card import card_of
from steadylens.checkpoints.checkpoint import TrainingInfo, load_model, save_model
from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.images.preprocessing import Preprocessing
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.nets.third_party import timm_classifier
from steadylens.progress import Update
from steadylens.training.fusing import fuse_as_they_are, fuse_label_free
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run
from tests.training.fusing.tiny_pairs import same, state


def pair_run(data: Dataset, news: list[Update]) -> Run:
    recipe = replace(SMOKE, fine_tuning=replace(SMOKE.fine_tuning, steps=2, batch=2))
    return Run(data=data, recipe=recipe, seed=0, device=torch.device("cpu"), observe=news.append)


def nets() -> tuple[RestorationNet, PreparedClassifier]:
    """Returns the same restorer and foreign classifier each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return RestorationNet(depth=3), timm_classifier("test_resnet", classes=4, size=48)


def test_a_pair_as_it_is_comes_back_from_its_file(tiny_data: Dataset, tmp_path: Path) -> None:
    restorer, classifier = nets()
    before = state(FusedClassifier(restorer, classifier))
    path = tmp_path / "pair.safetensors"
    known = LoadedNet(name="front", module=restorer, info=TrainingInfo(seconds=3.0, seconds_before=0.5))
    fused = fuse_as_they_are(pair_run(tiny_data, []), known, classifier, path, name="pair")
    loaded, about = load_model(path)
    assert same(before, state(fused.module))
    assert fused.info.plain == about
    assert same(before, state(loaded))
    assert about["classes"] == list(tiny_data.class_names)
    assert (about["stage"], about["seconds"]) == ("fusing pair", 3.5)


def test_a_pair_is_not_written_twice_and_not_over_another(tiny_data: Dataset, tmp_path: Path) -> None:
    news: list[Update] = []
    path = tmp_path / "pair.safetensors"
    for _ in range(2):
        fuse_as_they_are(pair_run(tiny_data, news), *nets(), path, name="pair")
    assert [update.state for update in news] == ["finished", "skipped"]
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        fuse_as_they_are(pair_run(tiny_data, news), GaussianSmoothing(), nets()[1], path, name="pair")


def test_label_free_tuning_writes_the_pair_and_the_restorer_beside(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    news: list[Update] = []
    restorer, classifier = nets()
    before = state(classifier)
    fused = fuse_label_free(
        pair_run(tiny_data, news), restorer, classifier, tmp_path / "pair.safetensors", name="pair"
    )
    (pair, about), (alone, alone_about) = (
        load_model(tmp_path / name) for name in ("pair.safetensors", "pair-restorer.safetensors")
    )
    assert isinstance(pair, FusedClassifier)
    assert same(before, state(pair.classifier))
    assert same(state(alone), state(pair.restorer))
    assert not same(state(alone), state(nets()[0]))
    assert same(state(pair), state(fused.module))
    assert about["seconds"] == alone_about["seconds"] > 0
    fuse_label_free(pair_run(tiny_data, news), *nets(), tmp_path / "pair.safetensors", name="pair")
    assert [update.state for update in news[-2:]] == ["skipped", "skipped"]


def test_a_pair_that_cannot_be_saved_is_refused_before_it_is_trained(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    own = PreparedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4)), Preprocessing(size=48))
    with pytest.raises(SettingError, match="save the restorer alone"):
        fuse_label_free(pair_run(tiny_data, []), nets()[0], own, tmp_path / "pair.safetensors", name="pair")
    assert list(tmp_path.iterdir()) == []


def test_a_sign_net_can_be_paired_too(tiny_data: Dataset, tmp_path: Path) -> None:
    fuse_as_they_are(
        pair_run(tiny_data, []), nn.Identity(), SignNet(classes=4), tmp_path / "pair.safetensors", name="pair"
    )
    loaded, _ = load_model(tmp_path / "pair.safetensors")
    assert isinstance(loaded, FusedClassifier)


def test_the_card_of_a_pair_that_was_only_put_together_names_no_training(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "pair.safetensors"
    fuse_as_they_are(pair_run(tiny_data, []), *nets(), path, name="pair")
    text = card_of(load_net(path)).markdown()
    assert "It was trained" not in text
    assert "The training data are not known." in text
    assert tiny_data.source not in text


def test_a_foreign_file_in_the_place_of_a_pair_is_refused_before_it_is_trained(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "pair.safetensors"
    save_model(path, GaussianSmoothing(), about={})
    with pytest.raises(SettingError, match="was not written by this tuning; choose another place"):
        fuse_label_free(pair_run(tiny_data, []), *nets(), path, name="pair")
    assert list(tmp_path.iterdir()) == [path]
