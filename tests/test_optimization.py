"""The optimizers against the update rules written out, and the courses of their rates."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steadylens.errors import SettingError
from steadylens.fusion import FusedClassifier
from steadylens.optimization import MomentumSgd, OneCycleAdam, Optimization

IMAGES = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small_net() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.01), nn.Conv2d(4, 2, 1)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.uniform_(-0.5, 0.5, generator=generator)
    return net


def data_loss(net: nn.Module) -> Tensor:
    loss: Tensor = (net(IMAGES) - 1).square().sum()
    return loss


def train(net: nn.Module, optimization: Optimization, steps: int) -> None:
    """Takes the steps of a training: the course's factor multiplies the full rate of each group."""
    optimizer = optimization.optimizer(net)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * optimization.factor(step, steps)
        optimizer.zero_grad()
        torch.autograd.backward(data_loss(net))
        optimizer.step()


def test_momentum_sgd_equals_the_rule_written_out_with_the_term_of_eq_3() -> None:
    rates = {"0.weight": 1e-3, "0.bias": 2e-3, "2.weight": 1e-4, "2.bias": 2e-4}
    trained, plain = small_net(), small_net()
    velocities = {name: torch.zeros_like(tensor) for name, tensor in plain.named_parameters()}
    for step in range(6):
        # Eq. (3) is differentiated as it stands, so the factor 2 of the penalty's gradient is not assumed.
        penalty = torch.stack([tensor.square().sum() for tensor in plain.parameters()]).sum()
        gradients = torch.autograd.grad(data_loss(plain) + 0.03 * penalty, list(plain.parameters()))
        with torch.no_grad():
            for (name, tensor), gradient in zip(plain.named_parameters(), gradients, strict=True):
                velocities[name] = 0.9 * velocities[name] + gradient
                tensor.sub_(rates[name] * 0.8**step * velocities[name])
    train(
        trained,
        MomentumSgd(learning_rate=1e-3, decay=0.8, l2=0.03, last_layer_factor=0.1, bias_factor=2),
        steps=6,
    )
    for ours, expected in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("l2", [0.0, 1e-6, 0.5])
def test_where_the_data_say_nothing_a_step_shrinks_the_weights_by_twice_lambda(l2: float) -> None:
    net = small_net()
    before = [tensor.clone() for tensor in net.parameters()]
    optimizer = MomentumSgd(learning_rate=0.1, l2=l2).optimizer(net)
    for tensor in net.parameters():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    for tensor, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(tensor, old * (1 - 0.1 * 2 * l2))


def rates_by_name(net: nn.Module, optimization: Optimization) -> dict[str, float]:
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    groups = optimization.optimizer(net).param_groups
    assert all(group["lr"] == group["full_lr"] for group in groups)
    return {names[id(tensor)]: group["lr"] for group in groups for tensor in group["params"]}


def test_the_papers_last_layer_learns_at_a_tenth_of_the_rate() -> None:
    rates = rates_by_name(small_net(), MomentumSgd(learning_rate=1e-3, last_layer_factor=0.1))
    assert rates == pytest.approx({"0.weight": 1e-3, "0.bias": 1e-3, "2.weight": 1e-4, "2.bias": 1e-4})


def test_biases_can_learn_at_twice_the_rate() -> None:
    rates = rates_by_name(small_net(), MomentumSgd(learning_rate=0.02, bias_factor=2))
    assert rates == pytest.approx({"0.weight": 0.02, "0.bias": 0.04, "2.weight": 0.02, "2.bias": 0.04})


@pytest.mark.parametrize(
    "optimization",
    [MomentumSgd(learning_rate=0.1, l2=0.1), OneCycleAdam(learning_rate=0.1, weight_decay=0.1)],
    ids=["SGD", "Adam"],
)
def test_what_is_frozen_does_not_move(optimization: Optimization) -> None:
    net = FusedClassifier(nn.Conv2d(3, 3, 1).double(), small_net())
    frozen = [tensor.clone() for tensor in net.restorer.parameters()]
    assert all(name.startswith("classifier.") for name in rates_by_name(net, optimization))
    train(net, optimization, steps=3)
    assert all(map(torch.equal, frozen, net.restorer.parameters()))


