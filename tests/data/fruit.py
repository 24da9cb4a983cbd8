"""A small data set of coloured images in class folders, and how tests load it and compare what was loaded."""

from pathlib import Path

import torch
from PIL import Image

from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.data.sources import Selection
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED

SIZE = 6


COUNTS = {"apple": 20, "pear": 10, "quince": 5}


def paint(path: Path, red: int, number: int, *, side: int = 9) -> None:
    """Writes an image of one colour, red for the class and green for its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side + 2), (red, number, 0)).save(path)


def loaded(
    root: Path, *, seed: int = 0, validation_share: float = 0.25, size: int = SIZE, fit: Fit = SQUASHED
) -> Dataset:
    return load_dataset(
        f"folder:{root}",
        size=size,
        fit=fit,
        seed=seed,
        selection=Selection(validation_share=validation_share),
        cache=root.parent / "cache",
    )


def chosen_note(tested: int, count: int) -> str:
    """Returns what is said of a folder that has no test images of its own."""
    return (
        f"{tested} of {count} images are for testing, chosen at random; a classifier from elsewhere may have "
        "been trained on them. To compare it on all images, give a folder with the class folders in test/"
    )


def same(first: Dataset, second: Dataset) -> bool:
    return all(
        torch.equal(getattr(getattr(first, part), field), getattr(getattr(second, part), field))
        for part in ("train", "validation", "test")
        for field in ("images", "labels", "tracks")
    )


def image_set(count: int = 4) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return ImageSet(images=images, labels=torch.arange(count) % 2, tracks=torch.arange(count) // 2)
