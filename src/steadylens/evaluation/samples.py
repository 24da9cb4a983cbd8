"""Samples in the figures: noise densities (Fig. 1), restored images (Fig. 2), changed answers (Fig. 4)."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from steadylens.data.datasets import ImageSet
from steadylens.devices import evaluating, forward_in_batches
from steadylens.evaluation.dividing import forward_divided
from steadylens.images.tensors import GREY_LEVELS, tensor_to_pil, to_float, to_uint8
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.restoration import normalize_pattern, pattern_of
from steadylens.noise.degradation import Degradation
from steadylens.noise.named import GAUSSIAN, named_degradation
from steadylens.randomness import derived_generator
from steadylens.records import Density, Picture, Provenance

DENSITY_BINS = 81
"""Number of bins of a noise density, from -4 to 4 times its strength."""


def noise_densities(
    degradations: Sequence[tuple[str, float, Degradation]], *, provenance: Provenance
) -> list[Density]:
    """Adds noise to mid-grey images and counts its values in bins (Fig. 1).

    Args:
        degradations: Name, strength in grey levels and degradation of each density. The degradations must
            neither clip nor round.
        provenance: Origin of the records.
    """
    edges = torch.linspace(-4, 4, DENSITY_BINS + 1)
    grey = torch.full((40, 3, 48, 48), 0.5)
    records = []
    for name, strength, degradation in degradations:
        noise = degradation(grey, generator=derived_generator(provenance.seed, "density", name)) - grey
        bins = edges * strength
        counts = torch.histogram((noise * GREY_LEVELS).flatten(), bins).hist
        record = Density(
            provenance=provenance, samples=noise.numel(), seconds=0.0, family=name, strength_grey=strength,
            edges_grey=tuple(bins.tolist()), shares=tuple((counts / noise.numel()).tolist()),
        )  # fmt: skip
        records.append(record)
    return records


def restored_samples(
    net: nn.Module,
    images: ImageSet,
    class_names: Sequence[str],
    degradation: Degradation,
    *,
    provenance: Provenance,
) -> list[Picture]:
    """Shows an image of each class: clean, noisy, pattern, restored, normalised pattern (Fig. 2).

    Args:
        net: The restorer on the images' device.
        images: The test images, of which the first of each class is shown.
        class_names: Names of the classes by label.
        degradation: Adds the noise.
        provenance: Origin of the records.
    """
    firsts = [int((images.labels == label).nonzero()[0]) for label in sorted(set(images.labels.tolist()))]
    clean = to_float(images.images[firsts])
    noisy = degradation(clean, generator=derived_generator(provenance.seed, "pictures", device=clean.device))
    with evaluating(net):
        pattern = forward_in_batches(lambda images: pattern_of(net, images), noisy)
    columns = {
        "clean": clean,
        "noisy": noisy,
        "pattern": pattern + 0.5,
        "restored": noisy + pattern,
        "pattern, normalised": normalize_pattern(pattern),
    }
    return [
        Picture(
            provenance=provenance, samples=1, seconds=0.0, figure=2,
            title=class_names[int(images.labels[first])],
            panels=tuple((caption, _png(column[row])) for caption, column in columns.items()),
        )
        for row, first in enumerate(firsts)
    ]  # fmt: skip


def saved_answers(
    original: nn.Module,
    fused: FusedClassifier,
    images: ImageSet,
    class_names: Sequence[str],
    *,
    limit: int,
    provenance: Provenance,
) -> list[Picture]:
    """Shows clean images that the classifier alone gets wrong and the fused classifier right (Fig. 4).

    Args:
        original: The classifier alone on the images' device.
        fused: The restorer with the classifier that was fine-tuned behind it.
        images: The test images; of a set that stays in a file, only the first are looked at.
        class_names: Names of the classes by label.
        limit: Largest number of images to show.
        provenance: Origin of the records.
    """
    images = images.loaded()
    answers = forward_divided(original, images.images).argmax(dim=1)
    wrong = (answers != images.labels).nonzero().flatten()
    if len(wrong) == 0:
        return []
    saved = forward_divided(fused, images.images[wrong]).argmax(dim=1) == images.labels[wrong]
    shown = wrong[saved][:limit]
    if len(shown) == 0:
        return []
    restored = forward_in_batches(fused.restorer, to_float(images.images[shown]))
    return [
        Picture(
            provenance=provenance, samples=1, seconds=0.0, figure=4,
            title=class_names[int(images.labels[index])],
            panels=(
                (f"alone: {class_names[int(answers[index])]}", _png(to_float(images.images[index]))),
                (f"restored: {class_names[int(images.labels[index])]}", _png(restored[row])),
            ),
        )
        for row, index in enumerate(shown.tolist())
    ]  # fmt: skip


def changed_answers(
    alone: nn.Module,
    fused: Mapping[str, FusedClassifier],
    images: ImageSet,
    class_names: Sequence[str],
    *,
    sigma_grey: float,
    kind: str = GAUSSIAN,
    limit: int,
    provenance: Provenance,
) -> list[Picture]:
    """Shows noisy images whose prediction a restorer makes right ("saved") or wrong ("lost").

    Args:
        alone: The classifier alone on the images' device.
        fused: Classifiers behind restorers by name on the same device.
        images: The test images, or some of them; of a set that stays in a file, only the first are used.
        class_names: Names of the classes by label.
        sigma_grey: Standard deviation of the noise in 8-bit grey levels (0 to 255).
        kind: Which noise it is, one of `steadylens.noise.named.NAMED`.
        limit: Largest number of images to show, for each pair and for each of "saved" and "lost".
        provenance: Origin of the records.
    """
    images = images.loaded()
    generator = derived_generator(provenance.seed, "changed answers", device=images.images.device)
    noisy = named_degradation(kind, sigma_grey)(to_float(images.images), generator=generator)
    before = forward_divided(alone, noisy).argmax(dim=1)
    noise = "noise" if kind == GAUSSIAN else f"{kind} noise"
    records = []
    for name, pair in fused.items():
        after = forward_divided(pair, noisy).argmax(dim=1)
        saved = (before != images.labels) & (after == images.labels)
        lost = (before == images.labels) & (after != images.labels)
        kinds: tuple[tuple[Literal["saved", "lost"], Tensor], ...] = (("saved", saved), ("lost", lost))
        shown = [(kind, index) for kind, some in kinds for index in some.nonzero().flatten().tolist()[:limit]]
        records += [
            Picture(
                provenance=provenance, samples=1, seconds=0.0, figure=kind,
                title=f"{class_names[int(images.labels[index])]}, {noise} of {sigma_grey:g} grey levels",
                panels=(
                    (f"alone: {class_names[int(before[index])]}", _png(noisy[index])),
                    (f"{name}: {class_names[int(after[index])]}", _png(restored[0])),
                ),
            )
            for kind, index in shown
            for restored in [forward_in_batches(pair.restorer, noisy[index : index + 1])]
        ]  # fmt: skip
    return records


def _png(image: Tensor) -> str:
    buffer = io.BytesIO()
    tensor_to_pil(to_uint8(image)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
