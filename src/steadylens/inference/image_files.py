"""Restores image files into others: all of their bits, their metadata, and what was removed beside them.

Folders are mirrored, and nothing is overwritten unawares.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from steadylens.devices import ProgressCallback
from steadylens.errors import ImageError, SettingError
from steadylens.files import check_folder
from steadylens.images.pixels import Pixels, residual_image
from steadylens.images.reading import ImageContent, Metadata, read_image_file
from steadylens.images.tensors import IMAGE_SUFFIXES
from steadylens.images.writing import write_image_file
from steadylens.inference.restorer import restore_array

VIEW_ENDING = ".pattern.png"
"""What the name of a file gets for the view of what was removed from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreJob:
    """One file to restore.

    Attributes:
        source: The file to read.
        target: The file to write.
        view: Where to write what was removed, or None.
    """

    source: Path
    target: Path
    view: Path | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that are written."""
        return (self.target,) if self.view is None else (self.target, self.view)


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorePlan:
    """What is to be done with some paths.

    Attributes:
        errands: The files to restore, in the order of the paths.
        others: Files in the folders whose names do not end as those of images do.
        unread: Why folders could not be looked into, a sentence each.
    """

    errands: tuple[RestoreJob, ...]
    others: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()


def planned(
    paths: Sequence[Path], out: Path | None, *, suffix: str | None = None, view: bool = False
) -> RestorePlan:
    """Returns what to read and where to write it; nothing is touched.

    A file becomes the file of its name in `out`. A folder is searched with its subfolders for image files,
    and mirrored below `out`; what lies in `out` already is not searched, nor are views that an earlier call
    put beside its files. A file that is itself named may end in anything.

    Args:
        paths: Files and folders.
        out: The folder to write to, or None to put every file in the place of its source.
        suffix: Ending that replaces those of the files, or None to keep them.
        view: Whether what was removed is written too: beside NAME as NAME.pattern.png.

    Raises:
        SettingError: If a path does not exist, there is nothing to restore, two files would become one, or
            one would be written over a source while `out` is given.
        StorageError: If `out` is no folder and cannot become one.
    """
    errands: dict[tuple[Path, Path], RestoreJob] = {}
    others: list[Path] = []
    unread: list[str] = []
    for path in paths:
        for source, place in _found(path, out, unread):
            if source == path or source.suffix.lower() in IMAGE_SUFFIXES:
                errand = _errand(source, place, out, suffix, view=view)
                errands.setdefault((source.absolute(), errand.target), errand)  # named twice, it is done once
            else:
                others.append(source)
    if not errands and not unread:
        raise SettingError(
            f"{', '.join(map(str, paths))} holds no image files, which end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    found = tuple(errands.values())
    _check(found, in_place=out is None)
    if out is not None:
        check_folder(out)
    return RestorePlan(errands=found, others=tuple(others), unread=tuple(unread))


def _found(path: Path, out: Path | None, unread: list[str]) -> Iterator[tuple[Path, Path]]:
    """Yields the files of a path that count, each with its place below the path."""
    if not path.is_dir():
        if not path.exists():
            raise SettingError(f"{path} does not exist; name files or folders of images")
        yield path, Path(path.name)
        return
    avoided = None if out is None else out.resolve()

    def refused(error: OSError) -> None:
        unread.append(f"{error.filename} cannot be looked into: {error.strerror}; change its permissions")

    for folder, subfolders, names in os.walk(path, onerror=refused):
        here = Path(folder)
        shown = (name for name in subfolders if not name.startswith("."))
        subfolders[:] = sorted(name for name in shown if (here / name).resolve() != avoided)
        for name in sorted(names):
            is_view = name.endswith(VIEW_ENDING) and name.removesuffix(VIEW_ENDING) in names
            if not name.startswith(".") and not is_view:
                yield here / name, (here / name).relative_to(path)


def _errand(source: Path, place: Path, out: Path | None, suffix: str | None, *, view: bool) -> RestoreJob:
    target = source.resolve() if out is None else out / (place.with_suffix(suffix) if suffix else place)
    beside = target.with_name(f"{target.name}{VIEW_ENDING}")
    return RestoreJob(source=source, target=target, view=beside if view else None)


def _check(errands: Sequence[RestoreJob], *, in_place: bool) -> None:
    sources = {errand.source.resolve(): errand.source for errand in errands}
    takers: dict[Path, RestoreJob] = {}
    for errand in errands:
        for path in errand.written:
            place = path.resolve()
            if place in takers:
                raise SettingError(
                    f"{takers[place].source} and {errand.source} would both become {path}; "
                    "restore them into different folders, or leave --format out"
                )
            if place in sources and not (in_place and path == errand.target):
                raise SettingError(
                    f"{path} would be written over {sources[place]}, which is to be restored; "
                    "choose another folder, or --in-place"
                )
            takers[place] = errand


def restore_file(
    source: Path,
    target: Path,
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    *,
    view: Path | None,
    format: str | None,  # noqa: A002 - the name of the thing
    most_pixels: int,
    progress: ProgressCallback,
) -> tuple[str, ...]:
    """Restores an image file.

    Args:
        source: The file to read.
        target: The file to write; it is replaced if it is there, and appears whole or not at all.
        restorer: A `Restorer`.
        view: Where to write what was removed, as a PNG file, or None.
        format: What to write, one of `imagewriting.FORMATS`, or None for the format of the source.
        most_pixels: Width times height that is refused if it is exceeded.
        progress: Told how many tiles are done, and how many there are.

    Returns:
        Notes on what was converted, and the scale of the view, a phrase each.

    Raises:
        ImageError: If the source cannot be read, the format cannot hold it, or the source is to be replaced
            and holds further images, which would be lost.
        StorageError: If a file cannot be written.
    """
    content = read_image_file(source, most_pixels=most_pixels)
    if content.first_of_several and target.exists() and target.samefile(source):
        raise ImageError(
            f"{source} holds several images, of which the first alone would stay; restore it into a folder"
        )
    levels = restore_array(content.levels, restorer, progress)
    restored = replace(content, levels=levels, format=format or content.format)
    if view is None:
        return (*content.notes, *write_image_file(target, restored))
    shown = _write_view(view, content.levels, levels)
    try:
        return (*content.notes, *write_image_file(target, restored), shown)
    except BaseException:
        view.unlink(missing_ok=True)  # it would stand beside a file that was not restored
        raise


def _write_view(path: Path, before: Pixels, after: Pixels) -> str:
    view, scale = residual_image(before, after)
    write_image_file(path, ImageContent(levels=view, format="PNG", lossless=True, metadata=Metadata()))
    return (
        f"{path.name} shows what was removed: nothing at 128, {scale:.3g} grey levels at 255, minus that at 1"
    )
