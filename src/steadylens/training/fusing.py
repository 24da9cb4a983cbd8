"""Fuses a restorer with a classifier in four ways: untrained, one of the two tuned, or both together.

The paper fine-tunes the classifier behind the frozen restorer (Sec. 4.2). Trained together, the restorer
learns to keep what the classifier needs, and the classifier to read what the restorer makes. Consistency
tuning needs no labels and leaves the classifier as it is: it trains the restorer so that the classifier
predicts the same for a restored noisy image as for the clean one. That is the stability objective of Denoised
Smoothing (Salman, Sun, Yang, Kapoor, Kolter, NeurIPS 2020) with three changes. The target is the
probabilities of all classes, not the predicted class; a restoration loss is added; and slight noise and clean
images are among the inputs, so that these are not harmed.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import TrainingInfo, fingerprint, load_model, save_model
from steadylens.checkpoints.choosing import mismatch
from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import evaluating, forward_in_batches, moved
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.architecture import describe
from steadylens.nets.classification import FusedClassifier
from steadylens.noise.degradation import Degradation
from steadylens.noise.mixtures import SLIGHT
from steadylens.progress import Update
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    RestorationLoss,
    consistency_objective,
    pair_objective,
)
from steadylens.training.optimizers import OneCycleAdam, Optimization
from steadylens.training.run import ClassifierRecipe, Run
from steadylens.training.stages import (
    Stage,
    check_key,
    check_suffix,
    new_training,
    provenance_of,
    random_validation_images,
    run_labelled,
    run_stage,
    train_on_labels,
    validation_noise,
)

Net = nn.Module | LoadedNet
"""A net, or a net with the information about its training, which is then written into the pair's file."""


def fine_tune(run: Run, restorer: Net, classifier: Net, path: str | Path, *, name: str) -> LoadedNet:
    """Fine-tunes a trained classifier behind a frozen restorer, on noisy images (Sec. 4.2).

    Args:
        run: Data, recipe and seed.
        restorer: The restorer, which is not changed; `nn.Identity()` for none.
        classifier: The trained classifier, changed in place.
        path: The .safetensors file to write, with both nets. If it exists and belongs to this run, it is
            loaded instead.
        name: Short name of the pair, for progress messages and as a part of the random seed.

    Returns:
        The fused classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, or one of the nets cannot be saved.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.fine_tuning
    given_restorer, given_classifier = _loaded(restorer), _loaded(classifier)
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    fused = FusedClassifier(copy.deepcopy(given_restorer.module), given_classifier.module).to(run.device)
    describe(fused)  # raises before the training if the pair cannot be saved afterwards
    stage = f"fine-tuning {name}"
    key = run.key(stage, settings, fingerprint(fused))
    made_from = {"restorer": given_restorer, "classifier": given_classifier}
    with _without_gradient(fused.restorer):
        stage_of_pair = Stage(name=stage, path=Path(path), key=key, made_from=made_from)
        if settings.consistency == 0:
            return train_on_labels(run, stage_of_pair, fused, settings)
        return _train_pair(run, stage_of_pair, fused, settings, fidelity=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTuning:
    """Settings of training a restorer and a classifier together, beside the recipe's for fine-tuning.

    Attributes:
        restorer_factor: The restorer's learning rate, relative to the classifier's.
        fidelity: Weight of the restoration loss. With 0, a restored image need not look like the clean one.
        loss: The restoration loss.
        consistency: Weight of KL(p(x) || q(x + nu)), where p are the probabilities of the classifier before
            the tuning for a clean image, and q those of the pair for a noisy one.

    Raises:
        SettingError: If `restorer_factor` is not positive, or a weight is negative.
    """

    restorer_factor: float = 0.3
    fidelity: float = 0.05
    loss: RestorationLoss = field(default_factory=LogSquaredError)
    consistency: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.restorer_factor < math.inf and self.fidelity >= 0 and self.consistency >= 0):
            raise SettingError(
                f"restorer_factor is {self.restorer_factor}, fidelity {self.fidelity}, consistency "
                f"{self.consistency}; the factor must be positive, a weight must be at least 0"
            )


JOINT = JointTuning()
"""The settings with which the packaged pair was trained together."""


def tune_together(
    run: Run,
    restorer: Net,
    classifier: Net,
    path: str | Path,
    *,
    name: str,
    tuning: JointTuning = JOINT,
) -> LoadedNet:
    """Trains a restorer and the classifier behind it together, on labelled noisy images.

    The loss is the cross-entropy of the pair, plus two weighted parts: the pair is to predict for a noisy
    image what the classifier predicted for the clean one before the tuning, and the restored image is to
    look like the clean one. Number of steps, batch size, noise, augmentation and the classifier's optimizer
    are those of the recipe's fine-tuning, which must be an Adam.

    Args:
        run: Data, recipe and seed.
        restorer: The trained restorer, changed in place.
        classifier: The trained classifier, changed in place.
        path: The .safetensors file to write, with both nets. If it exists and belongs to this run, it is
            loaded instead.
        name: Short name of the pair, for progress messages and as a part of the random seed.
        tuning: Settings that the recipe does not have.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, the recipe fine-tunes without noise or not with
            Adam, a net cannot be saved, or the restorer has no parameters.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    stage, optimization = f"joint training {name}", run.recipe.fine_tuning.optimization
    given_restorer, given_classifier = _loaded(restorer), _loaded(classifier)
    if not isinstance(optimization, OneCycleAdam):
        raise SettingError(
            f"recipe {run.recipe.name} fine-tunes by {type(optimization).__name__}; restorer and classifier "
            "are trained together by OneCycleAdam, as in the recipes fast, thorough and unet"
        )
    if not any(True for _ in given_restorer.module.parameters()):
        kind = type(given_restorer.module).__name__
        raise SettingError(f"the restorer, {kind}, has nothing to train; tune the classifier alone")
    settings = replace(
        run.recipe.fine_tuning,
        optimization=replace(optimization, part_factors=(("restorer", tuning.restorer_factor),)),
        consistency=tuning.consistency,
        start_share=run.recipe.fine_tuning.joint_start_share,
    )
    pair = FusedClassifier(given_restorer.module, given_classifier.module, frozen=False).to(run.device)
    describe(pair)  # raises before the training if the pair cannot be saved afterwards
    _noise_of(run, settings)  # raises before the restorer is changed
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    given_restorer.module.requires_grad_(True)
    key = run.key(stage, settings, tuning, fingerprint(pair))
    made_from = {"restorer": given_restorer, "classifier": given_classifier}
    return _train_pair(
        run,
        Stage(name=stage, path=Path(path), key=key, made_from=made_from),
        pair,
        settings,
        fidelity=Fidelity(weight=tuning.fidelity, loss=tuning.loss),
    )


