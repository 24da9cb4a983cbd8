"""The optimizers against their update rules written out, and their learning rates step by step.

A training can be interrupted anywhere and continues with the same result.
"""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steadylens import devices
from steadylens.checkpoints.checkpoint import load_state, save_state
from steadylens.data.datasets import Dataset
from steadylens.errors import CheckpointError, DivergenceError, SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.training.loop import CURVE_POINTS, MomentumSgd, OneCycleAdam, Optimization, Training
from steadylens.training.objectives import (
    LogSquaredError,
    RestorationLoss,
    SquaredError,
    classifying_objective,
    restoring_objective,
)
from tests.tiny_runs import sign_training

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
    [MomentumSgd(learning_rate=0.1, l2=0.1), OneCycleAdam(learning_rate=0.1, weight_decay=0.1)],
    ids=["SGD", "Adam"],
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


SGD = MomentumSgd(learning_rate=0.01, decay=0.9, l2=1e-4, last_layer_factor=0.5, bias_factor=2.0)


ADAM = OneCycleAdam(learning_rate=1e-3, weight_decay=0.01)


STEPS = 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def point_training(
    losses: list[float], *, steps: int, optimization: Optimization = SGD, clip_norm: float | None = None
) -> Training:
    """Returns a training of one linear layer whose losses are those given, one after the other."""
    layer = nn.Linear(1, 1)
    values = iter(losses)

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        yield layer.weight.sum() * 0 + next(values)

    return Training(
        layer, draw, optimization=optimization, steps=steps, generator=seeded(0), clip_norm=clip_norm
    )


def advance(training: Training, steps: int) -> None:
    for _ in islice(training.run(), steps):
        pass


def assert_same_state(training: Training, other: Training) -> None:
    tensors, plain = training.state()
    other_tensors, other_plain = other.state()
    assert tensors.keys() == other_tensors.keys()
    assert [name for name, value in tensors.items() if not torch.equal(value, other_tensors[name])] == []
    assert {**plain, "seconds": 0} == {**other_plain, "seconds": 0}


@pytest.mark.parametrize("optimization", [SGD, ADAM], ids=["momentum SGD", "one-cycle Adam"])
@pytest.mark.parametrize("cut", [1, 3])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    tiny_data: Dataset, tmp_path: Path, optimization: Optimization, cut: int
) -> None:
    whole = sign_training(tiny_data, steps=STEPS, optimization=optimization)
    advance(whole, STEPS)
    first = sign_training(tiny_data, steps=STEPS, optimization=optimization)
    advance(first, cut)
    save_state(tmp_path / "a.training", *first.state())
    torch.manual_seed(cut)  # another process has another global generator
    second = sign_training(tiny_data, steps=STEPS, optimization=optimization, seed=7, weights=7)
    second.resume(*load_state(tmp_path / "a.training"))
    assert second.step == cut
    assert second.seconds == first.seconds
    advance(second, STEPS)
    assert second.step == STEPS
    assert_same_state(second, whole)


def test_a_cut_in_the_middle_of_a_curve_point_does_not_show(tmp_path: Path) -> None:
    losses = [float(number) for number in range(300)]
    whole = point_training(losses, steps=300)
    advance(whole, 300)
    first = point_training(losses, steps=300)
    advance(first, 100)  # a point is made every three steps
    save_state(tmp_path / "a.training", *first.state())
    second = point_training(losses[100:], steps=300)
    second.resume(*load_state(tmp_path / "a.training"))
    advance(second, 300)
    assert second.curve == whole.curve


