"""A training from its settings to a file: skipped, taken up or started, and described when it is done."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from steadylens.checkpoint import SUFFIX, load_model, load_state, save_model, save_state
from steadylens.errors import SettingError
from steadylens.images import SQUASHED
from steadylens.randomness import derived_generator
from steadylens.run import Run, Update, commit, versions
from steadylens.settings import ClassifierRecipe, RestorerRecipe
from steadylens.training import Objective, Training

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
