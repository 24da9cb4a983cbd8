"""The mixtures of noise on which the nets of the package are trained, but for the paper's own."""

from dataclasses import replace

from steadylens.noise.camera import Correlated, Demosaiced, PoissonGaussian, Resized
from steadylens.noise.degradation import Degradation
from steadylens.noise.families import Attenuated, Gaussian, Laplacian, Sparse, Strength, Uniform
from steadylens.noise.jpeg import Jpeg

SLIGHT_TO_STRONG = Strength(low_grey=0.5, high_grey=60, logarithmic=True)

STRONG = Strength(low_grey=1, high_grey=55)

MIXED_NOISE = Degradation(
    families=(
        Gaussian(strength=SLIGHT_TO_STRONG, shared=0.1),
        Gaussian(strength=STRONG, shared=0.1),
        Uniform(strength=SLIGHT_TO_STRONG, shared=0.3),
        Laplacian(strength=SLIGHT_TO_STRONG, shared=0.3),
        Sparse(noise=Gaussian(strength=STRONG, shared=0.3)),
        Sparse(noise=Uniform(strength=STRONG, shared=0.3)),
        Attenuated(noise=Gaussian(strength=STRONG, shared=0.3)),
    ),
    weights=(3, 6, 1, 1, 1, 1, 1),
)
"""Slight and strong noise, mostly Gaussian. Noisy images are clipped and rounded to 8 bits, as in files."""

SLIGHT = Gaussian(strength=Strength(low_grey=0.3, high_grey=6, logarithmic=True), shared=0.1)

SLIGHTEST = Gaussian(strength=Strength(low_grey=0.25, high_grey=0.9), shared=0.1)


def with_slight_noise(weights: tuple[float, ...], *, clean_share: float) -> Degradation:
    """Returns the mixed noise with the slightest and slight noise, whose weights come first."""
    return replace(
        MIXED_NOISE,
        families=(SLIGHTEST, SLIGHT, *MIXED_NOISE.families),
        weights=weights,
        clean_share=clean_share,
    )


MOSTLY_SLIGHT = with_slight_noise((2, 6, 4, 3.5, 0.3, 0.3, 0.3, 0.3, 0.3), clean_share=0.04)
"""Nearly half of the noise is SLIGHTEST or SLIGHT."""


def with_more_gaussian(share: float, *, low_grey: float, high_grey: float) -> Degradation:
    """Returns mostly slight noise, of which a share is Gaussian noise of a range of strengths."""
    gaussian = Gaussian(strength=Strength(low_grey=low_grey, high_grey=high_grey), shared=0.1)
    weights = MOSTLY_SLIGHT.weights or ()
    return replace(
        MOSTLY_SLIGHT,
        families=(gaussian, *MOSTLY_SLIGHT.families),
        weights=(sum(weights) * share / (1 - share), *weights),
    )


CLEAN_AND_MIXED = replace(MIXED_NOISE, clean_share=0.2)
"""Clean images among the noisy ones, so that a classifier does not forget them while it learns noise."""

STRONG_AND_CLEAN = replace(
    MIXED_NOISE,
    families=(*MIXED_NOISE.families, SLIGHT),
    weights=(7, 10, 0.5, 0.5, 0.5, 0.5, 0.5, 1),
    clean_share=0.2,
)
"""Half of the noise is Gaussian and strong: there a classifier loses its answers."""

SMOOTHING_NOISE = Degradation(
    families=(Gaussian(strength=Strength(low_grey=2, high_grey=140), shared=0),),
    clean_share=0.05,
    clip=False,
    quantize=False,
)
"""For certificates, which are about Gaussian noise that is neither clipped nor rounded."""

PHOTOGRAPH_NOISE = Degradation(
    families=(
        Gaussian(strength=Strength(low_grey=0.5, high_grey=75, logarithmic=True), shared=0.05),
        Gaussian(strength=Strength(low_grey=1, high_grey=75), shared=0.05),
        SLIGHT,
    ),
    weights=(1, 3, 0),
    clean_share=0.02,
    unclipped_share=0.5,
)
"""All usual strengths, as files have noise and, unclipped, as papers measure it."""

CAMERA_STRENGTH = Strength(low_grey=0.5, high_grey=50, logarithmic=True)

CAMERA_FAMILIES = (
    PoissonGaussian(strength=CAMERA_STRENGTH),
    Demosaiced(strength=CAMERA_STRENGTH),
    Resized(strength=CAMERA_STRENGTH),
    Correlated(strength=CAMERA_STRENGTH),
)

CAMERA_NOISE = Degradation(
    families=(
        *CAMERA_FAMILIES,
        *(Jpeg(noise=noise, quality=(50, 98)) for noise in CAMERA_FAMILIES),
        Gaussian(strength=CAMERA_STRENGTH, shared=0.1),
    ),
    weights=(1, 1, 1, 3, 1, 1, 1, 3, 1),
    clean_share=0.04,
)
"""Files of cameras: neighbouring pixels share the noise of most, and nearly half are stored as JPEG."""
