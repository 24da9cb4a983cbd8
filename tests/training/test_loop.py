"""A training step by step: what it tells, what it refuses, and that it can be interrupted anywhere."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steadylens import devices
from steadylens.checkpoints.checkpoint import load_state, save_state
from steadylens.data.datasets import Dataset
from steadylens.errors import CheckpointError, DivergenceError, SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.training.loop import CURVE_POINTS, Training
from steadylens.training.objectives import (
    LogSquaredError,
    RestorationLoss,
    SquaredError,
    classifying_objective,
    restoring_objective,
)
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam, OneCycleMuon, Optimization
from tests.tiny_runs import sign_training

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


@pytest.mark.parametrize(
    "optimization",
    [SGD, ADAM, OneCycleMuon(learning_rate=1e-3)],
    ids=["momentum SGD", "one-cycle Adam", "one-cycle Muon"],
)
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
