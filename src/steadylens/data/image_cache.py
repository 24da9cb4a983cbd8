"""Keeps the decoded or drawn images of a data set in a file, which is checked before it is used.

A data set that is larger than the memory it may take stays in that file: it is decoded into it a block at a
time, and `MappedImages` reads from it what is asked for. An image that cannot be read does not stop the
others: all of them are named together, or left out.
"""

import hashlib
import json
import os
import shutil
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadylens.data.mapped_images import BLOCK_BYTES, MOST_IN_MEMORY, MappedImages, blocks
from steadylens.data.sources import MOST_NAMED
from steadylens.errors import DatasetError, StorageError
from steadylens.files import replacing
from steadylens.progress import ProgressCallback

Job = Callable[[], Tensor]
"""Returns the images of one file or of one track, uint8 (frames, 3, S, S)."""

_JOBS_AT_ONCE = 64

_ABANDONED_SECONDS = 3600  # whoever makes a file writes to it all the time

_MOST_THREADS = 4  # decoding small images takes mostly Python code, which more threads slow down

_Item = TypeVar("_Item")

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CachedImages:
    """Images, as they are in the file.

    Attributes:
        images: uint8 (N, 3, S, S). They may be mapped from the file; changing them does not change it.
        digests: A 64-bit digest of each image's pixels, int64 (N,).
        damaged: The numbers of the jobs whose images could not be read, in order; these images are black.
        notes: What a user must know, one sentence each.
    """

    images: Tensor
    digests: Tensor
    damaged: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def load_or_make(
    path: Path,
    jobs: Sequence[Job],
    *,
    frames: int,
    size: int,
    progress: ProgressCallback | None,
    skip_damaged: bool = False,
    memory: int = MOST_IN_MEMORY,
) -> CachedImages:
    """Reads images from a file, or makes them and writes the file if it is missing or damaged.

    Args:
        path: The file; its name must change with everything that the jobs depend on.
        jobs: The functions that make the images, in order.
        frames: Number of images that each job makes.
        size: Height and width of the images in pixels.
        progress: Called while images are made, from the calling thread; and while images that stay in the
            file are checked.
        skip_damaged: Whether a job may raise `DatasetError`.
        memory: Bytes of pixels up to which the images are kept in memory. More stay in the file, as
            `MappedImages`.

    Raises:
        DatasetError: If jobs raise it although `skip_damaged` is False; the message names all of them.
        StorageError: If images that must stay in the file cannot be written.
    """
    shape = (len(jobs) * frames, 3, size, size)
    progress = progress or (lambda done, total: None)
    too_large = _bytes(shape) > memory
    stored = _read_mapped(path, shape, progress) if too_large else _read(path, shape)
    if stored is not None and (skip_damaged or not stored.damaged):
        return stored
    if too_large:
        return _make_in_file(path, jobs, shape, frames, progress, skip_damaged=skip_damaged)
    made, errors = _make(jobs, shape, frames, progress)
    if errors and not skip_damaged:
        raise DatasetError(all_named([str(error) for error in errors.values()]))
    tensors = {"images": made.images, "digests": made.digests}
    if errors:
        tensors["damaged"] = torch.tensor(made.damaged)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    except (StorageError, SafetensorError) as error:  # the images can be used without the file
        note = f"the images are not kept for the next time: {error}"
        return replace(made, notes=(note,))
    # Images that are mapped from the file take no memory of their own, unlike those just made.
    return replace(made, images=load_file(path)["images"])


def pixel_digests(images: Tensor, *, progress: ProgressCallback | None = None) -> Tensor:
    """Returns a 64-bit digest of each image's pixels, int64 (N,); different images have different digests.

    Args:
        images: uint8 (N, 3, S, S), in memory or in a file, which is read a block at a time.
        progress: Called with the number of images that are done and the number of all.
    """
    hashes = bytearray()
    for some in _in_order(_hashes, blocks(images)):
        hashes += some
        if progress is not None:
            progress(len(hashes) // 8, len(images))
    return _numbers(hashes)


def _numbers(hashes: bytearray) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytes(hashes), dtype="<i8").astype(np.int64))


