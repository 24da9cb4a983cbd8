"""The degradation module: clean -> noisy, each sample with its own fresh noise (Sec. 4.1, Fig. 1)."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images import GREY_LEVELS, check_images
from steadylens.noise import (
    LEVELS,
    Attenuated,
    Family,
    Gaussian,
    Laplacian,
    Law,
    SaltAndPepper,
    Sparse,
    Strength,
    Uniform,
    quantiles,
)

__all__ = [
    "PAPER_FAMILIES",
    "Attenuated",
    "Degradation",
    "Drawn",
    "Gaussian",
    "Laplacian",
    "SaltAndPepper",
    "Sparse",
    "Strength",
    "Uniform",
]

PAPER_FAMILIES: tuple[Family, ...] = (
    Gaussian(),
    Uniform(),
    Sparse(noise=Gaussian()),
    Sparse(noise=Uniform()),
    Attenuated(noise=Gaussian()),
    Attenuated(noise=Uniform()),
)
"""The paper's mixture: Gaussian or uniform noise, as it is, sparsified, or with manipulated intensity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Noisy images and what was drawn for each of them, one row per noisy image.

    Attributes:
        images: The noisy images, float (N * versions, C, H, W).
        family: Index into the degradation's families, int64 (N * versions,); -1 where an image stayed clean.
        strength_grey: Standard deviation of the noise before thinning, in grey levels; 0 where clean.
        shared: Whether the channels share one pattern, bool.
        density: Share of the values that keep their full noise; 1 where clean.
        factor: Factor on the noise of all other values; 1 where there are none.
    """

    images: Tensor
    family: Tensor
    strength_grey: Tensor
    shared: Tensor
    density: Tensor
    factor: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """Clean -> noisy: a random family and a random strength for each sample, fresh noise for each value.

    Example:
        >>> degrade = Degradation(families=(Gaussian(strength=Strength.fixed(25)),))
        >>> degrade(torch.rand(4, 3, 48, 48), generator=torch.Generator().manual_seed(1)).shape
        torch.Size([4, 3, 48, 48])

    Attributes:
        families: What noise there is.
        weights: How often each family is drawn, in proportion; empty for equally often.
        versions: Noisy versions of each clean image, the paper's M; they are adjacent in the result.
        clean_share: Probability that a sample stays as it is (but for clipping and quantizing).
        clip: Whether the result is saturated to [0, 1].
        quantize: Whether the result is rounded to the nearest of the 256 grey levels, after clipping.
    """

    families: tuple[Family, ...] = PAPER_FAMILIES
    weights: tuple[float, ...] = ()
    versions: int = 1
    clean_share: float = 0.0
    clip: bool = True
    quantize: bool = True

    def __post_init__(self) -> None:
        if not self.families:
            raise SettingError("there is no family of noise; give at least one, Gaussian() for example")
        if self.weights and len(self.weights) != len(self.families):
            raise SettingError(
                f"{len(self.weights)} weights do not go with {len(self.families)} families; "
                "give one each, or none for equal weights"
            )
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < math.inf):
            raise SettingError(f"weights are {self.weights}; finite ones >= 0, not all 0, are needed")
        if self.versions < 1:
            raise SettingError(f"versions is {self.versions}, at least 1 is needed")
        if not 0 <= self.clean_share <= 1:
            raise SettingError(f"clean_share is {self.clean_share}, a probability from 0 to 1 is needed")

    @property
    def noise_mode(self) -> str:
        """How noisy values end, for tables: "clipped, 8-bit", "clipped", "unclipped, 8-bit", "unclipped"."""
        return ("clipped" if self.clip else "unclipped") + (", 8-bit" if self.quantize else "")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns noisy versions of clean images.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1]; they are not changed.
            generator: Where all randomness comes from, on the device of the images.

        Returns:
            Noisy images, float (N * versions, C, H, W) of the same type and on the same device.

        Raises:
            ImageError: If the images are no float tensor (N, C, H, W).
            SettingError: If the generator is on another device.
        """
        return self.draw(images, generator=generator).images

    def draw(self, images: Tensor, *, generator: torch.Generator) -> Drawn:
        """Returns noisy versions of clean images, and what was drawn for each.

        The same generator state gives the same images as calling the degradation. Arguments and errors
        are those of the call.
        """
        check_images(images)
        if generator.device.type != images.device.type:
            raise SettingError(
                f"the generator is on {generator.device}, the images are on {images.device}; "
                f"make it with torch.Generator({images.device.type!r})"
            )
        seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        # Small decisions are taken on the host, for they tell which kernels run at all.
        host = np.random.Generator(np.random.SFC64(int(seed)))
        bits = _HostBits(host) if images.device.type == "cpu" else _DeviceBits(generator)
        settings = self._settings(len(images) * self.versions, host)
        return Drawn(images=self._degrade(images, settings, bits), **settings.tensors(images.device))

    def _settings(self, count: int, host: np.random.Generator) -> "_Settings":
        uniforms = host.random((6, count))
        weights = np.array(self.weights or [1.0] * len(self.families))
        limits = np.cumsum(weights / weights.sum())
        family = np.minimum(np.searchsorted(limits, uniforms[0], side="right"), np.flatnonzero(weights)[-1])
        ranges = np.array([_ranges(each) for each in self.families]).T[:, family]
        low, high, logarithmic, shared, density_low, density_high, factor_low, factor_high = ranges
        linear = low + uniforms[1] * (high - low)
        safe = np.where(logarithmic > 0, low, 1)
        strength = np.where(logarithmic > 0, safe * (np.maximum(high, safe) / safe) ** uniforms[1], linear)
        settings = _Settings(
            family=family,
            strength_grey=strength,
            shared=uniforms[2] < shared,
            density=density_low + uniforms[3] * (density_high - density_low),
            factor=factor_low + uniforms[4] * (factor_high - factor_low),
        )
        settings.clean(uniforms[5] < self.clean_share)
        return settings

    def _degrade(self, images: Tensor, settings: "_Settings", bits: "_Bits") -> Tensor:
        laws = [family.law for family in self.families]
        unique = list(dict.fromkeys(laws))
        law = np.array([unique.index(each) for each in laws])[settings.family]
        law[settings.family < 0] = -1
        # Samples of one kind stand together while they are worked on: one kernel serves them all.
        key = (law * 2 + settings.shared) * 2 + (settings.factor < 1)
        order = np.argsort(key, kind="stable")
        noisy = images.index_select(0, torch.from_numpy(order // self.versions).to(images.device))
        bounds = [0, *(np.flatnonzero(np.diff(key[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(bounds):
            chosen = order[start:stop]
            if stop > start and law[chosen[0]] >= 0:
                _add_noise(noisy[start:stop], unique[law[chosen[0]]], settings.rows(chosen), bits, self.clip)
        if self.clip:
            noisy.clamp_(0, 1)
        if self.quantize:
            noisy.mul_(GREY_LEVELS).round_().div_(GREY_LEVELS)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return noisy.index_select(0, torch.from_numpy(back).to(images.device))


class _HostBits:
    def __init__(self, host: np.random.Generator) -> None:
        self.host = host

    def __call__(self, count: int) -> Tensor:
        words = self.host.integers(0, 2**64 - 1, -(-count // 4), dtype=np.uint64, endpoint=True)
        return torch.from_numpy(words.view(np.uint16)[:count].astype(np.int32))


class _DeviceBits:
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, count: int) -> Tensor:
        device = self.generator.device
        return torch.randint(LEVELS, (count,), generator=self.generator, device=device, dtype=torch.int32)


_Bits = _HostBits | _DeviceBits


@dataclass(kw_only=True, slots=True)
class _Settings:
    family: np.ndarray
    strength_grey: np.ndarray
    shared: np.ndarray
    density: np.ndarray
    factor: np.ndarray

    def clean(self, chosen: np.ndarray) -> None:
        self.family[chosen] = -1
        self.strength_grey[chosen] = 0
        self.density[chosen] = self.factor[chosen] = 1
        self.shared[chosen] = False

    def rows(self, chosen: np.ndarray) -> "_Settings":
        return _Settings(
            family=self.family[chosen],
            strength_grey=self.strength_grey[chosen],
            shared=self.shared[chosen],
            density=self.density[chosen],
            factor=self.factor[chosen],
        )

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        return {
            "family": torch.from_numpy(self.family).to(device),
            "strength_grey": torch.from_numpy(self.strength_grey.astype(np.float32)).to(device),
            "shared": torch.from_numpy(self.shared).to(device),
            "density": torch.from_numpy(self.density.astype(np.float32)).to(device),
            "factor": torch.from_numpy(self.factor.astype(np.float32)).to(device),
        }


def _ranges(family: Family) -> tuple[float, ...]:
    strength = family.strength
    return (
        strength.low_grey,
        strength.high_grey,
        float(strength.logarithmic),
        family.shared,
        *family.density,
        *family.factor,
    )


def _add_noise(noisy: Tensor, law: Law, settings: _Settings, bits: _Bits, clip: bool) -> None:
    samples, channels, height, width = noisy.shape
    shape = (samples, 1 if settings.shared[0] else channels, height, width)
    table = quantiles(law, noisy.device)
    noise = table.index_select(0, bits(math.prod(shape))).view(shape)
    if law.replaces:
        noise = noise - noisy
    else:
        noise.mul_(_column(settings.strength_grey / GREY_LEVELS, noisy))
    if not clip:
        noise.clamp_(-1, 1)
    if (settings.factor < 1).any():
        # 1 where the draw is below the threshold, else 0, without the slow comparison and selection.
        kept = bits(math.prod(shape)).view(shape).to(torch.float32)
        kept.neg_().add_(_column(np.round(settings.density * LEVELS), noisy)).clamp_(0, 1)
        factor = _column(settings.factor, noisy)
        noise.mul_(kept.mul_(1 - factor).add_(factor))
    noisy.add_(noise)


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1, 1)
