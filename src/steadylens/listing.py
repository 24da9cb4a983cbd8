"""Lists of image files with what is known of each before it is read. Nothing here opens an image."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from steadylens.errors import DatasetError
from steadylens.images import IMAGE_SUFFIXES, Box
from steadylens.splitting import Part

MOST_KINDS = 8
"""How many endings of files that were left out are named."""


class Stamp(NamedTuple):
    """What tells that a file has not changed.

    Attributes:
        size_bytes: Length of the file.
        modified_ns: Time of its last change, in nanoseconds of the epoch.
    """

    size_bytes: int
    modified_ns: int


class Photograph(NamedTuple):
    """One image file of a set. Sorting puts the parts and tracks together.

    Attributes:
        part: What the set's makers meant it for.
        track: Name of the physical sign that it shows; the same name is the same sign.
        path: Where it lies, relative to the root of its listing, with forward slashes.
        label: Its class, a place in the class names of its listing.
        stamp: State of the file when it was listed.
        box: The part of the image that shows the sign, or None for all of it.
    """

    part: Part
    track: str
    path: str
    label: int
    stamp: Stamp
    box: Box | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The image files of one data set, in an order that does not depend on the file system.

    Attributes:
        root: The folder that the paths start from.
        photographs: The files; without any of the test part the set has no test images of its own.
        class_names: Names of the classes.
        notes: What a user must know about the list, a sentence each.
    """

    root: Path
    photographs: tuple[Photograph, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def key(self) -> str:
        """Returns a hexadecimal digest that changes with any path, file or box and with their order."""
        digest = hashlib.sha256()
        for photograph in self.photographs:
            digest.update(os.fsencode(photograph.path))
            digest.update(f"\0{photograph.stamp}{photograph.box}\n".encode())
        return digest.hexdigest()


def scan_images(root: Path, start: str = "", *, others: Counter[str] | None = None) -> dict[str, Stamp]:
    """Finds the image files below a folder, at any depth; hidden files and folders do not count.

    Args:
        root: The folder that the returned paths start from.
        start: Where to look, relative to `root`.
        others: Counts the endings of files that are no images, if it is given.

    Returns:
        The state of every file with a suffix in `IMAGE_SUFFIXES`, by its path with forward slashes.

    Raises:
        DatasetError: If a folder is missing or cannot be looked into.
    """
    try:
        return dict(
            _scan(root / start, f"{start}/" if start else "", Counter() if others is None else others)
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(error.filename):  # noqa: PTH114
            raise DatasetError(f"{error.filename} is a link that leads nowhere; remove it") from error
        raise DatasetError(f"{error.filename}: {error.strerror}; give a folder that can be read") from error


def subfolders(folder: Path) -> list[str]:
    """Returns the sorted names of the folders in a folder, without hidden ones.

    Raises:
        DatasetError: If the folder is missing or cannot be looked into.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror}; give a folder that can be read") from error


def _scan(folder: Path, prefix: str, others: Counter[str]) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # such as the ._NAME twins that a system may leave
                continue
            if entry.is_dir():
                yield from _scan(folder / entry.name, f"{prefix}{entry.name}/", others)
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in IMAGE_SUFFIXES:  # noqa: PTH122 - quicker
                state = entry.stat()
                yield prefix + entry.name, Stamp(state.st_size, state.st_mtime_ns)
            else:
                others[suffix] += 1


def counted(endings: Counter[str]) -> str:
    """Returns how many files of which endings there are, the most frequent first, for people."""
    kinds = [
        f"{number} {ending or 'without an ending'}" for ending, number in endings.most_common(MOST_KINDS)
    ]
    return ", ".join([*kinds, *(["others"] if len(endings) > MOST_KINDS else [])])
