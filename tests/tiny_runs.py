"""Runs of a few steps on a few images, for tests of stages."""

from dataclasses import dataclass, field, replace

import torch

from steadylens.data.datasets import Dataset
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import initialize_xavier
from steadylens.noise.degradation import Degradation
from steadylens.progress import Update
from steadylens.training.augmentation import Augmentation
from steadylens.training.loop import Training
from steadylens.training.objectives import classifying_objective
from steadylens.training.optimizers import Optimization
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Recipe, Run

STEPS = 4
TINY = replace(
    SMOKE,
    name="tiny",
    nets=("L3", "Dong"),
    front="L3",
    restorer=replace(SMOKE.restorer, steps=STEPS, batch=2, patch=16),
    dong=replace(SMOKE.dong, steps=STEPS, batch=2, patch=16),
    unet=replace(SMOKE.unet, steps=STEPS, batch=2, patch=16),
    classifier=replace(SMOKE.classifier, steps=STEPS, batch=2),
    fine_tuning=replace(SMOKE.fine_tuning, steps=STEPS, batch=2),
    noise_training=replace(SMOKE.noise_training, steps=STEPS, batch=2),
)


@dataclass
class Notebook:
    """Records the updates of a run, and interrupts it when a stage has done `limit` steps."""

    limit: int | None = None
    updates: list[Update] = field(default_factory=list)

    def __call__(self, update: Update) -> None:
        self.updates.append(update)
        if update.state == "advanced" and update.done == self.limit:
            raise KeyboardInterrupt

    @property
    def states(self) -> list[str]:
        return [update.state for update in self.updates]


def run_of(
    data: Dataset, observe: Notebook, *, seed: int = 0, recipe: Recipe = TINY, seconds: float = 0.0
) -> Run:
    return Run(
        data=data,
        recipe=recipe,
        seed=seed,
        device=torch.device("cpu"),
        observe=observe,
        checkpoint_seconds=seconds,
    )


def sign_training(
    data: Dataset,
    *,
    optimization: Optimization,
    steps: int,
    seed: int = 1,
    weights: int = 1,
    device: str = "cpu",
) -> Training:
    """Returns a training of the sign net with random batches, poses, noise and dropout.

    Args:
        data: The images, on the device.
        optimization: The optimizer and its settings.
        steps: The number of steps.
        seed: Seed of everything but the first weights.
        weights: Seed of the first weights.
        device: The device of the net.
    """
    net = SignNet(classes=4)
    initialize_xavier(net, generator=torch.Generator().manual_seed(weights))
    objective = classifying_objective(
        net.to(device),
        data.train.images,
        data.train.labels,
        batch=4,
        augmentation=Augmentation(),
        degradation=Degradation(),
    )
    generator = torch.Generator(device).manual_seed(seed)
    return Training(
        net, objective, optimization=optimization, steps=steps, generator=generator, clip_norm=5.0
    )
