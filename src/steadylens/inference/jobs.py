"""Finds the image files to restore and decides where each result goes; no file is changed.

Several machines share the work without talking to each other: each takes the files whose paths have a hash
that is its own.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Self

from PIL import Image

from steadylens.errors import SettingError
from steadylens.files import check_folder, check_place
from steadylens.images.tensors import IMAGE_SUFFIXES
from steadylens.images.writing import WRITABLE_FORMATS

VIEW_ENDING = ".pattern.png"
"""Appended to the name of a file, it names the image of what was removed from it."""

PREVIEW_ENDING = ".preview.png"
"""Appended to the name of a file, it names the picture of a part of it before and after."""

FORMATS_BY_SUFFIX = {
    **{known.suffix: name for name, known in WRITABLE_FORMATS.items()},
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".pnm": "PPM",
}
"""The formats that can be written, by the ending of a file in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreJob:
    """One file to restore.

    Attributes:
        source: The file to read.
        target: The file to write.
        view: Where to write an image of what was removed, or None.
    """

    source: Path
    target: Path
    view: Path | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that are written."""
        return (self.target,) if self.view is None else (self.target, self.view)

    @property
    def preview(self) -> Path:
        """Where a picture of a part before and after is written, if it is asked for."""
        return self.target.with_name(f"{self.target.name}{PREVIEW_ENDING}")

    @property
    def in_place(self) -> bool:
        """Whether the result replaces the source."""
        return self.target.exists() and self.source.exists() and self.target.samefile(self.source)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One of several shares of the files, so that as many processes or machines restore them together.

    Which share a file belongs to follows from its path within the folder that was given, by SHA-256. So it
    does not depend on the machine, on where the folder lies there, or on the order of the arguments, and each
    file belongs to exactly one.

    Attributes:
        number: Which share this is, 1 to `count`.
        count: How many there are. One share of one is all files.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuses a share that is none of them."""
        if not 1 <= self.number <= self.count:
            raise SettingError(f"shard {self} does not exist; of N shards, the numbers are 1 to N")

    def __str__(self) -> str:
        """Returns number and count, such as "2/8"."""
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the share that a text such as "2/8" names.

        Raises:
            SettingError: If it names none.
        """
        if not (found := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)):
            raise SettingError(f"shard is {text!r}, it must be a number and a count, such as 2/8")
        return cls(number=int(found[1]), count=int(found[2]))

    @classmethod
    def of_slurm(cls, environment: Mapping[str, str]) -> Self | None:
        """Returns the share of this task of a SLURM job array, or None if this is no such task.

        Args:
            environment: The variables of the environment, such as `os.environ`.

        Raises:
            SettingError: If the numbers of the array's tasks have gaps, or are no numbers.
        """
        if not {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= environment.keys():
            return None
        try:
            task, count, first, last, step = (
                int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "COUNT", "MIN", "MAX", "STEP")
            )
            if last == first + (count - 1) * step and (task - first) % step == 0:
                return cls(number=(task - first) // step + 1, count=count)
        except (KeyError, ValueError, ZeroDivisionError):
            pass
        names = sorted(name for name in environment if name.startswith("SLURM_ARRAY_TASK_"))
        said = ", ".join(f"{name}={environment[name]}" for name in names)
        raise SettingError(
            f"the tasks of this SLURM array are not numbered evenly ({said}), so which share of the files is "
            "whose cannot be told; give --shard, such as 2/8, or 1/1 for all files"
        )

    def holds(self, place: PurePath) -> bool:
        """Returns whether a file belongs to this share.

        Args:
            place: Its path within the folder that was given.
        """
        name = os.fsencode(place.as_posix()).decode("utf-8", "surrogateescape")
        name = unicodedata.normalize("NFC", name)  # some systems write an accent as a letter of its own
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1

    def named(self, path: Path) -> Path:
        """Returns the file of this share beside that of all: NAME-2-of-8.jsonl for NAME.jsonl."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}-{self.number}-of-{self.count}{path.suffix}")

    @classmethod
    def files_of(cls, path: Path) -> dict[Self, Path]:
        """Returns those files of shares that exist beside that of all, by their share, in order."""
        pattern = re.compile(
            rf"{re.escape(path.stem)}-([1-9][0-9]{{0,8}})-of-([1-9][0-9]{{0,8}}){re.escape(path.suffix)}"
        )
        folder = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        found = ((pattern.fullmatch(each.name), each) for each in folder)
        shares = {
            cls(number=int(match[1]), count=int(match[2])): each
            for match, each in found
            if match and 1 < int(match[2]) >= int(match[1])
        }
        return dict(sorted(shares.items(), key=lambda item: (item[0].count, item[0].number)))


