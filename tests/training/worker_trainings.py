"""A program: trains several nets for some steps, alone or as one of several workers, and prints what came out.

Its argument is a folder, where worker 0 writes the trained weights.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from steadylens import workers
from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation
from steadylens.training.augmentation import Augmentation, StrongAugmentation
from steadylens.training.loop import OneCycleAdam, Training
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    classifying_objective,
    consistency_objective,
    pair_objective,
    restoring_objective,
)
from steadylens.training.places import DividedObjective, Objective, own_places
from tests.conftest import coloured

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


def classifier() -> SignNet:
    net = SignNet(classes=4, width=0.1)
    initialize_xavier(net, generator=seeded(2))
    return net


class Unused(nn.Sequential):
    """A net with a parameter that no loss depends on, and a draw that is the same for the whole batch."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(2, 1))
        self.unused = nn.Parameter(torch.ones(3))
        with torch.no_grad():
            self[1].weight.fill_(0.5)
            self[1].bias.fill_(0.1)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = super().forward(images) * torch.rand(1)
        return found


def restoring() -> Training:
    """70 patches: more than one block of draws."""
    net = restorer()
    objective = restoring_objective(
        net, DATA.images, degradation=Degradation(), loss=LogSquaredError(), batch=70, patch=10
    )
    return training_of(net, objective)


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
    loss = PairLoss(teacher=copy.deepcopy(pair.classifier).eval().requires_grad_(False), fidelity=FIDELITY)
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
            yield net[1].weight.square().sum()

    return training_of(net, DividedObjective(own_loss))


def training_of(net: nn.Module, objective: Objective) -> Training:
    optimization = OneCycleAdam(learning_rate=1e-3, weight_decay=0.01)
    return Training(
        net,
        objective,
        optimization=optimization,
        steps=STEPS,
        generator=seeded(7 + workers.rank()),  # that of worker 0 counts
        clip_norm=1.0,
        averaging=0.9,
    )


TRAININGS: dict[str, Callable[[], Training]] = {
    "restoring": restoring,
    "classifying": classifying,
    "together": together,
    "label-free": label_free,
    "own objective": own_objective,
}


def digest(net: nn.Module) -> str:
    return "/".join(str(value.double().sum().item()) for value in net.state_dict().values())


def refusals() -> dict[str, str]:
    """Returns the messages with which several workers refuse what they cannot do as one would."""

    def of(net: nn.Module) -> Training:
        objective = classifying_objective(net, DATA.images, DATA.labels, batch=4)
        return replace_steps(training_of(net, objective))

    def undivided() -> Training:
        training = of(classifier())
        training.objective = training.objective.objective  # type: ignore[union-attr]
        return training

    class Counting(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(6912, 4))
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.get_buffer("seen").add_(len(images))
            found: Tensor = super().forward(images)
            return found

    class Shuffling(Counting):
        def forward(self, images: Tensor) -> Tensor:
            return nn.Sequential.forward(self, images[torch.randperm(len(images))])

    messages = {}
    for name, make in {
        "undivided": undivided,
        "counting": lambda: of(Counting()),
        "shuffling": lambda: of(Shuffling()),
    }.items():
        try:
            list(make().run())
            messages[name] = ""
        except SettingError as error:
            messages[name] = str(error)
    return messages


def replace_steps(training: Training) -> Training:
    training.steps = 1
    return training


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    capabilities = {**torch.cpu.get_capabilities(), "avx512_bf16": False, "amx_bf16": False}
    torch.cpu.get_capabilities = lambda: capabilities
    found = {}
    with workers.joined():
        for name, make in TRAININGS.items():
            training = make()
            losses = [progress.loss for progress in training.run()]
            found[name] = {"losses": losses, "digest": digest(training.module)}
            if workers.rank() == 0:
                weights = {key: value.contiguous() for key, value in training.module.state_dict().items()}
                save_file(weights, folder / f"{name}-{workers.count()}.safetensors")
        print(json.dumps({"trained": found, "refused": refusals()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
