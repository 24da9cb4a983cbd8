"""Measures small nets as the experiments do, in this process alone or as one worker of several.

`python -m tests.evaluation.worker_measurements FOLDER OTHER` writes into FOLDER/NUMBER of each worker, goes
on with what OTHER holds, and prints what the worker was told each time.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from steadylens import workers
from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import SettingError
from steadylens.evaluation.checks import check_workers
from steadylens.evaluation.experiments import measure_costs, measure_differences, measure_restorers
from steadylens.evaluation.stress.certification import Certifying
from steadylens.evaluation.workflows import compare
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet, initialize_xavier
from steadylens.progress import Update
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Run, Sampling

COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])

RECIPE = replace(
    SMOKE,
    evaluation=replace(
        SMOKE.evaluation,
        exploration_images=60,
        exploration_versions=2,
        psnr_images=110,
        accuracy_images=None,
        stability_images=110,
        stability_sigmas_grey=(5, 100),
        unclipped_images=20,
        sampling=Sampling(versions=9, half_width=0.05),
        paired_images=70,
        noises=("gaussian", "poisson"),
    ),
)


CERTIFYING = Certifying(sigmas=(0.2,), first_versions=5, versions=20, images=17)


class Own(nn.Sequential):
    """A net that the package cannot describe, so that nobody knows it again."""


def _classifier(generator: torch.Generator) -> nn.Module:
    """Tells colours apart by the brightest parts of the image, the worse the more noise there is."""
    net = nn.Sequential(nn.AvgPool2d(4), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, len(COLOURS)))
    linear = net[3]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        centred = COLOURS / 255 - 0.5
        noise = 0.3 * torch.randn(centred.shape, generator=generator)
        linear.weight.copy_(20 * centred + 4 * noise)
        linear.bias.copy_(-10 * centred.square().sum(dim=1))
    return net


def _images(count: int, generator: torch.Generator) -> ImageSet:
    labels = torch.arange(count) % len(COLOURS)
    texture = torch.randint(-50, 51, (count, 3, 16, 16), generator=generator)
    images = (COLOURS[labels][:, :, None, None] + texture).to(torch.uint8)
    return ImageSet(images=images, labels=labels, tracks=torch.arange(count))


@patch("steadylens.report.drawing.svg", lambda figure: "<svg/>")
def measure_all(folder: Path) -> list[str]:
    """Measures restorers and a classifier; returns the stages that this worker was told, and a refusal."""
    generator = torch.Generator().manual_seed(3)
    restorer = RestorationNet(3)
    initialize_xavier(restorer, generator=generator, gain=0.5)
    smoothing = GaussianSmoothing(sigma_pixels=0.7)
    classifier = _classifier(generator)
    few, test = _images(8, generator), _images(120, generator)
    told: list[str] = []

    def observe(update: Update) -> None:
        if update.state in ("skipped", "finished"):
            told.append(f"{update.stage}: {update.state}")

    data = Dataset(train=few, validation=few, test=test, class_names=tuple("abcd"), source="colours")
    run = Run(data=data, recipe=RECIPE, seed=4, device=torch.device("cpu"), observe=observe)
    fused = FusedClassifier(restorer, classifier)
    pairs = {"L3": fused, "smoothing": FusedClassifier(smoothing, classifier)}
    compare(run, classifier, pairs, folder, certifying=CERTIFYING)
    measure_restorers(run, {"L3": restorer, "smoothing": smoothing}, folder / "restorers")
    measure_differences(run, {"alone": classifier, "L3": fused}, folder / "paired", against="L3")
    measure_costs(run, {"alone": classifier}, {"alone": 0.0}, folder / "costs")
    check_workers(run, {"own": Own(classifier)})
    try:
        check_workers(run, {"own": Own(nn.Linear(2, 2))})  # its weights are drawn, in each process others
    except SettingError as error:
        told.append(f"first weights of each worker: {error}")
    return told


if __name__ == "__main__":
    with workers.joined():
        own = Path(sys.argv[1]) / str(workers.rank())
        print(json.dumps([measure_all(folder) for folder in (own, Path(sys.argv[2]))]))  # noqa: T201
