"""The stages of a run, each from files to a file: train a restorer, train a classifier, fine-tune, measure.

A stage whose file is there and was made with the same settings is skipped. A training that was cut off
goes on from its last checkpoint, with the same result as if it had not been.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from steadylens.acceleration import fast_memory_format, forward_in_batches
from steadylens.checkpoint import load_model, load_state, save_model, save_state
from steadylens.classification import SignNet
from steadylens.datasets import ImageSet
from steadylens.errors import SettingError
from steadylens.fusion import FusedClassifier
from steadylens.images import to_float
from steadylens.initialization import initialize_xavier, silence_last_layer
from steadylens.metrics import psnr, top_k
from steadylens.randomness import derived_generator
from steadylens.recipes import ClassifierRecipe, RestorerRecipe, restorer_named
from steadylens.records import Measurement, read_records, write_records
from steadylens.restoration import DongNet, RestorationNet
from steadylens.run import Run, Update, commit, device_name, versions
from steadylens.training import Training, classifying_objective, restoring_objective

Net = TypeVar("Net", bound=nn.Module)

VALIDATION_IMAGES = 500
"""How many of the validation images a finished net is tried on."""


def train_restorer(run: Run, net: str, path: Path) -> RestorationNet | DongNet:
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
    settings = run.recipe.restorer_recipe(net)
    module = restorer_named(net, padding=settings.padding)
    weights = derived_generator(run.seed, f"restorer {net}", "weights")
    initialize_xavier(module, generator=weights, gain=settings.gain)
    if settings.silent_start:
        silence_last_layer(module)
    module.to(run.device).to(memory_format=fast_memory_format(run.device))
    before = None
    for number, stage in enumerate(_stages_of(net, settings), start=1):
        last = number == len(settings.parts)
        if last or not path.exists():
            target = path if last else path.with_stem(f"{path.stem}-part-{number}")
            _train_restorer(run, stage, module, settings.parts[:number], target, before=before)
            before = target
    return module


def train_classifier(run: Run, path: Path, *, noisy: bool = False) -> SignNet:
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
    module = SignNet(classes=len(run.data.class_names))
    # Both start from the same weights: they differ in what they see, not in luck.
    weights = derived_generator(run.seed, "classifier", "weights")
    initialize_xavier(module, generator=weights, gain=settings.gain)
    module.fit_mean(run.data.train.images.cpu())
    module.to(run.device)
    return _train_classifier(run, stage, module, settings, path, key=run.key(stage, settings))


def fine_tune(
    run: Run, restorer: nn.Module, classifier: nn.Module, path: Path, *, name: str
) -> FusedClassifier:
    """Fine-tunes a trained classifier behind a frozen restorer on noisy images (Sec. 4.2), into `path`.

    Args:
        run: Data, recipe and seed.
        restorer: What stands in front; `nn.Identity()` for nothing.
        classifier: The trained classifier, changed in place.
        path: The file to write.
        name: Short name of the pair, for progress and for the draws.

    Returns:
        The fused classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file is of another run.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.fine_tuning
    stage = f"fine-tuning {name}"
    fused = FusedClassifier(restorer, classifier).to(run.device)
    key = run.key(stage, settings, weights_key(fused))
    return _train_classifier(run, stage, fused, settings, path, key=key)


def measure(
    run: Run, stage: str, path: Path, measuring: Callable[[], Iterable[Measurement]], *, key: str
) -> list[Measurement]:
    """Makes the records of one experiment, or reads them if they were made with the same `key` before.

    Args:
        run: Who is told.
        stage: The experiment's name.
        path: Where the records are kept; the key becomes part of the name.
        measuring: Makes the records.
        key: What they depend on.

    Raises:
        RecordError: If records that are there cannot be read.
        StorageError: If they cannot be written.
    """
    origin = run.key(key, run.recipe.name, run.data.source, device_name(run.device))
    keyed = path.with_name(f"{path.stem}-{origin}{path.suffix}")
    if keyed.exists():
        run.observe(Update(stage=stage, state="skipped", note="measured before"))
        return read_records(keyed)
    run.observe(Update(stage=stage, state="started"))
    records = list(measuring())
    write_records(keyed, records)
    run.observe(Update(stage=stage, state="finished"))
    return records


