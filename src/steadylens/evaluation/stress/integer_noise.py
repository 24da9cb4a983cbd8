"""Rounded Gaussian noise as whole grey levels, with probabilities that are known exactly.

A certificate counts how often an answer comes, and its proof needs noise whose distribution is the stated
one. `image + sigma * torch.randn(...)` has another: floats are coarser where they are larger, so the sum
tells something of the image, and a net can be made that such noise certifies wrongly (Voracek and Hein).
Images of 8 bits have a way out. Rounding a noisy image x + sigma * epsilon to the nearest multiple of 1/255
gives

    x + k / 255, with an integer k of probability

    P(k) = Phi((k + 1/2) / (255 sigma)) - Phi((k - 1/2) / (255 sigma)),

which is computed in integers, whatever x is. Noisy images are not clipped: k may lead out of [0, 1].

References:
    Voracek and Hein, "Sound randomized smoothing in floating-point arithmetics", ICLR 2023.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS

_DIGITS = 60
"""Decimal digits of the probabilities: three times as many as 64 bits hold."""

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899863")

_FARTHEST = 40
"""Standard deviations beyond which the normal distribution is taken as 0 or 1; 1e-349 is beyond."""

_REACH = 9
"""Standard deviations up to which the table has a row for each grey level; 2e-19 of the noise is beyond."""

_TOP_BITS = 16

_LOW_BITS = 48

_HALF = 2**63
"""A random integer of 64 bits lies from -2^63 to 2^63 - 1: it is below t with probability t / 2^64 + 1/2."""

_UNDECIDED = -(2**15)

LARGEST_SIGMA = 10.0
"""The largest standard deviation, for images in [0, 1]; grey levels 9 times as large fit into 16 bits."""


def normal_distribution(x: Decimal) -> Decimal:
    """Returns Phi(x), the probability that a standard normal variable is below x, within 1e-45.

    It is 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 * 5) + ...), a series of positive terms for positive x.
    """
    if x > _FARTHEST:
        return Decimal(1)
    with localcontext(prec=_DIGITS + 5):
        if x < 0:
            return 1 - normal_distribution(-x)
        term = total = x
        odd = 1
        while term > total.scaleb(-_DIGITS):
            odd += 2
            term = term * x * x / odd
            total += term
        return Decimal("0.5") + total * (-x * x / 2).exp() / (2 * _PI).sqrt()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerNoise:
    """Draws rounded Gaussian noise from a table; `integer_noise` makes one.

    A random integer of 64 bits falls between two thresholds of the table, and their place is the grey level.
    The upper 16 bits decide that for nearly all values, and only the others get 48 more.

    Attributes:
        sigma: Standard deviation before rounding, for images in [0, 1].
        reach: The largest grey level that is drawn; the smallest is its negative.
        error: A value that is drawn, and one of the stated distribution, can be made together such that they
            differ with at most this probability. It holds the tails that the table lacks, and the rounding of
            its thresholds.
        thresholds: int64 (2 reach,), the first integers of all grey levels but the smallest.
        direct: int16 (65536,), the grey level that the upper bits alone decide, or -2^15.
    """

    sigma: float
    reach: int
    error: float
    thresholds: Tensor
    direct: Tensor

    def draw(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Returns `count` independent grey levels, int16 (count,), on the device of the table.

        Args:
            count: Number of values.
            generator: Generator on the same device, whose numbers are taken as independent and uniform.
        """
        words = torch.empty(-(-count * _TOP_BITS // 64), dtype=torch.int64, device=self.direct.device)
        tops = words.random_(-_HALF, None, generator=generator).view(torch.int16)[:count]
        levels = self.direct.index_select(0, tops.to(torch.int32) + 2**15)
        (open_ones,) = (levels == _UNDECIDED).nonzero(as_tuple=True)
        lows = torch.empty(len(open_ones), dtype=torch.int64, device=self.direct.device)
        lows.random_(0, 2**_LOW_BITS, generator=generator)
        whole = (tops[open_ones].long() << _LOW_BITS) | lows
        levels[open_ones] = (torch.searchsorted(self.thresholds, whole, right=True) - self.reach).short()
        return levels

    def to(self, device: torch.device) -> "IntegerNoise":
        """Returns the noise with its table on a device."""
        return IntegerNoise(
            sigma=self.sigma, reach=self.reach, error=self.error,
            thresholds=self.thresholds.to(device), direct=self.direct.to(device),
        )  # fmt: skip


@lru_cache(maxsize=32)
def integer_noise(sigma: float) -> IntegerNoise:
    """Computes the table of rounded Gaussian noise, in a fraction of a second; it lies on the CPU.

    Args:
        sigma: Standard deviation before rounding, for images in [0, 1].

    Raises:
        SettingError: If sigma is not above 0, or above 10.
    """
    if not 0 < sigma <= LARGEST_SIGMA:
        raise SettingError(
            f"sigma is {sigma}, it must be above 0 and at most {LARGEST_SIGMA:g}: it is for images in "
            "[0, 1], such as 0.25; divide grey levels by 255"
        )
    with localcontext(prec=_DIGITS + 5):
        grey = GREY_LEVELS * Decimal(sigma)
        reach = max(1, math.ceil(_REACH * grey))
        upper = [normal_distribution((level + Decimal("0.5")) / grey) for level in range(reach + 1)]
        # Phi at the upper edge of each level: those of negative levels by symmetry.
        edges = [1 - edge for edge in reversed(upper[:reach])] + upper
        below = [min(int((edge * 2**64).to_integral_value()), 2**64 - 1) for edge in edges[:-1]]
        drawn = [Decimal(b - a) / 2**64 for a, b in zip([0, *below], [*below, 2**64], strict=True)]
        meant = [b - a for a, b in zip([1 - upper[reach], *edges], edges, strict=False)]
        excess = sum((max(d - m, Decimal(0)) for d, m in zip(drawn, meant, strict=True)), Decimal(0))
        error = float(excess) * (1 + 1e-9) + 1e-40
    thresholds = torch.tensor([value - _HALF for value in below], dtype=torch.int64)
    tops = torch.arange(-(2 ** (_TOP_BITS - 1)), 2 ** (_TOP_BITS - 1), dtype=torch.int64) << _LOW_BITS
    first = torch.searchsorted(thresholds, tops, right=True)
    last = torch.searchsorted(thresholds, tops + (2**_LOW_BITS - 1), right=True)
    direct = torch.where(first == last, first - reach, _UNDECIDED).short()
    return IntegerNoise(sigma=sigma, reach=reach, error=error, thresholds=thresholds, direct=direct)
