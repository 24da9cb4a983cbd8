"""Optimizers with the schedules of their learning rates: SGD as in the paper, AdamW, and Muon."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from steadylens import workers
from steadylens.errors import SettingError

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights Muon can take as a matrix."""


class Optimization(Protocol):
    """An optimizer together with its learning-rate schedule.

    Each parameter group of the optimizer has an entry `full_lr`, the learning rate at a factor of 1.
    """

    @property
    def learning_rate(self) -> float:
        """The learning rate at a factor of 1."""

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns an optimizer for the parameters that require gradients."""

    def factor(self, step: int, steps: int) -> float:
        """Returns the factor on the learning rates at `step`, which runs from 0 to `steps` - 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumSgd:
    """SGD with momentum and an exponentially decaying learning rate (Sec. 4.1).

    Attributes:
        learning_rate: Learning rate of the first step.
        momentum: Share of the previous update that is added to the next.
        decay: Factor on the learning rate at each step.
        l2: Weight of the L2 penalty, lambda in the term lambda ||theta||^2 of Eq. (3).
        last_layer_factor: Factor on the learning rate of the last layer.
        bias_factor: Factor on the learning rate of biases.
    """

    learning_rate: float
    momentum: float = 0.9
    decay: float = 1.0
    l2: float = 0.0
    last_layer_factor: float = 1.0
    bias_factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a learning rate that is not positive and a decay outside (0, 1]."""
        _check_rate(self.learning_rate)
        if not 0 < self.decay <= 1:
            raise SettingError(f"decay is {self.decay}, it must lie in (0, 1]")

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns `torch.optim.SGD`, with a parameter group for each different learning rate."""
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        last = {id(parameter) for parameter in layers[-1].parameters()}
        # Few groups with many parameters each: a GPU updates a whole group with a few kernels.
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rate = self.learning_rate * (self.last_layer_factor if id(parameter) in last else 1.0)
                rate *= self.bias_factor if name.endswith("bias") else 1.0
                groups.setdefault(rate, []).append(parameter)
        # The gradient of lambda ||theta||^2 is 2 lambda theta, and PyTorch adds weight_decay * theta.
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
    """AdamW with a linear warmup, followed by a cosine decay to zero.

    Attributes:
        learning_rate: The highest learning rate.
        warmup_share: Share of the steps that the warmup takes.
        weight_decay: Decoupled weight decay.
        part_factors: Pairs of a part's name and the factor on the learning rate of its parameters, for
            example ("restorer", 0.3) for the restorer of a fused classifier; such parts have no weight decay.
    """

    learning_rate: float
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    part_factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuses a learning rate that is not positive and a warmup share outside [0, 1)."""
        _check_rate(self.learning_rate)
        _check_warmup(self.warmup_share)
        for part, factor in self.part_factors:
            if not 0 < factor < math.inf:
                raise SettingError(f"the factor of part {part!r} is {factor}, it must be a positive number")

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns `torch.optim.AdamW` with one parameter group, and another for each part with a factor.

        Raises:
            SettingError: If the module has no such part.
        """
        names = [name for name, _ in module.named_parameters()]
        for part, _ in self.part_factors:
            if not any(name.startswith(f"{part}.") for name in names):
                raise SettingError(
                    f"a {type(module).__name__} has no part {part!r} with parameters; a part's name is the "
                    f"beginning of those of its parameters, which are {', '.join(names)}"
                )
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rate, decay = self.learning_rate, self.weight_decay
                for part, factor in self.part_factors:
                    if name.startswith(f"{part}."):
                        rate, decay = self.learning_rate * factor, 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": trained, "lr": rate, "full_lr": rate, "weight_decay": decay}
                for (rate, decay), trained in groups.items()
            ]
        )

    def factor(self, step: int, steps: int) -> float:
        """Returns a factor in (0, 1], which is 1 at the end of the warmup."""
        return _one_cycle(self.warmup_share, step, steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycleMuon:
    """Muon with the schedule of `OneCycleAdam`, for convolutional nets.

    Muon makes the update of a layer orthogonal, so that it moves all directions of the layer's weights by the
    same amount (Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024). It trains
    the weights of all layers but the first and the last; AdamW trains the rest. The weights of a convolution
    are taken as a matrix with a row for each of its first axis. Updates are scaled to the size of those of
    Adam, so a learning rate for Adam is a good start. There is no weight decay.

    Attributes:
        learning_rate: The highest learning rate.
        warmup_share: Share of the steps that the warmup takes.
    """

    learning_rate: float
    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuses a learning rate that is not positive and a warmup share outside [0, 1)."""
        _check_rate(self.learning_rate)
        _check_warmup(self.warmup_share)

    def optimizer(self, module: nn.Module) -> Optimizer:
        """Returns an optimizer with a parameter group for Muon and one for AdamW.

        Raises:
            SettingError: If the module has no layer that Muon could train.
        """
        layers = [name for name, layer in module.named_modules() if isinstance(layer, LAYERS)]
        inner = {f"{name}.weight" for name in layers[1:-1]}
        trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        matrices = [value for name, value in trained.items() if name in inner]
        others = [value for name, value in trained.items() if name not in inner]
        if not matrices:
            raise SettingError(
                f"a {type(module).__name__} has no trained layer between its first and its last, so there is "
                "nothing for Muon; train it by OneCycleAdam"
            )
        return _MuonAndAdam(matrices, others, rate=self.learning_rate)

    def factor(self, step: int, steps: int) -> float:
        """Returns a factor in (0, 1], which is 1 at the end of the warmup."""
        return _one_cycle(self.warmup_share, step, steps)


class _MuonAndAdam(Optimizer):
    """Muon for some parameters, which PyTorch's takes as matrices only, and AdamW for others."""

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], *, rate: float) -> None:
        groups = [{"params": some, "lr": rate, "full_lr": rate} for some in (matrices, others) if some]
        super().__init__(groups, {})
        self._flat = [(value, nn.Parameter(value.detach().flatten(1).clone())) for value in matrices]
        # Without weight decay, as AdamW beside it.
        muon = torch.optim.Muon(
            [flat for _, flat in self._flat], lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self._parts: list[Optimizer] = [muon]
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=rate, weight_decay=0.0))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Makes one update with the learning rates of the parameter groups."""
        for group, part in zip(self.param_groups, self._parts, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
        for value, flat in self._flat:
            flat.copy_(value.flatten(1))
            flat.grad = None if value.grad is None else value.grad.flatten(1)
        for part in self._parts:
            part.step()
        if workers.count() > 1:
            # What makes an update orthogonal rounds to bfloat16, on another processor perhaps otherwise.
            workers.copy_from_first(flat.detach() for _, flat in self._flat)
        for value, flat in self._flat:
            value.copy_(flat.view_as(value))

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both; parameters are numbered through the groups, as in every optimizer."""
        state: dict[int, Any] = {}
        for start, part in zip((0, len(self._flat)), self._parts, strict=False):
            state |= {start + index: moments for index, moments in part.state_dict()["state"].items()}
        return {"state": state, "param_groups": super().state_dict()["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        state = state_dict["state"]
        for start, part in zip((0, len(self._flat)), self._parts, strict=False):
            own = range(start, start + len(part.param_groups[0]["params"]))
            # A parameter without a gradient so far has no state.
            moments = {index - start: state[index] for index in own if index in state}
            part.load_state_dict({"state": moments, "param_groups": part.state_dict()["param_groups"]})


def _one_cycle(warmup_share: float, step: int, steps: int) -> float:
    """Returns the factor of a linear warmup, followed by a cosine decay to zero."""
    warmup = warmup_share * steps
    if step + 1 <= warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup)) if step > warmup else 1.0


def _check_rate(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise SettingError(f"learning_rate is {rate}, it must be a positive number")


def _check_warmup(share: float) -> None:
    if not 0 <= share < 1:
        raise SettingError(f"warmup_share is {share}, it must lie in [0, 1)")
