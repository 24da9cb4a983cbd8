"""Fuses a restorer with a classifier: as they are, tuned without labels, or fine-tuned.

Fine-tuning the classifier behind the frozen restorer is the paper's way (Sec. 4.2). Without labels, the
restorer learns that the classifier answers on the restored noisy image as it does on the clean one. That is
the stability objective of Denoised Smoothing (Salman, Sun, Yang, Kapoor, Kolter, NeurIPS 2020), which asks
for the class that the classifier gives the clean image. Ours asks for the probabilities of all classes,
keeps the restorer's own loss beside them, and shows weak noise and clean images too, so as not to harm
these.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import fingerprint, load_model, save_model
from steadylens.checkpoints.info import TrainingInfo
from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import forward_in_batches
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.architecture import describe
from steadylens.nets.classification import FusedClassifier, evaluating
from steadylens.noise.degradation import Degradation
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.training.loop import OneCycleAdam, Optimization
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    RestorationLoss,
    consistency_objective,
)
from steadylens.training.recipes import SLIGHT
from steadylens.training.run import Run
from steadylens.training.stages import (
    Stage,
    check_key,
    check_suffix,
    chosen_validation,
    finish,
    provenance_of,
    train_on_labels,
    training_of,
)

Net = nn.Module | LoadedNet
"""A net, or a net with what is known of it, which the file of the pair then tells, too."""


def fine_tune(run: Run, restorer: Net, classifier: Net, path: str | Path, *, name: str) -> LoadedNet:
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
        SettingError: If the file is of another run, or the pair is none that a file can hold.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.fine_tuning
    front, behind = _loaded(restorer), _loaded(classifier)
    fused = FusedClassifier(front.module, behind.module).to(run.device)
    describe(fused)  # what cannot be saved is refused before hours are spent
    stage = f"fine-tuning {name}"
    key = run.key(stage, settings, fingerprint(fused))
    made_from = {"restorer": front, "classifier": behind}
    with _without_gradient(front.module):
        return train_on_labels(
            run, Stage(name=stage, path=Path(path), key=key, made_from=made_from), fused, settings
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
    classifier: Net,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
) -> LoadedNet:
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
    front = _loaded(restorer)
    tuned = front.module.to(run.device).requires_grad_(True)
    unchanged = _loaded(classifier).module.to(run.device)
    key = run.key(stage, settings, tuning, fingerprint(tuned), fingerprint(unchanged))
    before = copy.deepcopy(tuned).eval()
    with evaluating(unchanged), _without_gradient(unchanged):
        objective = consistency_objective(
            tuned,
            unchanged,
            run.data.train.images,
            batch=settings.batch,
            degradation=noise,
            augmentation=settings.augmentation,
            fidelity=Fidelity(weight=tuning.fidelity, loss=tuning.loss),
        )
        return finish(
            run,
            Stage(name=stage, path=Path(path), key=key, made_from={"restorer": front}),
            training_of(run, stage, tuned, objective, settings),
            images_per_step=settings.batch * degradation.versions,
            validate=lambda: _try_pair(run, before, tuned, unchanged, degradation),
        )


def _loaded(net: Net) -> LoadedNet:
    return net if isinstance(net, LoadedNet) else LoadedNet(name="", module=net)


@contextmanager
def _without_gradient(module: nn.Module) -> Iterator[None]:
    """Lets a module's parameters take no gradient for a while."""
    wishes = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    try:
        yield
    finally:
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


def fuse_as_they_are(run: Run, restorer: Net, classifier: Net, path: str | Path, *, name: str) -> LoadedNet:
    """Puts a restorer in front of a classifier and writes the pair to `path`; nothing is trained.

    Args:
        run: The data, whose classes the file names.
        restorer: The trained restorer.
        classifier: The trained classifier.
        path: The file to write.
        name: Short name of the pair, for progress.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If the file is there and holds something else, or the classifier cannot be described.
        CheckpointError: If a file that is there cannot be read.
        StorageError: If the file cannot be written.
    """
    made_from = {"restorer": _loaded(restorer), "classifier": _loaded(classifier)}
    # The pair was not trained: the file leaves unsaid how.
    return _fused(run, name, Path(path), made_from, unsaid=("data", "recipe", "seed"))


def fuse_label_free(
    run: Run,
    restorer: Net,
    classifier: Net,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
) -> LoadedNet:
    """Tunes a restorer for a frozen classifier, without labels, and writes the pair to `path`.

    The tuned restorer alone is written beside it, with "-restorer" in its name.

    Args:
        run: Data, recipe and seed; the labels of the data are not looked at.
        restorer: The trained restorer, changed in place.
        classifier: The trained classifier; it stays as it is.
        path: The file to write.
        name: Short name of the pair, for progress and for the draws.
        tuning: What the recipe does not say of the tuning.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If a file is of another run, the classifier cannot be described, or the restorer has
            nothing to tune.
        CheckpointError: If a file that is there cannot be read.
        DivergenceError: If the training diverges.
        StorageError: If a file cannot be written.
    """
    front, behind = _loaded(restorer), _loaded(classifier)
    describe(behind.module)  # what cannot be saved is refused before hours are spent
    path = Path(path)
    beside = path.with_stem(f"{path.stem}-restorer")
    if path.exists() and not beside.exists():
        raise SettingError(
            f"{path} is there and no tuning has written it; choose another place, or remove it"
        )
    tuned = tune_restorer(run, front, behind, beside, name=name, tuning=tuning)
    seconds = tuned.info.seconds or 0.0
    return _fused(run, name, path, {"restorer": front, "classifier": behind}, seconds=seconds)


def _fused(
    run: Run,
    name: str,
    path: Path,
    made_from: Mapping[str, LoadedNet],
    *,
    seconds: float = 0.0,
    unsaid: Collection[str] = (),
) -> LoadedNet:
    """Writes a pair of nets, whose training took so many seconds beyond that of the two."""
    pair = FusedClassifier(made_from["restorer"].module, made_from["classifier"].module)
    fused = pair.to(run.device).eval()
    check_suffix(path)
    key = run.key("fusing", fingerprint(fused))
    stage = Stage(name=f"fusing {name}", path=path, key=key, made_from=made_from)
    if path.exists():
        _, about = load_model(path)
        check_key(path, about.get("key"), key)
        run.observe(Update(stage=stage.name, state="skipped", note="fused before"))
    else:
        known = provenance_of(run, stage)
        about = {part: value for part, value in known.items() if part not in unsaid}
        about["seconds"] = stage.seconds_before + seconds
        save_model(path, fused, about=about)
        run.observe(Update(stage=stage.name, state="finished", note="written whole"))
    return LoadedNet(name=path.stem, module=fused, info=TrainingInfo.of_plain(about, name=path.stem))