ALL_FILES = Shard()
"""The share of whoever works alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorePlan:
    """The jobs that some paths give.

    Attributes:
        jobs: The files to restore, in the order of the paths.
        found: How many files there are in all shares.
        others: Files in the folders whose names do not end like those of images.
        linked: Links to folders, which are not followed.
        unread: The folders that could not be searched, a sentence each that says why.
    """

    jobs: tuple[RestoreJob, ...]
    found: int
    others: tuple[Path, ...] = ()
    linked: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()


def plan_jobs(
    paths: Sequence[Path | str],
    out: Path | str | None,
    *,
    suffix: str | None = None,
    view: bool = False,
    shard: Shard = ALL_FILES,
) -> RestorePlan:
    """Finds the image files to restore and decides where to write each; no file is changed.

    A file is written under its own name into `out`, or as `out` if that ends like an image file. A folder is
    searched with its subfolders for image files, which keep their place within it below `out`. Several
    folders keep their names, too, and of folders with one name as much of what stands before as tells them
    apart. The search leaves out hidden files, `out` itself, and the views and previews that an earlier call
    wrote beside its files; it does not follow links to folders. A file that is given by name may have any
    ending.

    Args:
        paths: Files and folders.
        out: The folder to write to, the image file to write if there is one path, of a file; or None to
            replace each file by its restored version.
        suffix: The ending of the new files, or None to keep that of each file.
        view: Whether to write an image of what was removed, too: beside NAME as NAME.pattern.png.
        shard: The share of the files to restore; by default, all of them.

    Raises:
        SettingError: If a path does not exist, there is nothing to restore, two files would be written to one
            place, a source would be overwritten although `out` is given, or `out` ends like an image file
            that cannot be written or would have to hold several images.
        StorageError: If `out` cannot be written to.
    """
    given, out = [*map(Path, paths)], None if out is None else Path(out)
    for path in given:
        if not path.exists() and not path.is_symlink():
            raise SettingError(f"{path} does not exist; name files or folders of images")
    if out is not None and format_named(out) is not None:
        plan = _plan_one(given, out, view=view)
        if shard.count > 1:
            raise SettingError(f"{out} is one file, and a shard is a share of several; leave out the shard")
        return plan
    search, bases = _Search(avoided=None if out is None else out.resolve()), _bases(given)
    jobs: dict[tuple[Path, Path], RestoreJob] = {}
    places: dict[Path, Path] = {}
    for path in given:
        base = bases.get(_absolute(path), Path())
        for source, place in search.files_at(path):
            job = _job(source, base / place, out, suffix, view=view)
            # A file that is named twice is restored once; in place, so is one that two links name.
            file = job.target if out is None else _absolute(source)
            jobs.setdefault((file, job.target), job)
            places[file] = min(place, places.get(file, place), key=PurePath.as_posix)
    if not jobs and not search.unread:
        raise SettingError(
            f"{', '.join(map(str, given))} holds no image files, which end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    _check_targets([*jobs.values()], in_place=out is None, suffix=suffix)
    if out is not None:
        check_folder(out)
    return RestorePlan(
        jobs=tuple(job for (file, _), job in jobs.items() if shard.holds(places[file])),
        found=len(jobs),
        others=tuple(search.others),
        linked=tuple(search.linked),
        unread=tuple(search.unread),
    )


def format_named(out: Path) -> str | None:
    """Returns the format that the ending of a file to write names, or None if `out` names a folder.

    Raises:
        SettingError: If it is the ending of images that cannot be written.
    """
    suffix = out.suffix.lower()
    if not suffix or out.is_dir():
        return None
    known = FORMATS_BY_SUFFIX.get(suffix)
    if known is None and (suffix in IMAGE_SUFFIXES or suffix in Image.registered_extensions()):
        raise SettingError(
            f"{out} ends like an image that cannot be written; let it end in one of "
            f"{', '.join(sorted(FORMATS_BY_SUFFIX))}, or name a folder"
        )
    return known


def _plan_one(paths: Sequence[Path], out: Path, *, view: bool) -> RestorePlan:
    if len(paths) > 1 or paths[0].is_dir():
        given = f"{len(paths)} paths" if len(paths) > 1 else f"the folder {paths[0]}"
        raise SettingError(f"{out} ends like an image file, and {given} may hold several; name a folder")
    job = RestoreJob(source=paths[0], target=out, view=_view_of(out) if view else None)
    _check_targets((job,), in_place=False, suffix=None)
    check_place(out)
    return RestorePlan(jobs=(job,), found=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    """A search for image files, and what it passed over."""

    avoided: Path | None
    others: list[Path] = field(default_factory=list)
    linked: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def files_at(self, path: Path) -> Iterator[tuple[Path, Path]]:
        """Yields the image files at a path, each with its place relative to the path."""
        if not path.is_dir():
            yield path, Path(path.name)
            return
        for folder, subfolders, names in os.walk(path, onerror=self._refuse):
            here = Path(folder)
            subfolders[:] = sorted(name for name in subfolders if self._is_searched(here / name))
            for name in sorted(names):
                is_ours = any(
                    name.endswith(ending) and name.removesuffix(ending) in names
                    for ending in (VIEW_ENDING, PREVIEW_ENDING)
                )
                if name.startswith(".") or is_ours:
                    continue
                if (here / name).suffix.lower() in IMAGE_SUFFIXES:
                    yield here / name, (here / name).relative_to(path)
                else:
                    self.others.append(here / name)

    def _is_searched(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.resolve() == self.avoided:
            return False
        if folder.is_symlink():
            self.linked.append(folder)
            return False
        return True

    def _refuse(self, error: OSError) -> None:
        self.unread.append(f"{error.filename} cannot be searched: {error.strerror}; change its permissions")


def _absolute(path: Path) -> Path:
    """Returns a path without `..`, and with the links that it is made of."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path has no function that does this


