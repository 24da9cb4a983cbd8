"""Any classified images: a folder for each class, with or without folders train and test above them."""

from collections import Counter
from pathlib import Path

from steadylens.errors import DatasetError
from steadylens.listing import Listing, Photograph, counted, scan_images, subfolders
from steadylens.splitting import Part

_PARTS: dict[str, Part] = {
    "train": Part.TRAIN,
    "val": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "test": Part.TEST,
}


def list_folder(folder: Path) -> Listing:
    """Lists the images of a folder that holds one folder a class, or those in its train and test folders.

    The classes are the training folders, sorted by name. Every image counts as a track of its own.

    Args:
        folder: Holds the class folders, or folders train and test (and val or validation) that hold them.

    Raises:
        DatasetError: If a folder is missing, there is no class, a class has no image, or validation or test
            images have a class that training lacks.
    """
    names = subfolders(folder)
    parts = {name: _PARTS[name.casefold()] for name in names if name.casefold() in _PARTS}
    if {Part.TRAIN, Part.TEST} <= set(parts.values()):
        ignored = [name for name in names if name not in parts]
        note = f"{folder} has folders beside train and test that are not read: {', '.join(ignored)}"
        notes = [note] if ignored else []
    elif names and len(parts) == len(names):
        raise DatasetError(
            f"{folder} has {' and '.join(names)} alone; give it both train and test, or one folder a class"
        )
    else:
        parts, notes = {"": Part.TRAIN}, []
    classes = _training_classes(folder, parts)
    others: Counter[str] = Counter()
    photographs = [
        photograph
        for name, part in parts.items()
        for photograph in _photographs(folder, name, part, classes, others)
    ]
    if others:
        notes.append(f"{folder} has files of no format that is read here, left out: {counted(others)}")
    return Listing(
        root=folder, photographs=tuple(sorted(photographs)), class_names=tuple(classes), notes=tuple(notes)
    )


def _training_classes(folder: Path, parts: dict[str, Part]) -> dict[str, int]:
    names = {name for top, part in parts.items() if part == Part.TRAIN for name in subfolders(folder / top)}
    if not names:
        raise DatasetError(f"{folder} holds no images in class folders; put each class into its own folder")
    return {name: label for label, name in enumerate(sorted(names))}


def _photographs(
    folder: Path, top: str, part: Part, classes: dict[str, int], others: Counter[str]
) -> list[Photograph]:
    found = []
    for name in subfolders(folder / top):
        start = f"{top}/{name}" if top else name
        files = scan_images(folder, start, others=others)
        if not files:
            raise DatasetError(f"{folder / start} holds no images; fill it or remove it")
        if name not in classes:
            raise DatasetError(
                f"{folder / start} is a class that training lacks; add training images or remove it"
            )
        found += [Photograph(part, path, path, classes[name], stamp) for path, stamp in files.items()]
    return found
