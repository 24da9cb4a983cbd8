"""Xavier weights against the bounds and the distribution of Glorot and Bengio.

The nets of Table 1 and Gaussian smoothing against the paper's numbers, NumPy, SciPy and PyTorch. A net's
valid form is the net on an image that is surrounded with what the net pads it with.
"""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import ImageError, SettingError
from steadylens.evaluation.experiments import parameters
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import (
    DongNet,
    GaussianSmoothing,
    PatchRestorer,
    RestorationNet,
    UnpaddedNet,
    central_crop,
    initialize_xavier,
    normalize_pattern,
    zero_last_layer,
)
from tests.paper import TABLE_1

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
    zero_last_layer(net)
    *kept, last = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert last.bias is not None
    assert not last.weight.any()
    assert not last.bias.any()
    assert all(torch.equal(layer.weight, before) for layer, before in zip(kept, hidden, strict=True))


def test_a_last_convolution_without_bias_can_be_silenced() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1, bias=False), nn.Tanh())
    zero_last_layer(net)
    assert not net(torch.ones(1, 3, 2, 2)).any()


def test_a_silent_residual_net_learns_from_its_first_step() -> None:
    net = RestorationNet(3)
    initialize_xavier(net, generator=seeded(0))
    zero_last_layer(net)
    net(torch.rand(1, 3, 8, 8, generator=seeded(1))).sum().backward()
    gradient = convolution_weights(net)[-1].grad
    assert gradient is not None
    assert gradient.any()


DEPTHS = [11, 9, 7, 5, 3]


NETS: dict[str, RestorationNet | DongNet] = {
    **{f"L{depth}": RestorationNet(depth) for depth in DEPTHS},
    "Dong": DongNet(),
}


every_net = pytest.mark.parametrize("name", NETS)


def drawn_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


@every_net
def test_a_net_is_the_row_of_table_1_that_bears_its_name(name: str) -> None:
    net, row = NETS[name], TABLE_1[name]
    assert tuple(layer.out_channels for layer in convolutions(net)) == row.maps
    assert tuple(layer.kernel_size for layer in convolutions(net)) == tuple((k, k) for k in row.kernels)
    assert (net.margin, net.field) == (row.margin, row.field)


@pytest.mark.parametrize(
    ("name", "count"),
    [("L11", 397_411), ("L9", 215_075), ("L7", 132_963), ("L5", 50_851), ("L3", 4_739), ("Dong", 20_099)],
)
def test_a_net_has_the_parameters_of_table_1(name: str, count: int) -> None:
    assert parameters(NETS[name]) == sum(tensor.numel() for tensor in NETS[name].parameters()) == count


@every_net
def test_convolutions_pad_nothing_and_do_not_stride(name: str) -> None:
    assert {(layer.padding, layer.stride, layer.groups) for layer in convolutions(NETS[name])} == {
        ((0, 0), (1, 1), 1)
    }


@every_net
def test_the_field_is_the_square_of_input_that_one_output_pixel_depends_on(name: str) -> None:
    net = NETS[name]
    images = drawn_images(1, 3, 21, 21).requires_grad_()
    (gradient,) = torch.autograd.grad(net.pattern(images)[0, :, 10, 10].sum(), images)
    rows, columns = gradient.abs().sum(dim=(0, 1)).nonzero(as_tuple=True)
    half = TABLE_1[name].field // 2
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == [10 - half, 10 + half] * 2


@every_net
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_both_forms_agree_away_from_the_border(name: str, padding: Any) -> None:
    net = DongNet(padding=padding) if name == "Dong" else RestorationNet(int(name[1:]), padding=padding)
    images = drawn_images(2, 3, 22, 19)
    with torch.no_grad():
        torch.testing.assert_close(central_crop(net(images), net.margin), net.valid(images))


def plain_convolution(image: NDArray[np.float64], layer: nn.Conv2d) -> NDArray[np.float64]:
    weight, bias = layer.weight.detach().double().numpy(), layer.bias
    assert bias is not None
    maps, _, height, width = weight.shape
    rows, columns = image.shape[1] - height + 1, image.shape[2] - width + 1
    answer = np.empty((maps, rows, columns))
    for row in range(rows):
        for column in range(columns):
            window = image[:, row : row + height, column : column + width]
            answer[:, row, column] = (weight * window).sum(axis=(1, 2, 3))
    answer += bias.detach().double().numpy()[:, None, None]
    return answer


