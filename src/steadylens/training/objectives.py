"""What a training minimises: restoration (Eq. 3), classification (Sec. 4.2), consistency, or all together.

Also the losses of restored images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.devices import fast_autocast, forward_in_batches
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, check_logits
from steadylens.nets.restoration import PatchRestorer, central_crop
from steadylens.noise.degradation import Degradation
from steadylens.training.augmentation import Augmenting
from steadylens.training.places import DividedObjective, Objective, Part, own_places

RestorationLoss = Callable[[Tensor, Tensor], Tensor]
"""From restored and clean images, both (N, C, H, W), to one loss for each image, (N,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredError:
    """The squared error of Eq. (3), summed over pixels and channels, not averaged."""

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Returns ||clean - restored||^2 of each image, (N,)."""
        return (restored - clean).square().sum(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSquaredError:
    """The logarithm of the mean squared error, so that a decibel counts the same at any noise strength.

    The squared error itself is dominated by the images with the strongest noise, and a net trained on it
    harms images with slight noise.

    Attributes:
        floor: Added to the mean squared error, so that errors far below it hardly count; 1e-5 is 50 dB.
    """

    floor: float = 1e-5

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Returns ln(MSE + floor) of each image, (N,)."""
        return ((restored - clean).square().mean(dim=(1, 2, 3)) + self.floor).log()


def restoring_objective(
    net: nn.Module,
    images: Tensor,
    *,
    degradation: Degradation,
    loss: RestorationLoss,
    batch: int,
    patch: int,
) -> Objective:
    """Returns the objective of Eq. (3): the mean loss of restored noisy patches.

    Args:
        net: The restorer. Its method `valid` is used, without padding, if it is a `PatchRestorer`.
        images: Training images, uint8 (N, C, H, W), on the net's device.
        degradation: Makes M noisy versions of each patch, anew in every step.
        loss: Loss of each restored patch; `SquaredError()` is the paper's.
        batch: Number of clean patches in a step; M times as many go through the net.
        patch: Height and width of a patch in pixels.

    Raises:
        SettingError: If the patch is larger than the images, or not larger than twice the net's margin.
    """
    restore, margin = (net.valid, net.valid_margin) if isinstance(net, PatchRestorer) else (net, 0)
    if not 2 * margin < patch <= min(images.shape[-2:]):
        raise SettingError(
            f"patch is {patch} pixels; it must be above twice the net's margin ({2 * margin}) and "
            f"at most the images' size ({min(images.shape[-2:])})"
        )

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        clean = to_float(_draw_patches(images, count, patch, generator))
        noisy = degradation(clean, generator=generator)
        return noisy, central_crop(clean, margin).repeat_interleave(len(noisy) // count, dim=0)

    def own_loss(generator: torch.Generator) -> Iterator[Tensor]:
        own = own_places(batch, draw, generator=generator)
        for part in own.parts(*own.drawn):
            noisy, targets = part.tensors
            with fast_autocast(images.device), part.placed(net):
                restored = restore(noisy)
            yield loss(restored.float(), targets).sum() / part.total

    return DividedObjective(own_loss)


def classifying_objective(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    augmentation: Augmenting | None = None,
    degradation: Degradation | None = None,
    label_smoothing: float = 0.0,
) -> Objective:
    """Returns the mean cross-entropy of a classifier, with optional augmentation and noise.

    Args:
        classifier: From images to logits; a `FusedClassifier` for fine-tuning (Sec. 4.2).
        images: Training images, uint8 (N, C, H, W), on the classifier's device.
        labels: Their classes, int64 (N,), on the same device.
        batch: Number of images in a step.
        augmentation: Random changes of each image, drawn anew in every step; None for no augmentation.
        degradation: Adds noise to each image, drawn anew in every step; None for clean images.
        label_smoothing: Share of the target that is spread evenly over all classes.
    """

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = _random_indices(images, count, generator)
        inputs, targets = to_float(images[chosen]), labels[chosen]
        if augmentation is not None:
            inputs = augmentation(inputs, generator=generator)
        if degradation is not None:
            inputs = degradation(inputs, generator=generator)
        return inputs, targets.repeat_interleave(len(inputs) // count)

    def own_loss(generator: torch.Generator) -> Iterator[Tensor]:
        own = own_places(batch, draw, generator=generator)
        for part in own.parts(*own.drawn):
            inputs, targets = part.tensors
            with fast_autocast(images.device), part.placed(classifier):
                logits = classifier(inputs)
            yield (
                F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)
                / part.total
            )

    return DividedObjective(own_loss)


def _random_indices(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns `count` random indices of images, int64, with repetition."""
    if not len(images):
        raise SettingError("there are no training images; give the data set some")
    return torch.randint(len(images), (count,), generator=generator, device=images.device)


def _draw_patches(images: Tensor, batch: int, patch: int, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    chosen = _random_indices(images, batch, generator)
    if patch == height == width:
        return images[chosen]
    tops = torch.randint(height - patch + 1, (batch, 1), generator=generator, device=images.device)
    lefts = torch.randint(width - patch + 1, (batch, 1), generator=generator, device=images.device)
    steps = torch.arange(patch, device=images.device)
    rows, columns = (tops + steps)[:, None, :, None], (lefts + steps)[:, None, None, :]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return images[chosen[:, None, None, None], channels, rows, columns]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """The restoration loss beside that of the answers, so that restored images still look like clean ones.

    Attributes:
        weight: Factor on the loss.
        loss: Loss of restored and clean images.
    """

    weight: float
    loss: RestorationLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class _NoisyPart:
    """Some images of a step, with what the nets are to make of them.

    Attributes:
        noisy: Noisy images, (N, C, H, W).
        clean: The clean images, of the same shape.
        predictions: Logarithms of the class probabilities of the clean images, (N, classes).
        chosen: Which of the training images they are, int64 (N,).
        part: Their places in the batch.
    """

    noisy: Tensor
    clean: Tensor
    predictions: Tensor
    chosen: Tensor
    part: Part

    @property
    def share(self) -> float:
        """1 / number of noisy images in the step."""
        return 1 / self.part.total

    def divergence(self, logits: Tensor) -> Tensor:
        """Returns the sum of KL(p(clean) || p(logits)) over the images."""
        found = logits.float().log_softmax(dim=1)
        return F.kl_div(found, self.predictions, log_target=True, reduction="sum")


def _answers(teachers: Sequence[nn.Module], images: Tensor, *, first: int) -> Tensor:
    """Returns logits of images, (N, classes), each by one of the teachers, who take turns.

    On the average over steps, the gradient of KL(teacher || net) is then that towards the mean of the
    teachers' probabilities, for the price of one teacher. A batch that they cannot divide evenly asks the
    first of them once more than the others.

    Args:
        teachers: From images to logits, all with the same classes.
        images: (N, C, H, W), of which the first has the place `first` in its batch.
        first: Place of the first image.
    """
    count = len(teachers)
    turns = {(number - first) % count: teacher for number, teacher in enumerate(teachers)}
    answers = {
        start: check_logits(forward_in_batches(teacher, images[start::count]))
        for start, teacher in turns.items()
        if start < len(images)
    }
    some = next(iter(answers.values()))
    found = some.new_empty((len(images), some.shape[1]))
    for start, answer in answers.items():
        found[start::count] = answer
    return found


def _noisy_parts(
    teachers: Sequence[nn.Module],
    images: Tensor,
    *,
    batch: int,
    augmentation: Augmenting | None,
    degradation: Degradation,
) -> Callable[[torch.Generator], Iterator[_NoisyPart]]:
    """Returns a function that draws clean and noisy images, with the teachers' predictions for the clean."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = _random_indices(images, count, generator)
        clean = to_float(images[chosen])
        if augmentation is not None:
            clean = augmentation(clean, generator=generator)
        return degradation(clean, generator=generator), clean, chosen

    def own_parts(generator: torch.Generator) -> Iterator[_NoisyPart]:
        own = own_places(batch, draw, generator=generator)
        if not own.drawn:
            return
        noisy, clean, chosen = own.drawn
        with fast_autocast(images.device):
            answers = _answers(teachers, clean, first=own.places.start)
        predictions = answers.float().log_softmax(dim=1)
        places = torch.arange(len(clean), device=clean.device).repeat_interleave(len(noisy) // len(clean))
        for part in own.parts(noisy, places):
            some, place = part.tensors
            yield _NoisyPart(
                noisy=some,
                clean=clean[place],
                predictions=predictions[place],
                chosen=chosen[place],
                part=part,
            )

    return own_parts


def consistency_objective(
    restorer: nn.Module,
    classifier: nn.Module,
    images: Tensor,
    *,
    batch: int,
    degradation: Degradation,
    augmentation: Augmenting | None = None,
    fidelity: Fidelity,
) -> Objective:
    """Returns an objective that tunes a restorer so that noise does not change a classifier's predictions.

    It is the mean of KL(p(x) || p(restorer(x + nu))) plus a weighted restoration loss, where p are the
    classifier's class probabilities, x is a clean image and nu is noise. Only the restorer is trained.

    Args:
        restorer: From noisy images to restored images of the same size.
        classifier: From images to logits, in eval mode; its parameters do not require gradients.
        images: Training images, uint8 (N, C, H, W), on the nets' device. No labels are needed.
        batch: Number of clean images in a step.
        degradation: Makes M noisy versions of each image, anew in every step.
        augmentation: Random changes of each clean image before that; None for no augmentation.
        fidelity: The restoration loss and its weight.
    """
    noisy_parts = _noisy_parts(
        [classifier], images, batch=batch, augmentation=augmentation, degradation=degradation
    )

    def own_loss(generator: torch.Generator) -> Iterator[Tensor]:
        for part in noisy_parts(generator):
            with fast_autocast(images.device), part.part.placed(restorer, classifier):
                restored = restorer(part.noisy)
                logits = classifier(restored)
            restoration_loss = fidelity.loss(restored.float(), part.clean).sum()
            yield (part.divergence(logits) + fidelity.weight * restoration_loss) * part.share

    return DividedObjective(own_loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLoss:
    """The parts of the loss of a restorer with a classifier behind it.

    Attributes:
        teachers: Predict for a clean image what the pair is to predict for the noisy one: the classifier as
            it was before, or several, who take turns; in eval mode, without gradients. At most as many as
            images in a step, so that all are asked.
        consistency: Weight of that: of KL(teacher(x) || pair(x + nu)).
        label_smoothing: Share of a label that is spread evenly over all classes.
        fidelity: The restoration loss and its weight, so that the restorer still restores; None if the
            restorer is not trained.

    Raises:
        SettingError: If there is no teacher, or `consistency` is negative.
    """

    teachers: Sequence[nn.Module]
    consistency: float = 1.0
    label_smoothing: float = 0.0
    fidelity: Fidelity | None = None

    def __post_init__(self) -> None:
        if not self.teachers:
            raise SettingError("there are no teachers; give at least one, such as a copy of the classifier")
        if not self.consistency >= 0:
            raise SettingError(f"consistency is {self.consistency}, it must be at least 0")


def pair_objective(
    pair: FusedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    degradation: Degradation,
    augmentation: Augmenting | None = None,
    loss: PairLoss,
) -> Objective:
    """Returns an objective that trains a restorer and a classifier together, or a classifier alone.

    It is the mean cross-entropy of the pair on noisy images, plus the weighted parts that `loss` names.

    Args:
        pair: The restorer and the classifier. With `frozen=True` only the classifier is trained.
        images: Training images, uint8 (N, C, H, W), on the pair's device.
        labels: Their classes, int64 (N,), on the same device.
        batch: Number of clean images in a step.
        degradation: Makes M noisy versions of each image, anew in every step.
        augmentation: Random changes of each clean image before that; None for no augmentation.
        loss: Weights of the parts of the loss.
    """
    noisy_parts = _noisy_parts(
        loss.teachers, images, batch=batch, augmentation=augmentation, degradation=degradation
    )

    def own_loss(generator: torch.Generator) -> Iterator[Tensor]:
        for part in noisy_parts(generator):
            with fast_autocast(images.device), part.part.placed(pair):
                restored = pair.restored(part.noisy)
                logits = pair.classifier(restored)
            total = F.cross_entropy(
                logits.float(),
                labels[part.chosen],
                reduction="sum",
                label_smoothing=loss.label_smoothing,
            )
            total = total + loss.consistency * part.divergence(logits)
            if loss.fidelity is not None:
                restoration_loss = loss.fidelity.loss(restored.float(), part.clean).sum()
                total = total + loss.fidelity.weight * restoration_loss
            yield total * part.share

    return DividedObjective(own_loss)
