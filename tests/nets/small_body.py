"""A small classifier without normalisation, which several tests prepare."""

import torch
from torch import nn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def body() -> nn.Module:
    """Returns the same small net each time."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    return nn.Sequential(*layers).eval()
