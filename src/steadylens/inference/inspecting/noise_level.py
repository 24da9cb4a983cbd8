"""How strong the noise of an image is, mostly by what a restorer would remove, and whether it is clean.

A net that restores tells noise from texture better than a filter does: what it would remove from a clean
photograph is small. So it runs on some parts that are evenly spread over the image, and the typical change of
a small block there is the noise. Half of the blocks may hold texture without an influence on that.

A net knows the kinds of noise that it learned from. One that learned from white noise hardly touches noise
that neighbouring pixels share, as after demosaicing, enlarging or JPEG. So the flattest blocks are looked at,
too, whatever the net says: noise of any kind is in them, and of detail least. Where they show much more than
the net, that is either such noise or texture that is everywhere. A net that knows both decides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from steadylens.checkpoints.packaged import CAMERA_RESTORER, DEFAULT_RESTORER
from steadylens.images.tensors import GREY_LEVELS
from steadylens.inference.restorer import Restorer, restorer_of, tensor_of
from steadylens.inference.tiling import ImageToImage, to_unit
from steadylens.metrics import estimate_noise
from steadylens.progress import ProgressCallback

PART = 128
"""Height and width in pixels of the parts that are looked at; smaller images are not judged."""

MOST_PARTS = 64
"""How many parts of a large image are looked at: a twelfth of one with 12 megapixels."""

COVERED = 2
"""Of a small image, at most one in this many pixels belongs to a part."""

CENTRE = 80
"""Height and width of the middle of a part, which the net sees in its own size."""

BORDER = 8
"""Pixels at the border of what the net sees that do not count: the net knows little of what lies beyond."""

BLOCK = 8
"""Height and width of the blocks whose change is measured."""

MOST_SATURATED = 0.2
"""A block does not count if a larger share of its values is black or full: noise is cut off there."""

FEWEST_BLOCKS = 16
"""With fewer blocks that count, nothing is said."""

MEDIAN_SHARE = 0.945
"""The median of the blocks is this share of white noise of 2 to 25 grey levels."""

FLATTEST = 0.05
"""The share of the blocks that are the flattest."""

FLAT_SHARE = 0.8
"""The flattest blocks deviate by this share of the noise: 0.85 of white noise, 0.75 of demosaiced."""

# An image is clean only if all three are below their limits. These were chosen on photographs of CID22, as
# they are and with noise of known strength: none with white, demosaiced or enlarged noise of 2 grey levels or
# more may pass, nor a photograph of a camera at ISO 1600 to 6400 (CC15), and most clean ones should. The
# flattest blocks decide nearly all of that. `benchmarks/noise_level.py` measures it.

CLEAN_COARSE_GREY = 1.6
"""The noise by the flattest blocks."""

CLEAN_GREY = 1.0
"""The noise by the net. Where bright parts are noisy and dark ones are not, the flattest blocks are dark."""

CLEAN_CHANGE_GREY = 3.0
"""What the net would change, as a root mean square: a few pixels may be far off, and no other."""

# Noise is coarse if neighbouring pixels share it, so that another net restores it better. These limits were
# chosen on the same photographs and on the pairs of CC15; `benchmarks/noise_level.py` measures them, too.

HINT_RATIO = 2.0
"""Noise may be coarse if the flattest blocks show so many times as much as the net finds.

