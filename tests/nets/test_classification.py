"""The fused net: what is frozen, what is trained, and that it is nothing but a composition.

The sign net against the published counts, a plain forward pass and NumPy. Any module becomes a classifier of
plain images.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.checkpoints.checkpoint import save_model
from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.nets.classification import (
    ChannelNormalization,
    FusedClassifier,
    PreparedClassifier,
    SignNet,
    as_pair,
)
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet
from tests.nets.small_body import MEAN, STD, body
from tests.paper import CLASSIFIER_PARAMETERS, FUSED_PARAMETERS


def drawn_images(count: int) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def small_fused() -> FusedClassifier:
    return FusedClassifier(RestorationNet(3), SignNet(classes=5))


def test_the_fused_net_has_the_parameters_of_the_paper() -> None:
    assert parameters(FusedClassifier(RestorationNet(), SignNet())) == FUSED_PARAMETERS == 1_520_860


@pytest.mark.parametrize(
    "restorer", [RestorationNet(3), GaussianSmoothing(), nn.Identity()], ids=["net", "smoothing", "identity"]
)
def test_the_fused_net_equals_the_classifier_of_what_the_restorer_returns(restorer: nn.Module) -> None:
    classifier, images = SignNet(classes=5).eval(), drawn_images(2)
    with torch.no_grad():
        assert torch.equal(FusedClassifier(restorer, classifier).eval()(images), classifier(restorer(images)))


class Learning(nn.Module):
    """A restorer with weights and with running statistics, in its own order of modes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.layers[0].get_parameter("bias").requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + 0.1 * self.layers(images)
        return result


def descend(fused: FusedClassifier) -> Tensor:
    """Runs a backward pass through a pair; returns the images, which bear their gradient."""
    images = drawn_images(4).requires_grad_()
    torch.autograd.backward(F.cross_entropy(fused(images), torch.tensor([0, 1, 2, 3])))
    return images


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Returns the names of the weights and buffers that are no longer what they were."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


STATISTICS = {"layers.1.running_mean", "layers.1.running_var", "layers.1.num_batches_tracked"}


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_pair_changes_nothing_in_the_nets_that_it_is_given(given: bool) -> None:
    restorer, classifier = Learning().train(given), SignNet(classes=5).train(not given)
    wishes = [tensor.requires_grad for net in (restorer, classifier) for tensor in net.parameters()]
    modes = [part.training for net in (restorer, classifier) for part in net.modules()]
    FusedClassifier(restorer, classifier)
    assert wishes == [tensor.requires_grad for net in (restorer, classifier) for tensor in net.parameters()]
    assert modes == [part.training for net in (restorer, classifier) for part in net.modules()]
    assert wishes.count(False) == 1


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_backward_pass_leaves_a_frozen_restorer_as_it_is(given: bool) -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5)).train()
    restorer.train(given)  # as somebody may have done who holds it elsewhere too
    wishes = [tensor.requires_grad for tensor in restorer.parameters()]
    before, modes = values(restorer), [part.training for part in restorer.modules()]
    images = descend(fused)
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert modes == [part.training for part in restorer.modules()]
    assert wishes == [tensor.requires_grad for tensor in restorer.parameters()]
    assert all(tensor.grad is not None for tensor in fused.classifier.parameters())
    assert images.grad is not None
    assert images.grad.any()


@pytest.mark.parametrize("given", [True, False], ids=["in train mode", "in eval mode"])
def test_a_compiled_pair_leaves_a_frozen_restorer_as_it_is(given: bool) -> None:
    restorer = Learning().train(given)
    fused = FusedClassifier(restorer, SignNet(classes=5))
    before = values(restorer)
    logits = torch.compile(fused, backend="eager")(drawn_images(4))
    torch.autograd.backward(F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])))
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert all(tensor.grad is not None for tensor in fused.classifier.parameters())


