from .preprocessing import Fit as Fit
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import PreprocessingOptions as PreprocessingOptions
from .tensors import read_image as read_image
from .tensors import to_float as to_float
from .tensors import to_uint8 as to_uint8
from .tensors import write_image as write_image

__all__ = [
    "Fit",
    "Preprocessing",
    "PreprocessingOptions",
    "read_image",
    "to_float",
    "to_uint8",
    "write_image",
]
