"""How weights are moved: an optimizer and the course of its learning rate, as settings."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from steadylens.errors import SettingError


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
