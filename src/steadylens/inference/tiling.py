"""Runs a net over an image of any size, a tile at a time: what the net sees stays small.

Tiles overlap by as far as the net looks, so the result is that of the whole image. There are two kinds of
nets. One keeps the size of what it sees: a tile at a border of the image ends there, and the net pads it as
it would pad the whole; hence any padding serves. The other returns the centre alone, and the image is
surrounded here with what the net would pad it with; that computes less, for within a net the maps of a tile
shrink instead of being padded to no purpose. All tiles of an image have the same size, which suits engines
that are built for one, and they share the image evenly.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.progress import ProgressCallback

Engine = Callable[[Tensor], Tensor]
"""Anything from images (N, C, H, W), float32 in [0, 1], to images of the same shape, or to their centre."""

Surround = Callable[[Tensor, Sequence[int]], Tensor]
"""Extends images by so many pixels on the left, on the right, above and below."""

LEVELS = {torch.uint8: np.uint8, torch.uint16: np.uint16}
"""The types of levels, as NumPy calls them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How an image is cut.

    Attributes:
        tile: Height and width of a tile in pixels, at most, its overlap included.
        margin: How many pixels around it a pixel of the result depends on.
        smallest: The smallest height and width that the engine takes. A smaller image is mirrored at its
            borders (its outermost pixels repeated) until it is as large; the result is cropped again.
        surround: What surrounds the image, for an engine that returns what it sees without the margin on each
            side; None for one that keeps the size.

    Raises:
        SettingError: If a tile has no middle, or a size is negative.
    """

    tile: int
    margin: int
    smallest: int = 1
    surround: Surround | None = None

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
    """A stretch of one axis of an image.

    Attributes:
        start: Where begins what the net sees; before 0 if it sees what surrounds the image.
        stop: Where it ends; beyond the image likewise.
        made: Where begins what the net returns.
        kept: The part of it that counts.
    """

    start: int
    stop: int
    made: int
    kept: slice

    @property
    def kept_of_made(self) -> slice:
        """The part that counts, from the start of what the net returns."""
        return slice(self.kept.start - self.made, self.kept.stop - self.made)

    def present(self, length: int) -> slice:
        """Returns what the net sees of an axis of so many pixels."""
        return slice(max(0, self.start), min(length, self.stop))

    def lacking(self, length: int) -> tuple[int, int]:
        """Returns how much of what the net sees lies before an axis of so many pixels, and behind it."""
        return max(0, -self.start), max(0, self.stop - length)


def spans(length: int, tiling: Tiling) -> list[Span]:
    """Cuts an axis into stretches of one length that overlap, as few and as short as can be.

    The parts that count cover the axis once.
    """
    margin, around = tiling.margin, 0 if tiling.surround is None else tiling.margin
    reach = length + 2 * around
    count = max(1, -(-(reach - 2 * margin) // (tiling.tile - 2 * margin)))
    if length < tiling.smallest:  # it will be mirrored as a whole
        count = 1
    side = min(reach, max(tiling.smallest, -(-(reach + 2 * margin * (count - 1)) // count)))
    found, done = [], 0
    for number in range(count):
        start = min(number * (side - 2 * margin), reach - side) - around
        stop = length if number == count - 1 else start + side - margin
        found.append(Span(start=start, stop=start + side, made=start + around, kept=slice(done, stop)))
        done = stop
    return found


def in_tiles(
    engine: Engine,
    images: Tensor,
    restored: Tensor,
    *,
    tiling: Tiling,
    device: torch.device,
    progress: ProgressCallback,
    at_once: int = 1,
) -> None:
    """Makes `restored` what `engine` makes of `images`, computed a tile at a time.

    Args:
        engine: Maps images to images of the same shape, or to their centre if the tiling says so.
        images: (N, C, H, W), float in [0, 1], or uint8 or uint16, whose levels are scaled to [0, 1] for the
            engine, clipped and rounded behind it. They may lie anywhere; a tile at a time goes to `device`.
        restored: Where the result goes, of the shape and type of the images.
        tiling: How to cut.
        device: Where the engine computes.
        progress: Told how many tiles are done, and how many there are.
        at_once: How many tiles to give the engine at the same time, from as many threads.

    Raises:
        SettingError: If the engine returns no tensor, or another shape than it was given.
    """
    height, width = images.shape[-2:]

    def run(piece: tuple[slice, Span, Span]) -> None:
        group, row, column = piece
        with torch.inference_mode():
            seen = to_unit(images[group, :, row.present(height), column.present(width)].to(device))
            lacking = (*column.lacking(width), *row.lacking(height))
            tile = _run(engine, seen, lacking, tiling)[..., row.kept_of_made, column.kept_of_made]
            _copy(from_unit(tile, images.dtype), restored[group, :, row.kept, column.kept])

    work = list(product(_groups(images, tiling), spans(height, tiling), spans(width, tiling)))
    pool = ThreadPoolExecutor(at_once)
    try:
        for done, _ in enumerate((map if at_once == 1 else pool.map)(run, work), start=1):
            progress(done, len(work))
    finally:
        pool.shutdown(cancel_futures=True)


def to_unit(images: Tensor) -> Tensor:
    """Returns images as float32, levels of 8 or 16 bits scaled to [0, 1]."""
    if images.is_floating_point():
        return images.float()
    top = torch.iinfo(images.dtype).max
    if images.device.type == "cpu":
        return torch.from_numpy(np.divide(images.numpy(), np.float32(top), dtype=np.float32, order="C"))
    return images.float().div_(top)


def from_unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns float images in a type; for levels of 8 or 16 bits they are clipped, scaled and rounded."""
    if dtype.is_floating_point:
        return images.to(dtype)
    top = torch.iinfo(dtype).max
    if images.device.type == "cpu":
        levels = np.clip(images.detach().float().numpy(), 0, 1)
        levels *= top
        with np.errstate(invalid="ignore"):  # of what is no number, any level will do
            return torch.from_numpy(np.rint(levels, out=levels).astype(LEVELS[dtype]))
    return images.clamp(0, 1).mul_(top).round_().to(dtype)


