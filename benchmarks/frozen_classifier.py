"""Answers that a classifier keeps under noise, behind each restorer, while nothing in it is changed.

The answer of the classifier alone for a clean image counts as right; no label is used. Two classifiers: the
packaged sign net on GTSRB, and a net of timm that is trained here on the synthetic signs, which no restorer
has seen. All restorers get the same noisy images, clipped and rounded to 8 bits; differences to the
classifier alone, and between restorers, have intervals, paired over the images. With --tune restorers are
also tuned for each classifier without labels, at several rates; the rate is chosen on validation images.
The net of timm, tuned nets, and which answers each net keeps, are kept in the folder WORK, so that an
interrupted run goes on, and processes that tune some of them each can share it.

    python benchmarks/frozen_classifier.py gtsrb:DIR --tune unet-gtsrb l5-gtsrb --work runs/frozen
"""

import argparse
import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from keeping import kept_tensor
from torch import Tensor, nn
from writing import publish, tell

from steadylens.checkpoints.checkpoint import fingerprint, save_model
from steadylens.checkpoints.loading import load_net
from steadylens.data.datasets import load_dataset
from steadylens.devices import default_device, fast_memory_format, forward_in_batches
from steadylens.images.tensors import to_float
from steadylens.intervals import paired_difference
from steadylens.metrics import answers
from steadylens.nets.architecture import register_net
from steadylens.nets.facts import CLASSIFYING
from steadylens.noise.degradation import gaussian_degradation
from steadylens.randomness import derived_generator
from steadylens.training.fusing import ConsistencyTuning, tune_restorer
from steadylens.training.loop import Training
from steadylens.training.objectives import classifying_objective
from steadylens.training.optimizers import OneCycleAdam
from steadylens.training.recipes import UNET
from steadylens.training.run import Recipe, Run

SIGMAS = (0, 4, 8, 15, 25, 40)
"""Strengths of the noise, in grey levels."""

RESTORERS = (
    "unet-gtsrb",
    "l11-gtsrb",
    "l9-gtsrb",
    "l7-gtsrb",
    "l5-gtsrb",
    "l3-gtsrb",
    "dong-gtsrb",
)

BODY = "resnet10t"
"""The net of timm."""

RATES = (3e-5, 1e-4, 3e-4)
"""Learning rates of the tuning without labels, one of which is chosen on validation images."""


@register_net
class Body(nn.Module):
    """The net of timm, registered so that it has the same fingerprint in every process.

    Args:
        classes: Number of classes.
    """

    kind = "frozen_classifier.Body"
    task = CLASSIFYING

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.net = timm.create_model(BODY, num_classes=classes)

    def config(self) -> dict[str, int]:
        """Returns the arguments of the constructor."""
        return {"classes": self.classes}

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, H, W)."""
        return self.net(images)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Which answers a net keeps: bool (strengths, images)."""

    same: Tensor

    def cells(self, alone: "Kept") -> dict[str, str]:
        """Returns the share at each strength in per cent, and the difference to the classifier alone."""
        found = {}
        for sigma, own, other in zip(SIGMAS, self.same, alone.same, strict=True):
            differs = bool((own != other).any())
            found[f"sigma {sigma}"] = f"{100 * float(own.double().mean()):.2f}" + (
                " ({}, {} to {})".format(*_difference(own, other)) if differs else ""
            )
        return found

    def less(self, other: "Kept") -> dict[str, str]:
        """Returns the difference to another net at each strength, in percentage points, with its interval."""
        return {
            f"sigma {sigma}": "{} ({} to {})".format(*_difference(*pair))
            for sigma, *pair in zip(SIGMAS, self.same, other.same, strict=True)
        }


def _difference(own: Tensor, other: Tensor) -> list[str]:
    only_own, only_other = int((own & ~other).sum()), int((other & ~own).sum())
    return [f"{100 * value:+.2f}" for value in paired_difference(only_own, only_other, len(own))]


