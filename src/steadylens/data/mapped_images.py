"""Images that are larger than memory: tensors whose pixels stay in a file and are read when they are used."""

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens.errors import SettingError

MOST_IN_MEMORY = 2 * 2**30
"""Bytes of pixels up to which a data set is kept in memory, unless another limit is given."""

BLOCK_BYTES = 2**24
"""Bytes of images that are decoded, written or read together."""

_UNCHANGEABLE = "images that stay in a file cannot be changed; change a copy: images[:10]"

_MOST_RESIDENT = 2**28  # bytes of the mapped file that are read before its pages are given back


class _PixelFile:
    """The images in a file of safetensors, mapped into memory for reading.

    Args:
        path: The file, which must be valid. It may be removed or replaced afterwards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entry = json.loads(file.read(length))["images"]
            self.mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count, *shape = entry["shape"]
        self.count, self.shape = count, tuple(shape)
        self.start, self.row_bytes = 8 + length + entry["data_offsets"][0], int(np.prod(shape))
        flat = np.frombuffer(self.mapping, np.uint8, count * self.row_bytes, self.start)
        self.pixels = flat.reshape(count, self.row_bytes)
        self._read_bytes = 0

    def read(self, rows: Tensor) -> Tensor:
        """Returns a copy of some images, uint8 (N, 3, S, S), by their places in the file, int64 (N,)."""
        places = rows.numpy()
        self._announce(places)
        copied = torch.from_numpy(np.take(self.pixels, places, axis=0)).view(-1, *self.shape)
        self._read_bytes += copied.nbytes
        if self._read_bytes > _MOST_RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)  # else all that was ever read would count as resident
            self._read_bytes = 0
        return copied

    def _announce(self, places: NDArray[np.int64]) -> None:
        """Tells the system what is read next, so that a disk fetches all of it at once."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for place in places.tolist():
            begin = self.start + place * self.row_bytes
            page = begin - begin % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, page, begin + self.row_bytes - page)


