"""What a restoration took out of an image, as an image to look at."""

import numpy as np
from numpy.typing import NDArray

from steadylens.levels import Levels, strips


def removal_view(before: Levels, after: Levels) -> tuple[NDArray[np.uint8], float]:
    """Returns what was removed, before minus after, stretched so that it can be seen.

    Level 128 means that nothing was removed; the largest amount, up or down, becomes 127 levels above or
    below. So the amount removed at a pixel is (view - 128) / 127 times the scale.

    Args:
        before: (H, W, C), uint8 or uint16; alpha is left out.
        after: The same, restored.

    Returns:
        The view, uint8 of one or three channels, and its scale: the largest amount in grey levels of 255.
    """
    colours = before.shape[-1] - (before.shape[-1] in (2, 4))
    largest = 0
    for rows in strips(before):
        largest = max(largest, int(abs(_removed(before, after, rows, colours)).max()))
    view = np.empty((*before.shape[:2], colours), np.uint8)
    for rows in strips(before):
        part = _removed(before, after, rows, colours) / max(1, largest)
        view[rows] = np.rint(128 + 127 * part)
    return view, largest * 255 / float(np.iinfo(before.dtype).max)


def _removed(before: Levels, after: Levels, rows: slice, colours: int) -> NDArray[np.int32]:
    return before[rows, :, :colours].astype(np.int32) - after[rows, :, :colours].astype(np.int32)
