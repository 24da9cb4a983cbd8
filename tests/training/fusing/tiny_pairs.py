"""Small nets and settings for tests that train a restorer and a classifier together."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from steadylens.data.datasets import Dataset
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import RestorationNet
from steadylens.noise.degradation import gaussian_degradation
from steadylens.training.augmentation import StrongAugmentation
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.run import ClassifierRecipe, Recipe, Run
from tests.tiny_runs import TINY, Notebook, run_of

TUNING = ClassifierRecipe(
    steps=4,
    batch=2,
    optimization=OneCycleAdam(learning_rate=1e-3, weight_decay=0.01),
    augmentation=StrongAugmentation(),
    degradation=replace(gaussian_degradation(30), versions=2, clean_share=0.2),
    clip_norm=5.0,
    averaging=0.5,
    label_smoothing=0.1,
    consistency=0.5,
)


def recipe_with(settings: ClassifierRecipe = TUNING) -> Recipe:
    return replace(TINY, fine_tuning=settings)


def tiny_run(data: Dataset, notebook: Notebook | None = None, recipe: Recipe | None = None) -> Run:
    return run_of(data, notebook or Notebook(), recipe=recipe or recipe_with())


def nets() -> tuple[RestorationNet, SignNet]:
    """Returns the same restorer and classifier every time; the restorer's weights are frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        restorer = RestorationNet(depth=3, padding="reflect").requires_grad_(False)
        return restorer, SignNet(classes=4, standardize=True, width=0.2)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def sign_net(seed: int, *, classes: int = 4) -> SignNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SignNet(classes=classes, standardize=True, width=0.2).eval()
