"""PAPER has the paper's numbers, and every recipe can be run."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from steadylens.data.photographs import TILE_SIZE
from steadylens.errors import SettingError
from steadylens.evaluation.experiments import multiplications
from steadylens.nets.architecture import restorer_named
from steadylens.nets.classification import SIGN_SIZE, FusedClassifier, SignNet
from steadylens.nets.facts import facts_of
from steadylens.nets.restoration import PatchRestorer, RestorationNet
from steadylens.noise.degradation import PAPER_FAMILIES, Degradation
from steadylens.report.paper import SIGMAS_GREY
from steadylens.training.augmentation import StrongAugmentation
from steadylens.training.objectives import LogSquaredError, SquaredError
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam
from steadylens.training.recipes import (
    CAMERA,
    FAST,
    LONG,
    PAPER,
    PAPER_QUARTER,
    PHOTOGRAPHS,
    QUICK,
    SMOKE,
    SMOOTHING,
    THOROUGH,
    UNET,
    recipe_named,
)
from steadylens.training.run import ClassifierRecipe, Recipe, RestorerRecipe, Sampling
from tests.paper import EXPLORATORY_IMAGES, NOISY_VERSIONS, TABLE_1

RECIPES = (
    PAPER, PAPER_QUARTER, UNET, SMOOTHING, PHOTOGRAPHS, CAMERA, LONG, THOROUGH, FAST, QUICK, SMOKE,
)  # fmt: skip
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def trainings(recipe: Recipe) -> tuple[RestorerRecipe | ClassifierRecipe, ...]:
    return (
        recipe.restorer,
        recipe.dong,
        recipe.unet,
        recipe.classifier,
        recipe.fine_tuning,
        recipe.noise_training,
    )


def noises(recipe: Recipe) -> list[Degradation]:
    found = [each.degradation for each in trainings(recipe)] + [recipe.evaluation.degradation]
    return [noise for noise in found if noise is not None]


# The paper's numbers.


def test_the_paper_trains_restorers_as_in_section_4_1() -> None:
    settings = PAPER.restorer
    assert (settings.steps, settings.batch, settings.patch) == (100_000, 50, 48)
    assert settings.loss == SquaredError()
    assert settings.clip_norm is None
    assert not settings.zero_last_layer
    assert settings.optimization == MomentumSgd(
        learning_rate=1e-3, momentum=0.9, decay=0.99996, l2=1e-6, last_layer_factor=0.1
    )


def test_the_last_layer_of_the_paper_learns_at_a_tenth_of_the_rate() -> None:
    net = RestorationNet(depth=11)
    groups = PAPER.restorer.optimization.optimizer(net).param_groups
    last = {id(parameter) for parameter in list(net.parameters())[-2:]}
    assert {id(each) for group in groups for each in group["params"]} == set(map(id, net.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(1e-4 if id(parameter) in last else 1e-3)
        assert group["momentum"] == 0.9
        assert group["weight_decay"] == pytest.approx(2e-6)  # the gradient of lambda ||theta||^2


def test_the_paper_trains_the_classifier_as_its_authors_published() -> None:
    settings = PAPER.classifier
    assert (settings.steps, settings.batch) == (60_000, 50)
    assert (settings.augmentation, settings.degradation, settings.clip_norm) == (None, None, None)
    net = SignNet()
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in settings.optimization.optimizer(net).param_groups
        for parameter in group["params"]
    }
    for name, parameter in net.named_parameters():
        assert rates.pop(id(parameter)) == pytest.approx((0.04 if name.endswith("bias") else 0.02, 1e-5))
    assert not rates
    assert settings.optimization.factor(1000, settings.steps) == pytest.approx(0.9998**1000)


def test_the_paper_fine_tunes_as_in_section_4_2() -> None:
    settings = PAPER.fine_tuning
    assert (settings.steps, settings.batch, settings.augmentation) == (15_000, 50, None)
    assert settings.degradation == PAPER.restorer.degradation  # the same module


def test_the_dong_net_has_its_own_rates() -> None:
    assert isinstance(PAPER.dong.optimization, MomentumSgd)
    assert PAPER.dong.optimization.learning_rate == 1e-4
    assert PAPER.dong.optimization.last_layer_factor == 0.1
    assert PAPER.dong.optimization.decay == 1
    assert replace(PAPER.dong, optimization=PAPER.restorer.optimization) == PAPER.restorer


def test_the_paper_draws_its_own_mixture_of_noise() -> None:
    assert all(noise == Degradation(families=PAPER_FAMILIES) for noise in noises(PAPER))
    assert len(noises(PAPER)) == 6


def test_the_paper_measures_on_its_own_numbers_of_images() -> None:
    evaluation = PAPER.evaluation
    assert evaluation.exploration_images == EXPLORATORY_IMAGES == 1263
    assert evaluation.exploration_versions == NOISY_VERSIONS == 150
    assert evaluation.sampling == Sampling(versions=150)
    assert list(evaluation.stability_sigmas_grey) == list(SIGMAS_GREY)
    assert (evaluation.accuracy_images, evaluation.stability_images) == (None, None)  # all


def test_the_paper_compares_the_nets_of_table_1_and_fuses_the_deepest() -> None:
    assert PAPER.nets == tuple(TABLE_1)
    assert PAPER.front == "L11"


def test_a_quarter_of_the_paper_lets_its_rates_fall_as_far() -> None:
    for whole, quarter in zip(trainings(PAPER), trainings(PAPER_QUARTER), strict=True):
        assert quarter.steps * 4 == whole.steps
        assert quarter.optimization.factor(quarter.steps, quarter.steps) == pytest.approx(
            whole.optimization.factor(whole.steps, whole.steps)
        )
        assert replace(quarter, steps=whole.steps, optimization=whole.optimization) == whole


# All recipes.


def test_names_are_unique_and_find_their_recipe() -> None:
    assert [recipe.name for recipe in RECIPES] == [
        "paper",
        "paper-quarter",
        "unet",
        "smoothing",
        "photographs",
        "camera",
        "long",
        "thorough",
        "fast",
        "quick",
        "smoke",
    ]
    assert all(recipe_named(recipe.name) is recipe for recipe in RECIPES)


@pytest.mark.parametrize("name", ["Paper", "", "slow"])
def test_an_unknown_recipe_gives_the_choices(name: str) -> None:
    choices = ", ".join(recipe.name for recipe in RECIPES)
    with pytest.raises(SettingError, match=f"no recipe '{name}'; choose one of {choices}"):
        recipe_named(name)


def test_a_recipe_that_trains_no_classifier_is_refused() -> None:
    with pytest.raises(SettingError, match="seeds is 0, it must be at least 1"):
        replace(SMOKE, seeds=0)


def test_refinements_go_on_with_what_they_change_and_keep_the_rest() -> None:
    first, *further = THOROUGH.restorer.parts
    assert first == FAST.restorer == FAST.restorer.parts[0]
    assert [part.steps for part in further] == [1500, 600]
    for before, part in pairwise(THOROUGH.restorer.parts):
        assert (part.batch, part.patch, part.refinements) == (first.batch, first.patch, ())
        assert part.degradation.clean_share > before.degradation.clean_share
        assert isinstance(before.loss, LogSquaredError)
        assert isinstance(part.loss, LogSquaredError)
        assert part.loss.floor < before.loss.floor


def test_the_last_phases_on_photographs_have_patches_and_weights_of_their_own() -> None:
    first, *_, before, fifth, sixth, seventh = PHOTOGRAPHS.unet.parts
    assert (before.batch, before.patch, before.start_share) == (first.batch, first.patch, 0) == (16, 128, 0)
    assert (fifth.batch, fifth.patch, fifth.start_share) == (7, 192, 0.4)
    for last in (sixth, seventh):
        assert (last.batch, last.patch, last.start_share) == (7, 192, 0.5)
    assert isinstance(sixth.loss, LogSquaredError)
    assert isinstance(seventh.loss, LogSquaredError)
    assert seventh.loss.floor > sixth.loss.floor
    assert len(CAMERA.unet.parts) == 1
    with pytest.raises(SettingError, match="start_share is 1, it must lie in"):
        replace(PHOTOGRAPHS.unet.refinements[-1], start_share=1)


def test_a_recipe_tells_a_share_of_the_start_only_if_there_is_one() -> None:
    plain = PHOTOGRAPHS.unet.parts[0]
    assert "start_share" not in repr(plain)
    assert repr(plain).startswith("RestorerRecipe(steps=24000, batch=16, patch=128, loss=LogSquaredError(")
    assert "start_share=0.5" in repr(replace(plain, start_share=0.5))


@pytest.mark.parametrize("name", ["L4", "l11", "dong", "unet", ""])
def test_an_unknown_net_gives_the_choices(name: str) -> None:
    choices = "L11, L9, L7, L5, L3, Dong or UNet"
    with pytest.raises(SettingError, match=f"no net '{name}'; choose one of {choices}"):
        restorer_named(name)


@pytest.mark.parametrize("name", TABLE_1)
def test_a_net_by_its_name_is_that_of_table_1(name: str) -> None:
    net, row = restorer_named(name), TABLE_1[name]
    assert sum(parameter.numel() for parameter in net.parameters()) == row.parameters
    assert (net.margin, net.field) == (row.margin, row.field)


def test_a_recipe_must_train_the_net_that_it_fuses() -> None:
    with pytest.raises(SettingError, match=r"front is L11, it must be one of the trained nets \('L3',\)"):
        replace(SMOKE, nets=("L3",), front="L11")


@each_recipe
def test_only_dong_and_the_u_net_are_trained_in_their_own_ways(recipe: Recipe) -> None:
    ways = {name: recipe.restorer_recipe(name) for name in (*PAPER.nets, "UNet")}
    assert {name for name, way in ways.items() if way is recipe.dong} == {"Dong"}
    assert {name for name, way in ways.items() if way is recipe.unet} == {"UNet"}
    assert recipe.restorer_recipe(type(restorer_named("UNet")).__name__) is recipe.unet


@each_recipe
def test_the_patch_suits_every_net(recipe: Recipe) -> None:
    for name in (*PAPER.nets, "UNet"):
        net, parts = restorer_named(name), recipe.restorer_recipe(name).parts
        # A net that pads inside needs no margin around what it restores.
        lost = 2 * net.valid_margin if isinstance(net, PatchRestorer) else 0
        size = TILE_SIZE if recipe in (PHOTOGRAPHS, CAMERA) and name == "UNet" else SIGN_SIZE
        assert all(max(lost, facts_of(net).minimum_size - 1) < part.patch <= size for part in parts)


@each_recipe
def test_every_training_builds_its_optimizer_and_keeps_its_rate_above_zero(recipe: Recipe) -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(3)))  # one between the others, for Muon
    for settings in trainings(recipe):
        optimizer = settings.optimization.optimizer(net)
        assert all(group["full_lr"] > 0 for group in optimizer.param_groups)
        factors = [settings.optimization.factor(step, settings.steps) for step in range(settings.steps)]
        assert all(0 < factor <= 1 for factor in factors)


@each_recipe
def test_every_noise_can_be_drawn(recipe: Recipe) -> None:
    images = torch.full((40, 3, 4, 4), 0.5)
    for noise in noises(recipe):
        noisy = noise(images, generator=torch.Generator().manual_seed(1))
        assert noisy.shape == (40 * noise.versions, 3, 4, 4)
        assert float(noisy.min()) < 0.4
        assert float(noisy.max()) > 0.6
        clipped = noise.clip and not noise.unclipped_share
        assert not clipped or 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


@each_recipe
def test_every_loss_is_finite_for_a_perfect_restoration(recipe: Recipe) -> None:
    images = torch.rand(2, 3, 4, 4)
    for settings in (*recipe.restorer.parts, *recipe.dong.parts, *recipe.unet.parts):
        assert all(math.isfinite(loss) for loss in settings.loss(images, images).tolist())


@pytest.mark.parametrize(
    "recipe", [PAPER, UNET, SMOOTHING, THOROUGH, FAST, QUICK], ids=lambda recipe: recipe.name
)
def test_the_noise_augmented_baseline_sees_as_many_images_as_its_rival(recipe: Recipe) -> None:
    stages = recipe.classifier, recipe.fine_tuning
    seen = recipe.noise_training.steps * recipe.noise_training.batch
    assert seen == sum(stage.steps * stage.batch for stage in stages)
    assert recipe.noise_training.degradation == recipe.fine_tuning.degradation
    assert recipe.noise_training.batch == recipe.classifier.batch


def test_the_wider_net_multiplies_as_often_as_the_u_net_and_the_sign_net_together() -> None:
    assert UNET.wider is not None
    pair, wider = (
        multiplications(net, channels=3, size=SIGN_SIZE)
        for net in (FusedClassifier(restorer_named(UNET.front), SignNet()), SignNet(width=UNET.wider))
    )
    assert wider == pytest.approx(pair, rel=0.03)


def test_the_recipe_of_the_u_net_tunes_it_and_the_classifier_together() -> None:
    assert UNET.together
    assert UNET.nets == ("UNet",)
    assert UNET.noise_training.augmentation == UNET.fine_tuning.augmentation
    assert isinstance(UNET.fine_tuning.optimization, OneCycleAdam)
    assert isinstance(UNET.fine_tuning.augmentation, StrongAugmentation)
    # What is fine-tuned on noise needs no weak noise beforehand, nor has it any.
    assert UNET.fine_tuning.augmentation.noise_grey == 0
    assert UNET.fine_tuning.degradation is not None
    assert UNET.fine_tuning.degradation.clean_share > 0


@each_recipe
def test_what_is_measured_is_not_more_than_the_paper_did(recipe: Recipe) -> None:
    evaluation = recipe.evaluation
    assert set(evaluation.stability_sigmas_grey) <= set(SIGMAS_GREY)
    assert 1 <= evaluation.sampling.versions <= NOISY_VERSIONS
    assert 1 <= evaluation.exploration_images <= EXPLORATORY_IMAGES
    assert evaluation.psnr_sigmas_grey[0] == 0  # clean images show whether a restorer does harm


def test_recipes_grow_from_smoke_to_paper() -> None:
    for smaller, larger in ((SMOKE, QUICK), (QUICK, FAST), (FAST, PAPER)):
        for few, many in zip(trainings(smaller), trainings(larger), strict=True):
            assert few.steps <= many.steps
            assert few.batch <= many.batch