@given(decay=st.floats(0.5, 1), step=st.integers(0, 200))
def test_the_rate_decays_geometrically(decay: float, step: int) -> None:
    optimization = MomentumSgd(learning_rate=1, decay=decay)
    assert optimization.factor(step, 1000) == pytest.approx(math.prod([decay] * step))


def test_the_papers_rate_ends_at_a_fiftieth() -> None:
    assert MomentumSgd(learning_rate=1e-3, decay=0.99996).factor(100_000, 100_000) == pytest.approx(
        math.exp(-4), rel=1e-3
    )


def test_adam_equals_the_rule_written_out_with_decoupled_decay() -> None:
    optimization = OneCycleAdam(learning_rate=0.01, warmup_share=0.5, weight_decay=0.1)
    trained, plain = small_net(), small_net()
    first = [torch.zeros_like(tensor) for tensor in plain.parameters()]
    second = [torch.zeros_like(tensor) for tensor in plain.parameters()]
    for step in range(4):
        rate = 0.01 * [0.5, 1.0, 1.0, 0.5][step]
        gradients = torch.autograd.grad(data_loss(plain), list(plain.parameters()))
        with torch.no_grad():
            for tensor, gradient, mean, square in zip(
                plain.parameters(), gradients, first, second, strict=True
            ):
                mean.mul_(0.9).add_(0.1 * gradient)
                square.mul_(0.999).add_(0.001 * gradient**2)
                tensor.mul_(1 - rate * 0.1)
                unbiased = (square / (1 - 0.999 ** (step + 1))).sqrt()
                tensor.sub_(rate * mean / (1 - 0.9 ** (step + 1)) / (unbiased + 1e-8))
    train(trained, optimization, steps=4)
    for ours, expected in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


@settings(deadline=None)
@given(steps=st.integers(1, 3000), share=st.floats(0, 0.999))
def test_the_cycle_stays_above_0_and_rises_before_it_falls(steps: int, share: float) -> None:
    optimization = OneCycleAdam(learning_rate=1, warmup_share=share)
    factors = [optimization.factor(step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.9])
def test_the_cycle_rises_in_its_share_of_the_steps_to_1_and_falls_to_almost_nothing(share: float) -> None:
    factors = [OneCycleAdam(learning_rate=1, warmup_share=share).factor(step, 1000) for step in range(1000)]
    assert max(factors) == 1
    assert factors.index(1) == max(0, round(share * 1000) - 1)
    assert factors[-1] < 1e-3


def test_the_cycle_rises_along_a_line_and_falls_along_half_a_cosine() -> None:
    factors = [OneCycleAdam(learning_rate=1, warmup_share=0.2).factor(step, 10) for step in range(10)]
    fall = [0.5 + 0.5 * math.cos(math.pi * eighth / 8) for eighth in range(8)]
    assert factors == pytest.approx([0.5, 1.0, *fall])


@pytest.mark.parametrize("rate", [0.0, -0.1, math.inf, math.nan])
def test_a_rate_that_cannot_train_is_refused(rate: float) -> None:
    for build in (MomentumSgd, OneCycleAdam):
        with pytest.raises(SettingError, match=f"learning_rate is {rate}, it must be a positive number"):
            build(learning_rate=rate)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01, math.nan])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(SettingError, match=rf"decay is {decay}, it must lie in \(0, 1\]"):
        MomentumSgd(learning_rate=0.1, decay=decay)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_warmup_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match=rf"warmup_share is {share}, it must lie in \[0, 1\)"):
        OneCycleAdam(learning_rate=0.1, warmup_share=share)
