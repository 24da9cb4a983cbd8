"""Tuning a restorer for a classifier that stays as it is, without labels.

The restorer learns that the classifier answers on the restored noisy image as it does on the clean one. That
is the stability objective of Denoised Smoothing (Salman, Sun, Yang, Kapoor, Kolter, NeurIPS 2020), which asks
for the class that the classifier gives the clean image. Ours asks for the probabilities of all classes, keeps
the restorer's own loss beside them, and shows slight noise and clean images too, so as not to harm these.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.acceleration import cache_batch, fast_autocast, forward_in_batches
from steadylens.augmentation import Augmentation
from steadylens.degradation import Degradation
from steadylens.errors import SettingError
from steadylens.images import to_float
from steadylens.losses import LogSquaredError, RestorationLoss
from steadylens.netkeys import net_key
from steadylens.optimization import OneCycleAdam, Optimization
from steadylens.randomness import derived_generator
from steadylens.recipes import SLIGHT
from steadylens.run import Run
from steadylens.stages import chosen_validation
from steadylens.training import Objective
from steadylens.trainingfiles import NO_ORIGINS, Net, Origins, finish, training_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeating:
    """How a restorer is tuned for a classifier, beside what the recipe says of fine-tuning.

    Attributes:
        optimization: Optimizer and learning rate. A restorer that has learned long bears a far lower rate
            than a classifier.
        fidelity: Weight of the restorer's own loss beside the classifier's answers; with 0, what the restorer
            makes need no longer look like the clean image.
        loss: The restorer's own loss.
        slight_share: Share of the noisy images whose noise is slight, added to the recipe's noise.
        clean_share: Share of the images that stay clean, at least.

    Raises:
        SettingError: If a share or the weight breaks its rule.
    """

    optimization: Optimization = field(default_factory=lambda: OneCycleAdam(learning_rate=3e-5))
    fidelity: float = 0.1
    loss: RestorationLoss = field(default_factory=LogSquaredError)
    slight_share: float = 0.3
    clean_share: float = 0.05

    def __post_init__(self) -> None:
        if not (0 <= self.slight_share < 1 and 0 <= self.clean_share <= 1 and self.fidelity >= 0):
            raise SettingError(
                f"slight_share is {self.slight_share}, clean_share {self.clean_share}, fidelity "
                f"{self.fidelity}; shares must lie in [0, 1), a weight must be at least 0"
            )

    def noise(self, degradation: Degradation) -> Degradation:
        """Returns a recipe's noise with the slight noise and the clean images added."""
        usual = degradation.weights or (1.0,) * len(degradation.families)
        slight = sum(usual) * self.slight_share / (1 - self.slight_share)
        return replace(
            degradation,
            families=(SLIGHT, *degradation.families),
            weights=(slight, *usual),
            clean_share=max(self.clean_share, degradation.clean_share),
        )


def repeating_objective(
    restorer: nn.Module,
    classifier: nn.Module,
    images: Tensor,
    *,
    batch: int,
    degradation: Degradation,
    augmentation: Augmentation | None = None,
    fidelity: float,
    loss: RestorationLoss,
) -> Objective:
    """Returns the objective that the classifier repeats, behind the restorer, its own answer on clean images.

    It is the mean of KL(p(x) || p(restorer(x + nu))), p being the classifier's probabilities, plus `fidelity`
    times the restorer's own loss. Only the restorer is to be trained by it.

    Args:
        restorer: From noisy images to restored ones of the same size.
        classifier: From images to logits, in eval mode; its parameters take no gradient.
        images: Stored training images, uint8 (N, C, H, W), on the nets' device; no labels are needed.
        batch: Number of clean images in a step.
        degradation: Makes M noisy versions of each image, fresh in every step.
        augmentation: Changes each image's pose and light before that; or None.
        fidelity: Weight of the restorer's own loss.
        loss: That loss, of restored and clean images.
    """

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
        clean = to_float(images[chosen])
        if augmentation is not None:
            clean = augmentation(clean, generator=generator)
        noisy = degradation(clean, generator=generator)
        answers = forward_in_batches(classifier, clean).log_softmax(dim=1)
        clean, answers = (every.repeat_interleave(len(noisy) // batch, dim=0) for every in (clean, answers))
        size = cache_batch(images.device)
        parts = zip(*(torch.split(each, size) for each in (noisy, clean, answers)), strict=True)
        for some, target, answer in parts:
            with fast_autocast(images.device):
                restored = restorer(some)
                logits = classifier(restored)
            apart = F.kl_div(logits.float().log_softmax(dim=1), answer, log_target=True, reduction="sum")
            yield (apart + fidelity * loss(restored.float(), target).sum()) / len(noisy)

    return draw


REPEATING = Repeating()
"""What was found to keep most answers without harming any strength of noise."""


def tune_restorer(
    run: Run,
    restorer: Net,
    classifier: nn.Module,
    path: str | Path,
    *,
    name: str,
    repeating: Repeating = REPEATING,
    seconds_before: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> Net:
    """Tunes a restorer so that a classifier keeps its answers under noise, and writes it to `path`.

    Steps, batch, noise and augmentation are those of the recipe's fine-tuning, but it is the restorer that
    moves. The classifier, its running statistics too, stays bit for bit what it is.

    Args:
        run: Data, recipe and seed; the labels of the data are not looked at.
        restorer: The trained restorer, changed in place.
        classifier: The classifier, from images to logits.
        path: The file to write; it holds the restorer alone.
        name: Short name of the pair, for progress and for the draws.
        repeating: What the recipe does not say.
        seconds_before: Time that training the restorer took, for the file to tell.
        origins: What is known of the two nets, likewise.

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
    settings = replace(settings, optimization=repeating.optimization)
    noise = repeating.noise(degradation)
    restorer.to(run.device).requires_grad_(True)
    classifier.to(run.device)
    key = run.key(stage, settings, repeating, net_key(restorer), net_key(classifier))
    before = copy.deepcopy(restorer).eval()
    with _frozen(classifier):
        objective = repeating_objective(
            restorer,
            classifier,
            run.data.train.images,
            batch=settings.batch,
            degradation=noise,
            augmentation=settings.augmentation,
            fidelity=repeating.fidelity,
            loss=repeating.loss,
        )
        training = training_of(run, stage, restorer, objective, settings)
        return finish(
            run,
            stage,
            training,
            restorer,
            Path(path),
            key=key,
            images_per_step=settings.batch * degradation.versions,
            validate=lambda: _try_pair(run, before, restorer, classifier, degradation),
            seconds_before=seconds_before,
            origins={part: origin for part, origin in origins.items() if part == "restorer"},
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