def _hashes(images: Tensor) -> bytes:
    return b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in images.numpy())


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _read(path: Path, shape: tuple[int, ...]) -> CachedImages | None:
    if not path.is_file():
        return None
    try:
        stored = load_file(path)
        images, digests = stored["images"], stored["digests"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if (
        images.dtype != torch.uint8
        or images.shape != shape
        or not torch.equal(digests, pixel_digests(images))
    ):
        return None
    return CachedImages(images=images, digests=digests, damaged=_damaged(stored.get("damaged")))


def _read_mapped(path: Path, shape: tuple[int, ...], progress: ProgressCallback) -> CachedImages | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            found = stored.get_slice("images")
            if found.get_dtype() != "U8" or tuple(found.get_shape()) != shape:
                return None
            digests = torch.from_numpy(stored.get_tensor("digests"))
            damaged = torch.from_numpy(stored.get_tensor("damaged")) if "damaged" in stored.keys() else None  # noqa: SIM118 - no mapping
        images = MappedImages.of_file(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if not torch.equal(digests, pixel_digests(images, progress=progress)):
        return None
    return CachedImages(images=images, digests=digests, damaged=_damaged(damaged))


def _damaged(stored: Tensor | None) -> tuple[int, ...]:
    """Returns the numbers of damaged jobs, which files hold as numbers or as a mask."""
    if stored is None:
        return ()
    numbers = stored.nonzero().flatten() if stored.dtype == torch.bool else stored
    return tuple(numbers.tolist())


def _make(
    jobs: Sequence[Job], shape: tuple[int, ...], frames: int, progress: ProgressCallback
) -> tuple[CachedImages, dict[int, DatasetError]]:
    """Returns the images, and the errors of the jobs that failed, by number in ascending order."""
    images = torch.empty(shape, dtype=torch.uint8)
    errors: dict[int, DatasetError] = {}
    hashes, done = bytearray(), 0
    for some, digests, failed in _made(jobs, shape, frames):
        images[done : done + len(some)] = some
        hashes += digests
        errors |= failed
        done += len(some)
        progress(done, len(images))
    return CachedImages(images=images, digests=_numbers(hashes), damaged=tuple(errors)), errors


def _make_in_file(
    path: Path,
    jobs: Sequence[Job],
    shape: tuple[int, ...],
    frames: int,
    progress: ProgressCallback,
    *,
    skip_damaged: bool,
) -> CachedImages:
    """Makes images and writes each block of them into the file, which is kept even if some are damaged."""
    errors: dict[int, DatasetError] = {}
    hashes = bytearray()
    _remove_abandoned(path)
    with replacing(path) as temporary, temporary.open("rb+") as file:
        _check_space(path, _bytes(shape))
        file.write(_header(shape, len(jobs)))
        place_of_digests = file.tell()
        file.write(bytes(8 * shape[0]))
        for some, digests, failed in _made(jobs, shape, frames):
            file.write(some.numpy().data)
            hashes += digests
            errors |= failed
            progress(len(hashes) // 8, shape[0])
        file.write(bytes(number in errors for number in range(len(jobs))))
        file.seek(place_of_digests)
        file.write(hashes)
    if errors and not skip_damaged:
        raise DatasetError(all_named([str(error) for error in errors.values()]))
    return CachedImages(images=MappedImages.of_file(path), digests=_numbers(hashes), damaged=tuple(errors))


def _header(shape: tuple[int, ...], jobs: int) -> bytes:
    """Returns what a file of safetensors begins with: its length, and types, shapes and places of tensors.

    The digests come first, as their numbers must lie at a multiple of eight bytes.
    """
    sizes = {"digests": ("I64", (shape[0],)), "images": ("U8", shape), "damaged": ("BOOL", (jobs,))}
    entries, begin = {}, 0
    for name, (dtype, of_tensor) in sizes.items():
        end = begin + _bytes(of_tensor) * (8 if dtype == "I64" else 1)
        entries[name] = {"dtype": dtype, "shape": of_tensor, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _remove_abandoned(path: Path) -> None:
    """Removes what a process that was killed left of this file: it may take all the space that is needed."""
    for left in path.parent.glob(f".{path.stem[:40]}-{'[0-9a-f]' * 16}{path.suffix}"):
        with suppress(OSError):  # another process may remove it at the same time
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise StorageError(
            f"the decoded images take {needed / 1e9:,.1f} GB, {path.parent} has {free / 1e9:,.1f} GB free; "
            "free some space, or choose another folder with --cache, in Python cache=..."
        )


def _made(
    jobs: Sequence[Job], shape: tuple[int, ...], frames: int
) -> Iterator[tuple[Tensor, bytes, dict[int, DatasetError]]]:
    """Yields images in blocks, in order, each with its digests and the errors of its jobs by number."""

    def work(start: int) -> tuple[Tensor, bytes, dict[int, DatasetError]]:
        some = jobs[start : start + at_once]
        images = torch.empty((len(some) * frames, *shape[1:]), dtype=torch.uint8)
        errors: dict[int, DatasetError] = {}
        for place, job in enumerate(some):
            rows = images[place * frames : (place + 1) * frames]
            try:
                rows[:] = job()
            except DatasetError as error:
                rows.zero_()
                errors[start + place] = error
        return images, _hashes(images), errors

    at_once = max(1, min(_JOBS_AT_ONCE, BLOCK_BYTES // (frames * _bytes(shape[1:]))))
    yield from _in_order(work, range(0, len(jobs), at_once))


def _in_order(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yields `work(item)` of each item in order; threads work on a few items ahead of whoever takes them."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future[_Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > 2 * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:  # after an unexpected error or an interrupt, nothing further starts
        pool.shutdown(cancel_futures=True)


def all_named(reasons: Sequence[str]) -> str:
    """Returns the message about all images that cannot be used, by the reasons."""
    if len(reasons) == 1:
        return f"{reasons[0]}, or leave it out with --skip-damaged, in Python Selection(skip_damaged=True)"
    named = list(reasons[:MOST_NAMED])
    if len(reasons) > len(named):
        named.append(f"and {len(reasons) - len(named):,} others")
    head = (
        f"{len(reasons):,} images cannot be used; leave them out with --skip-damaged, in Python "
        "Selection(skip_damaged=True), or do what each line says:"
    )
    return "\n  ".join([head, *named])
