"""Intervals, bounds and tests of accuracies, of one network or of two; PyTorch is not needed."""

import math
from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from statistics import NormalDist

from steadylens.errors import SettingError

_UP = Context(prec=30, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
"""Computes with 30 digits and rounds each result upwards; the range of exponents is the widest."""

_DOWN = Context(prec=30, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)

_DIGITS = 12
"""How many decimal digits the bound of Clopper and Pearson has."""


def wilson_interval(correct: float, samples: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion, an accuracy for example.

    Args:
        correct: Number of successes, from 0 to `samples`; or the mean of several such numbers, where each
            trial was repeated. A mean varies no more than one number, so the interval is not too narrow.
        samples: Number of independent trials, at least 1. Noisy versions of one image are not independent:
            for those the interval is too narrow.
        confidence: Probability that the interval should contain the true proportion, between 0 and 1.

    Returns:
        The lower and the upper end, in [0, 1].

    Raises:
        SettingError: If an argument is out of its range.
    """
    if samples < 1 or not 0 <= correct <= samples:
        raise SettingError(f"{correct} correct of {samples} samples: 0 <= correct <= samples >= 1 is needed")
    z = _normal_quantile(confidence)
    share = correct / samples
    scale = 1 + z**2 / samples
    centre = (share + z**2 / (2 * samples)) / scale
    spread = z / scale * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    # At the ends of [0, 1] the formula has rounding errors.
    return 0.0 if correct == 0 else centre - spread, 1.0 if correct == samples else centre + spread


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p value of McNemar's exact two-sided test of two classifiers on the same images.

    If both are equally accurate, each image that only one of them gets right is like the toss of a fair coin;
    images that both get right, or both wrong, do not count.

    Args:
        only_first: Number of images that the first gets right and the second wrong.
        only_second: Number of images that the second gets right and the first wrong.

    Raises:
        SettingError: If a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise SettingError(f"counts are {only_first} and {only_second}, they must not be negative")
    tosses = only_first + only_second
    term = tail = 1
    for heads in range(min(only_first, only_second)):
        term = term * (tosses - heads) // (heads + 1)  # the next binomial coefficient, an exact division
        tail += term
    return min(1.0, 2 * tail / (1 << tosses))


def shares_difference(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Returns the difference of two shares, with the interval that follows from theirs.

    It is meant for independent samples. Where two networks see the same images and fail together, it is wider
    than it need be.

    Args:
        first: A share, and the lower and the upper end of its interval.
        second: Those of what is subtracted.

    Returns:
        The difference, and the lower and the upper end of its interval, of the confidence of the two.

    References:
        Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    value = first[0] - second[0]
    below = math.hypot(first[0] - first[1], second[2] - second[0])
    above = math.hypot(first[2] - first[0], second[0] - second[1])
    return value, value - below, value + above


def paired_difference(
    only_first: int, only_second: int, images: int, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Returns the difference of the accuracies of two networks on the same images, with its interval.

    Args:
        only_first: Number of images that the first gets right and the second wrong.
        only_second: Number of images that the second gets right and the first wrong.
        images: Number of all images, at least 1.
        confidence: Probability that the interval should contain the true difference, between 0 and 1.

    Returns:
        The difference, and the lower and the upper end of its interval.

    Raises:
        SettingError: If an argument is out of its range.

    References:
        Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005:
        Wald's interval, with half an image added to each of the four counts.
    """
    if min(only_first, only_second) < 0 or not 1 <= images >= only_first + only_second:
        raise SettingError(
            f"{only_first} and {only_second} of {images} images: counts must not be negative, and there must "
            "be as many images"
        )
    return _moments_interval(only_first - only_second, only_first + only_second, images, confidence)


def mean_difference(differences: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Returns the mean difference of two networks on the same images, with its interval over images.

    Args:
        differences: For each image, the share of its versions that the first network gets right less that of
            the second, in [-1, 1]; at least one.
        confidence: Probability that the interval should contain the true difference, between 0 and 1.

    Returns:
        The difference, and the lower and the upper end of its interval. With one version of each image it is
        that of `paired_difference`.

    Raises:
        SettingError: If there is no difference, or the confidence is out of its range.
    """
    if not len(differences):
        raise SettingError("there are no differences, and a mean needs at least one; measure some images")
    squares = math.fsum(value * value for value in differences)
    return _moments_interval(math.fsum(differences), squares, len(differences), confidence)


def _moments_interval(
    total: float, squares: float, images: int, confidence: float
) -> tuple[float, float, float]:
    """Returns the mean of differences with Agresti and Min's interval, from their sum and that of squares.

    Two images are added, of which half an image speaks for each network and one for none. So the interval has
    a width where no image differs.
    """
    z, count = _normal_quantile(confidence), images + 2
    centre = total / count
    spread = z / math.sqrt(count) * math.sqrt((squares + 1) / count - centre**2)
    value = total / images
    return value, min(centre - spread, value), max(centre + spread, value)


def _normal_quantile(confidence: float) -> float:
    """Returns how many standard deviations an interval reaches to each side."""
    if not 0 < confidence < 1:
        raise SettingError(f"confidence is {confidence}, it must be between 0 and 1, 0.95 for example")
    return -NormalDist().inv_cdf((1 - confidence) / 2)


@lru_cache(maxsize=65_536)
def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Returns a lower bound of a probability that is above it in a share `alpha` of all experiments at most.

    It is Clopper and Pearson's one-sided bound: the largest p with which at least so many successes have a
    probability of at most alpha. The probability is computed with decimal numbers that are rounded upwards,
    and the bound is rounded down to 12 digits. So rounding errors make the bound smaller, never larger.

    Args:
        successes: How often it happened, from 0 to `trials`.
        trials: Number of independent trials, at least 1.
        alpha: Largest probability that the bound is wrong, between 0 and 0.5.

    Raises:
        SettingError: If an argument is out of its range.

    References:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the
        binomial", 1934.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise SettingError(
            f"{successes} successes of {trials} trials: 0 <= successes <= trials >= 1 is needed"
        )
    if not 0 < alpha < 0.5:
        raise SettingError(f"alpha is {alpha}, it must be between 0 and 0.5, 0.001 for example")
    if successes == 0:
        return 0.0
    limit, ways = Decimal(alpha), Decimal(math.comb(trials, successes))
    # At the share itself so many successes or more are as probable as fewer, so the bound lies below it.
    low, high = 0, 10**_DIGITS * successes // trials
    while high - low > 1:
        middle = (low + high) // 2
        if _upper_tail(successes, trials, Decimal(middle).scaleb(-_DIGITS), ways) <= limit:
            low = middle
        else:
            high = middle
    bound = low / 10**_DIGITS
    return bound if Decimal(bound) <= Decimal(low).scaleb(-_DIGITS) else math.nextafter(bound, 0)


def _upper_tail(successes: int, trials: int, p: Decimal, ways: Decimal) -> Decimal:
    """Returns a number not below the probability of at least so many successes, and hardly above it.

    Args:
        successes: At least 1.
        trials: Number of trials.
        p: Probability of a success, at most `successes / trials`: each term is then below the one before.
        ways: The binomial coefficient of the first term.
    """
    failures = trials - successes
    term = _UP.multiply(_UP.plus(ways), _power(p, successes))
    term = _UP.multiply(term, _power(_UP.subtract(1, p), failures))
    odds = _UP.divide(p, _DOWN.subtract(1, p)) if failures else Decimal(0)
    total, one = term, Decimal(1)
    for number in range(successes + 1, trials + 1):
        ratio = _UP.divide(_UP.multiply(trials - number + 1, odds), number)
        term = _UP.multiply(term, ratio)
        total = _UP.add(total, term)
        # The ratios fall. So what is left is at most a geometric series.
        rest = _UP.divide(_UP.multiply(term, ratio), _DOWN.subtract(one, ratio)) if ratio < one else total
        if rest < total.scaleb(-_DIGITS, _UP):
            return _UP.add(total, rest)
    return total


def _power(base: Decimal, exponent: int) -> Decimal:
    """Returns a power of a number in [0, 1], rounded upwards at each step."""
    result, square = Decimal(1), base
    while exponent:
        if exponent & 1:
            result = _UP.multiply(result, square)
        square = _UP.multiply(square, square)
        exponent >>= 1
    return result
