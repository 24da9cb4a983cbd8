"""The mixtures say what they are: which share of the noise is how strong, and of which kind."""

import pytest

from steadylens.noise.camera import Correlated, Demosaiced, Resized
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Gaussian, Strength
from steadylens.noise.jpeg import Jpeg
from steadylens.noise.mixtures import (
    CAMERA_NOISE,
    MIXED_NOISE,
    MOSTLY_SLIGHT,
    PHOTOGRAPH_NOISE,
    SMOOTHING_NOISE,
    STRONG_AND_CLEAN,
    with_more_gaussian,
)


def shares(noise: Degradation) -> list[tuple[object, float]]:
    """Returns each family with its share of the noisy images."""
    assert noise.weights is not None
    total = sum(noise.weights)
    return [(family, weight / total) for family, weight in zip(noise.families, noise.weights, strict=True)]


def test_mixed_noise_is_mostly_gaussian_and_stored_in_8_bits() -> None:
    gaussian = sum(share for family, share in shares(MIXED_NOISE) if isinstance(family, Gaussian))
    assert gaussian == pytest.approx(9 / 14)
    assert MIXED_NOISE.clip
    assert MIXED_NOISE.quantize


def test_nearly_half_of_mostly_slight_noise_is_slight() -> None:
    slight = [
        share
        for family, share in shares(MOSTLY_SLIGHT)
        if isinstance(family, Gaussian) and family.strength.high_grey <= 6
    ]
    assert sum(slight) == pytest.approx(8 / 17)


@pytest.mark.parametrize("share", [0.25, 0.45])
def test_more_gaussian_noise_is_the_share_that_was_asked_for(share: float) -> None:
    first, found = shares(with_more_gaussian(share, low_grey=0.7, high_grey=5))[0]
    assert first == Gaussian(strength=Strength(low_grey=0.7, high_grey=5), shared=0.1)
    assert found == pytest.approx(share)


def test_half_of_the_noise_for_photographs_is_not_clipped() -> None:
    assert PHOTOGRAPH_NOISE.unclipped_share == 0.5


def test_half_of_the_noise_is_strong_and_gaussian_with_clean_images_beside_it() -> None:
    families = dict(shares(STRONG_AND_CLEAN))
    strong = Gaussian(strength=Strength(low_grey=1, high_grey=55), shared=0.1)
    assert families[strong] == pytest.approx(10 / 20.5)
    assert STRONG_AND_CLEAN.clean_share == 0.2


def test_noise_for_certificates_is_neither_clipped_nor_rounded() -> None:
    assert not SMOOTHING_NOISE.clip
    assert not SMOOTHING_NOISE.quantize


def test_most_noise_of_cameras_is_shared_by_neighbours() -> None:
    found = shares(CAMERA_NOISE)
    plain = [(family.noise if isinstance(family, Jpeg) else family, share) for family, share in found]
    shared = sum(share for family, share in plain if isinstance(family, Demosaiced | Resized | Correlated))
    assert shared == pytest.approx(10 / 13)
    assert sum(share for family, share in found if isinstance(family, Jpeg)) == pytest.approx(6 / 13)