def _train_pair(
    run: Run, stage: Stage, pair: FusedClassifier, settings: ClassifierRecipe, *, fidelity: Fidelity | None
) -> LoadedNet:
    """Trains a pair, or the classifier of it, towards the labels and its own predictions for clean images."""
    teacher = copy.deepcopy(pair.classifier).eval().requires_grad_(False)
    loss = PairLoss(
        teacher=teacher,
        consistency=settings.consistency,
        label_smoothing=settings.label_smoothing,
        fidelity=fidelity,
    )
    objective = pair_objective(
        pair,
        run.data.train.images,
        run.data.train.labels,
        batch=settings.batch,
        degradation=_noise_of(run, settings),
        augmentation=settings.augmentation,
        loss=loss,
    )
    return run_labelled(run, stage, pair, objective, settings)


def _noise_of(run: Run, settings: ClassifierRecipe) -> Degradation:
    if settings.degradation is None:
        raise SettingError(
            f"recipe {run.recipe.name} fine-tunes without noise; give its fine_tuning a degradation"
        )
    return settings.degradation


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyTuning:
    """Settings of consistency tuning, which the recipe's settings for fine-tuning do not have.

    Attributes:
        optimization: Optimizer and learning rate. A restorer that has been trained for long needs a far lower
            learning rate than a classifier.
        fidelity: Weight of the restoration loss. With 0, a restored image need not look like the clean one.
        loss: The restoration loss.
        slight_share: Share of the images with slight noise, which is added to the recipe's noise types.
        clean_share: Smallest share of images without noise.

    Raises:
        SettingError: If a share lies outside [0, 1), or `fidelity` is negative.
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
        """Returns the noise of a recipe, with slight noise and clean images added."""
        usual = degradation.weights or (1.0,) * len(degradation.families)
        slight = sum(usual) * self.slight_share / (1 - self.slight_share)
        return replace(
            degradation,
            families=(SLIGHT, *degradation.families),
            weights=(slight, *usual),
            clean_share=max(self.clean_share, degradation.clean_share),
        )


CONSISTENCY = ConsistencyTuning()
"""The settings that kept the most predictions without making images of any noise strength worse."""


def tune_restorer(
    run: Run,
    restorer: Net,
    classifier: Net,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
) -> LoadedNet:
    """Tunes a restorer so that noise does not change a classifier's predictions, without labels.

    Number of steps, batch size, noise and augmentation are those of the recipe's fine-tuning. Only the
    restorer is trained; weights and BatchNorm statistics of the classifier do not change at all.

    Args:
        run: Data, recipe and seed. The labels of the data are not used.
        restorer: The trained restorer, changed in place.
        classifier: The classifier, from images to logits, which is not changed.
        path: The .safetensors file to write, with the restorer alone. If it exists and belongs to this run,
            it is loaded instead.
        name: Short name of the pair, for progress messages and as a part of the random seed.
        tuning: Settings that the recipe does not have.

    Returns:
        The restorer in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, the recipe fine-tunes without noise, or the restorer
            has no parameters.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    settings, stage = run.recipe.fine_tuning, f"label-free tuning {name}"
    degradation = _noise_of(run, settings)
    settings = replace(settings, optimization=tuning.optimization)
    noise = tuning.noise(degradation)
    given_restorer = _loaded(restorer)
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    tuned = given_restorer.module.to(run.device).requires_grad_(True)
    unchanged = moved(_loaded(classifier).module, run.device)
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
        return run_stage(
            run,
            Stage(name=stage, path=Path(path), key=key, made_from={"restorer": given_restorer}),
            new_training(run, stage, tuned, objective, settings, start_share=settings.start_share),
            images_per_step=settings.batch * degradation.versions,
            validate=lambda: _validate_pair(run, before, tuned, unchanged, degradation),
        )


