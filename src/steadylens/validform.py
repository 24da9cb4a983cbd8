"""A restoration net without its padding, as a module: for tiles, whose surroundings are in the image."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.restoration import DongNet, RestorationNet


class ValidForm(nn.Module):
    """A net's valid form as a module of its own, which engines can be made of.

    Args:
        net: The net; the weights stay shared.

    Example:
        >>> import torch
        >>> ValidForm(RestorationNet(depth=5))(torch.rand(1, 3, 20, 30)).shape
        torch.Size([1, 3, 14, 24])
    """

    def __init__(self, net: RestorationNet | DongNet) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

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
