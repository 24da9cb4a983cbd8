"""The losses and objectives against plain loops over images, channels, rows and columns."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steadylens.data.datasets import Dataset, ImageSet
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import DongNet, RestorationNet, initialize_xavier
from steadylens.noise.degradation import Degradation, gaussian_degradation
from steadylens.training import places
from steadylens.training.augmentation import Augmentation, Augmenting
from steadylens.training.objectives import (
    Fidelity,
    LogSquaredError,
    PairLoss,
    SquaredError,
    classifying_objective,
    pair_objective,
    restoring_objective,
)
from steadylens.training.places import Objective, block_generator, step_seed

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def drawn_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def plain_squared_errors(restored: Tensor, clean: Tensor) -> list[float]:
    count, channels, height, width = restored.shape
    return [
        sum(
            (clean[image, channel, row, column].item() - restored[image, channel, row, column].item()) ** 2
            for channel in range(channels)
            for row in range(height)
            for column in range(width)
        )
        for image in range(count)
    ]


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 100))
def test_the_squared_error_is_summed_over_pixels_and_channels_of_each_image(
    shape: tuple[int, ...], seed: int
) -> None:
    restored, clean = drawn_pair(shape, seed)
    assert SquaredError()(restored, clean).tolist() == pytest.approx(plain_squared_errors(restored, clean))


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 100), floor=st.sampled_from([1e-8, 1e-5, 0.1]))
def test_the_logarithm_is_of_the_mean_squared_error_and_the_floor(
    shape: tuple[int, ...], seed: int, floor: float
) -> None:
    restored, clean = drawn_pair(shape, seed)
    values = clean[0].numel()
    expected = [math.log(error / values + floor) for error in plain_squared_errors(restored, clean)]
    assert LogSquaredError(floor=floor)(restored, clean).tolist() == pytest.approx(
        expected, rel=1e-5, abs=1e-5
    )


def test_the_squared_error_of_a_larger_patch_is_larger_as_eq_3_has_it() -> None:
    small, large = (SquaredError()(torch.full((1, 3, s, s), 0.5), torch.zeros(1, 3, s, s)) for s in (18, 36))
    assert [small.item(), large.item()] == [3 * 18**2 / 4, 3 * 36**2 / 4]


def test_the_logarithm_does_not_depend_on_the_size_of_the_patch() -> None:
    for size in (1, 18, 36):
        shape = (1, 3, size, size)
        loss = LogSquaredError(floor=0.0)(torch.full(shape, 0.5), torch.zeros(shape))
        assert loss.item() == pytest.approx(math.log(0.25))


def test_the_gradient_of_the_squared_error_is_twice_the_difference() -> None:
    restored, clean = drawn_pair((2, 3, 4, 4))
    restored.requires_grad_()
    torch.autograd.backward(SquaredError()(restored, clean).sum())
    torch.testing.assert_close(restored.grad, 2 * (restored.detach() - clean))


def test_equal_images_lose_nothing_but_the_floor() -> None:
    clean, _ = drawn_pair((2, 3, 4, 4))
    assert SquaredError()(clean, clean).tolist() == [0, 0]
    assert LogSquaredError()(clean, clean).tolist() == pytest.approx([math.log(1e-5)] * 2)


def test_the_floor_is_50_decibels() -> None:
    clean, _ = drawn_pair((1, 3, 4, 4))
    loss = LogSquaredError()(clean, clean).item()
    assert -10 * loss / math.log(10) == pytest.approx(50)


def test_the_gradient_of_the_logarithm_is_finite_where_nothing_is_wrong() -> None:
    clean, _ = drawn_pair((1, 3, 4, 4))
    restored = clean.clone().requires_grad_()
    torch.autograd.backward(LogSquaredError()(restored, clean).sum())
    assert restored.grad is not None
    assert not restored.grad.any()


@pytest.mark.parametrize("error", [0.4, 0.04])
def test_a_decibel_counts_the_same_at_any_strength(error: float) -> None:
    clean, loss = torch.zeros(1, 3, 4, 4), LogSquaredError(floor=0.0)
    halved = loss(clean + error, clean) - loss(clean + error / 2, clean)
    assert halved.item() == pytest.approx(math.log(4), abs=1e-5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_block(seed: int) -> torch.Generator:
    """Returns the generator of the first, here the only, block of a step."""
    return block_generator(step_seed(seeded(seed)), 0)


class Recorder(nn.Module):
    """A restorer that changes nothing but the size, and remembers what it was given."""

    def __init__(self, margin: int = 0) -> None:
        super().__init__()
        self.valid_margin = margin
        self.seen: list[Tensor] = []

    def valid(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        margin = self.valid_margin
        end = images.shape[-1] - margin
        return images[..., margin:end, margin:end]


def total(objective: Objective, *, seed: int = 0) -> float:
    return sum(float(part.detach()) for part in objective(seeded(seed)))


@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize("net", [RestorationNet(depth=3), DongNet()], ids=["L3", "Dong"])
def test_restoring_is_equation_3(tiny_data: Dataset, net: RestorationNet | DongNet, versions: int) -> None:
    initialize_xavier(net, generator=seeded(5))
    images = tiny_data.train.images[:, :, :16, :16]
    degradation = Degradation(versions=versions)
    objective = restoring_objective(
        net, images, degradation=degradation, loss=SquaredError(), batch=2, patch=16
    )
    # The same draws, in the same order: which images, then their noise.
    generator = first_block(3)
    clean = to_float(images[torch.randint(len(images), (2,), generator=generator)])
    noisy = degradation(clean, generator=generator)
    size, margin = 16 - 2 * net.margin, net.margin
    energy = 0.0
    with torch.inference_mode():
        for i in range(2):
            for j in range(versions):
                restored = net.valid(noisy[i * versions + j][None])[0].tolist()
                wanted = clean[i].tolist()
                energy += sum(
                    (wanted[c][margin + y][margin + x] - restored[c][y][x]) ** 2
                    for c in range(3)
                    for y in range(size)
                    for x in range(size)
                )
    assert total(objective, seed=3) == pytest.approx(energy / (2 * versions), rel=1e-4)


def small_classifier(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(27, 4))


def small_pair(*, frozen: bool = False) -> FusedClassifier:
    """Returns the same pair every time, in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        front = nn.Conv2d(3, 3, 3, padding=1)
    return FusedClassifier(front, small_classifier(6), frozen=frozen).train()


