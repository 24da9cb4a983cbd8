"""What a restorer brings where labels are few: some labelled tracks a class, and noise of several strengths.

The restorer never sees a label, so it may learn from all training images. The sign net learns from the
images of 1, 3, 10 and 30 tracks a class (a track is one physical sign, some 30 frames): on clean images; then
tuned on noisy ones, alone, behind the frozen restorer, and together with it. All ways have the same images,
steps, augmentation and loss. Every net is kept in the folder WORK, so that an interrupted run goes on.

    python benchmarks/few_labels.py gtsrb:DIR --work runs/few-labels --out results/benchmarks/few_labels.json
"""

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from writing import publish, tell

from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.devices import default_device, forward_in_batches
from steadylens.images.tensors import to_float
from steadylens.metrics import top_k
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.facts import RESTORING
from steadylens.noise.degradation import gaussian_degradation
from steadylens.randomness import derived_generator
from steadylens.training.fusing import fine_tune, tune_together
from steadylens.training.recipes import UNET
from steadylens.training.run import Run
from steadylens.training.stages import train_classifier

TRACKS = (1, 3, 10, 30)
"""Labelled tracks of each class; a class that has fewer gives all it has."""

SIGMAS = (0, 15, 25, 40)
"""Strengths of the noise in the test, in grey levels."""

RECIPE = replace(
    UNET,
    name="few-labels",
    classifier=replace(UNET.classifier, steps=800, batch=32),
    fine_tuning=replace(UNET.fine_tuning, steps=500, batch=32),
)


def few_tracks(images: ImageSet, count: int, *, seed: int) -> ImageSet:
    """Returns the images of `count` random tracks of each class."""
    generator = derived_generator(seed, "labelled tracks")
    kept: list[Tensor] = []
    for label in sorted(set(images.labels.tolist())):
        tracks = torch.tensor(sorted(set(images.tracks[images.labels == label].tolist())))
        kept.append(tracks[torch.randperm(len(tracks), generator=generator)[:count]])
    return images.subset(torch.isin(images.tracks, torch.cat(kept)))


def ways(run: Run, restorer: LoadedNet, folder: Path) -> Iterator[tuple[str, nn.Module]]:
    """Trains the nets of one seed and one number of tracks; yields each with its name."""

    def front() -> LoadedNet:
        return replace(restorer, module=copy.deepcopy(restorer.module))

    def behind() -> LoadedNet:
        return replace(clean, name="", module=copy.deepcopy(clean.module))

    nothing = LoadedNet(name="", module=nn.Identity())
    clean = train_classifier(run, folder / "clean.safetensors")
    yield "clean images", clean.module
    yield "clean images, behind the restorer", FusedClassifier(restorer.module, clean.module).eval()
    yield "noisy images", fine_tune(run, nothing, behind(), folder / "noisy.safetensors", name="noisy").module
    path = folder / "restored.safetensors"
    yield (
        "noisy images, behind the frozen restorer",
        fine_tune(run, front(), behind(), path, name="restored").module,
    )
    path = folder / "together.safetensors"
    yield (
        "noisy images, together with the restorer",
        tune_together(run, front(), behind(), path, name="together").module,
    )


def accuracies(net: nn.Module, test: ImageSet) -> list[float]:
    """Returns a net's accuracy in per cent at each strength; all nets see the same noise."""
    found = []
    for sigma in SIGMAS:
        generator = derived_generator(0, "few labels", sigma, device=test.images.device)
        noisy = gaussian_degradation(sigma)(to_float(test.images), generator=generator)
        right = top_k(forward_in_batches(net, noisy), test.labels, 1)
        found.append(100 * float(right.double().mean()))
    return found


def main(data: Dataset, restorer: str, work: Path, *, seeds: int, test_images: int) -> dict[str, object]:
    """Trains and measures everything; returns the results as plain data."""
    device = default_device()
    front = load_net(restorer, task=RESTORING)
    front.module.to(device)
    order = torch.randperm(len(data.test), generator=derived_generator(0, "choice of test images"))
    test = data.test.subset(order[:test_images]).to(device)
    rows = []
    for count in TRACKS:
        found: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            labelled = few_tracks(data.train, count, seed=seed).to(device)
            run = Run(
                data=replace(data.to(device), train=labelled),
                recipe=RECIPE,
                seed=seed,
                device=device,
                observe=tell,
            )
            for way, net in ways(run, front, work / f"{count}-tracks" / f"seed-{seed}"):
                found.setdefault(way, []).append(accuracies(net, test))
        for way, by_seed in found.items():
            columns = zip(SIGMAS, zip(*by_seed, strict=True), strict=True)
            cells = {f"sigma {sigma}": _mean_and_deviation(values) for sigma, values in columns}
            rows.append({"tracks a class": count, "sign net trained on": way, **cells})
    return {
        "restorer": restorer,
        "seeds": seeds,
        "test images": len(test),
        "steps on clean images": RECIPE.classifier.steps,
        "steps on noisy images": RECIPE.fine_tuning.steps,
        "batch": RECIPE.classifier.batch,
        "accuracy": rows,
    }


def _mean_and_deviation(values: tuple[float, ...]) -> str:
    deviation = f" \N{PLUS-MINUS SIGN} {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{deviation}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="gtsrb:DIR, or any other data set with tracks of 48x48 pixels")
    parser.add_argument("--restorer", default="unet-gtsrb", help="a file, or the name of a packaged net")
    parser.add_argument("--work", type=Path, required=True, help="folder for the trained nets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = main(
        load_dataset(given.data),
        given.restorer,
        given.work,
        seeds=given.seeds,
        test_images=given.test_images,
    )
    publish(results, given.out)
