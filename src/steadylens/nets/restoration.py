"""Restorers, from noisy to restored images: the nets of Table 1, and Gaussian smoothing for comparison.

A restorer is any module from images to images of the same shape. The trained ones have two methods with the
same weights. `valid`, for training, pads nothing, so its output lacks a margin. `forward`, for inference,
pads the image before the first convolution and keeps its size. Away from the border both give the same.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import SettingError
from steadylens.images.tensors import check_images
from steadylens.nets.facts import RESTORING


def initialize_xavier(module: nn.Module, *, generator: torch.Generator, gain: float = 1.0) -> None:
    """Initialises every convolution and linear layer with Xavier-uniform weights and zero biases.

    Args:
        module: The net, changed in place.
        generator: Generator on the net's device.
        gain: Factor on the weights. With the square root of 2 the signal keeps its strength through layers
            with ReLU; with 1 it fades in a deep net, which then learns slowly at first.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def zero_last_layer(module: nn.Module) -> None:
    """Sets the last convolution's weights and biases to zero: a residual net then starts as the identity."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


HIDDEN_MAPS: dict[int, tuple[int, ...]] = {
    11: (64, 32, 128, 64, 128, 64, 128, 64, 256, 128),
    9: (64, 32, 128, 64, 128, 64, 128, 64),
    7: (64, 32, 128, 64, 128, 64),
    5: (64, 32, 128, 64),
    3: (64, 32),
}
"""Feature maps of the hidden layers by depth (Table 1). The last layer has one map per image channel."""

LEAKY_SLOPE = 0.01

MAX_SIGMA_PIXELS = 1_000
"""Largest standard deviation in pixels; a wider kernel would exceed any image that fits in memory."""

Padding = Literal["zeros", "reflect"]


@runtime_checkable
class PatchRestorer(Protocol):
    """A restorer that can be trained without padding."""

    @property
    def valid_margin(self) -> int:
        """Pixels by which the output of `valid` is smaller on each side; 0 if `valid` pads."""

    def valid(self, images: Tensor) -> Tensor:
        """Returns the restored centre of the images, without `valid_margin` pixels on each side."""


@runtime_checkable
class SelfInitializing(Protocol):
    """A net that knows how its weights are initialised."""

    def initialize(self, *, generator: torch.Generator) -> None:
        """Draws new weights."""


@runtime_checkable
class PaddedRestorer(PatchRestorer, Protocol):
    """A restorer that pads the image only once, before its first layer.

    So a tile that is cut out with a border of real pixels can be restored without any padding.
    """

    @property
    def channels(self) -> int:
        """Number of channels of the images."""

    @property
    def padding(self) -> Padding:
        """How the image is padded."""


def is_padded(net: object) -> TypeGuard[PaddedRestorer]:
    """Whether a net pads the image only once, before its first layer."""
    return isinstance(net, PaddedRestorer)


class RestorationNet(nn.Module):
    """The residual restoration net (Table 1): predicts a pattern and adds it to the image.

    3x3 and 1x1 convolutions alternate, with leaky ReLU between them and tanh after the last, so that the
    pattern lies in (-1, 1). For an image with additive noise nu the net learns to predict -nu (Eq. 3).

    Args:
        depth: Number of convolutions: 11 (397,411 parameters), 9, 7, 5 or 3.
        channels: Number of channels of the images, 3 for RGB.
        padding: How `forward` pads the image: "zeros" as in the paper, or "reflect".

    Raises:
        SettingError: If the depth or the padding is none of these, or `channels` is below 1.

    Example:
        >>> import torch
        >>> net = RestorationNet(depth=5)
        >>> net(torch.rand(1, 3, 20, 30)).shape, net.valid(torch.rand(1, 3, 20, 30)).shape
        (torch.Size([1, 3, 20, 30]), torch.Size([1, 3, 14, 24]))
    """

    kind = "RestorationNet"
    task = RESTORING

    def __init__(self, depth: int = 11, channels: int = 3, *, padding: Padding = "zeros") -> None:
        super().__init__()
        if depth not in HIDDEN_MAPS:
            raise SettingError(
                f"depth is {depth}, the paper's nets have {_listed(sorted(HIDDEN_MAPS))} layers"
            )
        _check(channels=channels, padding=padding)
        self.depth, self.channels, self.padding = depth, channels, padding
        kernels = [3 if layer % 2 == 0 else 1 for layer in range(depth)]
        self.layers = _convolutions(
            [channels, *HIDDEN_MAPS[depth], channels], kernels, nn.LeakyReLU(LEAKY_SLOPE)
        )

    @property
    def purpose(self) -> str:
        """One sentence for model cards, with the number of convolutions."""
        return f"A residual net of {self.depth} convolutions that takes noise out of images of any size."

    @property
    def margin(self) -> int:
        """Radius of the receptive field in pixels; 6 for depth 11."""
        return (self.depth + 1) // 2

    @property
    def valid_margin(self) -> int:
        """Pixels by which the output of `valid` is smaller on each side; the same as `margin`."""
        return self.margin

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: 1, or with reflect padding one more than the margin."""
        return _minimum_size(self.margin, self.padding)

    @property
    def field(self) -> int:
        """Side in pixels of the receptive field, a square; 13 for depth 11."""
        return 2 * self.margin + 1

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which the net is built again when it is loaded."""
        return {"depth": self.depth, "channels": self.channels, "padding": self.padding}

    def extra_repr(self) -> str:
        """Settings in the repr of the net."""
        return f"depth={self.depth}, channels={self.channels}, padding={self.padding!r}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images, `images` + `pattern(images)`.

        Args:
            images: (N, C, H, W) in [0, 1], of any size; with reflect padding, larger than the margin.

        Returns:
            (N, C, H, W); not clipped, so a value can lie slightly outside [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        return images + self.pattern(images)

    def pattern(self, images: Tensor) -> Tensor:
        """Returns the residual that is added to the images, (N, C, H, W) in (-1, 1) (Fig. 2, column 2)."""
        return self.layers(_padded(images, self.channels, self.margin, self.padding))  # type: ignore[no-any-return]

    def valid(self, images: Tensor) -> Tensor:
        """Restores without any padding, so that a margin is lost on each side (Sec. 4.1).

        Args:
            images: (N, C, H, W) in [0, 1], at least `field` pixels high and wide.

        Returns:
            (N, C, H - 2 margin, W - 2 margin): 36x36 for a 48x48 patch and depth 11.

        Raises:
            ImageError: If the batch breaks the image contract or is smaller than the receptive field.
        """
        check_images(images, channels=self.channels, minimum_size=self.field)
        return central_crop(images, self.margin) + self.layers(images)  # type: ignore[no-any-return]


class DongNet(nn.Module):
    """The net of Dong et al. [15] for RGB (Table 1): 9x9, 1x1 and 5x5 convolutions without a shortcut.

    With ReLU between the layers and tanh after the last, as the caption of Table 1 says for all nets.

    Args:
        channels: Number of channels of the images, 3 for RGB.
        padding: How `forward` pads the image: "zeros" or "reflect".

    Raises:
        SettingError: If `channels` is below 1 or the padding is unknown.

    Example:
        >>> import torch
        >>> DongNet()(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    kind = "DongNet"
    task = RESTORING
    purpose = "A net of 3 convolutions, without a shortcut, that takes noise out of images of any size."
    margin = 6
    valid_margin = 6
    field = 13

    def __init__(self, channels: int = 3, *, padding: Padding = "zeros") -> None:
        super().__init__()
        _check(channels=channels, padding=padding)
        self.channels, self.padding = channels, padding
        self.layers = _convolutions([channels, 64, 32, channels], [9, 1, 5], nn.ReLU(inplace=True))

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: 1, or with reflect padding one more than the margin."""
        return _minimum_size(self.margin, self.padding)

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which the net is built again when it is loaded."""
        return {"channels": self.channels, "padding": self.padding}

    def extra_repr(self) -> str:
        """Settings in the repr of the net."""
        return f"channels={self.channels}, padding={self.padding!r}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images, (N, C, H, W) in (-1, 1), for images (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        return self.layers(_padded(images, self.channels, self.margin, self.padding))  # type: ignore[no-any-return]

    def pattern(self, images: Tensor) -> Tensor:
        """Returns the residual, restored minus noisy images, (N, C, H, W)."""
        return self(images) - images  # type: ignore[no-any-return]

    def valid(self, images: Tensor) -> Tensor:
        """Restores without any padding: (N, C, H, W) -> (N, C, H - 12, W - 12).

        Raises:
            ImageError: If the batch breaks the image contract or is below 13x13 pixels.
        """
        check_images(images, channels=self.channels, minimum_size=self.field)
        return self.layers(images)  # type: ignore[no-any-return]


class GaussianSmoothing(nn.Module):
    """Smooths with a fixed Gaussian, the paper's comparison to a learned restorer (Table 4, third row).

    The kernel is cut off at four standard deviations; the image is padded by reflection.

    Args:
        sigma_pixels: Standard deviation of the kernel in pixels.

    Raises:
        SettingError: If `sigma_pixels` is not a positive number of at most 1,000.

    Example:
        >>> import torch
        >>> GaussianSmoothing(sigma_pixels=0.8)(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    kind = "GaussianSmoothing"
    task = RESTORING
    purpose = "A fixed Gaussian that smooths images, for comparison with a trained restoration net."
    kernel: Tensor

    def __init__(self, *, sigma_pixels: float = 0.7) -> None:
        super().__init__()
        if not 0 < sigma_pixels <= MAX_SIGMA_PIXELS:
            raise SettingError(
                f"sigma_pixels is {sigma_pixels}, it must be a positive number of pixels, "
                f"at most {MAX_SIGMA_PIXELS:,}"
            )
        self.sigma_pixels = sigma_pixels
        self.margin = math.floor(4 * sigma_pixels + 0.5)
        distances = range(-self.margin, self.margin + 1)
        weights = [math.exp(-0.5 * (distance / sigma_pixels) ** 2) for distance in distances]
        total = math.fsum(weights)
        self.register_buffer("kernel", torch.tensor([w / total for w in weights]), persistent=False)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: one pixel more than the kernel's radius."""
        return self.margin + 1

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which the net is built again when it is loaded."""
        return {"sigma_pixels": self.sigma_pixels}

    def extra_repr(self) -> str:
        """Settings in the repr of the net."""
        return f"sigma_pixels={self.sigma_pixels}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the smoothed images, (N, C, H, W) in the range of the input.

        Raises:
            ImageError: If the batch breaks the image contract or is not larger than the kernel's radius.
        """
        check_images(images, minimum_size=self.minimum_size)
        channels = images.shape[1]
        kernel = self.kernel.to(images.dtype).expand(channels, 1, -1)
        padded = F.pad(images, [self.margin] * 4, mode="reflect")
        rows = F.conv2d(padded, kernel[:, :, None, :], groups=channels)
        return F.conv2d(rows, kernel[:, :, :, None], groups=channels)


def central_crop(images: Tensor, margin: int) -> Tensor:
    """Returns the images (N, C, H, W) without `margin` pixels on each side."""
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]


