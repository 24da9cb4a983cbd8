from .datasets import Dataset as Dataset
from .datasets import ImageSet as ImageSet
from .datasets import Selection as Selection
from .datasets import load_dataset as load_dataset

__all__ = [
    "Dataset",
    "ImageSet",
    "Selection",
    "load_dataset",
]
