"""Several teachers answer in turns; those that do not fit are refused before anything is changed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import TrainingInfo
from steadylens.checkpoints.loading import LoadedNet
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.images.preprocessing import Fit
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.nets.third_party import timm_classifier
from steadylens.noise.degradation import Degradation
from steadylens.training import objectives
from steadylens.training.fusing import JointTuning, fine_tune, tune_together
from steadylens.training.fusing.teachers import fitting
from steadylens.training.objectives import PairLoss, pair_objective
from tests.tiny_runs import Notebook
from tests.training.fusing.tiny_pairs import TUNING, nets, recipe_with, same, sign_net, state, tiny_run


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


each_way = pytest.mark.parametrize("tune", [fine_tune, tune_together])


def resnet(**settings: Any) -> PreparedClassifier:
    return timm_classifier("test_resnet", classes=4, **settings)


class Own(nn.Module):
    """A classifier that this package knows nothing of."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) @ torch.ones(3, 4)


def named(*names: str) -> LoadedNet:
    return LoadedNet(name="wise", module=sign_net(5), info=TrainingInfo(classes=names))


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ([sign_net(5, classes=5)], "teacher 1 tells 5 classes apart, coloured has 4"),
        ([sign_net(5), LoadedNet(name="wise", module=sign_net(6, classes=5))], "wise tells 5 classes apart"),
        ([resnet(size=32)], "teacher 1 reads images of 32 pixels, these have 48; give teachers of the class"),
        (
            [resnet(size=48, fit=Fit.parse("crop:60"))],
            "teacher 1 reads photographs fitted by crop:60, these were fitted by squash; give teachers that",
        ),
        ([named("green", "red", "blue", "grey")], "class 0 is 'green' for wise and 'red' in coloured"),
        ([Own()], r"teacher 1, of the class Own, cannot be told from other nets, .*\.register_net"),
        ([sign_net(5), sign_net(5)], "teacher 2 and teacher 1 are the same net; give each teacher once"),
        ([sign_net(seed) for seed in range(3)], "3 teachers, but a step has only 2 images"),
        ([GaussianSmoothing()], "teacher 1 is no classifier: the classifier returns Tensor, not logits"),
        (["sign-gtsrb"], "a net is 'sign-gtsrb', it must be a module or a LoadedNet"),
    ],
    ids=[
        "classes", "classes of the second", "size", "fit", "order", "own module", "twice", "too many",
        "restorer", "name",
    ],
)  # fmt: skip
@each_way
def test_teachers_that_do_not_fit_are_refused_before_anything_is_changed(
    tune: Callable[..., LoadedNet], teachers: list[Any], message: str, tiny_data: Dataset, tmp_path: Path
) -> None:
    pair, notebook = nets(), Notebook()
    before = [state(net) for net in pair]
    with pytest.raises(SettingError, match=message):
        tune(tiny_run(tiny_data, notebook), *pair, tmp_path / "pair.safetensors", name="x", teachers=teachers)
    assert all(map(same, before, map(state, pair)))
    assert not any(weight.requires_grad for weight in pair[0].parameters())
    assert list(tmp_path.iterdir()) == []


def test_teachers_whose_answers_have_no_weight_are_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    path, teachers = tmp_path / "pair.safetensors", [sign_net(5)]
    quiet = tiny_run(tiny_data, recipe=recipe_with(replace(TUNING, consistency=0)))
    with pytest.raises(SettingError, match="no effect, since consistency of recipe tiny is 0; set it to a"):
        fine_tune(quiet, *nets(), path, name="x", teachers=teachers)
    tuning = JointTuning(consistency=0)
    with pytest.raises(SettingError, match="no effect, since consistency of the JointTuning is 0; set it"):
        tune_together(tiny_run(tiny_data), *nets(), path, name="x", tuning=tuning, teachers=teachers)


def test_it_is_told_if_the_order_of_a_teachers_classes_is_not_known(tiny_data: Dataset) -> None:
    notebook = Notebook()
    teacher = named("stop", "yield", "left", "right")
    found = fitting(tiny_run(tiny_data, notebook), [teacher], weight=1.0, weight_of="it")
    assert found == (teacher,)
    (update,) = notebook.updates
    assert (update.stage, update.state) == ("wise", "noted")
    assert "no class name in common" in update.note


@each_way
def test_a_pair_or_plain_layers_may_be_a_teacher(
    tune: Callable[..., LoadedNet], tiny_data: Dataset, tmp_path: Path
) -> None:
    found = [tune(tiny_run(tiny_data), *nets(), tmp_path / "alone.safetensors", name="x")]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4))
    for number, teacher in enumerate((FusedClassifier(GaussianSmoothing(), sign_net(5)), plain)):
        before = state(teacher)
        path = tmp_path / f"{number}.safetensors"
        found.append(tune(tiny_run(tiny_data), *nets(), path, name="x", teachers=[teacher]))
        assert same(state(teacher), before)
    states = [state(net.module) for net in found]
    assert not any(same(states[one], states[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


class Always(nn.Module):
    """Gives the same answer for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_several_teachers_pull_towards_the_mean_of_their_probabilities(tiny_data: Dataset) -> None:
    teachers = [Always(2.0, 0.0, -1.0, 0.5), Always(-1.0, 1.0, 0.0, 0.0), Always(0.0, 0.0, 3.0, 1.0)]
    answer = Always(0.1, 0.2, 0.3, 0.4)
    gradients = []
    for consistency in (0.0, 2.0):
        objective = pair_objective(
            FusedClassifier(nn.Identity(), answer),
            tiny_data.train.images,
            tiny_data.train.labels,
            batch=6,
            degradation=Degradation(versions=2),
            loss=PairLoss(teachers=teachers, consistency=consistency),
        )
        loss = torch.stack([*objective(seeded(2))]).sum()
        gradients.append(torch.autograd.grad(loss, answer.logits)[0])
    # The gradient of KL(p || q) with respect to the logits of q is q - p.
    mean = torch.stack([teacher.logits.detach().softmax(dim=0) for teacher in teachers]).mean(dim=0)
    expected = 2.0 * (answer.logits.detach().softmax(dim=0) - mean)
    torch.testing.assert_close(gradients[1] - gradients[0], expected)


@pytest.mark.parametrize(
    ("count", "images", "first"), [(1, 3, 2), (2, 5, 1), (3, 4, 2), (3, 7, 4), (3, 2, 1)]
)
def test_teachers_take_turns_by_the_place_of_an_image_in_the_whole_batch(
    count: int, images: int, first: int
) -> None:
    teachers = [sign_net(seed) for seed in range(count)]
    shown = torch.rand((images, 3, 48, 48), generator=seeded(1))
    found = objectives._answers(teachers, shown, first=first)
    for place, image in enumerate(shown):
        with torch.inference_mode():
            expected = teachers[(first + place) % count](image[None])[0]
        torch.testing.assert_close(found[place], expected)


def test_a_loss_without_a_teacher_is_refused() -> None:
    with pytest.raises(SettingError, match="there are no teachers; give at least one"):
        PairLoss(teachers=[])


def test_a_loss_that_rewards_other_answers_than_the_teachers_is_refused() -> None:
    with pytest.raises(SettingError, match="consistency is -1, it must be at least 0"):
        PairLoss(teachers=[nn.Identity()], consistency=-1)
