"""Training steps of the recipe `unet` in one process, and divided between two that torchrun starts.

Each kind of training runs in turn with one worker and with two, a thread each, on the same machine; the
median step counts, after some that do not. The bytes are those that the loopback interface carried: all that
two workers send each other, in both directions. The time of an exchange alone is that of summing as many
numbers.

    python benchmarks/scaling.py --out results/benchmarks/scaling.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from writing import publish

from steadylens import workers
from steadylens.devices import fast_memory_format
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.training.loop import Training
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    classifying_objective,
    pair_objective,
    restoring_objective,
)
from steadylens.training.places import Objective
from steadylens.training.recipes import UNET
from steadylens.training.run import device_name

IMAGES = 1_000

CLASSES = 43

WARMING_UP = 3
"""Steps that are not timed."""

DEVICE = torch.device("cpu")

LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")


def sign_net(images: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, Objective, int]:
    """Returns the sign net, trained on clean images with strong augmentation."""
    net, settings = SignNet(CLASSES, standardize=True), UNET.classifier
    objective = classifying_objective(
        net, images, labels, batch=settings.batch, augmentation=settings.augmentation
    )
    return net, objective, settings.batch


def u_net(images: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, Objective, int]:
    """Returns the U-Net, trained to restore."""
    del labels
    net, settings = RestorationUNet(), UNET.unet
    objective = restoring_objective(
        net,
        images,
        degradation=settings.degradation,
        loss=settings.loss,
        batch=settings.batch,
        patch=settings.patch,
    )
    return net, objective, settings.batch


def both(images: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, Objective, int]:
    """Returns the U-Net and the sign net, trained together."""
    settings = UNET.fine_tuning
    assert settings.degradation is not None
    pair = FusedClassifier(RestorationUNet(), SignNet(CLASSES, standardize=True), frozen=False)
    objective = pair_objective(
        pair,
        images,
        labels,
        batch=settings.batch,
        degradation=settings.degradation,
        augmentation=settings.augmentation,
        loss=PairLoss(
            teachers=[SignNet(CLASSES, standardize=True).eval().requires_grad_(False)],
            fidelity=Fidelity(weight=0.05, loss=LogSquaredError()),
        ),
    )
    return pair, objective, settings.batch


TRAININGS: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[nn.Module, Objective, int]]] = {
    "sign net": sign_net,
    "U-Net": u_net,
    "both together": both,
}


def timed(name: str, steps: int) -> dict[str, float]:
    """Trains some steps in this worker; returns what they took and how many bytes went between workers."""
    torch.manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 48, 48), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (IMAGES,))
    module, objective, batch = TRAININGS[name](images, labels)
    module.to(memory_format=fast_memory_format(DEVICE))
    training = Training(
        module,
        objective,
        optimization=UNET.classifier.optimization,
        steps=WARMING_UP + steps,
        generator=torch.Generator().manual_seed(0),
    )
    seconds: list[float] = []
    sent = 0
    began = time.perf_counter()
    for progress in training.run():
        now = time.perf_counter()
        if progress.step > WARMING_UP:
            seconds.append(now - began)
        else:
            sent = carried()
        began = now
    sent = carried() - sent
    gradients = [torch.zeros(sum(parameter.numel() for parameter in module.parameters()))]
    began = time.perf_counter()
    for _ in range(steps):
        workers.add_up(gradients)
    exchange = (time.perf_counter() - began) / steps
    return {"images": batch, "seconds": median(seconds), "bytes": sent / steps, "exchange": exchange}


def carried() -> int:
    """Returns how many bytes the loopback interface has carried."""
    return int(LOOPBACK.read_text())


def measured(count: int, name: str, steps: int) -> dict[str, float]:
    """Runs a training with some workers in processes of their own, and returns what worker 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        script = [__file__, "--worker", name, "--steps", str(steps), "--out", str(found)]
        subprocess.run([sys.executable, *launcher, *script], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        answer: dict[str, float] = json.loads(found.read_text())
        return answer


def measure(steps: int, rounds: int) -> dict[str, object]:
    """Returns a row for each kind of training."""
    rows = []
    for name in TRAININGS:
        runs = [(measured(1, name, steps), measured(2, name, steps)) for _ in range(rounds)]
        alone = min((one for one, _ in runs), key=lambda run: run["seconds"])
        divided = min((two for _, two in runs), key=lambda run: run["seconds"])
        rows.append(
            {
                "training": name,
                "images a step": int(alone["images"]),
                "steps a second, 1 worker": 1 / alone["seconds"],
                "2 workers": 1 / divided["seconds"],
                "images a second, 1 worker": alone["images"] / alone["seconds"],
                "with 2 workers": divided["images"] / divided["seconds"],
                "speedup": alone["seconds"] / divided["seconds"],
                "kilobytes a step between 2": divided["bytes"] / 1000,
                "milliseconds of an exchange": 1000 * divided["exchange"],
            }
        )
    return {
        "torch": torch.__version__,
        "device": device_name(DEVICE),
        "threads of a worker": 1,
        "steps": steps,
        "rounds": rounds,
        "trainings": rows,
    }


def main() -> None:
    """Measures and prints; writes too where it is told. With --worker it is one of the measured processes."""
    parser = argparse.ArgumentParser(description="Measure training steps of one worker and of two.")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind; the fastest counts")
    parser.add_argument("--worker", choices=TRAININGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.worker is None:
        publish(measure(arguments.steps, arguments.rounds), arguments.out)
        return
    with workers.joined():
        found = timed(arguments.worker, arguments.steps)
        if workers.rank() == 0:
            publish(found, arguments.out)


if __name__ == "__main__":
    main()
