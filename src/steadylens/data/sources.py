"""Finds image files in folders, and lists those of the German benchmark with their labels; none is opened.

Official archives: Final_Training/Images/CCCCC/TTTTT_FFFFF.ppm beside GT-CCCCC.csv, and
Final_Test/Images/NNNNN.ppm with GT-final_test.csv; tables are separated by semicolons. Repackaged:
Train.csv and Test.csv, separated by commas, with paths such as Train/20/00020_00004_00012.png. C is the
class, T the track (one physical sign, filmed from a passing car), F the frame.
"""

import csv
import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from steadylens.data.splitting import Part
from steadylens.errors import DatasetError, SettingError
from steadylens.files import describe_suffixes
from steadylens.images.tensors import IMAGE_SUFFIXES, Box

MOST_NAMED = 100
"""How many missing or damaged images a message names."""


class Stamp(NamedTuple):
    """Size and modification time of a file, which show whether it has changed.

    Attributes:
        size_bytes: Length of the file.
        modified_ns: Time of the last change, in nanoseconds since the epoch.
    """

    size_bytes: int
    modified_ns: int


class Photograph(NamedTuple):
    """One image file of a data set; sorting orders files by part and track.

    Attributes:
        part: The part of the data set that it belongs to.
        track: Name of the physical sign that it shows.
        path: The file, relative to the root of its listing, with forward slashes.
        label: Its class, an index into the class names of its listing.
        stamp: Size and modification time of the file when it was listed.
        box: The region of the image that shows the sign, or None for the whole image.
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
        photographs: The files; if none is in the test part, the data set has no test images of its own.
        class_names: Names of the classes.
        notes: What a user must know about the list, one sentence each.
    """

    root: Path
    photographs: tuple[Photograph, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def key(self) -> str:
        """Returns a hexadecimal digest that changes with every path, file and box and with their order."""
        digest = hashlib.sha256()
        for photograph in self.photographs:
            digest.update(os.fsencode(photograph.path))
            digest.update(f"\0{photograph.stamp}{photograph.box}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which images of a source are used, for which part, and how their classes are numbered.

    Attributes:
        validation_share: The share of each class's training tracks for validation, above 0 and below 1.
        skip_damaged: Whether images that cannot be read are left out, with a note that names them.
        class_names: Names of all classes in the order of a classifier's logits; empty to number the classes
            in the order of the source: of a folder, in the order of the names as text.
        training: Whether nets are to be trained. If not, a folder needs no training images: one with the
            single part test, or val, will do.
    """

    validation_share: float = 0.1
    skip_damaged: bool = False
    class_names: tuple[str, ...] = ()
    training: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise SettingError(f"validation_share is {self.validation_share}, it must be above 0 and below 1")


EVERYTHING = Selection()
"""All images of a source; a tenth of the training tracks are for validation."""

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that archives, network drives and file systems leave between those of a user; none is read."""


def is_hidden(name: str) -> bool:
    """Returns whether a file or a folder was not put there by the user, as far as its name says."""
    return name.startswith(".") or name in SYSTEM_FOLDERS  # such as the ._NAME files of macOS


def scan_images(root: Path, start: str = "", *, others: Counter[str] | None = None) -> dict[str, Stamp]:
    """Finds the image files below a folder, at any depth; hidden files and folders are skipped.

    Args:
        root: The folder that the returned paths start from.
        start: Where to look, relative to `root`.
        others: If given, counts the endings of files that are no images.

    Returns:
        The state of every file with a suffix in `IMAGE_SUFFIXES`, by its path with forward slashes.

    Raises:
        DatasetError: If a folder is missing or cannot be read.
    """
    try:
        return dict(
            _scan(root / start, f"{start}/" if start else "", Counter() if others is None else others)
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(error.filename):  # noqa: PTH114
            raise DatasetError(f"{error.filename} is a link that leads nowhere; remove it") from error
        raise DatasetError(f"{error.filename}: {error.strerror}; give a folder that can be read") from error


def other_files_note(folder: Path, others: Counter[str]) -> list[str]:
    """Returns a sentence on the files of a folder that are no images, or nothing if there are none.

    Args:
        folder: Where they are.
        others: Their number by ending, as `scan_images` counts them.
    """
    if not others:
        return []
    return [f"{folder} has files of no format that is read here, left out: {describe_suffixes(others)}"]


def subfolders(folder: Path) -> list[str]:
    """Returns the sorted names of the folders in a folder, without hidden ones.

    Raises:
        DatasetError: If the folder is missing or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror}; give a folder that can be read") from error


def _scan(folder: Path, prefix: str, others: Counter[str]) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _scan(folder / entry.name, f"{prefix}{entry.name}/", others)
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in IMAGE_SUFFIXES:  # noqa: PTH122 - quicker
                state = entry.stat()
                yield prefix + entry.name, Stamp(state.st_size, state.st_mtime_ns)
            else:
                others[suffix] += 1


CLASS_NAMES = (
    *(f"Speed limit ({limit}km/h)" for limit in (20, 30, 50, 60, 70, 80)),
    "End of speed limit (80km/h)",
    *(f"Speed limit ({limit}km/h)" for limit in (100, 120)),
    "No passing",
    "No passing for vehicles over 3.5 metric tons",
    "Right-of-way at the next intersection",
    "Priority road",
    "Yield",
    "Stop",
    "No vehicles",
    "Vehicles over 3.5 metric tons prohibited",
    "No entry",
    "General caution",
    "Dangerous curve to the left",
    "Dangerous curve to the right",
    "Double curve",
    "Bumpy road",
    "Slippery road",
    "Road narrows on the right",
    "Road work",
    "Traffic signals",
    "Pedestrians",
    "Children crossing",
    "Bicycles crossing",
    "Beware of ice/snow",
    "Wild animals crossing",
    "End of all speed and passing limits",
    "Turn right ahead",
    "Turn left ahead",
    "Ahead only",
    "Go straight or right",
    "Go straight or left",
    "Keep right",
    "Keep left",
    "Roundabout mandatory",
    "End of no passing",
    "End of no passing by vehicles over 3.5 metric tons",
)
"""The names of the 43 classes of the benchmark and of the synthetic signs; a label is an index into it."""

_TRAINING, _TEST = "Final_Training/Images", "Final_Test/Images"

_FULL_COUNTS = (39_209, 12_630)

_TEST_TABLE = "GT-final_test.csv"

_TRACK = re.compile(r"(\d+)_\d+\.[^.]+$")  # TRACK_FRAME, with or without CLASS_ in front


class _Annotation(NamedTuple):
    """One line of a table of the benchmark."""

    place: str  # "file, line n", for messages
    file: str
    label: int
    box: Box


def list_gtsrb(folder: Path) -> Listing:
    """Lists the images that the benchmark's tables name, in whichever layout the folder has.

    Args:
        folder: The folder that contains GTSRB, or GTSRB itself.

    Raises:
        DatasetError: If the folder has neither layout, a table or an image is missing, or a table is wrong.
    """
    subfolders(folder)  # raises if the folder is missing
    for root in (folder, folder / "GTSRB"):
        if (root / _TRAINING).is_dir():
            return _listing(root, [*_official_training(root), *_official_test(root)])
        if (root / "Train.csv").is_file():
            return _listing(root, _repackaged(root))
    raise DatasetError(
        f"{folder} contains neither {_TRAINING} (the official archives) nor Train.csv (the repackaged set); "
        "give the folder that contains GTSRB"
    )


def _listing(root: Path, found: Iterable[Photograph | str]) -> Listing:
    """Returns the listing of the photographs, unless some are missing, which are all named."""
    rows = list(found)
    photographs = [row for row in rows if isinstance(row, Photograph)]
    missing = [row for row in rows if isinstance(row, str)]
    if missing:
        named = missing[:MOST_NAMED] + [f"and {len(missing) - MOST_NAMED:,} others"] * (
            len(missing) > MOST_NAMED
        )
        raise DatasetError("\n  ".join(named) + "; unpack the archive again")
    parts = [photograph.part for photograph in photographs]
    counts = (parts.count(Part.TRAIN), parts.count(Part.TEST))
    note = "{:,} training and {:,} test images were found, of the benchmark's {:,} and {:,}"
    return Listing(
        root=root,
        photographs=tuple(sorted(photographs)),
        class_names=CLASS_NAMES,
        notes=() if counts == _FULL_COUNTS else (note.format(*counts, *_FULL_COUNTS),),
    )


def _official_training(root: Path) -> Iterator[Photograph | str]:
    files = scan_images(root, _TRAINING)
    for name in subfolders(root / _TRAINING):
        for annotation in _read_table(root / _TRAINING / name / f"GT-{name}.csv", "Filename"):
            path = f"{_TRAINING}/{name}/{annotation.file}"
            yield _photograph(Part.TRAIN, path, files, annotation)


def _official_test(root: Path) -> Iterator[Photograph | str]:
    # The annotations are an archive of their own, which may be unpacked in different places.
    places = [root / _TEST / _TEST_TABLE, root / _TEST_TABLE, root.parent / _TEST_TABLE]
    table = next((place for place in places if place.is_file()), places[0])
    rows = list(_read_table(table, "Filename"))
    files = scan_images(root, _TEST)
    for annotation in rows:
        path = f"{_TEST}/{annotation.file}"
        yield _photograph(Part.TEST, path, files, annotation)


def _repackaged(root: Path) -> Iterator[Photograph | str]:
    parts = ((Part.TRAIN, "Train.csv"), (Part.TEST, "Test.csv"))
    rows = [(part, annotation) for part, table in parts for annotation in _read_table(root / table, "Path")]
    tops = {annotation.file.partition("/")[0].casefold() for _, annotation in rows}
    files: dict[str, Stamp] = {}
    for name in subfolders(root):
        if name.casefold() in tops:
            files |= scan_images(root, name)
    spellings = {path.casefold(): path for path in files}
    for part, annotation in rows:
        named = annotation.file
        path = named if named in files else spellings.get(named.casefold(), named)
        yield _photograph(part, path, files, annotation)


def _photograph(part: Part, path: str, files: dict[str, Stamp], annotation: _Annotation) -> Photograph | str:
    """Returns the photograph that a line of a table names, or a few words if its file is missing."""
    if (stamp := files.get(path)) is None:
        return f"{annotation.place} names {annotation.file}, which is not there"
    label, box = annotation.label, annotation.box
    if part == Part.TEST:  # test images are single frames without a track
        return Photograph(part, path, path, label, stamp, box)
    track = _TRACK.search(path)
    if track is None:
        raise DatasetError(
            f"{annotation.place} names {annotation.file}, it must end in TRACK_FRAME, for example "
            "00023_00017.ppm"
        )
    return Photograph(part, f"class {label:02} track {track[1]}", path, label, stamp, box)


def _read_table(path: Path, file_column: str) -> Iterator[_Annotation]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; unpack the archive that contains it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; unpack the archive again") from error
    header = lines[0] if lines else ""
    try:
        table = list(csv.reader(lines, delimiter=";" if ";" in header else ","))
    except csv.Error as error:
        raise DatasetError(f"{path} is no table: {error}; unpack the archive again") from error
    needed = (file_column, "ClassId", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")
    columns = [cell.strip() for cell in table[0]] if table else []
    absent = [name for name in needed if name not in columns]
    if absent:
        raise DatasetError(f"{path} lacks the column {', '.join(absent)}; use the table of the archive")
    places = [columns.index(name) for name in needed]
    for number, cells in enumerate(table[1:], start=2):
        if cells:
            yield _read_annotation(f"{path}, line {number}", needed, cells, places)


def _read_annotation(place: str, names: tuple[str, ...], cells: list[str], places: list[int]) -> _Annotation:
    if len(cells) <= max(places):
        raise DatasetError(f"{place} has {len(cells)} cells, too few; use the table of the archive")
    file, *rest = (cells[column].strip() for column in places)
    numbers = []
    for name, text in zip(names[1:], rest, strict=True):
        if not text.isdecimal():
            raise DatasetError(f"{place}: {name} is {text!r}, it must be a whole number; correct the table")
        numbers.append(int(text))
    label, left, top, right, bottom = numbers
    if label >= len(CLASS_NAMES):
        raise DatasetError(f"{place}: ClassId is {label}, it must be 0 to 42; correct the table")
    return _Annotation(place, file, label, (left, top, right + 1, bottom + 1))  # the table's box is inclusive
