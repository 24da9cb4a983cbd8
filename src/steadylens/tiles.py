"""Runs a net over an image of any size, a tile at a time: what the net sees stays small.

Tiles overlap by as far as the net looks, so the result is that of the whole image. A tile at a border of the
image ends there, and the net pads it as it would pad the whole; hence any padding serves. All tiles of an
image have the same size, which suits engines that are built for one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from steadylens.acceleration import ProgressCallback
from steadylens.errors import SettingError

Engine = Callable[[Tensor], Tensor]
"""Anything from images (N, C, H, W), float32 in [0, 1], to images of the same shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How an image is cut.

    Attributes:
        tile: Height and width of a tile in pixels, its overlap included.
        margin: How many pixels around it a pixel of the result depends on.
        smallest: The smallest height and width that the engine takes. A smaller image is mirrored at its
            borders (its outermost pixels repeated) until it is as large; the result is cropped again.

    Raises:
        SettingError: If a tile has no middle, or a size is negative.
    """

    tile: int
    margin: int
    smallest: int = 1

    def __post_init__(self) -> None:
        if self.margin < 0 or self.smallest < 1:
            raise SettingError(
                f"margin is {self.margin} and smallest {self.smallest}; they are at least 0 and 1 pixels"
            )
        least = max(2 * self.margin + 1, self.smallest)
        if self.tile < least:
            raise SettingError(
                f"a tile of {self.tile} pixels is too small: with a margin of {self.margin} "
                f"it needs at least {least}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of one axis: what the net sees, and the part of it that counts."""

    seen: slice
    kept: slice

    @property
    def kept_of_seen(self) -> slice:
        """The part that counts, from the start of what is seen."""
        return slice(self.kept.start - self.seen.start, self.kept.stop - self.seen.start)


def spans(length: int, *, tile: int, margin: int) -> list[Span]:
    """Cuts an axis into stretches of one length that overlap; the parts that count cover it once.

    Args:
        length: Pixels along the axis.
        tile: Pixels that the net sees at once; an axis that is no longer is not cut.
        margin: Pixels on either side of a part that counts, save at the ends of the axis.
    """
    if length <= tile:
        return [Span(seen=slice(0, length), kept=slice(0, length))]
    found, done = [], 0
    while done < length:
        start = min(max(done - margin, 0), length - tile)
        stop = length if start + tile == length else start + tile - margin
        found.append(Span(seen=slice(start, start + tile), kept=slice(done, stop)))
        done = stop
    return found


def in_tiles(
    engine: Engine, images: Tensor, *, tiling: Tiling, device: torch.device, progress: ProgressCallback
) -> Tensor:
    """Returns `engine(images)`, computed a tile at a time, in the type of the images.

    Args:
        engine: Maps images to images of the same shape.
        images: (N, C, H, W), float in [0, 1], or uint8 or uint16, whose levels are scaled to [0, 1] for the
            engine, clipped and rounded behind it. They may lie anywhere; a tile at a time goes to `device`.
        tiling: How to cut.
        device: Where the engine computes.
        progress: Told how many tiles are done, and how many there are.

    Raises:
        SettingError: If the engine returns another shape than it was given.
    """
    height, width = images.shape[-2:]
    rows = spans(height, tile=tiling.tile, margin=tiling.margin)
    columns = spans(width, tile=tiling.tile, margin=tiling.margin)
    restored = torch.empty_like(images, memory_format=torch.preserve_format)
    work = list(product(_groups(images, tiling), rows, columns))
    with torch.inference_mode():
        for done, (group, row, column) in enumerate(work, start=1):
            seen = to_unit(images[group, :, row.seen, column.seen].to(device))
            tile = _run(engine, seen, tiling.smallest)[..., row.kept_of_seen, column.kept_of_seen]
            restored[group, :, row.kept, column.kept] = from_unit(tile, images.dtype).to(images.device)
            progress(done, len(work))
    return restored


def to_unit(images: Tensor) -> Tensor:
    """Returns images as float32, levels of 8 or 16 bits scaled to [0, 1]."""
    if images.is_floating_point():
        return images.float()
    return images.float().div_(torch.iinfo(images.dtype).max)


def from_unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns float images in a type; for levels of 8 or 16 bits they are clipped, scaled and rounded."""
    if dtype.is_floating_point:
        return images.to(dtype)
    return images.clamp(0, 1).mul_(torch.iinfo(dtype).max).round_().to(dtype)


def _groups(images: Tensor, tiling: Tiling) -> Iterator[slice]:
    """Takes as many small images at once as have the pixels of a tile together."""
    area = min(images.shape[-2], tiling.tile) * min(images.shape[-1], tiling.tile)
    count = max(1, tiling.tile**2 // area)
    return (slice(first, first + count) for first in range(0, images.shape[0], count))


def _run(engine: Engine, images: Tensor, smallest: int) -> Tensor:
    height, width = images.shape[-2:]
    down, across = (max(0, -(-(smallest - length) // 2)) for length in (height, width))
    extended = _mirrored(_mirrored(images, down, axis=2), across, axis=3)
    restored = engine(extended)
    if restored.shape != extended.shape:
        raise SettingError(
            f"the net made {tuple(restored.shape)} of {tuple(extended.shape)}; "
            "it must keep the shape of images"
        )
    return restored[..., down : down + height, across : across + width]


def _mirrored(images: Tensor, count: int, *, axis: int) -> Tensor:
    """Extends an axis by `count` pixels at both ends, mirrored at the edges as often as needed."""
    length = images.shape[axis]
    places = torch.arange(-count, length + count, device=images.device) % (2 * length)
    return images.index_select(axis, torch.minimum(places, 2 * length - 1 - places)) if count else images