Of white noise they show 1.2 times as much. But texture that is everywhere does it, too: in a quarter of clean
photographs.
"""

COARSE_RATIO = 1.75
"""It is coarse if the net for it finds so many times as much, too; of white noise both find as much."""

COARSE_GREY = 0.7
"""And if that net finds at least so much: with less, it gained less than 0.6 dB on CC15."""

COARSE_SHARE = 0.2
"""And this share of what the flattest blocks show: of even texture, such as cloth, it finds less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLevel:
    """How strong the noise of an image is, in grey levels of 255.

    Attributes:
        grey: The standard deviation of the noise; None if the image is too small to tell.
        coarse_grey: The same by the flattest twentieth of the blocks of 8x8 pixels, from how far they deviate
            from a plane. Noise that neighbouring pixels share shows there as well; texture does if it is
            everywhere. None if the image is too small to tell.
        change_grey: The root mean square of what the net would change. None if the image is too small.
        camera_grey: The noise by `unet-camera`, which is asked if the net is `unet-photos` and the flattest
            blocks show much more than that; else None.
    """

    grey: float | None = None
    coarse_grey: float | None = None
    change_grey: float | None = None
    camera_grey: float | None = None

    @property
    def clean(self) -> bool:
        """Whether there is so little noise that the image had better stay as it is; False if nobody knows."""
        limits = (
            (self.grey, CLEAN_GREY),
            (self.coarse_grey, CLEAN_COARSE_GREY),
            (self.change_grey, CLEAN_CHANGE_GREY),
        )
        return all(found is not None and found < limit for found, limit in limits)

    @property
    def may_be_coarse(self) -> bool:
        """Whether the flattest blocks show much more noise than the net, be it coarse noise or texture."""
        least = max(CLEAN_COARSE_GREY, HINT_RATIO * (self.grey or 0.0))
        return self.coarse_grey is not None and self.coarse_grey >= least

    @property
    def coarse(self) -> bool:
        """Whether neighbouring pixels share the noise, so that `unet-camera` restores it better.

        False if nobody knows; only `unet-photos` is compared with that net.
        """
        shown = COARSE_SHARE * (self.coarse_grey or 0.0)
        least = max(COARSE_GREY, COARSE_RATIO * (self.grey or 0.0), shown)
        return self.camera_grey is not None and self.camera_grey >= least

    def __str__(self) -> str:
        """Returns a phrase, such as "noise about 12 grey levels" or "coarse noise about 7.3 grey levels"."""
        if self.grey is None:
            return "noise that cannot be estimated"
        if self.coarse:
            return f"coarse noise about {_digits(self.coarse_grey or 0.0)} grey levels"
        unknown = self.camera_grey is None and self.may_be_coarse
        more = f", or {_digits(self.coarse_grey or 0.0)} if it is coarse" if unknown else ""
        return f"noise about {_digits(self.grey)} grey levels{more}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examined:
    """What was seen of an image whose noise was estimated.

    Attributes:
        level: The noise.
        places: The top and left of the parts that were looked at; none if the image is too small.
        before: Their middles, (N, C, 80, 80), float32.
        after: The same as the net restores them.
    """

    level: NoiseLevel
    places: tuple[tuple[int, int], ...] = ()
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    after: Tensor = field(default_factory=lambda: torch.empty(0))


def noise_level(
    image: Any,
    net: str | Path | ImageToImage = DEFAULT_RESTORER,
    *,
    margin: int | None = None,
    tile: int | None = None,
    device: torch.device | str | None = None,
) -> NoiseLevel:
    """Returns how strong the noise of an image is, and whether it is clean; see `NoiseLevel`.

    Args:
        image: One image, of the kinds that `restore` takes.
        net: A restorer, as for `restore`; likewise the other arguments.
        margin: How many pixels around it a pixel of the result depends on; None asks a net of this package.
        tile: Height and width of a tile in pixels, overlap included; None chooses by the net and the device.
        device: Where to compute. A net given by name is moved there; None means where the net is.

    Raises:
        ImageError: If the image is of another kind, is empty, or leaves [0, 1] by far.
        SettingError: If the net is a classifier or one of ours not in float32, its margin is unknown, or the
            tile is too small.
        CheckpointError: If a file cannot be used.

    Example:
        >>> import numpy as np
        >>> import steadylens
        >>> noisy = np.random.default_rng(0).normal(0.5, 0.1, (200, 300, 3)).clip(0, 1)
        >>> steadylens.noise_level(noisy, "l3-gtsrb").clean
        False
    """
    restorer = restorer_of(net, margin=margin, tile=tile, device=device)
    return noise_level_of(tensor_of(image), restorer)


def noise_level_of(image: Tensor, restorer: Callable[[Tensor, ProgressCallback], Tensor]) -> NoiseLevel:
    """Returns how strong the noise of an image is by a restorer, whatever the strength of that.

    An image of less than 128 pixels in height or width is judged by `estimate_noise` alone, and is never
    called clean.

    Args:
        image: (C, H, W), uint8, uint16 or float in [0, 1], with one to four channels; alpha last.
        restorer: A `Restorer`.
    """
    return examined(image, restorer).level


