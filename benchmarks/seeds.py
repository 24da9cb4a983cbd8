"""Tables 3 and 4 for nets of several seeds: all test images, clean and with noise of eleven strengths.

Each group has a name and one net for each seed, in the same order. Clean images are classified in float32,
so that a count of mistakes is that of the shipped net; noisy ones in bfloat16 where the device is fast at it.
All nets see the same noise, one version of each image. What each net got right is kept in the folder WORK, so
that an interrupted run goes on, and processes that measure some of the nets each can share the work.

Intervals are over images: they say how much other images would change a difference, not how much other
trainings would. Frames of one sign are alike, so they are somewhat too narrow.

    python benchmarks/seeds.py gtsrb:DIR "sign net=FILE,FILE" "together=FILE,FILE" --work runs/seeds
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path

import torch
from keeping import kept_tensor
from torch import Tensor, nn
from writing import mean_and_deviation, publish

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.checkpoints.loading import LoadedNet, check_classes, check_order, load_net
from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.devices import default_device, fast_autocast, forward_in_batches, has_fast_bfloat16
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.intervals import mcnemar, mean_difference
from steadylens.metrics import top_k
from steadylens.nets.facts import CLASSIFYING
from steadylens.noise.degradation import gaussian_degradation
from steadylens.randomness import derived_generator

SIGMAS = (0, 1, 2, 4, 8, 10, 15, 20, 25, 30, 35, 40)
"""Strengths of the noise, in grey levels; 0 is not part of the mean over all."""

STEP = 1_000
"""Images that are made noisy at a time."""


def right_answers(net: nn.Module, test: ImageSet, kept: Path, *, key: str) -> Tensor:
    """Returns for each strength which images a net gets right, bool (strengths, N).

    Args:
        net: The classifier.
        test: The images.
        kept: Folder of the files of earlier runs. If the net has one there, it is read.
        key: What such a file depends on besides the net's weights: data, device and number format.
    """
    return kept_tensor(kept / f"{fingerprint(net)}-{key}.npy", lambda: _measured(net, test))


def _measured(net: nn.Module, test: ImageSet) -> Tensor:
    device = test.images.device
    net.to(device)
    found = torch.empty((len(SIGMAS), len(test)), dtype=torch.bool)
    for row, sigma in enumerate(SIGMAS):
        generator = derived_generator(0, "seeds", sigma, device=device)
        right = []
        for images, labels in zip(
            torch.split(test.images, STEP), torch.split(test.labels, STEP), strict=True
        ):
            shown = to_float(images)
            if sigma:
                shown = gaussian_degradation(sigma)(shown, generator=generator)
            with fast_autocast(device) if sigma else nullcontext():
                right.append(top_k(forward_in_batches(net, shown).float(), labels, 1))
        found[row] = torch.cat(right).cpu()
    return found


def main(
    data: Dataset, groups: Mapping[str, Sequence[str]], work: Path, *, against: str
) -> dict[str, object]:
    """Measures all nets; returns the results as plain data.

    Args:
        data: The test images.
        groups: Files, or names of packaged nets, by the name of their group. Mistakes on clean images are
            compared with those of the first group.
        work: Folder for what is kept.
        against: The group with which the others are compared under noise.

    Raises:
        SettingError: If there is no such group, one has more nets than the first, nets in one place are of
            different seeds, or a net does not have the classes of the data.
    """
    if against not in groups:
        raise SettingError(f"there is no group {against!r} to compare with; the groups are {list(groups)}")
    first = next(iter(groups))
    if longer := [group for group, nets in groups.items() if len(nets) > len(groups[first])]:
        raise SettingError(
            f"{longer[0]} has {len(groups[longer[0]])} nets, but {first}, whose net of the same seed each is "
            f"compared with, has {len(groups[first])}; give that of each seed"
        )
    device = default_device()
    test = data.test.to(device)
    work.mkdir(parents=True, exist_ok=True)
    form = "bfloat16" if has_fast_bfloat16(device) else "float32"
    settings = {"data": data.fingerprint, "device": device.type, "number format under noise": form}
    key = hashlib.sha256(repr((settings, SIGMAS, STEP)).encode()).hexdigest()[:8]
    loaded = {group: [_classifier(net, data) for net in nets] for group, nets in groups.items()}
    _check_seeds(loaded)
    right = {
        group: torch.stack([right_answers(net.module, test, work, key=key) for net in nets])
        for group, nets in loaded.items()
    }  # each (seeds, strengths, images)
    return {
        "test images": len(test),
        **settings,
        "nets": ", ".join(
            f"{group} {' '.join(fingerprint(net.module)[:8] for net in nets)}"
            for group, nets in loaded.items()
        ),
        "accuracy": [_accuracy(group, found) for group, found in right.items()],
        "clean images": list(_clean(right)),
        "difference under noise": list(_differences(right, against)),
    }


def _classifier(source: str, data: Dataset) -> LoadedNet:
    net = load_net(source, task=CLASSIFYING)
    check_classes(net, data.class_names, data.source)
    check_order(net, data.class_names, data.source)
    return net


def _check_seeds(groups: Mapping[str, Sequence[LoadedNet]]) -> None:
    """Refuses groups whose nets in one place are known to be of different seeds."""
    for place, nets in enumerate(zip_longest(*groups.values())):
        known = {net.info.seed: net.name for net in nets if net is not None and net.info.seed is not None}
        if len(known) > 1:
            told = ", ".join(f"{name} of {seed}" for seed, name in known.items())
            raise SettingError(
                f"net {place + 1} of each group is compared with those of others, but their seeds differ: "
                f"{told}; give the nets of each group in the same order of seeds"
            )


def _accuracy(group: str, right: Tensor) -> dict[str, object]:
    shares = 100 * right.double().mean(dim=2)  # (seeds, strengths)
    columns = {f"sigma {sigma}": shares[:, place] for place, sigma in enumerate(SIGMAS)}
    columns["overall"] = shares[:, 1:].mean(dim=1)
    row: dict[str, object] = {"net": group, "seeds": len(right)}
    return row | {name: mean_and_deviation(values.tolist()) for name, values in columns.items()}


def _clean(right: Mapping[str, Tensor]) -> Iterator[dict[str, object]]:
    """Yields the mistakes of each seed on clean images, compared with the first group's net of that seed."""
    first = next(iter(right))
    for group, found in right.items():
        after = found[:, 0]
        before = right[first][: len(after), 0]
        only, only_first = (
            (better & ~worse).sum(dim=1).tolist() for better, worse in ((after, before), (before, after))
        )
        chances = [f"{mcnemar(*counts):.2g}" for counts in zip(only, only_first, strict=True)]
        yield {
            "net": group,
            "mistakes by seed": _listed((~after).sum(dim=1).tolist()),
            f"right, and {first} wrong": _listed(only),
            f"wrong, and {first} right": _listed(only_first),
            "McNemar's p": _listed(chances),
            f"accuracy less that of {first}": _with_interval((after.double() - before.double()).mean(dim=0)),
        }


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _differences(right: Mapping[str, Tensor], against: str) -> Iterator[dict[str, object]]:
    """Yields how much better each group is than another one, over the seeds that both have."""
    for group in (name for name in right if name != against):
        seeds = min(len(right[against]), len(right[group]))
        difference = (right[group][:seeds].double() - right[against][:seeds].double()).mean(dim=0)
        columns = {f"sigma {sigma}": difference[place] for place, sigma in enumerate(SIGMAS)}
        columns["overall"] = difference[1:].mean(dim=0)
        row: dict[str, object] = {"net": group, "less": against, "seeds": seeds}
        yield row | {name: _with_interval(values) for name, values in columns.items()}


def _with_interval(differences: Tensor) -> str:
    mean, lower, upper = (100 * value for value in mean_difference(differences.tolist()))
    return f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"


def read_groups(given: Sequence[str]) -> dict[str, list[str]]:
    """Returns the nets of each group.

    Raises:
        SettingError: If a text is not like NAME=FILE,FILE, or two have the same name.
    """
    groups: dict[str, list[str]] = {}
    for text in given:
        name, equals, files = text.partition("=")
        if not (name and equals and files) or name in groups:
            raise SettingError(
                f"a group is {text!r}; give each as NAME=FILE,FILE with a file for each seed, and a name of "
                "its own"
            )
        groups[name] = files.split(",")
    return groups


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", help="gtsrb:DIR, the German benchmark")
    parser.add_argument("groups", nargs="+", help="NAME=FILE,FILE with one net for each seed")
    parser.add_argument("--work", type=Path, required=True, help="folder for what each net got right")
    parser.add_argument("--against", help="group to compare the others with under noise; else the first")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    groups = read_groups(given.groups)
    against = given.against or next(iter(groups))
    publish(main(load_dataset(given.data), groups, given.work, against=against), given.out)