def test_a_frozen_restorer_may_be_a_module_whose_weights_cannot_be_exchanged() -> None:
    restorer, classifier = Learning().eval(), SignNet(classes=5).eval()
    images = drawn_images(2)
    pair = FusedClassifier(nn.DataParallel(restorer), classifier).eval()
    torch.testing.assert_close(pair(images), classifier(restorer(images)))


def test_the_images_get_the_same_gradient_from_a_frozen_restorer_as_from_one_without_weights_to_learn() -> (
    None
):
    restorer, classifier = Learning().eval(), SignNet(classes=5).eval()
    frozen = descend(FusedClassifier(restorer, classifier).eval()).grad
    plain = descend(FusedClassifier(restorer.requires_grad_(False), classifier, frozen=False).eval()).grad
    torch.testing.assert_close(frozen, plain)


def test_a_restorer_that_is_not_frozen_learns_and_so_do_its_running_statistics() -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5), frozen=False).train()
    assert all(part.training for part in fused.modules())
    before = values(restorer)
    descend(fused)
    silent = {name for name, tensor in restorer.named_parameters() if tensor.grad is None}
    assert silent == {"layers.0.bias"}, "what was told not to learn does not"
    assert moved(before, restorer) == STATISTICS
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1)
    optimizer.step()
    assert moved(before, restorer) == STATISTICS | {"layers.0.weight", "layers.1.weight", "layers.1.bias"}


def test_a_restorer_can_be_let_go_and_be_frozen_again() -> None:
    restorer = Learning()
    fused = FusedClassifier(restorer, SignNet(classes=5)).train()
    fused.frozen = False
    fused.train()
    before = values(restorer)
    descend(fused)
    assert restorer.get_parameter("layers.0.weight").grad is not None
    assert moved(before, restorer) == STATISTICS
    fused.frozen = True
    fused.train()
    fused.zero_grad(set_to_none=True)
    before = values(restorer)
    descend(fused)
    assert all(tensor.grad is None for tensor in restorer.parameters())
    assert moved(before, restorer) == set()
    assert not any(part.training for part in restorer.modules())


def test_gradients_reach_every_layer_of_the_classifier_and_none_of_the_restorer() -> None:
    fused = small_fused().train()
    descend(fused)
    assert all(tensor.grad is None for tensor in fused.restorer.parameters())
    silent = [
        name
        for name, tensor in fused.classifier.named_parameters()
        if tensor.grad is None or not tensor.grad.any()
    ]
    assert silent == []


def test_gradients_pass_through_the_restorer_to_the_images() -> None:
    images = drawn_images(1).requires_grad_()
    small_fused().eval()(images).sum().backward()
    assert images.grad is not None
    assert images.grad.any()


def test_training_changes_the_classifier_alone() -> None:
    fused = small_fused().train()
    restorer_before = [tensor.clone() for tensor in fused.restorer.parameters()]
    classifier_before = [tensor.clone() for tensor in fused.classifier.parameters()]
    optimizer = torch.optim.SGD(fused.parameters(), lr=0.1, weight_decay=0.1)
    torch.autograd.backward(F.cross_entropy(fused(drawn_images(4)), torch.tensor([0, 1, 2, 3])))
    optimizer.step()
    assert all(map(torch.equal, restorer_before, fused.restorer.parameters()))
    assert not any(map(torch.equal, classifier_before, fused.classifier.parameters()))


def test_the_restorer_stays_in_eval_mode_when_the_whole_is_put_in_train_mode() -> None:
    # Batch normalisation is the layer that would change by itself in train mode.
    fused = FusedClassifier(nn.Sequential(nn.BatchNorm2d(3)).train(), SignNet(classes=5).eval())
    assert fused.train() is fused
    assert fused.training
    assert all(part.training for part in fused.classifier.modules())
    assert not any(part.training for part in fused.restorer.modules())
    before = {name: tensor.clone() for name, tensor in fused.restorer.state_dict().items()}
    fused(drawn_images(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in fused.restorer.state_dict().items())


def test_eval_mode_reaches_both_parts() -> None:
    fused = small_fused().train()
    fused.eval()
    assert not any(part.training for part in fused.modules())


NET = SignNet().eval()


def random_signs(count: int, *, size: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def stored_images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 48, 48), generator=generator, dtype=torch.uint8)


