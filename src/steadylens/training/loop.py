"""The training loop. Saving, logging and validation are left to the caller.

Several workers, started by `torchrun`, make each step together: each computes the gradient of its share of
the batch, the gradients are summed, and all make the same update. PyTorch's DistributedDataParallel is not
used, because it averages gradients over one forward pass a step; an objective makes several, through several
methods of its nets.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.devices import has_fast_bfloat16, keep_to_float32
from steadylens.errors import CheckpointError, DivergenceError, SettingError
from steadylens.images.tensors import accepting_any_range
from steadylens.nets.weights import copy_weights
from steadylens.training.optimizers import Optimization
from steadylens.training.places import DividedObjective, Objective


def check_start_share(share: float) -> None:
    """Refuses a share of the weights at the start outside [0, 1): with 1 nothing would be trained."""
    if not 0 <= share < 1:
        raise SettingError(f"start_share is {share}, it must lie in [0, 1)")


RANDOMNESS = 2
"""The way in which random numbers are drawn. An unfinished training cannot go on in another way."""

CURVE_POINTS = 100
"""Points on the loss curve of a whole training; fewer if it has fewer steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The state of a training after a step.

    Attributes:
        step: Number of the step, from 1.
        steps: Number of steps of the whole training.
        loss: Loss of the step's batch, before the update.
        learning_rate: Learning rate of the step.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float


