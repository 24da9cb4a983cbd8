"""Where clean images come from: drawn signs, the German benchmark, or any folder of classes.

Images are decoded, or drawn, once and kept in a cache; the split depends on the seed and is made anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import platformdirs
import torch
from torch import Tensor

from steadylens import signs
from steadylens.acceleration import ProgressCallback
from steadylens.errors import DatasetError, ImageError, SettingError
from steadylens.fitting import Fit
from steadylens.folders import list_folder
from steadylens.gtsrb import list_gtsrb
from steadylens.imagecache import Job, load_or_make
from steadylens.images import SQUASHED, read_image
from steadylens.listing import Listing, Photograph
from steadylens.splitting import Part, Roll, split

SIGNS_PER_CLASS = 60
"""Training images of each class that `signs` draws when no number is given."""

_FRAMES = 5  # views of one drawn sign
_DRAWN_TEST_TRACKS = 10
_CACHE_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        images: 8-bit RGB, uint8 (N, 3, S, S).
        labels: Classes, int64 (N,).
        tracks: The physical sign that each image shows, int64 (N,): images of one sign share a number.
    """

    images: Tensor
    labels: Tensor
    tracks: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ImageError(
                f"images are {self.images.dtype} {tuple(self.images.shape)}, stored ones are uint8 "
                "(N, 3, H, W); convert with images.to_uint8"
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
        """Returns a copy of the images at `indices`, int64 or a mask of bool (N,), in that order."""
        chosen = torch.as_tensor(indices, device=self.labels.device)
        if chosen.dtype != torch.bool:
            chosen = chosen.long()  # an empty list has no integers to tell its type by
        return ImageSet(images=self.images[chosen], labels=self.labels[chosen], tracks=self.tracks[chosen])

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on a device; nothing is copied if it is there already."""
        return ImageSet(
            images=self.images.to(device), labels=self.labels.to(device), tracks=self.tracks.to(device)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Labelled images in three parts that share no physical sign, as far as tracks are known.

    Attributes:
        train: What nets are trained on.
        validation: What choices are made by.
        test: What is reported.
        class_names: Names of the classes; a label is a place in this tuple.
        source: Where the images come from, as it was given.
        fingerprint: Twelve hexadecimal digits that change with any pixel, label, name or the split.
        notes: What a user must know, a sentence each.
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
    """All that is known of a source before its images are made; `frames` images come from each job."""

    jobs: list[Job]
    frames: int
    key: str
    parts: list[Part]
    labels: list[int]
    tracks: list[str]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fitted: tuple[str, ...] = ()  # the fit, unless the images are squashed: then all is named as it ever was


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

    Validation images are whole tracks of the training set, of every class that has two tracks or more,
    unless the source brings its own. Tracks with an image that equals a test image are left out and noted.

    Args:
        source: `signs` or `signs:N` for drawn ones, about N training images a class (the drawings are
            always the same ones, only their split depends on the seed); `gtsrb:DIR` for the German
            Traffic Sign Recognition Benchmark; `folder:DIR` for a folder of class folders.
        size: Height and width of the images in pixels.
        fit: How photographs become squares of that size, as a `PreparedClassifier` tells; signs are drawn
            as squares.
        seed: Seed of the split.
        validation_share: The share of each class's training tracks to validate on, above 0 and below 1.
        cache: Folder to keep images in that were decoded or drawn, which may be emptied at any time, or
            None for the user's cache folder.
        progress: Called with the number of images that are done and the number of all, while images are
            decoded or drawn; not called when they come from the cache.

    Raises:
        DatasetError: If the source is unknown, missing, damaged, or cannot be split.
        SettingError: If the size or the share breaks its rule, or the fit does not reach the size.
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
    roll = Roll(
        parts=parts,
        labels=labels,
        tracks=tracks,
        digests=digests,
        class_names=plan.class_names,
        track_names=tuple(numbers),
    )
    parts, split_notes = split(roll, validation_share=validation_share, seed=seed)
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


# Sources.


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
        jobs=[partial(_decode, listing.root, shot, size, fit) for shot in photographs],
        frames=1,
        key=_digest(_CACHE_FORMAT, PIL.__version__, size, listing.key(), *fitted),
        parts=[shot.part for shot in photographs],
        labels=[shot.label for shot in photographs],
        tracks=[shot.track for shot in photographs],
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
        raise DatasetError(f"source is 'signs:{count}', the number of images a class must be 1 or more")
    wanted = int(count) if count else SIGNS_PER_CLASS
    train_tracks = max(round(wanted / _FRAMES), 2)  # one for validation
    wishes = [
        (part, label, track)
        for part, tracks in ((Part.TRAIN, train_tracks), (Part.TEST, _DRAWN_TEST_TRACKS))
        for label in range(len(signs.CLASS_NAMES))
        for track in range(tracks)
    ]
    # The cache must not outlive the code that drew it: a sample of drawings stands for that code.
    sample = [
        signs.draw_track(label, frames=1, rng=np.random.default_rng(label), size=size)
        for label in range(len(signs.CLASS_NAMES))
    ]
    return _Plan(
        jobs=[partial(_draw, label, (part, label, track), size) for part, label, track in wishes],
        frames=_FRAMES,
        key=_digest(_CACHE_FORMAT, size, train_tracks, torch.from_numpy(np.stack(sample))),
        parts=[part for part, _, _ in wishes],
        labels=[label for _, label, _ in wishes],
        tracks=[f"{part.name.lower()} class {label} track {track}" for part, label, track in wishes],
        class_names=signs.CLASS_NAMES,
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
