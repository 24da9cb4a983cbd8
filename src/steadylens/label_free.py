"""Tuning a restorer for a classifier that stays as it is, without labels.

The restorer learns that the classifier answers on the restored noisy image as it does on the clean one: the
stability objective of Denoised Smoothing (Salman, Sun, Yang, Kapoor, Kolter, NeurIPS 2020).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.acceleration import cache_batch, fast_autocast, forward_in_batches
from steadylens.augmentation import Augmentation
from steadylens.degradation import Degradation
from steadylens.errors import SettingError
from steadylens.images import to_float
from steadylens.randomness import derived_generator
from steadylens.run import Run
from steadylens.stages import chosen_validation
from steadylens.training import Objective
from steadylens.trainingfiles import Net, finish, training_of, weights_key


def repeating_objective(
    restorer: nn.Module,
    classifier: nn.Module,
    images: Tensor,
    *,
    batch: int,
    degradation: Degradation,
    augmentation: Augmentation | None = None,
) -> Objective:
    """Returns the objective that the classifier repeats, behind the restorer, its own answer on clean images.

    It is the mean cross-entropy between classifier(restorer(x + nu)) and the class that the classifier gives
    x itself. Only the restorer is to be trained by it.

    Args:
        restorer: From noisy images to restored ones of the same size.
        classifier: From images to logits, in eval mode; its parameters take no gradient.
        images: Stored training images, uint8 (N, C, H, W), on the nets' device; no labels are needed.
        batch: Number of clean images in a step.
        degradation: Makes M noisy versions of each image, fresh in every step.
        augmentation: Changes each image's pose and light before that; or None.
    """

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
        clean = to_float(images[chosen])
        if augmentation is not None:
            clean = augmentation(clean, generator=generator)
        noisy = degradation(clean, generator=generator)
        answers = _answers(classifier, clean).repeat_interleave(len(noisy) // batch)
        size = cache_batch(images.device)
        for some, answer in zip(torch.split(noisy, size), torch.split(answers, size), strict=True):
            with fast_autocast(images.device):
                logits = classifier(restorer(some))
            yield F.cross_entropy(logits.float(), answer, reduction="sum") / len(noisy)

    return draw


def tune_restorer(run: Run, restorer: Net, classifier: nn.Module, path: Path, *, name: str) -> Net:
    """Tunes a restorer so that a classifier keeps its answers under noise, and writes it to `path`.

    The settings are those of fine-tuning, but it is the restorer that moves. The classifier, its running
    statistics too, stays bit for bit what it is.

    Args:
        run: Data, recipe and seed; the labels of the data are not looked at.
        restorer: The trained restorer, changed in place.
        classifier: The classifier, from images to logits.
        path: The file to write; it holds the restorer alone.
        name: Short name of the pair, for progress and for the draws.

    Returns:
        The restorer in eval mode, on the run's device.

    Raises:
        SettingError: If the file is of another run, the recipe fine-tunes without noise, or the restorer has
            nothing to tune.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    settings, stage = run.recipe.fine_tuning, f"label-free tuning {name}"
    if (degradation := settings.degradation) is None:
        raise SettingError(
            f"recipe {run.recipe.name} fine-tunes without noise; give its fine_tuning a degradation"
        )
    restorer.to(run.device).requires_grad_(True)
    classifier.to(run.device)
    key = run.key(stage, settings, weights_key(restorer), weights_key(classifier))
    before = copy.deepcopy(restorer).eval()
    with _frozen(classifier):
        objective = repeating_objective(
            restorer,
            classifier,
            run.data.train.images,
            batch=settings.batch,
            degradation=degradation,
            augmentation=settings.augmentation,
        )
        training = training_of(run, stage, restorer, objective, settings)
        return finish(
            run,
            stage,
            training,
            restorer,
            path,
            key=key,
            images_per_step=settings.batch * degradation.versions,
            validate=lambda: _try_pair(run, before, restorer, classifier, degradation),
        )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode and lets it take no gradient; both are undone afterwards."""
    modes = {part: part.training for part in module.modules()}
    wishes = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, wish in wishes.items():
            parameter.requires_grad_(wish)


def _answers(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Returns the classes that a classifier gives images, int64 (N,)."""
    return forward_in_batches(classifier, images).argmax(dim=1)


def _try_pair(
    run: Run, before: nn.Module, after: nn.Module, classifier: nn.Module, degradation: Degradation
) -> dict[str, float]:
    """Returns how often the classifier keeps its answer on noisy images, before and after tuning."""
    clean = to_float(chosen_validation(run).images)
    if len(clean) == 0:
        return {}
    generator = derived_generator(run.seed, "validation", device=run.device)
    noisy = replace(degradation, versions=1, clean_share=0.0)(clean, generator=generator)
    answers = _answers(classifier, clean)

    def kept(restorer: nn.Module) -> float:
        same = _answers(lambda images: classifier(restorer(images)), noisy) == answers
        return float(same.float().mean())

    return {"kept_before": kept(before), "kept": kept(after), "images": len(clean)}
