"""The degradation module adds new random noise to each clean image (Sec. 4.1, Fig. 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS, check_images, quantize
from steadylens.noise.families import (
    QUANTILE_COUNT,
    Attenuated,
    Distribution,
    Family,
    Gaussian,
    ImageFamily,
    LossyFamily,
    Sparse,
    Strength,
    Uniform,
    is_family,
)

PAPER_FAMILIES: tuple[Family, ...] = (
    Gaussian(),
    Uniform(),
    Sparse(noise=Gaussian()),
    Sparse(noise=Uniform()),
    Attenuated(noise=Gaussian()),
    Attenuated(noise=Uniform()),
)
"""The paper's mixture: Gaussian or uniform noise, as it is, sparsified, or with manipulated intensity."""


def described(settings: Any, *, newer: str) -> str:
    """Returns settings as a dataclass's `repr` does, but leaves out a newer one that is not used.

    The text is a part of what identifies a training, so one without the newer setting stays valid.

    Args:
        settings: A dataclass.
        newer: The name of the setting that is left out where it is 0.
    """
    names = [each.name for each in fields(settings) if each.name != newer or getattr(settings, newer)]
    values = ", ".join(f"{name}={getattr(settings, name)!r}" for name in names)
    return f"{type(settings).__name__}({values})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Noisy images and the settings that were drawn for each of them.

    Attributes:
        images: The noisy images, float (N * versions, C, H, W).
        family: Index into the degradation's families, int64 (N * versions,); -1 where an image stayed clean.
        strength_grey: Standard deviation of the noise before masking, in grey levels, on mid-grey if it
            depends on brightness; or the height of impulses, 255; 0 where clean.
        shared: Whether the channels share one pattern, bool.
        density: Share of the values that keep their full noise; 1 where clean.
        factor: Factor on the noise of all other values; 1 where there are none.
        quality: Quality at which the noisy image was stored as JPEG, int64; 0 where it was not.
    """

    images: Tensor
    family: Tensor
    strength_grey: Tensor
    shared: Tensor
    density: Tensor
    factor: Tensor
    quality: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """Makes clean images noisy: each sample gets a random family and strength, each value its own noise.

    Example:
        >>> degrade = Degradation(families=(Gaussian(strength=Strength.fixed(25)),))
        >>> degrade(torch.rand(4, 3, 48, 48), generator=torch.Generator().manual_seed(1)).shape
        torch.Size([4, 3, 48, 48])

    Attributes:
        families: The families to draw from.
        weights: How often each family is drawn, in proportion; empty for equally often.
        versions: Noisy versions of each clean image, the paper's M; they are adjacent in the result.
        clean_share: Probability that a sample stays as it is (but for clipping and quantizing).
        clip: Whether the result is saturated to [0, 1].
        quantize: Whether the result is rounded to the nearest of the 256 grey levels, after clipping.
        unclipped_share: Probability that a sample is neither clipped nor rounded, whatever the others are.
    """

    families: tuple[Family, ...] = PAPER_FAMILIES
    weights: tuple[float, ...] = ()
    versions: int = 1
    clean_share: float = 0.0
    clip: bool = True
    quantize: bool = True
    unclipped_share: float = 0.0

    def __post_init__(self) -> None:
        _check_families(self.families)
        object.__setattr__(self, "families", tuple(self.families))
        object.__setattr__(self, "weights", tuple(self.weights))
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
        for name, share in (("clean_share", self.clean_share), ("unclipped_share", self.unclipped_share)):
            if not 0 <= share <= 1:
                raise SettingError(f"{name} is {share}, a probability from 0 to 1 is needed")

    def __repr__(self) -> str:
        """Returns all settings, but `unclipped_share` only if there is one: older trainings knew none."""
        return described(self, newer="unclipped_share")

    @property
    def noise_mode(self) -> str:
        """How noisy images are stored: "clipped, 8-bit", "clipped", "unclipped, 8-bit" or "unclipped"."""
        return ("clipped" if self.clip else "unclipped") + (", 8-bit" if self.quantize else "")

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns noisy versions of clean images.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1]; they are not changed.
            generator: Source of all randomness, on the device of the images.

        Returns:
            Noisy images, float (N * versions, C, H, W) of the same type and on the same device.

        Raises:
            ImageError: If the images are no float tensor (N, C, H, W).
            SettingError: If the generator is on another device.
        """
        return self._degrade(images, generator)[0]

    def draw(self, images: Tensor, *, generator: torch.Generator) -> Drawn:
        """Returns noisy versions of clean images, and the settings that were drawn for each.

        The same generator state gives the same images as calling the degradation. Arguments and errors
        are those of the call.
        """
        noisy, settings = self._degrade(images, generator)
        names = ("family", "strength_grey", "shared", "density", "factor", "quality")
        drawn = {name: torch.from_numpy(getattr(settings, name)).to(images.device) for name in names}
        return Drawn(images=noisy, **drawn)

    def stored(self, images: Tensor) -> Tensor:
        """Returns images, restored ones for example, clipped and rounded as the noisy images are.

        Without regard to `unclipped_share`.
        """
        return self._store(images.clone())

    def _degrade(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, "_SampleSettings"]:
        check_images(images)
        if generator.device.type != images.device.type:
            raise SettingError(
                f"the generator is on {generator.device}, the images are on {images.device}; "
                f"make it with torch.Generator({images.device.type!r})"
            )
        seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        # Settings are drawn on the CPU, because they decide which kernels run.
        host = np.random.Generator(np.random.SFC64(int(seed)))
        settings = self._draw_settings(len(images) * self.versions, host)
        source = host if images.device.type == "cpu" else generator

        # Samples of one kind are processed together, by one kernel.
        plain, special = _special(self.families)
        planes = np.where(plain[settings.family], np.where(settings.shared, 1, images.shape[1]), 0)
        order = np.lexsort((settings.distribution, settings.masked, planes))
        noisy = images.index_select(0, torch.from_numpy(order // self.versions).to(images.device))
        distributions, _, _ = _ranges(self.families)
        bits = _Bits(int((planes * (1 + settings.masked)).sum()) * math.prod(images.shape[2:]), source)
        for start, stop in _runs(planes[order]):
            chosen = order[start:stop]
            if planes[chosen[0]]:
                _add_noise(
                    noisy[start:stop],
                    int(planes[chosen[0]]),
                    settings.take(chosen),
                    distributions,
                    bits,
                    clip=self.clip,
                )
        for index in special:
            rows = np.flatnonzero(settings.family[order] == index)
            if len(rows):
                taken = settings.take(order[rows])
                self._add_special_noise(noisy, rows, self.families[index], taken, generator)
        noisy = self._store_each(noisy, settings.unclipped[order])
        if (np.diff(order) > 0).all():
            return noisy, settings
        return noisy.index_select(0, torch.from_numpy(np.argsort(order)).to(images.device)), settings

    def _add_special_noise(
        self,
        noisy: Tensor,
        rows: NDArray[np.int64],
        family: Family,
        settings: "_SampleSettings",
        generator: torch.Generator,
    ) -> None:
        """Adds noise that depends on the image in place to samples of one family, and stores lossy ones."""
        chosen = torch.from_numpy(rows).to(noisy.device)
        images = noisy.index_select(0, chosen)
        source = family.noise if isinstance(family, LossyFamily) else family
        if isinstance(source, ImageFamily):
            noise = source.draw_noise(
                images,
                sigma=_column(settings.strength_grey, noisy.device) / GREY_LEVELS,
                shared=_column(settings.shared, noisy.device),
                generator=generator,
            )
            images = images.add_(noise if self.clip else noise.clamp_(-1, 1))
        if isinstance(family, LossyFamily):
            images = family.store(images, qualities=settings.quality.tolist())
        noisy.index_copy_(0, chosen, images)

    def _store(self, images: Tensor) -> Tensor:
        if self.clip:
            images.clamp_(0, 1)
        return quantize(images) if self.quantize else images

    def _store_each(self, images: Tensor, unclipped: NDArray[np.bool_]) -> Tensor:
        """Returns the images stored, but for those that are to stay unclipped."""
        if not unclipped.any():
            return self._store(images)
        kept = torch.from_numpy(unclipped).to(images.device).view(-1, 1, 1, 1)
        return torch.where(kept, images, self.stored(images))

    def _draw_settings(self, count: int, host: np.random.Generator) -> "_SampleSettings":
        pick, stay, position, share, density, factor = host.random((6, count), dtype=np.float32)
        weights = np.cumsum(self.weights or [1.0] * len(self.families))
        family = np.searchsorted(weights, pick * weights[-1], side="right")
        _, distribution, ranges = _ranges(self.families)
        low, high, logarithmic, shared, density_low, density_high, factor_low, factor_high = ranges[:, family]
        strength = low + position * (high - low)
        if logarithmic.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                strength = np.where(logarithmic, low * (high / low) ** position, strength)
        settings = _SampleSettings(
            family=family,
            distribution=distribution[family],
            strength_grey=strength,
            shared=share < shared,
            density=density_low + density * (density_high - density_low),
            factor=factor_low + factor * (factor_high - factor_low),
            quality=self._draw_qualities(family, host),
            unclipped=self._draw_unclipped(count, host),
        )
        settings.keep_clean(stay < self.clean_share)
        return settings

    def _draw_unclipped(self, count: int, host: np.random.Generator) -> NDArray[np.bool_]:
        if not self.unclipped_share:  # nothing is drawn, so that random numbers stay what they were
            return np.zeros(count, np.bool_)
        return host.random(count, dtype=np.float32) < self.unclipped_share

    def _draw_qualities(self, family: NDArray[np.int64], host: np.random.Generator) -> NDArray[np.int64]:
        """Returns the quality at which each sample is stored; without lossy families nothing is drawn."""
        ends = _qualities(self.families)
        if not ends.any():
            return np.zeros(len(family), np.int64)
        low, high = ends[family].T
        drawn: NDArray[np.int64] = low + (host.random(len(family)) * (high - low + 1)).astype(np.int64)
        return drawn


@cache
def _special(families: tuple[Family, ...]) -> tuple[NDArray[np.bool_], list[int]]:
    """Returns which families have noise that is drawn value by value, and which need a step of their own.

    Returns:
        Whether the noise is independent of the image, bool (families + 1,): the last is for clean samples.
        The families whose noise is not, or after which the image is stored, as indices.
    """
    sources = [family.noise if isinstance(family, LossyFamily) else family for family in families]
    plain = [not isinstance(source, ImageFamily) for source in sources]
    special = [
        index for index, family in enumerate(families) if not plain[index] or isinstance(family, LossyFamily)
    ]
    return np.array([*plain, False]), special


def _check_families(families: object) -> None:
    if not isinstance(families, Sequence) or not all(map(is_family, families)):
        raise SettingError(
            f"families is {families!r}; give a tuple of families of noise, such as (Gaussian(), Uniform())"
        )


def gaussian_degradation(sigma_grey: float, *, clip: bool = True, quantize: bool = True) -> Degradation:
    """Returns the degradation of Table 4: Gaussian noise of one strength, independent in every channel.

    Args:
        sigma_grey: The standard deviation in grey levels of 255.
        clip: Whether noisy images are clipped to [0, 1].
        quantize: Whether they are rounded to 8 bits.

    Raises:
        SettingError: If the strength is negative or not finite.
    """
    family = Gaussian(strength=Strength.fixed(sigma_grey), shared=0)
    return Degradation(families=(family,), clip=clip, quantize=quantize)


@dataclass(kw_only=True, slots=True)
class _SampleSettings:
    """The settings that are drawn once per sample, one entry for each sample."""

    family: NDArray[np.int64]
    distribution: NDArray[np.int64]
    strength_grey: NDArray[np.float32]
    shared: NDArray[np.bool_]
    density: NDArray[np.float32]
    factor: NDArray[np.float32]
    quality: NDArray[np.int64]
    unclipped: NDArray[np.bool_]

    @property
    def masked(self) -> NDArray[np.bool_]:
        return self.factor < 1

    def take(self, chosen: NDArray[np.int64]) -> "_SampleSettings":
        return _SampleSettings(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})

    def keep_clean(self, chosen: NDArray[np.bool_]) -> None:
        self.family[chosen] = -1
        self.shared[chosen] = False
        self.strength_grey[chosen] = self.quality[chosen] = 0
        self.density[chosen] = self.factor[chosen] = 1


@cache
def _ranges(
    families: tuple[Family, ...],
) -> tuple[tuple[Distribution, ...], NDArray[np.int64], NDArray[np.float32]]:
    """Returns the distributions, each family's index into them, and the ends of its ranges (8, families)."""
    distributions = tuple(dict.fromkeys(family.distribution for family in families))
    ranges = [
        (
            family.strength.low_grey,
            family.strength.high_grey,
            family.strength.logarithmic,
            family.shared,
            *family.density,
            *family.factor,
        )
        for family in families
    ]
    index = np.array([distributions.index(family.distribution) for family in families])
    return distributions, index, np.array(ranges, np.float32).T


@cache
def _qualities(families: tuple[Family, ...]) -> NDArray[np.int64]:
    """Returns the ends of each family's range of qualities, (families, 2); 0 where nothing is stored."""
    ends = [family.quality if isinstance(family, LossyFamily) else (0, 0) for family in families]
    return np.round(ends).astype(np.int64)


class _Bits:
    """The 16 random bits of every value of a batch, drawn all at once."""

    def __init__(self, count: int, source: np.random.Generator | torch.Generator) -> None:
        if isinstance(source, np.random.Generator):
            words: NDArray[np.uint64] = source.bit_generator.random_raw(-(-count // 4))
            self.left = torch.from_numpy(words.view(np.uint16))
        else:
            self.left = torch.randint(
                QUANTILE_COUNT, (count,), generator=source, device=source.device, dtype=torch.int32
            )

    def take(self, count: int) -> Tensor:
        taken, self.left = self.left[:count], self.left[count:]
        return taken


def _add_noise(
    noisy: Tensor,
    planes: int,
    settings: _SampleSettings,
    distributions: tuple[Distribution, ...],
    bits: _Bits,
    *,
    clip: bool,
) -> None:
    """Adds noise in place to samples whose noise has `planes` planes; masked samples come last."""
    samples, _, height, width = noisy.shape
    size = planes * height * width
    noise = torch.empty(samples * size, device=noisy.device)
    runs = [
        (start, stop, distributions[settings.distribution[start]])
        for start, stop in _runs(settings.distribution)
    ]
    drawn = bits.take(samples * size)
    for start, stop, distribution in runs:
        distribution.fill(noise[start * size : stop * size], drawn[start * size : stop * size])
    noise = noise.view(samples, planes, height, width)
    noise.mul_(_column(settings.strength_grey, noisy.device) / GREY_LEVELS)
    if not clip:
        noise.clamp_(-1, 1)
    first = samples - int(settings.masked.sum())
    if first < samples:
        share = _share_of_noise(bits, noise[first:], settings, first)
        for start, stop, distribution in runs:
            if distribution.replaces:
                noisy[start:stop].mul_(1 - share[start - first : stop - first])
        noise[first:].mul_(share)
    noisy.add_(noise)


def _share_of_noise(bits: _Bits, noise: Tensor, settings: _SampleSettings, first: int) -> Tensor:
    """Returns 1 with the probability `density` of each sample, else its `factor`, in the noise's shape."""
    below = _column(np.round(settings.density[first:] * QUANTILE_COUNT), noise.device)
    factor = _column(settings.factor[first:], noise.device)
    # Subtracting and clamping integers gives what comparing them gives, several times faster on a CPU.
    share = bits.take(noise.numel()).to(torch.float32).view(noise.shape)
    torch.sub(below, share, out=share).clamp_(max=1)
    return torch.maximum(share, factor, out=share)


def _runs(keys: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns the bounds of the runs of equal keys."""
    return list(pairwise([0, *(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)])) if len(keys) else []


def _column(values: NDArray[np.float32] | NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device).view(-1, 1, 1, 1)
