"""Tuning without labels makes a frozen classifier keep its answers, and moves the restorer alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import load_model
from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.images.preprocessing import Preprocessing
from steadylens.images.tensors import to_float
from steadylens.nets.classification import PreparedClassifier
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.training.fusing import ConsistencyTuning, tune_restorer
from steadylens.training.loop import Training
from steadylens.training.objectives import Fidelity, LogSquaredError, consistency_objective
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.places import block_generator, step_seed
from steadylens.training.recipes import SMOKE
from steadylens.training.run import ClassifierRecipe, Recipe, Run
from tests import tiny_runs
from tests.tiny_runs import Notebook
from tests.training.fusing.tiny_pairs import same, state

NOISE = gaussian_degradation(60)


LOSS = LogSquaredError()


TUNING = ClassifierRecipe(steps=4, batch=2, optimization=OneCycleAdam(learning_rate=1e-3), degradation=NOISE)


TINY = replace(SMOKE, name="tiny", fine_tuning=TUNING)


def run_of(data: Dataset, notebook: Notebook | None = None, *, recipe: Recipe = TINY) -> Run:
    return tiny_runs.run_of(data, notebook or Notebook(), recipe=recipe)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return make()


def classifier() -> PreparedClassifier:
    """Returns an untrained classifier with running statistics and dropout, in train mode."""

    def layers() -> nn.Module:
        pooled = (nn.AvgPool2d(8), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*pooled, nn.Dropout(0.5), nn.Linear(8 * 16, 4))

    return PreparedClassifier(
        seeded(layers), Preprocessing(size=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    ).train()


def restorer() -> RestorationNet:
    net = seeded(lambda: RestorationNet(depth=3, padding="reflect"))
    assert isinstance(net, RestorationNet)
    return net


@pytest.mark.parametrize("fidelity", [0.0, 0.3])
def test_the_objective_is_the_divergence_from_the_answers_on_clean_images_and_the_restorers_own_loss(
    fidelity: float, tiny_data: Dataset
) -> None:
    net, front = classifier().eval().requires_grad_(False), restorer()
    degradation = Degradation(families=NOISE.families, versions=3)
    draw = consistency_objective(
        front,
        net,
        tiny_data.train.images,
        batch=7,
        degradation=degradation,
        fidelity=Fidelity(weight=fidelity, loss=LOSS),
    )
    parts = list(draw(torch.Generator().manual_seed(5)))
    assert len(parts) == 3, "21 noisy images in tens"

    generator = block_generator(step_seed(torch.Generator().manual_seed(5)), 0)
    chosen = torch.randint(len(tiny_data.train.images), (7,), generator=generator)
    clean = to_float(tiny_data.train.images[chosen])
    noisy = degradation(clean, generator=generator)
    clean = clean.repeat_interleave(3, dim=0)
    wanted, found = net(clean).softmax(dim=1), net(front(noisy)).softmax(dim=1)
    divergence = (wanted * (wanted / found).log()).sum(dim=1).mean()
    own = ((front(noisy) - clean).square().mean(dim=(1, 2, 3)) + 1e-5).log().mean()
    torch.testing.assert_close(sum(parts), divergence + fidelity * own)


def test_nothing_is_left_to_learn_where_the_classifier_repeats_itself(tiny_data: Dataset) -> None:
    net, front = classifier().eval().requires_grad_(False), nn.Identity()
    clean = replace(NOISE, clean_share=1.0)
    draw = consistency_objective(
        front, net, tiny_data.train.images, batch=4, degradation=clean, fidelity=Fidelity(weight=0, loss=LOSS)
    )
    assert float(sum(draw(torch.Generator().manual_seed(5)))) == pytest.approx(0, abs=1e-6)


def test_labels_are_not_looked_at(tiny_data: Dataset, tmp_path: Path) -> None:
    nets = []
    for name, labels in (
        ("one.safetensors", tiny_data.train.labels),
        ("other.safetensors", tiny_data.train.labels.flip(0)),
    ):
        data = replace(tiny_data, train=replace(tiny_data.train, labels=labels))
        tuned = tune_restorer(run_of(data), restorer(), classifier(), tmp_path / name, name="pair")
        nets.append(tuned.module)
    assert same(state(nets[0]), state(nets[1]))


class NearestColour(nn.Module):
    """Answers with the class whose mean colour is nearest to the image's."""

    colours: Tensor

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        members = [images[labels == label] for label in range(int(labels.max()) + 1)]
        self.register_buffer("colours", torch.stack([some.mean(dim=(0, 2, 3)) for some in members]))

    def forward(self, images: Tensor) -> Tensor:
        return -50 * (images.mean(dim=(2, 3))[:, None] - self.colours).square().sum(dim=2)