class Training:
    """A training that can be interrupted after any step and resumed with exactly the same result.

    Several workers that train together get the result of one, but for the order in which numbers are summed.
    All of them need the same arguments. The statistics of BatchNorm layers then keep the values that they
    have, as each worker sees another part of the batch; see `frozen_statistics`.

    Args:
        module: The net; its parameters that require gradients are trained, in place.
        objective: Draws a batch and yields the parts of its loss. Several workers need a `DividedObjective`,
            as those of this package are.
        optimization: Optimizer and learning-rate schedule.
        steps: Number of steps.
        generator: Source of all randomness, on the module's device.
        clip_norm: Gradients are clipped to this norm; None for no clipping.
        averaging: Decay of the exponential moving average of the weights, for example 0.999: the average of
            about the last 1,000 steps. At the end the net has the averaged weights; averaged nets generalise
            better than those of the last step. None for the weights of the last step.
        start_share: Share of the weights at the start in those at the end, which are moved back on a straight
            line. A tuned net so keeps more of what it could before (Wortsman et al., *Robust fine-tuning of
            zero-shot models*, CVPR 2022). A training that is resumed needs the module as it was at the start.

    Raises:
        SettingError: If `steps` is below 1, no parameter requires a gradient, `averaging` lies outside
            (0, 1), or `start_share` outside [0, 1).
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
        averaging: float | None = None,
        start_share: float = 0.0,
    ) -> None:
        self.module = module
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if steps < 1 or not self.trained:
            raise SettingError(f"training needs at least 1 step and 1 trainable parameter, not {steps} steps")
        if averaging is not None and not 0 < averaging < 1:
            raise SettingError(f"averaging is {averaging}, it must lie in (0, 1), or be None for none")
        check_start_share(start_share)
        self.objective, self.optimization, self.steps = objective, optimization, steps
        self.generator, self.clip_norm = generator, clip_norm
        self.optimizer = optimization.optimizer(module)
        self.averaging = averaging
        self.averages = _changing_values(module) if averaging else {}
        self.start_share = start_share
        self.start = _changing_values(module) if start_share else {}
        self.step = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float, float]] = []
        self._recent_losses: list[float] = []
        self._failure: Exception | None = None

    @property
    def frozen_statistics(self) -> int:
        """Number of layers whose statistics stay as they are because several workers train."""
        return len(_with_statistics(self.module)) if workers.count() > 1 else 0

    def run(self) -> Iterator[Progress]:
        """Trains to the end, and yields after every step; the net then has its averaged weights, if any.

        Raises:
            DivergenceError: If the loss or a weight is no longer finite.
            SettingError: If several workers train, but the objective does not divide its batch, or the net
                draws random numbers or changes buffers in a way that depends on how the batch is divided.
        """
        self.module.train()
        if workers.count() > 1:
            self._start_together()
        buffers = [buffer.clone() for buffer in self.module.buffers()] if workers.count() > 1 else []
        while self.step < self.steps:
            progress = self._advance()
            if buffers:
                self._check_unchanged(buffers)
                buffers = []
            if self.step == self.steps:
                _copy_values(self.averages, self.module)
                _copy_values(self.start, self.module, share=self.start_share)
                self._copy_from_first()  # processors may round differently
            yield progress

    def fail(self, error: Exception) -> None:
        """Lets every worker raise an error of worker 0, in its next step; alone, it is raised at once.

        Args:
            error: What worker 0 has failed with; others do not call this.
        """
        if workers.count() == 1:
            raise error
        self._failure = error

    def raise_failure(self) -> None:
        """Raises on every worker what worker 0 has failed with, if anything; all workers must call this."""
        if error := workers.by_first(lambda: self._failure):
            raise error

    def _start_together(self) -> None:
        if not isinstance(self.objective, DividedObjective):
            raise SettingError(
                f"{workers.count()} workers train, but the objective does not say that it divides its batch "
                "among them; let it yield one worker's share of the loss and wrap it in DividedObjective, or "
                "train with one worker"
            )
        for layer in self.module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.track_running_stats:
                raise SettingError(
                    f"the net has a {type(layer).__name__} without running statistics, whose result depends "
                    "on how the batch is divided; train it with one worker"
                )
        for layer in _with_statistics(self.module):
            layer.training = False
        if not all(workers.gather(has_fast_bfloat16(self.trained[0].device))):
            keep_to_float32()
        self._copy_from_first()
        self.generator.set_state(workers.by_first(self.generator.get_state))

    def _copy_from_first(self) -> None:
        values = (*self.module.parameters(), *self.module.buffers())
        workers.copy_from_first(value.detach() for value in values)

    def _check_unchanged(self, buffers: list[Tensor]) -> None:
        """Refuses a net whose buffers a forward pass changes: they would differ between the workers."""
        changed = [
            name
            for (name, buffer), before in zip(self.module.named_buffers(), buffers, strict=True)
            if not torch.equal(buffer, before)
        ]
        anywhere = torch.tensor([float(len(changed))], device=self.trained[0].device)
        workers.add_up([anywhere])
        if anywhere.item():
            raise SettingError(
                f"a forward pass changes the net's buffers ({', '.join(changed) or 'on another worker'}), "
                "which several workers cannot do as one would; train it with one worker"
            )

    def _advance(self) -> Progress:
        started = time.perf_counter()
        factor = self.optimization.factor(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        loss, weights_norm = self._update()
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
        self._average()
        self.seconds += time.perf_counter() - started
        rate = self.optimization.learning_rate * factor
        self._record_loss(loss, rate)
        return Progress(step=self.step, steps=self.steps, loss=loss, learning_rate=rate)

    def _update(self) -> tuple[float, float]:
        """Makes one update; returns the loss before it and the norm of all trained weights after it."""
        device = self.trained[0].device
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        # An objective of one's own may draw from PyTorch's global generator: seed it from ours, and restore
        # its state afterwards.
        forked = [device] if device.type == "cuda" else []
        # Noise that is not clipped may be of any strength.
        with torch.random.fork_rng(devices=forked), accepting_any_range():
            torch.manual_seed(_draw_integer(2**31, self.generator))
            for part in self.objective(self.generator):
                part.backward()  # type: ignore[no-untyped-call]
                total += part.detach()
        if workers.count() > 1:
            self._add_up(total)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()
        # Each transfer waits until the GPU has finished the step, so both numbers are fetched in one.
        loss, weights_norm = torch.stack([total, nn.utils.get_total_norm(self.trained)]).tolist()
        return loss, weights_norm

    def _add_up(self, total: Tensor) -> None:
        """Replaces loss and gradients by their sums over all workers.

        A parameter has a gradient if it has one on any worker: an optimizer leaves others as they are.
        """
        has_none = [parameter.grad is None for parameter in self.trained]
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        counts = torch.tensor([float(not none) for none in has_none], device=total.device)
        failures = total.new_tensor(float(self._failure is not None))
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        workers.add_up([total, failures, counts, *gradients])
        if failures.item():
            self.raise_failure()
        for parameter, count in zip(self.trained, counts.tolist(), strict=True):
            if not count:
                parameter.grad = None

    def _average(self) -> None:
        """Moves the averages towards the weights of the step."""
        if self.averaging is None:
            return
        # The first steps count less than the decay says: else the average holds the initial weights for long.
        decay = min(self.averaging, (1 + self.step) / (10 + self.step))
        values = _changing_values(self.module, copied=False)
        torch._foreach_lerp_(list(self.averages.values()), list(values.values()), 1 - decay)

    def _record_loss(self, loss: float, rate: float) -> None:
        self._recent_losses.append(loss)
        if self.step * CURVE_POINTS // self.steps > (self.step - 1) * CURVE_POINTS // self.steps:
            self.curve.append((self.step, sum(self._recent_losses) / len(self._recent_losses), rate))
            self._recent_losses.clear()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns all that is needed to resume the training, as tensors and as plain data (for JSON)."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()
            }
        tensors |= {f"average.{name}": value for name, value in self.averages.items()}
        tensors["generator"] = self.generator.get_state()
        plain = {
            "randomness": RANDOMNESS,
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "curve": self.curve,
            "recent_losses": self._recent_losses,
        }
        return tensors, plain

    def resume(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Restores what `state` returned, in a training that was constructed with the same arguments.

        Raises:
            CheckpointError: If the state belongs to another net or to another number of steps.
        """
        if plain.get("randomness", 1) != RANDOMNESS:
            raise CheckpointError(
                "the checkpoint is of an unfinished training by another version of steadylens, which drew "
                "other random numbers; remove the checkpoint to start again, or finish with that version"
            )
        if plain.get("steps") != self.steps:
            raise CheckpointError(
                f"the checkpoint is of a training of {plain.get('steps')} steps, this one has {self.steps}; "
                "remove the checkpoint to start again"
            )
        moments: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        averages: dict[str, Tensor] = {}
        for name, value in tensors.items():
            match name.split(".", 2):
                case ["module", *rest]:
                    weights[".".join(rest)] = value
                case ["average", *rest]:
                    averages[".".join(rest)] = value
                case ["optimizer", index, moment]:
                    moments.setdefault(int(index), {})[moment] = value
        try:
            copy_weights(self.module, weights)
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            for name, average in self.averages.items():
                average.copy_(averages[name])
            self.generator.set_state(tensors["generator"].cpu())
            self.step, self.seconds = plain["step"], plain["seconds"]
            self.curve = [(step, loss, rate) for step, loss, rate in plain["curve"]]
            self._recent_losses = list(plain["recent_losses"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())  # PyTorch's message has several lines
            raise CheckpointError(
                f"the checkpoint is damaged or of another net: {reason}; remove it to start again"
            ) from error


def _with_statistics(module: nn.Module) -> list[nn.Module]:
    """Returns the layers that keep statistics of the images that they see in train mode."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    return [layer for layer in module.modules() if isinstance(layer, kinds) and layer.track_running_stats]


def _changing_values(module: nn.Module, *, copied: bool = True) -> dict[str, Tensor]:
    """Returns what training changes: trained parameters, and statistics such as those of BatchNorm."""
    values: dict[str, Tensor] = {
        name: value for name, value in module.named_parameters() if value.requires_grad
    }
    values |= {name: value for name, value in module.named_buffers() if value.is_floating_point()}
    return {name: value.detach().clone() if copied else value.detach() for name, value in values.items()}


def _copy_values(values: dict[str, Tensor], module: nn.Module, *, share: float = 1.0) -> None:
    """Moves a module's values towards those given, all the way with a share of 1."""
    for name, value in _changing_values(module, copied=False).items():
        if name in values:
            value.lerp_(values[name], share)


def _draw_integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device=generator.device))
