"""How much of a sign is left under noise: a classifier ten times as large, trained on noisy images.

No restorer and no tuning can bring back what the noise has destroyed. A residual net of eleven million
parameters (He et al., 2016, 18 layers), trained from scratch on the same noise, tells about how much is left:
over all test images, and by brightness of the image and size of the photographed sign. The nets to compare
are files or names of packaged nets. Training goes on from where it was interrupted.

    python benchmarks/ceiling.py gtsrb:DIR NET... --work runs/ceiling --out results/benchmarks/ceiling.json
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from writing import publish

from steadylens.checkpoints.loading import load_net
from steadylens.data.datasets import Dataset, load_dataset
from steadylens.data.sources import list_gtsrb
from steadylens.data.splitting import Part
from steadylens.devices import default_device, fast_memory_format, forward_in_batches
from steadylens.evaluation.experiments import multiplications, parameters
from steadylens.images.tensors import check_images, to_float
from steadylens.metrics import top_k
from steadylens.nets.architecture import register_net
from steadylens.nets.facts import CLASSIFYING
from steadylens.noise.degradation import gaussian_degradation
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.recipes import UNET
from steadylens.training.run import Run
from steadylens.training.stages import Stage, train_on_labels

WIDTHS = (64, 128, 256, 512)

SIGMAS = (0, 1, 2, 4, 8, 10, 15, 20, 25, 30, 35, 40)
"""Strengths of the noise in the test, in grey levels; 0 is not part of the mean."""

STRONGEST = SIGMAS.index(40)


class Block(nn.Module):
    """Two convolutions with a way around them; normalisation and rectifier come first."""

    def __init__(self, maps_in: int, maps_out: int, *, stride: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.BatchNorm2d(maps_in), nn.BatchNorm2d(maps_out)
        self.first = nn.Conv2d(maps_in, maps_out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(maps_out, maps_out, 3, 1, 1, bias=False)
        same = maps_in == maps_out and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(maps_in, maps_out, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns maps of the next level."""
        ready = F.relu(self.first_norm(maps))
        changed = self.second(F.relu(self.second_norm(self.first(ready))))
        return changed + self.around(maps if isinstance(self.around, nn.Identity) else ready)  # type: ignore[no-any-return]


@register_net
class LargeClassifier(nn.Module):
    """A residual net of 18 layers for images of 48x48 pixels, whose first level is at half the resolution."""

    kind = "LargeClassifier"
    task = CLASSIFYING
    input_size = 48

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Conv2d(12, WIDTHS[0], 3, 1, 1, bias=False)
        blocks, before = [], WIDTHS[0]
        for level, width in enumerate(WIDTHS):
            blocks += [Block(before, width, stride=2 if level else 1), Block(width, width, stride=1)]
            before = width
        self.blocks, self.norm = nn.Sequential(*blocks), nn.BatchNorm2d(before)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(before, classes))

    def config(self) -> dict[str, int]:
        """Returns the arguments that make a net like this one."""
        return {"classes": self.classes}

    def initialize(self, *, generator: torch.Generator) -> None:
        """Draws fresh weights; each block begins as its way around."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if isinstance(part, Block):
                nn.init.zeros_(part.second.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits for images (N, 3, 48, 48) in [0, 1], each of which is standardized first."""
        check_images(images, channels=3)
        standardized = F.layer_norm(images, images.shape[1:], eps=1e-4)
        maps = self.blocks(self.stem(F.pixel_unshuffle(standardized, 2)))
        return self.head(F.relu(self.norm(maps)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def train(run: Run, work: Path) -> nn.Module:
    """Trains the large classifier on noisy images, as the recipe trains a classifier on noise."""
    settings = run.recipe.noise_training
    net = LargeClassifier(len(run.data.class_names))
    net.initialize(generator=derived_generator(run.seed, "large classifier", "weights"))
    net.to(run.device).to(memory_format=fast_memory_format(run.device))
    stage = Stage(
        name="large classifier",
        path=work / "large.safetensors",
        key=run.key("large classifier", settings),
    )
    return train_on_labels(run, stage, net, settings).module


def hits(net: nn.Module, data: Dataset, images: Tensor) -> Tensor:
    """Returns for each strength which images the net gets right, bool (strengths, N)."""
    found = []
    for sigma in SIGMAS:
        generator = derived_generator(0, "ceiling", sigma, device=images.device)
        noisy = gaussian_degradation(sigma)(to_float(images), generator=generator)
        found.append(top_k(forward_in_batches(net, noisy), data.test.labels.to(images.device), 1))
    return torch.stack(found).cpu()


def groups(values: Tensor, unit: str) -> dict[str, Tensor]:
    """Divides images into four groups of equal size by a value; returns each with its range."""
    edges = values.double().quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    found = {}
    for index in range(4):
        low, high = float(edges[index]), float(edges[index + 1])
        above = values >= low if index == 0 else values > low
        found[f"{low:.0f} to {high:.0f} {unit}"] = above & (values <= high)
    return found


def main(data: Dataset, nets: list[str], work: Path, *, steps: int) -> dict[str, object]:
    """Trains and measures everything; returns the results as plain data."""
    device = default_device()
    noisy = replace(UNET.noise_training, steps=steps, optimization=OneCycleAdam(learning_rate=1.5e-3))
    run = Run(
        data=replace(data, train=data.train.to(device), validation=data.validation.to(device)),
        recipe=replace(UNET, name="ceiling", noise_training=noisy),
        seed=0,
        device=device,
        observe=_say,
    )
    tested: dict[str, nn.Module] = {Path(net).stem: load_net(net).module.to(device) for net in nets}
    tested["large classifier"] = train(run, work)
    images = data.test.images.to(device)
    right = {name: hits(net, data, images) for name, net in tested.items()}
    listing = list_gtsrb(Path(data.source.partition(":")[2]).expanduser())
    boxes = [each.box for each in listing.photographs if each.part == Part.TEST and each.box is not None]
    sides = torch.tensor([min(right - left, lower - upper) for left, upper, right, lower in boxes])
    brightness = data.test.images.double().mean(dim=(1, 2, 3))
    assert len(sides) == len(brightness)
    return {
        "test images": len(images),
        "steps": steps,
        "batch": noisy.batch,
        "nets": [
            {
                "net": name,
                "parameters": parameters(net),
                "million multiply-adds": multiplications(net, channels=3, size=48) / 1e6,
                **{f"sigma {sigma}": _percent(right[name][index]) for index, sigma in enumerate(SIGMAS)},
                "overall": _percent(right[name][1:]),
            }
            for name, net in tested.items()
        ],
        "sigma 40 by brightness": _by_group(right, groups(brightness, "grey levels")),
        "sigma 40 by size": _by_group(right, groups(sides, "pixels")),
    }


def _by_group(right: dict[str, Tensor], chosen: dict[str, Tensor]) -> list[dict[str, str]]:
    return [
        {"net": name, **{group: _percent(hit[STRONGEST][mask]) for group, mask in chosen.items()}}
        for name, hit in right.items()
    ]


def _percent(hit: Tensor) -> str:
    return f"{100 * float(hit.double().mean()):.2f}"


def _say(update: Update) -> None:
    if update.state != "advanced" or update.done % 100 == 0:
        print(update.stage, update.state, update.done, update.total, update.note, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="gtsrb:DIR, the German benchmark")
    parser.add_argument("nets", nargs="*", help="classifiers to compare: files, or names of packaged nets")
    parser.add_argument("--work", type=Path, required=True, help="folder for the trained net")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    publish(main(load_dataset(given.data), given.nets, given.work, steps=given.steps), given.out)