def test_training_leaves_the_global_generator_as_it_was(tiny_data: Dataset) -> None:
    training = sign_training(tiny_data, steps=STEPS, optimization=ADAM)
    before = torch.get_rng_state()
    advance(training, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_has_no_influence_and_ours_has(tiny_data: Dataset) -> None:
    trainings = []
    for global_seed, seed in ((1, 1), (2, 1), (1, 2)):
        torch.manual_seed(global_seed)
        trainings.append(sign_training(tiny_data, steps=STEPS, optimization=ADAM, seed=seed))
        advance(trainings[-1], 2)
    assert_same_state(trainings[0], trainings[1])
    assert trainings[0].curve != trainings[2].curve


def test_progress_tells_step_loss_and_rate() -> None:
    training = point_training([3.0, 2.0], steps=2, optimization=MomentumSgd(learning_rate=0.1, decay=0.5))
    told = [(each.step, each.steps, each.loss, each.learning_rate) for each in training.run()]
    assert told == [(1, 2, 3.0, 0.1), (2, 2, 2.0, 0.05)]
    assert list(training.run()) == []


def test_the_rates_of_all_groups_follow_the_factor() -> None:
    optimization = MomentumSgd(learning_rate=0.1, decay=0.5, bias_factor=2.0)
    training = point_training([1.0] * 3, steps=3, optimization=optimization)
    advance(training, 3)
    assert [group["lr"] for group in training.optimizer.param_groups] == pytest.approx([0.025, 0.05])


@pytest.mark.parametrize("steps", [1, 7, 99, 100, 101, 150, 199, 250])
def test_the_curve_has_the_documented_number_of_points(steps: int) -> None:
    losses = torch.rand(steps, generator=seeded(steps)).tolist()
    training = point_training(losses, steps=steps)
    advance(training, steps)
    assert len(training.curve) == min(steps, CURVE_POINTS)
    ends = [end for end, _, _ in training.curve]
    assert ends == sorted(set(ends))
    assert ends[-1] == steps
    starts = [0, *ends[:-1]]
    for (end, mean, _), start in zip(training.curve, starts, strict=True):
        assert mean == pytest.approx(sum(losses[start:end]) / (end - start))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_divergence(bad: float) -> None:
    training = point_training([1.0, bad], steps=5)
    with pytest.raises(DivergenceError, match=rf"became {bad} at step 2 of 5; lower .* \(0\.01\) or clip"):
        advance(training, 5)


def test_a_rate_beyond_reason_is_a_divergence(tiny_data: Dataset) -> None:
    training = sign_training(tiny_data, steps=STEPS, optimization=MomentumSgd(learning_rate=1e30))
    training.clip_norm = None
    with pytest.raises(DivergenceError, match=r"lower the learning rate \(1e\+30\)"):
        advance(training, STEPS)


def test_clipping_bounds_the_move() -> None:
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        yield layer.weight.sum() * 1000

    optimization = MomentumSgd(learning_rate=1.0)
    advance(Training(layer, draw, optimization=optimization, steps=1, generator=seeded(0), clip_norm=0.5), 1)
    assert float((layer.weight.detach() - before).norm()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("steps", [0, -3])
def test_steps_below_one_are_refused(steps: int) -> None:
    with pytest.raises(SettingError, match=f"at least 1 step.*not {steps} steps"):
        point_training([], steps=steps)


def test_a_net_without_trainable_parameters_is_refused() -> None:
    frozen = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(SettingError, match="1 trainable parameter"):
        Training(frozen, lambda generator: iter(()), optimization=SGD, steps=1, generator=seeded(0))


def test_the_state_of_another_number_of_steps_is_refused() -> None:
    state = point_training([1.0], steps=3).state()
    with pytest.raises(CheckpointError, match="of 3 steps, this one has 4; remove the checkpoint"):
        point_training([1.0], steps=4).resume(*state)


def test_the_state_of_another_net_is_refused(tiny_data: Dataset) -> None:
    other = sign_training(tiny_data, steps=STEPS, optimization=SGD)
    advance(other, 1)
    with pytest.raises(CheckpointError, match=r"another net: the weights lack bias .* to start again$"):
        point_training([1.0], steps=STEPS).resume(*other.state())


def test_the_state_of_a_version_with_other_random_numbers_is_refused() -> None:
    tensors, plain = point_training([1.0], steps=3).state()
    del plain["randomness"]  # the first versions said nothing
    with pytest.raises(CheckpointError, match=r"another version of steadylens, .* remove the checkpoint"):
        point_training([1.0], steps=3).resume(tensors, plain)


@pytest.mark.parametrize("lost", ["generator", "module.weight"])
def test_a_state_that_lacks_a_tensor_is_refused(lost: str) -> None:
    tensors, plain = point_training([1.0], steps=3).state()
    del tensors[lost]
    with pytest.raises(CheckpointError, match=lost.removeprefix("module.")):
        point_training([1.0], steps=3).resume(tensors, plain)


@pytest.mark.parametrize("lost", ["step", "steps", "curve", "recent_losses", "seconds"])
def test_a_state_that_lacks_a_number_is_refused(lost: str) -> None:
    tensors, plain = point_training([1.0], steps=3).state()
    del plain[lost]
    with pytest.raises(CheckpointError, match=lost):
        point_training([1.0], steps=3).resume(tensors, plain)


def pretend_fast_bfloat16(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    monkeypatch.setattr(devices, "_cpu_is_faster_in_bfloat16", lambda: fast)


def denoising_training(
    data: Dataset, *, loss: RestorationLoss, batch: int, optimization: Optimization, steps: int
) -> Training:
    """Returns a training of L3 on small patches with strong noise."""
    net = RestorationNet(depth=3)
    initialize_xavier(net, generator=seeded(1))
    objective = restoring_objective(
        net, data.train.images, degradation=gaussian_degradation(40), loss=loss, batch=batch, patch=16
    )
    return Training(net, objective, optimization=optimization, steps=steps, generator=seeded(2))


def test_bfloat16_hardly_moves_loss_and_gradient_and_leaves_the_weights_in_float32(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    for fast in (False, True):
        pretend_fast_bfloat16(monkeypatch, fast)
        training = denoising_training(tiny_data, loss=SquaredError(), batch=4, optimization=ADAM, steps=1)
        (progress,) = training.run()
        gradients = [weights.grad for weights in training.trained if weights.grad is not None]
        kept, _ = training.state()  # weights and moments
        kept.pop("generator")
        assert {tensor.dtype for tensor in (*gradients, *kept.values())} == {torch.float32}
        steps.append((progress.loss, torch.cat([gradient.flatten() for gradient in gradients])))
    (loss, gradient), (rounded_loss, rounded_gradient) = steps
    assert rounded_loss != loss, "bfloat16 was used"
    assert rounded_loss == pytest.approx(loss, rel=0.02)
    assert float((rounded_gradient - gradient).norm()) < 0.05 * float(gradient.norm())


@pytest.mark.parametrize("fast", [False, True], ids=["float32", "bfloat16"])
def test_a_restorer_learns_to_remove_noise(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    pretend_fast_bfloat16(monkeypatch, fast)
    optimization = OneCycleAdam(learning_rate=3e-3)
    training = denoising_training(
        tiny_data, loss=LogSquaredError(), batch=8, optimization=optimization, steps=60
    )
    losses = [progress.loss for progress in training.run()]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.7  # half the squared error


def test_a_classifier_learns_a_tiny_set_by_heart(tiny_data: Dataset) -> None:
    net = SignNet(classes=4)
    initialize_xavier(net, generator=seeded(1))
    net.fit_mean(tiny_data.train.images)
    train = tiny_data.train
    objective = classifying_objective(net, train.images, train.labels, batch=8)
    advance(Training(net, objective, optimization=ADAM, steps=20, generator=seeded(2), clip_norm=5.0), 20)
    with torch.inference_mode():
        answers = net.eval()(to_float(train.images)).argmax(dim=1)
    assert torch.equal(answers, train.labels)


def test_fine_tuning_moves_the_classifier_and_not_the_restorer(tiny_data: Dataset) -> None:
    fused = FusedClassifier(RestorationNet(depth=3), SignNet(classes=4))
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    train = tiny_data.train
    objective = classifying_objective(
        fused, train.images, train.labels, batch=4, degradation=Degradation(versions=2)
    )
    optimization = MomentumSgd(learning_rate=0.01, l2=0.1)
    advance(Training(fused, objective, optimization=optimization, steps=2, generator=seeded(2)), 2)
    moved = {name for name, value in fused.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"classifier.{name}" for name, _ in SignNet(classes=4).named_parameters()}
    assert not fused.restorer.training
    assert fused.classifier.training
