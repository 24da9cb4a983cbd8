"""What networks cost: parameters, multiplications, time."""

import time
from collections.abc import Mapping

import torch
from torch import nn

from steadylens.metrics import multiplications, parameters
from steadylens.records import Cost, Provenance

REPEATS = 3
"""Timed passes, of which the quickest counts: what slows a pass is not the network's."""


def cost(
    networks: Mapping[str, nn.Module],
    training_seconds: Mapping[str, float],
    *,
    size: int,
    batches: tuple[int, ...] = (1, 64),
    device: torch.device,
    provenance: Provenance,
) -> list[Cost]:
    """Measures parameters, multiply-adds and time of each network, for RGB images and each batch size.

    Args:
        networks: Restorers or classifiers by name, in eval mode, on `device`.
        training_seconds: What training each took.
        size: Height and width of the images in pixels.
        batches: Batch sizes to time.
        device: Where the networks are.
        provenance: Where the rows come from.
    """
    return [
        Cost(
            provenance=provenance,
            samples=batch,
            seconds=0.0,
            network=name,
            size=size,
            parameters=parameters(network),
            multiplications=multiplications(network, channels=3, size=size),
            milliseconds=_quickest_seconds(network, batch, size, device) / batch * 1000,
            training_seconds=training_seconds[name],
        )
        for name, network in networks.items()
        for batch in batches
    ]


def _quickest_seconds(network: nn.Module, batch: int, size: int, device: torch.device) -> float:
    images = torch.zeros(batch, 3, size, size, device=device)
    quickest = float("inf")
    with torch.inference_mode():
        network(images)
        for _ in range(REPEATS):
            _wait_for(device)
            started = time.perf_counter()
            network(images)
            _wait_for(device)
            quickest = min(quickest, time.perf_counter() - started)
    return quickest


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
