"""The degradation module: statistics against SciPy, and what its settings promise.

Tolerances are five standard errors of the measured number, so that correct code fails once in a million runs.
"""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.images.tensors import to_float, to_uint8
from steadylens.noise.degradation import PAPER_FAMILIES, Degradation, Drawn, gaussian_degradation
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

SIGMA = Strength.fixed(20)
DENSE = [
    (Gaussian, scipy.stats.norm(0, 20)),
    (Uniform, scipy.stats.uniform(-20 * math.sqrt(3), 40 * math.sqrt(3))),
    (Laplacian, scipy.stats.laplace(0, 20 / math.sqrt(2))),
]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(samples: int = 40, channels: int = 3, size: int = 32) -> Tensor:
    return torch.full((samples, channels, size, size), 0.5)


def noise_grey(family: Family, images: Tensor | None = None, seed: int = 1) -> Tensor:
    """Returns the noise that one family adds, in grey levels, neither clipped nor rounded."""
    images = grey() if images is None else images
    degrade = Degradation(families=(family,), clip=False, quantize=False)
    return (degrade(images, generator=seeded(seed)) - images).double() * 255


def spread_tolerance(noise: Tensor) -> float:
    """Returns five standard errors of a standard deviation, from the sample's own fourth moment."""
    variance = noise.var().item()
    return 5 * math.sqrt(((noise**4).mean().item() - variance**2) / noise.numel()) / (2 * math.sqrt(variance))


def correlation(noise: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([noise[:, 0].flatten(), noise[:, 1].flatten()]))[0, 1])


@pytest.mark.parametrize(("family", "oracle"), DENSE, ids=["Gaussian", "uniform", "Laplacian"])
def test_dense_noise_follows_its_distribution(family: Any, oracle: scipy.stats.rv_continuous) -> None:
    noise = noise_grey(family(strength=SIGMA, shared=0))
    assert noise.mean().item() == pytest.approx(0, abs=5 * 20 / math.sqrt(noise.numel()))
    assert noise.std().item() == pytest.approx(20, abs=spread_tolerance(noise))
    # Noise beyond [-1, 1] is cut off, too rarely for this test to notice.
    assert scipy.stats.kstest(noise.flatten().numpy(), oracle.cdf).pvalue > 1e-6


@pytest.mark.parametrize("family", [Gaussian, Uniform, Laplacian])
def test_channels_have_their_own_pattern_or_share_one(family: Any) -> None:
    own = noise_grey(family(strength=SIGMA, shared=0))
    assert correlation(own) == pytest.approx(0, abs=5 / math.sqrt(own[:, 0].numel()))
    shared = noise_grey(family(strength=SIGMA, shared=1))
    assert shared.std(dim=1).max().item() < 1e-4


def test_neighbours_are_independent() -> None:
    noise = noise_grey(Gaussian(strength=SIGMA, shared=0))
    for left, right in ((noise[..., :-1], noise[..., 1:]), (noise[:, :, :-1], noise[:, :, 1:])):
        product = float((left * right).mean()) / 400
        assert product == pytest.approx(0, abs=5 / math.sqrt(left.numel()))
    assert float((noise[:-1] * noise[1:]).mean()) / 400 == pytest.approx(0, abs=5 / math.sqrt(noise.numel()))


@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_sparse_noise_has_its_density_and_its_distribution(density: float, shared: float) -> None:
    family = Sparse(noise=Gaussian(strength=SIGMA, shared=shared), density=(density, density))
    noise = noise_grey(family)[:, : 1 if shared else 3]
    there = noise != 0  # the table of the normal distribution has no 0
    error = math.sqrt(density * (1 - density) / noise.numel())
    assert there.double().mean().item() == pytest.approx(density, abs=5 * error + 1 / 65536)
    assert scipy.stats.kstest(noise[there].numpy(), scipy.stats.norm(0, 20).cdf).pvalue > 1e-6