def kept(
    restorer: nn.Module, classifier: nn.Module, clean: Tensor, wanted: Tensor, *, work: Path | None = None
) -> Kept:
    """Returns which answers stay the same behind a restorer; every restorer sees the same noise.

    Args:
        restorer: The net in front, or nothing.
        classifier: The classifier.
        clean: The images.
        wanted: Its answers to them.
        work: Folder where the result is kept for another run of the same nets on the same images.
    """
    if work is None:
        return Kept(same=_same(restorer, classifier, clean, wanted))
    pixels = hashlib.sha256(clean.cpu().numpy().tobytes()).hexdigest()
    settings = hashlib.sha256(repr((pixels, SIGMAS)).encode()).hexdigest()
    of = "-".join(key[:8] for key in (fingerprint(restorer), fingerprint(classifier), settings))
    path = work / f"kept-{of}-{clean.device.type}.npy"
    return Kept(same=kept_tensor(path, lambda: _same(restorer, classifier, clean, wanted)))


def _same(restorer: nn.Module, classifier: nn.Module, clean: Tensor, wanted: Tensor) -> Tensor:
    rows = []
    for sigma in SIGMAS:
        generator = derived_generator(0, "frozen classifier", sigma, device=clean.device)
        noisy = gaussian_degradation(sigma)(clean, generator=generator)
        logits = forward_in_batches(lambda some: classifier(restorer(some)), noisy)
        rows.append((answers(logits) == wanted).cpu())
    return torch.stack(rows)


def synthetic_classifier(run: Run, steps: int, work: Path | None) -> nn.Module:
    """Returns a net of timm, trained on synthetic signs, which are clean but for the augmentation.

    If there is a folder `work`, the net is kept there.
    """
    settings, device = run.recipe.classifier, run.device
    path = work / f"{BODY}-{run.key(BODY, settings, steps)}.safetensors" if work is not None else None
    if path is not None and path.exists():
        return load_net(path).module.to(device).requires_grad_(False)
    torch.manual_seed(0)  # timm draws its first weights from the global generator
    net = Body(len(run.data.class_names))
    net.to(device).to(memory_format=fast_memory_format(device))
    training = Training(
        net,
        classifying_objective(
            net,
            run.data.train.images,
            run.data.train.labels,
            batch=settings.batch,
            augmentation=settings.augmentation,
            label_smoothing=settings.label_smoothing,
        ),
        optimization=settings.optimization,
        steps=steps,
        generator=torch.Generator(device).manual_seed(0),
        clip_norm=settings.clip_norm,
    )
    for _ in training.run():
        pass
    if path is not None:
        save_model(path, net, about={})
    return net.eval().requires_grad_(False)


def chosen(images: Tensor, count: int) -> Tensor:
    """Returns random images as floats."""
    order = torch.randperm(len(images), generator=derived_generator(0, "choice of images"))
    return to_float(images[order[:count].to(images.device)])


def kept_by_all(
    classifier: nn.Module, restorers: Mapping[str, nn.Module], clean: Tensor, work: Path | None
) -> dict[str, Kept]:
    """Returns which answers the classifier keeps alone, by the name "none", and behind each restorer."""
    wanted = answers(forward_in_batches(classifier, clean))
    found = {}
    for name, net in {"none": nn.Identity(), **restorers}.items():
        found[name] = kept(net, classifier, clean, wanted, work=work)
        print(name, found[name].cells(found["none"]), flush=True)
    return found


def tuned(
    run: Run, restorer: nn.Module, classifier: nn.Module, images: int, work: Path
) -> tuple[str, nn.Module, dict[str, str]]:
    """Tunes a restorer without labels at each rate.

    Returns:
        The rate that is best on validation images, its net, and the share of answers kept in per cent, in the
        mean over the strengths, by rate. The best may be "not tuned".
    """
    clean = chosen(run.data.validation.images, images)
    wanted = answers(forward_in_batches(classifier, clean))
    nets = {"not tuned": restorer}
    stem = f"{fingerprint(restorer)[:8]}-{fingerprint(classifier)[:8]}"
    for rate in RATES:
        settings = ConsistencyTuning(optimization=OneCycleAdam(learning_rate=rate))
        path = work / f"{stem}-{rate:g}.safetensors"
        copied = copy.deepcopy(restorer)
        found = tune_restorer(run, copied, classifier, path, name=f"rate {rate:g}", tuning=settings)
        nets[f"{rate:g}"] = found.module
    shares = {
        rate: 100 * float(kept(net, classifier, clean, wanted, work=work).same.double().mean())
        for rate, net in nets.items()
    }
    best = max(shares, key=shares.__getitem__)
    return best, nets[best], {rate: f"{share:.2f}" for rate, share in shares.items()}