def test_the_sign_net_has_the_parameters_of_the_paper() -> None:
    assert parameters(NET) == CLASSIFIER_PARAMETERS == 1_123_449


def test_the_feature_maps_have_the_published_sizes() -> None:
    sizes: list[tuple[int, int]] = []
    layers = [layer for layer in NET.features if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, maps: sizes.append(tuple(maps.shape[1:3])))
        for layer in layers
    ]
    with torch.no_grad():
        NET(random_signs(1))
    for hook in hooks:
        hook.remove()
    assert sizes == [(100, 21), (150, 18), (150, 9), (250, 6), (250, 3)]


def plain_sign_net(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The published net in evaluation, from the numbers of its layers alone."""
    layers = [
        (weights[name], weights[name.replace("weight", "bias")]) for name in weights if "weight" in name
    ]
    first, *blocks, hidden, last = layers
    maps = F.conv2d((images * 255 - weights["mean"] * 255) / 256, *first, groups=3)
    for block, groups in zip(blocks, (1, 2, 2), strict=True):
        maps = F.leaky_relu(F.conv2d(maps, *block, groups=groups), 0.01)
        maps = F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
    return F.linear(F.leaky_relu(F.linear(maps.flatten(1), *hidden), 0.01), *last)


def test_the_logits_equal_a_plain_pass_through_the_published_layers() -> None:
    net = SignNet().eval()
    net.fit_mean(stored_images(3))
    with torch.no_grad():
        expected = plain_sign_net(net.state_dict(), random_signs(2))
        torch.testing.assert_close(net(random_signs(2)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 43])
def test_there_is_a_logit_for_each_class(classes: int) -> None:
    net = SignNet(classes).eval()
    assert parameters(net) == CLASSIFIER_PARAMETERS + (classes - 43) * 301
    with torch.no_grad():
        assert net(random_signs(2)).shape == (2, classes)


def test_dropout_acts_in_training_alone() -> None:
    net, images = SignNet(), random_signs(1)
    with torch.no_grad():
        assert not torch.equal(net.train()(images), net(images))
        assert torch.equal(net.eval()(images), net(images))


def test_the_fitted_mean_is_numpys_exactly() -> None:
    net, images = SignNet(), stored_images(301)
    net.fit_mean(images)
    expected = (images.numpy().mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    np.testing.assert_array_equal(net.mean.numpy(), expected)


def test_the_mean_of_one_image_is_that_image() -> None:
    net, images = SignNet(), stored_images(1)
    net.fit_mean(images)
    torch.testing.assert_close(net.mean, images[0] / 255)


def test_the_mean_is_mid_grey_until_it_is_fitted() -> None:
    assert SignNet().mean.eq(0.5).all()


def test_the_mean_is_stored_with_the_weights_and_is_not_trained() -> None:
    net = SignNet()
    net.fit_mean(stored_images(2))
    other = SignNet()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.mean, net.mean)
    assert "mean" not in dict(net.named_parameters())


def test_its_layers_get_the_gradients_of_the_published_net() -> None:
    # In double precision: of two nearly equal numbers, rounding decides which one gets a maximum's gradient.
    net, images = SignNet().double().eval(), random_signs(2).double()
    torch.autograd.backward(net(images).square().sum())
    leaves = {name: value.detach().clone().requires_grad_() for name, value in net.state_dict().items()}
    torch.autograd.backward(plain_sign_net(leaves, images).square().sum())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-9, atol=1e-12)


def test_a_standardizing_net_gives_each_image_mean_0_and_deviation_1() -> None:
    net, images = SignNet(standardize=True).eval(), random_signs(2)
    each = images.numpy().reshape(2, -1)
    standard = (each - each.mean(1, keepdims=True)) / np.sqrt(each.var(1, keepdims=True) + 1e-4)
    weights = net.state_dict() | {"mean": torch.zeros(3, 48, 48)}
    with torch.no_grad():
        expected = plain_sign_net(weights, torch.from_numpy(standard).view_as(images) * 256 / 255)
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


def test_light_and_contrast_mean_little_to_a_standardizing_net() -> None:
    plain, standardizing = SignNet().eval(), SignNet(standardize=True).eval()
    standardizing.load_state_dict(plain.state_dict())
    bright = random_signs(2)
    dark = bright / 4 + 0.1
    with torch.no_grad():
        moved = [
            float((net(dark) - net(bright)).norm() / net(bright).norm()) for net in (plain, standardizing)
        ]
    assert moved[1] < moved[0] / 10


def test_an_image_of_one_colour_has_finite_answers() -> None:
    assert SignNet(standardize=True)(torch.full((1, 3, 48, 48), 0.3)).isfinite().all()


def test_channel_normalization_subtracts_and_divides_channel_by_channel() -> None:
    mean, deviation = [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]
    images = random_signs(2, size=5)
    normalized = ChannelNormalization(mean, deviation)(images)
    for channel in range(3):
        torch.testing.assert_close(
            normalized[:, channel], (images[:, channel] - mean[channel]) / deviation[channel]
        )


@pytest.mark.parametrize("size", [47, 49, 32])
def test_an_image_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ImageError, match=rf"{size}x{size} pixels, the sign net reads 48x48; resize"):
        NET(random_signs(1, size=size))


def test_stored_images_are_refused_by_the_net() -> None:
    with pytest.raises(ImageError, match=r"torch\.uint8.*to_float"):
        NET(stored_images(1))


def test_grey_images_are_refused() -> None:
    with pytest.raises(ImageError, match="1 channels where 3 are needed"):
        NET(torch.zeros(1, 1, 48, 48))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 48, 48), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)],
    ids=["float", "32x32"],
)
def test_a_mean_is_taken_of_stored_images_of_the_nets_size_alone(images: Tensor) -> None:
    net = SignNet()
    with pytest.raises(
        ImageError, match=rf"{images.dtype} \(2, 3, {images.shape[2]}.*load the data at size 48"
    ):
        net.fit_mean(images)
    assert net.mean.eq(0.5).all()


@pytest.mark.parametrize("classes", [1, 0, -1])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(SettingError, match=f"classes is {classes}, a classifier needs at least 2"):
        SignNet(classes)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5], [0.5, 0.5]),
        ([0.5, 0.5], [0.5, 0.0]),
        ([0.5], [-1.0]),
        ([math.nan], [1.0]),
        ([math.inf], [1.0]),
        ([0.5], [math.inf]),
    ],
)
def test_channel_normalization_refuses_what_it_cannot_divide_by(
    mean: Sequence[float], std: Sequence[float]
) -> None:
    with pytest.raises(SettingError, match="must be equally long and finite, and std positive"):
        ChannelNormalization(mean, std)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([127.5] * 3, [127.5] * 3),
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
        ([0.0] * 3, [255.0] * 3),
        ([-1.0] * 3, [1.0] * 3),
    ],
)
def test_a_mean_and_a_std_in_grey_levels_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(
        SettingError, match=r"not those of images in \[0, 1\].*divide those of grey levels by"
    ):
        ChannelNormalization(mean, std)
    with pytest.raises(SettingError, match="divide those of grey levels by 255"):
        Preprocessing(size=8, mean=tuple(mean), std=tuple(std))


def test_the_normalisation_comes_first() -> None:
    net = body()
    classifier = PreparedClassifier(net, Preprocessing(size=8, mean=MEAN, std=STD))
    images = torch.rand(3, 3, 8, 8)
    by_hand = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    torch.testing.assert_close(classifier(images), net(by_hand))


def test_restoration_sees_plain_images_at_the_size_of_the_classifier() -> None:
    seen: list[Tensor] = []
    restorer = nn.Identity()
    restorer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    fused = FusedClassifier(
        restorer, PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))
    ).eval()
    images = torch.rand(3, 3, 8, 8)
    fused(images)
    assert torch.equal(seen[0], images)


def test_logits_within_an_output_are_taken() -> None:
    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> object:
            return type("Output", (), {"logits": images.mean(dim=(2, 3))})()

    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(PreparedClassifier(Wrapped(), Preprocessing(size=8))(images), images.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    "make", [nn.Identity, lambda: nn.Flatten(0), lambda: nn.MaxPool2d(8, return_indices=True)]
)
def test_what_is_no_logits_is_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(SettingError, match=r"returns (Tensor|tuple).*, not logits \(N, classes\); wrap it"):
        PreparedClassifier(make(), Preprocessing(size=8))(torch.rand(2, 3, 8, 8))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match="images are 9x8 pixels, this classifier reads 8x8; load or resize"):
        PreparedClassifier(body(), Preprocessing(size=8))(torch.rand(2, 3, 9, 8))


class OneLogit(nn.Module):
    """Answers yes or no with one number."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]


class TwoLogits(OneLogit):
    """The same answer as logits of two classes."""

    def forward(self, images: Tensor) -> Tensor:
        logit = super().forward(images)
        return torch.cat([0 * logit, logit], dim=1)


def test_a_classifier_of_one_logit_is_refused_and_told_how_to_give_two() -> None:
    images = torch.rand(2, 3, 8, 8)
    message = r"returns 1 logits.*at least two classes.*torch\.cat\(\[0 \* z, z\], dim=1\)"
    with pytest.raises(SettingError, match=message):
        PreparedClassifier(OneLogit(), Preprocessing(size=8))(images)
    with pytest.raises(SettingError, match=message):
        FusedClassifier(nn.Identity(), OneLogit())(images)
    two = FusedClassifier(nn.Identity(), TwoLogits())(images)
    torch.testing.assert_close(two.softmax(dim=1)[:, 1:], OneLogit()(images).sigmoid())


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [(0, MEAN, STD), (8, (0.5, 0.5), (0.5, 0.5)), (8, MEAN, (1.0, 1.0)), (8, MEAN, (1.0, 0.0, 1.0))],
)
def test_settings_that_are_none_are_refused(
    size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(SettingError, match=r"std|size is 0, it must be a number of pixels"):
        PreparedClassifier(body(), Preprocessing(size=size, mean=mean, std=std))


@pytest.mark.parametrize("size", [(8, 16), "8", 8.0, None])
def test_a_size_that_is_no_number_of_pixels_is_refused(size: Any) -> None:
    with pytest.raises(SettingError, match=r"size is .*height and width of a square; for a class"):
        Preprocessing(size=size)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), ("abc", "abc"), (None, (0.5,) * 3)])
