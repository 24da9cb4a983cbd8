"""A trained net has the moving average of its weights and statistics, as a plain loop computes it."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import load_state, save_state
from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import SignNet
from steadylens.noise.degradation import gaussian_degradation
from steadylens.training.loop import Training
from steadylens.training.objectives import classifying_objective
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam, Optimization

STEPS = 6
AVERAGING = 0.3
"""Above the limit of the first two steps, 2/11 and 3/12, and below that of the others."""

ADAM = OneCycleAdam(learning_rate=0.1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_net() -> nn.Sequential:
    """Returns the same net every time, with statistics, dropout and a frozen layer."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.ReLU(), nn.Linear(5, 1))
    net[0].get_parameter("bias").requires_grad_(False)
    return net.double()


def training_of(
    *,
    averaging: float | None = AVERAGING,
    optimization: Optimization = ADAM,
    steps: int = STEPS,
    start_share: float = 0.0,
) -> Training:
    net = small_net()

    def draw(generator: torch.Generator) -> Iterator[Tensor]:
        inputs = torch.rand(7, 4, generator=generator, dtype=torch.float64)
        yield (net(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

    return Training(
        net,
        draw,
        optimization=optimization,
        steps=steps,
        generator=seeded(2),
        averaging=averaging,
        start_share=start_share,
    )


def state(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.module.state_dict().items()}


def advance(training: Training, steps: int = STEPS) -> None:
    for _ in islice(training.run(), steps):
        pass


@pytest.fixture(scope="module")
def raw() -> list[dict[str, Tensor]]:
    """Returns the net before the first step and after each, of a training that does not average."""
    training = training_of(averaging=None)
    return [state(training), *(state(training) for _ in training.run())]


def test_averaging_equals_a_plain_loop_with_a_short_memory_at_first(raw: list[dict[str, Tensor]]) -> None:
    training = training_of()
    advance(training)
    for name, value in training.module.state_dict().items():
        average = raw[0][name].double()
        for step in range(1, STEPS + 1):
            decay = min(AVERAGING, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * raw[step][name]
        expected = average if value.is_floating_point() else raw[-1][name]
        torch.testing.assert_close(value, expected, check_dtype=False, rtol=1e-12, atol=1e-12)


def test_statistics_are_averaged_and_what_is_counted_or_frozen_is_not(raw: list[dict[str, Tensor]]) -> None:
    training = training_of()
    averaged = set(training.averages)
    advance(training)
    assert averaged == {
        "0.weight", "1.weight", "1.bias", "4.weight", "4.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip
    last = training.module.state_dict()
    assert {name for name, value in last.items() if not torch.equal(value, raw[-1][name])} == averaged
    assert int(last["1.num_batches_tracked"]) == STEPS
    assert torch.equal(last["0.bias"], raw[0]["0.bias"])


def test_the_net_learns_with_its_raw_weights_and_ends_with_the_averaged(raw: list[dict[str, Tensor]]) -> None:
    training = training_of()
    for progress in training.run():
        same = all(torch.equal(value, raw[progress.step][name]) for name, value in state(training).items())
        assert same == (progress.step < STEPS)
    plain = training_of(averaging=None)
    advance(plain)
    assert training.curve == plain.curve


def test_averaging_over_one_step_is_mostly_that_step() -> None:
    plain, averaging = (training_of(averaging=wish, steps=1) for wish in (None, 0.999))
    before = state(plain)
    for training in (plain, averaging):
        advance(training, 1)
    expected = {
        name: torch.lerp(before[name], value, 9 / 11) if value.is_floating_point() else value
        for name, value in state(plain).items()
    }
    torch.testing.assert_close(state(averaging), expected)


@pytest.mark.parametrize(
    "optimization",
    [ADAM, MomentumSgd(learning_rate=0.1)],
    ids=["one-cycle Adam", "momentum SGD"],
)
@pytest.mark.parametrize("cut", [1, 4, STEPS])
def test_a_training_that_was_cut_off_ends_with_the_same_averages(
    tmp_path: Path, optimization: Optimization, cut: int
) -> None:
    whole, first, second = (training_of(optimization=optimization) for _ in range(3))
    advance(whole)
    advance(first, cut)
    save_state(tmp_path / "a.training", *first.state())
    second.resume(*load_state(tmp_path / "a.training"))
    advance(second)
    tensors, others = (training.state()[0] for training in (whole, second))
    assert tensors.keys() == others.keys()
    assert [name for name, value in tensors.items() if not torch.equal(value, others[name])] == []


def test_averages_are_written_into_the_parameters_and_not_put_in_their_place() -> None:
    training = training_of()
    before = [id(parameter) for parameter in training.module.parameters()]
    places = [value.data_ptr() for value in training.module.state_dict().values()]
    advance(training)
    assert [id(parameter) for parameter in training.module.parameters()] == before
    assert [value.data_ptr() for value in training.module.state_dict().values()] == places
    assert [parameter.requires_grad for parameter in training.module.parameters()].count(False) == 1


def test_a_state_without_averages_is_refused() -> None:
    plain = training_of(averaging=None)
    advance(plain, 2)
    with pytest.raises(CheckpointError, match=r"of another net: '0.weight'; remove it to start again"):
        training_of().resume(*plain.state())


@pytest.mark.parametrize("averaging", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_average_that_is_none_is_refused(averaging: float) -> None:
    with pytest.raises(SettingError, match=rf"averaging is {averaging}, it must lie in \(0, 1\), or be None"):
        training_of(averaging=averaging)


@pytest.mark.parametrize("averaging", [None, AVERAGING])
def test_the_share_of_the_start_lies_on_the_line_from_start_to_end(averaging: float | None) -> None:
    trained = training_of(averaging=averaging)
    start = state(trained)
    advance(trained)
    moved = training_of(averaging=averaging, start_share=0.6)
    advance(moved)
    expected = {
        name: 0.6 * start[name] + 0.4 * value if value.is_floating_point() else value
        for name, value in state(trained).items()
    }
    torch.testing.assert_close(state(moved), expected)


def test_a_training_that_was_interrupted_goes_back_the_same_way() -> None:
    whole = training_of(start_share=0.3)
    advance(whole)
    begun = training_of(start_share=0.3)
    advance(begun, 2)
    resumed = training_of(start_share=0.3)
    resumed.resume(*begun.state())
    advance(resumed)
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, float("nan")])
def test_a_share_of_the_start_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match=rf"start_share is {share}, it must lie in \[0, 1\)"):
        training_of(start_share=share)


def test_noise_of_any_strength_may_be_learned_but_not_measured_unawares() -> None:
    net = SignNet(classes=3)
    images = torch.randint(0, 256, (8, 3, 48, 48), generator=seeded(3), dtype=torch.uint8)
    strong = replace(gaussian_degradation(200), clip=False, quantize=False)
    objective = classifying_objective(net, images, torch.arange(8) % 3, batch=4, degradation=strong)
    training = Training(net, objective, optimization=ADAM, steps=1, generator=seeded(4))
    advance(training, 1)
    assert training.step == 1
    with pytest.raises(ImageError, match="must lie in"):
        net(strong(to_float(images), generator=seeded(5)))
