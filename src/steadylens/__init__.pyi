from .checkpoints.card import Card as Card
from .checkpoints.card import card as card
from .checkpoints.checkpoint import load_model as load_model
from .checkpoints.checkpoint import save_model as save_model
from .checkpoints.choosing import default_restorer as default_restorer
from .checkpoints.hub import from_pretrained as from_pretrained
from .checkpoints.hub import push_to_hub as push_to_hub
from .checkpoints.hub import save_pretrained as save_pretrained
from .checkpoints.loading import load as load
from .checkpoints.loading import load_classifier as load_classifier
from .checkpoints.loading import load_net as load_net
from .data.datasets import Dataset as Dataset
from .data.datasets import ImageSet as ImageSet
from .data.datasets import load_dataset as load_dataset
from .data.own_data import dataset_from as dataset_from
from .data.sources import Selection as Selection
from .errors import SteadylensError as SteadylensError
from .evaluation.stress.attacks import Attacks as Attacks
from .evaluation.stress.certification import Certifying as Certifying
from .evaluation.stress.corruptions import Corruptions as Corruptions
from .evaluation.workflows import certify as certify
from .evaluation.workflows import compare as compare
from .images.preprocessing import Fit as Fit
from .images.preprocessing import Preprocessing as Preprocessing
from .images.preprocessing import PreprocessingOptions as PreprocessingOptions
from .images.tensors import read_image as read_image
from .images.tensors import to_float as to_float
from .images.tensors import to_uint8 as to_uint8
from .images.tensors import write_image as write_image
from .inference.engines import fastest_engine as fastest_engine
from .inference.export import export_net as export_net
from .inference.export import open_engine as open_engine
from .inference.inspecting.noise_level import NoiseLevel as NoiseLevel
from .inference.inspecting.noise_level import noise_level as noise_level
from .inference.restorer import restore as restore
from .inference.restorer import restorer_of as restorer_of
from .inference.signature import ExportOptions as ExportOptions
from .metrics import estimate_noise as estimate_noise
from .metrics import psnr as psnr
from .nets.architecture import register_net as register_net
from .nets.classification import ChannelNormalization as ChannelNormalization
from .nets.classification import FusedClassifier as FusedClassifier
from .nets.classification import PreparedClassifier as PreparedClassifier
from .nets.classification import SignNet as SignNet
from .nets.exported import exported_classifier as exported_classifier
from .nets.exported import onnx_classifier as onnx_classifier
from .nets.restoration import DongNet as DongNet
from .nets.restoration import GaussianSmoothing as GaussianSmoothing
from .nets.restoration import RestorationNet as RestorationNet
from .nets.restoration import normalize_pattern as normalize_pattern
from .nets.restoration_unet import RestorationUNet as RestorationUNet
from .nets.third_party import timm_classifier as timm_classifier
from .nets.third_party import torchvision_classifier as torchvision_classifier
from .nets.third_party import transformers_classifier as transformers_classifier
from .noise.camera import Banded as Banded
from .noise.camera import Correlated as Correlated
from .noise.camera import Demosaiced as Demosaiced
from .noise.camera import PoissonGaussian as PoissonGaussian
from .noise.camera import Resized as Resized
from .noise.degradation import Degradation as Degradation
from .noise.families import Attenuated as Attenuated
from .noise.families import Gaussian as Gaussian
from .noise.families import Laplacian as Laplacian
from .noise.families import SaltAndPepper as SaltAndPepper
from .noise.families import Sparse as Sparse
from .noise.families import Strength as Strength
from .noise.families import Uniform as Uniform
from .noise.jpeg import Jpeg as Jpeg
from .noise.pool import NoisePool as NoisePool
from .training.fusing.label_free import fuse_label_free as fuse_label_free
from .training.fusing.label_free import tune_restorer as tune_restorer
from .training.fusing.labelled import fine_tune as fine_tune
from .training.fusing.labelled import tune_together as tune_together
from .training.fusing.pairs import fuse_as_they_are as fuse_as_they_are
from .training.loop import Training as Training
from .training.objectives import classifying_objective as classifying_objective
from .training.objectives import restoring_objective as restoring_objective
from .training.recipes import recipe_named as recipe_named
from .training.run import Run as Run

__version__: str

__all__ = [
    "Attacks",
    "Attenuated",
    "Banded",
    "Card",
    "Certifying",
    "ChannelNormalization",
    "Correlated",
    "Corruptions",
    "Dataset",
    "Degradation",
    "Demosaiced",
    "DongNet",
    "ExportOptions",
    "Fit",
    "FusedClassifier",
    "Gaussian",
    "GaussianSmoothing",
    "ImageSet",
    "Jpeg",
    "Laplacian",
    "NoiseLevel",
    "NoisePool",
    "PoissonGaussian",
    "PreparedClassifier",
    "Preprocessing",
    "PreprocessingOptions",
    "Resized",
    "RestorationNet",
    "RestorationUNet",
    "Run",
    "SaltAndPepper",
    "Selection",
    "SignNet",
    "Sparse",
    "SteadylensError",
    "Strength",
    "Training",
    "Uniform",
    "card",
    "certify",
    "classifying_objective",
    "compare",
    "dataset_from",
    "default_restorer",
    "estimate_noise",
    "export_net",
    "exported_classifier",
    "fastest_engine",
    "fine_tune",
    "from_pretrained",
    "fuse_as_they_are",
    "fuse_label_free",
    "load",
    "load_classifier",
    "load_dataset",
    "load_model",
    "load_net",
    "noise_level",
    "normalize_pattern",
    "onnx_classifier",
    "open_engine",
    "psnr",
    "push_to_hub",
    "read_image",
    "recipe_named",
    "register_net",
    "restore",
    "restorer_of",
    "restoring_objective",
    "save_model",
    "save_pretrained",
    "timm_classifier",
    "to_float",
    "to_uint8",
    "torchvision_classifier",
    "transformers_classifier",
    "tune_restorer",
    "tune_together",
    "write_image",
]
