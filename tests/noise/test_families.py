"""Distributions of noise against SciPy, and the rules of the ranges."""

import math
from typing import Any

import pytest
import scipy.stats
import torch

from steadylens.errors import SettingError
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import (
    IMPULSE,
    LAPLACE,
    NORMAL,
    QUANTILE_COUNT,
    UNIFORM,
    Attenuated,
    Distribution,
    Gaussian,
    Laplacian,
    SaltAndPepper,
    Sparse,
    Strength,
    Uniform,
    quantiles,
)

CPU = torch.device("cpu")
ORACLES = [
    (NORMAL, scipy.stats.norm()),
    (UNIFORM, scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))),
    (LAPLACE, scipy.stats.laplace(0, math.sqrt(0.5))),
]


def name_of(value: object) -> str:
    return str(getattr(value, "name", ""))


def every_value(distribution: Distribution, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    values = torch.empty(QUANTILE_COUNT)
    distribution.fill(values, torch.arange(QUANTILE_COUNT, dtype=torch.int32).to(dtype))
    return values


@pytest.mark.parametrize(("distribution", "oracle"), ORACLES, ids=name_of)
def test_the_table_of_a_distribution_is_as_close_to_it_as_65536_steps_can_be(
    distribution: Distribution, oracle: scipy.stats.rv_continuous
) -> None:
    # K equal steps are at best half a step off; scaling to standard deviation 1 costs a little more.
    values = every_value(distribution).double().numpy()
    assert scipy.stats.kstest(values, oracle.cdf).statistic < 3 / QUANTILE_COUNT


@pytest.mark.parametrize("distribution", [NORMAL, UNIFORM, LAPLACE], ids=name_of)
def test_an_additive_distribution_has_mean_0_and_standard_deviation_1(distribution: Distribution) -> None:
    values = every_value(distribution).double()
    assert values.mean().item() == pytest.approx(0, abs=1e-6)
    assert values.square().mean().sqrt().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("distribution", "oracle"), ORACLES, ids=name_of)
def test_the_fourth_moment_is_nearly_that_of_the_distribution_without_a_cut_tail(
    distribution: Distribution, oracle: scipy.stats.rv_continuous
) -> None:
    expected = 3 + float(oracle.stats(moments="k"))
    assert every_value(distribution).double().pow(4).mean().item() == pytest.approx(expected, rel=0.01)


def test_gaussian_noise_ends_at_4_3_standard_deviations() -> None:
    values = every_value(NORMAL)
    expected = scipy.stats.norm.ppf(1 - 0.5 / QUANTILE_COUNT)
    assert values.max().item() == pytest.approx(expected, abs=1e-3)
    assert values.min().item() == pytest.approx(-values.max().item(), abs=1e-4)


def test_the_uniform_distribution_needs_no_table_and_equals_it() -> None:
    torch.testing.assert_close(every_value(UNIFORM), quantiles(UNIFORM, CPU), rtol=0, atol=1e-6)


def test_an_impulse_is_black_or_white_equally_often() -> None:
    values = every_value(IMPULSE)
    assert set(values.tolist()) == {0, 1}
    assert values.mean().item() == 0.5


@pytest.mark.parametrize("distribution", [NORMAL, UNIFORM, LAPLACE, IMPULSE], ids=name_of)
def test_bits_may_be_unsigned_words_or_integers(distribution: Distribution) -> None:
    assert torch.equal(every_value(distribution, torch.uint16), every_value(distribution))


def test_a_fixed_strength_has_equal_ends() -> None:
    assert Strength.fixed(25) == Strength(low_grey=25, high_grey=25)


def test_default_strengths_go_from_a_fraction_of_a_grey_level_to_50() -> None:
    assert 0 < Strength().low_grey < 1
    assert Strength().high_grey >= 50


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (6, 5), (0, math.inf), (math.nan, 5), (1, math.nan)])
def test_a_strength_whose_ends_are_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(SettingError, match="low_grey <= high_grey"):
        Strength(low_grey=low, high_grey=high)


def test_a_logarithmic_strength_from_0_is_refused() -> None:
    with pytest.raises(SettingError, match="cannot start at 0"):
        Strength(low_grey=0, high_grey=5, logarithmic=True)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_probability_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(SettingError, match="shared"):
        Gaussian(shared=share)
    with pytest.raises(SettingError, match="shared"):
        SaltAndPepper(shared=share)


@pytest.mark.parametrize("density", [(-0.1, 0.5), (0.5, 0.4), (0.5, 1.1), (math.nan, 1.0)])
def test_a_density_that_is_no_range_of_probabilities_is_refused(density: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="density"):
        Sparse(noise=Gaussian(), density=density)
    with pytest.raises(SettingError, match="density"):
        Attenuated(noise=Gaussian(), density=density)
    with pytest.raises(SettingError, match="density"):
        SaltAndPepper(density=density)


def test_a_factor_that_is_no_range_within_0_to_1_is_refused() -> None:
    with pytest.raises(SettingError, match="factor"):
        Attenuated(noise=Gaussian(), factor=(0.5, 1.5))


def test_noise_that_is_masked_already_cannot_be_masked_again() -> None:
    with pytest.raises(SettingError, match="masked already"):
        Sparse(noise=Sparse(noise=Gaussian()))
    with pytest.raises(SettingError, match="masked already"):
        Attenuated(noise=SaltAndPepper())


def test_families_have_their_usual_names() -> None:
    families = (
        Gaussian(),
        Uniform(),
        Laplacian(),
        SaltAndPepper(),
        Sparse(noise=Uniform()),
        Attenuated(noise=Gaussian()),
    )
    assert [family.name for family in families] == [
        "Gaussian",
        "uniform",
        "Laplacian",
        "salt and pepper",
        "sparse uniform",
        "attenuated Gaussian",
    ]


def test_equal_families_are_equal_and_different_ones_differ() -> None:
    assert len({Gaussian(), Gaussian(), Uniform(), Sparse(noise=Gaussian()), Sparse(noise=Gaussian())}) == 3


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Gaussian, {"strength": 25}, r"strength is 25; give Strength\.fixed\(25\) for 25 grey levels"),
        (Gaussian, {"strength": (1, 2)}, r"strength is \(1, 2\); give"),
        (Gaussian, {"shared": "no"}, "shared is no, a probability"),
        (Sparse, {"noise": 25}, "noise is 25; give a family of noise"),
        (Sparse, {"noise": Gaussian(), "density": 0.5}, "density is 0.5; a pair"),
        (SaltAndPepper, {"density": None}, "density is None; a pair"),
        (Degradation, {"families": Gaussian()}, "families is Gaussian.*; give a tuple of families"),
        (Degradation, {"families": ("Gaussian",)}, r"families is \('Gaussian',\); give a tuple"),
    ],
)
def test_values_of_another_type_are_refused_with_what_to_give(
    kind: type, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        kind(**given)


def test_families_and_weights_may_be_lists() -> None:
    given: Any = [Gaussian(), Uniform()]
    weights: Any = [1, 2]
    images = torch.full((4, 3, 8, 8), 0.5)
    one, other = (
        each(images, generator=torch.Generator().manual_seed(1))
        for each in (
            Degradation(families=given, weights=weights),
            Degradation(families=tuple(given), weights=tuple(weights)),
        )
    )
    assert torch.equal(one, other)