def test_sparse_uniform_noise_is_uniform_where_it_is() -> None:
    noise = noise_grey(Sparse(noise=Uniform(strength=SIGMA, shared=0), density=(0.2, 0.2)))
    values = noise[noise != 0].numpy()
    half = 20 * math.sqrt(3)
    assert scipy.stats.kstest(values, scipy.stats.uniform(-half, 2 * half).cdf).pvalue > 1e-6


def test_attenuated_noise_is_a_mixture_of_two_strengths() -> None:
    family = Attenuated(noise=Gaussian(strength=SIGMA, shared=0), density=(0.3, 0.3), factor=(0.25, 0.25))
    values = noise_grey(family).flatten().numpy()

    def mixture(at: Any) -> Any:
        return 0.3 * scipy.stats.norm.cdf(at, scale=20) + 0.7 * scipy.stats.norm.cdf(at, scale=5)

    assert scipy.stats.kstest(values, mixture).pvalue > 1e-6


@pytest.mark.parametrize("shared", [0, 1])
def test_salt_and_pepper_replaces_its_density_by_black_and_white_equally(shared: float) -> None:
    images = torch.rand(40, 3, 32, 32, generator=seeded(7)) * 0.9 + 0.05
    degrade = Degradation(
        families=(SaltAndPepper(density=(0.2, 0.2), shared=shared),), clip=False, quantize=False
    )
    noisy = degrade(images, generator=seeded())
    hit = noisy != images
    impulses = noisy[hit]
    # The pixel is removed and the impulse is added: despite rounding, black must be exactly 0.
    assert set(impulses.tolist()) == {0.0, 1.0}
    planes = hit[:, :1] if shared else hit
    error = math.sqrt(0.2 * 0.8 / planes.numel())
    assert planes.double().mean().item() == pytest.approx(0.2, abs=5 * error + 1 / 65536)
    error = 0.5 / math.sqrt(planes.sum().item())
    assert impulses.double().mean().item() == pytest.approx(0.5, abs=5 * error)
    if shared:
        assert torch.equal(hit, hit[:, :1].expand_as(hit))
        assert torch.equal(noisy[hit], noisy[:, :1].expand_as(noisy)[hit])


@pytest.mark.parametrize("family", [*PAPER_FAMILIES, Laplacian(), SaltAndPepper()], ids=lambda f: f.name)
def test_the_drawn_strengths_are_those_of_the_images(family: Family) -> None:
    degrade = Degradation(families=(family,), clip=False, quantize=False)
    images = grey(50, size=48)
    drawn = degrade.draw(images, generator=seeded())
    measured = ((drawn.images - images) * 255).double().square().mean(dim=(1, 2, 3)).sqrt()
    masking = (drawn.density + (1 - drawn.density) * drawn.factor**2).sqrt()
    per_sample = 127.5 * torch.ones(50) if isinstance(family, SaltAndPepper) else drawn.strength_grey
    # The relative error of a spread of K values is sqrt((kurtosis - 1) / 4 K), with kurtosis <= 6 / density.
    values = 48 * 48 * torch.where(drawn.shared, 1, 3)
    tolerance = 5 * (6 / drawn.density / 4 / values).sqrt() + 0.001
    assert ((measured / (per_sample * masking) - 1).abs() < tolerance).all()


def test_strengths_are_drawn_uniformly_between_their_ends() -> None:
    strengths = draw_settings(Gaussian(strength=Strength(low_grey=2, high_grey=40))).strength_grey
    assert scipy.stats.kstest(strengths.numpy(), scipy.stats.uniform(2, 38).cdf).pvalue > 1e-6


def test_logarithmic_strengths_are_drawn_log_uniformly() -> None:
    family = Gaussian(strength=Strength(low_grey=0.25, high_grey=50, logarithmic=True))
    strengths = draw_settings(family).strength_grey
    assert scipy.stats.kstest(strengths.numpy(), scipy.stats.loguniform(0.25, 50).cdf).pvalue > 1e-6


