"""A stage tells its steps and where its weights come from; a finished one is not made again."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steadylens.checkpoints.checkpoint import fingerprint, load_model
from steadylens.data.datasets import Dataset
from steadylens.errors import DivergenceError, SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import DongNet, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.training.fusing import fine_tune
from steadylens.training.optimizers import MomentumSgd
from steadylens.training.recipes import FAST
from steadylens.training.run import Recipe
from steadylens.training.stages import (
    VALIDATION_IMAGES,
    _validate_classifier,
    train_classifier,
    train_restorer,
)
from tests.tiny_runs import STEPS, TINY, Notebook, run_of
from tests.training.tiny_stages import RESTORER, STAGES, Stage, each_stage, sign_net

CLASSIFIER = STAGES["classifier"]


@each_stage
def test_a_name_that_other_commands_would_not_know_is_refused_before_the_training(
    tiny_data: Dataset, tmp_path: Path, stage: Stage
) -> None:
    told = Notebook()
    with pytest.raises(SettingError, match=r"net\.pth is to hold weights; .* ends in \.safetensors"):
        stage(run_of(tiny_data, told), tmp_path / "net.pth")
    assert told.states == []
    assert list(tmp_path.iterdir()) == []


@each_stage
def test_a_finished_stage_is_skipped_and_says_so(tiny_data: Dataset, tmp_path: Path, stage: Stage) -> None:
    path = tmp_path / "a.safetensors"
    first, second = Notebook(), Notebook()
    net = stage(run_of(tiny_data, first, seconds=1000), path)
    before = path.stat()
    again = stage(run_of(tiny_data, second, seconds=1000), path)
    assert first.states == ["started", *["advanced"] * STEPS, "finished"]
    (update,) = second.updates
    assert (update.state, update.stage) == ("skipped", first.updates[0].stage)
    assert update.note == f"trained before, {first.updates[-1].note}"
    assert "on validation images" in update.note
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    kept, about = load_model(path)
    assert fingerprint(again.module) == fingerprint(net.module) == fingerprint(kept)
    assert net.info.plain == again.info.plain == about
    assert not net.module.training
    assert not again.module.training


def test_validation_images_are_of_all_classes_alike(tiny_data: Dataset, tmp_path: Path) -> None:
    order = tiny_data.train.labels.argsort()
    many = tiny_data.train.subset(order.repeat_interleave(2 * VALIDATION_IMAGES // len(order)))
    data = replace(tiny_data, validation=many)
    seen: list[torch.Tensor] = []

    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.mean(dim=(2, 3)))
            return images

    net = FusedClassifier(Watching(), sign_net())
    _validate_classifier(run_of(data, Notebook()), net, None)
    assert len(torch.cat(seen)) == VALIDATION_IMAGES
    assert len(set(map(tuple, torch.cat(seen).tolist()))) == len(tiny_data.train)


def test_a_net_without_validation_images_is_not_validated(tiny_data: Dataset, tmp_path: Path) -> None:
    data = replace(tiny_data, validation=tiny_data.validation.subset([]))
    notebook = Notebook()
    train_restorer(run_of(data, notebook), "L3", tmp_path / "a.safetensors")
    assert notebook.updates[-1].note == "not validated"


@each_stage
def test_the_stage_bears_its_name_and_tells_every_step(
    tiny_data: Dataset, tmp_path: Path, stage: Stage, request: pytest.FixtureRequest
) -> None:
    notebook = Notebook()
    stage(run_of(tiny_data, notebook), tmp_path / "a.safetensors")
    names = {update.stage for update in notebook.updates}
    assert names == {request.node.callspec.id}
    steps = [(update.done, update.total) for update in notebook.updates if update.state == "advanced"]
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]


def about_of(data: Dataset, path: Path, stage: Stage, *, recipe: Recipe = TINY) -> dict[str, Any]:
    stage(run_of(data, Notebook(), recipe=recipe), path)
    return load_model(path)[1]


def test_a_file_tells_where_its_weights_come_from(tiny_data: Dataset, tmp_path: Path) -> None:
    about = about_of(tiny_data, tmp_path / "a.safetensors", CLASSIFIER)
    assert about["stage"] == "classifier"
    assert (about["recipe"], about["seed"], about["data"]) == ("tiny", 0, "coloured")
    assert about["classes"] == ["red", "green", "blue", "yellow"]
    assert (about["steps"], about["samples"]) == (STEPS, STEPS * 2)
    assert len(about["curve"]) == STEPS
    assert about["seconds"] > 0
    assert "torch" in about["versions"]
    assert 0 <= about["validation"]["accuracy"] <= 1
    assert about["validation"]["images"] == len(tiny_data.validation)


@pytest.mark.parametrize(
    ("net", "kind"), [("L3", RestorationNet), ("Dong", DongNet), ("UNet", RestorationUNet)]
)
def test_a_restorer_is_trained_with_validation_numbers(
    tiny_data: Dataset, tmp_path: Path, net: str, kind: type[nn.Module]
) -> None:
    path = tmp_path / "a.safetensors"
    trained = train_restorer(run_of(tiny_data, Notebook()), net, path)
    assert isinstance(trained.module, kind)
    validation = load_model(path)[1]["validation"]
    assert trained.info.validation == validation
    assert 10 < validation["noisy_db"] < 60
    assert 0 < validation["restored_db"] < 60
    assert 1 <= validation["images"] <= len(tiny_data.validation)


def test_a_training_that_goes_on_from_a_loaded_net_tells_what_it_began_as(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    first = train_restorer(run_of(tiny_data, Notebook()), "L3", tmp_path / "first.safetensors")
    weights = copy.deepcopy(first.module.state_dict())
    still = replace(TINY.restorer, optimization=MomentumSgd(learning_rate=1e-12))
    run = run_of(tiny_data, Notebook(), recipe=replace(TINY, restorer=still))
    again = train_restorer(run, first, tmp_path / "again.safetensors")
    assert again.info.origins["restorer"]["name"] == "first"
    assert again.info.origins["restorer"]["data"] == tiny_data.source
    assert again.info.seconds_before == first.seconds
    for name, value in again.module.state_dict().items():
        assert torch.allclose(value, weights[name], atol=1e-6)


def test_a_net_whose_last_layer_is_zero_starts_as_the_identity(tiny_data: Dataset, tmp_path: Path) -> None:
    still = replace(TINY.restorer, steps=1, optimization=MomentumSgd(learning_rate=1e-12))
    recipe = replace(TINY, restorer=replace(still, zero_last_layer=True))
    validation = about_of(tiny_data, tmp_path / "a.safetensors", RESTORER, recipe=recipe)["validation"]
    assert validation["restored_db"] == pytest.approx(validation["noisy_db"])
    recipe = replace(TINY, restorer=replace(still, zero_last_layer=False))
    validation = about_of(tiny_data, tmp_path / "b.safetensors", RESTORER, recipe=recipe)["validation"]
    assert validation["restored_db"] < validation["noisy_db"] - 1


def test_a_u_net_starts_as_the_identity_whatever_the_recipe_says_of_the_last_layer(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    still = replace(
        TINY.unet, steps=1, optimization=MomentumSgd(learning_rate=1e-12), zero_last_layer=False, gain=9.0
    )
    recipe = replace(TINY, unet=still)
    validation = about_of(tiny_data, tmp_path / "a.safetensors", STAGES["restorer UNet"], recipe=recipe)[
        "validation"
    ]
    assert validation["restored_db"] == pytest.approx(validation["noisy_db"])


def test_a_u_net_is_trained_by_its_own_recipe_by_name_and_as_it_is(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    recipe = replace(TINY, unet=replace(TINY.unet, steps=2, batch=3))
    given = RestorationUNet()
    given.initialize(generator=torch.Generator().manual_seed(1))
    each: tuple[str | nn.Module, ...] = "UNet", given
    for number, net in enumerate(each):
        trained = train_restorer(
            run_of(tiny_data, Notebook(), recipe=recipe), net, tmp_path / f"{number}.safetensors"
        )
        assert (trained.info.steps, trained.info.samples) == (2, 6)
        assert trained.module.get_parameter("tail.weight").any(), "it has learned"
    assert trained.module is given


def test_the_weights_of_a_u_net_depend_on_the_seed_of_the_run(tiny_data: Dataset, tmp_path: Path) -> None:
    nets = [
        train_restorer(run_of(tiny_data, Notebook(), seed=seed), "UNet", tmp_path / f"{number}.safetensors")
        for number, seed in enumerate((1, 1, 2))
    ]
    prints = [fingerprint(net.module) for net in nets]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("stage", ["restorer UNet", "joint training both"])
def test_a_file_holds_the_averaged_weights_if_the_recipe_averages(
    tiny_data: Dataset, tmp_path: Path, stage: str
) -> None:
    abouts, prints = [], []
    for averaging in (None, 0.9):
        recipe = replace(
            TINY,
            unet=replace(TINY.unet, averaging=averaging),
            fine_tuning=replace(TINY.fine_tuning, averaging=averaging),
        )
        path = tmp_path / f"{averaging}.safetensors"
        abouts.append(about_of(tiny_data, path, STAGES[stage], recipe=recipe))
        prints.append(fingerprint(load_model(path)[0]))
    assert abouts[0]["curve"] == abouts[1]["curve"]
    assert prints[0] != prints[1]


def test_samples_count_the_noisy_versions(tiny_data: Dataset, tmp_path: Path) -> None:
    noisy = replace(TINY.restorer.degradation, versions=3)
    recipe = replace(TINY, restorer=replace(TINY.restorer, degradation=noisy))
    assert about_of(tiny_data, tmp_path / "a.safetensors", RESTORER, recipe=recipe)["samples"] == STEPS * 6


def test_all_nets_are_validated_on_the_same_noise(tiny_data: Dataset, tmp_path: Path) -> None:
    noisy = {
        about_of(tiny_data, tmp_path / f"{index}.safetensors", STAGES[name])["validation"]["noisy_db"]
        for index, name in enumerate(("restorer L3", "restorer Dong"))
    }
    assert len(noisy) == 1


def test_both_classifiers_start_from_the_same_weights(tiny_data: Dataset, tmp_path: Path) -> None:
    still = replace(
        TINY.classifier, steps=1, optimization=MomentumSgd(learning_rate=1e-20), standardize=False
    )
    recipe = replace(
        TINY, classifier=still, noise_training=replace(still, degradation=FAST.restorer.degradation)
    )
    run = run_of(tiny_data, Notebook(), recipe=recipe)
    clean = train_classifier(run, tmp_path / "clean.safetensors").module
    noisy = train_classifier(run, tmp_path / "noisy.safetensors", noisy=True).module
    torch.testing.assert_close(clean.state_dict(), noisy.state_dict(), rtol=0, atol=1e-12)
    expected = tiny_data.train.images.float().mean(dim=0) / 255
    torch.testing.assert_close(clean.get_buffer("mean"), expected)


def test_a_recipe_says_whether_the_classifier_standardizes(tiny_data: Dataset, tmp_path: Path) -> None:
    recipe = replace(TINY, classifier=replace(TINY.classifier, standardize=True))
    path = tmp_path / "standardizing.safetensors"
    train_classifier(run_of(tiny_data, Notebook(), recipe=recipe), path)
    net, _ = load_model(path)
    assert isinstance(net, SignNet)
    assert net.standardize
    assert net.mean.eq(0.5).all()  # it subtracts none, so none is taken


def test_a_wider_classifier_is_a_stage_of_its_own(tiny_data: Dataset, tmp_path: Path) -> None:
    run, path = run_of(tiny_data, Notebook()), tmp_path / "wider.safetensors"
    wider = train_classifier(run, path, width=1.5)
    kept, about = load_model(path)
    assert isinstance(kept, SignNet)
    assert fingerprint(kept) == fingerprint(wider.module)
    assert (kept.width, about["stage"]) == (1.5, "classifier, 1.5 times as wide")
    assert parameters(kept) > 2 * parameters(SignNet(classes=4))
    noisy = train_classifier(run, tmp_path / "noisy.safetensors", noisy=True, width=0.2)
    assert noisy.info.plain["stage"] == "classifier, noise-augmented, 0.2 times as wide"
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        train_classifier(run, path)


def test_a_classifier_as_wide_as_published_is_the_same_stage_as_ever(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    run, path = run_of(tiny_data, Notebook()), tmp_path / "a.safetensors"
    train_classifier(run, path)
    again = Notebook()
    train_classifier(replace(run, observe=again), path, width=1)
    assert again.states == ["skipped"]


def test_fine_tuning_leaves_the_restorer_and_moves_the_classifier(tiny_data: Dataset, tmp_path: Path) -> None:
    restorer, classifier = RestorationNet(depth=3), sign_net()
    before = fingerprint(restorer), fingerprint(classifier)
    path = tmp_path / "a.safetensors"
    fused = fine_tune(run_of(tiny_data, Notebook()), restorer, classifier, path, name="L3").pair()
    assert fingerprint(fused.restorer) == before[0]
    assert fingerprint(fused.classifier) != before[1]
    assert fused.classifier is classifier


def test_a_training_that_diverges_leaves_no_file(tiny_data: Dataset, tmp_path: Path) -> None:
    wild = replace(TINY.classifier, optimization=MomentumSgd(learning_rate=1e30), clip_norm=None)
    run = run_of(tiny_data, Notebook(), recipe=replace(TINY, classifier=wild), seconds=1000)
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        train_classifier(run, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_net_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no net 'L4'; choose one of"):
        train_restorer(run_of(tiny_data, Notebook()), "L4", tmp_path / "a.safetensors")
