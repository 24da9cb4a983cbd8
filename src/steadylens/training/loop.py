"""One training loop and its optimizers; saving, logging and validating belong to the caller."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steadylens.errors import CheckpointError, DivergenceError, SettingError
from steadylens.nets.weights import copy_weights
from steadylens.training.objectives import Objective


class Optimization(Protocol):
    """Builds an optimizer and says by what factor its rates are multiplied at each step."""

    @property
    def learning_rate(self) -> float:
        """The rate that `factor` multiplies."""

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns an optimizer of the module's trainable parameters."""

    def factor(self, step: int, steps: int) -> float:
        """Returns the multiplier of the learning rates at `step` of `steps`, counted from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumSgd:
    """Momentum SGD whose rate decays geometrically (Sec. 4.1).

    Attributes:
        learning_rate: Rate of the first iteration.
        momentum: Share of the last move that is kept.
        decay: What the rate is multiplied by at each iteration.
        l2: The lambda of Eq. (3), whose term is lambda ||theta||^2.
        last_layer_factor: What the last layer's rate is multiplied by.
        bias_factor: What the biases' rate is multiplied by.
    """

    learning_rate: float
    momentum: float = 0.9
    decay: float = 1.0
    l2: float = 0.0
    last_layer_factor: float = 1.0
    bias_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuses rates and decays that cannot train."""
        _check_rate(self.learning_rate)
        if not 0 < self.decay <= 1:
            raise SettingError(f"decay is {self.decay}, it must lie in (0, 1]")

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns the optimizer; the four kinds of parameters have rates of their own."""
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        last = {id(parameter) for parameter in layers[-1].parameters()}
        # Few groups with many parameters each: a GPU moves all of a group in a few steps.
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rate = self.learning_rate * (self.last_layer_factor if id(parameter) in last else 1.0)
                rate *= self.bias_factor if name.endswith("bias") else 1.0
                groups.setdefault(rate, []).append(parameter)
        # The gradient of lambda ||theta||^2 is 2 lambda theta, PyTorch adds weight_decay * theta.
        return torch.optim.SGD(
            [{"params": trained, "lr": rate, "full_lr": rate} for rate, trained in groups.items()],
            momentum=self.momentum,
            weight_decay=2 * self.l2,
        )

    def factor(self, step: int, steps: int) -> float:
        """Returns decay^step."""
        return self.decay**step


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycleAdam:
    """AdamW whose rate rises linearly and then falls along a half cosine to nothing.

    Attributes:
        learning_rate: The highest rate.
        warmup_share: Share of the steps in which the rate rises.
        weight_decay: Decoupled weight decay.
    """

    learning_rate: float
    warmup_share: float = 0.1
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuses rates and shares that cannot train."""
        _check_rate(self.learning_rate)
        if not 0 <= self.warmup_share < 1:
            raise SettingError(f"warmup_share is {self.warmup_share}, it must lie in [0, 1)")

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns the optimizer."""
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        group = {"params": trained, "lr": self.learning_rate, "full_lr": self.learning_rate}
        return torch.optim.AdamW([group], weight_decay=self.weight_decay)

    def factor(self, step: int, steps: int) -> float:
        """Returns the height of the cycle at `step`, in (0, 1]."""
        warmup = self.warmup_share * steps
        if step + 1 <= warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup)) if step > warmup else 1.0


def _check_rate(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise SettingError(f"learning_rate is {rate}, it must be a positive number")


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
            copy_weights(self.module, weights)
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


def _draw_integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
