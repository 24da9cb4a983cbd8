"""The optimizers against their update rules written out, and their learning rates step by step."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam, OneCycleMuon, Optimization

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


each_optimization = pytest.mark.parametrize(
    "optimization",
    [
        MomentumSgd(learning_rate=0.1, l2=0.1),
        OneCycleAdam(learning_rate=0.1, weight_decay=0.1),
        OneCycleMuon(learning_rate=0.1),
    ],
    ids=["SGD", "Adam", "Muon"],
)


def front_and_behind(net: FusedClassifier) -> tuple[list[Tensor], list[Tensor]]:
    front, behind = (
        [tensor.clone() for tensor in part.parameters()] for part in (net.restorer, net.classifier)
    )
    return front, behind


@each_optimization
def test_what_takes_no_gradient_does_not_move(optimization: Optimization) -> None:
    behind = nn.Sequential(*small_net(), nn.Flatten())
    net = FusedClassifier(nn.Conv2d(3, 3, 1).double().requires_grad_(False), behind)
    front, _ = front_and_behind(net)
    assert all(name.startswith("classifier.") for name in rates_by_name(net, optimization))
    train(net, optimization, steps=3)
    assert all(map(torch.equal, front, net.restorer.parameters()))


@pytest.mark.parametrize("frozen", [True, False])
@each_optimization
def test_a_restorer_moves_only_if_it_is_not_frozen(optimization: Optimization, frozen: bool) -> None:
    classifier = nn.Sequential(*small_net(), nn.Flatten())
    net = FusedClassifier(nn.Conv2d(3, 3, 1).double(), classifier, frozen=frozen)
    front, behind = front_and_behind(net)
    train(net, optimization, steps=3)
    moved = [not torch.equal(old, new) for old, new in zip(front, net.restorer.parameters(), strict=True)]
    assert moved == [not frozen, not frozen]
    assert not any(map(torch.equal, behind, net.classifier.parameters()))


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
    for build in (MomentumSgd, OneCycleAdam, OneCycleMuon):
        with pytest.raises(SettingError, match=f"learning_rate is {rate}, it must be a positive number"):
            build(learning_rate=rate)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01, math.nan])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(SettingError, match=rf"decay is {decay}, it must lie in \(0, 1\]"):
        MomentumSgd(learning_rate=0.1, decay=decay)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_warmup_that_leaves_nothing_is_refused(share: float) -> None:
    for build in (OneCycleAdam, OneCycleMuon):
        with pytest.raises(SettingError, match=rf"warmup_share is {share}, it must lie in \[0, 1\)"):
            build(learning_rate=0.1, warmup_share=share)


def pair_of_two(*, frozen: bool = False) -> FusedClassifier:
    front = nn.Conv2d(3, 3, 1).double().requires_grad_(not frozen)
    return FusedClassifier(front, nn.Sequential(*small_net(), nn.Flatten()), frozen=frozen)


def test_a_part_with_a_factor_has_a_rate_of_its_own_and_no_decay() -> None:
    trained, plain = (pair_of_two() for _ in range(2))
    plain.load_state_dict(trained.state_dict())
    factors = (("restorer", 0.25), ("classifier.2", 2.0))
    optimization = OneCycleAdam(learning_rate=0.01, weight_decay=0.1, part_factors=factors)
    wanted = {"restorer": (0.0025, 0.0), "classifier.0": (0.01, 0.1), "classifier.2": (0.02, 0.0)}
    optimizer = torch.optim.AdamW(
        [
            {"params": list(plain.get_submodule(part).parameters()), "lr": rate, "weight_decay": decay}
            for part, (rate, decay) in wanted.items()
        ]
    )
    full = [group["lr"] for group in optimizer.param_groups]
    for step in range(4):
        for group, rate in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = rate * optimization.factor(step, 4)
        optimizer.zero_grad()
        torch.autograd.backward(data_loss(plain))
        optimizer.step()
    train(trained, optimization, steps=4)
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())


def test_a_factor_gives_no_gradient_to_a_frozen_part() -> None:
    optimization = OneCycleAdam(learning_rate=0.01, part_factors=(("restorer", 0.25),))
    rates = rates_by_name(pair_of_two(frozen=True), optimization)
    assert rates == {f"classifier.{name}": 0.01 for name, _ in small_net().named_parameters()}


@pytest.mark.parametrize("part", ["restor", "front", "classifier.1", ""])
def test_a_factor_of_a_part_that_is_not_there_is_refused(part: str) -> None:
    optimization = OneCycleAdam(learning_rate=0.01, part_factors=((part, 0.25),))
    with pytest.raises(SettingError, match=f"FusedClassifier has no part '{part}'.* are restorer.weight, "):
        optimization.optimizer(pair_of_two())


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_that_is_not_positive_is_refused(factor: float) -> None:
    with pytest.raises(SettingError, match=f"factor of part 'restorer' is {factor}, .* a positive number"):
        OneCycleAdam(learning_rate=0.01, part_factors=(("restorer", factor),))


class OnMatrices(nn.Module):
    """Three convolutions, written as products with matrices: what Muon is defined for."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(
            layer.weight.detach().flatten(1).clone() for layer in net if isinstance(layer, nn.Conv2d)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns what the convolutions return."""
        for matrix in self.matrices:
            count, _, height, width = images.shape
            images = (matrix @ F.unfold(images, 3, padding=1)).view(count, -1, height, width)
        return images


def three_convolutions() -> nn.Sequential:
    net = nn.Sequential(
        *(nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in ((3, 4), (4, 5), (5, 2)))
    )
    generator = torch.Generator().manual_seed(2)
    for weight in net.parameters():
        nn.init.kaiming_normal_(weight, generator=generator)
    return net.double()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
def test_muon_trains_inner_convolutions_as_matrices_and_adam_the_rest(layout: torch.memory_format) -> None:
    trained = three_convolutions()
    plain = OnMatrices(trained)
    trained.to(memory_format=layout)
    optimization = OneCycleMuon(learning_rate=0.02, warmup_share=0.5)
    first, inner, last = plain.matrices
    parts: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.Muon([inner], lr=0.02, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([first, last], lr=0.02, weight_decay=0),
    )
    for step in range(6):
        plain.zero_grad()
        torch.autograd.backward(data_loss(plain))
        for part in parts:
            part.param_groups[0]["lr"] = 0.02 * optimization.factor(step, 6)
            part.step()
    train(trained, optimization, steps=6)
    for weight, matrix in zip(trained.parameters(), plain.matrices, strict=True):
        torch.testing.assert_close(weight.flatten(1), matrix, rtol=1e-5, atol=1e-5)


def test_muon_moves_all_directions_of_a_layer_by_about_the_same_amount() -> None:
    net = three_convolutions()
    inner = net.get_parameter("1.weight")
    before = inner.detach().clone()
    train(net, OneCycleMuon(learning_rate=0.01, warmup_share=0), steps=1)
    change = inner.detach() - before
    moved = torch.linalg.svdvals(change.flatten(1))
    # The iteration that makes the update orthogonal leaves singular values between about 0.5 and 1.5.
    assert moved.max() < 3.5 * moved.min()
    # The size of an update of Adam: 0.2 times the learning rate for each weight.
    assert float(change.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)


@pytest.mark.parametrize("steps", [0, 2])
def test_muon_goes_on_with_a_parameter_that_never_had_a_gradient(steps: int) -> None:
    """As of a layer that a loss does not reach; at step 0 that is every parameter."""
    optimization = OneCycleMuon(learning_rate=0.01)
    nets = three_convolutions(), three_convolutions()
    optimizers = [optimization.optimizer(net) for net in nets]

    def advance(number: int, count: int) -> None:
        for _ in range(count):
            optimizers[number].zero_grad()
            torch.autograd.backward(nets[number][0](IMAGES).square().sum())
            optimizers[number].step()

    advance(0, steps)
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for number in (0, 1):
        advance(number, 2)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=0, atol=0)


def test_a_net_without_an_inner_layer_is_refused_by_muon() -> None:
    with pytest.raises(SettingError, match="Sequential has no trained layer between its first and its last"):
        OneCycleMuon(learning_rate=0.01).optimizer(small_net())
