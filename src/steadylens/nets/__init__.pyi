from .architecture import register_net as register_net
from .classification import ChannelNormalization as ChannelNormalization
from .classification import FusedClassifier as FusedClassifier
from .classification import PreparedClassifier as PreparedClassifier
from .classification import SignNet as SignNet
from .exported import exported_classifier as exported_classifier
from .exported import onnx_classifier as onnx_classifier
from .facts import NetFacts as NetFacts
from .facts import facts_of as facts_of
from .restoration import DongNet as DongNet
from .restoration import GaussianSmoothing as GaussianSmoothing
from .restoration import RestorationNet as RestorationNet
from .restoration import initialize_xavier as initialize_xavier
from .restoration import normalize_pattern as normalize_pattern
from .restoration import zero_last_layer as zero_last_layer
from .restoration_unet import RestorationUNet as RestorationUNet
from .third_party import timm_classifier as timm_classifier
from .third_party import torchvision_classifier as torchvision_classifier
from .third_party import transformers_classifier as transformers_classifier

__all__ = [
    "ChannelNormalization",
    "DongNet",
    "FusedClassifier",
    "GaussianSmoothing",
    "NetFacts",
    "PreparedClassifier",
    "RestorationNet",
    "RestorationUNet",
    "SignNet",
    "exported_classifier",
    "facts_of",
    "initialize_xavier",
    "normalize_pattern",
    "onnx_classifier",
    "register_net",
    "timm_classifier",
    "torchvision_classifier",
    "transformers_classifier",
    "zero_last_layer",
]
