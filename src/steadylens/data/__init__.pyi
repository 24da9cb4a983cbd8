from .datasets import Dataset as Dataset
from .datasets import ImageSet as ImageSet
from .datasets import load_dataset as load_dataset
from .own_data import dataset_from as dataset_from
from .sources import Selection as Selection

__all__ = [
    "Dataset",
    "ImageSet",
    "Selection",
    "dataset_from",
    "load_dataset",
]
