"""One training loop and its two objectives: restoring (Eq. 3) and classifying (Sec. 4.2).

The loop owns nothing: it yields progress, and saving, logging and validating belong to the caller.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.acceleration import cache_batch, fast_autocast
from steadylens.augmentation import Augmentation
from steadylens.degradation import Degradation
from steadylens.errors import CheckpointError, DivergenceError, SettingError
from steadylens.images import to_float
from steadylens.losses import RestorationLoss
from steadylens.optimization import Optimization
from steadylens.restoration import PatchRestorer, central_crop
from steadylens.weightfiles import give_weights

Objective = Callable[[torch.Generator], Iterator[Tensor]]
"""Draws one batch and yields its loss in parts whose sum is the loss, one part for each forward pass."""

CURVE_POINTS = 100
"""How many points the curve of a training has when it ends, unless it has fewer steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a training stands after a step."""

    step: int
    steps: int
    loss: float
    learning_rate: float


class Training:
    """A training that can be stopped after any step and taken up again with the same result.

    Args:
        module: The net; its parameters that require gradients are trained, in place.
        objective: Draws a batch and yields the parts of its loss.
        optimization: Optimizer and course of the learning rate.
        steps: Number of steps.
        generator: Source of all randomness, on the module's device.
        clip_norm: Largest norm of the gradient, or None to leave it.

    Raises:
        SettingError: If `steps` is below 1 or nothing is trainable.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        optimization: Optimization,
        steps: int,
        generator: torch.Generator,
        clip_norm: float | None = None,
    ) -> None:
        self.module = module
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if steps < 1 or not self.trained:
            raise SettingError(f"training needs at least 1 step and 1 trainable parameter, not {steps} steps")
        self.objective, self.optimization, self.steps = objective, optimization, steps
        self.generator, self.clip_norm = generator, clip_norm
        self.optimizer = optimization.optimizer(module)
        self.step = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float, float]] = []
        self._recent_losses: list[float] = []

    def run(self) -> Iterator[Progress]:
        """Trains to the end, yielding after every step.

        Raises:
            DivergenceError: If the loss is no longer a finite number.
        """
        self.module.train()
        while self.step < self.steps:
            yield self._advance()

    def _advance(self) -> Progress:
        started = time.perf_counter()
        factor = self.optimization.factor(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        loss, weights_norm = self._descend()
        if not math.isfinite(loss):
            raise DivergenceError(
                f"the loss became {loss} at step {self.step + 1} of {self.steps}; lower the learning rate "
                f"({self.optimization.learning_rate}) or clip the gradient"
            )
        self.step += 1
        if not math.isfinite(weights_norm):
            raise DivergenceError(
                f"weights are no longer finite after step {self.step} of {self.steps}; lower the learning "
                f"rate ({self.optimization.learning_rate}) or clip the gradient"
            )
        self.seconds += time.perf_counter() - started
        rate = self.optimization.learning_rate * factor
        self._note(loss, rate)
        return Progress(step=self.step, steps=self.steps, loss=loss, learning_rate=rate)

    def _descend(self) -> tuple[float, float]:
        """Takes a step; returns the loss before it and the norm of all trained weights after it."""
        device = self.trained[0].device
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        # Dropout knows only the global generator: seed it from ours, and leave it as it was.
        forked = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=forked):
            torch.manual_seed(_draw_integer(2**31, self.generator))
            for part in self.objective(self.generator):
                part.backward()  # type: ignore[no-untyped-call]
                total += part.detach()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()
        # Each transfer waits for the GPU to finish the step, so both numbers come in one.
        loss, weights_norm = torch.stack([total, nn.utils.get_total_norm(self.trained)]).tolist()
        return loss, weights_norm

    def _note(self, loss: float, rate: float) -> None:
        self._recent_losses.append(loss)
        if self.step * CURVE_POINTS // self.steps > (self.step - 1) * CURVE_POINTS // self.steps:
            self.curve.append((self.step, sum(self._recent_losses) / len(self._recent_losses), rate))
            self._recent_losses.clear()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns everything that the rest of the training depends on, as tensors and as plain data."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()
            }
        tensors["generator"] = self.generator.get_state()
        plain = {
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "curve": self.curve,
            "recent_losses": self._recent_losses,
        }
        return tensors, plain

    def resume(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Takes up the state that `state` returned, of a training built in the same way.

        Raises:
            CheckpointError: If the state belongs to another net or another number of steps.
        """
        if plain.get("steps") != self.steps:
            raise CheckpointError(
                f"the checkpoint is of a training of {plain.get('steps')} steps, this one has {self.steps}; "
                "remove the checkpoint to start again"
            )
        moments: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, value in tensors.items():
            match name.split(".", 2):
                case ["module", *rest]:
                    weights[".".join(rest)] = value
                case ["optimizer", index, moment]:
                    moments.setdefault(int(index), {})[moment] = value
        try:
            give_weights(self.module, weights)
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.generator.set_state(tensors["generator"].cpu())
            self.step, self.seconds = plain["step"], plain["seconds"]
            self.curve = [(step, loss, rate) for step, loss, rate in plain["curve"]]
            self._recent_losses = list(plain["recent_losses"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())  # PyTorch lists keys on lines of their own
            raise CheckpointError(
                f"the checkpoint is damaged or of another net: {reason}; remove it to start again"
            ) from error


def restoring_objective(
    net: PatchRestorer,
    images: Tensor,
    *,
    degradation: Degradation,
    loss: RestorationLoss,
    batch: int,
    patch: int,
) -> Objective:
    """Returns the objective of Eq. (3): the mean loss of what `net` makes of noisy patches.

    Args:
        net: The restoration net, used in its valid form.
        images: Stored training images, uint8 (N, C, H, W), on the net's device.
        degradation: Makes M noisy versions of each patch, fresh in every step.
        loss: Loss of each restored patch; `SquaredError()` is the paper's.
        batch: Number of clean patches in a step; M times as many go through the net.
        patch: Height and width of a patch in pixels.

    Raises:
        SettingError: If the patch is larger than the images, or does not outgrow the net's margin.
    """
    if not 2 * net.margin < patch <= min(images.shape[-2:]):
        raise SettingError(
            f"patch is {patch} pixels; it must be above twice the net's margin ({2 * net.margin}) and "
            f"at most the images' size ({min(images.shape[-2:])})"
        )

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        clean = to_float(_draw_patches(images, batch, patch, generator))
        noisy = degradation(clean, generator=generator)
        targets = central_crop(clean, net.margin).repeat_interleave(len(noisy) // batch, dim=0)
        size = cache_batch(images.device)
        for some, target in zip(torch.split(noisy, size), torch.split(targets, size), strict=True):
            with fast_autocast(images.device):
                restored = net.valid(some)
            yield loss(restored.float(), target).sum() / len(noisy)

    return draw


def classifying_objective(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    augmentation: Augmentation | None = None,
    degradation: Degradation | None = None,
) -> Objective:
    """Returns the mean cross-entropy of a classifier, on images that may be changed and made noisy.

    Args:
        classifier: From images to logits; a `FusedClassifier` for fine-tuning (Sec. 4.2).
        images: Stored training images, uint8 (N, C, H, W), on the classifier's device.
        labels: Their classes, int64 (N,), on the same device.
        batch: Number of images in a step.
        augmentation: Changes each image's pose and light, fresh in every step; or None.
        degradation: Makes each image noisy, fresh in every step; or None.
    """

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
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

    return draw


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


def _draw_integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