def pattern_of(net: nn.Module, images: Tensor) -> Tensor:
    """Returns restored minus input images, (N, C, H, W); from the net's method `pattern` if it has one."""
    predict = getattr(net, "pattern", None)
    return predict(images) if callable(predict) else net(images) - images  # type: ignore[no-any-return]


def normalize_pattern(pattern: Tensor) -> Tensor:
    """Scales each pattern, (N, C, H, W), from its minimum and maximum to [0, 1] (Fig. 2, column 4).

    A constant pattern becomes 0.5 everywhere.
    """
    low = pattern.amin(dim=(1, 2, 3), keepdim=True)
    spread = pattern.amax(dim=(1, 2, 3), keepdim=True) - low
    return torch.where(spread > 0, (pattern - low) / spread.clamp_min(torch.finfo(pattern.dtype).tiny), 0.5)


def _convolutions(maps: Sequence[int], kernels: Sequence[int], hidden: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out, kernel in zip(maps[:-1], maps[1:], kernels, strict=True):
        layers += [nn.Conv2d(width_in, width_out, kernel), hidden]
    return nn.Sequential(*layers[:-1], nn.Tanh())


def _padded(images: Tensor, channels: int, margin: int, padding: Padding) -> Tensor:
    check_images(images, channels=channels, minimum_size=_minimum_size(margin, padding))
    return F.pad(images, [margin] * 4, mode="reflect" if padding == "reflect" else "constant")


def _minimum_size(margin: int, padding: Padding) -> int:
    return margin + 1 if padding == "reflect" else 1


def check_channels(channels: int) -> None:
    """Refuses a number of channels that no image has.

    Raises:
        SettingError: If it is below 1.
    """
    if channels < 1:
        raise SettingError(f"channels is {channels}, an image has at least 1")


def _check(*, channels: int, padding: str) -> None:
    check_channels(channels)
    if padding not in ("zeros", "reflect"):
        raise SettingError(f"padding is {padding!r}, choose 'zeros' or 'reflect'")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


class UnpaddedNet(nn.Module):
    """A module whose `forward` is the `valid` method of a net, for export and for inference engines.

    Args:
        net: The net; its weights are shared, not copied.

    Example:
        >>> import torch
        >>> UnpaddedNet(RestorationNet(depth=5))(torch.rand(1, 3, 20, 30)).shape
        torch.Size([1, 3, 14, 24])
    """

    task = RESTORING
    margin = 0

    def __init__(self, net: PaddedRestorer) -> None:
        super().__init__()
        self.net = net
        self.training = getattr(net, "training", False)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.net.channels

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: the output has then one pixel."""
        return 2 * self.lost + 1

    @property
    def lost(self) -> int:
        """Pixels by which the output is smaller than the input on each side."""
        return self.net.valid_margin

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images without `lost` pixels on each side."""
        return self.net.valid(images)

    def surround(self, images: Tensor, sides: Sequence[int]) -> Tensor:
        """Pads images as the net does.

        Args:
            images: (N, C, H, W).
            sides: Pixels to add on the left, on the right, above and below.
        """
        mode: Literal["reflect", "constant"] = "reflect" if self.net.padding == "reflect" else "constant"
        if images.device.type == "cpu":  # with NumPy; `inference.tiling` explains why
            left, right, above, below = sides
            widths = ((0, 0), (0, 0), (above, below), (left, right))
            return torch.from_numpy(np.pad(images.detach().numpy(), widths, mode))
        return F.pad(images, list(sides), mode=mode)
