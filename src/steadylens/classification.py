"""Restored -> logits: the sign net of [21], and normalisation as a classifier's own first layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.errors import ImageError, SettingError
from steadylens.images import GREY_LEVELS, check_images

SIGN_SIZE = 48
"""Height and width in pixels of the images that the sign net reads."""

LEAKY_SLOPE = 0.01

LEAST_VARIANCE = 1e-4
"""What is added to an image's variance, so that one of a single colour is not divided by zero."""


class ChannelNormalization(nn.Module):
    """Subtracts a mean and divides by a deviation, channel by channel: the first layer of a classifier.

    A classifier that begins with it reads plain images in [0, 1], as every restorer writes them.

    Args:
        mean: Mean of each channel, for images in [0, 1].
        std: Standard deviation of each channel, positive.

    Raises:
        SettingError: If the two differ in length, a number is not finite, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        finite = all(map(math.isfinite, (*mean, *std)))
        if len(mean) != len(std) or not finite or not all(deviation > 0 for deviation in std):
            raise SettingError(
                f"mean {tuple(mean)} and std {tuple(std)} must be as long and finite, and std positive"
            )
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the normalised images, (N, C, H, W)."""
        check_images(images, channels=self.mean.shape[1])
        return (images - self.mean) / self.std


class SignNet(nn.Module):
    """The traffic-sign classifier of [21]: 1,123,449 parameters for 43 classes.

    Its own normalisation is inside. The published one subtracts the per-pixel mean image of the training set,
    which is mid-grey until `fit_mean` is called, and scales grey levels by 1/256. The other brings each image
    to a mean of 0 and a deviation of 1, so that its light and its contrast no longer matter.

    Args:
        classes: Number of classes, at least 2.
        standardize: Whether to bring each image to mean 0 and deviation 1, not to subtract the mean image.

    Raises:
        SettingError: If `classes` is below 2.

    Example:
        >>> import torch
        >>> SignNet(classes=43).eval()(torch.rand(2, 3, 48, 48)).shape
        torch.Size([2, 43])
    """

    mean: Tensor

    def __init__(self, classes: int = 43, *, standardize: bool = False) -> None:
        super().__init__()
        if classes < 2:
            raise SettingError(f"classes is {classes}, a classifier needs at least 2")
        self.classes, self.standardize = classes, standardize
        self.register_buffer("mean", torch.full((3, SIGN_SIZE, SIGN_SIZE), 0.5))
        self.features = nn.Sequential(
            nn.Conv2d(3, 3, 1, groups=3),
            *_block(3, 100, kernel=7, groups=1),  # 48 -> 42 -> 21
            *_block(100, 150, kernel=4, groups=2),  # 21 -> 18 -> 9
            *_block(150, 250, kernel=4, groups=2),  # 9 -> 6 -> 3
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(250 * 3 * 3, 300),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Dropout(0.5),
            nn.Linear(300, classes),
        )
        # A CPU runs grouped convolutions three times faster in this layout.
        self.to(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"classes={self.classes}, standardize={self.standardize}"

    def fit_mean(self, images: Tensor) -> None:
        """Takes the per-pixel mean of stored training images, uint8 (N, 3, 48, 48), as its own.

        Raises:
            ImageError: If the images are of another type or size.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != self.mean.shape:
            raise ImageError(
                f"the mean image is taken of uint8 images (N, 3, 48, 48), these are {images.dtype} "
                f"{tuple(images.shape)}; load the data at size 48"
            )
        # Summing 8-bit values in int64 is exact and needs no float copy of the whole set.
        self.mean.copy_(images.sum(dim=0, dtype=torch.int64).double() / len(images) / GREY_LEVELS)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, 48, 48) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract or is not 48x48.
        """
        check_images(images, channels=3)
        if images.shape[-2:] != (SIGN_SIZE, SIGN_SIZE):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, the sign net reads "
                f"{SIGN_SIZE}x{SIGN_SIZE}; resize them"
            )
        maps = F.conv2d(self._normalized(images), *self._first_weights())
        return self.head(self.features[2:](maps))  # type: ignore[no-any-return]

    def _normalized(self, images: Tensor) -> Tensor:
        if self.standardize:
            return F.layer_norm(images, images.shape[1:], eps=LEAST_VARIANCE)
        return (images - self.mean) * (GREY_LEVELS / 256)

    def _first_weights(self) -> tuple[Tensor, Tensor]:
        """Returns the weights and biases of the one convolution that the first two amount to.

        Nothing stands between the two, so the first but scales the second's weights and adds to its biases. A
        training then needs no gradient with respect to the images, the dearest of all its gradients.
        """
        scale, shift, weight, bias = (
            self.get_parameter(f"features.{layer}.{name}") for layer in (0, 1) for name in ("weight", "bias")
        )
        return weight * scale.view(1, -1, 1, 1), bias + weight.sum(dim=(2, 3)) @ shift


def _block(maps_in: int, maps_out: int, *, kernel: int, groups: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(maps_in, maps_out, kernel, groups=groups),
        # The activation rises everywhere, so it may follow the pooling, which leaves a quarter of the values.
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.LeakyReLU(LEAKY_SLOPE),
    )