def measured(
    name: str, run: Run, classifier: nn.Module, restorers: Mapping[str, nn.Module], given: argparse.Namespace
) -> dict[str, object]:
    """Measures one classifier behind all restorers; returns the results as plain data."""
    behind, after, trials = dict(restorers), {}, []
    for restorer in given.tune:
        best, net, shares = tuned(run, restorers[restorer], classifier, given.choice_images, given.work)
        trials.append({"restorer": restorer, **shares})
        print(name, trials[-1], flush=True)
        after[restorer] = f"{restorer}, tuned without labels at {best}" if best != "not tuned" else restorer
        behind[after[restorer]] = net
    test = chosen(run.data.test.images, given.images)
    rows = kept_by_all(classifier, behind, test, given.work)

    def less(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"restorer": own, **rows[own].less(rows[other])} for own, other in pairs if own != other]

    first = next(iter(restorers))
    found: dict[str, object] = {
        f"{name}: answers kept after tuning at each rate, in per cent, validation images": trials,
        f"{name}: answers kept in per cent of {len(test)}": [
            {"restorer": restorer, **row.cells(rows["none"])} for restorer, row in rows.items()
        ],
        f"{name}: the same less that of {first}": less((own, first) for own in restorers),
        f"{name}: the same, tuned less untuned": less((own, untuned) for untuned, own in after.items()),
    }
    if first in after:
        title = f"{name}: the same, tuned, less that of {first}, tuned"
        found[title] = less((own, after[first]) for own in after.values())
    return {title: table for title, table in found.items() if table}


def tuning_recipe(steps: int) -> Recipe:
    """Returns a recipe whose fine-tuning, from which consistency tuning takes noise and steps, is short."""
    return replace(UNET, fine_tuning=replace(UNET.fine_tuning, steps=steps, batch=32))


def main(given: argparse.Namespace) -> dict[str, object]:
    """Measures both classifiers; returns the results as plain data."""
    device = default_device()
    names: Sequence[str] = given.restorers
    restorers = {name: load_net(name).module.to(device) for name in names}
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
    signs, drawn = (
        Run(data=load_dataset(source).to(device), recipe=recipe, seed=0, device=device, observe=tell)
        for source, recipe in zip((given.data, "signs"), map(tuning_recipe, given.tuning_steps), strict=True)
    )
    sign_net = load_net(given.classifier).module.to(device).requires_grad_(False)
    body = synthetic_classifier(drawn, given.body_steps, given.work)
    test = drawn.data.test
    right = answers(forward_in_batches(body, to_float(test.images))) == test.labels
    steps = ", ".join(map(str, given.tuning_steps))
    return {
        f"accuracy of {BODY} on synthetic signs": f"{100 * float(right.double().mean()):.2f} %",
        "steps of its training": given.body_steps,
        **({f"steps of tuning for {given.classifier}, {BODY}": steps} if given.tune else {}),
        **measured(f"{given.classifier} on GTSRB", signs, sign_net, restorers, given),
        **measured(f"{BODY} on synthetic signs", drawn, body, restorers, given),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="gtsrb:DIR")
    parser.add_argument("--classifier", default="sign-gtsrb", help="a file, or the name of a packaged net")
    parser.add_argument("--restorers", nargs="+", default=RESTORERS)
    parser.add_argument("--images", type=int, default=2000, help="test images of each classifier")
    parser.add_argument("--choice-images", type=int, default=1000, help="validation images, to choose a rate")
    parser.add_argument("--body-steps", type=int, default=600, help=f"steps of the training of {BODY}")
    parser.add_argument("--tune", nargs="+", default=(), help="restorers that are also tuned without labels")
    parser.add_argument(
        "--tuning-steps", type=int, nargs=2, default=(400, 200), help="of the tuning, for each classifier"
    )
    parser.add_argument("--work", type=Path, help="folder for the tuned nets and the answers")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.tune) - set(arguments.restorers):
        parser.error(
            f"--tune has {', '.join(sorted(unknown))}, which --restorers lacks; give only those in it"
        )
    if arguments.tune and arguments.work is None:
        parser.error("--tune keeps its nets; give a folder for them with --work")
    publish(main(arguments), arguments.out)
