"""Images made once, by many small jobs, and kept in one file that is checked before it is believed."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadylens.acceleration import ProgressCallback
from steadylens.errors import StorageError
from steadylens.files import replacing

Job = Callable[[], Tensor]
"""Makes the images of one file or of one track, uint8 (frames, 3, S, S)."""

_JOBS_AT_ONCE = 64
_MOST_THREADS = (
    4  # decoding frees the interpreter, but small images are mostly Python: more threads slow down
)


def load_or_make(
    path: Path, jobs: Sequence[Job], *, frames: int, size: int, progress: ProgressCallback | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Reads the images at `path`, or makes them and keeps them there if it holds no sound copy.

    Args:
        path: The file; its name must change with whatever the jobs depend on.
        jobs: What makes the images, in order.
        frames: Number of images that each job makes.
        size: Height and width of the images in pixels.
        progress: Called while images are made, from the calling thread.

    Returns:
        The images, uint8 (N, 3, S, S), which may lie in the file: changing them does not change it; a 64-bit
        digest of each one's pixels, int64 (N,); and a note if the file could not be written.
    """
    shape = (len(jobs) * frames, 3, size, size)
    stored = _read(path, shape)
    if stored is not None:
        return *stored, ()
    images = _make(jobs, shape, frames, progress or (lambda done, total: None))
    digests = pixel_digests(images)
    try:
        with replacing(path) as temporary:
            save_file({"images": images, "digests": digests}, temporary)
    except (StorageError, SafetensorError) as error:  # the images are at hand all the same
        return images, digests, (f"the images are not kept for the next time: {error}",)
    # What is read from the file is mapped: unlike what was made, it takes no memory that others may need.
    return load_file(path)["images"], digests, ()


def pixel_digests(images: Tensor) -> Tensor:
    """Returns a 64-bit digest of the pixels of each image, int64 (N,): equal for equal images only."""
    hashes = (hashlib.blake2b(image, digest_size=8).digest() for image in images.contiguous().numpy())
    return torch.from_numpy(np.frombuffer(b"".join(hashes), dtype="<i8").astype(np.int64))


def _read(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
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
    return images, digests


def _make(jobs: Sequence[Job], shape: tuple[int, ...], frames: int, progress: ProgressCallback) -> Tensor:
    images = torch.empty(shape, dtype=torch.uint8)

    def fill(start: int) -> int:
        batch = jobs[start : start + _JOBS_AT_ONCE]
        for place, job in enumerate(batch, start=start):
            images[place * frames : (place + 1) * frames] = job()
        return (start + len(batch)) * frames

    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        for done in pool.map(fill, range(0, len(jobs), _JOBS_AT_ONCE)):
            progress(done, len(images))
    finally:  # after an error or an interrupt, what has not begun is not begun
        pool.shutdown(cancel_futures=True)
    return images
