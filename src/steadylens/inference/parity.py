"""Checks that a converted net gives the same results as the net that was evaluated."""

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
"""Largest difference that rounding may cause, relative to the largest output value of the net or to 1,
whichever is larger. In a restored image it is a fortieth of a grey level."""

IMAGES = 32
"""How many images a net of a fixed size is compared on, unless they are large."""

MOST_PIXELS_AT_ONCE, MOST_PIXELS = 2**20, 2**23
"""Limits for nets of a fixed size, on the pixels of one batch and of all images together. A net keeps
hundreds of values for each pixel. Two batches are compared in any case."""

STRENGTHS_GREY = (25.0, 5.0, 40.0, 15.0, 0.0)
"""Standard deviations of the noise in grey levels, one for each batch. A strong and a weak one come first,
since large images are compared in only two batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How well a net and its converted version agree on the same noisy images.

    Attributes:
        images: How many images were compared.
        shapes: Shapes (N, C, H, W) of the batches.
        maximum_difference: Largest absolute difference between two output values.
        allowed_difference: The largest difference that would have passed.
        equal_answers: How many images both put into the same class; None for restorers.
    """

    images: int
    shapes: tuple[tuple[int, ...], ...]
    maximum_difference: float
    allowed_difference: float
    equal_answers: int | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain data, for the metadata of a file."""
        return asdict(self)


def check_parity(
    net: Callable[[Tensor], Tensor],
    converted: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
) -> Parity:
    """Compares a converted net with the original.

    Args:
        net: The net that was evaluated, in eval mode on the CPU.
        converted: The converted net.
        batches: Batches of images that both can read, for example from `noisy_images`.

    Raises:
        ExportError: If a value differs by more than rounding explains, or an image gets another class.
    """
    shapes: list[tuple[int, ...]] = []
    difference, scale, equal, classifies = 0.0, 1.0, 0, False
    for images in batches:
        with torch.no_grad():
            wanted, found = net(images), converted(images)
        if wanted.shape != found.shape:
            raise ExportError(
                f"for images {tuple(images.shape)} the net returns {tuple(wanted.shape)}, the converted net "
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
    _check(parity)
    return parity


def noisy_images(signature: Signature, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields batches of noisy colour gradients in [0, 1], in the shapes that the signature allows."""
    for number, (batch, height, width) in enumerate(_shapes(signature)):
        coarse = torch.rand(batch, signature.channels, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        sigma_grey = STRENGTHS_GREY[number % len(STRENGTHS_GREY)]
        noise = torch.randn(smooth.shape, generator=generator) * (sigma_grey / GREY_LEVELS)
        yield (smooth + noise).clamp(0, 1)


def _shapes(signature: Signature) -> list[tuple[int, int, int]]:
    """Returns (N, H, W) of the batches: one image and several, the smallest size, odd and even sizes."""
    least = signature.minimum_size
    if signature.size is None:
        sizes = ((least, least), (least, least + 13), (least + 31, least + 2), (48, 48), (67, 90))
        batches = (1, 3, 2, 5, 1)
        return [
            (signature.batch or batch, max(height, least), max(width, least))
            for batch, (height, width) in zip(batches, sizes, strict=True)
        ]
    area = math.prod(signature.size)
    if signature.batch is None:
        counts = [count for count in (1, 2, 5, 8, 16) if count < 3 or count * area <= MOST_PIXELS_AT_ONCE]
        return [(count, *signature.size) for count in counts]
    count = max(len(STRENGTHS_GREY), math.ceil(IMAGES / signature.batch))
    return [(signature.batch, *signature.size)] * max(2, min(count, MOST_PIXELS // (signature.batch * area)))


def _check(parity: Parity) -> None:
    """Raises an error if the converted net differs by more than rounding explains."""
    if not parity.maximum_difference <= parity.allowed_difference:  # true for NaN, too
        raise ExportError(
            f"the exported net differs from the evaluated one by {parity.maximum_difference:.3g} where "
            f"{parity.allowed_difference:.3g} is allowed; no file was written, use another format"
        )
    if parity.equal_answers not in (None, parity.images):
        raise ExportError(
            f"the exported net puts {parity.images - parity.equal_answers} of {parity.images} noisy images "
            "into other classes than the evaluated one; no file was written, use another format"
        )
