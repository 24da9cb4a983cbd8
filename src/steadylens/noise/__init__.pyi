from .degradation import Degradation as Degradation
from .families import Attenuated as Attenuated
from .families import Family as Family
from .families import Gaussian as Gaussian
from .families import Laplacian as Laplacian
from .families import SaltAndPepper as SaltAndPepper
from .families import Sparse as Sparse
from .families import Strength as Strength
from .families import Uniform as Uniform
from .pool import NoisePool as NoisePool

__all__ = [
    "Attenuated",
    "Degradation",
    "Family",
    "Gaussian",
    "Laplacian",
    "NoisePool",
    "SaltAndPepper",
    "Sparse",
    "Strength",
    "Uniform",
]