def examined(image: Tensor, restorer: Callable[[Tensor, ProgressCallback], Tensor]) -> Examined:
    """Returns how strong the noise of an image is and what was seen of it; see `noise_level_of`."""
    if isinstance(restorer, Restorer):
        restorer = replace(restorer, strength=1.0)
    known, parts = _parts(image)
    if not known:
        return Examined(level=NoiseLevel(grey=_of_small(image)))
    inner = slice((PART - CENTRE) // 2, (PART + CENTRE) // 2)
    before = parts[..., inner, inner].contiguous()
    after = restorer(before, lambda done, total: None)
    changes, deviations = _changes(before, after), _deviations(parts)
    level = NoiseLevel()
    if min(len(changes), len(deviations)) >= FEWEST_BLOCKS:
        level = NoiseLevel(
            grey=_typical(changes),
            coarse_grey=round(float(deviations.quantile(FLATTEST)) / FLAT_SHARE, 2),
            change_grey=round(float(changes.square().mean().sqrt()), 2),
        )
    if isinstance(restorer, Restorer) and restorer.packaged == DEFAULT_RESTORER and level.may_be_coarse:
        camera = _camera_restorer(restorer.device)
        level = replace(level, camera_grey=_typical(_changes(before, camera(before))))
    return Examined(level=level, places=tuple(known), before=before, after=after)


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Returns the top and left of the parts of an image that are looked at, evenly spread."""
    count = min(MOST_PARTS, max(1, height * width // (COVERED * PART**2)))
    rows = min(max(1, round(math.sqrt(count * height / width))), count, height // PART)
    columns = min(max(1, count // max(1, rows)), width // PART)
    tops = [height * (2 * row + 1) // (2 * rows) - PART // 2 for row in range(rows)]
    lefts = [width * (2 * column + 1) // (2 * columns) - PART // 2 for column in range(columns)]
    return [*product(tops, lefts)]


def _digits(grey: float) -> str:
    return f"{grey:.1f}" if grey < 10 else f"{grey:.0f}"


def _parts(image: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """Returns places of an image and its parts there without alpha; none with hidden colours.

    The parts are (N, C, 128, 128), float32.
    """
    channels, height, width = image.shape
    colours = channels - (channels in (2, 4))
    known, found = [], []
    for top, left in places(height, width):
        part = image[:, top : top + PART, left : left + PART]
        if colours == channels or bool((part[colours:].float() > 0).all()):
            known.append((top, left))
            found.append(to_unit(part[:colours]))
    return known, torch.stack(found) if found else torch.empty(0)


@cache
def _camera_restorer(device: torch.device) -> Restorer:
    return restorer_of(CAMERA_RESTORER, device=device)


def _changes(before: Tensor, after: Tensor) -> Tensor:
    """Returns the root mean square of the change in each block that counts, in grey levels."""
    inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    squares = (after - before)[inner].square().mean(1, keepdim=True)
    blocks: Tensor = avg_pool2d(squares, BLOCK).sqrt() * GREY_LEVELS
    return blocks[_counting(before[inner])]


def _typical(changes: Tensor) -> float:
    return round(float(changes.median()) / MEDIAN_SHARE, 2)


def _deviations(images: Tensor) -> Tensor:
    """Returns the standard deviation from a plane in each block that counts, in grey levels."""
    blocks = images.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK).flatten(-2)
    rows, columns = torch.meshgrid(torch.arange(BLOCK), torch.arange(BLOCK), indexing="ij")
    planes = torch.stack([torch.ones_like(rows), rows, columns], dim=-1).flatten(0, 1).to(images)
    basis = torch.linalg.qr(planes).Q
    rest = blocks - (blocks @ basis) @ basis.T
    deviations: Tensor = rest.square().mean(dim=(1, -1)).sqrt() * GREY_LEVELS
    return deviations[_counting(images)[:, 0]]


def _counting(images: Tensor) -> Tensor:
    """Returns which blocks are not saturated, (N, 1, rows, columns)."""
    level = 0.5 / GREY_LEVELS
    saturated = ((images <= level) | (images >= 1 - level)).float().mean(1, keepdim=True)
    return avg_pool2d(saturated, BLOCK) <= MOST_SATURATED


def _of_small(image: Tensor) -> float | None:
    colours = image.shape[0] - (image.shape[0] in (2, 4))
    noise = estimate_noise(to_unit(image[:colours])[None]).item()
    return None if math.isnan(noise) else round(noise, 2)
