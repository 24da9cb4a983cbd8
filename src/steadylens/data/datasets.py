"""Loads data sets: synthetic signs, the German benchmark, or any folder of classes.

Images are decoded, or drawn, once and kept in a cache that is checked before it is used. The split into
training, validation and test images depends on the seed and is not cached.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadylens.data import synthetic_signs as signs
from steadylens.data.sources import CLASS_NAMES, Listing, Photograph, list_folder, list_gtsrb
from steadylens.data.splitting import ImageIndex, Part, split
from steadylens.errors import DatasetError, ImageError, SettingError, StorageError
from steadylens.files import replacing
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED, read_image
from steadylens.progress import ProgressCallback

Job = Callable[[], Tensor]
"""Returns the images of one file or of one track, uint8 (frames, 3, S, S)."""

_JOBS_AT_ONCE = 64

_MOST_THREADS = 4  # decoding small images takes mostly Python code, which more threads slow down


def load_or_make(
    path: Path, jobs: Sequence[Job], *, frames: int, size: int, progress: ProgressCallback | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Reads images from a file, or makes them and writes the file if it is missing or damaged.

    Args:
        path: The file; its name must change with everything that the jobs depend on.
        jobs: The functions that make the images, in order.
        frames: Number of images that each job makes.
        size: Height and width of the images in pixels.
        progress: Called while images are made, from the calling thread.

    Returns:
        The images, uint8 (N, 3, S, S), which may be mapped from the file (changing them does not change it);
        a 64-bit digest of each image's pixels, int64 (N,); and a note if the file could not be written.
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
    except (StorageError, SafetensorError) as error:  # the images can be used without the file
        return images, digests, (f"the images are not kept for the next time: {error}",)
    # Images that are mapped from the file take no memory of their own, unlike those just made.
    return load_file(path)["images"], digests, ()


def pixel_digests(images: Tensor) -> Tensor:
    """Returns a 64-bit digest of each image's pixels, int64 (N,); different images have different digests."""
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
    finally:  # after an error or an interrupt, no further job starts
        pool.shutdown(cancel_futures=True)
    return images


SIGNS_PER_CLASS = 60
"""Training images of each class in the source `signs` without a number."""

_FRAMES = 5  # views of one synthetic sign

_SIGN_TEST_TRACKS = 10

