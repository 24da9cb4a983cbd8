"""A program: trains several nets, alone or as one of several workers, and prints what came out.

Its arguments are a folder, where worker 0 writes the trained weights, and the trainings to do.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from steadylens import devices, workers
from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation
from steadylens.training import loop
from steadylens.training.augmentation import Augmentation, StrongAugmentation
from steadylens.training.loop import Training
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    classifying_objective,
    consistency_objective,
    pair_objective,
    restoring_objective,
)
from steadylens.training.optimizers import MomentumSgd, OneCycleMuon, Optimization
from steadylens.training.places import DividedObjective, Objective, own_places
from tests.coloured import coloured

STEPS = 20

DATA = coloured(24, seed=1)

NOISE = Degradation(versions=2)

FIDELITY = Fidelity(weight=0.1, loss=LogSquaredError())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restorer() -> RestorationNet:
    net = RestorationNet(depth=3)
    initialize_xavier(net, generator=seeded(1))
    return net


def classifier(seed: int = 2) -> SignNet:
    net = SignNet(classes=4, width=0.1)
    initialize_xavier(net, generator=seeded(seed))
    return net


class Unused(nn.Module):
    """A net with a parameter that no loss depends on, and a draw that is the same for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(2, 1), nn.Parameter(torch.ones(3))
        self.layer.weight.detach().fill_(0.5)
        self.layer.bias.detach().fill_(-0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images) * torch.rand(1)  # type: ignore[no-any-return]


class Linear(nn.Module):
    """A classifier that counts its images, or shuffles them."""

    seen: Tensor

    def __init__(self, *, shuffling: bool = False) -> None:
        super().__init__()
        self.layer, self.shuffling = nn.Linear(3 * 48 * 48, 4), shuffling
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.shuffling:
            images = images[torch.randperm(len(images))]
        else:
            self.seen.add_(len(images))
        return self.layer(images.flatten(1))  # type: ignore[no-any-return]


# Adam would magnify rounding where gradients are small.
SGD = MomentumSgd(learning_rate=1e-3)


def restoring(optimization: Optimization = SGD) -> Training:
    """70 patches: more than one block of draws."""
    net = restorer()
    objective = restoring_objective(
        net, DATA.images, degradation=Degradation(), loss=LogSquaredError(), batch=70, patch=10
    )
    return training_of(net, objective, optimization)


def restoring_by_muon() -> Training:
    return restoring(OneCycleMuon(learning_rate=1e-3))


def classifying() -> Training:
    net = classifier()
    return training_of(
        net,
        classifying_objective(
            net, DATA.images, DATA.labels, batch=10, augmentation=StrongAugmentation(), degradation=NOISE
        ),
    )


def together() -> Training:
    pair = FusedClassifier(restorer(), classifier(), frozen=False)
    teachers = [classifier(seed) for seed in (2, 3, 4)]  # the second worker begins in the middle of a turn
    loss = PairLoss(teachers=[each.eval().requires_grad_(False) for each in teachers], fidelity=FIDELITY)
    return training_of(
        pair,
        pair_objective(
            pair,
            DATA.images,
            DATA.labels,
            batch=5,
            degradation=NOISE,
            augmentation=Augmentation(),
            loss=loss,
        ),
    )


def label_free() -> Training:
    net, unchanged = restorer(), classifier().eval().requires_grad_(False)
    return training_of(
        net,
        consistency_objective(net, unchanged, DATA.images, batch=3, degradation=NOISE, fidelity=FIDELITY),
    )


def own_objective() -> Training:
    net = Unused()

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(count, 2, generator=generator),)

    def own_loss(generator: torch.Generator) -> Iterator[Tensor]:
        own = own_places(9, draw, generator=generator)
        for part in own.parts(*own.drawn):
            with part.placed(net):
                yield (net(part.tensors[0]) - 1).square().sum() / part.total
        if workers.rank() == 0:
            yield net.layer.weight.square().sum()

    return training_of(net, DividedObjective(own_loss))


def training_of(net: nn.Module, objective: Objective, optimization: Optimization = SGD) -> Training:
    return Training(
        net,
        objective,
        optimization=optimization,
        steps=STEPS,
        generator=seeded(7 + workers.rank()),  # that of worker 0 counts
        clip_norm=1.0,
        averaging=0.9,
    )


def normalizing() -> Training:
    """A net with BatchNorm, whose statistics several workers leave as they are."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(1024, 4))
    net.load_state_dict({name: torch.full_like(value, 0.01) for name, value in net.state_dict().items()})
    return training_of(net, classifying_objective(net, DATA.images, DATA.labels, batch=4))


TRAININGS: dict[str, Callable[[], Training]] = {
    "restoring": restoring,
    "restoring by Muon": restoring_by_muon,
    "classifying": classifying,
    "together": together,
    "label-free": label_free,
    "own objective": own_objective,
    "normalizing": normalizing,
}


def digest(net: nn.Module) -> str:
    return "/".join(str(value.double().sum().item()) for value in net.state_dict().values())


def refusals() -> dict[str, str]:
    """Returns the messages with which several workers refuse what they cannot do as one would."""

    messages = {}
    for name, net, divided in (
        ("undivided", classifier(), False),
        ("counting", Linear(), True),
        ("shuffling", Linear(shuffling=True), True),
    ):
        objective = classifying_objective(net, DATA.images, DATA.labels, batch=8)
        training = training_of(net, objective if divided else lambda generator: iter(()))
        try:
            next(training.run())
            messages[name] = ""
        except SettingError as error:
            messages[name] = str(error)
    return messages


def main(folder: Path, names: list[str]) -> None:
    found = {}
    with (
        patch.object(devices, "has_fast_bfloat16", lambda device: False),
        patch.object(loop, "has_fast_bfloat16", lambda device: workers.rank() == 0),
        workers.joined(),
    ):
        for name in names:
            training = TRAININGS[name]()
            found[name] = {
                "frozen": training.frozen_statistics,
                "losses": [progress.loss for progress in training.run()],
                "digest": digest(training.module),
            }
            if workers.rank() == 0:
                weights = {key: value.contiguous() for key, value in training.module.state_dict().items()}
                save_file(weights, folder / f"{name}-{workers.count()}.safetensors")
        result = {"trained": found, "refused": refusals(), "in float32": devices._float32_alone}
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
