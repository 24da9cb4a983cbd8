"""Puts a restorer in front of a classifier, and saves the pair; nothing is trained here."""

import copy
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import TrainingInfo, fingerprint, load_model, save_model
from steadylens.checkpoints.choosing import mismatch
from steadylens.checkpoints.loading import LoadedNet
from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier
from steadylens.noise.degradation import Degradation
from steadylens.progress import Update
from steadylens.training.run import ClassifierRecipe, Run
from steadylens.training.stages import Stage, check_key, check_suffix, provenance_of

Net = nn.Module | LoadedNet
"""A net, or a net with the information about its training, which is then written into the pair's file."""


def fuse_as_they_are(run: Run, restorer: Net, classifier: Net, path: str | Path, *, name: str) -> LoadedNet:
    """Puts a restorer in front of a classifier and saves the pair; nothing is trained.

    Args:
        run: Its data has the class names that are written into the file.
        restorer: The trained restorer, which is not changed.
        classifier: The trained classifier, which is not changed.
        path: The .safetensors file to write, with both nets.
        name: Short name of the pair, for progress messages.

    Returns:
        The pair, a copy of the two nets, in eval mode, on the run's device.

    Raises:
        SettingError: If the file exists with other nets, or one of the nets cannot be saved.
        CheckpointError: If an existing file cannot be read.
        StorageError: If the file cannot be written.
    """
    made_from = {"restorer": loaded(restorer), "classifier": loaded(classifier)}
    tell_of_mismatch(run, f"fusing {name}", made_from["restorer"].module)
    # Nothing was trained, so the file must not name data, recipe and seed of a training.
    return save_pair(run, name, Path(path), made_from, omitted=("data", "recipe", "seed"))


def save_pair(
    run: Run,
    name: str,
    path: Path,
    made_from: Mapping[str, LoadedNet],
    *,
    seconds: float = 0.0,
    omitted: Collection[str] = (),
) -> LoadedNet:
    """Saves a pair, or loads it if it was saved before.

    Args:
        run: Data, recipe and seed.
        name: Short name of the pair.
        path: The file to write.
        made_from: The restorer and the classifier.
        seconds: Time that tuning took, in addition to the training of the two nets.
        omitted: Entries of the provenance that are not written into the file.
    """
    parts = {part: copy.deepcopy(net.module) for part, net in made_from.items()}
    fused = FusedClassifier(parts["restorer"], parts["classifier"]).to(run.device).eval()
    check_suffix(path)
    key = run.key("fusing", fingerprint(fused))
    stage = Stage(name=f"fusing {name}", path=path, key=key, made_from=made_from)

    def save_unless_saved() -> tuple[TrainingInfo, Update]:
        if path.exists():
            info = TrainingInfo.of_plain(load_model(path)[1], name=path.stem)
            check_key(path, info.key, key)
            return info, Update(stage=stage.name, state="skipped", note="saved before")
        known = provenance_of(run, stage)
        about = {part: value for part, value in known.items() if part not in omitted}
        about["seconds"] = stage.seconds_before + seconds
        save_model(path, fused, about=about)
        info = TrainingInfo.of_plain(about, name=path.stem)
        return info, Update(stage=stage.name, state="finished", note="saved")

    info, update = workers.by_first(save_unless_saved)
    run.observe(update)
    return LoadedNet(name=path.stem, module=fused, info=info)


def loaded(net: Net) -> LoadedNet:
    """Returns the net with what is known of its training.

    Raises:
        SettingError: If it is no net, but its name, for example.
    """
    if not isinstance(net, LoadedNet | nn.Module):
        raise SettingError(
            f"a net is {net!r}, it must be a module or a LoadedNet; load a packaged net or a file "
            "first, with steadylens.load(...)"
        )
    return net if isinstance(net, LoadedNet) else LoadedNet(name="", module=net)


def noise_of(run: Run, settings: ClassifierRecipe) -> Degradation:
    """Returns the noise of fine-tuning.

    Raises:
        SettingError: If there is none.
    """
    if settings.degradation is None:
        raise SettingError(
            f"recipe {run.recipe.name} fine-tunes without noise; give its fine_tuning a degradation"
        )
    return settings.degradation


def tell_of_mismatch(run: Run, stage: str, restorer: nn.Module) -> None:
    """Tells the run's observer if a packaged restorer of signs is in front of a classifier of photographs."""
    size = run.data.train.images.shape[-1]  # that of all parts
    if note := mismatch(restorer, run.data.source, size=size):
        run.observe(Update(stage=stage, state="noted", note=note))
