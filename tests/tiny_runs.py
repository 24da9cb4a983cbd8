"""Runs of a few steps on a few images, for tests of what stages share."""

from dataclasses import dataclass, field, replace

import torch

from steadylens.data.datasets import Dataset
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run, Update
from steadylens.training.settings import Recipe

STEPS = 4
TINY = replace(
    SMOKE,
    name="tiny",
    nets=("L3", "Dong"),
    front="L3",
    restorer=replace(SMOKE.restorer, steps=STEPS, batch=2, patch=16),
    dong=replace(SMOKE.dong, steps=STEPS, batch=2, patch=16),
    classifier=replace(SMOKE.classifier, steps=STEPS, batch=2),
    fine_tuning=replace(SMOKE.fine_tuning, steps=STEPS, batch=2),
    noise_training=replace(SMOKE.noise_training, steps=STEPS, batch=2),
)


@dataclass
class Notebook:
    """Writes down what a run tells, and interrupts it once a stage has told `limit` steps."""

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
