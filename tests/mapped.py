"""Data sets whose images stay in a file, to compare with the same ones in memory."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from steadylens.data.datasets import Dataset, ImageSet
from steadylens.data.image_cache import load_or_make


def in_file(images: Tensor, path: Path) -> Tensor:
    """Writes images to a file and returns them as they stay there."""
    jobs = [partial(torch.clone, images[number : number + 1]) for number in range(len(images))]
    return load_or_make(path, jobs, frames=1, size=images.shape[-1], progress=None, memory=0).images


def mapped(data: Dataset, folder: Path) -> Dataset:
    """Returns a data set with the same content, whose images stay in files of a folder."""

    def part(name: str, images: ImageSet) -> ImageSet:
        return replace(images, images=in_file(images.images, folder / f"{name}.safetensors"))

    return replace(
        data,
        train=part("train", data.train),
        validation=part("validation", data.validation),
        test=part("test", data.test),
    )