def _bases(paths: Sequence[Path]) -> dict[Path, Path]:
    """Returns below which folder of the output the files of each given folder go, by its absolute path."""
    folders = {_absolute(path) for path in paths if path.is_dir()}
    if len(folders) < 2:
        return {}
    parts = {folder: folder.parts[1:] for folder in folders}
    longest = max(map(len, parts.values()))
    for count in range(1, longest + 1):
        ends = {folder: names[-count:] for folder, names in parts.items()}
        if len({*ends.values()}) == len(folders):
            return {folder: Path(*names) for folder, names in ends.items()}
    return {folder: Path(*names) for folder, names in parts.items()}  # one of them on another drive


def _job(source: Path, place: Path, out: Path | None, suffix: str | None, *, view: bool) -> RestoreJob:
    target = source.resolve() if out is None else out / (place.with_suffix(suffix) if suffix else place)
    return RestoreJob(source=source, target=target, view=_view_of(target) if view else None)


def _view_of(target: Path) -> Path:
    return target.with_name(f"{target.name}{VIEW_ENDING}")


class _Resolved:
    """Returns paths without links and `..`, and looks at each folder once: there may be a million files."""

    def __init__(self) -> None:
        self.folders: dict[Path, Path] = {}

    def __call__(self, path: Path) -> Path:
        if path.name in ("", "..") or path.is_symlink():
            return path.resolve()
        folder = path.parent
        if folder not in self.folders:
            self.folders[folder] = folder.resolve()
        return self.folders[folder] / path.name


def _check_targets(jobs: Sequence[RestoreJob], *, in_place: bool, suffix: str | None) -> None:
    resolved = _Resolved()
    sources = {resolved(job.source): job.source for job in jobs}
    writers: dict[Path, RestoreJob] = {}
    for job in jobs:
        for path in job.written:
            place = resolved(path)
            if place in writers:
                way_out = (
                    "restore them into different folders, or omit --format"
                    if suffix is not None and writers[place].source.name != job.source.name
                    else "restore them one after the other, each into a folder of its own"
                )
                raise SettingError(
                    f"{writers[place].source} and {job.source} would both become {path}; {way_out}"
                )
            if place in sources and not (in_place and path == job.target):
                raise SettingError(
                    f"{path} would be written over {sources[place]}, which is to be restored; "
                    "choose another place, or --in-place"
                )
            writers[place] = job
