"""Tunes a classifier behind a restorer, or both together, on labelled noisy images.

The paper fine-tunes the classifier behind the frozen restorer (Sec. 4.2). Trained together, the restorer
learns to keep what the classifier needs, and the classifier to read what the restorer makes.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import without_gradient
from steadylens.errors import SettingError
from steadylens.nets.architecture import describe
from steadylens.nets.classification import FusedClassifier
from steadylens.training.fusing.pairs import Net, loaded, noise_of, tell_of_mismatch
from steadylens.training.fusing.teachers import fitting, made_from
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    RestorationLoss,
    pair_objective,
)
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.run import ClassifierRecipe, Run
from steadylens.training.stages import Stage, run_labelled, train_on_labels


def fine_tune(
    run: Run, restorer: Net, classifier: Net, path: str | Path, *, name: str, teachers: Sequence[Net] = ()
) -> LoadedNet:
    """Fine-tunes a trained classifier behind a frozen restorer, on noisy images (Sec. 4.2).

    Args:
        run: Data, recipe and seed.
        restorer: The restorer, which is not changed; `nn.Identity()` for none.
        classifier: The trained classifier, changed in place.
        path: The .safetensors file to write, with both nets. If it exists and belongs to this run, it is
            loaded instead.
        name: Short name of the pair, for progress messages and as a part of the random seed.
        teachers: Classifiers, in turns, whose answers for clean images the pair is to give for noisy ones;
            none for those of the classifier itself. They need a recipe with `consistency`.

    Returns:
        The fused classifier in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, one of the nets cannot be saved, or a teacher does
            not fit the data, or would have no effect.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    settings = run.recipe.fine_tuning
    given_restorer, given_classifier = loaded(restorer), loaded(classifier)
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    fused = FusedClassifier(copy.deepcopy(given_restorer.module), given_classifier.module).to(run.device)
    describe(fused)  # raises before the training if the pair cannot be saved afterwards
    stage = f"fine-tuning {name}"
    teaching = fitting(
        run, teachers, weight=settings.consistency, weight_of=f"consistency of recipe {run.recipe.name}"
    )
    key = run.key(stage, settings, fingerprint(fused), *(fingerprint(each.module) for each in teaching))
    nets = made_from(given_restorer, given_classifier, *teaching)
    with without_gradient(fused.restorer):
        stage_of_pair = Stage(name=stage, path=Path(path), key=key, made_from=nets)
        if settings.consistency == 0:
            return train_on_labels(run, stage_of_pair, fused, settings)
        return _train_pair(run, stage_of_pair, fused, settings, fidelity=None, teachers=teaching)


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTuning:
    """Settings of training a restorer and a classifier together, beside the recipe's for fine-tuning.

    Attributes:
        restorer_factor: The restorer's learning rate, relative to the classifier's.
        fidelity: Weight of the restoration loss. With 0, a restored image need not look like the clean one.
        loss: The restoration loss.
        consistency: Weight of KL(p(x) || q(x + nu)), where p are the probabilities of the classifier before
            the tuning, or of the teachers, for a clean image, and q those of the pair for a noisy one. It
            replaces the recipe's, `ClassifierRecipe.consistency`, which is for a classifier alone.

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
    teachers: Sequence[Net] = (),
) -> LoadedNet:
    """Trains a restorer and the classifier behind it together, on labelled noisy images.

    The loss is the cross-entropy of the pair, plus two weighted parts: the pair is to predict for a noisy
    image what the classifier, before the tuning, or the teachers predict for the clean one, and the restored
    image is to look like the clean one. Number of steps, batch size, noise, augmentation and the classifier's
    optimizer are those of the recipe's fine-tuning, which must be an Adam.

    Args:
        run: Data, recipe and seed.
        restorer: The trained restorer, changed in place.
        classifier: The trained classifier, changed in place.
        path: The .safetensors file to write, with both nets. If it exists and belongs to this run, it is
            loaded instead.
        name: Short name of the pair, for progress messages and as a part of the random seed.
        tuning: Settings that the recipe does not have.
        teachers: As in `fine_tune`.

    Returns:
        The pair in eval mode, on the run's device.

    Raises:
        SettingError: If the file belongs to another run, the recipe fine-tunes without noise or not with
            Adam, a net cannot be saved, the restorer has no parameters, or a teacher does not fit the
            data, or would have no effect.
        CheckpointError: If an existing file cannot be read.
        DivergenceError: If the training diverges.
    """
    stage, optimization = f"joint training {name}", run.recipe.fine_tuning.optimization
    given_restorer, given_classifier = loaded(restorer), loaded(classifier)
    if not isinstance(optimization, OneCycleAdam):
        raise SettingError(
            f"recipe {run.recipe.name} fine-tunes by {type(optimization).__name__}; restorer and classifier "
            "are trained together by OneCycleAdam, as in the recipes quick, fast, thorough, long and unet"
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
    noise_of(run, settings)  # raises before the restorer is changed
    teaching = fitting(run, teachers, weight=tuning.consistency, weight_of="consistency of the JointTuning")
    tell_of_mismatch(run, f"fusing {name}", given_restorer.module)
    given_restorer.module.requires_grad_(True)
    taught_by = (fingerprint(each.module) for each in teaching)
    key = run.key(stage, settings, tuning, fingerprint(pair), *taught_by)
    nets = made_from(given_restorer, given_classifier, *teaching)
    return _train_pair(
        run,
        Stage(name=stage, path=Path(path), key=key, made_from=nets),
        pair,
        settings,
        fidelity=Fidelity(weight=tuning.fidelity, loss=tuning.loss),
        teachers=teaching,
    )


def _train_pair(
    run: Run,
    stage: Stage,
    pair: FusedClassifier,
    settings: ClassifierRecipe,
    *,
    fidelity: Fidelity | None,
    teachers: Sequence[LoadedNet],
) -> LoadedNet:
    """Trains a pair, or the classifier of it, towards the labels and the teachers' answers, or its own."""
    teaching = [each.module for each in teachers] or [pair.classifier]
    loss = PairLoss(
        teachers=[copy.deepcopy(net).to(run.device).eval().requires_grad_(False) for net in teaching],
        consistency=settings.consistency,
        label_smoothing=settings.label_smoothing,
        fidelity=fidelity,
    )
    objective = pair_objective(
        pair,
        run.data.train.images,
        run.data.train.labels,
        batch=settings.batch,
        degradation=noise_of(run, settings),
        augmentation=settings.augmentation,
        loss=loss,
    )
    return run_labelled(run, stage, pair, objective, settings)
