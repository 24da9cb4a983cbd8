"""Xavier weights [19], drawn from a generator that is passed in."""

import torch
from torch import nn


def initialize_xavier(module: nn.Module, *, generator: torch.Generator, gain: float = 1.0) -> None:
    """Draws every convolution's and linear layer's weights after Glorot and Bengio; biases become zero.

    Args:
        module: The net, changed in place.
        generator: Source of the weights, on the net's device.
        gain: Factor on the weights; the square root of 2 makes up for what rectifiers take away, without
            which a deep net begins with a signal too faint to learn from quickly.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def silence_last_layer(module: nn.Module) -> None:
    """Sets the last convolution's weights to zero, so that a residual net starts as the identity."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
