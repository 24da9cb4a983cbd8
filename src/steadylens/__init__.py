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
    from steadylens.classifiers import timm_classifier as timm_classifier
    from steadylens.classifiers import torchvision_classifier as torchvision_classifier
    from steadylens.classifiers import transformers_classifier as transformers_classifier
    from steadylens.comparison import compare as compare
    from steadylens.datasets import load_dataset as load_dataset
    from steadylens.degradation import Degradation as Degradation
    from steadylens.errors import SteadylensError as SteadylensError
    from steadylens.fitting import Fit as Fit
    from steadylens.fusion import FusedClassifier as FusedClassifier
    from steadylens.hub import from_pretrained as from_pretrained
    from steadylens.hub import push_to_hub as push_to_hub
    from steadylens.hub import save_pretrained as save_pretrained
    from steadylens.images import read_image as read_image
    from steadylens.images import to_float as to_float
    from steadylens.images import to_uint8 as to_uint8
    from steadylens.images import write_image as write_image
    from steadylens.inference import restore as restore
    from steadylens.label_free import tune_restorer as tune_restorer
    from steadylens.metrics import psnr as psnr
    from steadylens.noise import Attenuated as Attenuated
    from steadylens.noise import Gaussian as Gaussian
    from steadylens.noise import Laplacian as Laplacian
    from steadylens.noise import SaltAndPepper as SaltAndPepper
    from steadylens.noise import Sparse as Sparse
    from steadylens.noise import Strength as Strength
    from steadylens.noise import Uniform as Uniform
    from steadylens.noisepool import NoisePool as NoisePool
    from steadylens.pairing import fuse_as_they_are as fuse_as_they_are
    from steadylens.pairing import fuse_label_free as fuse_label_free
    from steadylens.preparation import PreparedClassifier as PreparedClassifier
    from steadylens.preparation import exported_classifier as exported_classifier
    from steadylens.pretrained import card as card
    from steadylens.pretrained import load as load
    from steadylens.recipes import recipe_named as recipe_named
    from steadylens.restoration import DongNet as DongNet
    from steadylens.restoration import GaussianSmoothing as GaussianSmoothing
    from steadylens.restoration import RestorationNet as RestorationNet
    from steadylens.restoration import normalize_pattern as normalize_pattern
    from steadylens.run import Run as Run
    from steadylens.stages import fine_tune as fine_tune

__version__ = "0.1.0"

# PyTorch takes seconds to import, so each name is loaded when it is first used.
_HOMES = {
    "Attenuated": "noise",
    "ChannelNormalization": "classification",
    "Degradation": "degradation",
    "DongNet": "restoration",
    "Fit": "fitting",
    "FusedClassifier": "fusion",
    "Gaussian": "noise",
    "GaussianSmoothing": "restoration",
    "Laplacian": "noise",
    "NoisePool": "noisepool",
    "PreparedClassifier": "preparation",
    "RestorationNet": "restoration",
    "Run": "run",
    "SaltAndPepper": "noise",
    "SignNet": "classification",
    "Sparse": "noise",
    "SteadylensError": "errors",
    "Strength": "noise",
    "Uniform": "noise",
    "card": "pretrained",
    "compare": "comparison",
    "exported_classifier": "preparation",
    "fine_tune": "stages",
    "from_pretrained": "hub",
    "fuse_as_they_are": "pairing",
    "fuse_label_free": "pairing",
    "load": "pretrained",
    "load_dataset": "datasets",
    "load_model": "checkpoint",
    "normalize_pattern": "restoration",
    "psnr": "metrics",
    "push_to_hub": "hub",
    "read_image": "images",
    "recipe_named": "recipes",
    "restore": "inference",
    "save_model": "checkpoint",
    "save_pretrained": "hub",
    "timm_classifier": "classifiers",
    "to_float": "images",
    "to_uint8": "images",
    "torchvision_classifier": "classifiers",
    "transformers_classifier": "classifiers",
    "tune_restorer": "label_free",
    "write_image": "images",
}

__all__ = [
    "Attenuated",
    "ChannelNormalization",
    "Degradation",
    "DongNet",
    "Fit",
    "FusedClassifier",
    "Gaussian",
    "GaussianSmoothing",
    "Laplacian",
    "NoisePool",
    "PreparedClassifier",
    "RestorationNet",
    "Run",
    "SaltAndPepper",
    "SignNet",
    "Sparse",
    "SteadylensError",
    "Strength",
    "Uniform",
    "card",
    "compare",
    "exported_classifier",
    "fine_tune",
    "from_pretrained",
    "fuse_as_they_are",
    "fuse_label_free",
    "load",
    "load_dataset",
    "load_model",
    "normalize_pattern",
    "psnr",
    "push_to_hub",
    "read_image",
    "recipe_named",
    "restore",
    "save_model",
    "save_pretrained",
    "timm_classifier",
    "to_float",
    "to_uint8",
    "torchvision_classifier",
    "transformers_classifier",
    "tune_restorer",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'steadylens' has no attribute {name!r}")
    return getattr(import_module(f"steadylens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
