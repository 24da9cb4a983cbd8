"""The sign net against published counts, a plain pass and NumPy; any module classifies plain images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.nets.classification import ChannelNormalization, FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import RestorationNet
from tests.nets.small_body import MEAN, STD, body
from tests.paper import CLASSIFIER_PARAMETERS

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
