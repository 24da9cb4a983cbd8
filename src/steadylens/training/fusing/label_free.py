"""Tunes a restorer for a classifier that stays as it is, without labels.

Consistency tuning trains the restorer so that the classifier predicts the same for a restored noisy image as
for the clean one. That is the stability objective of Denoised Smoothing (Salman, Sun, Yang, Kapoor, Kolter,
NeurIPS 2020) with three changes. The target is the probabilities of all classes, not the predicted class; a
restoration loss is added; and slight noise and clean images are among the inputs, so that these are not
harmed.
"""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import evaluating, forward_in_batches, moved, without_gradient
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.metrics import answers
from steadylens.nets.architecture import describe
from steadylens.noise.degradation import Degradation
from steadylens.noise.mixtures import SLIGHT
from steadylens.training.fusing.pairs import Net, loaded, noise_of, save_pair, tell_of_mismatch
from steadylens.training.loop import check_start_share
from steadylens.training.objectives import Fidelity, LogSquaredError, RestorationLoss, consistency_objective
from steadylens.training.optimizers import OneCycleAdam, Optimization
from steadylens.training.run import Run
from steadylens.training.stages import (
    Stage,
    new_training,
    random_validation_images,
    run_stage,
    validation_noise,
)


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
        start_share: Share of the weights before the tuning in those after it: see `Training`. The recipe's
            own is for classifiers.

    Raises:
        SettingError: If `slight_share` or `start_share` lies outside [0, 1), `clean_share` outside [0, 1], or
            `fidelity` is negative.
    """

    optimization: Optimization = field(default_factory=lambda: OneCycleAdam(learning_rate=3e-5))
    fidelity: float = 0.1
    loss: RestorationLoss = field(default_factory=LogSquaredError)
    slight_share: float = 0.3
    clean_share: float = 0.05
    start_share: float = 0.0

    def __post_init__(self) -> None:
        check_start_share(self.start_share)
        if not (0 <= self.slight_share < 1 and 0 <= self.clean_share <= 1 and self.fidelity >= 0):
            raise SettingError(
                f"slight_share is {self.slight_share}, clean_share {self.clean_share}, fidelity "
                f"{self.fidelity}; slight_share must lie in [0, 1), clean_share in [0, 1], and fidelity must "
                "be at least 0"
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
"""The settings of `fuse --tune restorer`."""


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
    degradation = noise_of(run, settings)
    settings = replace(settings, optimization=tuning.optimization)
    noise = tuning.noise(degradation)
    given_restorer = loaded(restorer)
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    tuned = given_restorer.module.to(run.device).requires_grad_(True)
    unchanged = moved(loaded(classifier).module, run.device)
    key = run.key(stage, settings, tuning, fingerprint(tuned), fingerprint(unchanged))
    before = copy.deepcopy(tuned).eval()
    with evaluating(unchanged), without_gradient(unchanged):
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
            new_training(run, stage, tuned, objective, settings, start_share=tuning.start_share),
            images_per_step=settings.batch * degradation.versions,
            validate=lambda: _validate_pair(run, before, tuned, unchanged, degradation),
        )


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
    given_restorer, given_classifier = loaded(restorer), loaded(classifier)
    describe(given_classifier.module)  # raises before the training if the pair cannot be saved afterwards
    path = Path(path)
    restorer_path = restorer_beside(path)
    if workers.by_first(lambda: path.exists() and not restorer_path.exists()):
        raise SettingError(
            f"{path} exists, but was not written by this tuning; choose another place, or remove it"
        )
    tuned = tune_restorer(run, given_restorer, given_classifier, restorer_path, name=name, tuning=tuning)
    seconds = tuned.info.seconds or 0.0
    return save_pair(
        run, name, path, {"restorer": given_restorer, "classifier": given_classifier}, seconds=seconds
    )


def _validate_pair(
    run: Run, before: nn.Module, after: nn.Module, classifier: nn.Module, degradation: Degradation
) -> dict[str, float]:
    """Returns the share of noisy images that are classified as without noise, before and after tuning."""
    clean = to_float(random_validation_images(run).images)
    if len(clean) == 0:
        return {}
    noisy = validation_noise(run, clean, degradation)
    wanted = answers(forward_in_batches(classifier, clean))

    def kept(restorer: nn.Module) -> float:
        found = answers(forward_in_batches(lambda images: classifier(restorer(images)), noisy))
        return float((found == wanted).float().mean())

    return {"kept_before": kept(before), "kept": kept(after), "images": len(clean)}
