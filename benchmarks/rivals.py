"""What the restoration nets are measured beside: two well-known nets, and classical methods.

The nets have random weights, which do for speed, or those that their authors published. The classical methods
are told the strength of the noise, which ours is not, and have one setting more, to be chosen on the very
images: all in their favour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration
from torch import Tensor, nn
from torch.nn import functional as F

Picture = NDArray[np.float32]
"""Height x width x RGB, in [0, 1] but for noise that is not clipped."""


class ColourDnCNN(nn.Module):
    """CDnCNN-B: twenty 3x3 convolutions of 64 maps, whose result is subtracted (batch norm folded in)."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(18) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
        first, last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), *hidden, last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, H, W)."""
        return images - self.layers(images)  # type: ignore[no-any-return]


class ColourFFDNet(nn.Module):
    """FFDNet: twelve 3x3 convolutions of 96 maps at half the resolution, beside a map of the noise level."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(10) for layer in (nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())]
        first, last = nn.Conv2d(13, 96, 3, padding=1), nn.Conv2d(96, 12, 3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), *hidden, last)

    def forward(self, images: Tensor, sigma_grey: float = 25.0) -> Tensor:
        """Returns images (N, 3, H, W); an odd height or width is made even by repeating the last row."""
        height, width = images.shape[-2:]
        if height % 2 or width % 2:
            images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        halved = F.pixel_unshuffle(images, 2)
        level = torch.full_like(halved[:, :1], sigma_grey / 255)
        return F.pixel_shuffle(self.layers(torch.cat([halved, level], 1)), 2)[..., :height, :width]


def published_dncnn(path: Path) -> ColourDnCNN:
    """Returns CDnCNN-B with its authors' weights: model/GD_Color_Blind.mat of cszn/DnCNN on GitHub."""
    net = ColourDnCNN()
    _fill(net.layers, matconvnet_weights(path))
    return net.eval().requires_grad_(False)


def published_ffdnet(path: Path) -> ColourFFDNet:
    """Returns FFDNet with its authors' weights: models/FFDNet_color.mat of cszn/FFDNet on GitHub."""
    net = ColourFFDNet()
    weights = matconvnet_weights(path)
    # Its authors number the four pixels of a block column by column, PyTorch row by row.
    turned = [4 * colour + place for colour in range(3) for place in (0, 2, 1, 3)]
    (first, bias), (last, last_bias) = weights[0], weights[-1]
    weights[0] = first[:, [*turned, 12]], bias
    weights[-1] = last[turned], last_bias[turned]
    _fill(net.layers, weights)
    return net.eval().requires_grad_(False)


def matconvnet_weights(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Returns weights (out, in, H, W) and biases of each convolution in a MatConvNet file (MATLAB 7.3)."""
    import h5py  # noqa: PLC0415 - only these files need it

    found = []
    with h5py.File(path) as file:
        for reference in file["net"]["layers"][:].ravel():
            layer = file[reference]
            if bytes(layer["type"][:].astype(np.uint8).ravel()) == b"conv":
                kernel, bias = (file[part][:] for part in layer["weights"][:].ravel())
                # MATLAB stores (H, W, in, out) with the first axis innermost: the file's axes are reversed.
                found.append((torch.from_numpy(kernel).mT.contiguous(), torch.from_numpy(bias.ravel())))
    return found


def _fill(layers: nn.Sequential, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for layer, (kernel, bias) in zip(convolutions, weights, strict=True):
        layer.load_state_dict({"weight": kernel, "bias": bias})


@dataclass(frozen=True, kw_only=True, slots=True)
class Classical:
    """A method without weights.

    Attributes:
        restore: (picture, sigma in grey levels, setting) -> restored picture.
        settings: What may be tried, as multiples of the method's usual setting.
    """

    restore: Callable[[Picture, float, float], Picture]
    settings: Sequence[float] = (1.0,)


def _opencv_means(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    strength = setting * sigma_grey
    stored = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)  # it reads nothing else
    found = cv2.fastNlMeansDenoisingColored(stored, None, strength, strength, 7, 21)
    restored: Picture = found.astype(np.float32) / np.float32(255)
    return restored


def _means(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    sigma = sigma_grey / 255
    restored: Picture = restoration.denoise_nl_means(
        picture,
        h=0.8 * setting * sigma,
        sigma=sigma,
        fast_mode=True,
        patch_size=5,
        patch_distance=6,
        channel_axis=-1,
    )
    return restored


def _wavelets(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    restored: Picture = restoration.denoise_wavelet(
        picture,
        sigma=setting * sigma_grey / 255,
        convert2ycbcr=True,
        rescale_sigma=True,
        channel_axis=-1,
    )
    return restored


def _total_variation(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    total_variation: Callable[..., Any] = restoration.denoise_tv_chambolle
    restored: Picture = total_variation(picture, weight=setting * sigma_grey / 255, channel_axis=-1)
    return restored


def _bm3d(picture: Picture, sigma_grey: float, setting: float) -> Picture:
    import bm3d  # noqa: PLC0415 - its licence allows no commercial use, so that it is no requirement

    restored: Picture = bm3d.bm3d_rgb(picture, setting * sigma_grey / 255).astype(np.float32)
    return restored


CLASSICAL: Mapping[str, Classical] = {
    "OpenCV non-local means": Classical(restore=_opencv_means, settings=(0.4, 0.7, 1.0, 1.4)),
    "scikit-image non-local means": Classical(restore=_means, settings=(0.5, 0.75, 1.0, 1.25)),
    "scikit-image wavelets": Classical(restore=_wavelets, settings=(0.5, 0.75, 1.0, 1.25)),
    "scikit-image total variation": Classical(restore=_total_variation, settings=(0.4, 0.7, 1.0, 1.4)),
}
"""The methods by name."""


def slow_classical() -> dict[str, Classical]:
    """Returns BM3D (the package bm3d) by its name, if it is installed; it takes minutes a megapixel."""
    return {"BM3D": Classical(restore=_bm3d)} if find_spec("bm3d") else {}