class MappedImages(Tensor):
    """Images that stay in a file: a tensor, uint8 (N, 3, S, S), without memory of its own.

    Indexing the first axis, by a number, a slice, a mask or indices, reads those images and returns an
    ordinary tensor on the device of this one. `rows`, `torch.split` along that axis and `to(device)` read
    nothing. Every other operation reads all images first, and is refused if they take more than
    `MOST_IN_MEMORY`.

    Args:
        file: The file.
        chosen: The places of the images in the file, int64 (N,), on the CPU.
        device: The device that images are moved to when they have been read.
    """

    _file: _PixelFile
    _chosen: Tensor

    @staticmethod
    def __new__(cls, file: _PixelFile, chosen: Tensor, device: torch.device) -> "MappedImages":
        """Makes a tensor of the right shape, to which PyTorch gives no memory."""
        made: MappedImages = Tensor._make_wrapper_subclass(
            cls, (len(chosen), *file.shape), dtype=torch.uint8, device=device
        )
        made._file, made._chosen = file, chosen
        return made

    def __init__(self, *_: object) -> None:
        super().__init__()

    @classmethod
    def of_file(cls, path: Path) -> "MappedImages":
        """Returns all images of a valid file, on the CPU."""
        file = _PixelFile(path)
        return cls(file, torch.arange(file.count), torch.device("cpu"))

    def rows(self, indices: Tensor) -> "MappedImages":
        """Returns some of the images without reading them, by indices, int64 (M,), or a mask, bool (N,)."""
        return MappedImages(self._file, self._chosen[indices.cpu()], self.device)

    def loaded(self) -> Tensor:
        """Reads all images and returns them as an ordinary tensor.

        Raises:
            SettingError: If they take more than `MOST_IN_MEMORY`.
        """
        if self.nbytes > MOST_IN_MEMORY:
            raise SettingError(
                f"{len(self):,} images, {self.nbytes / 1e9:,.1f} GB, are asked for at once, at most "
                f"{MOST_IN_MEMORY / 1e9:.1f} GB are read from {self._file.path}; take some by index, such as "
                "images[:500], or keep the data set in memory: --memory, in Python load_dataset(memory=...)"
            )
        return self._read(self._chosen)

    def _read(self, chosen: Tensor) -> Tensor:
        images = self._file.read(chosen.flatten()).to(self.device)
        return images.view(*chosen.shape, *images.shape[1:])

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Leaves it to `__torch_dispatch__` what each function does; results are ordinary tensors."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # the base class has a placeholder
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[Any, Any] | None = None,
    ) -> Any:
        """Runs an operation of PyTorch: on the places of the images where that is enough."""
        if func._schema.is_mutable:
            raise SettingError(_UNCHANGEABLE)
        kwargs = kwargs or {}
        # PyTorch takes a slice for a view of this tensor, which may not be an inference tensor.
        with torch.inference_mode(False):
            if isinstance(args[0], cls):
                done = args[0]._by_places(func, *args[1:], **kwargs)
                if done is not None:
                    return done
            return func(*_loaded(args), **_loaded(kwargs))

    def _by_places(self, func: Any, *rest: Any, **named: Any) -> Any:
        """Returns the result of an operation that needs at most some of the images; None of another."""
        aten = torch.ops.aten
        result: Any = None
        if func in (aten.slice.Tensor, aten.select.int) and rest[0] == 0:
            result = self._read(func(self._chosen, *rest, **named))
        elif func is aten.index.Tensor and _chooses_rows(rest[0]):
            result = self._indexed(*rest[0])
        elif func is aten.index_select.default and rest[0] == 0:
            result = self._read(self._chosen[rest[1].cpu()])
        elif func in (aten.split.Tensor, aten.split_with_sizes.default) and rest[1:] in ((), (0,)):
            parts = func(self._chosen, rest[0])
            result = [type(self)(self._file, some, self.device) for some in parts]
        elif func is aten.detach.default:
            result = self
        elif func is aten._to_copy.default and (named.get("dtype") or self.dtype) == self.dtype:
            result = type(self)(self._file, self._chosen, torch.device(named.get("device") or self.device))
        return result

    def _indexed(self, first: Tensor, *others: Tensor | None) -> Tensor:
        """Returns images by an index of the first axis, and what indices of other axes choose of them."""
        chosen = self._chosen[first.cpu()]
        images = self._read(chosen.flatten())
        places = torch.arange(len(images), device=self.device).view(chosen.shape)
        return images[(places, *(slice(None) if each is None else each for each in others))]

    def __setitem__(self, *_: object) -> None:
        raise SettingError(_UNCHANGEABLE)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # it has no types
        return f"MappedImages({tuple(self.shape)}, device={self.device}, file={str(self._file.path)!r})"

    def __deepcopy__(self, _: object) -> "MappedImages":
        return self

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return _reopened, (self._file.path, self._chosen, self.device)


def _reopened(path: Path, chosen: Tensor, device: torch.device) -> MappedImages:
    return MappedImages(_PixelFile(path), chosen, device)


def _chooses_rows(indices: Sequence[Tensor | None]) -> bool:
    """Returns whether indices choose along the first axis alone, and perhaps along others beside it."""
    first = indices[0]
    if first is None or isinstance(first, MappedImages):
        return False
    return first.dtype in (torch.int64, torch.int32) or (first.dtype == torch.bool and first.ndim == 1)


def _loaded(value: Any) -> Any:
    """Returns arguments of an operation with ordinary tensors in place of images in a file."""
    match value:
        case MappedImages():
            return value.loaded()
        case list() | tuple():
            return type(value)(_loaded(each) for each in value)
        case dict():
            return {name: _loaded(each) for name, each in value.items()}
    return value


def subset(images: Tensor, indices: Tensor) -> Tensor:
    """Returns some images by indices, or a mask; of images in a file nothing is read."""
    return images.rows(indices) if isinstance(images, MappedImages) else images[indices]


def blocks(images: Tensor) -> Iterator[Tensor]:
    """Yields images, or any tensor, in ordinary tensors of some megabytes on the CPU, in order."""
    rows = max(1, BLOCK_BYTES * len(images) // max(1, images.nbytes))
    for some in torch.split(images.cpu(), rows):
        yield (some.loaded() if isinstance(some, MappedImages) else some).contiguous()
