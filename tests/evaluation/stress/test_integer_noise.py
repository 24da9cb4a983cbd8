"""Rounded Gaussian noise has the probabilities that SciPy gives it, in the table and when drawn."""

import math
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from steadylens.errors import SettingError
from steadylens.evaluation.stress.integer_noise import IntegerNoise, integer_noise, normal_distribution

SIGMAS = (0.001, 0.12, 0.25, 0.5)
COUNT = 1_000_001


def probabilities(noise: IntegerNoise) -> list[float]:
    """Returns the probability of each grey level from -reach to reach, by the table."""
    edges = [-(2**63), *noise.thresholds.tolist(), 2**63]
    return [(after - before) / 2**64 for before, after in pairwise(edges)]


def expected(noise: IntegerNoise) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Returns those probabilities as SciPy has them."""
    levels = np.arange(-noise.reach, noise.reach + 1)
    # On the upper side Phi is close to 1, so differences are taken on the lower side.
    ends = -np.abs(levels)
    scale = 255 * noise.sigma
    return np.asarray(norm.cdf((ends + 0.5) / scale) - norm.cdf((ends - 0.5) / scale))


@pytest.mark.parametrize("x", [-30.0, -9.0, -1.5, 0.0, 1e-9, 0.3, 2.0, 5.5, 8.3, 45.0])
def test_the_normal_distribution_agrees_with_scipy(x: float) -> None:
    assert float(normal_distribution(Decimal(x))) == pytest.approx(norm.cdf(x), rel=1e-13, abs=1e-40)


@pytest.mark.parametrize(
    ("x", "digits"),
    [
        ("1", "0.841344746068542948585232545632037922477912967"),
        ("-1", "0.158655253931457051414767454367962077522087033"),
        ("9", "0.999999999999999999887141159404615935226449792"),
    ],
)
def test_the_normal_distribution_has_the_digits_of_mpmath(x: str, digits: str) -> None:
    assert abs(normal_distribution(Decimal(x)) - Decimal(digits)) < Decimal("1e-43")


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_table_has_the_probabilities_of_scipy(sigma: float) -> None:
    noise = integer_noise(sigma)
    found, meant = np.array(probabilities(noise)), expected(noise)
    np.testing.assert_allclose(found, meant, rtol=1e-9, atol=1e-18)
    assert math.fsum(found) == 1
    assert noise.reach == max(1, math.ceil(9 * 255 * sigma))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_the_table_leaves_out_is_counted(sigma: float) -> None:
    noise = integer_noise(sigma)
    tails = 2 * norm.sf((noise.reach + 0.5) / (255 * sigma))
    rounding = len(noise.thresholds) * 2**-64
    assert tails / 2 * (1 - 1e-6) <= noise.error <= tails + rounding + 1e-39


@pytest.mark.parametrize("sigma", [0.12, 0.5])
def test_drawn_values_follow_the_table_by_a_chi_square_test(sigma: float) -> None:
    noise = integer_noise(sigma)
    drawn = noise.draw(COUNT, generator=torch.Generator().manual_seed(5))
    assert (drawn.dtype, drawn.shape) == (torch.int16, (COUNT,))
    counts = torch.bincount(drawn.long() + noise.reach, minlength=2 * noise.reach + 1).numpy()
    often = expected(noise) * COUNT
    kept = often > 20  # rare levels are counted together
    found = [*counts[kept], counts[~kept].sum()]
    meant = [*often[kept], COUNT - often[kept].sum()]
    assert chisquare(found, meant).pvalue > 0.001


def test_each_value_is_that_of_a_plain_search_with_the_same_64_bits() -> None:
    noise = integer_noise(0.25)
    found = noise.draw(4003, generator=torch.Generator().manual_seed(2)).tolist()
    generator = torch.Generator().manual_seed(2)
    words = torch.empty(1001, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    tops = words.numpy().view(np.int16)[:4003].tolist()
    undecided = [place for place, top in enumerate(tops) if int(noise.direct[top + 2**15]) == -(2**15)]
    assert 0 < len(undecided) < 100
    lows = torch.empty(len(undecided), dtype=torch.int64).random_(0, 2**48, generator=generator).tolist()
    known = dict(zip(undecided, lows, strict=True))
    thresholds = noise.thresholds.tolist()
    for place, (top, level) in enumerate(zip(tops, found, strict=True)):
        whole = top * 2**48 + known.get(place, 0)
        assert level == sum(threshold <= whole for threshold in thresholds) - noise.reach


def test_values_are_uncorrelated_with_their_neighbours() -> None:
    drawn = integer_noise(0.25).draw(400_000, generator=torch.Generator().manual_seed(1)).double()
    for lag in (1, 2, 3, 4, 5):
        correlation = float((drawn[lag:] * drawn[:-lag]).mean() / drawn.square().mean())
        assert abs(correlation) < 5 / math.sqrt(400_000)


def test_the_same_generator_gives_the_same_noise() -> None:
    first, second = (
        integer_noise(0.25).draw(1000, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("sigma", [0.0, -0.25, 10.5, 63.75, math.nan, math.inf])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(SettingError, match=r"sigma is .*divide grey levels by 255"):
        integer_noise(sigma)