def test_a_mean_that_is_no_sequence_of_numbers_is_refused(mean: Any, std: Any) -> None:
    with pytest.raises(SettingError, match=r"mean is .*; give a number for each channel, for example \(0\.5"):
        Preprocessing(size=8, mean=mean, std=std)


def test_a_classifier_of_grey_images_reads_colours_as_pillow_makes_them_grey() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    classifier = PreparedClassifier(net, Preprocessing(size=8, mean=(0.5,), std=(0.25,)))
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    grey = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L"))) / 255
    colours = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    expected = net((grey[None, None] - 0.5) / 0.25)
    torch.testing.assert_close(classifier(grey[None, None]), expected)
    torch.testing.assert_close(classifier(colours), expected, atol=0.05, rtol=0)  # Pillow rounds to levels
    assert FusedClassifier(RestorationNet(3), classifier)(colours).shape == (1, 4)
    with pytest.raises(ImageError, match="2 channels where 1 are needed"):
        classifier(colours[:, :2])


def test_a_sequence_of_a_restorer_and_a_classifier_is_a_pair() -> None:
    restorer, classifier = GaussianSmoothing(), SignNet(4).eval()
    pair = as_pair(nn.Sequential(restorer, classifier))
    assert (pair.restorer, pair.classifier) == (restorer, classifier)
    assert as_pair(pair) is pair
    rows = (
        nn.Sequential(*row) for row in ([restorer], [classifier, restorer], [restorer, restorer, classifier])
    )
    for net in (classifier, *rows):
        with pytest.raises(SettingError, match=r"is no pair.*give FusedClassifier\(restorer, classifier\)"):
            as_pair(net)