def _copy(source: Tensor, target: Tensor) -> None:
    if source.device.type == target.device.type == "cpu" and target.dtype != torch.bfloat16:
        np.copyto(target.numpy(), source.detach().numpy())
    else:
        target.copy_(source)


def _groups(images: Tensor, tiling: Tiling) -> Iterator[slice]:
    """Takes as many small images at once as have the pixels of a tile together."""
    area = min(images.shape[-2], tiling.tile) * min(images.shape[-1], tiling.tile)
    count = max(1, tiling.tile**2 // area)
    return (slice(first, first + count) for first in range(0, images.shape[0], count))


def _run(engine: Engine, images: Tensor, lacking: Sequence[int], tiling: Tiling) -> Tensor:
    down, across = (max(0, -(-(tiling.smallest - length) // 2)) for length in images.shape[-2:])
    seen = _mirrored(_mirrored(images, down, axis=2), across, axis=3)
    lost, rule = 0, "it must keep the shape of images"
    if tiling.surround is not None:
        seen = tiling.surround(seen, lacking) if any(lacking) else seen
        lost, rule = 2 * tiling.margin, f"it must lose {tiling.margin} pixels on each side"
    restored = engine(seen)
    if not isinstance(restored, Tensor):
        raise SettingError(f"the net made a {type(restored).__name__} of images; it must return a tensor")
    *others, height, width = seen.shape
    if restored.shape != (*others, height - lost, width - lost):
        raise SettingError(f"the net made {tuple(restored.shape)} of {tuple(seen.shape)}; {rule}")
    return restored[..., down : height - lost - down, across : width - lost - across]


def _mirrored(images: Tensor, count: int, *, axis: int) -> Tensor:
    """Extends an axis by `count` pixels at both ends, mirrored at the edges as often as needed."""
    length = images.shape[axis]
    places = torch.arange(-count, length + count, device=images.device) % (2 * length)
    return images.index_select(axis, torch.minimum(places, 2 * length - 1 - places)) if count else images
