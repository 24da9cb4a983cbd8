"""Random images in a folder for each class."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, *, classes: int = 3, count: int = 5, suffix: str = "png") -> Path:
    """Writes random images into class folders and returns the folder."""
    random = np.random.default_rng(1)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class {label}" / f"{number}.{suffix}")
    return folder
