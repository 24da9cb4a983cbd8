"""Where restored files go: folders are mirrored, and nothing is overwritten unawares."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from steadylens.errors import SettingError
from steadylens.images import IMAGE_SUFFIXES

VIEW_ENDING = ".pattern.png"
"""What the name of a file gets for the view of what was removed from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
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
class Plan:
    """What is to be done with some paths.

    Attributes:
        errands: The files to restore, in the order of the paths.
        others: Files in the folders whose names do not end as those of images do.
    """

    errands: tuple[Errand, ...]
    others: tuple[Path, ...] = ()


def planned(
    paths: Sequence[Path], out: Path | None, *, suffix: str | None = None, view: bool = False
) -> Plan:
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
        SettingError: If a path does not exist, there is nothing to restore, `out` is no folder, two files
            would become one, or one would be written over a source while `out` is given.
    """
    errands, others = [], []
    for path in paths:
        for source, place in _found(path, out):
            if source == path or source.suffix.lower() in IMAGE_SUFFIXES:
                errands.append(_errand(source, place, out, suffix, view=view))
            else:
                others.append(source)
    if not errands:
        raise SettingError(
            f"{', '.join(map(str, paths))} holds no image files, which end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _check(errands, in_place=out is None)
    if out is not None and not (there := next(p for p in (out, *out.parents) if p.exists())).is_dir():
        raise SettingError(f"{there} is a file and no folder to write to; choose another place")
    return Plan(errands=tuple(errands), others=tuple(others))


def _found(path: Path, out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yields the files of a path that count, each with its place below the path."""
    if path.is_file():
        yield path, Path(path.name)
        return
    if not path.is_dir():
        raise SettingError(f"{path} does not exist; name files or folders of images")
    avoided = None if out is None else out.resolve()
    for folder, subfolders, names in os.walk(path):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if (here / name).resolve() != avoided)
        for name in sorted(names):
            is_view = name.endswith(VIEW_ENDING) and name.removesuffix(VIEW_ENDING) in names
            if not name.startswith(".") and not is_view:
                yield here / name, (here / name).relative_to(path)


def _errand(source: Path, place: Path, out: Path | None, suffix: str | None, *, view: bool) -> Errand:
    target = source.resolve() if out is None else out / (place.with_suffix(suffix) if suffix else place)
    beside = target.with_name(f"{target.name}{VIEW_ENDING}")
    return Errand(source=source, target=target, view=beside if view else None)


def _check(errands: Sequence[Errand], *, in_place: bool) -> None:
    sources = {errand.source.resolve(): errand.source for errand in errands}
    takers: dict[Path, Errand] = {}
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
