"""Lists the images in tar files of the webdataset layout: KEY.jpg beside KEY.cls or KEY.json, in many files.

Nothing is unpacked: an image is read from its place in the tar file. Files may be named by a folder, by a
pattern such as train-{0000..0099}.tar, or by one with wildcards.
"""

import glob
import json
import os
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from steadylens.data.class_folders import part_words, read_class_names, shown
from steadylens.data.image_cache import all_named
from steadylens.data.sources import MOST_NAMED, Listing, Photograph, Stamp, is_hidden
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError, ImageError
from steadylens.images.decoding import ImageBytes
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import IMAGE_SUFFIXES, read_image

NAMES_FILE = "classnames.txt"
"""The file beside the tar files that names the classes by number, one per line."""

MOST_CLASSES = 1_000_000
"""The most classes. Labels beyond are no class numbers, but numbers of images perhaps."""

_LABELS = {"cls", "json"}  # suffixes

_MOST_LABEL_BYTES = 2**20  # of a label's file, which is read whole

_BLOCK = 512  # bytes of a block of a tar file

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


class Member(NamedTuple):
    """Where an image is in a tar file.

    Attributes:
        shard: The tar file, relative to the root of the listing, with forward slashes.
        begin: The place of its first byte.
    """

    shard: str
    begin: int


@dataclass(slots=True)
class _Sample:
    """What a tar file holds of one sample: its files by their suffixes, and its label."""

    files: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    label: int | str | None = None

    def images(self) -> list[tarfile.TarInfo]:
        return [member for suffix, member in self.files.items() if f".{suffix}" in IMAGE_SUFFIXES]


class _Labelled(NamedTuple):
    """One image of a tar file; sorting keeps the order of files and samples."""

    part: Part
    shard: str
    name: str
    label: int | str
    stamp: Stamp
    begin: int


def list_shards(
    place: str, *, class_names: Sequence[str] = (), skip_damaged: bool = False, training: bool = True
) -> tuple[Listing, tuple[Member, ...]]:
    """Lists the images of tar files, with the place of each.

    A tar file is of the part that its name, or that of a folder in between, means: train-0000.tar or
    val/0000.tar. If no name means a part, all are training images. Labels are numbers of classes, or their
    names. Every image is a track of its own. Without test images, the validation images are the test images.

    Args:
        place: A folder with tar files at any depth, or a pattern with {0000..0099}, {train,val}, * or ?.
        class_names: Names of the classes by number, where labels are numbers; else those in the file
            classnames.txt of the folder, or else the numbers.
        skip_damaged: Whether samples without image or label, and what lies behind a damaged place, are left
            out, with a note that names them.
        training: Whether there must be training images.

    Raises:
        DatasetError: If a file is missing or no tar file, a sample lacks image or label or is there twice,
            labels are of two kinds or out of range, or the parts are not clear.
    """
    root, paths = _found(place)
    shards = {path.relative_to(root).as_posix(): path for path in paths}
    parts, notes = _parts(shards, place, training=training)
    problems: list[str] = []
    images = [
        image
        for shard, part in parts.items()
        if part != Part.LEFT_OUT
        for image in _Shard(shards[shard], problems).labelled(shard, part)
    ]
    names, labels, name_notes = _numbered(images, class_names or _names_beside(root), place, problems)
    if problems and not skip_damaged:
        raise DatasetError(all_named(problems))
    if problems:
        notes.append(f"left out of the tar files: {len(problems):,}; {'; '.join(problems[:MOST_NAMED])}")
    kept = sorted((image, label) for image, label in zip(images, labels, strict=True) if label is not None)
    photographs = tuple(
        Photograph(image.part, image.name, image.name, label, image.stamp) for image, label in kept
    )
    members = tuple(Member(image.shard, image.begin) for image, _ in kept)
    listing = Listing(root=root, photographs=photographs, class_names=names, notes=(*notes, *name_notes))
    return listing, members


def decode_member(root: Path, photograph: Photograph, member: Member, size: int, fit: Fit) -> Tensor:
    """Decodes an image from its place in a tar file; returns it as uint8 (1, 3, S, S).

    Raises:
        DatasetError: If the tar file or the image cannot be read.
    """
    path = root / member.shard
    try:
        with path.open("rb") as file:
            file.seek(member.begin)
            content = file.read(photograph.stamp.size_bytes)
        named = ImageBytes(content=content, name=str(root / photograph.path))
        return read_image(named, size=size, fit=fit)[None]
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}; fetch it again") from error
    except ImageError as error:
        raise DatasetError(str(error)) from error


