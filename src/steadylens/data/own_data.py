"""Makes a data set of what Python has already: tensors, data sets of PyTorch and torchvision, loaders."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from steadylens.data.class_folders import shown
from steadylens.data.datasets import Dataset, ImageSet
from steadylens.data.image_cache import pixel_digests
from steadylens.errors import DatasetError, ImageError, SettingError
from steadylens.images.preprocessing import Fit, check_size
from steadylens.images.tensors import GREY_LEVELS, SQUASHED, pil_to_tensor, tensor_to_pil, to_rgb, to_uint8

Images = ImageSet | TorchDataset[Any] | DataLoader[Any] | Iterable[Any]
"""Images with labels: pairs of both, one by one or, from a loader, in batches."""

OVERSHOOT = 0.1
"""How far values may lie outside [0, 1] to be clipped: interpolation can put them there."""

MOST_CLASSES = 1_000_000
"""The most classes. Labels beyond are no class numbers, but numbers of images perhaps."""


def dataset_from(
    *,
    test: Images,
    train: Images | None = None,
    validation: Images | None = None,
    class_names: Sequence[str] = (),
    size: int | None = None,
    fit: Fit = SQUASHED,
) -> Dataset:
    """Makes a data set of your own images, which must not be normalised: in [0, 1], or 8-bit.

    Each part is an `ImageSet`, a data set of PyTorch or torchvision (such as a `TensorDataset` or an
    `ImageFolder`), a `DataLoader`, or anything else that gives pairs of image and label. An image is a PIL
    image, an array (H, W, 3) in 8 bits, or a tensor (3, H, W) or (1, H, W), in 8 bits or as float in [0, 1].
    All images are read once and kept in memory, in 8 bits; their order, and so a loader that shuffles, does
    not matter.

    Args:
        test: The images to measure on.
        train: The images to train on, needed only for that.
        validation: The images to validate trained nets on.
        class_names: Names of the classes by label; by default, those that a torchvision data set knows, or
            else the numbers.
        size: Height and width to fit images to; None if all have the same size.
        fit: How images become squares of that size.

    Raises:
        ImageError: If an image is no image, lies outside [0, 1], or has another size than others.
        DatasetError: If a label is no class number, a part gives no pairs or other images each time, or the
            parts name their classes differently.
        SettingError: If `class_names` is a text, or the size is no number of pixels.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
        >>> data = dataset_from(test=TensorDataset(images, labels), class_names=("cat", "dog"))
        >>> len(data.test), data.source
        (6, 'TensorDataset')
    """
    if size is not None:
        check_size(size)
    if test is None:
        raise DatasetError("test is None; give the images to measure on, if need be those of validation")
    given = {"train": train, "validation": validation, "test": test}
    readers = {name: _Reader(name, size, fit) for name in given}
    read = {name: readers[name].read(part) for name, part in given.items() if part is not None}
    sizes = {f"{part.images.shape[2]}x{part.images.shape[3]}" for part in read.values()}
    if len(sizes) > 1:
        raise ImageError(f"the parts have images of {' and '.join(sorted(sizes))} pixels; give size and fit")
    empty = read["test"].subset([])
    parts = {name: read.get(name, empty) for name in given}
    names, name_notes = _class_names(class_names, given, parts)
    equal = torch.isin(pixel_digests(parts["train"].images), pixel_digests(parts["test"].images))
    notes = [note for reader in readers.values() for note in reader.notes()] + name_notes
    if equal.any():
        notes.append(f"training images that equal test images: {int(equal.sum()):,}")
    source = type(_inner(test)).__name__
    return Dataset(**parts, class_names=names, source=source, notes=tuple(notes), fit=fit)


class _Reader:
    """Reads one part, and remembers what must be said of it."""

    def __init__(self, name: str, size: int | None, fit: Fit) -> None:
        self.name, self.size, self.fit = name, size, fit
        self.rounded = self.clipped = 0.0
        self.grey = False
        self.missing = 0

    def read(self, source: Images) -> ImageSet:
        """Returns the images of a part in an order of their own, sorted by their pixels."""
        if isinstance(source, ImageSet):
            return source
        images: list[Tensor] = []
        labels: list[int] = []
        for image, label in self._pairs(source):
            images.append(self._pixels(image, len(images)))
            labels.append(self._number(label, len(labels)))
            if images[-1].shape != images[0].shape:
                first, other = (f"{each.shape[1]}x{each.shape[2]}" for each in (images[0], images[-1]))
                raise ImageError(
                    f"{self.name}: image {len(images) - 1} has {other} pixels, the first {first}; give size "
                    "and fit"
                )
        if not images:
            raise DatasetError(f"{self.name}: {type(source).__name__} gives no images; leave the part out")
        if isinstance(source, DataLoader) and _indexed(source.dataset):
            self.missing = _length(source.dataset) - len(images)
        stacked, numbers = torch.stack(images), torch.tensor(labels)
        order = torch.from_numpy(np.lexsort((numbers.numpy(), pixel_digests(stacked).numpy())))
        return ImageSet(images=stacked[order], labels=numbers[order], tracks=torch.arange(len(order)))

    def notes(self) -> Iterator[str]:
        """Yields what was done to the images, one sentence each."""
        if self.grey:
            yield f"{self.name}: grey images are used with three equal channels"
        if self.rounded > 0.01:
            yield f"{self.name}: images are rounded to 8 bits, by up to {self.rounded:.2f} grey levels"
        if self.clipped > 0:
            yield f"{self.name}: values up to {self.clipped:.2g} outside [0, 1] are clipped"
        if self.missing:
            more = "fewer" if self.missing > 0 else "more"
            yield f"{self.name}: the loader gives {abs(self.missing):,} images {more} than its data set has"

    def _pairs(self, source: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(source, DataLoader):
            self._refuse_random(source.dataset)
            for batch in source:
                images, labels = self._pair(batch)
                if len(images) != len(labels):
                    raise DatasetError(
                        f"{self.name}: a batch has {len(images)} images and {len(labels)} labels, it must "
                        "have as many of both"
                    )
                yield from zip(images, labels, strict=True)
        elif _indexed(source):
            self._refuse_random(source)
            yield from (self._pair(source[number]) for number in range(_length(source)))
        elif isinstance(source, Iterable):
            yield from map(self._pair, source)
        else:
            raise DatasetError(
                f"{self.name} is of type {type(source).__name__}, it must give pairs of image and label, as "
                "a TensorDataset, a data set of torchvision or a DataLoader does"
            )

    def _pair(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, tuple | list) and len(item) >= 2:
            return item[0], item[1]
        raise DatasetError(
            f"{self.name} gives a {type(item).__name__} where a pair of image and label is needed; wrap it "
            "in a data set that gives pairs"
        )

    def _refuse_random(self, source: Any) -> None:
        """Refuses a data set whose first image differs when it is read again."""
        if not _indexed(source) or not _length(source):
            return
        first, again = (self._pixels(self._pair(source[0])[0], 0) for _ in range(2))
        if first.shape != again.shape or not torch.equal(first, again):
            raise DatasetError(
                f"{self.name}: the first image differs when it is read again, so its transform is random; "
                "give the transform for evaluation: trainings change images at random by themselves"
            )

    def _number(self, label: Any, place: int) -> int:
        scalar = isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0
        value = label.item() if scalar else label
        if isinstance(value, bool) or not isinstance(value, int) or value >= MOST_CLASSES:
            raise DatasetError(
                f"{self.name}: label {place} is {label!r}, it must be the number of a class, an integer from "
                f"0 to {MOST_CLASSES - 1:,}"
            )
        return value

    def _pixels(self, image: Any, place: int) -> Tensor:
        """Returns an image as uint8 (3, H, W)."""
        if isinstance(image, np.ndarray) and _is_picture(image):
            image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
        if isinstance(image, Image.Image):
            image = to_rgb(image)
            return pil_to_tensor(image if self.size is None else self.fit.fitted(image, self.size))
        is_image = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3)
        if not is_image or not image.numel():
            what = tuple(image.shape) if hasattr(image, "shape") else type(image).__name__
            raise ImageError(
                f"{self.name}: image {place} is {what}, it must be a PIL image, an 8-bit array (H, W, 3) or "
                "a tensor (3, H, W)"
            )
        if image.shape[0] == 1:
            image, self.grey = image.expand(3, -1, -1), True
        pixels = image.cpu() if image.dtype == torch.uint8 else self._in_8_bits(image.detach().cpu(), place)
        if self.size is None or tuple(pixels.shape[1:]) == (self.size, self.size):
            return pixels.contiguous()
        return pil_to_tensor(self.fit.fitted(tensor_to_pil(pixels), self.size))

    def _in_8_bits(self, image: Tensor, place: int) -> Tensor:
        low, high = (float(value) for value in image.float().aminmax())
        outside = max(-low, high - 1, 0.0)
        if not (image.is_floating_point() and math.isfinite(low + high) and outside <= OVERSHOOT):
            raise ImageError(
                f"{self.name}: image {place} is {image.dtype} from {low:.3g} to {high:.3g}, it must be "
                "uint8, or float in [0, 1]; leave out the normalisation, which the classifier does, and "
                "divide grey levels by 255"
            )
        pixels = to_uint8(image)
        off = (image.clamp(0, 1) * GREY_LEVELS - pixels).abs().max()
        self.clipped, self.rounded = max(self.clipped, outside), max(self.rounded, float(off))
        return pixels


def _class_names(
    wanted: Sequence[str], given: dict[str, Images | None], parts: dict[str, ImageSet]
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names of the classes, and a sentence if they are only numbers."""
    if isinstance(wanted, str):
        raise SettingError(f"class_names is {wanted!r}, it must be a sequence of names")
    if wanted:
        return tuple(wanted), []
    known = dict.fromkeys(names for part in given.values() if (names := _known_names(part)))
    if len(known) > 1:
        first, second, *_ = known
        raise DatasetError(
            f"the parts have different classes: {shown(first)} and {shown(second)}; a label must mean the "
            "same in each"
        )
    if known:
        return next(iter(known)), []
    count = 1 + max(0, *(int(part.labels.max()) for part in parts.values() if len(part)))
    note = f"the classes have no names and are called by their numbers, 0 to {count - 1}"
    return tuple(map(str, range(count))), [note]


def _known_names(source: object) -> tuple[str, ...]:
    """Returns the classes of a torchvision data set; ImageNet has several names for each."""
    classes = getattr(_inner(source), "classes", None)
    if not isinstance(classes, list | tuple):
        return ()
    return tuple(", ".join(name) if isinstance(name, tuple | list) else str(name) for name in classes)


def _inner(source: object) -> object:
    """Returns the data set within loaders and subsets."""
    while (inner := getattr(source, "dataset", None)) is not None:
        source = inner
    return source


def _is_picture(array: np.ndarray[Any, Any]) -> bool:
    """Returns whether an array is an image in 8 bits: (H, W), or (H, W, C) with 1, 3 or 4 channels."""
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    return fits and array.dtype == np.uint8 and array.size > 0


def _indexed(source: object) -> bool:
    """Returns whether a data set can be read by number, and so again and in order."""
    by_number = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return by_number and not isinstance(source, IterableDataset)


def _length(source: Any) -> int:
    return len(source)
