"""Noise by name, with one strength, so that the stability under each kind can be compared.

Every kind is scaled so that its standard deviation on a mid-grey image is the given one, before clipping and
rounding: at the same strength all kinds add the same power.
"""

import math
from collections.abc import Callable, Mapping

from steadylens.errors import SettingError
from steadylens.images.tensors import GREY_LEVELS
from steadylens.noise.camera import Banded, Correlated, Demosaiced, PoissonGaussian, Resized
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
from steadylens.noise.jpeg import Jpeg

GAUSSIAN = "gaussian"
"""The name of the paper's noise, which is measured if no other is named."""

SPARSE_DENSITY = 0.2
"""The share of noisy values of sparse noise."""

ATTENUATED_DENSITY, ATTENUATION = 0.2, 0.25
"""The share of the values that keep attenuated noise in full, and the factor on the others."""

JPEG_QUALITY = (50, 95)
"""The range of qualities at which images are stored after noise."""


def _sparse(sigma_grey: float) -> Family:
    strength = Strength.fixed(sigma_grey / math.sqrt(SPARSE_DENSITY))
    return Sparse(noise=Gaussian(strength=strength, shared=0), density=(SPARSE_DENSITY, SPARSE_DENSITY))


def _attenuated(sigma_grey: float) -> Family:
    power = ATTENUATED_DENSITY + (1 - ATTENUATED_DENSITY) * ATTENUATION**2
    return Attenuated(
        noise=Gaussian(strength=Strength.fixed(sigma_grey / math.sqrt(power)), shared=0),
        density=(ATTENUATED_DENSITY, ATTENUATED_DENSITY),
        factor=(ATTENUATION, ATTENUATION),
    )


def _salt_and_pepper(sigma_grey: float) -> Family:
    density = (sigma_grey / (GREY_LEVELS / 2)) ** 2
    if density > 1:
        raise SettingError(
            f"the strength of salt-and-pepper noise is {sigma_grey}; it replaces every value of a mid-grey "
            f"image at {GREY_LEVELS / 2} grey levels, give at most that"
        )
    return SaltAndPepper(density=(density, density), shared=0)


NAMED: Mapping[str, Callable[[float], Family]] = {
    GAUSSIAN: lambda sigma: Gaussian(strength=Strength.fixed(sigma), shared=0),
    "uniform": lambda sigma: Uniform(strength=Strength.fixed(sigma), shared=0),
    "laplacian": lambda sigma: Laplacian(strength=Strength.fixed(sigma), shared=0),
    "sparse": _sparse,
    "attenuated": _attenuated,
    "salt-and-pepper": _salt_and_pepper,
    "poisson": lambda sigma: PoissonGaussian(strength=Strength.fixed(sigma)),
    "demosaiced": lambda sigma: Demosaiced(strength=Strength.fixed(sigma)),
    "resized": lambda sigma: Resized(strength=Strength.fixed(sigma), shared=0),
    "correlated": lambda sigma: Correlated(strength=Strength.fixed(sigma), blur=(1, 1)),
    "banded": lambda sigma: Banded(strength=Strength.fixed(sigma), shared=1),
    "jpeg": lambda sigma: Jpeg(
        noise=Gaussian(strength=Strength.fixed(sigma), shared=0), quality=JPEG_QUALITY
    ),
}
"""The kinds of noise by name, each from its standard deviation on mid-grey, in grey levels, to its family."""


def family_named(name: str, sigma_grey: float) -> Family:
    """Returns noise of one kind and one strength.

    Example:
        >>> family_named("poisson", 10).name
        'Poisson-Gaussian'

    Args:
        name: One of `NAMED`.
        sigma_grey: The standard deviation on a mid-grey image, in grey levels of 255; for "jpeg" that of the
            Gaussian noise before storing.

    Raises:
        SettingError: If there is no such noise, or it cannot have this strength.
    """
    check_noise(name)
    return NAMED[name](sigma_grey)


def named_degradation(
    name: str, sigma_grey: float, *, clip: bool = True, quantize: bool = True
) -> Degradation:
    """Returns the degradation by noise of one kind and one strength; see `family_named`.

    Args:
        name: One of `NAMED`.
        sigma_grey: The standard deviation on a mid-grey image, in grey levels of 255.
        clip: Whether noisy images are clipped to [0, 1].
        quantize: Whether they are rounded to 8 bits.

    Raises:
        SettingError: If there is no such noise, or it cannot have this strength.
    """
    return Degradation(families=(family_named(name, sigma_grey),), clip=clip, quantize=quantize)


def check_noise(name: str) -> None:
    """Refuses a name that no noise has.

    Raises:
        SettingError: If it is not one of `NAMED`.
    """
    if name not in NAMED:
        raise SettingError(f"there is no noise called {name!r}; choose from {', '.join(NAMED)}")
