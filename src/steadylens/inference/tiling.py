"""Runs a net over an image of any size, one tile at a time, so that memory stays small.

Tiles overlap by twice the net's margin, so the result is the same as for the whole image. There are two
cases:

- The net keeps the size of its input. A tile at the border of the image ends at that border, and the net
  pads it as it would pad the whole image. This works with any padding.
- The net returns the centre of its input, without the margin (an `UnpaddedNet`). The image is padded here, as
  the net would pad it. This takes less computation: tiles need no padding inside the image.

All tiles of an image have the same size, since some engines are built for one size, and the image is divided
evenly. If several tiles are computed at the same time, there may be more of them than are needed, so that no
thread has to wait. Only where tiles must begin at multiples of 8, say, the last one may be smaller: for a net
that halves its feature maps. On the CPU, NumPy copies and scales the tiles: PyTorch would wake its own
threads for that, and they would compete with the threads of another engine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.progress import ProgressCallback

PIXELS_AT_ONCE = 4 * 1736**2
"""Tiles that are computed at the same time have together at most so many pixels: four of the largest ones of
the U-Net, which needs some 200 bytes a pixel."""

ImageToImage = Callable[[Tensor], Tensor]
"""Maps images (N, C, H, W), float32 in [0, 1], to images of the same shape, or to their centre."""

Surround = Callable[[Tensor, Sequence[int]], Tensor]
"""Pads images by the given numbers of pixels on the left, on the right, above and below."""

NUMPY_DTYPES = {torch.uint8: np.uint8, torch.uint16: np.uint16}
"""NumPy's names for the integer types that images may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        tile: Largest height and width of a tile in pixels, overlap included.
        margin: The net's margin: how many pixels around it a pixel of the result depends on.
        smallest: The smallest height and width that the net reads. A smaller image is mirrored at its borders
            (the outermost pixels are repeated) until it is large enough, and the result is cropped.
        alignment: Tiles begin at multiples of this, for a net that halves its feature maps. It must divide
            the margin.
        surround: Pads the image, for a net that returns its input without the margin on each side; None for a
            net that keeps the size.

    Raises:
        SettingError: If a tile is not larger than its margins, or a size is negative.
    """

    tile: int
    margin: int
    smallest: int = 1
    alignment: int = 1
    surround: Surround | None = None

    def __post_init__(self) -> None:
        if self.margin < 0 or self.smallest < 1:
            raise SettingError(
                f"margin is {self.margin} and smallest {self.smallest}; they are at least 0 and 1 pixels"
            )
        if self.alignment < 1 or self.margin % self.alignment:
            raise SettingError(
                f"margin is {self.margin} and alignment {self.alignment}; the alignment must be at least 1 "
                "and divide the margin"
            )
        least = max(2 * self.margin + self.alignment, _up_to_multiple(self.smallest, self.alignment))
        if self.tile < least:
            raise SettingError(
                f"a tile of {self.tile} pixels is too small: with a margin of {self.margin} "
                f"it needs at least {least}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The extent of a tile along one axis of an image.

    Attributes:
        start: First pixel of the net's input; negative if the input includes padding.
        stop: End of the net's input; beyond the image if the input includes padding.
        made: First pixel of the net's output.
        kept: The part of the output that goes into the result.
    """

    start: int
    stop: int
    made: int
    kept: slice

    @property
    def kept_of_made(self) -> slice:
        """The kept part, relative to the start of the net's output."""
        return slice(self.kept.start - self.made, self.kept.stop - self.made)

    def present(self, length: int) -> slice:
        """Returns the part of the net's input that lies within an axis of `length` pixels."""
        return slice(max(0, self.start), min(length, self.stop))

    def lacking(self, length: int) -> tuple[int, int]:
        """Returns how many pixels of the net's input lie before and after an axis of `length` pixels."""
        return max(0, -self.start), max(0, self.stop - length)