def plain_restoration(net: nn.Module, image: NDArray[np.float64], *, slope: float) -> NDArray[np.float64]:
    """What the last layer's tanh gives, without any padding."""
    *hidden, last = convolutions(net)
    for layer in hidden:
        image = plain_convolution(image, layer)
        image = np.where(image > 0, image, slope * image)
    return np.tanh(plain_convolution(image, last))


@pytest.mark.parametrize("name", ["L11", "L5", "L3"])
def test_a_restored_image_equals_a_plain_loop_that_pads_the_first_layer_with_zeros(name: str) -> None:
    net, image = NETS[name], drawn_images(3, 5, 4).numpy().astype(np.float64)
    margins = ((0, 0), (net.margin, net.margin), (net.margin, net.margin))
    expected = image + plain_restoration(net, np.pad(image, margins), slope=0.01)
    with torch.no_grad():
        restored = net(torch.tensor(image, dtype=torch.float32)[None])[0]
    np.testing.assert_allclose(restored.numpy(), expected, atol=2e-6)


def test_dongs_restored_image_equals_a_plain_loop_without_a_shortcut() -> None:
    net, image = NETS["Dong"], drawn_images(3, 5, 4).numpy().astype(np.float64)
    expected = plain_restoration(net, np.pad(image, ((0, 0), (6, 6), (6, 6))), slope=0.0)
    with torch.no_grad():
        restored = net(torch.tensor(image, dtype=torch.float32)[None])[0]
    np.testing.assert_allclose(restored.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("depth", [11, 5])
def test_reflecting_equals_pytorchs_reflection_ahead_of_the_valid_form(depth: int) -> None:
    net, images = RestorationNet(depth, padding="reflect"), drawn_images(2, 3, 12, 9)
    padded = F.pad(images, [net.margin] * 4, mode="reflect")
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.valid(padded))


def test_dong_reflects_as_pytorch_does() -> None:
    net, images = DongNet(padding="reflect"), drawn_images(2, 3, 12, 9)
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.valid(F.pad(images, [6] * 4, mode="reflect")))


@every_net
def test_the_valid_form_loses_the_margin_on_each_side(name: str) -> None:
    lost = 2 * TABLE_1[name].margin
    with torch.no_grad():
        assert NETS[name].valid(torch.zeros(1, 3, 24, 20)).shape == (1, 3, 24 - lost, 20 - lost)


def test_the_deepest_net_turns_a_48_pixel_patch_into_36() -> None:
    with torch.no_grad():
        assert NETS["L11"].valid(torch.zeros(1, 3, 48, 48)).shape == (1, 3, 36, 36)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 20), width=st.integers(1, 20), channels=st.integers(1, 6), count=st.integers(0, 3)
)
def test_restoring_keeps_any_shape(height: int, width: int, channels: int, count: int) -> None:
    images = torch.zeros(count, channels, height, width)
    with torch.no_grad():
        assert RestorationNet(3, channels)(images).shape == images.shape
        assert DongNet(channels)(images).shape == images.shape


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_last_layer_has_a_map_for_each_channel(channels: int) -> None:
    net = RestorationNet(11, channels)
    # 3x3 x 64 weights of the first layer and 3x3 x 128 weights and a bias of the last, for each channel.
    assert parameters(net) == 397_411 + (channels - 3) * (9 * 64 + 9 * 128 + 1)
    with torch.no_grad():
        assert net.valid(torch.zeros(1, channels, 14, 13)).shape == (1, channels, 2, 1)


def test_training_takes_either_net_for_what_it_needs() -> None:
    restorers: list[PatchRestorer] = [RestorationNet(3), DongNet()]
    assert [restorer.valid_margin for restorer in restorers] == [2, 6]


