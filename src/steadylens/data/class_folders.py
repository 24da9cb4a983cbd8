"""Lists the images of class folders, which lie side by side or in folders of parts such as train and test.

Other programs have many names for the parts. A folder of a part must not be taken for a class: a classifier
would be measured on classes that it does not know, and nothing else would show it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from steadylens.data.sources import Listing, Photograph, other_files_note, scan_images, subfolders
from steadylens.data.splitting import Part
from steadylens.errors import DatasetError

_PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trainset"), Part.TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "devset"), Part.VALIDATION),
    **dict.fromkeys(("eval", "evaluation"), Part.VALIDATION),
    **dict.fromkeys(("test", "testing", "testset"), Part.TEST),
    **dict.fromkeys(("unlabeled", "unlabelled"), Part.LEFT_OUT),
}  # fmt: skip
"""The part that each word means; unlabelled images are in none."""

_FILLERS = frozenset(
    {"data", "dataset", "dir", "final", "folder", "image", "images", "img", "imgs", "seg", "set", "split"}
)
"""Words that stand beside the name of a part, as in train_images, Final_Test or val2017."""

_CAPITAL_WITHIN = re.compile(r"(?<=[a-z])(?=[A-Z])")

_MOST_SHOWN = 12  # names in a message


def part_named(name: str) -> Part | None:
    """Returns the part of a data set that a folder's name means, in any case; None for any other name.

    Example:
        >>> part_named("TrainImages"), part_named("val2017"), part_named("train station")
        (<Part.TRAIN: 0>, <Part.VALIDATION: 1>, None)
    """
    words = _words(name)
    parts = [_PARTS[word] for word in words if word in _PARTS]
    others = [word for word in words if word not in _PARTS and word not in _FILLERS]
    return parts[0] if len(parts) == 1 and not others else None


def part_words(name: str) -> set[Part]:
    """Returns all parts of a data set that words of a name mean, whatever other words stand beside them.

    Example:
        >>> part_words("imagenet1k-train-0003"), part_words("0003")
        ({<Part.TRAIN: 0>}, set())
    """
    return {_PARTS[word] for word in _words(name) if word in _PARTS}


def _words(name: str) -> list[str]:
    """Returns the words of a folder's name in lower case, without digits: of ValData_2 val and data."""
    spaced = _CAPITAL_WITHIN.sub(" ", name).casefold()
    return [word for word in re.split(r"[\W\d_]+", spaced) if word]


class _Layout(NamedTuple):
    """The folders that hold class folders, with their part: one without a name if there are no parts."""

    parts: dict[str, Part]
    notes: list[str]


def list_folder(folder: Path, *, training: bool = True) -> Listing:
    """Lists the images of a folder that contains class folders, or folders of parts with class folders.

    The classes are the class folders of the training part, or of all parts if there is none, sorted by name
    as text. Every image is a track of its own. Without a folder of test images, the validation images are the
    test images.

    Args:
        folder: Contains class folders, or folders such as train and test, or train and val, with class
            folders in each.
        training: Whether there must be training images; if not, folders such as test alone will do.

    Raises:
        DatasetError: If a folder is missing, there is no class, a class has no image, validation or test
            images have a class that training lacks, or parts and classes stand side by side.
    """
    parts, notes = _layout(folder, training=training)
    classes = _training_classes(folder, parts)
    others: Counter[str] = Counter()
    photographs = [
        photograph
        for name, part in parts.items()
        for photograph in _photographs(folder, name, part, classes, others)
    ]
    notes += other_files_note(folder, others)
    return Listing(
        root=folder, photographs=tuple(sorted(photographs)), class_names=tuple(classes), notes=tuple(notes)
    )


def natural_order(names: Sequence[str]) -> list[str]:
    """Returns names sorted as timm sorts folders: numbers in them by value, letters in any case."""
    return sorted(
        names,
        key=lambda name: [int(run) if run.isdecimal() else run for run in re.split(r"(\d+)", name.lower())],
    )