def _stages_of(net: str, settings: RestorerRecipe) -> list[str]:
    """Returns what the parts of a restorer's training are called."""
    refined = (f", refined {count} times" for count in range(2, len(settings.parts)))
    return [f"restorer {net}{suffix}" for suffix in ("", ", refined", *refined)][: len(settings.parts)]


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
    training = Training(
        module,
        objective,
        optimization=settings.optimization,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        generator=derived_generator(run.seed, stage, device=run.device),
    )
    _finish(
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
    run: Run, stage: str, module: Net, settings: ClassifierRecipe, path: Path, *, key: str
) -> Net:
    objective = classifying_objective(
        module,
        run.data.train.images,
        run.data.train.labels,
        batch=settings.batch,
        augmentation=settings.augmentation,
        degradation=settings.degradation,
    )
    training = Training(
        module,
        objective,
        optimization=settings.optimization,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        generator=derived_generator(run.seed, stage, device=run.device),
    )
    versions_per_image = settings.degradation.versions if settings.degradation else 1
    return _finish(
        run,
        stage,
        training,
        module,
        path,
        key=key,
        images_per_step=settings.batch * versions_per_image,
        validate=lambda: _try_classifier(run, module),
    )


def _finish(
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
) -> Net:
    """Skips, takes up or starts a training, and writes its net; `before` is the file of its first part."""
    if path.exists():
        trained, about = load_model(path)
        _check_key(path, about.get("key"), key)
        module.load_state_dict(trained.state_dict())
        run.observe(Update(stage=stage, state="skipped", note=f"trained before, {_outcome(about)}"))
        return module.eval()
    unfinished = path.with_name(f"{path.name}.training")
    if unfinished.exists():
        tensors, plain = load_state(unfinished)
        _check_key(unfinished, plain.get("key"), key)
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
        "stage": stage,
        "key": key,
        "recipe": run.recipe.name,
        "seed": run.seed,
        "data": run.data.source,
        "classes": list(run.data.class_names),
        "commit": commit(),
        "versions": dict(versions()),
        "steps": earlier["steps"] + training.steps,
        "samples": earlier["samples"] + training.steps * images_per_step,
        "seconds": earlier["seconds"] + training.seconds,
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


def _try_restorer(run: Run, net: nn.Module, settings: RestorerRecipe) -> dict[str, float]:
    chosen = _chosen_validation(run)
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
    chosen = _chosen_validation(run)
    if len(chosen) == 0:
        return {}
    right = top_k(forward_in_batches(classifier, to_float(chosen.images)), chosen.labels, 1)
    return {"accuracy": float(right.float().mean()), "images": len(right)}


def _chosen_validation(run: Run) -> ImageSet:
    """Returns some of the validation images, of all classes alike."""
    validation = run.data.validation
    generator = derived_generator(run.seed, "choice of validation images")
    order = torch.randperm(len(validation), generator=generator)
    return validation.subset(order[:VALIDATION_IMAGES].to(validation.labels.device))


def _outcome(about: dict[str, Any]) -> str:
    match about.get("validation"):
        case {"accuracy": accuracy}:
            return f"{accuracy:.1%} right on validation images"
        case {"noisy_db": noisy, "restored_db": restored}:
            return f"{noisy:.1f} -> {restored:.1f} dB on validation images"
    return "not validated"


def _check_key(path: Path, found: object, wanted: str) -> None:
    if found != wanted:
        raise SettingError(
            f"{path} was made with other data, settings or seed; choose another place, or remove it"
        )


def weights_key(module: nn.Module) -> str:
    """Returns a short key of a net: its architecture, weights and buffers."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