def test_answers_are_kept_more_often_after_tuning(tiny_data: Dataset) -> None:
    """Says so of a restorer that changes colours, and of noise that was not trained on."""
    net = NearestColour(to_float(tiny_data.train.images), tiny_data.train.labels)
    front = restorer()
    with torch.no_grad():
        front.get_parameter("layers.4.bias").copy_(torch.tensor([0.5, -0.5, 0.0]))

    def kept() -> int:
        clean = to_float(tiny_data.test.images).repeat(8, 1, 1, 1)
        noisy = NOISE(clean, generator=torch.Generator().manual_seed(8))
        with torch.inference_mode():
            return int((net(front(noisy)).argmax(dim=1) == net(clean).argmax(dim=1)).sum())

    before = kept()
    objective = consistency_objective(
        front,
        net,
        tiny_data.train.images,
        batch=8,
        degradation=NOISE,
        fidelity=Fidelity(weight=0.1, loss=LOSS),
    )
    training = Training(
        front, objective, optimization=OneCycleAdam(learning_rate=3e-3), steps=30,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    for _progress in training.run():
        pass
    assert before <= 40
    assert kept() >= 56, "of 64"


def test_slight_noise_and_clean_images_are_added_to_the_noise_of_the_recipe() -> None:
    noise = ConsistencyTuning(slight_share=0.25, clean_share=0.1).noise(replace(NOISE, versions=2))
    assert noise.families[1:] == NOISE.families
    assert noise.weights[0] / sum(noise.weights) == pytest.approx(0.25)
    assert (noise.clean_share, noise.versions) == (0.1, 2)
    drawn = noise.draw(torch.rand(400, 3, 2, 2), generator=torch.Generator().manual_seed(2))
    assert 0.17 < float((drawn.family == 0).float().mean()) < 0.28
    assert float(drawn.strength_grey[drawn.family == 0].max()) <= 6


def test_a_recipe_that_shows_more_clean_images_keeps_them() -> None:
    assert ConsistencyTuning(clean_share=0.1).noise(replace(NOISE, clean_share=0.5)).clean_share == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConsistencyTuning(slight_share=1.0),
        lambda: ConsistencyTuning(clean_share=-0.1),
        lambda: ConsistencyTuning(fidelity=-1.0),
    ],
)
def test_settings_that_are_none_are_refused(make: Callable[[], ConsistencyTuning]) -> None:
    wanted = r"slight_share must lie in \[0, 1\), clean_share in \[0, 1\], and fidelity must be at least 0"
    with pytest.raises(SettingError, match=wanted):
        make()


def test_a_share_of_the_weights_before_that_leaves_no_tuning_is_refused() -> None:
    with pytest.raises(SettingError, match=r"start_share is 1\.0, it must lie in \[0, 1\)"):
        ConsistencyTuning(start_share=1.0)


