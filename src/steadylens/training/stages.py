"""The stages of a run, each of which writes a net to a file: train a restorer, train a classifier.

A stage is skipped if its file exists and was made with the same settings. An interrupted training resumes
from its last checkpoint, with the same result as without the interruption. If several workers train, worker 0
alone reads and writes files, and the others follow its decisions; each has the trained net in the end.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import (
    SUFFIX,
    TrainingInfo,
    fingerprint,
    load_model,
    load_state,
    save_model,
    save_state,
)
from steadylens.checkpoints.loading import LoadedNet
from steadylens.data.datasets import ImageSet
from steadylens.devices import fast_memory_format, forward_in_batches
from steadylens.errors import SettingError, StorageError
from steadylens.images.tensors import SQUASHED, accepting_any_range, to_float
from steadylens.metrics import psnr, top_k
from steadylens.nets.architecture import describe, restorer_named
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import SelfInitializing, initialize_xavier, zero_last_layer
from steadylens.noise.degradation import Degradation
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.training.loop import Training
from steadylens.training.objectives import classifying_objective, restoring_objective
from steadylens.training.places import Objective
from steadylens.training.run import ClassifierRecipe, RestorerRecipe, Run, commit, versions


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage of a run, which makes a net and writes it to a file.

    Attributes:
        name: Name of the stage; also a part of its random seed.
        path: The net's file. Until the training has finished, its state is in PATH.training.
        key: Hash of all that the result depends on; an existing file with another key is refused.
        made_from: The nets that the stage starts from or learns from, by their role: "restorer",
            "classifier", "teacher 1".
        before: The previous phase of the same training; its steps and seconds are added.
    """

    name: str
    path: Path
    key: str
    made_from: Mapping[str, LoadedNet] = field(default_factory=dict)
    before: TrainingInfo | None = None

    @property
    def seconds_before(self) -> float:
        """Seconds that were spent on training the nets that the stage starts from or learns from."""
        return sum(net.seconds for net in self.made_from.values())

    def origins(self) -> dict[str, dict[str, str]]:
        """Returns name, data and licence of the nets that it is made from, as far as they are known."""
        return {part: dict(net.origin) for part, net in self.made_from.items() if net.origin}


def new_training(
    run: Run,
    stage: str,
    module: nn.Module,
    objective: Objective,
    settings: RestorerRecipe | ClassifierRecipe,
    *,
    start_share: float = 0.0,
) -> Training:
    """Returns a new training, with random numbers that depend on the run's seed and the stage's name."""
    return Training(
        module,
        objective,
        optimization=settings.optimization,
        steps=settings.steps,
        clip_norm=settings.clip_norm,
        averaging=settings.averaging,
        start_share=start_share,
        generator=derived_generator(run.seed, stage, device=run.device),
    )


def provenance_of(run: Run, stage: Stage) -> dict[str, Any]:
    """Returns the entries that the file of every trained net has: recipe, seed, data, code, versions."""
    return {
        "stage": stage.name,
        "key": stage.key,
        "recipe": run.recipe.name,
        "seed": run.seed,
        "data": run.data.source,
        "classes": list(run.data.class_names),
        **({} if run.data.fit == SQUASHED else {"fit": str(run.data.fit)}),
        "commit": commit(),
        "versions": dict(versions()),
        **({"origins": origins} if (origins := stage.origins()) else {}),
    }