def test_logarithmic_and_linear_strengths_mix() -> None:
    weak = Gaussian(strength=Strength(low_grey=0.25, high_grey=1, logarithmic=True))
    strong = Uniform(strength=Strength(low_grey=0, high_grey=0))
    drawn = draw_settings(weak, strong)
    assert (drawn.strength_grey[drawn.family == 1] == 0).all()
    assert (drawn.strength_grey[drawn.family == 0] >= 0.25).all()


def test_a_fixed_strength_is_the_same_for_every_sample() -> None:
    assert draw_settings(Gaussian(strength=Strength.fixed(15))).strength_grey.tolist() == [15] * 4000


def test_densities_and_factors_are_drawn_between_their_ends() -> None:
    drawn = draw_settings(Attenuated(noise=Gaussian(), density=(0.1, 0.6), factor=(0.2, 0.5)))
    assert scipy.stats.kstest(drawn.density.numpy(), scipy.stats.uniform(0.1, 0.5).cdf).pvalue > 1e-6
    assert scipy.stats.kstest(drawn.factor.numpy(), scipy.stats.uniform(0.2, 0.3).cdf).pvalue > 1e-6
    assert abs(np.corrcoef(drawn.density.numpy(), drawn.factor.numpy())[0, 1]) < 5 / math.sqrt(4000)


def test_sharing_has_its_probability() -> None:
    shared = draw_settings(Gaussian(shared=0.3)).shared
    assert shared.double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))


def draw_settings(*families: Family, **options: Any) -> Drawn:
    """Returns the settings that are drawn for 4,000 samples of one pixel."""
    return Degradation(families=families, **options).draw(grey(4000, 1, 1), generator=seeded())


def test_families_are_drawn_as_often_as_their_weights_say() -> None:
    counts = draw_settings(*PAPER_FAMILIES).family.bincount(minlength=6)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6
    counts = draw_settings(Gaussian(), Uniform(), Laplacian(), weights=(3, 0, 1)).family.bincount(minlength=3)
    assert counts[1] == 0
    assert scipy.stats.chisquare(counts[[0, 2]].numpy(), [3000, 1000]).pvalue > 1e-6


def test_a_clean_share_of_samples_stays_as_it_is() -> None:
    images = torch.rand(2000, 1, 4, 4, generator=seeded(3))
    degrade = Degradation(clean_share=0.25, clip=False, quantize=False)
    drawn = degrade.draw(images, generator=seeded())
    clean = drawn.family == -1
    assert clean.double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / 2000))
    assert torch.equal(drawn.images[clean], images[clean])
    assert (drawn.strength_grey[clean] == 0).all()
    assert (drawn.images[~clean] != images[~clean]).flatten(1).any(dim=1).double().mean() > 0.95


def test_versions_of_one_image_are_adjacent_and_differ() -> None:
    # Each image has a brightness of its own, far from the others', so that a noisy image shows its origin.
    images = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(5, 3, 16, 16)
    degrade = Degradation(families=(Gaussian(strength=Strength(low_grey=1, high_grey=5)),), versions=4)
    noisy = degrade(images, generator=seeded())
    assert noisy.shape == (20, 3, 16, 16)
    nearest = (noisy.mean(dim=(1, 2, 3))[:, None] - images[:, 0, 0, 0]).abs().argmin(dim=1)
    assert nearest.tolist() == [index for index in range(5) for _ in range(4)]
    assert len({sample.numpy().tobytes() for sample in noisy}) == 20


def test_noise_differs_from_call_to_call() -> None:
    generator, degrade = seeded(), Degradation()
    first = degrade(grey(), generator=generator)
    assert not torch.equal(first, degrade(grey(), generator=generator))


def test_clipping_keeps_values_within_0_and_1_and_its_absence_does_not() -> None:
    images = torch.rand(20, 3, 16, 16, generator=seeded(2))
    free = Degradation(clip=False)(images, generator=seeded())
    assert free.min() < 0
    assert free.max() > 1
    clipped = Degradation(clip=True)(images, generator=seeded())
    torch.testing.assert_close(clipped, free.clamp(0, 1), rtol=0, atol=1e-6)


