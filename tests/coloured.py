"""Images that are easy to learn: four classes, each of its own colour."""

import torch

from steadylens.data.datasets import Dataset, ImageSet

COLOURS = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]])


def coloured(count: int, *, seed: int) -> ImageSet:
    """Returns `count` 48x48 images of four classes, each of its own colour under random texture."""
    labels = torch.arange(count) % len(COLOURS)
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(-50, 51, (count, 3, 48, 48), generator=generator)
    images = (COLOURS[labels][:, :, None, None] + texture).to(torch.uint8)
    return ImageSet(images=images, labels=labels, tracks=torch.arange(count))


def coloured_data() -> Dataset:
    """Returns a small data set of four classes, the same in every process."""
    return Dataset(
        train=coloured(16, seed=1),
        validation=coloured(8, seed=2),
        test=coloured(8, seed=3),
        class_names=("red", "green", "blue", "yellow"),
        source="coloured",
    )
