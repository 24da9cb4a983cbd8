"""The families of noise (Fig. 1): the distribution of one value, the strength, and which values get noise.

A family consists of ranges. For each sample four settings are drawn from them: the strength, whether the
channels share one pattern, the share of the values that keep their full noise, and the factor on the others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS

QUANTILE_COUNT = 1 << 16
"""Number of quantiles in the table of a distribution: 16 random bits choose one."""

Range = tuple[float, float]
"""Lower and upper end of a number that is drawn uniformly for each sample; equal ends make it constant."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of one noise value, given by its quantile function.

    The quantile function is tabulated at the middles of 65,536 equally probable intervals and scaled to mean
    0 and standard deviation 1, unless the noise replaces pixels. The table of the normal distribution ends at
    4.3 standard deviations.

    Attributes:
        name: The usual name of the distribution.
        quantile: Probabilities in (0, 1), float64 (K,) -> values, float64 (K,).
        replaces: Whether a value replaces the pixel instead of being added to it; the family's factor must
            then be 0.
    """

    name: str
    quantile: Callable[[Tensor], Tensor]
    replaces: bool = False

    def fill(self, values: Tensor, bits: Tensor) -> None:
        """Writes one random value for each 16 random bits.

        Args:
            values: Receives the values, float32 (K,).
            bits: Integers from 0 to 65,535, uint16 or int32 (K,).
        """
        torch.index_select(quantiles(self, values.device), 0, bits.to(torch.int32), out=values)


class UniformDistribution(Distribution):
    """The uniform distribution, whose quantiles are computed without a table."""

    __slots__ = ()

    def fill(self, values: Tensor, bits: Tensor) -> None:
        """Writes one random value for each 16 random bits."""
        values.copy_(bits).sub_((QUANTILE_COUNT - 1) / 2).mul_(math.sqrt(12 / (QUANTILE_COUNT**2 - 1)))


@cache
def quantiles(distribution: Distribution, device: torch.device) -> Tensor:
    """Returns the 65,536 equally probable values of a distribution in rising order, float32 (65536,)."""
    middles = (torch.arange(QUANTILE_COUNT, dtype=torch.float64) + 0.5) / QUANTILE_COUNT
    values = distribution.quantile(middles)
    if not distribution.replaces:
        values = values - values.mean()
        values = values / values.square().mean().sqrt()
    return values.to(device, torch.float32)


def _laplace_quantile(probabilities: Tensor) -> Tensor:
    centred = probabilities - 0.5
    return -centred.sign() * torch.log1p(-2 * centred.abs())


NORMAL = Distribution("normal", torch.special.ndtri)

UNIFORM = UniformDistribution("uniform", torch.clone)

LAPLACE = Distribution("Laplace", _laplace_quantile)

IMPULSE = Distribution("impulse", torch.round, replaces=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Strength:
    """The strength of noise in grey levels of 255, drawn for each sample between two ends.

    For every additive distribution it is the standard deviation: uniform noise of strength s reaches from
    -sqrt(3) s to sqrt(3) s.

    Attributes:
        low_grey: The lower end, at least 0.
        high_grey: The upper end, at least the lower one.
        logarithmic: Whether the logarithm of the strength is drawn uniformly, so that weak noise is as
            frequent as strong noise, instead of the strength itself. Needs a lower end above 0.
    """

    low_grey: float = 0.25
    high_grey: float = 50.0
    logarithmic: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low_grey <= self.high_grey < math.inf:
            raise SettingError(
                f"strength goes from {self.low_grey} to {self.high_grey} grey levels; "
                "0 <= low_grey <= high_grey < infinity is needed"
            )
        if self.logarithmic and self.low_grey == 0:
            raise SettingError("a logarithmic strength cannot start at 0; set low_grey to 0.25, for example")

    @classmethod
    def fixed(cls, grey: float) -> "Strength":
        """Returns a strength of `grey` grey levels for every sample."""
        return cls(low_grey=grey, high_grey=grey)


def check_share(name: str, value: object) -> None:
    """Refuses what is no probability.

    Raises:
        SettingError: If it is not a number from 0 to 1.
    """
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SettingError(f"{name} is {value}, a probability from 0 to 1 is needed")


def check_range(name: str, value: object, *, least: float = 0, most: float = 1) -> None:
    """Refuses what is no pair (low, high) with `least` <= low <= high <= `most`.

    Raises:
        SettingError: If it is something else.
    """
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(end, Real) for end in value)
    if not pair or not least <= value[0] <= value[1] <= most:  # type: ignore[index]
        raise SettingError(
            f"{name} is {value}; a pair (low, high) with {least} <= low <= high <= {most} is needed"
        )


def check_strength(value: object) -> None:
    """Refuses what is no range of strengths.

    Raises:
        SettingError: If it is not a `Strength`.
    """
    if not isinstance(value, Strength):
        raise SettingError(
            f"strength is {value!r}; give Strength.fixed(25) for 25 grey levels, or Strength(low_grey=0, "
            "high_grey=50) for a range"
        )


def is_family(value: object) -> bool:
    """Whether a value has all that `Family` asks for."""
    return all(
        hasattr(value, name) for name in ("name", "distribution", "strength", "shared", "density", "factor")
    )


class Family(Protocol):
    """What `Degradation` needs to know of a family of noise."""

    @property
    def name(self) -> str:
        """The usual name of the family."""

    @property
    def distribution(self) -> Distribution:
        """The distribution of one value."""

    @property
    def strength(self) -> Strength:
        """The range of strengths."""

    @property
    def shared(self) -> float:
        """The probability that all channels of a sample share one pattern."""

    @property
    def density(self) -> Range:
        """The range of the share of values that keep their full noise."""

    @property
    def factor(self) -> Range:
        """The range of the factor on the noise of all other values."""


@runtime_checkable
class ImageFamily(Family, Protocol):
    """A family whose noise depends on the image, or on more than one value at a time.

    Then distribution, density and factor have no effect: the family draws its noise itself.
    """

    def draw_noise(
        self, images: Tensor, *, sigma: Tensor, shared: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the noise that is to be added to images.

        Args:
            images: Clean images, float (N, C, H, W), which are not changed.
            sigma: The strength for each of them, in units of [0, 1], float (N, 1, 1, 1).
            shared: Whether the channels of each share one pattern, bool (N, 1, 1, 1).
            generator: Source of all randomness, on the device of the images.

        Returns:
            The noise, float32 (N, C, H, W).
        """


