"""How far restored images are from the clean ones, a number for each image."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

RestorationLoss = Callable[[Tensor, Tensor], Tensor]
"""From restored and clean images (N, C, H, W) to losses (N,), to be averaged over the batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredError:
    """The squared norm of Eq. (3): summed over pixels and channels, not averaged."""

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Returns ||clean - restored||^2 of each image, (N,)."""
        return (restored - clean).square().sum(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSquaredError:
    """The logarithm of the mean squared error, so that a decibel counts the same at any noise strength.

    The squared error itself is ruled by the strongest noise of the batch, and a net trained on it harms
    images whose noise is slight.

    Attributes:
        floor: Mean squared error that is as good as none; 1e-5 is 50 dB.
    """

    floor: float = 1e-5

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Returns ln(MSE + floor) of each image, (N,)."""
        return ((restored - clean).square().mean(dim=(1, 2, 3)) + self.floor).log()
