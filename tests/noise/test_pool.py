"""A pool of noise has the distributions of the degradation that it imitates, and each call differs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens.errors import ImageError, SettingError
from steadylens.images.tensors import quantize
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import (
    Attenuated,
    Family,
    Gaussian,
    Laplacian,
    SaltAndPepper,
    Sparse,
    Strength,
    Uniform,
)
from steadylens.noise.pool import NoisePool

FIXED = Strength.fixed(20)
FAMILIES: tuple[Family, ...] = (
    Gaussian(strength=FIXED, shared=0),
    Uniform(strength=FIXED, shared=0),
    Laplacian(strength=FIXED, shared=0),
    Sparse(noise=Gaussian(strength=FIXED, shared=0), density=(0.3, 0.3)),
    Attenuated(noise=Uniform(strength=FIXED, shared=0), density=(0.5, 0.5), factor=(0.2, 0.2)),
)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unclipped(*families: Family, **settings: float) -> Degradation:
    return Degradation(families=families, clip=False, quantize=False, **settings)  # type: ignore[arg-type]


def noise_of(degradation: Degradation, count: int = 200, blocks: int = 32) -> torch.Tensor:
    """Returns the noise that the pool adds to grey images of 32x32 pixels."""
    pool = NoisePool.fill(degradation, generator=seeded(), blocks=blocks)
    clean = torch.full((count, 3, 32, 32), 0.5)
    return pool(clean, generator=seeded(2)) - 0.5


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_mean_and_spread_are_those_of_the_degradation(family: Family) -> None:
    degradation = unclipped(family)
    drawn = degradation(torch.full((200, 3, 32, 32), 0.5), generator=seeded()) - 0.5
    noise = noise_of(degradation)
    assert noise.mean().abs() < 2e-3
    assert noise.std().item() == pytest.approx(drawn.std().item(), rel=0.02)
    kurtosis = [(each / each.std()).pow(4).mean().item() for each in (noise, drawn)]
    assert kurtosis[0] == pytest.approx(kurtosis[1], rel=0.05)


def test_sparse_noise_leaves_the_other_values_alone() -> None:
    noise = noise_of(unclipped(FAMILIES[3]))
    assert (noise != 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_channels_share_one_pattern_as_often_as_the_family_says(share: float) -> None:
    noise = noise_of(unclipped(Gaussian(strength=FIXED, shared=share)), count=1000)
    alike = (noise[:, 0] == noise[:, 1]).flatten(1).all(1) & (noise[:, 0] == noise[:, 2]).flatten(1).all(1)
    assert alike.float().mean().item() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_strengths_fill_their_range_evenly(logarithmic: bool) -> None:
    strength = Strength(low_grey=1, high_grey=50, logarithmic=logarithmic)
    noise = noise_of(unclipped(Gaussian(strength=strength, shared=0)), count=2000)
    grey = 255 * noise.flatten(1).std(1)
    position = (grey.log() / torch.tensor(50.0).log()) if logarithmic else (grey - 1) / 49
    quartiles = torch.quantile(position, torch.tensor([0.25, 0.5, 0.75]))
    assert torch.allclose(quartiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.05)


def test_a_share_of_the_samples_stays_clean() -> None:
    noise = noise_of(unclipped(Gaussian(strength=FIXED), clean_share=0.3), count=2000)
    assert (noise == 0).flatten(1).all(1).float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_families_get_blocks_in_proportion_to_their_weights() -> None:
    degradation = Degradation(families=FAMILIES[:3], weights=(4, 0, 1))
    pool = NoisePool.fill(degradation, generator=seeded(), blocks=20)
    assert torch.bincount(pool.families, minlength=3).tolist() == [16, 0, 4]


def test_neighbouring_values_planes_and_samples_are_independent() -> None:
    noise = noise_of(unclipped(FAMILIES[0]), count=400)
    noise = noise / noise.std()
    for one, other in (
        (noise[..., :-1], noise[..., 1:]),
        (noise[..., :-1, :], noise[..., 1:, :]),
        (noise[:, 0], noise[:, 1]),
        (noise[:-1], noise[1:]),
    ):
        assert (one * other).mean().abs() < 5e-3


def test_every_call_differs_and_the_same_generator_state_gives_the_same() -> None:
    pool = NoisePool.fill(Degradation(), generator=seeded(), blocks=16)
    clean, generator = torch.rand(8, 3, 24, 24, generator=seeded()), seeded(3)
    first, second = pool(clean, generator=generator), pool(clean, generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, pool(clean, generator=seeded(3)))


def test_clean_images_are_not_changed_and_versions_are_adjacent() -> None:
    pool = NoisePool.fill(unclipped(FAMILIES[0], versions=3), generator=seeded(), blocks=4)
    clean = torch.linspace(0, 1, 4).view(4, 1, 1, 1).repeat(1, 3, 16, 16)
    before = clean.clone()
    noisy = pool(clean, generator=seeded())
    assert torch.equal(clean, before)
    assert torch.allclose(
        noisy.mean(dim=(1, 2, 3)), before.mean(dim=(1, 2, 3)).repeat_interleave(3), atol=0.02
    )


@given(clip=st.booleans(), quantized=st.booleans(), seed=st.integers(0, 99))
def test_clipping_and_rounding_follow_the_degradation(clip: bool, quantized: bool, seed: int) -> None:
    degradation = Degradation(families=FAMILIES, clip=clip, quantize=quantized)
    pool = NoisePool.fill(degradation, generator=seeded(seed), blocks=8, block_values=1024)
    noisy = pool(torch.rand(20, 3, 16, 16, generator=seeded(seed)), generator=seeded(seed))
    assert ((noisy < 0) | (noisy > 1)).any().item() is not clip
    assert torch.allclose(noisy, quantize(noisy), atol=1e-6) is quantized


def test_families_that_replace_pixels_are_refused() -> None:
    with pytest.raises(SettingError, match="salt and pepper noise replaces pixels"):
        NoisePool.fill(Degradation(families=(SaltAndPepper(),)), generator=seeded())


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(SettingError, match="blocks is 2, at least one for each of the 6 families"):
        NoisePool.fill(Degradation(), generator=seeded(), blocks=2)


def test_images_too_large_for_a_block_are_refused_with_the_size_that_is_needed() -> None:
    pool = NoisePool.fill(Degradation(), generator=seeded(), blocks=6, block_values=1000)
    with pytest.raises(SettingError, match="block_values=1024"):
        pool(torch.rand(1, 3, 16, 16), generator=seeded())


def test_anything_but_a_batch_of_images_is_refused() -> None:
    pool = NoisePool.fill(replace(Degradation(), clip=False), generator=seeded(), blocks=6)
    with pytest.raises(ImageError, match="must be float"):
        pool(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), generator=seeded())