def expanded(pattern: str) -> list[str]:
    """Returns the texts that a pattern with ranges and choices in braces means, in order.

    Example:
        >>> expanded("{train,val}-{08..10}.tar")[:4]
        ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    if found := _CHOICE.search(pattern):
        texts = found[1].split(",")
    elif found := _RANGE.search(pattern):
        first, last = found[1], found[2]
        texts = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        return [pattern]
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [each for text in texts for each in expanded(f"{start}{text}{end}")]


def _found(place: str) -> tuple[Path, list[Path]]:
    """Returns the folder that names are relative to, and the tar files in the order of their names."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        paths = [
            path for path in folder.rglob("*.tar") if not any(map(is_hidden, path.relative_to(folder).parts))
        ]
        if not paths:
            packed = next((path for path in folder.rglob("*.tar.*")), None)
            also = f"; {packed} is compressed, unpack it to .tar first" if packed else ""
            raise DatasetError(
                f"{folder} contains no files that end in .tar{also}; give a folder or pattern of some"
            )
        return folder, sorted(paths)
    texts = expanded(str(folder))
    paths = []
    for text in texts:
        some = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else [text]  # noqa: PTH207 - a whole pattern
        paths += map(Path, some)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DatasetError(
            f"there is no {shown(missing) if missing else place}; give a folder with .tar files, or a "
            "pattern such as shards:/data/train-{0000..0099}.tar or 'shards:/data/*.tar'"
        )
    unique = sorted(set(paths))
    return Path(os.path.commonpath([path.parent.absolute() for path in unique])), [
        path.absolute() for path in unique
    ]


def _parts(shards: Collection[str], place: str, *, training: bool) -> tuple[dict[str, Part], list[str]]:
    """Returns the part of each tar file, and sentences on what a user may not expect."""
    words = {shard: part_words(shard.removesuffix(".tar")) for shard in shards}
    if not any(words.values()):
        return dict.fromkeys(shards, Part.TRAIN), []
    if unclear := [shard for shard, parts in words.items() if len(parts) != 1]:
        raise DatasetError(
            f"{place}: {shown(unclear)} does not say whether it has training, validation or test images, "
            "as others do; let the name of each file, or of its folder, have one of the words train, val and "
            "test"
        )
    parts = {shard: next(iter(found)) for shard, found in words.items()}
    present, notes = set(parts.values()), []
    if Part.LEFT_OUT in present:
        left_out = [shard for shard, part in parts.items() if part == Part.LEFT_OUT]
        notes.append(f"tar files without labels are not read: {shown(left_out)}")
    if Part.TEST not in present and Part.VALIDATION in present:
        parts = {shard: Part.TEST if part == Part.VALIDATION else part for shard, part in parts.items()}
        rest = ", and a share of the training images is for validation" if Part.TRAIN in present else ""
        notes.append(f"there are no tar files of test images: those for validation are the test images{rest}")
    if Part.TRAIN not in present and training:
        raise DatasetError(
            f"{place} has no tar files of training images; add files such as train-0000.tar; to measure "
            "only, in Python Selection(training=False), they are not needed"
        )
    return parts, notes