def test_noise_itself_stays_within_minus_1_and_1() -> None:
    noise = noise_grey(Laplacian(strength=Strength.fixed(200), shared=0)) / 255
    assert noise.abs().max().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("clip", [True, False])
def test_quantizing_rounds_to_the_nearest_grey_level(clip: bool) -> None:
    images = torch.rand(20, 3, 16, 16, generator=seeded(2))
    rounded = Degradation(clip=clip, quantize=True)(images, generator=seeded())
    exact = Degradation(clip=clip, quantize=False)(images, generator=seeded())
    torch.testing.assert_close(rounded, (exact * 255).round() / 255, rtol=0, atol=0)
    if clip:
        assert torch.equal(rounded, to_float(to_uint8(rounded)))
    assert (exact * 255 - (exact * 255).round()).abs().max() > 0.4


def test_noise_weaker_than_a_grey_level_survives_quantizing() -> None:
    degrade = Degradation(families=(Gaussian(strength=Strength.fixed(0.4), shared=0),))
    noisy = degrade(to_float(torch.full((20, 3, 16, 16), 100, dtype=torch.uint8)), generator=seeded())
    changed = (noisy * 255).round() != 100
    expected = 2 * scipy.stats.norm.sf(0.5 / 0.4)
    error = math.sqrt(expected * (1 - expected) / changed.numel())
    assert changed.double().mean().item() == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize(
    ("clip", "quantize", "mode"),
    [
        (True, True, "clipped, 8-bit"),
        (True, False, "clipped"),
        (False, True, "unclipped, 8-bit"),
        (False, False, "unclipped"),
    ],
)
def test_the_noise_mode_names_clipping_and_rounding(clip: bool, quantize: bool, mode: str) -> None:
    assert Degradation(clip=clip, quantize=quantize).noise_mode == mode


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("quantize", [True, False])
def test_restored_images_are_stored_as_noisy_ones_are(clip: bool, quantize: bool) -> None:
    images = torch.linspace(-0.5, 1.5, 300).view(1, 1, 10, 30)
    before = images.clone()
    expected = images.clamp(0, 1) if clip else images
    expected = (expected * 255).round() / 255 if quantize else expected
    assert torch.equal(Degradation(clip=clip, quantize=quantize).stored(images), expected)
    assert torch.equal(images, before)


def test_gaussian_degradation_has_one_strength_and_independent_channels() -> None:
    degrade = gaussian_degradation(20, clip=False, quantize=False)
    noise = (degrade(grey(), generator=seeded()) - grey()).double() * 255
    assert noise.std().item() == pytest.approx(20, abs=spread_tolerance(noise))
    assert correlation(noise) == pytest.approx(0, abs=5 / math.sqrt(noise[:, 0].numel()))
    assert gaussian_degradation(5).noise_mode == "clipped, 8-bit"
    with pytest.raises(SettingError, match="grey levels"):
        gaussian_degradation(-1)


def test_randomness_comes_from_the_given_generator_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = Degradation()(grey(), generator=seeded())
    torch.manual_seed(2)
    np.random.seed(2)
    before = torch.random.get_rng_state()
    assert torch.equal(first, Degradation()(grey(), generator=seeded()))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first, Degradation()(grey(), generator=seeded(2)))


def test_drawing_with_the_settings_gives_the_same_images() -> None:
    degrade = Degradation(versions=2, clean_share=0.2)
    drawn = degrade.draw(grey(), generator=seeded())
    assert torch.equal(drawn.images, degrade(grey(), generator=seeded()))
    rows = (drawn.family, drawn.strength_grey, drawn.shared, drawn.density, drawn.factor)
    assert all(row.shape == (80,) for row in rows)


def test_settings_become_plain_numbers_for_a_record() -> None:
    families = (*PAPER_FAMILIES, SaltAndPepper())
    assert json.loads(json.dumps(asdict(Degradation(families=families))))["families"][-1] == {
        "density": [0.005, 0.2],
        "shared": 0.5,
    }


