"""A restorer and a classifier are trained together as a plain training does it; then the classifier alone.

Both are to keep the answers that the classifier gave before, for clean images.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.checkpoints.card import card
from steadylens.checkpoints.checkpoint import TrainingInfo, load_model
from steadylens.checkpoints.loading import LoadedNet
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.images.preprocessing import Preprocessing
from steadylens.images.tensors import to_float
from steadylens.metrics import psnr, top_k
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.noise.degradation import gaussian_degradation
from steadylens.randomness import derived_generator
from steadylens.training.fusing import JointTuning, fine_tune, tune_together
from steadylens.training.loop import Training
from steadylens.training.objectives import Fidelity, LogSquaredError, PairLoss, pair_objective
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam
from steadylens.training.run import ClassifierRecipe
from tests.tiny_runs import Notebook
from tests.training.fusing.tiny_pairs import TUNING, nets, recipe_with, same, sign_net, state, tiny_run


def plainly_trained(
    data: Dataset, *, stage: str, frozen: bool, tuning: JointTuning, teachers: Sequence[nn.Module] = ()
) -> FusedClassifier:
    """Returns the pair after a training that is set up by hand."""
    restorer, classifier = nets()
    restorer.requires_grad_(not frozen)
    pair = FusedClassifier(restorer, classifier, frozen=frozen)
    before = copy.deepcopy(classifier).eval()
    degradation = TUNING.degradation
    assert degradation is not None
    objective = pair_objective(
        pair,
        data.train.images,
        data.train.labels,
        batch=2,
        degradation=degradation,
        augmentation=TUNING.augmentation,
        loss=PairLoss(
            teachers=teachers or [before],
            consistency=tuning.consistency,
            label_smoothing=0.1,
            fidelity=None if frozen else Fidelity(weight=tuning.fidelity, loss=tuning.loss),
        ),
    )
    factors = () if frozen else (("restorer", tuning.restorer_factor),)
    training = Training(
        pair,
        objective,
        optimization=OneCycleAdam(learning_rate=1e-3, weight_decay=0.01, part_factors=factors),
        steps=4,
        generator=derived_generator(0, stage, device=torch.device("cpu")),
        clip_norm=5.0,
        averaging=0.5,
    )
    for _progress in training.run():
        pass
    return pair.eval()


def test_training_together_is_a_plain_training_of_both_towards_labels_old_answers_and_clean_images(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    tuning = JointTuning(restorer_factor=0.2, fidelity=0.3, loss=LogSquaredError(floor=1e-3), consistency=2)
    path = tmp_path / "pair.safetensors"
    tuned = tune_together(tiny_run(tiny_data), *nets(), path, name="x", tuning=tuning)
    expected = plainly_trained(tiny_data, stage="joint training x", frozen=False, tuning=tuning)
    assert same(state(tuned.module), state(expected))


def test_fine_tuning_with_consistency_is_a_plain_training_of_the_classifier(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    tuned = fine_tune(tiny_run(tiny_data), *nets(), tmp_path / "pair.safetensors", name="x")
    expected = plainly_trained(
        tiny_data, stage="fine-tuning x", frozen=True, tuning=JointTuning(consistency=0.5)
    )
    assert same(state(tuned.module), state(expected))


@pytest.mark.parametrize("frozen", [True, False], ids=["classifier", "both"])
def test_with_teachers_their_answers_are_learned_instead(
    frozen: bool, tiny_data: Dataset, tmp_path: Path
) -> None:
    teachers, stage = [sign_net(5), sign_net(6)], "fine-tuning x" if frozen else "joint training x"
    before, path = [state(teacher) for teacher in teachers], tmp_path / "pair.safetensors"
    tuning = JointTuning(consistency=0.5)
    if frozen:
        tuned = fine_tune(tiny_run(tiny_data), *nets(), path, name="x", teachers=teachers)
    else:
        tuned = tune_together(tiny_run(tiny_data), *nets(), path, name="x", tuning=tuning, teachers=teachers)
    expected = plainly_trained(tiny_data, stage=stage, frozen=frozen, tuning=tuning, teachers=teachers)
    assert same(state(tuned.module), state(expected))
    alone = plainly_trained(tiny_data, stage=stage, frozen=frozen, tuning=tuning)
    assert not same(state(tuned.module), state(alone))
    assert all(map(same, before, map(state, teachers))), "teachers stay as they are"
    assert all(weight.grad is None for teacher in teachers for weight in teacher.parameters())


def test_the_file_names_the_teachers_and_counts_their_training(tiny_data: Dataset, tmp_path: Path) -> None:
    restorer, classifier = nets()
    behind = LoadedNet(name="behind", module=classifier, info=TrainingInfo(seconds=2.0))
    itself = replace(behind, module=copy.deepcopy(classifier))
    info = TrainingInfo(seconds=3.0, data="signs", licence="CC0")
    teachers = (itself, LoadedNet(name="wise", module=sign_net(5), info=info), sign_net(6))
    path = tmp_path / "pair.safetensors"
    run = tiny_run(tiny_data, recipe=recipe_with(replace(TUNING, batch=3)))
    tune_together(run, restorer, behind, path, name="x", teachers=teachers)
    _, about = load_model(path)
    assert about["seconds_before"] == 5.0, "the classifier, which is a teacher, too, counts once"
    assert about["origins"]["teacher 1"] == {"name": "wise", "data": "signs", "licence": "CC0"}
    assert about["origins"].keys() == {"classifier", "teacher 1"}
    told = card(path).markdown()
    assert "It learned the answers of wise, trained on `signs`, under the CC0 licence." in told


@pytest.mark.parametrize("tune", [fine_tune, tune_together])
def test_a_file_of_other_teachers_is_refused(
    tune: Callable[..., LoadedNet], tiny_data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "pair.safetensors"
    tune(tiny_run(tiny_data), *nets(), path, name="x", teachers=[sign_net(5)])
    tune(tiny_run(tiny_data), *nets(), path, name="x", teachers=[sign_net(5)])
    for others in ([sign_net(6)], []):
        with pytest.raises(SettingError, match="was made with other data, settings or seed"):
            tune(tiny_run(tiny_data), *nets(), path, name="x", teachers=others)


def test_both_nets_move_in_place_and_the_restorer_more_slowly(tiny_data: Dataset, tmp_path: Path) -> None:
    moves = []
    for factor in (1.0, 0.1):
        restorer, classifier = nets()
        before = state(restorer), state(classifier)
        tuned = tune_together(
            tiny_run(tiny_data),
            restorer,
            classifier,
            tmp_path / f"{factor}.safetensors",
            name="x",
            tuning=JointTuning(restorer_factor=factor),
        )
        assert tuned.pair().restorer is restorer
        assert tuned.pair().classifier is classifier
        assert not same(before[1], state(classifier))
        assert not any(torch.equal(old, restorer.state_dict()[name]) for name, old in before[0].items())
        old, new = (
            torch.cat([value.flatten() for value in each.values()]) for each in (before[0], state(restorer))
        )
        moves.append(float((new - old).norm()))
    assert moves[1] < 0.3 * moves[0]


def test_the_file_holds_the_pair_and_how_it_does_on_noisy_images(tiny_data: Dataset, tmp_path: Path) -> None:
    notebook, path = Notebook(), tmp_path / "pair.safetensors"
    restorer, classifier = nets()
    front = LoadedNet(name="front", module=restorer, info=TrainingInfo(seconds=3.0, seconds_before=0.5))
    behind = LoadedNet(name="behind", module=classifier, info=TrainingInfo(seconds=2.5))
    tuned = tune_together(tiny_run(tiny_data, notebook), front, behind, path, name="x")
    pair, about = load_model(path)
    assert isinstance(pair, FusedClassifier)
    assert same(state(pair), state(tuned.module))
    assert not tuned.module.training
    assert tuned.info.plain == about
    assert about["stage"] == "joint training x"
    assert about["seconds_before"] == 6.0
    assert (about["steps"], about["samples"]) == (4, 4 * 2 * 2)

    validation = about["validation"]
    clean, labels = to_float(tiny_data.validation.images), tiny_data.validation.labels
    assert validation.keys() == {"accuracy", "noisy_accuracy", "noisy_db", "restored_db", "images"}
    with torch.inference_mode():
        assert validation["accuracy"] == float(top_k(pair.eval()(clean), labels, 1).float().mean())
    assert 15 < validation["noisy_db"] < 22, "30 grey levels of Gaussian noise are 18.6 dB"
    assert 0 <= validation["noisy_accuracy"] <= 1
    assert notebook.updates[-1].note == (
        f"{validation['accuracy']:.1%} right on validation images, {validation['noisy_accuracy']:.1%} with "
        f"noise; {validation['noisy_db']:.1f} -> {validation['restored_db']:.1f} dB on validation images"
    )


def test_validation_sees_the_noise_of_the_recipe_once_on_each_image(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    """Says that versions and clean images are left out, and that restored images are stored as noisy ones."""
    tuned = tune_together(tiny_run(tiny_data), *nets(), tmp_path / "pair.safetensors", name="x")
    order = torch.randperm(
        len(tiny_data.validation), generator=derived_generator(0, "choice of validation images")
    )
    clean = to_float(tiny_data.validation.images[order])
    noise = gaussian_degradation(30)
    noisy = noise(clean, generator=derived_generator(0, "validation", device=torch.device("cpu")))
    with torch.inference_mode():
        restored = (tuned.pair().restorer(noisy).clamp(0, 1) * 255).round() / 255
        right = tuned.module(noisy).argmax(dim=1) == tiny_data.validation.labels[order]
    assert tuned.info.validation["noisy_db"] == pytest.approx(float(psnr(noisy, clean).mean()))
    assert tuned.info.validation["restored_db"] == pytest.approx(float(psnr(restored, clean).mean()))
    assert tuned.info.validation["noisy_accuracy"] == float(right.float().mean())


def test_fine_tuning_with_consistency_leaves_the_restorer_as_it_is(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    restorer, classifier = nets()
    restorer.requires_grad_(True)
    before = state(restorer), state(classifier)
    path = tmp_path / "pair.safetensors"
    tuned = fine_tune(tiny_run(tiny_data), restorer, classifier, path, name="x")
    assert same(before[0], state(restorer))
    assert all(weight.requires_grad and weight.grad is None for weight in restorer.parameters())
    assert not same(before[1], state(classifier))
    assert tuned.info.validation.keys() == {"accuracy", "noisy_accuracy", "images"}
    pair, _ = load_model(path)
    assert same(state(pair), state(tuned.module))


def test_consistency_makes_a_difference_and_another_file(tiny_data: Dataset, tmp_path: Path) -> None:
    plain = recipe_with(replace(TUNING, consistency=0))
    one = fine_tune(tiny_run(tiny_data), *nets(), tmp_path / "one.safetensors", name="x")
    other = fine_tune(tiny_run(tiny_data, recipe=plain), *nets(), tmp_path / "other.safetensors", name="x")
    assert not same(state(one.module), state(other.module))
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        fine_tune(tiny_run(tiny_data), *nets(), tmp_path / "other.safetensors", name="x")


@pytest.mark.parametrize("other", ["restorer", "classifier", "tuning"])
def test_a_file_of_other_nets_or_settings_is_refused(other: str, tiny_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "pair.safetensors"
    tune_together(tiny_run(tiny_data), *nets(), path, name="x")
    restorer, classifier = nets()
    tuning = JointTuning(fidelity=0.06 if other == "tuning" else 0.05)
    with torch.no_grad():
        if other != "tuning":
            next((restorer if other == "restorer" else classifier).parameters()).mul_(1.1)
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        tune_together(tiny_run(tiny_data), restorer, classifier, path, name="x", tuning=tuning)


def own() -> PreparedClassifier:
    return PreparedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4)), Preprocessing(size=48))


SGD = replace(TUNING, optimization=MomentumSgd(learning_rate=0.1))
QUIET = replace(TUNING, degradation=None)


@pytest.mark.parametrize(
    ("pair", "settings", "message"),
    [
        (nets(), SGD, "recipe tiny fine-tunes by MomentumSgd; .* by OneCycleAdam"),
        (nets(), QUIET, "recipe tiny fine-tunes without noise; give its fine_tuning a degradation"),
        ((GaussianSmoothing(), nets()[1]), TUNING, "GaussianSmoothing, has nothing to train; tune the class"),
        ((nn.Identity(), nets()[1]), TUNING, "the restorer, Identity, has nothing to train"),
        ((nets()[0], own()), TUNING, "save the restorer alone"),
    ],
    ids=["SGD", "no noise", "smoothing", "no restorer", "no file"],
)
def test_what_cannot_be_trained_together_is_refused_before_anything_is_changed(
    pair: tuple[nn.Module, nn.Module],
    settings: ClassifierRecipe,
    message: str,
    tiny_data: Dataset,
    tmp_path: Path,
) -> None:
    notebook, run = Notebook(), tiny_run(tiny_data, recipe=recipe_with(settings))
    before = [state(net) for net in pair]
    wishes = [weight.requires_grad for weight in pair[0].parameters()]
    with pytest.raises(SettingError, match=message):
        tune_together(replace(run, observe=notebook), *pair, tmp_path / "pair.safetensors", name="x")
    assert notebook.updates == []
    assert list(tmp_path.iterdir()) == []
    assert all(map(same, before, map(state, pair)))
    assert [weight.requires_grad for weight in pair[0].parameters()] == wishes


def test_fine_tuning_with_consistency_but_without_noise_is_refused(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    run = tiny_run(tiny_data, recipe=recipe_with(QUIET))
    with pytest.raises(SettingError, match="recipe tiny fine-tunes without noise; give its fine_tuning a"):
        fine_tune(run, *nets(), tmp_path / "pair.safetensors", name="x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: JointTuning(restorer_factor=0.0),
        lambda: JointTuning(restorer_factor=math.inf),
        lambda: JointTuning(fidelity=-1.0),
        lambda: JointTuning(consistency=math.nan),
    ],
)
def test_settings_that_are_none_are_refused(make: Callable[[], JointTuning]) -> None:
    with pytest.raises(SettingError, match="the factor must be positive, a weight must be at least 0"):
        make()
