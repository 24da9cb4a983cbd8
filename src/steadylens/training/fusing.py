"""Fuses a restorer with a classifier: as they are, tuned without labels, or fine-tuned.

Fine-tuning the classifier behind the frozen restorer is the paper's way (Sec. 4.2). Without labels, the
restorer learns that the classifier answers on the restored noisy image as it does on the clean one. That is
the stability objective of Denoised Smoothing (Salman, Sun, Yang, Kapoor, Kolter, NeurIPS 2020), which asks
for the class that the classifier gives the clean image. Ours asks for the probabilities of all classes,
keeps the restorer's own loss beside them, and shows weak noise and clean images too, so as not to harm
these.
"""

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import describe, fingerprint, load_model, save_model
from steadylens.devices import forward_in_batches
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier
from steadylens.noise.degradation import Degradation
from steadylens.randomness import derived_generator
from steadylens.training.loop import OneCycleAdam, Optimization
from steadylens.training.objectives import LogSquaredError, RestorationLoss, consistency_objective
from steadylens.training.recipes import SLIGHT
from steadylens.training.run import Run, Update
from steadylens.training.stages import (
    NO_ORIGINS,
    Net,
    Origins,
    check_key,
    check_suffix,
    chosen_validation,
    finish,
    origin_of,
    train_on_labels,
    training_of,
)


def fine_tune(
    run: Run,
    restorer: nn.Module,
    classifier: nn.Module,
    path: str | Path,
    *,
    name: str,
    seconds_before: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> FusedClassifier:
    """Fine-tunes a trained classifier behind a frozen restorer on noisy images (Sec. 4.2), into `path`.

    Args:
        run: Data, recipe and seed.
        restorer: What stands in front; `nn.Identity()` for nothing.
        classifier: The trained classifier, changed in place.
        path: The file to write.
        name: Short name of the pair, for progress and for the draws.
        seconds_before: Time that training the two took, for the file to tell.
        origins: What is known of the two, likewise.

    Returns:
        The fused classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file is of another run, or the pair is none that a file can hold.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.fine_tuning
    stage = f"fine-tuning {name}"
    fused = FusedClassifier(restorer, classifier).to(run.device)
    describe(fused)  # what cannot be saved is refused before hours are spent
    key = run.key(stage, settings, fingerprint(fused))
    return train_on_labels(
        run, stage, fused, settings, Path(path), key=key, seconds_before=seconds_before, origins=origins
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyTuning:
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


CONSISTENCY = ConsistencyTuning()
"""What was found to keep most answers without harming any strength of noise."""


def tune_restorer(
    run: Run,
    restorer: Net,
    classifier: nn.Module,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
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
        tuning: What the recipe does not say.
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
    settings = replace(settings, optimization=tuning.optimization)
    noise = tuning.noise(degradation)
    restorer.to(run.device).requires_grad_(True)
    classifier.to(run.device)
    key = run.key(stage, settings, tuning, fingerprint(restorer), fingerprint(classifier))
    before = copy.deepcopy(restorer).eval()
    with _frozen(classifier):
        objective = consistency_objective(
            restorer,
            classifier,
            run.data.train.images,
            batch=settings.batch,
            degradation=noise,
            augmentation=settings.augmentation,
            fidelity=tuning.fidelity,
            loss=tuning.loss,
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


def fuse_as_they_are(
    run: Run,
    restorer: nn.Module,
    classifier: nn.Module,
    path: str | Path,
    *,
    name: str,
    seconds: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> FusedClassifier:
    """Puts a restorer in front of a classifier and writes the pair to `path`; nothing is trained.

    Args:
        run: The data, whose classes the file names.
        restorer: The trained restorer.
        classifier: The trained classifier.
        path: The file to write.
        name: Short name of the pair, for progress.
        seconds: Time that training the two took.
        origins: What is known of the two, for the file to tell.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If the file is there and holds something else, or the classifier cannot be described.
        CheckpointError: If a file that is there cannot be read.
        StorageError: If the file cannot be written.
    """
    return _fused(
        run, restorer, classifier, Path(path), name=name, seconds=seconds, origins=origins,
        unsaid=("data", "recipe", "seed"),
    )  # fmt: skip


def fuse_label_free(
    run: Run,
    restorer: nn.Module,
    classifier: nn.Module,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
    seconds_before: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> FusedClassifier:
    """Tunes a restorer for a frozen classifier, without labels, and writes the pair to `path`.

    The tuned restorer alone is written beside it, with "-restorer" in its name.

    Args:
        run: Data, recipe and seed; the labels of the data are not looked at.
        restorer: The trained restorer, changed in place.
        classifier: The trained classifier; it stays as it is.
        path: The file to write.
        name: Short name of the pair, for progress and for the draws.
        tuning: What the recipe does not say of the tuning.
        seconds_before: Time that training the two took, for the file to tell.
        origins: What is known of the two, likewise.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If a file is of another run, the classifier cannot be described, or the restorer has
            nothing to tune.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
        StorageError: If a file cannot be written.
    """
    describe(classifier)  # what cannot be saved is refused before hours are spent
    path = Path(path)
    beside = path.with_stem(f"{path.stem}-restorer")
    if path.exists() and not beside.exists():
        raise SettingError(
            f"{path} is there and no tuning has written it; choose another place, or remove it"
        )
    tuned = tune_restorer(run, restorer, classifier, beside, name=name, tuning=tuning, origins=origins)
    seconds = seconds_before + load_model(beside)[1]["seconds"]
    return _fused(run, tuned, classifier, path, name=name, seconds=seconds, origins=origins)


def _fused(
    run: Run,
    restorer: nn.Module,
    classifier: nn.Module,
    path: Path,
    *,
    name: str,
    seconds: float,
    origins: Origins,
    unsaid: Collection[str] = (),
) -> FusedClassifier:
    """Writes a pair; of one that was not trained, the file leaves unsaid how it was."""
    fused = FusedClassifier(restorer, classifier).to(run.device).eval()
    check_suffix(path)
    stage, key = f"fusing {name}", run.key("fusing", fingerprint(fused))
    if path.exists():
        _, about = load_model(path)
        check_key(path, about.get("key"), key)
        run.observe(Update(stage=stage, state="skipped", note="fused before"))
        return fused
    origin = origin_of(run, stage, key, origins)
    about = {part: value for part, value in origin.items() if part not in unsaid}
    save_model(path, fused, about={**about, "seconds": seconds})
    run.observe(Update(stage=stage, state="finished", note="written whole"))
    return fused