@runtime_checkable
class LossyFamily(Family, Protocol):
    """A family after whose noise the image is stored with a loss."""

    @property
    def noise(self) -> Family:
        """The noise before storing."""

    @property
    def quality(self) -> Range:
        """The range of the quality of storing."""

    def store(self, images: Tensor, *, qualities: list[int]) -> Tensor:
        """Returns images as they are after storing, of the same shape and type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dense:
    """Additive noise at every pixel.

    Attributes:
        strength: The range of standard deviations.
        shared: The probability that all channels of a sample share one pattern; else each has its own.
    """

    strength: Strength = Strength()
    shared: float = 0.5

    def __post_init__(self) -> None:
        check_strength(self.strength)
        check_share("shared", self.shared)

    @property
    def density(self) -> Range:
        """All values keep their full noise."""
        return (1.0, 1.0)

    @property
    def factor(self) -> Range:
        """Without effect, since all values keep their full noise."""
        return (1.0, 1.0)


class Gaussian(_Dense):
    """Additive Gaussian noise."""

    __slots__ = ()
    name = "Gaussian"
    distribution = NORMAL


class Uniform(_Dense):
    """Additive uniform noise; its strength is the standard deviation, not the half range."""

    __slots__ = ()
    name = "uniform"
    distribution = UNIFORM


class Laplacian(_Dense):
    """Additive Laplacian noise, with heavier tails than Gaussian noise of the same standard deviation."""

    __slots__ = ()
    name = "Laplacian"
    distribution = LAPLACE


@dataclass(frozen=True, kw_only=True, slots=True)
class WrappedNoise:
    """A family that does something to the noise of another, and has its strength.

    Attributes:
        noise: The family whose noise it is.
    """

    noise: Family

    @property
    def distribution(self) -> Distribution:
        """The distribution of the wrapped noise."""
        return self.noise.distribution

    @property
    def strength(self) -> Strength:
        """The strength of the wrapped noise, before what is done to it."""
        return self.noise.strength

    @property
    def shared(self) -> float:
        """The probability that all channels share one pattern, and one mask if there is any."""
        return self.noise.shared


@dataclass(frozen=True, kw_only=True, slots=True)
class _Masked(WrappedNoise):
    """Noise of which only a random part of the values is kept in full."""

    def __post_init__(self) -> None:
        if not is_family(self.noise):
            raise SettingError(f"noise is {self.noise!r}; give a family of noise, Gaussian() for example")
        if self.noise.density != (1.0, 1.0) or isinstance(self.noise, ImageFamily | LossyFamily):
            raise SettingError(
                f"{self.noise.name} noise is masked already, replaces pixels or depends on the image; "
                "wrap Gaussian, Uniform or Laplacian noise"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparse(_Masked):
    """Noise times a Bernoulli variable: only a share of the values are noisy.

    Attributes:
        noise: The noise to make sparse; its strength is the standard deviation of the noisy values.
        density: The range of the share of noisy values, within [0, 1].
    """

    density: Range = (0.05, 0.5)

    def __post_init__(self) -> None:
        _Masked.__post_init__(self)
        check_range("density", self.density)

    @property
    def name(self) -> str:
        """The name of the wrapped noise after the word sparse."""
        return f"sparse {self.noise.name}"

    @property
    def factor(self) -> Range:
        """All other values have no noise."""
        return (0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attenuated(_Masked):
    """Noise of manipulated intensity (Sec. 4.1): a value keeps its noise or has it scaled down.

    Attributes:
        noise: The noise to attenuate; its strength is the standard deviation of the values that keep it.
        density: The range of the probability that a value keeps its noise, within [0, 1].
        factor: The range of the factor on the noise of all other values, within [0, 1].
    """

    density: Range = (0.1, 0.9)
    factor: Range = (0.0, 0.9)

    def __post_init__(self) -> None:
        _Masked.__post_init__(self)
        check_range("density", self.density)
        check_range("factor", self.factor)

    @property
    def name(self) -> str:
        """The name of the wrapped noise after the word attenuated."""
        return f"attenuated {self.noise.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SaltAndPepper:
    """Impulse noise: a share of the values becomes black or white, both equally often.

    Attributes:
        density: The range of the share of the values that are replaced, within [0, 1].
        shared: The probability that the channels of a sample share all impulses, so that whole pixels become
            black or white.
    """

    density: Range = (0.005, 0.2)
    shared: float = 0.5
    name: ClassVar[str] = "salt and pepper"
    distribution: ClassVar[Distribution] = IMPULSE
    strength: ClassVar[Strength] = Strength.fixed(GREY_LEVELS)
    factor: ClassVar[Range] = (0.0, 0.0)

    def __post_init__(self) -> None:
        check_share("shared", self.shared)
        check_range("density", self.density)
