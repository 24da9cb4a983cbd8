"""Whether something answers as the net that was evaluated: the same images through both."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steadylens.errors import ExportError
from steadylens.images.tensors import GREY_LEVELS
from steadylens.inference.signature import Signature

TOLERANCE = 1e-4
"""Largest difference that rounding may make, as a share of the largest value that the net writes, at least 1:
a fortieth of a grey level of a restored image."""

IMAGES = 32
"""Images that a net of a fixed size is compared on, unless they are large."""

MOST_PIXELS_AT_ONCE, MOST_PIXELS = 2**20, 2**23
"""What batches and all images together may have where the size is fixed, but for two batches at least: a net
keeps hundreds of values for each pixel."""

STRENGTHS_GREY = (25.0, 5.0, 40.0, 15.0, 0.0)
"""Standard deviations in grey levels of the noise on them, batch by batch: a strong and a slight one first,
for of large images there are but two batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far two forms of one net agree on the same noisy images.

    Attributes:
        images: How many images both were given.
        shapes: Shapes (N, C, H, W) of the batches.
        maximum_difference: Largest absolute difference of any value.
        allowed_difference: What would still have passed.
        equal_answers: Images that both put into the same class; None for restorers.
    """

    images: int
    shapes: tuple[tuple[int, ...], ...]
    maximum_difference: float
    allowed_difference: float
    equal_answers: int | None

    def described(self) -> dict[str, Any]:
        """Returns the result as plain data, for the metadata of a file."""
        return asdict(self)


def check_parity(
    net: Callable[[Tensor], Tensor],
    other: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
) -> Parity:
    """Compares another form of a net with it.

    Args:
        net: The net that was evaluated, in eval mode on the CPU.
        other: What should answer as it does.
        batches: Batches of images that both can read, as `noisy_images` draws them.

    Raises:
        ExportError: If a value differs by more than rounding, or an image gets another class.
    """
    shapes: list[tuple[int, ...]] = []
    difference, scale, equal, classifies = 0.0, 1.0, 0, False
    for images in batches:
        with torch.no_grad():
            wanted, found = net(images), other(images)
        if wanted.shape != found.shape:
            raise ExportError(
                f"for images {tuple(images.shape)} the net writes {tuple(wanted.shape)}, its other form "
                f"{tuple(found.shape)}; fix the size and the batch"
            )
        largest = float((wanted - found).abs().max())
        difference = largest if math.isnan(largest) else max(difference, largest)
        scale = max(scale, float(wanted.abs().max()))
        shapes.append(tuple(images.shape))
        if wanted.ndim == 2:
            classifies, equal = True, equal + int((wanted.argmax(dim=1) == found.argmax(dim=1)).sum())
    parity = Parity(
        images=sum(shape[0] for shape in shapes),
        shapes=tuple(shapes),
        maximum_difference=difference,
        allowed_difference=TOLERANCE * scale,
        equal_answers=equal if classifies else None,
    )
    _demand(parity)
    return parity


def noisy_images(form: Signature, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields batches of smooth colour gradients under noise, in [0, 1], of the shapes that a net may get."""
    for number, (batch, height, width) in enumerate(_shapes(form)):
        coarse = torch.rand(batch, form.channels, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        sigma_grey = STRENGTHS_GREY[number % len(STRENGTHS_GREY)]
        noise = torch.randn(smooth.shape, generator=generator) * (sigma_grey / GREY_LEVELS)
        yield (smooth + noise).clamp(0, 1)


def _shapes(form: Signature) -> list[tuple[int, int, int]]:
    """Returns (N, H, W) of the batches: one and more images, the smallest size, odd and even ones."""
    least = form.minimum_size
    if form.size is None:
        sizes = ((least, least), (least, least + 13), (least + 31, least + 2), (48, 48), (67, 90))
        batches = (1, 3, 2, 5, 1)
        return [
            (form.batch or batch, max(height, least), max(width, least))
            for batch, (height, width) in zip(batches, sizes, strict=True)
        ]
    area = math.prod(form.size)
    if form.batch is None:
        counts = [count for count in (1, 2, 5, 8, 16) if count < 3 or count * area <= MOST_PIXELS_AT_ONCE]
        return [(count, *form.size) for count in counts]
    count = max(len(STRENGTHS_GREY), math.ceil(IMAGES / form.batch))
    return [(form.batch, *form.size)] * max(2, min(count, MOST_PIXELS // (form.batch * area)))


def _demand(parity: Parity) -> None:
    """Refuses a form that differs by more than rounding."""
    if not parity.maximum_difference <= parity.allowed_difference:  # a difference that is no number, too
        raise ExportError(
            f"the exported net differs from the evaluated one by {parity.maximum_difference:.3g} where "
            f"{parity.allowed_difference:.3g} is allowed; nothing was left behind, use another format"
        )
    if parity.equal_answers not in (None, parity.images):
        raise ExportError(
            f"the exported net puts {parity.images - parity.equal_answers} of {parity.images} noisy images "
            "into other classes than the evaluated one; nothing was left behind, use another format"
        )
