"""Noise from a pool: drawn once, then cut out at random positions, where new noise takes too long."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS, check_images
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import QUANTILE_COUNT, Family, ImageFamily, LossyFamily

STRENGTH_COUNT = 1 << 12
"""Number of equally probable factors that represent a family's strengths; half of them are negative."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoisePool:
    """A degradation whose noise comes from a pool: the same distributions, many times faster on a CPU.

    The pool consists of blocks of noise of strength 1; each block has one family and one mask. A sample gets
    a random block, a random position in it for each plane, a random strength and a random sign. So its
    family, strength, mask and pattern vary from call to call as those of `degradation` do. But some samples
    share parts of a pattern: do not use a pool where samples must be statistically independent.

    Example:
        >>> pool = NoisePool.fill(Degradation(), generator=torch.Generator().manual_seed(1), blocks=16)
        >>> pool(torch.rand(4, 3, 48, 48), generator=torch.Generator().manual_seed(2)).shape
        torch.Size([4, 3, 48, 48])

    Attributes:
        degradation: The degradation that the pool imitates.
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
        """Draws a pool, by default of 2 million values, 8 MiB.

        Args:
            degradation: The degradation to imitate. Families get blocks in proportion to their weights, at
                least one each.
            generator: Source of all randomness; the pool is on its device.
            blocks: Number of blocks; each has one family, density and factor.
            block_values: Values in a block, at least four times as many as an image has pixels.

        Raises:
            SettingError: If a family replaces pixels or depends on the image, or there are fewer blocks than
                families.
        """
        families = degradation.families
        for family in families:
            if isinstance(family, ImageFamily | LossyFamily):
                raise SettingError(
                    f"{family.name} noise depends on the image, a pool holds noise without it; leave it out"
                )
            if family.distribution.replaces:
                raise SettingError(
                    f"{family.name} noise replaces pixels, a pool holds noise that is added; leave it out"
                )
        if blocks < len(families):
            raise SettingError(
                f"blocks is {blocks}, at least one for each of the {len(families)} families is needed"
            )
        device = generator.device
        family_of_block = _families_of_blocks(degradation, blocks)
        strengths = [_strengths(family, degradation.clean_share) for family in families]
        values = [_block(families[index], block_values, generator) for index in family_of_block]
        return cls(
            degradation=degradation,
            values=torch.stack(values),
            families=torch.tensor(family_of_block, device=device),
            shared=torch.tensor(_sharing_of_blocks(families, family_of_block), device=device),
            strengths=torch.stack(strengths).to(device),
        )

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Returns noisy versions of clean images.

        Args:
            images: Clean images, float (N, C, H, W) in [0, 1], on the pool's device; they are not changed.
            generator: Source of all randomness, on the same device.

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
        positions = torch.randint(
            block_values - plane + 1, (count, channels), generator=generator, device=device
        )
        positions = torch.where(self.shared.index_select(0, blocks)[:, None], positions[:, :1], positions)
        positions = positions.add_(blocks[:, None], alpha=block_values).view(-1)
        drawn = torch.randint(STRENGTH_COUNT, (count,), generator=generator, device=device)
        drawn.add_(self.families.index_select(0, blocks), alpha=STRENGTH_COUNT)
        strengths = self.strengths.view(-1).index_select(0, drawn)[:, None].expand(count, channels)

        # A view of the window at every position; only those that are chosen are copied.
        windows = self.values.view(-1).unfold(0, plane, 1)
        noise = windows.index_select(0, positions).to(images.dtype)
        clean = images if versions == 1 else images.repeat_interleave(versions, dim=0)
        factors = strengths.reshape(-1, 1).to(images.dtype)
        noisy = torch.addcmul(clean.reshape(noise.shape), noise, factors, out=noise)
        return self._store(noisy.view(count, channels, height, width))

    def _store(self, images: Tensor) -> Tensor:
        if self.degradation.clip:
            images.clamp_(0, 1)
        if self.degradation.quantize:
            # Equal to `quantize` but for the last bit: multiplying takes a quarter of the time of dividing.
            images.mul_(GREY_LEVELS).round_().mul_(1 / GREY_LEVELS)
        return images


def _families_of_blocks(degradation: Degradation, blocks: int) -> list[int]:
    """Returns the family of each block: one block for each, the others in proportion to the weights."""
    weights = degradation.weights or (1.0,) * len(degradation.families)
    counts = [1 if weight else 0 for weight in weights]
    while sum(counts) < blocks:
        missing = [
            weight / sum(weights) * blocks - count for weight, count in zip(weights, counts, strict=True)
        ]
        counts[missing.index(max(missing))] += 1
    return [index for index, count in enumerate(counts) for _ in range(count)]


def _sharing_of_blocks(families: tuple[Family, ...], family_of_block: list[int]) -> list[bool]:
    """Returns for each block whether channels share one pattern, as often as its family says."""
    flags = []
    for index, family in enumerate(families):
        count = family_of_block.count(index)
        flags += [number < round(family.shared * count) for number in range(count)]
    return flags


def _block(family: Family, size: int, generator: torch.Generator) -> Tensor:
    """Returns noise of strength 1 and of one density and factor, (size,)."""
    device = generator.device

    def bits() -> Tensor:
        return torch.randint(QUANTILE_COUNT, (size,), generator=generator, device=device, dtype=torch.int32)

    values = torch.empty(size, device=device)
    family.distribution.fill(values, bits())
    positions = torch.rand(2, generator=generator, device=device).tolist()
    density, factor = (
        low + position * (high - low)
        for position, (low, high) in zip(positions, (family.density, family.factor), strict=True)
    )
    if factor < 1:
        values.mul_(torch.where(bits() < round(density * QUANTILE_COUNT), 1.0, factor))
    return values


def _strengths(family: Family, clean_share: float) -> Tensor:
    """Returns a family's factors at the middles of equally probable intervals, with both signs, (K,)."""
    half = (torch.arange(STRENGTH_COUNT // 2, dtype=torch.float64) + 0.5) / (STRENGTH_COUNT // 2)
    position = ((half - clean_share) / (1 - clean_share)) if clean_share < 1 else half - 1
    low, high = family.strength.low_grey, family.strength.high_grey
    if family.strength.logarithmic:
        strength = torch.exp(math.log(low) + position * math.log(high / low))
    else:
        strength = low + position * (high - low)
    strength = torch.where(position < 0, 0.0, strength) / GREY_LEVELS
    return torch.cat([strength, -strength]).float()
