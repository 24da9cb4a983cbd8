"""Accuracy on clean images (Table 3) and under noise: Gaussian (Table 4), or of another kind."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Literal

import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.data.datasets import ImageSet
from steadylens.devices import forward_in_batches
from steadylens.evaluation.dividing import BLOCK, forward_divided
from steadylens.images.tensors import to_float
from steadylens.intervals import mcnemar, mean_difference, wilson_interval
from steadylens.metrics import answers, top_k
from steadylens.noise.degradation import Degradation
from steadylens.noise.named import GAUSSIAN, named_degradation
from steadylens.progress import ProgressCallback
from steadylens.randomness import derived_generator
from steadylens.records import (
    Accuracy,
    Comparison,
    Confusion,
    Measurement,
    NoisyComparison,
    Provenance,
    Stability,
)
from steadylens.training.run import GaussianNoise, Sampling

TOP = (1, 2, 5)
"""Values of k for which top-k accuracy is measured."""


def clean_accuracy(
    networks: Mapping[str, nn.Module],
    images: ImageSet,
    *,
    class_names: Sequence[str],
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Measurement]:
    """Measures top-1, top-2 and top-5 accuracy; compares networks pairwise by McNemar's test (Table 3).

    Each network's answers are also counted by class.

    Args:
        networks: The classifiers by name on the images' device.
        images: The test images.
        class_names: Names of the classes by label.
        provenance: Origin of the records.
        progress: Called after each network with the number of images done and of all.
    """
    records: list[Measurement] = []
    right: dict[str, Tensor] = {}
    for index, (name, network) in enumerate(networks.items(), start=1):
        started = time.perf_counter()
        logits = forward_divided(network, images.images)
        seconds = time.perf_counter() - started
        for k in (k for k in TOP if k <= logits.shape[1]):
            hit = top_k(logits, images.labels, k)
            correct, samples = int(hit.sum()), len(hit)
            lower, upper = wilson_interval(correct, samples)
            row = Accuracy(
                provenance=provenance, samples=samples, seconds=seconds, network=name, k=k,
                correct=correct, lower=lower, upper=upper,
            )  # fmt: skip
            records.append(row)
        records.append(
            Confusion(
                provenance=provenance, samples=len(images), seconds=seconds, network=name,
                class_names=tuple(class_names), cells=_cells(images.labels, answers(logits)),
            )
        )  # fmt: skip
        right[name] = top_k(logits, images.labels, 1)
        progress(index * len(images), len(networks) * len(images))
    for first, second in combinations(networks, 2):
        only_first = int((right[first] & ~right[second]).sum())
        only_second = int((right[second] & ~right[first]).sum())
        pair = Comparison(
            provenance=provenance, samples=len(images), seconds=0.0, first=first, second=second,
            only_first=only_first, only_second=only_second, p_value=mcnemar(only_first, only_second),
        )  # fmt: skip
        records.append(pair)
    return records


def _cells(labels: Tensor, given: Tensor) -> tuple[tuple[int, int, int], ...]:
    """Returns triples of label, answer and number of images, in ascending order."""
    counts = Counter(zip(labels.tolist(), given.tolist(), strict=True))
    return tuple((label, answer, count) for (label, answer), count in sorted(counts.items()))


def stability(
    name: str,
    network: nn.Module,
    images: ImageSet,
    *,
    noise: GaussianNoise,
    kind: str = GAUSSIAN,
    sampling: Sampling,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[Stability]:
    """Measures a network's accuracy under noise of each strength (one row of Table 4).

    Each strength gives two records: "own", over the images that the network classifies correctly without
    noise, as in the paper, and "all", over all images. The noisy versions of an image are not independent
    samples. So with many versions of few images, the Wilson intervals are narrower than the variation between
    sets of images.

    Args:
        name: Name of the network in the table.
        network: From images to logits on the images' device.
        images: The test images, or some of them.
        noise: The strengths, and how noisy images are stored.
        kind: Which noise it is, one of `steadylens.noise.named.NAMED`; its strength is the standard deviation
            on mid-grey images.
        sampling: How many noisy images are classified for each strength.
        provenance: Origin of the records. Networks that are measured with the same seed get the same noise.
        progress: Called after each block with the number of noisy images done and the largest number of all.
    """
    shuffled = _shuffled(images, provenance)
    own = top_k(forward_divided(network, shuffled.images), shuffled.labels, 1).cpu()
    most = len(images) * sampling.versions
    records: list[Stability] = []
    for index, sigma in enumerate(noise.sigmas_grey):
        started = time.perf_counter()
        degradation = named_degradation(kind, sigma, clip=noise.clip, quantize=noise.quantize)
        cell = _Cell()
        path = _path(provenance, kind, sigma)
        for some, hit in _blocks(network, shuffled, degradation, versions=sampling.versions, path=path):
            cell.count(hit, own[some])
            progress(index * most + cell.counts["all"][1], len(noise.sigmas_grey) * most)
            if sampling.half_width is not None and cell.narrower_than(sampling.half_width):
                break
        progress((index + 1) * most, len(noise.sigmas_grey) * most)
        seconds = time.perf_counter() - started
        for population, (correct, samples) in cell.counts.items():
            if samples == 0:
                continue  # a network that is right on no clean image
            lower, upper = wilson_interval(correct, samples)
            row = Stability(
                provenance=provenance, samples=samples, seconds=seconds, network=name, sigma_grey=sigma,
                noise=_mode(kind, degradation), population=population,
                images=min(samples, int(own.sum()) if population == "own" else len(images)),
                correct=correct, lower=lower, upper=upper,
            )  # fmt: skip
            records.append(row)
    return records


def noisy_comparisons(
    networks: Mapping[str, nn.Module],
    images: ImageSet,
    *,
    against: str,
    noise: GaussianNoise,
    kind: str = GAUSSIAN,
    provenance: Provenance,
    progress: ProgressCallback,
) -> list[NoisyComparison]:
    """Compares one network with each other one on the same noisy images, one noisy version of each image.

    For the same images and seed, they are the first noisy versions that `stability` counts over.

    The interval is over images: the noisy versions of an image, of all strengths, count as one sample. So it
    holds the variation between images, which intervals of single cells do not compare; see
    `intervals.mean_difference`.

    Args:
        networks: The classifiers by name, in eval mode, on the images' device.
        images: The test images.
        against: Name of the network that the others are compared with; differences are positive where it is
            better.
        noise: The strengths, and how noisy images are stored.
        kind: Which noise it is, one of `steadylens.noise.named.NAMED`; its strength is the standard deviation
            on mid-grey images.
        provenance: Origin of the records, whose seed decides the noise.
        progress: Called with the number of noisy images done and of all.
    """
    started = time.perf_counter()
    sigmas, shuffled = noise.sigmas_grey, _shuffled(images, provenance)
    right: dict[str, Tensor] = {}  # by network: (strengths, images), 1 where it is right
    done = 0
    for name, network in networks.items():
        hits = []
        for sigma in sigmas:
            degradation = named_degradation(kind, sigma, clip=noise.clip, quantize=noise.quantize)
            path = _path(provenance, kind, sigma)
            for _, hit in _blocks(network, shuffled, degradation, versions=1, path=path):
                hits.append(hit)
                done += len(hit)
                progress(done, len(networks) * len(sigmas) * len(images))
        right[name] = torch.cat(hits).view(len(sigmas), len(images)).double()
    seconds = time.perf_counter() - started
    mode = _mode(kind, named_degradation(kind, 1, clip=noise.clip, quantize=noise.quantize))
    records = []
    for other in (name for name in networks if name != against):
        differences = right[against] - right[other]
        rows = [*zip(sigmas, differences, strict=True), (None, differences.mean(dim=0))]
        for strength, per_image in rows:
            mean, lower, upper = mean_difference(per_image.tolist())
            row = NoisyComparison(
                provenance=provenance, samples=len(images) * (len(sigmas) if strength is None else 1),
                seconds=seconds, first=against, second=other, sigma_grey=strength, noise=mode,
                images=len(images), difference=mean, lower=lower, upper=upper,
            )  # fmt: skip
            records.append(row)
    return records


def _shuffled(images: ImageSet, provenance: Provenance) -> ImageSet:
    """Returns the images in a random but fixed order, so that any number of them is a sample of all."""
    device = images.images.device
    generator = derived_generator(provenance.seed, "stability order", device=device)
    return images.subset(torch.randperm(len(images), generator=generator, device=device))


def _mode(kind: str, degradation: Degradation) -> str:
    """Returns what records say of the noise: its kind, if it is not Gaussian, and how images are stored."""
    return degradation.noise_mode if kind == GAUSSIAN else f"{kind}, {degradation.noise_mode}"


def _path(provenance: Provenance, kind: str, sigma: float) -> tuple[int, tuple[str, ...]]:
    """Returns seed and names of the random generators, which the blocks complete.

    Gaussian noise has no name there, as it was once the only kind: its noise stays the same.
    """
    kinds = () if kind == GAUSSIAN else (kind,)
    return provenance.seed, ("stability", *kinds, repr(float(sigma)))


class _Cell:
    """Counts for a cell of Table 4 so far: pairs (correct, samples) for each population."""

    def __init__(self) -> None:
        self.counts: dict[Literal["own", "all"], tuple[int, int]] = {"own": (0, 0), "all": (0, 0)}

    def count(self, hit: Tensor, own: Tensor) -> None:
        """Adds a block: which noisy images are right, and which are without noise; both (N,) bool."""
        correct, samples = self.counts["own"]
        self.counts["own"] = (correct + int((hit & own).sum()), samples + int(own.sum()))
        correct, samples = self.counts["all"]
        self.counts["all"] = (correct + int(hit.sum()), samples + len(hit))

    def narrower_than(self, half_width: float) -> bool:
        """Whether the Wilson intervals of both populations are at most twice `half_width` wide."""
        for correct, samples in self.counts.values():
            if samples == 0:
                return False
            lower, upper = wilson_interval(correct, samples)
            if upper - lower > 2 * half_width:
                return False
        return True


def _blocks(
    network: nn.Module,
    images: ImageSet,
    degradation: Degradation,
    *,
    versions: int,
    path: tuple[int, tuple[str, ...]],
) -> Iterator[tuple[slice, Tensor]]:
    """Yields for each version and block the images' place, and which of the noisy images are right.

    The results are on the CPU. The workers share the blocks, and all must take the same number of them.
    """
    seed, names = path

    def measured(block: tuple[int, int]) -> tuple[slice, Tensor]:
        version, start = block
        some = slice(start, start + BLOCK)
        device = images.images.device
        generator = derived_generator(seed, *names, version, start, device=device)
        noisy = degradation(to_float(images.images[some]), generator=generator)
        return some, top_k(forward_in_batches(network, noisy), images.labels[some], 1).cpu()

    yield from workers.divided(product(range(versions), range(0, len(images), BLOCK)), measured)
