"""Noise from a pool: drawn once, then cut out at random places, when drawing it anew would take too long."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS, check_images
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import LEVELS, Family

STRENGTHS = 1 << 12
"""How many equally probable strengths stand for a family's range; half of them with the noise turned over."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoisePool:
    """A degradation whose noise comes from a pool: the same laws, many times quicker on a CPU.

    The pool is blocks of one family each, of strength 1, with the family's thinning in it. A sample gets a
    random block, a random place in it for each plane, a random strength and a random sign. So its family,
    strength, thinning and pattern vary from call to call as those of `degradation` do, but two samples in
    many share parts of a pattern, which no test of noise against noise should be made of.

    Example:
        >>> pool = NoisePool.fill(Degradation(), generator=torch.Generator().manual_seed(1), blocks=16)
        >>> pool(torch.rand(4, 3, 48, 48), generator=torch.Generator().manual_seed(2)).shape
        torch.Size([4, 3, 48, 48])

    Attributes:
        degradation: What is imitated.
        values: The noise, float (blocks, values of a block).
        families: The family of each block, int64 (blocks,).
        shared: Whether the channels share one pattern, for each block, bool (blocks,).
        strengths: Equally probable factors for each family, in units of [0, 1], float (families, K).
    """

    degradation: Degradation
    values: Tensor
    families: Tensor
    shared: Tensor
    strengths: Tensor

    @classmethod
    def fill(
        cls,
        degradation: Degradation,
        *,
        generator: torch.Generator,
        blocks: int = 128,
        block_values: int = 1 << 14,
    ) -> "NoisePool":
        """Draws a pool, by default 2 million values, 8 MiB.

        Args:
            degradation: What to imitate. Families get blocks in proportion to their weights, at least one.
            generator: Where all randomness comes from; the pool lies on its device.
            blocks: Number of blocks; each has one family, density and factor.
            block_values: Values of a block, at least four times as many as an image has pixels.

        Raises:
            SettingError: If a family replaces pixels, or there are fewer blocks than families.
        """
        families = degradation.families
        for family in families:
            if family.law.replaces:
                raise SettingError(
                    f"{family.name} noise replaces pixels, a pool holds noise that is added; leave it out"
                )
        if blocks < len(families):
            raise SettingError(f"{blocks} blocks do not do for {len(families)} families of noise")
        device = generator.device
        owners = _shares(degradation, blocks)
        strengths = [_strengths(family, degradation.clean_share) for family in families]
        return cls(
            degradation=degradation,
            values=torch.stack([_block(families[owner], block_values, generator) for owner in owners]),
            families=torch.tensor(owners, device=device),
            shared=torch.tensor(_shared(families, owners), device=device),
            strengths=torch.stack(strengths).to(device),
        )

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns noisy versions of clean images.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1], on the pool's device; they are not changed.
            generator: Where the choice comes from, on the same device.

        Returns:
            Noisy images, float (N * versions, C, H, W).

        Raises:
            ImageError: If the images are no float tensor (N, C, H, W).
            SettingError: If a plane of the images is larger than a quarter of a block.
        """
        check_images(images)
        versions, (channels, height, width) = self.degradation.versions, images.shape[1:]
        count, plane, block_values = len(images) * versions, height * width, self.values.shape[1]
        if 4 * plane > block_values:
            raise SettingError(
                f"images of {height}x{width} pixels need blocks of {4 * plane} values, "
                f"this pool's have {block_values}; fill it with block_values={4 * plane}"
            )
        device = self.values.device
        blocks = torch.randint(len(self.values), (count,), generator=generator, device=device)
        places = torch.randint(
            block_values - plane + 1, (count, channels), generator=generator, device=device
        )
        places = torch.where(self.shared.index_select(0, blocks)[:, None], places[:, :1], places)
        places = places.add_(blocks[:, None], alpha=block_values).view(-1)
        drawn = torch.randint(STRENGTHS, (count,), generator=generator, device=device)
        drawn.add_(self.families.index_select(0, blocks), alpha=STRENGTHS)
        strengths = self.strengths.view(-1).index_select(0, drawn)[:, None].expand(count, channels)

        # A window for every place where one could begin, none of them copied before it is chosen.
        windows = self.values.view(-1).unfold(0, plane, 1)
        noise = windows.index_select(0, places).to(images.dtype)
        clean = images if versions == 1 else images.repeat_interleave(versions, dim=0)
        factors = strengths.reshape(-1, 1).to(images.dtype)
        noisy = torch.addcmul(clean.reshape(noise.shape), noise, factors, out=noise)
        return self._store(noisy.view(count, channels, height, width))

    def _store(self, images: Tensor) -> Tensor:
        if self.degradation.clip:
            images.clamp_(0, 1)
        if self.degradation.quantize:
            # As images.quantize but for the last bit: a product takes a quarter of a quotient's time.
            images.mul_(GREY_LEVELS).round_().mul_(1 / GREY_LEVELS)
        return images


def _shares(degradation: Degradation, blocks: int) -> list[int]:
    """Returns the family of each block: one for each, the others where most is missing to its weight."""
    weights = degradation.weights or (1.0,) * len(degradation.families)
    counts = [1 if weight else 0 for weight in weights]
    while sum(counts) < blocks:
        missing = [
            weight / sum(weights) * blocks - count for weight, count in zip(weights, counts, strict=True)
        ]
        counts[missing.index(max(missing))] += 1
    return [owner for owner, count in enumerate(counts) for _ in range(count)]


def _shared(families: tuple[Family, ...], owners: list[int]) -> list[bool]:
    """Returns whether each block is for samples whose channels share one pattern, in each family's share."""
    flags = []
    for owner, family in enumerate(families):
        count = owners.count(owner)
        flags += [number < round(family.shared * count) for number in range(count)]
    return flags


def _block(family: Family, size: int, generator: torch.Generator) -> Tensor:
    """Returns noise of strength 1 and of one density and factor, (size,)."""
    device = generator.device

    def bits() -> Tensor:
        return torch.randint(LEVELS, (size,), generator=generator, device=device, dtype=torch.int32)

    values = torch.empty(size, device=device)
    family.law.fill(values, bits())
    positions = torch.rand(2, generator=generator, device=device).tolist()
    density, factor = (
        low + position * (high - low)
        for position, (low, high) in zip(positions, (family.density, family.factor), strict=True)
    )
    if factor < 1:
        values.mul_(torch.where(bits() < round(density * LEVELS), 1.0, factor))
    return values


def _strengths(family: Family, clean_share: float) -> Tensor:
    """Returns the factors of a family at the middles of equally probable cells, both signs alike, (K,)."""
    half = (torch.arange(STRENGTHS // 2, dtype=torch.float64) + 0.5) / (STRENGTHS // 2)
    position = ((half - clean_share) / (1 - clean_share)) if clean_share < 1 else half - 1
    low, high = family.strength.low_grey, family.strength.high_grey
    if family.strength.logarithmic:
        strength = torch.exp(math.log(low) + position * math.log(high / low))
    else:
        strength = low + position * (high - low)
    strength = torch.where(position < 0, 0.0, strength) / GREY_LEVELS
    return torch.cat([strength, -strength]).float()
