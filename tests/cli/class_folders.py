"""Random images in a folder for each class, and a small classifier of timm for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

SIZE = 32
"""Height and width in pixels of the classifier's images."""

SIGN_NOTE = f"l3-gtsrb learned from traffic signs of 48 pixels, and these images are of {SIZE}"
"""What is said of a restorer of signs before that classifier."""


def write_images(
    folder: Path, *, classes: int = 3, names: Sequence[str] = (), count: int = 5, suffix: str = "png"
) -> Path:
    """Writes random images into class folders, of these names or of numbers, and returns the folder."""
    random = np.random.default_rng(1)
    for name in names or [f"class {label}" for label in range(classes)]:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}")
    return folder


def write_weights(path: Path, *, classes: int = 3) -> None:
    """Writes the weights of the timm model test_resnet."""
    torch.save(timm.create_model("test_resnet", num_classes=classes).state_dict(), path)