@every_net
def test_the_pattern_is_what_is_added(name: str) -> None:
    images = drawn_images(2, 3, 15, 16)
    with torch.no_grad():
        torch.testing.assert_close(images + NETS[name].pattern(images), NETS[name](images))


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_pattern_lies_between_minus_1_and_1(depth: int) -> None:
    net, images = RestorationNet(depth), drawn_images(2, 3, 15, 16)
    with torch.no_grad():
        assert net.pattern(images).abs().max() < 1
        for tensor in net.parameters():
            tensor.mul_(10)  # So strong a net saturates, where float32 rounds up to 1.
        extreme = net.pattern(images).abs()
    assert 0.9 < extreme.max() <= 1


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_net_whose_last_layer_is_zero_is_the_identity(depth: int) -> None:
    net, images = RestorationNet(depth), drawn_images(2, 3, 17, 16)
    zero_last_layer(net)
    with torch.no_grad():
        assert torch.equal(net(images), images)
        assert torch.equal(net.valid(images), central_crop(images, net.margin))


def test_dongs_net_has_no_shortcut() -> None:
    net, images = DongNet(), drawn_images(2, 3, 17, 16)
    zero_last_layer(net)
    with torch.no_grad():
        assert torch.equal(net(images), torch.zeros_like(images))
        assert torch.equal(net.pattern(images), -images)


@every_net
def test_restoring_leaves_the_images_alone(name: str) -> None:
    images = drawn_images(1, 3, 14, 14)
    kept = images.clone()
    with torch.no_grad():
        NETS[name](images)
        NETS[name].valid(images)
    assert torch.equal(images, kept)


def test_an_image_is_restored_the_same_alone_and_in_a_batch() -> None:
    images = drawn_images(3, 3, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(NETS["L7"](images)[1:2], NETS["L7"](images[1:2]))


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=12, max_size=12),
)
def test_a_normalized_pattern_fills_the_range_from_0_to_1(values: list[float]) -> None:
    pattern = torch.tensor(values).view(1, 3, 2, 2)
    normalized = normalize_pattern(pattern)
    assert normalized.min() >= 0
    assert normalized.max() <= 1
    spread = (pattern.max() - pattern.min()).item()
    if spread > torch.finfo(torch.float32).tiny:
        assert [normalized.min().item(), normalized.max().item()] == [0, 1]
        torch.testing.assert_close(normalized, (pattern - pattern.min()) / spread)


def test_patterns_are_normalized_each_by_its_own_extremes() -> None:
    pattern = torch.stack([torch.linspace(-0.5, 0.5, 12), torch.linspace(0.1, 0.2, 12)]).view(2, 3, 2, 2)
    expected = torch.linspace(0, 1, 12).view(1, 3, 2, 2).expand(2, -1, -1, -1)
    torch.testing.assert_close(normalize_pattern(pattern), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [-1.0, 0.0, 0.3])
