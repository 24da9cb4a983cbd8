"""Loads data sets: synthetic signs, the German benchmark, folders of classes, tar files, or photographs.

Images are decoded, or drawn, once and kept in a cache that is checked before it is used. The split into
training, validation and test images depends on the seed and is not cached.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import PIL
import platformdirs
import torch
from torch import Tensor

from steadylens.data.class_folders import list_folder, order_notes, shown
from steadylens.data.image_cache import Job, load_or_make
from steadylens.data.mapped_images import MOST_IN_MEMORY, MappedImages, blocks, subset
from steadylens.data.photographs import TILE_SIZE, decode_tile, list_tiles
from steadylens.data.shards import decode_member, list_shards
from steadylens.data.signs import synthetic_signs as signs
from steadylens.data.sources import CLASS_NAMES, EVERYTHING, Listing, Photograph, Selection, list_gtsrb
from steadylens.data.splitting import ImageIndex, Part, split, split_unlabelled
from steadylens.errors import DatasetError, ImageError, SettingError
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED, read_image
from steadylens.progress import ProgressCallback

IMAGE_SIZE = 48
"""Height and width of the images in pixels, unless another size is asked for; not of photographs."""

SIGNS_PER_CLASS = 60
"""Training images of each class in the source `signs` without a number."""

_FRAMES = 5  # views of one synthetic sign

_SIGN_TEST_TRACKS = 10

_CACHE_FORMAT = 1

SAMPLED_BYTES = 2**27
"""Bytes of images that are read of a set that stays in a file, where a sample of it is enough."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        images: 8-bit RGB, uint8 (N, 3, S, S). Those of a large data set stay in a file: indices, slices and
            masks of the first axis read some of them and give ordinary tensors.
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
        """Returns the images at `indices` in that order: integers, or a mask of bool (N,).

        They are copied, unless they stay in a file.
        """
        chosen = torch.as_tensor(indices, device=self.labels.device)
        if chosen.dtype != torch.bool:
            chosen = chosen.long()  # an empty list becomes a tensor of floats
        return ImageSet(
            images=subset(self.images, chosen), labels=self.labels[chosen], tracks=self.tracks[chosen]
        )

    def loaded(self, most: int = SAMPLED_BYTES) -> "ImageSet":
        """Returns the set in memory; of one that stays in a file the first images, up to `most` bytes."""
        if not isinstance(self.images, MappedImages):
            return self
        some = slice(most * len(self) // max(1, self.images.nbytes))
        return ImageSet(images=self.images[some], labels=self.labels[some], tracks=self.tracks[some])

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on a device; nothing is copied if it is there already."""
        return ImageSet(
            images=self.images.to(device), labels=self.labels.to(device), tracks=self.tracks.to(device)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images in three parts. No physical sign is in two parts, as far as tracks are known.

    Attributes:
        train: The images to train on.
        validation: The images to choose settings with.
        test: The images of the reported results.
        class_names: Names of the classes; a label is an index into this tuple.
        source: Where the images come from, as given to `load_dataset`.
        notes: What a user must know about the data, one sentence each.
        fit: How photographs were fitted into squares.

    Raises:
        ImageError: If the images of the parts differ in size.
        DatasetError: If a label is no index into the class names, or two classes have the same name.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    fit: Fit = SQUASHED

    def __post_init__(self) -> None:
        sizes = {tuple(part.images.shape[2:]) for part in self._parts()}
        if len(sizes) > 1:
            raise ImageError(f"the parts have images of {sorted(sizes)} pixels; give all of them one size")
        if len(set(self.class_names)) < len(self.class_names):
            raise DatasetError(
                f"the class names {shown(self.class_names)} are not all different; rename some"
            )
        for part in self._parts():
            _check_labels(part.labels, self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with every pixel, label, name and with the split.

        Results that were measured before are found by it, so nobody gives it: it is computed from the data.
        """
        tensors = (tensor for part in self._parts() for tensor in (part.images, part.labels, part.tracks))
        shapes = [tuple(part.images.shape) for part in self._parts()]
        return _digest(self.class_names, str(self.fit), shapes, *tensors)[:12]

    def to(self, device: torch.device | str) -> "Dataset":
        """Returns the data on a device; nothing is copied if they are there already."""
        train, validation, test = (part.to(device) for part in self._parts())
        return self._the_same(replace(self, train=train, validation=validation, test=test))

    def unlabelled(self, class_names: Sequence[str] = ()) -> "Dataset":
        """Returns the images without their labels, for a training that uses none; every label is 0.

        Args:
            class_names: Names of a classifier's classes, which files of its nets are to contain.
        """
        parts = (replace(part, labels=torch.zeros_like(part.labels)) for part in self._parts())
        train, validation, test = parts
        return self._the_same(
            replace(self, train=train, validation=validation, test=test, class_names=tuple(class_names))
        )

    def numbered_as(self, class_names: Sequence[str]) -> "Dataset":
        """Returns the data with the class numbers of a classifier: the places of the names in a list.

        Args:
            class_names: Names of all classes of the classifier, in the order of its logits. Names that the
                data lack become classes without images.

        Raises:
            DatasetError: If the data have a class that is not in the list, or the list names one twice.
        """
        names = tuple(class_names)
        if names == self.class_names:
            return self
        if unknown := [name for name in self.class_names if name not in names]:
            raise DatasetError(
                f"the list of class names lacks {shown(unknown)}, of which {self.source} has images; the "
                f"names must be those of the data: {shown(self.class_names)}"
            )
        numbers = torch.tensor([names.index(name) for name in self.class_names])
        train, validation, test = (
            replace(part, labels=numbers.to(part.labels.device)[part.labels]) for part in self._parts()
        )
        lacking = [name for name in names if name not in self.class_names]
        notes = (f"classes without images: {len(lacking):,}, {shown(lacking)}",) if lacking else ()
        numbered = replace(
            self,
            train=train,
            validation=validation,
            test=test,
            class_names=names,
            notes=(*self.notes, *notes),
        )
        _remember(numbered, _digest(self.fingerprint, names)[:12])
        return numbered

    def counts(self) -> list[tuple[str, int, int, int]]:
        """Returns for each class its name and the number of its training, validation and test images.

        Of images without labels there are no classes.
        """
        if not self.class_names:
            return []
        columns = [part.labels.bincount(minlength=len(self.class_names)).tolist() for part in self._parts()]
        return list(zip(self.class_names, *columns, strict=True))

    def _parts(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        return self.train, self.validation, self.test

    def _the_same(self, copy: "Dataset") -> "Dataset":
        """Returns `copy`, which holds the same images and therefore keeps the fingerprint."""
        _remember(copy, self.fingerprint)
        return copy


def _remember(data: Dataset, fingerprint: str) -> None:
    """Sets the fingerprint of data that a loader has identified by other means than their content."""
    data.__dict__["fingerprint"] = fingerprint


def _check_labels(labels: Tensor, class_names: Sequence[str]) -> None:
    if not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= max(len(class_names), 1):
        raise DatasetError(
            f"labels are from {low} to {high}, but there are {len(class_names)} class names; a label is an "
            "index into them"
        )


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
    paths: tuple[str, ...] = ()  # of the files that the jobs read, if they read any
    notes: tuple[str, ...] = ()
    order_notes: tuple[str, ...] = ()  # if the order of the classes is a guess
    fitted: tuple[str, ...] = ()  # the fit, unless images are squashed: earlier versions knew no other fit


def load_dataset(
    source: str,
    *,
    size: int | None = None,
    fit: Fit = SQUASHED,
    seed: int = 0,
    selection: Selection = EVERYTHING,
    cache: str | Path | None = None,
    memory: int = MOST_IN_MEMORY,
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Loads images from a source and splits them.

    Validation images are whole tracks of the training set, from every class that has two tracks or more,
    unless the source has validation images of its own beside test images. Tracks that contain a test image
    are left out; a note says so.

    Args:
        source: `signs` or `signs:N` for synthetic signs, about N training images per class (the images are
            always the same, only their split depends on the seed); `gtsrb:DIR` for the German Traffic Sign
            Recognition Benchmark; `folder:DIR` for a folder with one folder per class; `shards:PLACE` for tar
            files of the webdataset layout, in a folder or named by a pattern such as train-{0000..0099}.tar;
            `photographs:DIR` for photographs without labels, cut into square tiles, to train restorers on:
            whole photographs are for validation, and there are no test images.
        size: Height and width of the images in pixels; None for 48, of the tiles of photographs for 256.
        fit: How photographs become squares of that size, as `PreparedClassifier.fit` says; synthetic signs
            are square.
        seed: Seed of the split.
        selection: Which images are used, and how their classes are numbered.
        cache: Folder for decoded or drawn images, or None for the user's cache folder. Its files may be
            deleted at any time.
        memory: Bytes of decoded images up to which the data set is kept in memory. A larger one stays in its
            cache file, mapped into memory: nothing reads all images at once, and a batch is read when it is
            used. Results are the same.
        progress: Called with the number of images that are done and the number of all images while they are
            decoded or drawn; not called when they come from the cache, unless they stay there: then it is
            called while they are checked.

    Raises:
        DatasetError: If the source is unknown, missing or damaged, or cannot be split.
        SettingError: If the size is out of range, or the fit gives images below the size.
        StorageError: If a data set that must stay in its cache file cannot be written there.
    """
    if size is None:
        size = TILE_SIZE if str(source).startswith("photographs:") else IMAGE_SIZE
    if size < 1:
        raise SettingError(f"size is {size}, it must be at least 1 pixel")
    fit.check_size(size)
    fit = fit.simplest(size)
    plan = _plan(source, size, fit, selection)
    folder = platformdirs.user_cache_path("steadylens") if cache is None else Path(cache)
    found = load_or_make(
        folder / f"{source.partition(':')[0]}-{plan.key[:24]}.safetensors",
        plan.jobs,
        frames=plan.frames,
        size=size,
        progress=progress,
        skip_damaged=selection.skip_damaged,
        memory=memory,
    )
    damaged = set(found.damaged)
    kept = [number for number in range(len(plan.jobs)) if number not in damaged]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(plan.tracks[job] for job in kept))}
    jobs, parts, labels, tracks = (
        torch.tensor(values, dtype=torch.int64).repeat_interleave(plan.frames)
        for values in (
            kept,
            [plan.parts[job] for job in kept],
            [plan.labels[job] for job in kept],
            [numbers[plan.tracks[job]] for job in kept],
        )
    )
    rows = jobs * plan.frames + torch.arange(len(jobs)) % plan.frames
    digests = found.digests[rows]
    index = ImageIndex(
        parts=parts,
        labels=labels,
        tracks=tracks,
        digests=digests,
        class_names=plan.class_names,
        track_names=tuple(numbers),
    )
    if plan.class_names:
        parts, split_notes = split(
            index, validation_share=selection.validation_share, seed=seed, training=selection.training
        )
    else:
        parts, split_notes = split_unlabelled(index, share=selection.validation_share, seed=seed), ()

    def chosen(part: Part) -> ImageSet:
        own = parts == part
        return ImageSet(images=subset(found.images, rows[own]), labels=labels[own], tracks=tracks[own])

    dataset = Dataset(
        train=chosen(Part.TRAIN),
        validation=chosen(Part.VALIDATION),
        test=chosen(Part.TEST),
        class_names=plan.class_names,
        source=source,
        notes=(
            *plan.notes,
            *(() if selection.class_names else plan.order_notes),
            *split_notes,
            *_damage_notes([plan.paths[job] for job in found.damaged]),
            *found.notes,
            *_mapping_notes(found.images),
        ),
        fit=fit,
    )
    _remember(dataset, _digest(size, plan.class_names, parts, labels, tracks, digests, *plan.fitted)[:12])
    return dataset.numbered_as(selection.class_names) if selection.class_names else dataset


def _damage_notes(paths: Sequence[str]) -> Iterator[str]:
    if paths:
        yield f"images left out because they cannot be read: {len(paths):,}, {shown(paths, most=20)}"


def _mapping_notes(images: Tensor) -> Iterator[str]:
    if isinstance(images, MappedImages):
        yield (
            f"the decoded images, {images.nbytes / 1e9:,.1f} GB, are not loaded into memory but stay in the "
            "cache, from which each batch is read; to keep them in memory, raise --memory, in Python "
            "load_dataset(memory=...)"
        )


def _plan(source: str, size: int, fit: Fit, selection: Selection) -> _Plan:
    if not isinstance(source, str):
        raise DatasetError(
            f"source is {source!r}, it must be a text that begins with the kind of the data; for a folder "
            f"with one folder per class, give 'folder:{source}'"
        )
    scheme, _, place = source.partition(":")
    match scheme:
        case "signs":
            return _plan_signs(place, size)
        case "gtsrb" if place:
            return _plan_photographs(list_gtsrb(Path(place).expanduser()), size, fit)
        case "folder" if place:
            plan = _plan_photographs(
                list_folder(Path(place).expanduser(), training=selection.training), size, fit
            )
            return replace(plan, order_notes=order_notes(plan.class_names))
        case "shards" if place:
            return _plan_shards(place, size, fit, selection)
        case "photographs" if place:
            return _plan_tiles(Path(place).expanduser(), size, selection)
    meant = f"; did you mean folder:{source}?" if os.path.isdir(os.path.expanduser(source)) else ""  # noqa: PTH111, PTH112 - never raise
    raise DatasetError(
        f"source is {source!r}, it must be signs, signs:N, gtsrb:DIR, folder:DIR, shards:DIR or "
        f"photographs:DIR{meant}"
    )


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
        paths=tuple(photograph.path for photograph in photographs),
        notes=listing.notes,
        fitted=fitted,
    )


def _decode(root: Path, photograph: Photograph, size: int, fit: Fit) -> Tensor:
    try:
        return read_image(root / photograph.path, box=photograph.box, size=size, fit=fit)[None]
    except ImageError as error:
        raise DatasetError(str(error)) from error


def _plan_shards(place: str, size: int, fit: Fit, selection: Selection) -> _Plan:
    listing, members = list_shards(
        place,
        class_names=selection.class_names,
        skip_damaged=selection.skip_damaged,
        training=selection.training,
    )
    jobs: list[Job] = [
        partial(decode_member, listing.root, photograph, member, size, fit)
        for photograph, member in zip(listing.photographs, members, strict=True)
    ]
    return replace(_plan_photographs(listing, size, fit), jobs=jobs)


def _plan_tiles(folder: Path, size: int, selection: Selection) -> _Plan:
    listing = list_tiles(folder, size, skip_damaged=selection.skip_damaged)
    jobs: list[Job] = [partial(decode_tile, listing.root, tile, size) for tile in listing.photographs]
    return replace(_plan_photographs(listing, size, SQUASHED), jobs=jobs)


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
        if isinstance(part, Tensor):
            digest.update(part.nbytes.to_bytes(8, "big"))
            for some in blocks(part) if part.numel() else ():
                digest.update(some.numpy().data.cast("B"))
        else:
            text = repr(part).encode()
            digest.update(len(text).to_bytes(8, "big"))
            digest.update(text)
    return digest.hexdigest()