class _Shard:
    """Reads what a tar file holds of each sample.

    Args:
        path: The tar file.
        problems: What is wrong with the file or its samples is added here, one text each.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        self._samples: dict[str, _Sample] = {}
        self._refused: set[str] = set()

    def labelled(self, shard: str, part: Part) -> Iterator[_Labelled]:
        """Yields the images that have a label.

        Args:
            shard: The name of the file, relative to the root.
            part: The part that its images belong to.
        """
        modified = self.path.stat().st_mtime_ns
        self._read()
        for key, sample in self._samples.items():
            images = sample.images()
            if key in self._refused or not (images or _LABELS & sample.files.keys()):
                continue
            if len(images) != 1:
                found = "a label, but no image" if not images else f"{len(images)} images"
                self._refuse(key, f"has {found}; pack the sample again with one")
            elif sample.label is None:
                self._refuse(key, f"has no label; add {key}.cls, or {key}.json with the entry label")
            else:
                (image,) = images
                stamp = Stamp(image.size, modified)
                name = f"{shard}/{image.name}"
                yield _Labelled(part, shard, name, sample.label, stamp, image.offset_data)

    def _read(self) -> None:
        last, end = "its beginning", 0
        try:
            with tarfile.open(self.path, mode="r:") as tar:
                for member in tar:
                    last, end = member.name, member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if member.isreg() and not is_hidden(member.name.rpartition("/")[2]):
                        self._take(tar, member)
            reason = self._ends_badly(end)
        except tarfile.TarError as error:
            reason = f"is damaged or no uncompressed tar file ({error})"
        except OSError as error:
            raise DatasetError(
                f"{self.path} cannot be read: {error.strerror or error}; give a file that can"
            ) from error
        if reason:
            self.problems.append(f"{self.path} {reason}, after {last}; fetch it again")

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Puts a file to the others of its sample: those whose names are equal up to the first dot."""
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        key, suffix = f"{folder}{slash}{stem}", suffix.lower()
        sample = self._samples.setdefault(key, _Sample())
        if suffix in sample.files:
            self._refuse(key, f"is there twice as .{suffix}; pack it under another name")
        sample.files[suffix] = member
        if suffix in _LABELS and (suffix == "cls" or "cls" not in sample.files):
            content = tar.extractfile(member)
            try:
                sample.label = _label(content.read(_MOST_LABEL_BYTES) if content else b"", suffix)
            except ValueError as error:
                self._refuse(key, f"has a label that cannot be read, .{suffix}: {error}; correct it")

    def _refuse(self, key: str, reason: str) -> None:
        if key not in self._refused:
            self.problems.append(f"{self.path}: {key} {reason}")
        self._refused.add(key)

    def _ends_badly(self, end: int) -> str:
        """Returns what is wrong with the end of the file; the library takes any block there for the end."""
        with self.path.open("rb") as file:
            file.seek(end)
            block = file.read(_BLOCK)
        if not block:
            return "is cut off: the end mark of tar files is missing"
        return "is damaged" if any(block) else ""


def _label(content: bytes, suffix: str) -> int | str | None:
    """Returns the number or the name of a class; None if the file says neither.

    Raises:
        ValueError: If the content is no text, no JSON, or another label.
    """
    value: Any = content.decode().strip()
    if suffix == "json":
        entries = json.loads(value)
        value = entries.get("label") if isinstance(entries, dict) else None
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, int) and value < 0):
        raise ValueError(f"{value!r} is neither the number of a class, from 0, nor a name")
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _names_beside(root: Path) -> tuple[str, ...]:
    path = root / NAMES_FILE
    return read_class_names(path) if path.is_file() else ()


def _numbered(
    images: Sequence[_Labelled], names: Sequence[str], place: str, problems: list[str]
) -> tuple[tuple[str, ...], list[int | None], list[str]]:
    """Returns the names of the classes, the number of each image's class, and sentences about them.

    An image whose number is too high has None, and is added to the problems.
    """
    if not images:
        raise DatasetError(
            "\n  ".join([f"{place} has no labelled images; pack some", *problems[:MOST_NAMED]])
        )
    texts = {image.label for image in images if isinstance(image.label, str)}
    if texts:
        if number := next((image for image in images if not isinstance(image.label, str)), None):
            raise DatasetError(
                f"{place} has classes by name, such as {min(texts)!r}, and by number, such as {number.label} "
                f"of {number.name}; label all images in one way"
            )
        numbers = {name: number for number, name in enumerate(sorted(texts))}
        return tuple(numbers), [numbers[str(image.label)] for image in images], []
    found = [int(image.label) for image in images]
    most = len(names) or MOST_CLASSES
    labels = [label if label < most else None for label in found]
    for image, label in zip(images, labels, strict=True):
        if label is None:
            problems.append(
                f"{image.name} is of class {image.label}, but there are {most:,} classes; correct it"
            )
    known = {label for label in labels if label is not None}
    if not names:
        names = tuple(map(str, range(1 + max(known, default=0))))
        note = f"the classes have no names and are called by their numbers, 0 to {len(names) - 1}"
        return tuple(names), labels, [note, *_without_images(names, known)]
    return tuple(names), labels, _without_images(names, known)


def _without_images(names: Sequence[str], known: Collection[int]) -> list[str]:
    lacking = [name for number, name in enumerate(names) if number not in known]
    return [f"classes without images: {len(lacking):,}, {shown(lacking)}"] if lacking else []
