"""From noisy to restored images: the nets of Table 1, and Gaussian smoothing for comparison.

A restorer is any module from images to images of the same shape. The trained ones have two forms: `valid`
for training, which pads nothing and so loses a margin, and `forward` afterwards, which pads the first
convolution and keeps the size. Both hold the same weights and agree away from the border.
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
    """Draws every convolution's and linear layer's weights after Glorot and Bengio; biases become zero.

    Args:
        module: The net, changed in place.
        generator: Source of the weights, on the net's device.
        gain: Factor on the weights; the square root of 2 makes up for what rectifiers take away, without
            which a deep net begins with a signal too faint to learn from quickly.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def silence_last_layer(module: nn.Module) -> None:
    """Sets the last convolution's weights to zero, so that a residual net starts as the identity."""
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
"""Feature maps of the hidden layers by depth (Table 1); the last layer has one per channel of the image."""

LEAKY_SLOPE = 0.01

WIDEST_SIGMA = 1_000
"""The widest Gaussian in pixels: beyond it the kernel would be wider than any image that fits in memory."""

Padding = Literal["zeros", "reflect"]


@runtime_checkable
class PatchRestorer(Protocol):
    """What training needs of a net that restores, beside its facts."""

    @property
    def valid_margin(self) -> int:
        """Pixels that `valid` loses on each side; 0 for a net that pads."""

    def valid(self, images: Tensor) -> Tensor:
        """Returns the restored centre of `images`, smaller by that margin on each side."""


@runtime_checkable
class PaddedRestorer(PatchRestorer, Protocol):
    """A net that pads the image once, before its first layer, and so can do without on surrounded tiles."""

    @property
    def channels(self) -> int:
        """Channels of the images."""

    @property
    def padding(self) -> Padding:
        """What surrounds the image."""


def is_padded(net: object) -> TypeGuard[PaddedRestorer]:
    """Says whether a net pads the image once, before its first layer."""
    return isinstance(net, PaddedRestorer)


class RestorationNet(nn.Module):
    """The residual restoration net (Table 1): predicts a pattern and adds it to the image.

    3x3 and 1x1 convolutions alternate, leaky ReLU between them, tanh behind the last, so that the
    pattern lies in (-1, 1). For additive noise nu the pattern that it learns is -nu (Eq. 3).

    Args:
        depth: Number of convolutions: 11 (397,411 parameters), 9, 7, 5 or 3.
        channels: Channels of the images, 3 for RGB.
        padding: What surrounds the image in `forward`: "zeros" as in the paper, or "reflect".

    Raises:
        SettingError: If there is no net of that depth or padding, or `channels` is below 1.

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
        """What the net does, in one sentence."""
        return f"A residual net of {self.depth} convolutions that takes noise out of images of any size."

    @property
    def margin(self) -> int:
        """Pixels around it that a restored pixel depends on; 6 for depth 11."""
        return (self.depth + 1) // 2

    @property
    def valid_margin(self) -> int:
        """Pixels that the valid form loses on each side: the margin."""
        return self.margin

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image; one that is reflected must outgrow the margin."""
        return _minimum_size(self.margin, self.padding)

    @property
    def field(self) -> int:
        """Side in pixels of the square of input that one output pixel depends on; 13 for depth 11."""
        return 2 * self.margin + 1

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a net like this one."""
        return {"depth": self.depth, "channels": self.channels, "padding": self.padding}

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"depth={self.depth}, channels={self.channels}, padding={self.padding!r}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images, `images` + `pattern(images)`.

        Args:
            images: (N, C, H, W) in [0, 1], of any height and width (larger than the margin if reflected).

        Returns:
            (N, C, H, W); not clipped, so a value can lie slightly outside [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        return images + self.pattern(images)

    def pattern(self, images: Tensor) -> Tensor:
        """Returns what is added to the images, (N, C, H, W) in (-1, 1) (Fig. 2, column 2)."""
        return self.layers(_padded(images, self.channels, self.margin, self.padding))  # type: ignore[no-any-return]

    def valid(self, images: Tensor) -> Tensor:
        """Returns the restored centre without padding anything (Sec. 4.1).

        Args:
            images: (N, C, H, W) in [0, 1], at least `field` pixels high and wide.

        Returns:
            (N, C, H - 2 margin, W - 2 margin): 36x36 for a 48x48 patch and depth 11.

        Raises:
            ImageError: If the batch breaks the image contract or is too small for the field.
        """
        check_images(images, channels=self.channels, minimum_size=self.field)
        return central_crop(images, self.margin) + self.layers(images)  # type: ignore[no-any-return]


class DongNet(nn.Module):
    """The net of Dong et al. [15] on RGB (Table 1): 9x9, 1x1 and 5x5 convolutions and no shortcut.

    ReLU between the layers; tanh behind the last, as Table 1's caption says of all nets.

    Args:
        channels: Channels of the images, 3 for RGB.
        padding: What surrounds the image in `forward`: "zeros" or "reflect".

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
        """The smallest height and width of an image; one that is reflected must outgrow the margin."""
        return _minimum_size(self.margin, self.padding)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a net like this one."""
        return {"channels": self.channels, "padding": self.padding}

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"channels={self.channels}, padding={self.padding!r}"

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored images, (N, C, H, W) in (-1, 1), for images (N, C, H, W) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract.
        """
        return self.layers(_padded(images, self.channels, self.margin, self.padding))  # type: ignore[no-any-return]

    def pattern(self, images: Tensor) -> Tensor:
        """Returns what the net changes, restored minus noisy, (N, C, H, W)."""
        return self(images) - images  # type: ignore[no-any-return]

    def valid(self, images: Tensor) -> Tensor:
        """Returns the restored centre without padding anything, (N, C, H - 12, W - 12).

        Raises:
            ImageError: If the batch breaks the image contract or is below 13x13 pixels.
        """
        check_images(images, channels=self.channels, minimum_size=self.field)
        return self.layers(images)  # type: ignore[no-any-return]


