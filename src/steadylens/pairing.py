"""Fusing without touching the classifier: with the restorer as it is, or tuned without labels.

The third way, the paper's, tunes the classifier instead: `stages.fine_tune`.
"""

from collections.abc import Collection
from pathlib import Path

from torch import nn

from steadylens.checkpoint import describe, load_model, save_model
from steadylens.errors import SettingError
from steadylens.fusion import FusedClassifier
from steadylens.label_free import REPEATING, Repeating, tune_restorer
from steadylens.netkeys import net_key
from steadylens.run import Run, Update
from steadylens.trainingfiles import NO_ORIGINS, Origins, check_key, check_suffix, origin_of


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
    repeating: Repeating = REPEATING,
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
        repeating: What the recipe does not say of the tuning.
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
    tuned = tune_restorer(run, restorer, classifier, beside, name=name, repeating=repeating, origins=origins)
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
    stage, key = f"fusing {name}", run.key("fusing", net_key(fused))
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