LOSS = PairLoss(
    teachers=[small_classifier(7), small_classifier(8)],
    consistency=0.7,
    label_smoothing=0.1,
    fidelity=Fidelity(weight=0.3, loss=LogSquaredError()),
)


def parts_and_gradients(objective: Objective, module: nn.Module) -> tuple[int, float, list[Tensor]]:
    parts = list(objective(seeded(2)))
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    loss = torch.stack(parts).sum()
    return len(parts), float(loss.detach()), list(torch.autograd.grad(loss, trained))


@pytest.mark.parametrize("task", ["restoring", "classifying", "both"])
def test_the_loss_in_parts_is_the_loss_of_the_whole_batch(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    degradation = Degradation(versions=2)
    if task == "restoring":
        net: nn.Module = (restorer := RestorationNet(depth=3))
        objective = restoring_objective(
            restorer,
            tiny_data.train.images,
            degradation=degradation,
            loss=LogSquaredError(),
            batch=5,
            patch=12,
        )
    elif task == "both":
        net = (pair := small_pair())
        train = tiny_data.train
        objective = pair_objective(
            pair, train.images, train.labels, batch=5, degradation=degradation, loss=LOSS
        )
    else:
        net = SignNet(classes=4).eval()
        train = tiny_data.train
        objective = classifying_objective(net, train.images, train.labels, batch=5, degradation=degradation)
    results = []
    for size in (1000, 3):
        monkeypatch.setattr(places, "cache_batch", lambda device, size=size: size)
        results.append(parts_and_gradients(objective, net))
    (one, whole, whole_gradients), (four, summed, summed_gradients) = results
    assert (one, four) == (1, 4)  # ten images as 3 + 3 + 2 + 2
    assert summed == pytest.approx(whole, rel=1e-5)
    for expected, found in zip(whole_gradients, summed_gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("margin", [0, 2])
def test_every_noisy_version_is_compared_with_its_own_clean_centre(tiny_data: Dataset, margin: int) -> None:
    degradation = Degradation(versions=3, clean_share=1.0, quantize=False)
    objective = restoring_objective(
        Recorder(margin),
        tiny_data.train.images,
        degradation=degradation,
        loss=SquaredError(),
        batch=7,
        patch=9,
    )
    assert total(objective) == 0


def test_patches_are_windows_from_everywhere_in_the_images() -> None:
    rows, columns = torch.arange(6)[:, None] * 10, torch.arange(7)[None, :]
    images = torch.stack([rows + columns, rows + columns + 100, (rows + columns) * 2]).to(torch.uint8)[None]
    recorder = Recorder()
    degradation = Degradation(clean_share=1.0)
    objective = restoring_objective(
        recorder, images, degradation=degradation, loss=SquaredError(), batch=400, patch=4
    )
    assert total(objective) == 0
    patches = (torch.cat(recorder.seen) * 255).round().to(torch.uint8)
    corners = set()
    for patch in patches:
        top, left = divmod(int(patch[0, 0, 0]), 10)
        corners.add((top, left))
        assert torch.equal(patch, images[0, :, top : top + 4, left : left + 4])
    assert corners == {(top, left) for top in range(3) for left in range(4)}


def test_noise_is_fresh_in_every_step(tiny_data: Dataset) -> None:
    recorder = Recorder()
    image = tiny_data.train.images[:1]
    objective = restoring_objective(
        recorder, image, degradation=gaussian_degradation(20), loss=SquaredError(), batch=2, patch=48
    )
    generator = seeded(0)
    for _ in range(2):
        list(objective(generator))
    first, second = recorder.seen
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("patch", [4, 12, 49])
def test_a_patch_that_does_not_fit_net_or_images_is_refused(tiny_data: Dataset, patch: int) -> None:
    with pytest.raises(SettingError, match=rf"patch is {patch} .* margin \(12\) .* size \(48\)"):
        restoring_objective(
            RestorationNet(depth=11),
            tiny_data.train.images,
            degradation=Degradation(),
            loss=SquaredError(),
            batch=1,
            patch=patch,
        )


@pytest.mark.parametrize("patch", [13, 48])
def test_the_smallest_and_the_largest_patch_train(tiny_data: Dataset, patch: int) -> None:
    objective = restoring_objective(
        RestorationNet(depth=11),
        tiny_data.train.images,
        degradation=Degradation(),
        loss=SquaredError(),
        batch=1,
        patch=patch,
    )
    assert total(objective) > 0


def test_classifying_is_the_mean_cross_entropy(tiny_data: Dataset) -> None:
    net = SignNet(classes=4).eval()
    train = tiny_data.train
    objective = classifying_objective(net, train.images, train.labels, batch=12)
    chosen = torch.randint(len(train), (12,), generator=first_block(4))
    with torch.inference_mode():
        probabilities = net(to_float(train.images[chosen])).double().softmax(dim=1)
    expected = -sum(
        float(row[label].log()) for row, label in zip(probabilities, train.labels[chosen], strict=True)
    )
    assert total(objective, seed=4) == pytest.approx(expected / 12, rel=1e-5)


@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_a_smoothed_label_spreads_a_share_over_all_classes(
    tiny_data: Dataset, smoothing: float, versions: int
) -> None:
    net, train, degradation = small_classifier(1), tiny_data.train, Degradation(versions=versions)
    objective = classifying_objective(
        net, train.images, train.labels, batch=6, degradation=degradation, label_smoothing=smoothing
    )
    generator, expected = first_block(4), 0.0
    chosen = torch.randint(len(train), (6,), generator=generator)
    noisy = degradation(to_float(train.images[chosen]), generator=generator)
    with torch.inference_mode():
        for number, row in enumerate(net(noisy).double().softmax(dim=1).tolist()):
            label = int(train.labels[chosen[number // versions]])
            for place, probability in enumerate(row):
                target = smoothing / 4 + (1 - smoothing) * (place == label)
                expected -= target * math.log(probability) / len(noisy)
    assert total(objective, seed=4) == pytest.approx(expected, rel=1e-5)


def plain_pair_loss(
    pair: FusedClassifier, data: ImageSet, loss: PairLoss, degradation: Degradation, augmentation: Augmenting
) -> Tensor:
    """The loss of a pair on six images, image by image; the same draws, in the same order."""
    generator, losses = first_block(2), []
    chosen = torch.randint(len(data), (6,), generator=generator)
    clean = augmentation(to_float(data.images[chosen]), generator=generator)
    noisy = degradation(clean, generator=generator)
    for i in range(6):
        teacher = loss.teachers[i % len(loss.teachers)]  # they take turns
        wanted = teacher(clean[i][None])[0].softmax(dim=0).tolist()
        for version in noisy[i * degradation.versions : (i + 1) * degradation.versions]:
            restored = pair.restorer(version[None])
            found = pair.classifier(restored)[0].softmax(dim=0)
            label = int(data.labels[chosen[i]])
            entropy = -(1 - loss.label_smoothing) * found[label].log()
            entropy = entropy - sum(loss.label_smoothing / 4 * found[k].log() for k in range(4))
            divergence = sum(wanted[k] * (math.log(wanted[k]) - found[k].log()) for k in range(4))
            value = entropy + loss.consistency * divergence
            if loss.fidelity is not None:
                error = ((restored - clean[i]) ** 2).mean()
                value = value + loss.fidelity.weight * (error + 1e-5).log()
            losses.append(value)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize(
    "loss",
    [LOSS, replace(LOSS, fidelity=None), PairLoss(teachers=[small_classifier(7)], consistency=0)],
    ids=["all", "frozen restorer", "cross-entropy alone"],
)
def test_the_loss_of_a_pair_is_the_sum_of_its_parts_over_all_noisy_images(
    tiny_data: Dataset, loss: PairLoss, versions: int
) -> None:
    pair, train, degradation = small_pair(), tiny_data.train, Degradation(versions=versions)
    objective = pair_objective(
        pair,
        train.images,
        train.labels,
        batch=6,
        degradation=degradation,
        augmentation=Augmentation(),
        loss=loss,
    )
    expected = plain_pair_loss(pair, train, loss, degradation, Augmentation())
    _, found, gradients = parts_and_gradients(objective, pair)
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(expected, list(pair.parameters())), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("fidelity", [LOSS.fidelity, None])
def test_the_restorer_of_a_pair_gets_a_gradient_only_if_it_is_not_frozen(
    tiny_data: Dataset, frozen: bool, fidelity: Fidelity | None
) -> None:
    pair, train, teacher = small_pair(frozen=frozen), tiny_data.train, small_classifier(7)
    objective = pair_objective(
        pair,
        train.images,
        train.labels,
        batch=4,
        degradation=Degradation(),
        loss=PairLoss(teachers=[teacher], fidelity=fidelity),
    )
    for part in objective(seeded()):
        torch.autograd.backward(part)
    reached = {name for name, weight in pair.named_parameters() if weight.grad is not None}
    behind = {"classifier.2.weight", "classifier.2.bias"}
    assert reached == (behind if frozen else behind | {"restorer.weight", "restorer.bias"})
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_pair_that_answers_as_its_teacher_has_nothing_to_learn_from_it(tiny_data: Dataset) -> None:
    train, classifier = tiny_data.train, small_classifier(1)
    losses = [
        total(
            pair_objective(
                FusedClassifier(nn.Identity(), classifier),
                train.images,
                train.labels,
                batch=4,
                degradation=Degradation(clean_share=1.0),
                loss=PairLoss(teachers=[classifier], consistency=consistency),
            )
        )
        for consistency in (0.0, 100.0)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


class Colour(nn.Module):
    """Knows the classes of the tiny data by their colours, and is sure of them."""

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = images.mean(dim=(2, 3)).unbind(dim=1)
        return 1000 * torch.stack([red - green, green - red, blue, red + green - 0.65], dim=1)


@pytest.mark.parametrize("paired", [False, True], ids=["classifier", "pair"])
def test_labels_go_with_their_noisy_versions(tiny_data: Dataset, paired: bool) -> None:
    train, degradation = tiny_data.train, Degradation(versions=3, clean_share=1.0)
    if paired:
        objective = pair_objective(
            FusedClassifier(nn.Identity(), Colour()),
            train.images,
            train.labels,
            batch=16,
            degradation=degradation,
            loss=PairLoss(teachers=[Colour()]),
        )
    else:
        objective = classifying_objective(
            Colour(), train.images, train.labels, batch=16, degradation=degradation
        )
    assert total(objective) < 0.01
