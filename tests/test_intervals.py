"""Intervals and tests against SciPy, published examples, and the coverage that they promise."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from steadylens.errors import SettingError
from steadylens.intervals import (
    clopper_pearson_lower,
    mcnemar,
    mean_difference,
    paired_difference,
    shares_difference,
    wilson_interval,
)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.data())
def test_wilson_interval_agrees_with_scipy(counts: tuple[int, int], data: st.DataObject) -> None:
    confidence = data.draw(st.floats(0.01, 0.9999))
    expected = binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*counts, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-9)


def test_wilson_interval_of_ten_of_a_hundred_by_hand() -> None:
    assert wilson_interval(10, 100) == pytest.approx((0.055229, 0.174366), abs=1e-6)


def test_wilson_interval_of_the_papers_single_net_is_a_third_of_a_percent_wide() -> None:
    lower, upper = wilson_interval(12_510, 12_630)
    assert (lower, upper) == pytest.approx((0.988651, 0.992048), abs=1e-6)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    lower, upper = wilson_interval(*counts)
    assert 0 <= lower <= counts[0] / counts[1] <= upper <= 1


def test_wilson_interval_touches_the_ends_exactly() -> None:
    for samples in (1, 7, 12_630):
        assert wilson_interval(0, samples)[0] == 0
        assert wilson_interval(samples, samples)[1] == 1


@pytest.mark.parametrize(("correct", "samples"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_counts_that_cannot_be(correct: int, samples: int) -> None:
    with pytest.raises(SettingError, match="correct <= samples"):
        wilson_interval(correct, samples)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_wilson_interval_refuses_a_confidence_out_of_range(confidence: float) -> None:
    with pytest.raises(SettingError, match="between 0 and 1"):
        wilson_interval(1, 2, confidence=confidence)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_scipys_sign_test(only_first: int, only_second: int) -> None:
    if only_first + only_second == 0:
        expected = 1.0
    else:
        expected = binomtest(only_first, only_first + only_second, 0.5).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_first, only_second) == mcnemar(only_second, only_first)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (4, 4, 1.0), (0, 1, 1.0), (0, 6, 2 / 64), (1, 7, 2 * 9 / 256), (0, 2000, 0.0)],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p_value: float) -> None:
    assert mcnemar(only_first, only_second) == p_value


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(SettingError, match="-1 and 3"):
        mcnemar(-1, 3)


def share(correct: int, samples: int) -> tuple[float, float, float]:
    return correct / samples, *wilson_interval(correct, samples)


def test_the_difference_of_shares_is_that_of_newcombes_example() -> None:
    expected = (0.2, 0.0524, 0.3339)
    assert shares_difference(share(56, 70), share(48, 80)) == pytest.approx(expected, abs=1e-4)


def test_the_difference_of_a_share_from_itself_is_zero_and_turns_around() -> None:
    value, lower, upper = shares_difference(share(30, 50), share(30, 50))
    assert value == 0
    assert lower == pytest.approx(-upper)
    forth, back = shares_difference(share(9, 10), share(1, 20)), shares_difference(share(1, 20), share(9, 10))
    assert forth == pytest.approx((-back[0], -back[2], -back[1]))


def test_a_mean_over_versions_counts_each_image_once() -> None:
    assert wilson_interval(8.5, 10)[0] > wilson_interval(8, 10)[0]
    assert wilson_interval(85.0, 100) == wilson_interval(85, 100)


def test_the_paired_difference_by_hand() -> None:
    """150 and 86 of 1,600 people changed their minds: Agresti's example of matched pairs."""
    value, lower, upper = paired_difference(86, 150, 1600)
    assert value == -0.04
    assert (lower, upper) == pytest.approx((-0.0587, -0.0212), abs=2e-4)


def test_the_paired_difference_of_equal_networks_is_not_certain() -> None:
    value, lower, upper = paired_difference(0, 0, 100)
    assert value == 0
    assert lower == pytest.approx(-1.959964 / 102)
    assert upper == -lower