def run_stage(
    run: Run,
    stage: Stage,
    training: Training,
    *,
    images_per_step: int,
    validate: Callable[[], dict[str, float]],
) -> LoadedNet:
    """Runs a training to its end and writes the net; resumes or skips it if it was run before.

    Args:
        run: Data, recipe and seed; its observer receives progress.
        stage: The stage's name, file and key.
        training: The training, not yet started.
        images_per_step: Number of noisy images in a step.
        validate: Measures the trained net on validation images.

    Returns:
        The trained net in eval mode, with the information in its file.

    Raises:
        SettingError: If a file belongs to another run, the path does not end in .safetensors, or workers
            that train together have other data or settings.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
        StorageError: If a file cannot be written.
    """
    path, module = stage.path, training.module
    check_suffix(path)
    workers.check_agreement("data, settings or seed", run.key(stage.name, run.recipe))
    unfinished = path.with_name(f"{path.name}.training")
    if (trained := workers.by_first(lambda: _trained_before(stage))) is not None:
        weights, info = trained
        module.load_state_dict(weights)
        note = f"trained before, {_outcome(info.validation)}"
        run.observe(Update(stage=stage.name, state="skipped", note=note))
        return LoadedNet(name=path.stem, module=module.eval(), info=info)
    if (state := workers.by_first(lambda: _unfinished_state(unfinished, stage))) is not None:
        training.resume(*state)
        run.observe(Update(stage=stage.name, state="resumed", done=training.step, total=training.steps))
    else:
        run.observe(Update(stage=stage.name, state="started", total=training.steps))
    if frozen := training.frozen_statistics:
        note = f"several workers train, so the statistics of {frozen} BatchNorm layers stay as they are"
        run.observe(Update(stage=stage.name, state="noted", note=note))
    _train_with_checkpoints(run, stage.name, training, unfinished, stage.key)
    module.eval()

    def finish() -> dict[str, Any]:
        earlier, before = stage.before or TrainingInfo(), stage.seconds_before
        with accepting_any_range():
            validation = validate()
        curve = [*earlier.curve, *((earlier.steps + step, loss, rate) for step, loss, rate in training.curve)]
        about = {
            **provenance_of(run, stage),
            "steps": earlier.steps + training.steps,
            "samples": (earlier.samples or 0) + training.steps * images_per_step,
            "seconds": (earlier.seconds or 0.0) + training.seconds,
            **({"seconds_before": before} if before else {}),
            "curve": [list(point) for point in curve],
            "validation": validation,
        }
        save_model(path, module, about=about)
        unfinished.unlink(missing_ok=True)
        return about

    info = TrainingInfo.of_plain(workers.by_first(finish), name=path.stem)
    run.observe(Update(stage=stage.name, state="finished", note=_outcome(info.validation)))
    return LoadedNet(name=path.stem, module=module, info=info)


def _trained_before(stage: Stage) -> tuple[dict[str, Tensor], TrainingInfo] | None:
    """Returns weights and information of the stage's file, or None if there is no file."""
    if not stage.path.exists():
        return None
    trained, about = load_model(stage.path)
    info = TrainingInfo.of_plain(about, name=stage.path.stem)
    check_key(stage.path, info.key, stage.key)
    return trained.state_dict(), info


def _unfinished_state(path: Path, stage: Stage) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Returns the state of the stage's unfinished training, or None if there is none."""
    if not path.exists():
        return None
    tensors, plain = load_state(path)
    check_key(path, plain.get("key"), stage.key)
    return tensors, plain


def _train_with_checkpoints(run: Run, stage: str, training: Training, path: Path, key: str) -> None:
    saved = time.monotonic()
    for progress in training.run():
        run.observe(Update(stage=stage, state="advanced", done=progress.step, total=progress.steps))
        # The other workers go on to the next step, and learn there if the file could not be written.
        if workers.rank() == 0 and time.monotonic() - saved >= run.checkpoint_seconds:
            tensors, plain = training.state()
            try:
                save_state(path, tensors, {**plain, "key": key})
            except StorageError as error:
                training.fail(error)
            saved = time.monotonic()
    training.raise_failure()


def _outcome(validation: Mapping[str, float]) -> str:
    parts = []
    if (accuracy := validation.get("accuracy")) is not None:
        noisy = validation.get("noisy_accuracy")
        with_noise = "" if noisy is None else f", {noisy:.1%} with noise"
        parts.append(f"{accuracy:.1%} right on validation images{with_noise}")
    match validation:
        case {"noisy_db": before, "restored_db": after}:
            parts.append(f"{before:.1f} -> {after:.1f} dB on validation images")
        case {"kept_before": before, "kept": after}:
            parts.append(f"{before:.1%} -> {after:.1%} of the answers kept on noisy validation images")
    return "; ".join(parts) or "not validated"


def check_key(path: Path, found: object, wanted: str) -> None:
    """Refuses a file that was made with other data, settings or seed.

    Raises:
        SettingError: If the key in the file, `found`, differs from the stage's key, `wanted`.
    """
    if found != wanted:
        raise SettingError(
            f"{path} was made with other data, settings or seed; choose another place, or remove it"
        )


