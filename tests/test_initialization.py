"""Xavier weights against the bounds and the law of Glorot and Bengio."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

from steadylens.classification import SignNet
from steadylens.initialization import initialize_xavier, silence_last_layer
from steadylens.restoration import DongNet, RestorationNet

LAYERS: list[tuple[nn.Conv2d | nn.Linear, int, int]] = [
    (nn.Conv2d(16, 32, 3), 16 * 9, 32 * 9),
    (nn.Conv2d(64, 128, 1), 64, 128),
    (nn.Linear(200, 50), 200, 50),
]
"""Layers with their inputs and outputs: how many values each output reads, and each input feeds."""

every_layer = pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"), LAYERS, ids=["3x3", "1x1", "fully connected"]
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_layer
def test_weights_are_uniform_within_the_bounds_of_xavier(
    layer: nn.Conv2d | nn.Linear, fan_in: int, fan_out: int
) -> None:
    initialize_xavier(layer, generator=seeded(0))
    bound = math.sqrt(6 / (fan_in + fan_out))
    weights = layer.weight.detach().flatten().double().numpy()
    assert bound * 0.99 < abs(weights).max() <= bound * (1 + 1e-6)
    assert scipy.stats.kstest(weights, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


@every_layer
def test_the_variance_is_2_over_inputs_and_outputs(
    layer: nn.Conv2d | nn.Linear, fan_in: int, fan_out: int
) -> None:
    initialize_xavier(layer, generator=seeded(0))
    variance = layer.weight.detach().double().square().mean().item()
    assert variance == pytest.approx(2 / (fan_in + fan_out), rel=0.05)


@pytest.mark.parametrize("net", [RestorationNet(5), DongNet(), SignNet()], ids=lambda net: type(net).__name__)
def test_every_weight_is_drawn_and_every_bias_is_zero(net: nn.Module) -> None:
    for tensor in net.parameters():
        nn.init.constant_(tensor, 9.0)
    initialize_xavier(net, generator=seeded(0))
    for name, tensor in net.named_parameters():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            assert 0 < tensor.abs().max() < 2


def test_a_layer_without_bias_is_drawn_too() -> None:
    layer = nn.Conv2d(3, 4, 3, bias=False)
    nn.init.zeros_(layer.weight)
    initialize_xavier(layer, generator=seeded(0))
    assert layer.weight.all()


def test_the_generator_alone_decides() -> None:
    nets = [RestorationNet(3) for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        initialize_xavier(net, generator=seeded(seed))
    first, same, other = (convolution_weights(net) for net in nets)
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def convolution_weights(net: nn.Module) -> list[torch.Tensor]:
    return [layer.weight for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def test_the_global_generator_is_left_alone() -> None:
    net, state = RestorationNet(3), torch.get_rng_state()
    initialize_xavier(net, generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("net", [RestorationNet(5), DongNet()], ids=lambda net: type(net).__name__)
def test_silencing_zeroes_the_last_convolution_alone(net: nn.Module) -> None:
    initialize_xavier(net, generator=seeded(0))
    *hidden, _ = [weight.clone() for weight in convolution_weights(net)]
    silence_last_layer(net)
    *kept, last = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert last.bias is not None
    assert not last.weight.any()
    assert not last.bias.any()
    assert all(torch.equal(layer.weight, before) for layer, before in zip(kept, hidden, strict=True))


def test_a_last_convolution_without_bias_can_be_silenced() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1, bias=False), nn.Tanh())
    silence_last_layer(net)
    assert not net(torch.ones(1, 3, 2, 2)).any()


def test_a_silent_residual_net_learns_from_its_first_step() -> None:
    net = RestorationNet(3)
    initialize_xavier(net, generator=seeded(0))
    silence_last_layer(net)
    net(torch.rand(1, 3, 8, 8, generator=seeded(1))).sum().backward()
    gradient = convolution_weights(net)[-1].grad
    assert gradient is not None
    assert gradient.any()
