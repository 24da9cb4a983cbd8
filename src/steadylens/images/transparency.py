"""What alpha hides does not reach the net: the colours of the visible pixels are continued below alpha 0.

The pixels that alpha hides have any colours, often black. A net that sees them mixes them into the edge of
what is visible. So they are replaced by weighted means of the visible pixels around them, of the nearest
first (pull-push interpolation: means over blocks of 2, 4, 8 ... pixels, and back). The hidden colours of the
result are those of the image, unchanged: nobody sees them, and some programs keep data there.

An image is filled some rows at a time, so that this takes little memory. The result does not depend on that.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

BAND_PIXELS = 2**21
"""About how many pixels are filled at a time."""

_HALO_BLOCKS = 3
"""How many of the largest blocks around a band have an influence on it."""


def with_colours_continued(colours: Tensor, alpha: Tensor, *, margin: int, band: int = BAND_PIXELS) -> Tensor:
    """Returns colours in which the visible ones continue where alpha is 0, at least as far as a net sees.

    Args:
        colours: (N, C, H, W), of any type. It is not changed; it is returned itself if nothing is hidden.
        alpha: (N, 1, H, W), of the same type.
        margin: How many pixels around it a pixel of the net's output depends on. Hidden pixels further than
            that from all visible ones may stay as they are.
        band: About how many pixels are filled at a time.
    """
    height, width = colours.shape[-2:]
    levels = max(1, (margin - 1).bit_length())
    block = 2**levels
    rows = max(1, band // (width * len(colours) * block)) * block
    filled = None
    for top in range(0, height, rows):
        kept = slice(top, min(top + rows, height))
        if not bool((_numbers(alpha[..., kept, :]) <= 0).any()):
            continue
        filled = colours.clone() if filled is None else filled
        start = max(0, top - _HALO_BLOCKS * block)
        around = slice(start, min(height, kept.stop + _HALO_BLOCKS * block))
        found = _filled(_numbers(colours[..., around, :]), _numbers(alpha[..., around, :]), levels)
        found = found[..., kept.start - start : kept.stop - start, :]
        filled[..., kept, :] = (found if colours.is_floating_point() else found.round_()).to(colours.dtype)
    return colours if filled is None else filled


def put_back_hidden(restored: Tensor, colours: Tensor, alpha: Tensor, *, band: int = BAND_PIXELS) -> None:
    """Gives the pixels of a restored image that alpha hides the colours that they had.

    Args:
        restored: (N, C, H, W). It is changed.
        colours: What it was restored from.
        alpha: (N, 1, H, W), of both.
        band: About how many pixels are looked at at a time.
    """
    for rows in _rows(colours, band):
        hidden = _numbers(alpha[..., rows, :]) <= 0
        if bool(hidden.any()):
            kept = torch.where(hidden, _numbers(colours[..., rows, :]), _numbers(restored[..., rows, :]))
            restored[..., rows, :] = kept.to(restored.dtype)


def _rows(images: Tensor, band: int) -> Iterator[slice]:
    height, width = images.shape[-2:]
    step = max(1, band // (width * len(images)))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _numbers(values: Tensor) -> Tensor:
    """Returns values in a type that PyTorch computes with on every device and that keeps them exactly."""
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def _filled(colours: Tensor, alpha: Tensor, levels: int) -> Tensor:
    """Returns colours with hidden pixels filled, for numbers (N, C, H, W) and (N, 1, H, W)."""
    height, width = colours.shape[-2:]
    weights = alpha.clamp(min=0)
    border = (0, -width % 2**levels, 0, -height % 2**levels)
    # The last channel is the weight of the others, which are multiplied by it.
    sums = [pad(torch.cat([colours * weights, weights], dim=1), border)]
    for _ in range(levels):
        sums.append(avg_pool2d(sums[-1], 2))
    known = sums.pop()
    known = torch.where(known[:, -1:] > 0, known, avg_pool2d(known, 3, stride=1, padding=1))
    for finer in reversed(sums):
        coarser = interpolate(_divided(known), scale_factor=2, mode="bilinear", align_corners=False)
        known = torch.where(finer[:, -1:] > 0, finer, coarser)
    means = _divided(known)[..., :height, :width]
    return torch.where((weights > 0) | (means[:, -1:] == 0), colours, means[:, :-1])


def _divided(sums: Tensor) -> Tensor:
    """Returns weighted sums divided by their weights, and weights of 1 where something is known, else 0."""
    weights = sums[:, -1:]
    known = weights > 0
    means = torch.where(known, sums[:, :-1] / torch.where(known, weights, 1), 0)
    return torch.cat([means, known.to(sums.dtype)], dim=1)
