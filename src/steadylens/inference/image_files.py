"""Restores image files into other files: with all of their bits and metadata.

Folders keep their structure, and no file is overwritten unless that was asked for.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.files import check_folder, replacing
from steadylens.images.metadata.attachments import FURTHER_IMAGES
from steadylens.images.pixels import Pixels, residual_image
from steadylens.images.reading import FIRST_OF_SEVERAL, ImageContent, Metadata, read_image_file
from steadylens.images.tensors import IMAGE_SUFFIXES
from steadylens.images.writing import encode_image, encode_pages, write_image_file
from steadylens.inference.restorer import restore_array
from steadylens.progress import ProgressCallback

VIEW_ENDING = ".pattern.png"
"""Appended to the name of a file, it names the image of what was removed from it."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorePlan:
    """The jobs that some paths give.

    Attributes:
        jobs: The files to restore, in the order of the paths.
        others: Files in the folders whose names do not end like those of images.
        unread: The folders that could not be searched, a sentence each that says why.
    """

    jobs: tuple[RestoreJob, ...]
    others: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()


def plan_jobs(
    paths: Sequence[Path], out: Path | None, *, suffix: str | None = None, view: bool = False
) -> RestorePlan:
    """Finds the image files to restore and decides where to write each; no file is changed.

    A file is written under its own name into `out`. A folder is searched with its subfolders for image files,
    which keep their place within it below `out`. The search leaves out `out` itself and the views that an
    earlier call wrote beside its files. A file that is given by name may have any ending.

    Args:
        paths: Files and folders.
        out: The folder to write to, or None to replace each file by its restored version.
        suffix: The ending of the new files, or None to keep that of each file.
        view: Whether to write an image of what was removed, too: beside NAME as NAME.pattern.png.

    Raises:
        SettingError: If a path does not exist, there is nothing to restore, two files would be written to one
            place, or a source would be overwritten although `out` is given.
        StorageError: If `out` is not a folder and cannot become one.
    """
    jobs: dict[tuple[Path, Path], RestoreJob] = {}
    others: list[Path] = []
    unread: list[str] = []
    for path in paths:
        for source, place in _found(path, out, unread):
            if source == path or source.suffix.lower() in IMAGE_SUFFIXES:
                job = _job(source, place, out, suffix, view=view)
                jobs.setdefault((source.absolute(), job.target), job)  # a file given twice is restored once
            else:
                others.append(source)
    if not jobs and not unread:
        raise SettingError(
            f"{', '.join(map(str, paths))} holds no image files, which end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    found = tuple(jobs.values())
    _check_targets(found, in_place=out is None)
    if out is not None:
        check_folder(out)
    return RestorePlan(jobs=found, others=tuple(others), unread=tuple(unread))


def _found(path: Path, out: Path | None, unread: list[str]) -> Iterator[tuple[Path, Path]]:
    """Yields the files at a path, each with its place relative to the path; hidden ones are left out."""
    if not path.is_dir():
        if not path.exists():
            raise SettingError(f"{path} does not exist; name files or folders of images")
        yield path, Path(path.name)
        return
    avoided = None if out is None else out.resolve()

    def refused(error: OSError) -> None:
        unread.append(f"{error.filename} cannot be searched: {error.strerror}; change its permissions")

    for folder, subfolders, names in os.walk(path, onerror=refused):
        here = Path(folder)
        visible = (name for name in subfolders if not name.startswith("."))
        subfolders[:] = sorted(name for name in visible if (here / name).resolve() != avoided)
        for name in sorted(names):
            is_view = name.endswith(VIEW_ENDING) and name.removesuffix(VIEW_ENDING) in names
            if not name.startswith(".") and not is_view:
                yield here / name, (here / name).relative_to(path)


def _job(source: Path, place: Path, out: Path | None, suffix: str | None, *, view: bool) -> RestoreJob:
    target = source.resolve() if out is None else out / (place.with_suffix(suffix) if suffix else place)
    beside = target.with_name(f"{target.name}{VIEW_ENDING}")
    return RestoreJob(source=source, target=target, view=beside if view else None)


def _check_targets(jobs: Sequence[RestoreJob], *, in_place: bool) -> None:
    sources = {job.source.resolve(): job.source for job in jobs}
    writers: dict[Path, RestoreJob] = {}
    for job in jobs:
        for path in job.written:
            place = path.resolve()
            if place in writers:
                raise SettingError(
                    f"{writers[place].source} and {job.source} would both become {path}; "
                    "restore them into different folders, or omit --format"
                )
            if place in sources and not (in_place and path == job.target):
                raise SettingError(
                    f"{path} would be written over {sources[place]}, which is to be restored; "
                    "choose another folder, or --in-place"
                )
            writers[place] = job


def restore_file(
    job: RestoreJob,
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    *,
    format: str | None,  # noqa: A002 - the usual name
    most_pixels: int,
    progress: ProgressCallback,
) -> tuple[str, ...]:
    """Restores an image file.

    Args:
        job: What to read and where to write it. A file that exists is replaced, and appears complete or not
            at all.
        restorer: A `Restorer`.
        format: The format to write, one of `WRITABLE_FORMATS`, or None for the format of the source.
        most_pixels: Larger images (width times height) are refused.
        progress: Called with the number of tiles that are done and the number of all tiles.

    Returns:
        Notes on what was converted, and the scale of the view, a phrase each. All pages of a TIFF are
        restored if the result is a TIFF, else the first. The view is that of the first.

    Raises:
        ImageError: If the source cannot be read, the format cannot store it, or the source is to be replaced
            and holds more than its picture or its pages, which would be lost.
        StorageError: If a file cannot be written.
    """
    source, target = job.source, job.target
    content = read_image_file(source, most_pixels=most_pixels)
    in_place = target.exists() and target.samefile(source)
    count = len(content.pages) if (format or content.format) == content.format == "TIFF" else 1
    lost = [*content.left_out, *([FURTHER_IMAGES] if len(content.pages) > count else [])]
    if in_place and lost:
        raise ImageError(
            f"{source} also holds {', '.join(lost)}, which would be lost; restore it into a folder"
        )
    notes = dict.fromkeys(content.notes)
    if count > 1:
        notes.pop(FIRST_OF_SEVERAL)
    pixels = restore_array(content.pixels, restorer, _of_page(0, count, progress))
    restored = replace(content, pixels=pixels, format=format or content.format)
    scale = None if job.view is None else _write_view(job.view, content.pixels, pixels)
    further = _further_pages(source, content.pages[1:count], restorer, most_pixels, progress)
    try:
        with replacing(target) as temporary:
            if restored.format == "TIFF":
                written = encode_pages(temporary, _noted(chain([restored], further), notes))
            else:
                written = encode_image(temporary, restored)
    except BaseException:
        if job.view is not None:
            job.view.unlink(missing_ok=True)  # it would lie beside a file that was not restored
        raise
    return (*(notes | dict.fromkeys(written)), *([] if scale is None else [scale]))


def _of_page(number: int, count: int, progress: ProgressCallback) -> ProgressCallback:
    """Returns what counts the tiles of a page as those of a file of `count` pages."""
    return lambda done, total: progress(number * total + done, count * total)


def _further_pages(
    source: Path,
    directories: Sequence[int],
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    most_pixels: int,
    progress: ProgressCallback,
) -> Iterator[ImageContent]:
    """Yields the restored pages of a TIFF but the first, one at a time."""
    count = len(directories) + 1
    for number, directory in enumerate(directories, start=1):
        try:
            page = read_image_file(source, most_pixels=most_pixels, directory=directory)
        except ImageError as error:
            raise type(error)(f"page {number + 1} of {count}: {error}") from error
        pixels = restore_array(page.pixels, restorer, _of_page(number, count, progress))
        yield replace(page, pixels=pixels)


def _noted(pages: Iterable[ImageContent], notes: dict[str, None]) -> Iterator[ImageContent]:
    """Yields pages and gathers their notes."""
    for page in pages:
        notes.update(dict.fromkeys(each for each in page.notes if each != FIRST_OF_SEVERAL))
        yield page


def _write_view(path: Path, before: Pixels, after: Pixels) -> str:
    view, scale = residual_image(before, after)
    write_image_file(path, ImageContent(pixels=view, format="PNG", lossless=True, metadata=Metadata()))
    return (
        f"{path.name} shows what was removed: nothing at 128, {scale:.3g} grey levels at 255, minus that at 1"
    )