def check_suffix(path: Path) -> None:
    """Refuses a path that the loaders would not recognise as a file of weights.

    Raises:
        SettingError: If the path does not end in .safetensors.
    """
    if path.suffix != SUFFIX:
        raise SettingError(f"{path} is to hold weights; give it a name that ends in {SUFFIX}")


VALIDATION_IMAGES = 500
"""Number of validation images on which a trained net is measured."""


def train_restorer(run: Run, net: str | nn.Module | LoadedNet, path: str | Path) -> LoadedNet:
    """Trains a restorer on noisy versions of the training images.

    Args:
        run: Data, recipe and seed.
        net: The name of a net: L11, L9, L7, L5, L3 or Dong of Table 1, or UNet. Or any restorer, which is
            trained in place with the same settings, starting from its present weights. Of a loaded net the
            file also tells what it began as.
        path: The .safetensors file to write. If it exists and belongs to this run, it is loaded instead.

    Returns:
        The trained net in eval mode, on the run's device.

    Raises:
        SettingError: If the net is unknown or cannot be saved, or the file belongs to another run.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    path, made_from = Path(path), {"restorer": net} if isinstance(net, LoadedNet) else {}
    if isinstance(net, LoadedNet):
        net = net.module
    name = net if isinstance(net, str) else type(net).__name__
    settings = run.recipe.restorer_recipe(name)
    module = _new_restorer(run, net, settings) if isinstance(net, str) else net
    start = () if isinstance(net, str) else (describe(module), fingerprint(module))
    module.to(run.device).to(memory_format=fast_memory_format(run.device))
    parts, info = settings.parts, None
    finished = workers.by_first(path.exists)
    for number in range(1, len(parts) + 1):
        last = number == len(parts)
        if last or not finished:
            stage = Stage(
                name=_stage_of(name, number),
                path=path if last else path.with_stem(f"{path.stem}-part-{number}"),
                key=run.key(_stage_of(name, number), parts[:number], *start),
                made_from=made_from,
                before=info,
            )
            trained = _train_restorer(run, stage, module, parts[number - 1])
            info = trained.info
    return trained


def _new_restorer(run: Run, net: str, settings: RestorerRecipe) -> nn.Module:
    module = restorer_named(net, padding=settings.padding)
    weights = derived_generator(run.seed, f"restorer {net}", "weights")
    if isinstance(module, SelfInitializing):
        module.initialize(generator=weights)
        return module
    initialize_xavier(module, generator=weights, gain=settings.gain)
    if settings.zero_last_layer:
        zero_last_layer(module)
    return module


def train_classifier(run: Run, path: str | Path, *, noisy: bool = False, width: float = 1.0) -> LoadedNet:
    """Trains the sign net from scratch.

    Args:
        run: Data, recipe and seed.
        path: The .safetensors file to write. If it exists and belongs to this run, it is loaded instead.
        noisy: Whether to train with the recipe's noise augmentation instead of on clean images.
        width: Factor on the number of the net's feature maps.

    Returns:
        The trained classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, or the images have no labels.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    if not run.data.class_names:
        raise SettingError(
            f"{run.data.source} has images without labels, from which no classifier learns; give labelled "
            "ones, such as folder:DIR"
        )
    settings = run.recipe.noise_training if noisy else run.recipe.classifier
    name = "classifier, noise-augmented" if noisy else "classifier"
    if width != 1:
        name += f", {width:g} times as wide"
    module = SignNet(classes=len(run.data.class_names), standardize=settings.standardize, width=width)
    # Clean and noisy training start from the same weights, so that they differ only in their images.
    weights = derived_generator(run.seed, "classifier", "weights")
    initialize_xavier(module, generator=weights, gain=settings.gain)
    if not settings.standardize:
        module.fit_mean(run.data.train.images.cpu())
    module.to(run.device)
    return train_on_labels(
        run, Stage(name=name, path=Path(path), key=run.key(name, settings)), module, settings
    )


def _stage_of(net: str, number: int) -> str:
    """Returns the name of the stage that runs a phase of a restorer's training; the first has number 1."""
    suffixes = {1: "", 2: ", refined"}
    return f"restorer {net}" + suffixes.get(number, f", refined {number - 1} times")


