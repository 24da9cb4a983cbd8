"""The German Traffic Sign Recognition Benchmark, as its makers and as a widespread repackaging lay it out.

Official archives: Final_Training/Images/CCCCC/TTTTT_FFFFF.ppm beside GT-CCCCC.csv, and
Final_Test/Images/NNNNN.ppm with GT-final_test.csv; tables are separated by semicolons. Repackaging:
Train.csv and Test.csv, separated by commas, with paths such as Train/20/00020_00004_00012.png.
C is the class, T the track (one physical sign, filmed from a passing car), F the frame.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from steadylens.errors import DatasetError
from steadylens.images import Box
from steadylens.listing import Listing, Photograph, Stamp, scan_images, subfolders
from steadylens.splitting import Part

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
"""The names of the 43 classes; a label is a place in this tuple."""

TERMS = (
    "The German Traffic Sign Recognition Benchmark: J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel, *Man "
    "vs. computer: Benchmarking machine learning algorithms for traffic sign recognition*, Neural Networks "
    "32, 2012. Its authors ask to be cited; a repackaging of its images is published under GPL-3.0. The "
    "weights contain no image, except that a classifier subtracts the mean of all its training images."
)
"""What the data are, and their terms."""

_TRAINING, _TEST = "Final_Training/Images", "Final_Test/Images"
_FULL_COUNTS = (39_209, 12_630)
_TEST_TABLE = "GT-final_test.csv"
_TRACK = re.compile(r"(\d+)_\d+\.[^.]+$")  # TRACK_FRAME, with or without CLASS_ in front


class _Row(NamedTuple):
    place: str  # "file, line n", for messages
    file: str
    label: int
    box: Box


def list_gtsrb(folder: Path) -> Listing:
    """Lists the images that the benchmark's tables name, in whichever layout the folder has.

    Args:
        folder: The folder that holds GTSRB, or GTSRB itself.

    Raises:
        DatasetError: If the folder has neither layout, a table or an image is missing, or a table is wrong.
    """
    subfolders(folder)  # says so if the folder is missing
    for root in (folder, folder / "GTSRB"):
        if (root / _TRAINING).is_dir():
            return _listing(root, [*_official_training(root), *_official_test(root)])
        if (root / "Train.csv").is_file():
            return _listing(root, list(_repackaged(root)))
    raise DatasetError(
        f"{folder} holds neither {_TRAINING} (the official archives) nor Train.csv (the repackaging); "
        "give the folder that holds GTSRB"
    )


def _listing(root: Path, photographs: list[Photograph]) -> Listing:
    counts = tuple(sum(shot.part == part for shot in photographs) for part in (Part.TRAIN, Part.TEST))
    note = "{:,} training and {:,} test images are there, of the benchmark's {:,} and {:,}"
    return Listing(
        root=root,
        photographs=tuple(sorted(photographs)),
        class_names=CLASS_NAMES,
        notes=() if counts == _FULL_COUNTS else (note.format(*counts, *_FULL_COUNTS),),
    )


def _official_training(root: Path) -> Iterator[Photograph]:
    files = scan_images(root, _TRAINING)
    for name in subfolders(root / _TRAINING):
        for row in _read_table(root / _TRAINING / name / f"GT-{name}.csv", "Filename"):
            path = f"{_TRAINING}/{name}/{row.file}"
            yield _photograph(Part.TRAIN, path, _stamp(files, path, row), row)


def _official_test(root: Path) -> Iterator[Photograph]:
    # The annotated table is an archive of its own, which people unpack in different places.
    places = [root / _TEST / _TEST_TABLE, root / _TEST_TABLE, root.parent / _TEST_TABLE]
    table = next((place for place in places if place.is_file()), places[0])
    rows = list(_read_table(table, "Filename"))
    files = scan_images(root, _TEST)
    for row in rows:
        path = f"{_TEST}/{row.file}"
        yield _photograph(Part.TEST, path, _stamp(files, path, row), row)


def _repackaged(root: Path) -> Iterator[Photograph]:
    parts = ((Part.TRAIN, "Train.csv"), (Part.TEST, "Test.csv"))
    rows = [(part, row) for part, table in parts for row in _read_table(root / table, "Path")]
    tops = {row.file.partition("/")[0].casefold() for _, row in rows}
    files: dict[str, Stamp] = {}
    for name in subfolders(root):
        if name.casefold() in tops:
            files |= scan_images(root, name)
    spellings = {path.casefold(): path for path in files}
    for part, row in rows:
        path = row.file if row.file in files else spellings.get(row.file.casefold(), row.file)
        yield _photograph(part, path, _stamp(files, path, row), row)


def _stamp(files: dict[str, Stamp], path: str, row: _Row) -> Stamp:
    try:
        return files[path]
    except KeyError:
        raise DatasetError(
            f"{row.place} names {row.file}, which is not there; unpack the archive again"
        ) from None


def _photograph(part: Part, path: str, stamp: Stamp, row: _Row) -> Photograph:
    if part == Part.TEST:  # test images are single frames, without a track
        return Photograph(part, path, path, row.label, stamp, row.box)
    track = _TRACK.search(path)
    if track is None:
        raise DatasetError(f"{row.place} names {row.file}, it must end in TRACK_FRAME, as 00023_00017.ppm")
    return Photograph(part, f"class {row.label:02} track {track[1]}", path, row.label, stamp, row.box)


def _read_table(path: Path, file_column: str) -> Iterator[_Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; unpack the archive that holds it") from error
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
            yield _read_row(f"{path}, line {number}", needed, cells, places)


def _read_row(place: str, names: tuple[str, ...], cells: list[str], places: list[int]) -> _Row:
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
    return _Row(place, file, label, (left, top, right + 1, bottom + 1))  # the table's box is inclusive
