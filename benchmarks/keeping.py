"""Keeps what a benchmark measured of a net in a file, so that another run need not measure it again."""

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from torch import Tensor

from steadylens.files import replacing


def kept_tensor(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """Returns the tensor that a .npy file holds; without the file, makes it and keeps it there.

    Args:
        path: The file, whose name tells all that the tensor depends on.
        make: Makes the tensor, on the CPU.
    """
    if path.exists():
        return torch.from_numpy(numpy.load(path))
    made = make()
    with replacing(path) as temporary, temporary.open("wb") as file:
        numpy.save(file, made.numpy())
    return made
