"""What a restorer brings where labels are few: some labelled tracks a class, and noise of several strengths.

The restorer never sees a label, so it may learn from all training images. The sign net learns from the
images of 1, 3, 10 and 30 tracks a class (a track is one physical sign, some 30 frames): on clean images;
then tuned on noisy ones, alone, behind the frozen restorer, and together with it. All ways have the same
images, steps and augmentation, and the loss of the answers. Every net is kept in the folder WORK, so that
an interrupted run goes on. What each seed gave is kept beside the result, in NAME-seeds.jsonl, so that more
seeds can be added; several such files may be put together.

    python benchmarks/few_labels.py gtsrb:DIR --work runs/few-labels --out results/benchmarks/few_labels.json
"""

import argparse
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from writing import mean_and_deviation, publish, tell

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.devices import default_device, forward_in_batches
from steadylens.errors import SettingError
from steadylens.files import replacing
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

NOISY = "noisy images"
"""The way with which those that restore are compared: they see the same noisy images."""

RECIPE = replace(
    UNET,
    name="few-labels",
    classifier=replace(UNET.classifier, steps=800, batch=32),
    # The shares are those that the recipe had when this was measured.
    fine_tuning=replace(UNET.fine_tuning, steps=500, batch=32, start_share=0.25, joint_start_share=0.6),
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

    clean = train_classifier(run, folder / "clean.safetensors")

    def behind() -> LoadedNet:
        return replace(clean, name="", module=copy.deepcopy(clean.module))

    nothing = LoadedNet(name="", module=nn.Identity())
    yield "clean images", clean.module
    yield "clean images, behind the restorer", FusedClassifier(restorer.module, clean.module).eval()
    yield NOISY, fine_tune(run, nothing, behind(), folder / "noisy.safetensors", name="noisy").module
    path = folder / "restored.safetensors"
    yield (
        f"{NOISY}, behind the frozen restorer",
        fine_tune(run, front(), behind(), path, name="restored").module,
    )
    path = folder / "together.safetensors"
    yield (
        f"{NOISY}, together with the restorer",
        tune_together(run, front(), behind(), path, name="together").module,
    )


def accuracies(net: nn.Module, test: ImageSet) -> list[float]:
    """Returns a net's accuracy in per cent at each strength; all nets see the same noise."""
    found = []
    for sigma in SIGMAS:
        generator = derived_generator(0, "few labels", sigma, device=test.images.device)
        noisy = gaussian_degradation(sigma)(to_float(test.images), generator=generator)
        right = top_k(forward_in_batches(net, noisy), test.labels, 1)
        found.append(round(100 * float(right.double().mean()), 4))
    return found


def main(
    data: Dataset,
    restorer: str,
    work: Path,
    *,
    seeds: Sequence[int],
    test_images: int,
    kept: Path | None = None,
) -> dict[str, object]:
    """Trains and measures what is not kept; returns the results as plain data.

    Args:
        data: Images with tracks.
        restorer: A file, or the name of a packaged net.
        work: Folder for the trained nets.
        seeds: Each draws other labelled tracks, and has trainings of its own.
        test_images: On how many of the test images, drawn at random, the nets are measured.
        kept: The file of what each seed gave, a line for each number of tracks. What has a line there, with
            the same settings, is not done again. None for no file.

    Raises:
        SettingError: If a line in that file was measured with other settings.
    """
    device = default_device()
    front = load_net(restorer, task=RESTORING)
    front.module.to(device)
    order = torch.randperm(len(data.test), generator=derived_generator(0, "choice of test images"))
    test = data.test.subset(order[:test_images]).to(device)
    settings: dict[str, object] = {
        "restorer": f"{restorer} ({fingerprint(front.module)[:8]})",
        "training images": len(data.train),
        "test images": len(test),
        "steps on clean images": RECIPE.classifier.steps,
        "steps on noisy images": RECIPE.fine_tuning.steps,
        "batch": RECIPE.classifier.batch,
    }
    found = _read(kept, settings) if kept is not None and kept.exists() else {}
    moved = data.to(device)
    for seed in seeds:
        for count in TRACKS:
            if (count, seed) in found:
                continue
            labelled = few_tracks(data.train, count, seed=seed).to(device)
            run = Run(
                data=replace(moved, train=labelled), recipe=RECIPE, seed=seed, device=device, observe=tell
            )
            trained = ways(run, front, work / f"{count}-tracks" / f"seed-{seed}")
            found[count, seed] = {way: accuracies(net, test) for way, net in trained}
            if kept is not None:
                _write(kept, settings, found)
    return {**settings, "seeds": len(seeds), **tables(found, seeds)}


Found = dict[tuple[int, int], dict[str, list[float]]]
"""What each number of tracks and each seed gave: the accuracies of each way."""


def _read(kept: Path, settings: Mapping[str, object]) -> Found:
    found: Found = {}
    for line in kept.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["settings"] != settings:
            raise SettingError(
                f"{kept} was measured with {entry['settings']}, not with {settings}; choose another place, "
                "or remove it"
            )
        found[entry["tracks"], entry["seed"]] = entry["accuracies"]
    return found


def _write(kept: Path, settings: Mapping[str, object], found: Found) -> None:
    with replacing(kept) as temporary, temporary.open("w", encoding="utf-8") as file:
        for (count, seed), accuracies_of in sorted(found.items()):
            entry = {"tracks": count, "seed": seed, "accuracies": accuracies_of, "settings": settings}
            file.write(json.dumps(entry) + "\n")


def tables(found: Found, seeds: Sequence[int]) -> dict[str, object]:
    """Returns a row for each number of tracks and way: accuracies, and what was gained over noisy images."""
    accuracy, gain = [], []
    for count in TRACKS:
        for way in found[count, seeds[0]]:
            about = {"tracks a class": count, "sign net trained on": way}
            by_seed = [found[count, seed][way] for seed in seeds]
            accuracy.append(about | _by_sigma(by_seed, sign=""))
            if way.startswith(f"{NOISY}, "):
                alone = [found[count, seed][NOISY] for seed in seeds]
                differences = [
                    [mine - other for mine, other in zip(*pair, strict=True)]
                    for pair in zip(by_seed, alone, strict=True)
                ]
                gain.append(about | _by_sigma(differences, sign="+"))
    return {"accuracy": accuracy, "gain over noisy images alone": gain}


def _by_sigma(by_seed: Sequence[Sequence[float]], *, sign: str) -> dict[str, str]:
    """Returns mean and standard deviation over seeds at each strength."""
    columns = zip(SIGMAS, zip(*by_seed, strict=True), strict=True)
    return {f"sigma {sigma}": mean_and_deviation(values, sign) for sigma, values in columns}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="gtsrb:DIR, or any other data set with tracks of 48x48 pixels")
    parser.add_argument("--restorer", default="unet-gtsrb", help="a file, or the name of a packaged net")
    parser.add_argument("--work", type=Path, required=True, help="folder for the trained nets")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = main(
        load_dataset(given.data),
        given.restorer,
        given.work,
        seeds=given.seeds,
        test_images=given.test_images,
        kept=None if given.out is None else given.out.with_name(f"{given.out.stem}-seeds.jsonl"),
    )
    publish(results, given.out)
