"""The stages of a run, each from files to a file: train a restorer, train a classifier, fine-tune.

A stage whose file is there and was made with the same settings is skipped. A training that was cut off
goes on from its last checkpoint, with the same result as if it had not been.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from steadylens.acceleration import fast_memory_format, forward_in_batches
from steadylens.checkpoint import describe
from steadylens.classification import SignNet
from steadylens.datasets import ImageSet
from steadylens.fusion import FusedClassifier
from steadylens.images import to_float
from steadylens.initialization import initialize_xavier, silence_last_layer
from steadylens.metrics import psnr, top_k
from steadylens.netkeys import net_key
from steadylens.randomness import derived_generator
from steadylens.restoration import DongNet, RestorationNet, restorer_named
from steadylens.run import Run
from steadylens.settings import ClassifierRecipe, RestorerRecipe
from steadylens.training import classifying_objective, restoring_objective
from steadylens.trainingfiles import NO_ORIGINS, Net, Origins, finish, training_of

VALIDATION_IMAGES = 500
"""How many of the validation images a finished net is tried on."""


def train_restorer(run: Run, net: str, path: str | Path) -> RestorationNet | DongNet:
    """Trains one net of Table 1 on degraded training images and writes it to `path`.

    Args:
        run: Data, recipe and seed.
        net: The net's name: L11, L9, L7, L5, L3 or Dong.
        path: The file to write.

    Returns:
        The trained net in eval mode, on the run's device.

    Raises:
        SettingError: If the net is unknown or the file is of another run.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    path, settings = Path(path), run.recipe.restorer_recipe(net)
    module = restorer_named(net, padding=settings.padding)
    weights = derived_generator(run.seed, f"restorer {net}", "weights")
    initialize_xavier(module, generator=weights, gain=settings.gain)
    if settings.silent_start:
        silence_last_layer(module)
    module.to(run.device).to(memory_format=fast_memory_format(run.device))
    before = None
    for number in range(1, len(settings.parts) + 1):
        stage = _stage_of(net, number)
        last = number == len(settings.parts)
        if last or not path.exists():
            target = path if last else path.with_stem(f"{path.stem}-part-{number}")
            _train_restorer(run, stage, module, settings.parts[:number], target, before=before)
            before = target
    return module


def train_classifier(run: Run, path: str | Path, *, noisy: bool = False) -> SignNet:
    """Trains the sign net from the start and writes it to `path`.

    Args:
        run: Data, recipe and seed.
        path: The file to write.
        noisy: Whether to train with the recipe's strong noise augmentation instead of on clean images.

    Returns:
        The trained classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file is of another run.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.noise_training if noisy else run.recipe.classifier
    stage = "classifier, noise-augmented" if noisy else "classifier"
    module = SignNet(classes=len(run.data.class_names), standardize=settings.standardize)
    # Both start from the same weights: they differ in what they see, not in luck.
    weights = derived_generator(run.seed, "classifier", "weights")
    initialize_xavier(module, generator=weights, gain=settings.gain)
    if not settings.standardize:
        module.fit_mean(run.data.train.images.cpu())
    module.to(run.device)
    return _train_classifier(run, stage, module, settings, Path(path), key=run.key(stage, settings))


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
    key = run.key(stage, settings, net_key(fused))
    return _train_classifier(
        run, stage, fused, settings, Path(path), key=key, seconds_before=seconds_before, origins=origins
    )


def _stage_of(net: str, number: int) -> str:
    """Returns what a part of a restorer's training is called; the first has number 1."""
    suffixes = {1: "", 2: ", refined"}
    return f"restorer {net}" + suffixes.get(number, f", refined {number - 1} times")


def _train_restorer(
    run: Run,
    stage: str,
    module: RestorationNet | DongNet,
    parts: tuple[RestorerRecipe, ...],
    path: Path,
    *,
    before: Path | None,
) -> None:
    """Trains the last of some parts, from the weights that the one before left in the module."""
    settings = parts[-1]
    objective = restoring_objective(
        module,
        run.data.train.images,
        degradation=settings.degradation,
        loss=settings.loss,
        batch=settings.batch,
        patch=settings.patch,
    )
    training = training_of(run, stage, module, objective, settings)
    finish(
        run,
        stage,
        training,
        module,
        path,
        key=run.key(stage, parts),
        images_per_step=settings.batch * settings.degradation.versions,
        validate=lambda: _try_restorer(run, module, settings),
        before=before,
    )


def _train_classifier(
    run: Run,
    stage: str,
    module: Net,
    settings: ClassifierRecipe,
    path: Path,
    *,
    key: str,
    seconds_before: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> Net:
    objective = classifying_objective(
        module,
        run.data.train.images,
        run.data.train.labels,
        batch=settings.batch,
        augmentation=settings.augmentation,
        degradation=settings.degradation,
    )
    training = training_of(run, stage, module, objective, settings)
    versions_per_image = settings.degradation.versions if settings.degradation else 1
    return finish(
        run,
        stage,
        training,
        module,
        path,
        key=key,
        images_per_step=settings.batch * versions_per_image,
        validate=lambda: _try_classifier(run, module),
        seconds_before=seconds_before,
        origins=origins,
    )


def _try_restorer(run: Run, net: nn.Module, settings: RestorerRecipe) -> dict[str, float]:
    chosen = chosen_validation(run)
    if len(chosen) == 0:
        return {}
    clean = to_float(chosen.images)
    generator = derived_generator(run.seed, "validation", device=run.device)
    degradation = replace(settings.degradation, versions=1, clean_share=0.0)
    noisy = degradation(clean, generator=generator)
    noisy_db = psnr(noisy, clean)
    some = noisy_db.isfinite()  # slight noise can vanish in the rounding to 8 bits
    restored = degradation.stored(forward_in_batches(net, noisy))
    return {
        "noisy_db": float(noisy_db[some].mean()),
        "restored_db": float(psnr(restored, clean)[some].mean()),
        "images": int(some.sum()),
    }


def _try_classifier(run: Run, classifier: nn.Module) -> dict[str, float]:
    chosen = chosen_validation(run)
    if len(chosen) == 0:
        return {}
    right = top_k(forward_in_batches(classifier, to_float(chosen.images)), chosen.labels, 1)
    return {"accuracy": float(right.float().mean()), "images": len(right)}


def chosen_validation(run: Run) -> ImageSet:
    """Returns some of the validation images, of all classes alike."""
    validation = run.data.validation
    generator = derived_generator(run.seed, "choice of validation images")
    order = torch.randperm(len(validation), generator=generator)
    return validation.subset(order[:VALIDATION_IMAGES].to(validation.labels.device))