def test_a_constant_pattern_becomes_mid_grey(level: float) -> None:
    pattern = torch.full((2, 3, 4, 4), level)
    pattern[1, 0, 0, 0] += 0.5
    normalized = normalize_pattern(pattern)
    assert normalized[0].eq(0.5).all()
    assert set(normalized[1].flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("sigma_pixels", [0.1, 0.3, 0.7, 1.0, 2.4])
@pytest.mark.parametrize("channels", [1, 3])
def test_smoothing_equals_scipys_gaussian_filter(sigma_pixels: float, channels: int) -> None:
    images = drawn_images(2, channels, 17, 13)
    smoothed = GaussianSmoothing(sigma_pixels=sigma_pixels)(images)
    for image, ours in zip(images.flatten(0, 1).numpy(), smoothed.flatten(0, 1).numpy(), strict=True):
        expected = gaussian_filter(image.astype(np.float64), sigma_pixels, mode="mirror", truncate=4)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_smoothing_keeps_a_constant_image_and_the_dtype() -> None:
    images = torch.full((1, 3, 9, 9), 0.25, dtype=torch.float64)
    torch.testing.assert_close(GaussianSmoothing(sigma_pixels=1)(images), images, rtol=1e-6, atol=0)


def test_smoothing_has_nothing_to_train_or_to_store() -> None:
    smoothing = GaussianSmoothing()
    assert list(smoothing.parameters()) == []
    assert smoothing.state_dict() == {}


@pytest.mark.parametrize("depth", [0, 4, 10, 12, -3])
def test_a_depth_that_is_not_the_papers_is_refused(depth: int) -> None:
    with pytest.raises(SettingError, match=rf"depth is {depth}, .* 3, 5, 7, 9 or 11 layers"):
        RestorationNet(depth)


@pytest.mark.parametrize("build", [RestorationNet, DongNet])
def test_a_net_refuses_bad_channels_and_paddings(build: Any) -> None:
    with pytest.raises(SettingError, match="channels is 0, an image has at least 1"):
        build(channels=0)
    with pytest.raises(SettingError, match="padding is 'mirror', choose 'zeros' or 'reflect'"):
        build(padding="mirror")


@pytest.mark.parametrize("sigma_pixels", [0, -0.7, math.inf, math.nan])
def test_smoothing_refuses_a_width_that_is_no_positive_number(sigma_pixels: float) -> None:
    with pytest.raises(SettingError, match=f"sigma_pixels is {sigma_pixels}, .* positive number of pixels"):
        GaussianSmoothing(sigma_pixels=sigma_pixels)


@every_net
def test_a_net_refuses_what_breaks_the_image_contract(name: str) -> None:
    net = NETS[name]
    for form in (net, net.pattern, net.valid):
        with pytest.raises(ImageError, match=r"torch\.uint8.*to_float"):
            form(torch.zeros(1, 3, 20, 20, dtype=torch.uint8))
        with pytest.raises(ImageError, match="1 channels where 3 are needed"):
            form(torch.zeros(1, 1, 20, 20))
        with pytest.raises(ImageError, match=r"\(3, 20, 20\).*images\[None\]"):
            form(torch.zeros(3, 20, 20))


@every_net
def test_the_valid_form_refuses_images_below_the_field(name: str) -> None:
    field = TABLE_1[name].field
    message = rf"{field - 1}x30 pixels, at least {field}x{field} are needed"
    with pytest.raises(ImageError, match=message):
        NETS[name].valid(torch.zeros(1, 3, field - 1, 30))
    with torch.no_grad():
        assert NETS[name].valid(torch.zeros(1, 3, field, field)).shape == (1, 3, 1, 1)


def test_an_image_that_is_not_larger_than_the_margin_cannot_be_reflected() -> None:
    net = RestorationNet(11, padding="reflect")
    with pytest.raises(ImageError, match="9x6 pixels, at least 7x7 are needed"):
        net(torch.zeros(1, 3, 9, 6))
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 7, 7)).shape == (1, 3, 7, 7)


def test_smoothing_refuses_images_that_are_not_larger_than_the_kernels_radius() -> None:
    with pytest.raises(ImageError, match="4x9 pixels, at least 5x5 are needed"):
        GaussianSmoothing(sigma_pixels=1)(torch.zeros(1, 3, 4, 9))
    assert GaussianSmoothing(sigma_pixels=1)(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 5, 5)


UNPADDED = (
    RestorationNet(5),
    RestorationNet(5, padding="reflect"),
    DongNet(),
    DongNet(padding="reflect"),
    RestorationNet(3, channels=1),
)


@pytest.mark.parametrize("net", UNPADDED, ids=str)
def test_what_surrounds_an_image_is_what_the_net_pads_it_with(net: RestorationNet | DongNet) -> None:
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, net.channels, 15, 22, generator=torch.Generator().manual_seed(1))
    form = UnpaddedNet(net)
    found = form(form.surround(images, [net.margin] * 4))
    torch.testing.assert_close(found, net(images), rtol=0, atol=1e-6)


def test_an_image_is_surrounded_on_the_sides_that_are_named() -> None:
    found = UnpaddedNet(RestorationNet(5)).surround(torch.ones(1, 3, 4, 4), (1, 0, 2, 0))
    assert found.shape == (1, 3, 6, 5)
    assert found[..., :2, :].sum() == 0
    assert found[..., :, :1].sum() == 0


def test_an_image_below_the_field_is_refused() -> None:
    with pytest.raises(ImageError, match="at least 7x7 are needed"):
        UnpaddedNet(RestorationNet(5))(torch.rand(1, 3, 6, 9))


def test_the_weights_are_those_of_the_net() -> None:
    net = RestorationNet(3)
    pairs = zip(UnpaddedNet(net).parameters(), net.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
