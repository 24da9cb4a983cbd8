"""What a training minimises: restoration (Eq. 3), classification (Sec. 4.2) or consistency of a classifier.

Also the losses of restored images, and the augmentation of a classifier's training images.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.devices import cache_batch, fast_autocast, forward_in_batches
from steadylens.errors import SettingError
from steadylens.images.tensors import check_images, to_float
from steadylens.nets.classification import check_logits
from steadylens.nets.restoration import PatchRestorer, central_crop
from steadylens.noise.degradation import Degradation

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random rotation, scale, shift, brightness and contrast, drawn for each image.

    Every amount is drawn uniformly between minus and plus the setting. Pixels from outside the image repeat
    its border.

    Attributes:
        rotation_degrees: Largest rotation.
        scale: Largest relative change of size, below 1.
        shift: Largest shift, as a share of the image's side.
        brightness: Largest change of brightness, for images in [0, 1].
        contrast: Largest relative change of contrast around the image's mean, below 1.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.12
    shift: float = 0.07
    brightness: float = 0.15
    contrast: float = 0.3

    def __post_init__(self) -> None:
        """Refuses amounts that are negative or not finite, and a scale or contrast of 1 or more."""
        for name in ("rotation_degrees", "shift", "brightness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}, it must be a number of at least 0")
        for name in ("scale", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must lie in [0, 1)")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns augmented copies of the images.

        Args:
            images: (N, C, H, W) in [0, 1].
            generator: Generator for the amounts, on the images' device.

        Returns:
            (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        check_images(images)
        draws = (
            torch.rand(6, len(images), generator=generator, device=images.device, dtype=images.dtype) * 2 - 1
        )
        angle = draws[0] * math.radians(self.rotation_degrees)
        zoom = 1 / (1 + draws[1] * self.scale)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        # In affine_grid a side has length 2, so a share of the side is doubled.
        shift_x, shift_y = 2 * self.shift * draws[2], 2 * self.shift * draws[3]
        # Both sides have length 2 there, so a rotation needs the aspect ratio of the image.
        oblong = images.shape[2] / images.shape[3]
        rows = [cos, -sin * oblong, shift_x, sin / oblong, cos, shift_y]
        matrices = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        gain = 1 + draws[4].view(-1, 1, 1, 1) * self.contrast
        offset = draws[5].view(-1, 1, 1, 1) * self.brightness
        return ((moved - mean) * gain + mean + offset).clamp_(0, 1)


Objective = Callable[[torch.Generator], Iterator[Tensor]]
"""Draws a batch and yields its loss in parts that add up to it, one part for each forward pass."""


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

    def batch_loss(generator: torch.Generator) -> Iterator[Tensor]:
        clean = to_float(_draw_patches(images, batch, patch, generator))
        noisy = degradation(clean, generator=generator)
        targets = central_crop(clean, margin).repeat_interleave(len(noisy) // batch, dim=0)
        size = cache_batch(images.device)
        for some, target in zip(torch.split(noisy, size), torch.split(targets, size), strict=True):
            with fast_autocast(images.device):
                restored = restore(some)
            yield loss(restored.float(), target).sum() / len(noisy)

    return batch_loss


def classifying_objective(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    augmentation: Augmentation | None = None,
    degradation: Degradation | None = None,
) -> Objective:
    """Returns the mean cross-entropy of a classifier, with optional augmentation and noise.

    Args:
        classifier: From images to logits; a `FusedClassifier` for fine-tuning (Sec. 4.2).
        images: Training images, uint8 (N, C, H, W), on the classifier's device.
        labels: Their classes, int64 (N,), on the same device.
        batch: Number of images in a step.
        augmentation: Random changes of each image, drawn anew in every step; None for no augmentation.
        degradation: Adds noise to each image, drawn anew in every step; None for clean images.
    """

    def batch_loss(generator: torch.Generator) -> Iterator[Tensor]:
        chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
        inputs, targets = to_float(images[chosen]), labels[chosen]
        if augmentation is not None:
            inputs = augmentation(inputs, generator=generator)
        if degradation is not None:
            inputs = degradation(inputs, generator=generator)
            targets = targets.repeat_interleave(len(inputs) // batch)
        size = cache_batch(images.device)
        for some, target in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            with fast_autocast(images.device):
                logits = classifier(some)
            yield F.cross_entropy(logits.float(), target, reduction="sum") / len(inputs)

    return batch_loss


def _draw_patches(images: Tensor, batch: int, patch: int, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
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
    """The restoration loss that consistency tuning adds, so that restored images still look like clean ones.

    Attributes:
        weight: Factor on the loss.
        loss: Loss of restored and clean images.
    """

    weight: float
    loss: RestorationLoss


def consistency_objective(
    restorer: nn.Module,
    classifier: nn.Module,
    images: Tensor,
    *,
    batch: int,
    degradation: Degradation,
    augmentation: Augmentation | None = None,
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

    def batch_loss(generator: torch.Generator) -> Iterator[Tensor]:
        chosen = torch.randint(len(images), (batch,), generator=generator, device=images.device)
        clean = to_float(images[chosen])
        if augmentation is not None:
            clean = augmentation(clean, generator=generator)
        noisy = degradation(clean, generator=generator)
        predictions = check_logits(forward_in_batches(classifier, clean)).log_softmax(dim=1)
        clean, predictions = (
            tensor.repeat_interleave(len(noisy) // batch, dim=0) for tensor in (clean, predictions)
        )
        size = cache_batch(images.device)
        parts = zip(*(torch.split(tensor, size) for tensor in (noisy, clean, predictions)), strict=True)
        for some, target, prediction in parts:
            with fast_autocast(images.device):
                restored = restorer(some)
                logits = classifier(restored)
            divergence = F.kl_div(
                logits.float().log_softmax(dim=1), prediction, log_target=True, reduction="sum"
            )
            restoration_loss = fidelity.loss(restored.float(), target).sum()
            yield (divergence + fidelity.weight * restoration_loss) / len(noisy)

    return batch_loss