def test_the_share_of_the_weights_before_is_that_of_the_tuning_not_of_the_recipe(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    def tuned(recipe: float, own: float) -> dict[str, Tensor]:
        settings = replace(SMOKE, fine_tuning=replace(SMOKE.fine_tuning, start_share=recipe))
        run = run_of(tiny_data, recipe=settings)
        path, tuning = tmp_path / f"{recipe}-{own}.safetensors", ConsistencyTuning(start_share=own)
        return state(tune_restorer(run, restorer(), classifier(), path, name="pair", tuning=tuning).module)

    before, after, half = state(restorer()), tuned(0.5, 0), tuned(0, 0.5)
    assert all(torch.equal(value, after[name]) for name, value in tuned(0, 0).items())
    for name, value in half.items():
        torch.testing.assert_close(value, (before[name] + after[name]) / 2)


def test_the_classifier_stays_bit_for_bit_what_it_is(tiny_data: Dataset, tmp_path: Path) -> None:
    net = classifier()
    net.get_parameter("body.1.bias").requires_grad_(False)
    before, modes = state(net), [part.training for part in net.modules()]
    wishes = [parameter.requires_grad for parameter in net.parameters()]
    front = restorer()
    moved = state(front)
    tuned = tune_restorer(run_of(tiny_data), front, net, tmp_path / "tuned.safetensors", name="pair")
    assert tuned.module is front
    assert not same(moved, state(front))
    assert same(before, state(net))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert modes == [part.training for part in net.modules()]
    assert wishes == [parameter.requires_grad for parameter in net.parameters()]


def test_the_file_holds_the_restorer_and_how_often_answers_were_kept(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    notebook = Notebook()
    path = tmp_path / "tuned.safetensors"
    front = tune_restorer(run_of(tiny_data, notebook), restorer(), classifier(), path, name="pair")
    loaded, about = load_model(path)
    assert isinstance(loaded, RestorationNet)
    assert same(state(loaded), state(front.module))
    assert front.info.plain == about
    assert about["stage"] == "label-free tuning pair"
    assert about["samples"] == 4 * 2
    assert about["validation"].keys() == {"kept_before", "kept", "images"}
    assert notebook.updates[-1].note.endswith("of the answers kept on noisy validation images")


def test_the_rate_is_that_of_a_restorer_not_of_the_recipe(tiny_data: Dataset, tmp_path: Path) -> None:
    abouts = []
    for rate in (1e-3, 1e-5):
        tuning = ConsistencyTuning(optimization=OneCycleAdam(learning_rate=rate))
        path = tmp_path / f"{rate}.safetensors"
        tune_restorer(run_of(tiny_data), restorer(), classifier(), path, name="pair", tuning=tuning)
        abouts.append(load_model(path)[1])
    highest = [max(rate for _, _, rate in about["curve"]) for about in abouts]
    assert highest == [pytest.approx(1e-3), pytest.approx(1e-5)]


def test_a_tuning_that_was_interrupted_ends_as_if_it_had_not_been(tiny_data: Dataset, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    tune_restorer(run_of(tiny_data), restorer(), classifier(), whole, name="pair")
    with pytest.raises(KeyboardInterrupt):
        tune_restorer(run_of(tiny_data, Notebook(limit=3)), restorer(), classifier(), cut, name="pair")
    notebook = Notebook()
    for _ in range(2):
        tune_restorer(run_of(tiny_data, notebook), restorer(), classifier(), cut, name="pair")
    assert [update.state for update in notebook.updates if update.state != "advanced"] == [
        "resumed", "finished", "skipped"
    ]  # fmt: skip
    (one, about), (other, other_about) = load_model(whole), load_model(cut)
    assert same(state(one), state(other))
    assert about["validation"] == other_about["validation"]


@pytest.mark.parametrize("other", ["restorer", "classifier"])
def test_a_file_of_other_nets_is_refused(other: str, tiny_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    tune_restorer(run_of(tiny_data), restorer(), classifier(), path, name="pair")
    front, net = restorer(), classifier()
    with torch.no_grad():
        next((front if other == "restorer" else net).parameters()).mul_(1.1)
    with pytest.raises(SettingError, match="was made with other data, settings or seed"):
        tune_restorer(run_of(tiny_data), front, net, path, name="pair")


def test_a_restorer_without_weights_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="1 trainable parameter"):
        tune_restorer(
            run_of(tiny_data), GaussianSmoothing(), classifier(), tmp_path / "tuned.safetensors", name="pair"
        )


def test_a_name_in_the_place_of_a_net_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    name: Any = "l3-gtsrb"
    for front, behind in ((name, classifier()), (restorer(), name)):
        with pytest.raises(SettingError, match=r"a net is 'l3-gtsrb', .* steadylens\.load"):
            tune_restorer(run_of(tiny_data), front, behind, tmp_path / "tuned.safetensors", name="pair")


def test_a_recipe_without_noise_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    quiet = replace(TINY, fine_tuning=replace(TUNING, degradation=None))
    with pytest.raises(SettingError, match="recipe tiny fine-tunes without noise"):
        tune_restorer(
            run_of(tiny_data, recipe=quiet),
            restorer(),
            classifier(),
            tmp_path / "tuned.safetensors",
            name="pair",
        )
