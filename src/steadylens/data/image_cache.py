"""Keeps the decoded or drawn images of a data set in a file, which is checked before it is used.

An image that cannot be read does not stop the others: all of them are named together, or left out.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadylens.data.sources import MOST_NAMED
from steadylens.errors import DatasetError, StorageError
from steadylens.files import replacing
from steadylens.progress import ProgressCallback

Job = Callable[[], Tensor]
"""Returns the images of one file or of one track, uint8 (frames, 3, S, S)."""

_JOBS_AT_ONCE = 64

_MOST_THREADS = 4  # decoding small images takes mostly Python code, which more threads slow down


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
) -> CachedImages:
    """Reads images from a file, or makes them and writes the file if it is missing or damaged.

    Args:
        path: The file; its name must change with everything that the jobs depend on.
        jobs: The functions that make the images, in order.
        frames: Number of images that each job makes.
        size: Height and width of the images in pixels.
        progress: Called while images are made, from the calling thread.
        skip_damaged: Whether a job may raise `DatasetError`.

    Raises:
        DatasetError: If jobs raise it although `skip_damaged` is False; the message names all of them.
    """
    shape = (len(jobs) * frames, 3, size, size)
    stored = _read(path, shape)
    if stored is not None and (skip_damaged or not stored.damaged):
        return stored
    images, errors = _make(jobs, shape, frames, progress or (lambda done, total: None))
    if errors and not skip_damaged:
        raise DatasetError(_all_named(list(errors.values())))
    made = CachedImages(images=images, digests=pixel_digests(images), damaged=tuple(sorted(errors)))
    tensors = {"images": images, "digests": made.digests}
    if errors:
        tensors["damaged"] = torch.tensor(made.damaged)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    except (StorageError, SafetensorError) as error:  # the images can be used without the file
        note = f"the images are not kept for the next time: {error}"
        return CachedImages(images=images, digests=made.digests, damaged=made.damaged, notes=(note,))
    # Images that are mapped from the file take no memory of their own, unlike those just made.
    return CachedImages(images=load_file(path)["images"], digests=made.digests, damaged=made.damaged)


def pixel_digests(images: Tensor) -> Tensor:
    """Returns a 64-bit digest of each image's pixels, int64 (N,); different images have different digests."""
    hashes = (hashlib.blake2b(image, digest_size=8).digest() for image in images.contiguous().numpy())
    return torch.from_numpy(np.frombuffer(b"".join(hashes), dtype="<i8").astype(np.int64))


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
    damaged = tuple(stored["damaged"].tolist()) if "damaged" in stored else ()
    return CachedImages(images=images, digests=digests, damaged=damaged)


def _make(
    jobs: Sequence[Job], shape: tuple[int, ...], frames: int, progress: ProgressCallback
) -> tuple[Tensor, dict[int, DatasetError]]:
    """Returns the images, and the errors of the jobs that failed, by number in ascending order."""
    images = torch.empty(shape, dtype=torch.uint8)
    errors: dict[int, DatasetError] = {}

    def fill(start: int) -> int:
        batch = jobs[start : start + _JOBS_AT_ONCE]
        for place, job in enumerate(batch, start=start):
            rows = images[place * frames : (place + 1) * frames]
            try:
                rows[:] = job()
            except DatasetError as error:
                rows.zero_()
                errors[place] = error
        return (start + len(batch)) * frames

    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        for done in pool.map(fill, range(0, len(jobs), _JOBS_AT_ONCE)):
            progress(done, len(images))
    finally:  # after an unexpected error or an interrupt, no further job starts
        pool.shutdown(cancel_futures=True)
    return images, dict(sorted(errors.items()))


def _all_named(errors: Sequence[DatasetError]) -> str:
    reasons = [str(error) for error in errors[:MOST_NAMED]]
    if len(errors) == 1:
        return f"{reasons[0]}, or leave it out with --skip-damaged, in Python Selection(skip_damaged=True)"
    if len(errors) > len(reasons):
        reasons.append(f"and {len(errors) - len(reasons):,} others")
    head = (
        f"{len(errors):,} images cannot be used; leave them out with --skip-damaged, in Python "
        "Selection(skip_damaged=True), or do what each line says:"
    )
    return "\n  ".join([head, *reasons])
