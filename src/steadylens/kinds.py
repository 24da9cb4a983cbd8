"""Noise to choose: its kind by name, and every setting that a family would draw at random, fixed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steadylens.degradation import Degradation
from steadylens.errors import SettingError
from steadylens.images import GREY_LEVELS
from steadylens.noise import Attenuated, Family, Gaussian, Laplacian, SaltAndPepper, Sparse, Strength, Uniform

ATTENUATION = 0.25
"""The factor on the noise of those values that attenuated noise does not keep."""

HIGHEST_SEED = 2**53
"""The highest seed; up to it, a page's numbers are exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of noise, and which of the settings it has.

    Attributes:
        family: Makes the family from the strength, the share of noisy values, and the probability that the
            channels share one pattern.
        has_strength: Whether it depends on the strength.
        has_share: Whether it depends on the share.
        note: What else there is to know of it.
    """

    family: Callable[[Strength, float, float], Family]
    has_strength: bool = True
    has_share: bool = False
    note: str = ""


def _dense(noise: type[Gaussian | Uniform | Laplacian]) -> Kind:
    return Kind(family=lambda strength, _, shared: noise(strength=strength, shared=shared))


def _sparse(noise: type[Gaussian | Uniform]) -> Kind:
    def family(strength: Strength, share: float, shared: float) -> Family:
        return Sparse(noise=noise(strength=strength, shared=shared), density=(share, share))

    return Kind(family=family, has_share=True, note="the other values stay clean")


def _attenuated(noise: type[Gaussian | Uniform]) -> Kind:
    def family(strength: Strength, share: float, shared: float) -> Family:
        wrapped = noise(strength=strength, shared=shared)
        return Attenuated(noise=wrapped, density=(share, share), factor=(ATTENUATION, ATTENUATION))

    return Kind(family=family, has_share=True, note="the other values get a quarter of the noise")


def _impulses(strength: Strength, share: float, shared: float) -> Family:
    return SaltAndPepper(density=(share, share), shared=shared)


KINDS: Mapping[str, Kind] = {
    "Gaussian": _dense(Gaussian),
    "uniform": _dense(Uniform),
    "Laplacian": _dense(Laplacian),
    "sparse Gaussian": _sparse(Gaussian),
    "sparse uniform": _sparse(Uniform),
    "attenuated Gaussian": _attenuated(Gaussian),
    "attenuated uniform": _attenuated(Uniform),
    "salt and pepper": Kind(
        family=_impulses, has_strength=False, has_share=True, note="black and white equally often"
    ),
}
"""The kinds of noise, by the names that their families have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What noise an image gets.

    Attributes:
        kind: Its kind, one of `KINDS`.
        strength_grey: Standard deviation of the noisy values, in grey levels, from 0 to 255.
        share: Share of the values that are noisy, for kinds that thin the noise, from 0 to 1.
        shared: Whether the three channels share one pattern, so that the noise is grey.
        seed: What the noise is drawn from; the same settings and the same image give the same noise.

    Raises:
        SettingError: If a setting is out of its range.
    """

    kind: Kind
    strength_grey: float = 20.0
    share: float = 0.2
    shared: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength_grey <= GREY_LEVELS:
            raise SettingError(f"the strength is {self.strength_grey}; choose from 0 to 255 grey levels")
        if not 0 <= self.share <= 1:
            raise SettingError(f"the share of noisy values is {self.share}; choose from 0 to 1")
        check_seed(self.seed)

    def add(self, images: Tensor) -> Tensor:
        """Returns the noisy images, float (N, C, H, W), clipped and rounded to 8 bits as a camera does.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1], on the CPU.
        """
        family = self.kind.family(Strength.fixed(self.strength_grey), self.share, float(self.shared))
        generator = torch.Generator().manual_seed(self.seed)
        return Degradation(families=(family,))(images, generator=generator)


def check_seed(seed: int | None) -> None:
    """Refuses what is no seed.

    Raises:
        SettingError: If it is not an integer from 0 to `HIGHEST_SEED`.
    """
    if not isinstance(seed, int) or not 0 <= seed <= HIGHEST_SEED:
        raise SettingError(f"a seed is {seed}; choose a whole number, 0 or above")