class GaussianSmoothing(nn.Module):
    """Smooths with a fixed Gaussian, the paper's comparison to a learned restorer (Table 4, third row).

    The kernel is cut at four standard deviations; the border is reflected.

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
        if not 0 < sigma_pixels <= WIDEST_SIGMA:
            raise SettingError(
                f"sigma_pixels is {sigma_pixels}, it must be a positive number of pixels, "
                f"at most {WIDEST_SIGMA:,}"
            )
        self.sigma_pixels = sigma_pixels
        self.margin = math.floor(4 * sigma_pixels + 0.5)
        distances = range(-self.margin, self.margin + 1)
        weights = [math.exp(-0.5 * (distance / sigma_pixels) ** 2) for distance in distances]
        total = math.fsum(weights)
        self.register_buffer("kernel", torch.tensor([w / total for w in weights]), persistent=False)

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: it must outgrow the kernel's radius."""
        return self.margin + 1

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a net like this one."""
        return {"sigma_pixels": self.sigma_pixels}

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
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


def restorer_named(name: str, *, padding: Padding = "zeros") -> RestorationNet | DongNet:
    """Returns a fresh net of Table 1 by its name there.

    Args:
        name: L11, L9, L7, L5, L3 or Dong.
        padding: What surrounds an image in the net's same-size form.

    Raises:
        SettingError: If there is no net of that name.
    """
    depths = {f"L{depth}": depth for depth in HIDDEN_MAPS}
    if name == "Dong":
        return DongNet(padding=padding)
    if name not in depths:
        raise SettingError(f"there is no net {name!r}; choose one of {', '.join(depths)} or Dong")
    return RestorationNet(depth=depths[name], padding=padding)


def central_crop(images: Tensor, margin: int) -> Tensor:
    """Returns the images (N, C, H, W) without `margin` pixels on each side."""
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]


def pattern_of(net: nn.Module, images: Tensor) -> Tensor:
    """Returns what a restorer adds to images, (N, C, H, W); a net that predicts it is asked for it."""
    predict = getattr(net, "pattern", None)
    return predict(images) if callable(predict) else net(images) - images  # type: ignore[no-any-return]


def normalize_pattern(pattern: Tensor) -> Tensor:
    """Returns patterns (N, C, H, W) stretched to [0, 1], each by its own extremes (Fig. 2, column 4).

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


def _check(*, channels: int, padding: str) -> None:
    if channels < 1:
        raise SettingError(f"channels is {channels}, an image has at least 1")
    if padding not in ("zeros", "reflect"):
        raise SettingError(f"padding is {padding!r}, choose 'zeros' or 'reflect'")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"


class UnpaddedNet(nn.Module):
    """A net's valid form as a module of its own, which engines can be made of.

    Args:
        net: The net; the weights stay shared.

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
        """Channels of the images."""
        return self.net.channels

    @property
    def minimum_size(self) -> int:
        """The smallest height and width of an image: one pixel must be left."""
        return 2 * self.lost + 1

    @property
    def lost(self) -> int:
        """Pixels that the result lacks on each side."""
        return self.net.valid_margin

    def forward(self, images: Tensor) -> Tensor:
        """Returns the restored centre of the images; see the net's `valid`."""
        return self.net.valid(images)

    def surround(self, images: Tensor, sides: Sequence[int]) -> Tensor:
        """Returns images as the net pads them: so far on the left, on the right, above and below."""
        mode: Literal["reflect", "constant"] = "reflect" if self.net.padding == "reflect" else "constant"
        if images.device.type == "cpu":  # by NumPy, as `tiles` says why
            left, right, above, below = sides
            widths = ((0, 0), (0, 0), (above, below), (left, right))
            return torch.from_numpy(np.pad(images.detach().numpy(), widths, mode))
        return F.pad(images, list(sides), mode=mode)