def _train_restorer(run: Run, stage: Stage, module: nn.Module, settings: RestorerRecipe) -> LoadedNet:
    """Runs one phase of a restorer's training, from the present weights of the module."""
    objective = restoring_objective(
        module,
        run.data.train.images,
        degradation=settings.degradation,
        loss=settings.loss,
        batch=settings.batch,
        patch=settings.patch,
    )
    return run_stage(
        run,
        stage,
        new_training(run, stage.name, module, objective, settings, start_share=settings.start_share),
        images_per_step=settings.batch * settings.degradation.versions,
        validate=lambda: _validate_restorer(run, module, settings),
    )


def train_on_labels(run: Run, stage: Stage, module: nn.Module, settings: ClassifierRecipe) -> LoadedNet:
    """Trains a classifier, or a pair, on labelled images, and writes it to the stage's file."""
    objective = classifying_objective(
        module,
        run.data.train.images,
        run.data.train.labels,
        batch=settings.batch,
        augmentation=settings.augmentation,
        degradation=settings.degradation,
        label_smoothing=settings.label_smoothing,
    )
    return run_labelled(run, stage, module, objective, settings)


def run_labelled(
    run: Run, stage: Stage, module: nn.Module, objective: Objective, settings: ClassifierRecipe
) -> LoadedNet:
    """Runs the training of a classifier, or a pair, with an objective of its own; see `run_stage`."""
    versions_per_image = settings.degradation.versions if settings.degradation else 1
    return run_stage(
        run,
        stage,
        new_training(run, stage.name, module, objective, settings, start_share=settings.start_share),
        images_per_step=settings.batch * versions_per_image,
        validate=lambda: _validate_classifier(run, module, settings.degradation),
    )


def _validate_restorer(run: Run, net: nn.Module, settings: RestorerRecipe) -> dict[str, float]:
    chosen = random_validation_images(run)
    if len(chosen) == 0:
        return {}
    clean = to_float(chosen.images)
    noisy = validation_noise(run, clean, settings.degradation)
    return _decibels(net, clean, noisy, settings.degradation)


def validation_noise(run: Run, clean: Tensor, degradation: Degradation) -> Tensor:
    """Returns one noisy version of each image, the same for every net of the run."""
    degradation = replace(degradation, versions=1, clean_share=0.0)
    return degradation(clean, generator=derived_generator(run.seed, "validation", device=run.device))


def _decibels(
    net: Callable[[Tensor], Tensor], clean: Tensor, noisy: Tensor, degradation: Degradation
) -> dict[str, float]:
    """Returns the mean PSNR of noisy and of restored images, both stored as the degradation stores them.

    Only images that the noise changed count; their number is returned, too.
    """
    noisy_db = psnr(noisy, clean)
    some = noisy_db.isfinite()  # rounding to 8 bits can remove slight noise
    restored = degradation.stored(forward_in_batches(net, noisy))
    return {
        "noisy_db": float(noisy_db[some].mean()),
        "restored_db": float(psnr(restored, clean)[some].mean()),
        "images": int(some.sum()),
    }


def _validate_classifier(
    run: Run, classifier: nn.Module, degradation: Degradation | None
) -> dict[str, float]:
    """Returns accuracy on clean images and, if it was trained on noise, on noisy ones.

    For a pair whose restorer was trained with it, PSNR before and after the restorer as well.
    """
    chosen = random_validation_images(run)
    if len(chosen) == 0:
        return {}
    clean = to_float(chosen.images)

    def accuracy(images: Tensor) -> float:
        return float(top_k(forward_in_batches(classifier, images), chosen.labels, 1).float().mean())

    found = {"accuracy": accuracy(clean), "images": len(clean)}
    if degradation is None:
        return found
    noisy = validation_noise(run, clean, degradation)
    found["noisy_accuracy"] = accuracy(noisy)
    if isinstance(classifier, FusedClassifier) and not classifier.frozen:
        return _decibels(classifier.restored, clean, noisy, degradation) | found
    return found


def random_validation_images(run: Run) -> ImageSet:
    """Returns a random subset of the validation images, the same for every net of the run."""
    validation = run.data.validation
    generator = derived_generator(run.seed, "choice of validation images")
    order = torch.randperm(len(validation), generator=generator)
    return validation.subset(order[:VALIDATION_IMAGES].to(validation.labels.device))