def test_a_fit_that_does_not_reach_the_size_is_refused() -> None:
    with pytest.raises(SettingError, match="of which no 8 can be cut out"):
        PreparedClassifier(body(), Preprocessing(size=8, fit=Fit(side=7)))


def test_a_fit_is_shown_and_described_unless_it_is_the_plain_one() -> None:
    plain, cropped = (
        PreparedClassifier(body(), Preprocessing(size=8, fit=fit), architecture={"kind": "mine"})
        for fit in (Fit(), Fit(keeps_shape=True, side=10))
    )
    assert (plain.kind, plain.config()) == ("mine", {})
    assert (cropped.kind, cropped.config()) == ("mine", {"fit": "crop:10"})
    assert "fit" not in str(plain)
    assert "size=8, fit=crop:10" in str(cropped)


def test_a_module_of_ones_own_can_be_fused_but_not_saved(tmp_path: Path) -> None:
    fused = FusedClassifier(nn.Identity(), PreparedClassifier(body(), Preprocessing(size=8)))
    with pytest.raises(
        SettingError, match="save the restorer alone and put it in front of the classifier again"
    ):
        save_model(tmp_path / "pair.safetensors", fused, about={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("restorer", "classifier", "told"),
    [
        (SignNet(4), RestorationNet(3), "SignNet is a classifier and was given as the restorer"),
        (
            RestorationNet(3),
            GaussianSmoothing(),
            "GaussianSmoothing is a restorer and was given as the class",
        ),
        (small_fused(), SignNet(4), "FusedClassifier is a classifier and was given as the restorer"),
    ],
)
def test_parts_in_the_wrong_place_are_refused_by_name(
    restorer: nn.Module, classifier: nn.Module, told: str
) -> None:
    with pytest.raises(SettingError, match=told):
        FusedClassifier(restorer, classifier)


def test_an_empty_batch_has_no_answers() -> None:
    for restorer in (RestorationNet(3), RestorationUNet(), GaussianSmoothing(), nn.Identity()):
        for frozen in (True, False):
            pair = FusedClassifier(restorer, SignNet(classes=5), frozen=frozen).eval()
            assert pair(drawn_images(3)[:0]).shape == (0, 5)


class Overshooting(nn.Module):
    """A restorer that leaves [0, 1] by much."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images - 5


@pytest.mark.parametrize("frozen", [True, False])
def test_what_a_restorer_makes_reaches_the_classifier_whatever_its_range(frozen: bool) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    behind = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD)).eval()
    with pytest.raises(ImageError, match=r"reach from -5 to 5"):
        behind(Overshooting()(images))
    pair = FusedClassifier(Overshooting(), behind, frozen=frozen).eval()
    with torch.inference_mode():
        restored = 10 * images - 5
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        assert torch.equal(pair(images), behind.body((restored - mean) / std))
    with pytest.raises(ImageError, match="reach from -5 to 5"):
        pair(restored)
    with pytest.raises(ImageError, match="reach from -5 to 5"):
        behind(restored)


def test_an_exported_pair_hands_on_what_overshoots_as_the_pair_does() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    behind = PreparedClassifier(body(), Preprocessing(size=8, mean=MEAN, std=STD))
    pair = FusedClassifier(Overshooting(), behind).eval()
    expected = pair(images)
    exported = torch.export.export(pair, (images,)).module()
    torch.testing.assert_close(exported(images), expected)