def _loaded(net: Net) -> LoadedNet:
    if not isinstance(net, LoadedNet | nn.Module):
        raise SettingError(
            f"a net is {net!r}, it must be a module or a LoadedNet; load a packaged net or a file "
            "first, with steadylens.load(...)"
        )
    return net if isinstance(net, LoadedNet) else LoadedNet(name="", module=net)


def tell_of_mismatch(run: Run, stage: str, restorer: nn.Module) -> None:
    """Tells the run's observer if a packaged restorer of signs is in front of a classifier of photographs."""
    size = run.data.train.images.shape[-1]  # that of all parts
    if note := mismatch(restorer, run.data.source, size=size):
        run.observe(Update(stage=stage, state="noted", note=note))


@contextmanager
def _without_gradient(module: nn.Module) -> Iterator[None]:
    """Sets `requires_grad` of all parameters to False inside the block, and restores it afterwards."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)


def _predicted(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Returns the predicted classes of images, int64 (N,)."""
    return forward_in_batches(classifier, images).argmax(dim=1)


def _validate_pair(
    run: Run, before: nn.Module, after: nn.Module, classifier: nn.Module, degradation: Degradation
) -> dict[str, float]:
    """Returns the share of noisy images that are classified as without noise, before and after tuning."""
    clean = to_float(random_validation_images(run).images)
    if len(clean) == 0:
        return {}
    noisy = validation_noise(run, clean, degradation)
    predictions = _predicted(classifier, clean)

    def kept(restorer: nn.Module) -> float:
        same = _predicted(lambda images: classifier(restorer(images)), noisy) == predictions
        return float(same.float().mean())

    return {"kept_before": kept(before), "kept": kept(after), "images": len(clean)}


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
    made_from = {"restorer": _loaded(restorer), "classifier": _loaded(classifier)}
    tell_of_mismatch(run, f"fusing {name}", made_from["restorer"].module)
    # Nothing was trained, so the file must not name data, recipe and seed of a training.
    return _save_pair(run, name, Path(path), made_from, omitted=("data", "recipe", "seed"))


def restorer_beside(path: Path) -> Path:
    """Returns the file of the tuned restorer that `fuse_label_free` saves next to the file of the pair."""
    return path.with_stem(f"{path.stem}-restorer")


def fuse_label_free(
    run: Run,
    restorer: Net,
    classifier: Net,
    path: str | Path,
    *,
    name: str,
    tuning: ConsistencyTuning = CONSISTENCY,
) -> LoadedNet:
    """Tunes a restorer for a frozen classifier, without labels, and saves the pair; see `tune_restorer`.

    The tuned restorer alone is saved next to it: "pair-restorer.safetensors" for "pair.safetensors".

    Args:
        run: Data, recipe and seed. The labels of the data are not used.
        restorer: The trained restorer, changed in place.
        classifier: The trained classifier, which is not changed.
        path: The .safetensors file to write, with both nets.
        name: Short name of the pair, for progress messages and as a part of the random seed.
        tuning: Settings that the recipe does not have.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If a file belongs to another run, the classifier cannot be saved, or the restorer has no
            parameters.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
        StorageError: If a file cannot be written.
    """
    given_restorer, given_classifier = _loaded(restorer), _loaded(classifier)
    describe(given_classifier.module)  # raises before the training if the pair cannot be saved afterwards
    path = Path(path)
    restorer_path = restorer_beside(path)
    if workers.by_first(lambda: path.exists() and not restorer_path.exists()):
        raise SettingError(
            f"{path} exists, but was not written by this tuning; choose another place, or remove it"
        )
    tuned = tune_restorer(run, given_restorer, given_classifier, restorer_path, name=name, tuning=tuning)
    seconds = tuned.info.seconds or 0.0
    return _save_pair(
        run, name, path, {"restorer": given_restorer, "classifier": given_classifier}, seconds=seconds
    )


def _save_pair(
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
