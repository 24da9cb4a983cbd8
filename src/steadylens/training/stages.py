"""The stages of a run, each from files to a file: train a restorer, train a classifier.

A stage whose file is there and was made with the same settings is skipped. A training that was cut off goes
on from its last checkpoint, with the same result as if it had not been.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from steadylens.checkpoints.checkpoint import SUFFIX, load_model, load_state, save_model, save_state
from steadylens.data.datasets import ImageSet
from steadylens.devices import fast_memory_format, forward_in_batches
from steadylens.errors import SettingError
from steadylens.images.tensors import SQUASHED, to_float
from steadylens.metrics import psnr, top_k
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import (
    DongNet,
    RestorationNet,
    initialize_xavier,
    restorer_named,
    silence_last_layer,
)
from steadylens.randomness import derived_generator
from steadylens.training.loop import Training
from steadylens.training.objectives import Objective, classifying_objective, restoring_objective
from steadylens.training.run import Run, Update, commit, versions
from steadylens.training.settings import ClassifierRecipe, RestorerRecipe

Net = TypeVar("Net", bound=nn.Module)

Origins = Mapping[str, Mapping[str, str]]
"""What is known of the restorer and the classifier that something was made from: name, data, licence."""

NO_ORIGINS: Origins = MappingProxyType({})


def training_of(
    run: Run, stage: str, module: nn.Module, objective: Objective, settings: RestorerRecipe | ClassifierRecipe
) -> Training:
    """Returns the training of a stage at its start; its draws depend on the seed and the stage's name."""
    return Training(
        module,
        objective,
        optimization=settings.optimization,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        generator=derived_generator(run.seed, stage, device=run.device),
    )


def origin_of(run: Run, stage: str, key: str, origins: Origins = NO_ORIGINS) -> dict[str, Any]:
    """Returns what every file of a net says about where it comes from."""
    return {
        "stage": stage,
        "key": key,
        "recipe": run.recipe.name,
        "seed": run.seed,
        "data": run.data.source,
        "classes": list(run.data.class_names),
        **({} if run.data.fit == SQUASHED else {"fit": str(run.data.fit)}),
        "commit": commit(),
        "versions": dict(versions()),
        **({"origins": {part: dict(origin) for part, origin in origins.items()}} if origins else {}),
    }


def finish(
    run: Run,
    stage: str,
    training: Training,
    module: Net,
    path: Path,
    *,
    key: str,
    images_per_step: int,
    validate: Callable[[], dict[str, float]],
    before: Path | None = None,
    seconds_before: float = 0.0,
    origins: Origins = NO_ORIGINS,
) -> Net:
    """Skips, takes up or starts a training, and writes its net.

    Args:
        run: Data, recipe and seed; its observer is told.
        stage: What the training is called.
        training: The training, at its start.
        module: What it trains.
        path: The file of the trained net. While it is not there, PATH.training holds the state.
        key: What the result depends on; files with another one are refused.
        images_per_step: Noisy images that a step sees.
        validate: Tries the trained net on validation images.
        before: The file of the part of the training that came before, whose steps and seconds count too.
        seconds_before: Time that training what it starts from took; kept apart from its own.
        origins: What is known of the nets that it starts from.

    Returns:
        The trained net in eval mode.

    Raises:
        SettingError: If a file is of another run, or the path does not end in .safetensors.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
        StorageError: If a file cannot be written.
    """
    check_suffix(path)
    if path.exists():
        trained, about = load_model(path)
        check_key(path, about.get("key"), key)
        module.load_state_dict(trained.state_dict())
        run.observe(Update(stage=stage, state="skipped", note=f"trained before, {_outcome(about)}"))
        return module.eval()
    unfinished = path.with_name(f"{path.name}.training")
    if unfinished.exists():
        tensors, plain = load_state(unfinished)
        check_key(unfinished, plain.get("key"), key)
        training.resume(tensors, plain)
        run.observe(Update(stage=stage, state="resumed", done=training.step, total=training.steps))
    else:
        run.observe(Update(stage=stage, state="started", total=training.steps))
    _train_with_checkpoints(run, stage, training, unfinished, key)
    module.eval()
    earlier: dict[str, Any] = {"steps": 0, "samples": 0, "seconds": 0.0, "curve": []}
    if before is not None:
        _, earlier = load_model(before)
    about = {
        **origin_of(run, stage, key, origins),
        "steps": earlier["steps"] + training.steps,
        "samples": earlier["samples"] + training.steps * images_per_step,
        "seconds": earlier["seconds"] + training.seconds,
        **({"seconds_before": seconds_before} if seconds_before else {}),
        "curve": [
            *earlier["curve"],
            *((earlier["steps"] + step, loss, rate) for step, loss, rate in training.curve),
        ],
        "validation": validate(),
    }
    save_model(path, module, about=about)
    unfinished.unlink(missing_ok=True)
    run.observe(Update(stage=stage, state="finished", note=_outcome(about)))
    return module


def _train_with_checkpoints(run: Run, stage: str, training: Training, path: Path, key: str) -> None:
    saved = time.monotonic()
    for progress in training.run():
        run.observe(Update(stage=stage, state="advanced", done=progress.step, total=progress.steps))
        if time.monotonic() - saved >= run.checkpoint_seconds:
            tensors, plain = training.state()
            save_state(path, tensors, {**plain, "key": key})
            saved = time.monotonic()


def _outcome(about: dict[str, Any]) -> str:
    match about.get("validation"):
        case {"accuracy": accuracy}:
            return f"{accuracy:.1%} right on validation images"
        case {"noisy_db": noisy, "restored_db": restored}:
            return f"{noisy:.1f} -> {restored:.1f} dB on validation images"
        case {"kept_before": before, "kept": after}:
            return f"{before:.1%} -> {after:.1%} of the answers kept on noisy validation images"
    return "not validated"


def check_key(path: Path, found: object, wanted: str) -> None:
    """Refuses a file that was made with something else than is wanted now.

    Raises:
        SettingError: If the key that was found in the file is not the one that is wanted.
    """
    if found != wanted:
        raise SettingError(
            f"{path} was made with other data, settings or seed; choose another place, or remove it"
        )


def check_suffix(path: Path) -> None:
    """Refuses a name by which the other commands would not know a file of weights.

    Raises:
        SettingError: If the path does not end in .safetensors.
    """
    if path.suffix != SUFFIX:
        raise SettingError(f"{path} is to hold weights; give it a name that ends in {SUFFIX}")


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
    return train_on_labels(run, stage, module, settings, Path(path), key=run.key(stage, settings))


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


def train_on_labels(
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
    """Trains a classifier, or a pair, on labelled images as the settings say, and writes it to `path`."""
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