_CACHE_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        images: 8-bit RGB, uint8 (N, 3, S, S).
        labels: Classes, int64 (N,).
        tracks: The number of the physical sign that each image shows, int64 (N,).
    """

    images: Tensor
    labels: Tensor
    tracks: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ImageError(
                f"images are {self.images.dtype} {tuple(self.images.shape)}, they must be uint8 "
                "(N, 3, H, W); convert them with steadylens.to_uint8"
            )
        for name, values in (("labels", self.labels), ("tracks", self.tracks)):
            if values.dtype != torch.int64 or values.shape != self.images.shape[:1]:
                raise DatasetError(
                    f"{name} are {values.dtype} {tuple(values.shape)}, {len(self.images)} images need int64 "
                    f"({len(self.images)},)"
                )

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    def subset(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """Returns a copy of the images at `indices` in that order: integers, or a mask of bool (N,)."""
        chosen = torch.as_tensor(indices, device=self.labels.device)
        if chosen.dtype != torch.bool:
            chosen = chosen.long()  # an empty list becomes a tensor of floats
        return ImageSet(images=self.images[chosen], labels=self.labels[chosen], tracks=self.tracks[chosen])

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on a device; nothing is copied if it is there already."""
        return ImageSet(
            images=self.images.to(device), labels=self.labels.to(device), tracks=self.tracks.to(device)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Labelled images in three parts. No physical sign is in two parts, as far as tracks are known.

    Attributes:
        train: The images to train on.
        validation: The images to choose settings with.
        test: The images of the reported results.
        class_names: Names of the classes; a label is an index into this tuple.
        source: Where the images come from, as given to `load_dataset`.
        fingerprint: Twelve hexadecimal digits that change with every pixel, label, name and with the split.
        notes: What a user must know about the data, one sentence each.
        fit: How photographs were fitted into squares.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    notes: tuple[str, ...]
    fit: Fit = SQUASHED


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """All that is known of a source before its images are made; each job makes `frames` images."""

    jobs: list[Job]
    frames: int
    key: str
    parts: list[Part]
    labels: list[int]
    tracks: list[str]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fitted: tuple[str, ...] = ()  # the fit, unless images are squashed: earlier versions knew no other fit


def load_dataset(
    source: str,
    *,
    size: int = 48,
    fit: Fit = SQUASHED,
    seed: int = 0,
    validation_share: float = 0.1,
    cache: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Loads images from a source and splits them.

    Validation images are whole tracks of the training set, from every class that has two tracks or more,
    unless the source has validation images of its own. Tracks that contain a test image are left out; a note
    says so.

    Args:
        source: `signs` or `signs:N` for synthetic signs, about N training images per class (the images are
            always the same, only their split depends on the seed); `gtsrb:DIR` for the German Traffic Sign
            Recognition Benchmark; `folder:DIR` for a folder with one folder per class.
        size: Height and width of the images in pixels.
        fit: How photographs become squares of that size, as `PreparedClassifier.fit` says; synthetic signs
            are square.
        seed: Seed of the split.
        validation_share: The share of each class's training tracks for validation, above 0 and below 1.
        cache: Folder for decoded or drawn images, or None for the user's cache folder. Its files may be
            deleted at any time.
        progress: Called with the number of images that are done and the number of all images while they are
            decoded or drawn; not called when they come from the cache.

    Raises:
        DatasetError: If the source is unknown, missing or damaged, or cannot be split.
        SettingError: If the size or the share is out of range, or the fit gives images below the size.
    """
    if size < 1:
        raise SettingError(f"size is {size}, it must be at least 1 pixel")
    fit.check_size(size)
    fit = fit.simplest(size)
    if not 0 < validation_share < 1:
        raise SettingError(f"validation_share is {validation_share}, it must be above 0 and below 1")
    plan = _plan(source, size, fit)
    folder = platformdirs.user_cache_path("steadylens") if cache is None else Path(cache)
    path = folder / f"{source.partition(':')[0]}-{plan.key[:24]}.safetensors"
    images, digests, cache_notes = load_or_make(
        path, plan.jobs, frames=plan.frames, size=size, progress=progress
    )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(plan.tracks))}
    parts, labels, tracks = (
        torch.tensor(values, dtype=torch.int64).repeat_interleave(plan.frames)
        for values in (plan.parts, plan.labels, [numbers[name] for name in plan.tracks])
    )
    index = ImageIndex(
        parts=parts,
        labels=labels,
        tracks=tracks,
        digests=digests,
        class_names=plan.class_names,
        track_names=tuple(numbers),
    )
    parts, split_notes = split(index, validation_share=validation_share, seed=seed)
    everything = ImageSet(images=images, labels=labels, tracks=tracks)
    return Dataset(
        train=everything.subset(parts == Part.TRAIN),
        validation=everything.subset(parts == Part.VALIDATION),
        test=everything.subset(parts == Part.TEST),
        class_names=plan.class_names,
        source=source,
        fingerprint=_digest(size, plan.class_names, parts, labels, tracks, digests, *plan.fitted)[:12],
        notes=(*plan.notes, *split_notes, *cache_notes),
        fit=fit,
    )


def _plan(source: str, size: int, fit: Fit) -> _Plan:
    scheme, _, place = source.partition(":")
    match scheme:
        case "signs":
            return _plan_signs(place, size)
        case "gtsrb" if place:
            return _plan_photographs(list_gtsrb(Path(place).expanduser()), size, fit)
        case "folder" if place:
            return _plan_photographs(list_folder(Path(place).expanduser()), size, fit)
    raise DatasetError(f"source is {source!r}, it must be signs, signs:N, gtsrb:DIR or folder:DIR")


def _plan_photographs(listing: Listing, size: int, fit: Fit) -> _Plan:
    photographs = listing.photographs
    fitted = () if fit == SQUASHED else (str(fit),)
    return _Plan(
        jobs=[partial(_decode, listing.root, photograph, size, fit) for photograph in photographs],
        frames=1,
        key=_digest(_CACHE_FORMAT, PIL.__version__, size, listing.key(), *fitted),
        parts=[photograph.part for photograph in photographs],
        labels=[photograph.label for photograph in photographs],
        tracks=[photograph.track for photograph in photographs],
        class_names=listing.class_names,
        notes=listing.notes,
        fitted=fitted,
    )


def _decode(root: Path, photograph: Photograph, size: int, fit: Fit) -> Tensor:
    try:
        return read_image(root / photograph.path, box=photograph.box, size=size, fit=fit)[None]
    except ImageError as error:
        raise DatasetError(str(error)) from error


def _plan_signs(count: str, size: int) -> _Plan:
    if count and not (count.isdecimal() and int(count)):
        raise DatasetError(f"source is 'signs:{count}', the number of images per class must be 1 or more")
    per_class = int(count) if count else SIGNS_PER_CLASS
    train_tracks = max(round(per_class / _FRAMES), 2)  # one for validation
    wanted = [
        (part, label, track)
        for part, tracks in ((Part.TRAIN, train_tracks), (Part.TEST, _SIGN_TEST_TRACKS))
        for label in range(len(CLASS_NAMES))
        for track in range(tracks)
    ]
    # A changed drawing code must not find an old cache: a sample of drawings represents the code.
    sample = [
        signs.draw_track(label, frames=1, rng=np.random.default_rng(label), size=size)
        for label in range(len(CLASS_NAMES))
    ]
    return _Plan(
        jobs=[partial(_draw, label, (part, label, track), size) for part, label, track in wanted],
        frames=_FRAMES,
        key=_digest(_CACHE_FORMAT, size, train_tracks, torch.from_numpy(np.stack(sample))),
        parts=[part for part, _, _ in wanted],
        labels=[label for _, label, _ in wanted],
        tracks=[f"{part.name.lower()} class {label} track {track}" for part, label, track in wanted],
        class_names=CLASS_NAMES,
    )


def _draw(label: int, seeds: tuple[int, ...], size: int) -> Tensor:
    rng = np.random.default_rng(seeds)
    return torch.from_numpy(signs.draw_track(label, frames=_FRAMES, rng=rng, size=size))


def _digest(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.numpy().tobytes() if isinstance(part, Tensor) else repr(part).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