def test_all_settings_are_frozen() -> None:
    for settings_ in (Degradation(), Gaussian(), Sparse(noise=Gaussian()), SaltAndPepper(), Strength()):
        with pytest.raises((AttributeError, TypeError)):
            settings_.shared = 0.1  # type: ignore[union-attr, misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ()}, "no family"),
        ({"weights": (1.0,)}, "1 weights do not go with 6 families"),
        ({"families": (Gaussian(),), "weights": (0.0,)}, "weights"),
        ({"families": (Gaussian(),), "weights": (-1.0,)}, "weights"),
        ({"families": (Gaussian(), Uniform()), "weights": (1.0, math.nan)}, "weights"),
        ({"families": (Gaussian(),), "weights": (math.inf,)}, "weights"),
        ({"versions": 0}, "versions"),
        ({"clean_share": 1.5}, "clean_share"),
        ({"clean_share": math.nan}, "clean_share"),
    ],
)
def test_bad_settings_are_refused_with_the_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Degradation(**options)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8)], ids=["8-bit", "no batch"]
)
def test_anything_but_a_batch_of_images_is_refused(images: Tensor) -> None:
    with pytest.raises(ImageError):
        Degradation()(images, generator=seeded())


def test_a_generator_on_another_device_is_refused() -> None:
    with pytest.raises(SettingError, match="generator is on cpu, the images are on meta"):
        Degradation()(torch.zeros(1, 3, 8, 8, device="meta"), generator=seeded())


def test_an_empty_batch_stays_empty() -> None:
    assert Degradation(versions=3)(grey(0), generator=seeded()).shape == (0, 3, 32, 32)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    degrade=st.builds(
        Degradation,
        families=st.lists(
            st.sampled_from([*PAPER_FAMILIES, Laplacian(), SaltAndPepper()]), min_size=1, max_size=3
        ).map(tuple),
        versions=st.integers(1, 3),
        clean_share=st.sampled_from([0.0, 0.5, 1.0]),
        clip=st.booleans(),
        quantize=st.booleans(),
    ),
    seed=st.integers(0, 2**32),
)
def test_any_batch_keeps_its_type_and_size_and_its_own_values(
    shape: tuple[int, int, int, int], dtype: torch.dtype, degrade: Degradation, seed: int
) -> None:
    images = torch.rand(shape, generator=seeded(seed)).to(dtype)
    before = images.clone()
    noisy = degrade(images, generator=seeded(seed))
    assert torch.equal(images, before)
    assert noisy.shape == (shape[0] * degrade.versions, *shape[1:])
    assert noisy.dtype == dtype
    assert noisy.isfinite().all()
    assert noisy.data_ptr() != images.data_ptr()
    if degrade.clip:
        assert noisy.min() >= 0
        assert noisy.max() <= 1
    assert torch.equal(noisy, degrade(images, generator=seeded(seed)))
    if degrade.clean_share == 1 and not degrade.quantize:
        assert torch.equal(noisy, images.repeat_interleave(degrade.versions, dim=0))


# A share of unclipped samples.


def test_a_share_of_the_samples_is_neither_clipped_nor_rounded() -> None:
    images = torch.full((400, 3, 8, 8), 0.02)
    strong = Degradation(families=(Gaussian(strength=SIGMA, shared=0),), unclipped_share=0.25)
    noisy = strong(images, generator=seeded())
    stored = (noisy == strong.stored(noisy)).all(dim=(1, 2, 3))
    below = (noisy < 0).any(dim=(1, 2, 3))
    assert torch.equal(stored, ~below)
    assert below.double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 400))
    assert noisy[stored].min() == 0


def test_the_description_names_that_share_only_if_there_is_one() -> None:
    family = Gaussian(strength=SIGMA)
    plain = Degradation(families=(family,))
    assert repr(plain) == (
        f"Degradation(families=({family!r},), weights=(), versions=1, clean_share=0.0, clip=True, "
        "quantize=True)"
    )
    assert repr(replace(plain, unclipped_share=0.5)) == f"{repr(plain)[:-1]}, unclipped_share=0.5)"


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_no_probability_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match="unclipped_share"):
        Degradation(unclipped_share=share)
