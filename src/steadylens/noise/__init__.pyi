from .camera import Banded as Banded
from .camera import Correlated as Correlated
from .camera import Demosaiced as Demosaiced
from .camera import PoissonGaussian as PoissonGaussian
from .camera import Resized as Resized
from .degradation import Degradation as Degradation
from .families import Attenuated as Attenuated
from .families import Family as Family
from .families import Gaussian as Gaussian
from .families import Laplacian as Laplacian
from .families import SaltAndPepper as SaltAndPepper
from .families import Sparse as Sparse
from .families import Strength as Strength
from .families import Uniform as Uniform
from .jpeg import Jpeg as Jpeg
from .named import family_named as family_named
from .named import named_degradation as named_degradation
from .pool import NoisePool as NoisePool

__all__ = [
    "Attenuated",
    "Banded",
    "Correlated",
    "Degradation",
    "Demosaiced",
    "Family",
    "Gaussian",
    "Jpeg",
    "Laplacian",
    "NoisePool",
    "PoissonGaussian",
    "Resized",
    "SaltAndPepper",
    "Sparse",
    "Strength",
    "Uniform",
    "family_named",
    "named_degradation",
]