def order_notes(names: Sequence[str]) -> tuple[str, ...]:
    """Returns a sentence if other libraries number class folders of these names in another order."""
    other = natural_order(names)
    if list(names) == other:
        return ()
    return (
        "class folders are numbered in the order of their names as text, as torchvision does: "
        f"{shown(names)}; timm numbers them {shown(other)}. A net that learned another order is measured "
        "wrongly: give the names in its order with --class-names FILE, in Python Selection(class_names=...)",
    )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Reads class names, one per line, in UTF-8; empty lines at the ends do not count.

    Raises:
        DatasetError: If the file cannot be read, or a name is empty or there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise DatasetError(f"{path} cannot be read: {reason}; write one name per line") from error
    names = tuple(line.strip() for line in text.strip().split("\n"))
    if (different := len({*names} - {""})) != len(names):
        raise DatasetError(
            f"{path} has {different} names in {len(names)} lines; each line needs a different name"
        )
    return names


def shown(names: Sequence[str], *, most: int = _MOST_SHOWN) -> str:
    """Returns names in one line: the first ones if there are many."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _layout(folder: Path, *, training: bool) -> _Layout:
    names = subfolders(folder)
    known = {name: part for name in names if (part := part_named(name)) is not None}
    labelled = _labelled(folder, known)
    if _is_divided(labelled):
        return _split(folder, names, labelled)
    if known and len(known) == len(names) and not training and set(labelled.values()) - {Part.TRAIN}:
        return _split(folder, names, labelled)
    if known and len(known) == len(names):
        raise DatasetError(_incomplete(folder, names, labelled))
    _refuse_parts(folder, names, known, labelled)
    _refuse_outer(folder, names)
    notes = [f"{folder / name} is read as a class of that name, not as a part" for name in known]
    return _Layout({"": Part.TRAIN}, [*notes, *_inner_notes(folder, names)])


def _labelled(folder: Path, known: Mapping[str, Part]) -> dict[str, Part]:
    """Returns those folders of parts that contain class folders."""
    return {name: part for name, part in known.items() if part != Part.LEFT_OUT and subfolders(folder / name)}


def _is_divided(labelled: Mapping[str, Part]) -> bool:
    """Returns whether there are training images and others."""
    return Part.TRAIN in labelled.values() and len(set(labelled.values())) > 1


def _split(folder: Path, names: Sequence[str], parts: dict[str, Part]) -> _Layout:
    """Returns the layout of a folder that has at least validation or test images."""
    by_part = {part: [name for name, own in parts.items() if own == part] for part in parts.values()}
    for part, same in by_part.items():
        if len(same) > 1:
            raise DatasetError(
                f"{folder} has {' and '.join(same)}, which both mean {part.name.lower()} images; keep one, "
                "or rename the one with the images to test on to test"
            )
    notes = []
    if ignored := [name for name in names if name not in parts]:
        beside = " and ".join(sorted(parts, key=lambda name: parts[name]))
        notes.append(f"{folder} has folders beside {beside} that are not read: {shown(ignored)}")
    if Part.TEST not in by_part:
        (tested,) = by_part[Part.VALIDATION]
        parts = {**parts, tested: Part.TEST}
        rest = "".join(
            f", and a share of those in {name} are for validation" for name in by_part.get(Part.TRAIN, ())
        )
        notes.append(
            f"{folder} has no folder of test images: the images in {tested} are the test images{rest}"
        )
    return _Layout(parts, notes)


def _incomplete(folder: Path, names: Sequence[str], labelled: Mapping[str, Part]) -> str:
    """Returns why folders of parts alone are no data set."""
    train = [name for name in names if part_named(name) == Part.TRAIN]
    if train and train[0] not in labelled:
        return f"{folder / train[0]} contains no class folders with images; put each class into a folder"
    way_out = f"give {folder / train[0]} itself, or add" if train else "add train, and"
    measured = "; to measure only, in Python Selection(training=False), train is not needed" * (not train)
    return (
        f"{folder} has no class folders but {' and '.join(names)}; {way_out} test or val with one folder per "
        f"class in it{measured}"
    )


def _refuse_parts(
    folder: Path, names: Sequence[str], known: Mapping[str, Part], labelled: Mapping[str, Part]
) -> None:
    """Refuses folders of parts among class folders; a train that holds images itself may be a vehicle."""
    refused = [name for name in known if name.casefold() != "train" or name in labelled]
    if refused:
        others = [name for name in names if name not in known]
        raise DatasetError(
            f"{folder} has {' and '.join(refused)} beside {shown(others)}: a name of a part of a data set "
            "among class folders; put the class folders into train and test (or val), or move or rename "
            f"{refused[0]}"
        )


def _refuse_outer(folder: Path, names: Sequence[str]) -> None:
    """Refuses a folder above the data set: one of the supposed classes holds the parts, or all there is."""
    for name in names:
        inside = subfolders(folder / name)
        parts = {each: part for each in inside if (part := part_named(each)) is not None}
        if len(names) > 1 and _is_divided(_labelled(folder / name, parts)):
            raise DatasetError(
                f"{folder / name} contains {shown(inside)}, so it seems to be the data set and no class; "
                f"give folder:{folder / name} itself"
            )
    if len(names) == 1:
        _refuse_single(folder, names[0])


def _refuse_single(folder: Path, name: str) -> None:
    """Refuses a single class folder that contains folders, since those may be the classes or the parts."""
    place = folder / name
    while len(inside := subfolders(place)) == 1 and part_named(inside[0]) is None:
        place /= inside[0]
    if inside:
        raise DatasetError(
            f"{folder} has one class folder, {place.relative_to(folder).as_posix()}, which contains "
            f"{shown(inside)}; if those are the classes or the parts, give folder:{place} itself, or move "
            f"them up into {folder}"
        )


def _inner_notes(folder: Path, classes: Sequence[str]) -> list[str]:
    """Returns a sentence if class folders contain the same folders, which may be the classes or the parts.

    If names of the class folders also speak of parts, they are refused.
    """
    inside = [set(subfolders(folder / name)) for name in classes]
    if len(inside) < 2 or not (same := sorted(set.intersection(*inside))):
        return []
    if parts := [name for name in classes if not _PARTS.keys().isdisjoint(_words(name))]:
        raise DatasetError(
            f"{folder} has {shown(classes)}, each of which contains {shown(same)}, so {shown(parts)} seem to "
            "be parts of a data set; call the parts train and test (or val)"
        )
    return [
        f"each of the class folders {shown(classes)} contains {shown(same)}, whose images are read together; "
        "if those are the classes or the parts of the data set, put class folders into train and test"
    ]


def _training_classes(folder: Path, parts: Mapping[str, Part]) -> dict[str, int]:
    tops = [top for top, part in parts.items() if part == Part.TRAIN] or list(parts)
    names = {name for top in tops for name in subfolders(folder / top)}
    if not names:
        raise DatasetError(f"{folder} contains no class folders with images; put each class into a folder")
    for top in tops:
        if top and len(names) == 1 and subfolders(folder / top):
            _refuse_single(folder / top, *names)
    return {name: label for label, name in enumerate(sorted(names))}


def _photographs(
    folder: Path, top: str, part: Part, classes: Mapping[str, int], others: Counter[str]
) -> list[Photograph]:
    names = subfolders(folder / top)
    starts = {name: f"{top}/{name}" if top else name for name in names}
    files = {name: scan_images(folder, start, others=others) for name, start in starts.items()}
    if empty := [str(folder / starts[name]) for name in names if not files[name]]:
        raise DatasetError(f"class folders without images: {shown(empty)}; fill or remove them")
    if unknown := [str(folder / starts[name]) for name in names if name not in classes]:
        raise DatasetError(
            f"classes without training images: {shown(unknown)}; add training images or remove the folders"
        )
    return [
        Photograph(part, path, path, classes[name], stamp)
        for name in names
        for path, stamp in files[name].items()
    ]