@pytest.mark.parametrize(("only_first", "only_second"), [(0.02, 0.02), (0.01, 0.06), (0.2, 0.1)])
def test_the_paired_interval_holds_the_difference_as_often_as_it_says(
    only_first: float, only_second: float
) -> None:
    shares = (only_first, only_second, 1 - only_first - only_second)
    drawn = np.random.default_rng(0).multinomial(300, shares, size=4000)
    ends = [paired_difference(int(b), int(c), 300)[1:] for b, c, _ in drawn]
    covered = np.mean([lower <= only_first - only_second <= upper for lower, upper in ends])
    assert 0.94 <= covered <= 0.975


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_the_paired_interval_holds_its_value(only_first: int, only_second: int, both: int) -> None:
    images = only_first + only_second + both
    if images:
        value, lower, upper = paired_difference(only_first, only_second, images)
        assert lower <= value <= upper


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_the_mean_difference_of_single_versions_is_the_paired_difference(
    only_first: int, only_second: int, same: int
) -> None:
    differences = [1.0] * only_first + [-1.0] * only_second + [0.0] * same
    expected = paired_difference(only_first, only_second, len(differences))
    assert mean_difference(differences) == pytest.approx(expected)


def test_the_mean_difference_approaches_the_usual_interval() -> None:
    differences = np.random.default_rng(0).choice([-0.5, 0, 0.25, 1], size=5000)
    value, lower, upper = mean_difference(differences.tolist())
    half_width = 1.959964 * differences.std() / math.sqrt(5000)
    assert value == pytest.approx(differences.mean())
    assert (value - lower, upper - value) == pytest.approx((half_width, half_width), rel=0.02)
    with pytest.raises(SettingError, match="needs at least one"):
        mean_difference([])


@pytest.mark.parametrize(("counts", "images"), [((-1, 2), 9), ((5, 5), 9), ((0, 0), 0)])
def test_the_paired_difference_refuses_counts_that_cannot_be(counts: tuple[int, int], images: int) -> None:
    with pytest.raises(SettingError, match="counts must not be negative"):
        paired_difference(*counts, images)


# The bound of Clopper and Pearson


@settings(max_examples=60)
@given(
    st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(1e-9, 0.4),
)
def test_clopper_pearson_agrees_with_scipy_and_is_not_above_it(counts: tuple[int, int], alpha: float) -> None:
    found = clopper_pearson_lower(*counts, alpha)
    successes, trials = counts
    expected = beta.ppf(alpha, successes, trials - successes + 1) if successes else 0.0
    assert expected - 1e-9 <= found <= expected * (1 + 1e-9)


@pytest.mark.parametrize(
    ("successes", "trials", "alpha"),
    [
        (99_000, 100_000, 0.001),
        (100_000, 100_000, 0.001),
        (75_123, 100_000, 0.001),
        (50_500, 100_000, 1e-6),
        (9_990, 10_000, 0.001),
        (10_000, 10_000, 0.00099999),
        (1, 10_000, 0.001),
    ],
)
def test_clopper_pearson_of_many_trials_agrees_with_the_quantile_of_beta(
    successes: int, trials: int, alpha: float
) -> None:
    expected = beta.ppf(alpha, successes, trials - successes + 1)
    assert clopper_pearson_lower(successes, trials, alpha) == pytest.approx(expected, rel=1e-9, abs=2e-12)


@pytest.mark.parametrize(("successes", "trials", "alpha"), [(9, 12, 0.001), (60, 64, 0.05), (3, 3, 0.001)])
def test_the_probability_at_the_bound_is_at_most_alpha_exactly(
    successes: int, trials: int, alpha: float
) -> None:
    def tail(p: Fraction) -> Fraction:
        terms = (
            math.comb(trials, number) * p**number * (1 - p) ** (trials - number)
            for number in range(successes, trials + 1)
        )
        return sum(terms, Fraction(0))

    bound = Fraction(clopper_pearson_lower(successes, trials, alpha))
    assert tail(bound) <= Fraction(alpha) < tail(bound + Fraction(3, 10**12))


def test_clopper_pearson_without_a_success_is_0() -> None:
    assert clopper_pearson_lower(0, 10, 0.001) == 0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_clopper_pearson_refuses_counts_that_cannot_be(successes: int, trials: int) -> None:
    with pytest.raises(SettingError, match="successes <= trials"):
        clopper_pearson_lower(successes, trials, 0.001)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -0.1, math.nan])
def test_clopper_pearson_refuses_an_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(SettingError, match=r"alpha is .*between 0 and 0\.5"):
        clopper_pearson_lower(1, 2, alpha)


def test_intervals_need_no_pytorch() -> None:
    code = "import sys, steadylens.intervals; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