def spans(length: int, tiling: Tiling, *, more: int = 0) -> list[Span]:
    """Divides an axis into overlapping spans of equal length, as short as their number allows.

    The kept parts cover the axis exactly once. With an alignment, the last span may be shorter.

    Args:
        length: Length of the axis in pixels.
        tiling: How long a span may be, and by how much spans overlap.
        more: How many spans there should be beyond those that are needed, if the axis is long enough.
    """
    margin, around = tiling.margin, 0 if tiling.surround is None else tiling.margin
    reach = length + 2 * around
    step = (tiling.tile - 2 * margin) // tiling.alignment * tiling.alignment
    least = max(1, -(-(reach - 2 * margin) // step))
    count = max(least, min(least + more, _most_spans(length, tiling)))
    if length < tiling.smallest:  # the whole image will be mirrored
        count = 1
    even = -(-(reach + 2 * margin * (count - 1)) // count)
    side = min(reach, _up_to_multiple(max(tiling.smallest, even), tiling.alignment))
    found, done = [], 0
    for number in range(count):
        start = min(number * (side - 2 * margin), _up_to_multiple(reach - side, tiling.alignment)) - around
        stop = length if number == count - 1 else start + side - margin
        end = min(start + side, length + around)
        found.append(Span(start=start, stop=end, made=start + around, kept=slice(done, stop)))
        done = stop
    return found


def _most_spans(length: int, tiling: Tiling) -> int:
    """Returns into how many spans an axis may be divided where fewer would do.

    On average, a span keeps more than it shares with others. Rounding to the alignment adds less than the
    alignment for each of n spans, together less than one of them while n squared of it fit into the axis: so
    none is empty.
    """
    return min(length // (2 * tiling.margin + tiling.smallest), math.isqrt(length // tiling.alignment))


def _up_to_multiple(length: int, of: int) -> int:
    return -(-length // of) * of


def tiles(
    size: Sequence[int], tiling: Tiling, *, at_once: int = 1, groups: int = 1
) -> list[tuple[Span, Span]]:
    """Divides images into tiles with which threads are done soonest, each working on a tile at a time.

    One thread needs the largest tiles, which overlap least. Several may be done sooner with some more tiles,
    of which each gets as many. The tiles of many threads are smaller, so that memory stays within bounds.

    Args:
        size: Height and width of the images in pixels.
        tiling: How large a tile may be.
        at_once: Number of threads.
        groups: Number of images, or groups of images, that are all divided so.

    Returns:
        The rows and the columns of each tile.
    """

    def pixels_of_the_busiest(divided: Sequence[Sequence[Span]]) -> int:
        count = groups * math.prod(map(len, divided))
        return -(-count // at_once) * math.prod(each[0].stop - each[0].start for each in divided)

    tiling = _within_memory(tiling, at_once)
    choices = [_divisions(length, tiling, at_once) for length in size]
    rows, columns = min(product(*choices), key=pixels_of_the_busiest)
    return list(product(rows, columns))


def _within_memory(tiling: Tiling, at_once: int) -> Tiling:
    """Returns a tiling of which so many tiles at a time have at most `PIXELS_AT_ONCE`, if they can be.

    Up to four threads get tiles as large as asked for.
    """
    each = max(PIXELS_AT_ONCE, 4 * tiling.tile**2) // at_once
    side = max(math.isqrt(each), 4 * tiling.margin + tiling.alignment, tiling.smallest)
    return replace(tiling, tile=min(tiling.tile, _up_to_multiple(side, tiling.alignment)))


def _divisions(length: int, tiling: Tiling, at_once: int) -> list[list[Span]]:
    """Returns the ways to divide an axis that may suit so many threads, the fewest spans first."""
    found = [spans(length, tiling)]
    for more in range(1, at_once):
        if len(divided := spans(length, tiling, more=more)) == len(found[-1]):
            break
        found.append(divided)
    return found


def in_tiles(
    net: ImageToImage,
    images: Tensor,
    restored: Tensor,
    *,
    tiling: Tiling,
    device: torch.device,
    progress: ProgressCallback,
    at_once: int = 1,
    strength: float = 1.0,
) -> None:
    """Runs a net on `images`, one tile at a time, and writes the result to `restored`.

    Args:
        net: Maps images to images of the same shape, or to their centre if the tiling says so.
        images: (N, C, H, W), float in [0, 1], or uint8 or uint16. Integers are scaled to [0, 1] for the net,
            and its output is clipped and rounded. The images may be on any device; tiles are moved to
            `device` one at a time.
        restored: Receives the result; it has the shape and type of the images.
        tiling: How the images are cut into tiles.
        device: The device that the net computes on.
        progress: Called after each tile with the number of tiles done and their total.
        at_once: How many tiles are given to the net at the same time, each from its own thread.
        strength: How much of the net's change is made: 0 keeps the images, 1 gives the output of the net. It
            counts before the result is clipped and rounded.

    Raises:
        SettingError: If the net returns no tensor, or one of the wrong shape.
    """
    *_, height, width = images.shape

    def run(piece: tuple[slice, Span, Span]) -> None:
        group, row, column = piece
        with torch.inference_mode():
            seen = to_unit(images[group, :, row.present(height), column.present(width)].to(device))
            lacking = (*column.lacking(width), *row.lacking(height))
            tile = _run(net, seen, lacking, tiling)[..., row.kept_of_made, column.kept_of_made]
            if strength != 1:
                before = to_unit(images[group, :, row.kept, column.kept].to(device))
                tile = _blended(before, tile, strength)
            _copy(from_unit(tile, images.dtype), restored[group, :, row.kept, column.kept])

    groups = list(_groups(images, tiling, at_once))
    places = tiles((height, width), tiling, at_once=at_once, groups=len(groups))
    work = [(group, row, column) for group in groups for row, column in places]
    pool = ThreadPoolExecutor(at_once)
    try:
        for done, _ in enumerate((map if at_once == 1 else pool.map)(run, work), start=1):
            progress(done, len(work))
    finally:
        pool.shutdown(cancel_futures=True)


def to_unit(images: Tensor) -> Tensor:
    """Returns images as float32; uint8 and uint16 are scaled to [0, 1]."""
    if images.is_floating_point():
        return images.float()
    top = torch.iinfo(images.dtype).max
    if images.device.type == "cpu":
        return torch.from_numpy(np.divide(images.numpy(), np.float32(top), dtype=np.float32, order="C"))
    return images.float().div_(top)


def from_unit(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts float images to a type; for uint8 and uint16 they are clipped, scaled and rounded."""
    if dtype.is_floating_point:
        return images.to(dtype)
    top = torch.iinfo(dtype).max
    if images.device.type == "cpu":
        levels = np.clip(images.detach().float().numpy(), 0, 1)
        levels *= top
        with np.errstate(invalid="ignore"):  # NaN may become any value
            return torch.from_numpy(np.rint(levels, out=levels).astype(NUMPY_DTYPES[dtype]))
    return images.clamp(0, 1).mul_(top).round_().to(dtype)


def _blended(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """Returns images between two: 0 is before, 1 is after."""
    if before.device.type == "cpu":
        first, second = before.detach().numpy(), after.detach().float().numpy()
        return torch.from_numpy(first + np.float32(strength) * (second - first))
    return torch.lerp(before, after.float(), strength)


def _copy(source: Tensor, target: Tensor) -> None:
    if source.device.type == target.device.type == "cpu" and target.dtype != torch.bfloat16:
        np.copyto(target.numpy(), source.detach().numpy())
    else:
        target.copy_(source)


def _groups(images: Tensor, tiling: Tiling, at_once: int) -> Iterator[slice]:
    """Groups small images evenly, as many groups for each thread, of at most the pixels of a tile."""
    tiling = _within_memory(tiling, at_once)
    around = 0 if tiling.surround is None else 2 * tiling.margin
    seen = (max(length, tiling.smallest) + around for length in images.shape[-2:])
    most = max(1, tiling.tile**2 // math.prod(min(side, tiling.tile) for side in seen))
    rounds = max(1, -(-images.shape[0] // (at_once * most)))
    count = max(1, -(-images.shape[0] // (at_once * rounds)))
    return (slice(first, first + count) for first in range(0, images.shape[0], count))


def _run(net: ImageToImage, images: Tensor, lacking: Sequence[int], tiling: Tiling) -> Tensor:
    down, across = (max(0, -(-(tiling.smallest - length) // 2)) for length in images.shape[-2:])
    seen = _mirrored(_mirrored(images, down, axis=2), across, axis=3)
    lost, rule = 0, "it must keep the shape of the images"
    if tiling.surround is not None:
        seen = tiling.surround(seen, lacking) if any(lacking) else seen
        lost, rule = 2 * tiling.margin, f"it must lose {tiling.margin} pixels on each side"
    restored = net(seen)
    if not isinstance(restored, Tensor):
        raise SettingError(f"the net returned a {type(restored).__name__}; it must return a tensor")
    *others, height, width = seen.shape
    if restored.shape != (*others, height - lost, width - lost):
        raise SettingError(f"the net returned {tuple(restored.shape)} for {tuple(seen.shape)}; {rule}")
    return restored[..., down : height - lost - down, across : width - lost - across]


def _mirrored(images: Tensor, count: int, *, axis: int) -> Tensor:
    """Extends an axis by `count` pixels at both ends, mirrored as often as needed."""
    length = images.shape[axis]
    places = torch.arange(-count, length + count, device=images.device) % (2 * length)
    return images.index_select(axis, torch.minimum(places, 2 * length - 1 - places)) if count else images
