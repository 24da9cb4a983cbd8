"""Every kind of stage, small enough for tests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steadylens.checkpoints.loading import LoadedNet
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.training.fusing import fine_tune, tune_together
from steadylens.training.run import Run
from steadylens.training.stages import train_classifier, train_restorer


def sign_net() -> SignNet:
    """Returns the same trained classifier, as it were, every time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return SignNet(classes=4)


def first_pair() -> tuple[RestorationNet, SignNet]:
    """Returns the same small nets every time."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return RestorationNet(depth=3), SignNet(classes=4, width=0.2)


def consistent(run: Run) -> Run:
    """Returns a run whose fine-tuning also asks for the answers that were given before."""
    return replace(
        run, recipe=replace(run.recipe, fine_tuning=replace(run.recipe.fine_tuning, consistency=1.0))
    )


Stage = Callable[[Run, Path], LoadedNet]
STAGES: dict[str, Stage] = {
    "restorer L3": lambda run, path: train_restorer(run, "L3", path),
    "restorer Dong": lambda run, path: train_restorer(run, "Dong", path),
    "restorer UNet": lambda run, path: train_restorer(run, "UNet", path),
    "classifier": train_classifier,
    "classifier, noise-augmented": lambda run, path: train_classifier(run, path, noisy=True),
    "fine-tuning smoothed": lambda run, path: fine_tune(
        run, GaussianSmoothing(), sign_net(), path, name="smoothed"
    ),
    "fine-tuning consistent": lambda run, path: fine_tune(
        consistent(run), *first_pair(), path, name="consistent"
    ),
    "joint training both": lambda run, path: tune_together(run, *first_pair(), path, name="both"),
}
each_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
RESTORER = STAGES["restorer L3"]
