"""Synthetic photographs: smooth colours, edges and shadows, with noise on top."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    """Returns a clean image (H, W, 3) in grey levels: slopes of colour, and discs with soft edges."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = 60 + 80 * np.stack([rows / height, columns / width, 1 - rows / height], axis=-1)
    for _ in range(max(4, height * width // 4000)):
        centre, radius = random.uniform(0, (height, width)), random.uniform(4, 40)
        distance = np.hypot(rows - centre[0], columns - centre[1]) - radius
        image += random.uniform(-50, 50, 3) / (1 + np.exp(2 * np.clip(distance, -20, 20)))[..., None]
    return image.clip(20, 235)


def levels(image: NDArray[np.float64], scale: int = 1) -> Any:
    """Returns an image in grey levels as uint8, or as uint16 if the scale is 257."""
    return np.rint(image.clip(0, 255) * scale).astype(np.uint8 if scale == 1 else np.uint16)


def noise(shape: tuple[int, ...], sigma_grey: float, seed: int = 1) -> NDArray[np.float64]:
    """Returns white noise in grey levels."""
    return np.random.default_rng(seed).normal(0, sigma_grey, shape)


def enlarged_noise(shape: tuple[int, ...], sigma_grey: float, seed: int = 1) -> NDArray[np.float64]:
    """Returns noise that neighbouring pixels share, as after enlarging three times, in grey levels."""
    height, width, channels = shape
    small = noise((height // 3 + 3, width // 3 + 3, channels), 1, seed)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    smooth = sum(np.roll(large, (down, right), (0, 1)) for down in range(3) for right in range(3))
    part: NDArray[np.float64] = np.asarray(smooth)[3 : 3 + height, 3 : 3 + width]
    return np.asarray(part * (sigma_grey / part.std()))
