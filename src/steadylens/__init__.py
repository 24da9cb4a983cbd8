"""A small restoration ConvNet in front of any image classifier, so that noise does not change its answer.

Images are float tensors (N, C, H, W), RGB, in [0, 1] everywhere; noise strength is in grey levels of 255.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadylens.checkpoint import load_model as load_model
    from steadylens.checkpoint import save_model as save_model
    from steadylens.classification import ChannelNormalization as ChannelNormalization
    from steadylens.classification import SignNet as SignNet
    from steadylens.datasets import load_dataset as load_dataset
    from steadylens.degradation import Degradation as Degradation
    from steadylens.errors import SteadylensError as SteadylensError
    from steadylens.fusion import FusedClassifier as FusedClassifier
    from steadylens.hub import from_pretrained as from_pretrained
    from steadylens.hub import push_to_hub as push_to_hub
    from steadylens.hub import save_pretrained as save_pretrained
    from steadylens.images import read_image as read_image
    from steadylens.images import to_float as to_float
    from steadylens.images import to_uint8 as to_uint8
    from steadylens.images import write_image as write_image
    from steadylens.inference import restore as restore
    from steadylens.metrics import psnr as psnr
    from steadylens.noise import Attenuated as Attenuated
    from steadylens.noise import Gaussian as Gaussian
    from steadylens.noise import Laplacian as Laplacian
    from steadylens.noise import SaltAndPepper as SaltAndPepper
    from steadylens.noise import Sparse as Sparse
    from steadylens.noise import Strength as Strength
    from steadylens.noise import Uniform as Uniform
    from steadylens.noisepool import NoisePool as NoisePool
    from steadylens.pretrained import card as card
    from steadylens.pretrained import load as load
    from steadylens.restoration import DongNet as DongNet
    from steadylens.restoration import GaussianSmoothing as GaussianSmoothing
    from steadylens.restoration import RestorationNet as RestorationNet
    from steadylens.restoration import normalize_pattern as normalize_pattern

__version__ = "0.1.0"

# PyTorch takes seconds to import, so each name is loaded when it is first used.
_HOMES = {
    "Attenuated": "noise",
    "ChannelNormalization": "classification",
    "Degradation": "degradation",
    "DongNet": "restoration",
    "FusedClassifier": "fusion",
    "Gaussian": "noise",
    "GaussianSmoothing": "restoration",
    "Laplacian": "noise",
    "NoisePool": "noisepool",
    "RestorationNet": "restoration",
    "SaltAndPepper": "noise",
    "SignNet": "classification",
    "Sparse": "noise",
    "SteadylensError": "errors",
    "Strength": "noise",
    "Uniform": "noise",
    "card": "pretrained",
    "from_pretrained": "hub",
    "load": "pretrained",
    "load_dataset": "datasets",
    "load_model": "checkpoint",
    "normalize_pattern": "restoration",
    "psnr": "metrics",
    "push_to_hub": "hub",
    "read_image": "images",
    "restore": "inference",
    "save_model": "checkpoint",
    "save_pretrained": "hub",
    "to_float": "images",
    "to_uint8": "images",
    "write_image": "images",
}

__all__ = [
    "Attenuated",
    "ChannelNormalization",
    "Degradation",
    "DongNet",
    "FusedClassifier",
    "Gaussian",
    "GaussianSmoothing",
    "Laplacian",
    "NoisePool",
    "RestorationNet",
    "SaltAndPepper",
    "SignNet",
    "Sparse",
    "SteadylensError",
    "Strength",
    "Uniform",
    "card",
    "from_pretrained",
    "load",
    "load_dataset",
    "load_model",
    "normalize_pattern",
    "psnr",
    "push_to_hub",
    "read_image",
    "restore",
    "save_model",
    "save_pretrained",
    "to_float",
    "to_uint8",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steadylens' has no attribute {name!r}")
    return getattr(import_module(f"steadylens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
