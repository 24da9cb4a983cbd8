"""Restores an image file into another: with all of its bits and metadata."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from steadylens.errors import ImageError, SettingError
from steadylens.files import replacing
from steadylens.images.decoding import MOST_PIXELS
from steadylens.images.headers import PagePlace
from steadylens.images.metadata.attachments import FURTHER_IMAGES
from steadylens.images.pixels import Pixels, flattened, residual_image
from steadylens.images.reading import FIRST_OF_SEVERAL, ImageContent, Metadata, read_image_file
from steadylens.images.tensors import array_to_tensor
from steadylens.images.writing import (
    WRITABLE_FORMATS,
    check_storable,
    encode_image,
    encode_pages,
    write_image_file,
)
from steadylens.inference.inspecting.noise_level import NoiseLevel, noise_level_of
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import restore_array
from steadylens.progress import ProgressCallback


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreSettings:
    """What restored files are like.

    Attributes:
        format: The format to write, one of `WRITABLE_FORMATS`, or None for the format of the source.
        quality: The quality of JPEG and WebP, 1 to 100. None is the usual one, with WebP lossless where the
            source is.
        background: Red, green and blue, 0 to 255, to put behind what is transparent; the result has no alpha
            then. None keeps alpha.
        keep_times: Whether a file gets the times of its source.
        most_pixels: Larger images (width times height) are refused.
        always: Whether an image that is judged clean is restored, too; see `NoiseLevel.clean`. By default,
            its file is copied as it is, or converted if another format, a quality or a background is wanted.
    """

    format: str | None = None
    quality: int | None = None
    background: tuple[int, int, int] | None = None
    keep_times: bool = False
    most_pixels: int = MOST_PIXELS
    always: bool = False

    def __post_init__(self) -> None:
        """Refuses a quality that no file can have."""
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise SettingError(f"quality is {self.quality}, it must be 1 to 100")
        if self.quality is not None and self.format and not WRITABLE_FORMATS[self.format].quality:
            raise SettingError(
                f"{self.format} keeps every pixel value and has no quality; leave out the quality, or choose "
                "JPEG or WebP"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredFile:
    """What is known of a file that was restored.

    Attributes:
        clean: Whether it was judged clean, so that its pixels are those of the source.
        notes: What was converted, and the scale of the view, a phrase each.
        noise_grey: The noise of the source, or of its first page, in grey levels of 255, or None if the image
            is too small to tell; see `NoiseLevel`.
        coarse_noise_grey: The same by the flattest parts, where noise that neighbours share shows as well.
        coarse_noise: Whether neighbouring pixels share it, so that `unet-camera` would restore the image
            better; see `NoiseLevel.coarse`.
        sha256: SHA-256 of the new file, in hexadecimal.
    """

    clean: bool
    notes: tuple[str, ...]
    noise_grey: float | None
    coarse_noise_grey: float | None
    coarse_noise: bool
    sha256: str


def restore_file(
    job: RestoreJob,
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    *,
    settings: RestoreSettings,
    progress: ProgressCallback = lambda done, total: None,
    announce: Callable[[str], None] = lambda sha256: None,
) -> RestoredFile:
    """Restores an image file, or leaves it as it is if it is clean.

    All pages of a TIFF are restored if the result is a TIFF, else the first; the view is that of the first.
    What the format cannot store is refused before the net restores anything. A TIFF is clean if all of the
    pages are that would be restored.

    Args:
        job: What to read and where to write it. A file that exists is replaced, and appears complete or not
            at all.
        restorer: A `Restorer`.
        settings: What the new file is like.
        progress: Called with the number of tiles that are done and the number of all tiles.
        announce: Called with the SHA-256 of the new file when it is complete, just before it appears; not if
            the source was clean.

    Raises:
        ImageError: If the source cannot be read, the format cannot store it, or the source is to be replaced
            and holds more than its picture or its pages, which would be lost.
        StorageError: If a file cannot be written.
    """
    first = read_image_file(job.source, most_pixels=settings.most_pixels)
    content = _as_wanted(first, settings)
    count = len(first.pages) if first.format == content.format == "TIFF" else 1
    stays = _stays(first, content, settings)
    if not stays:
        _refuse_losses(job, first, content, count)
    level = noise_level_of(array_to_tensor(content.pixels), restorer)
    clean = not settings.always and level.clean and _pages_are_clean(job, first, count, restorer, settings)
    if clean and stays:
        return _left(job, content, level, settings)
    if stays:
        _refuse_losses(job, first, content, count)
    run = _unchanged if clean else restorer
    notes = dict.fromkeys(content.notes)
    if count > 1:
        notes.pop(FIRST_OF_SEVERAL)
    pixels = restore_array(content.pixels, run, _of_page(0, count, progress))
    part = "" if count == 1 else " from the first page"
    scale = None if job.view is None else _write_view(job.view, content.pixels, pixels, part)
    further = _further_pages(job.source, first.pages[1:count], run, settings, progress)
    pages = chain([replace(content, pixels=pixels)], further)
    with _view_removed_if_it_fails(job), replacing(job.target) as temporary:
        notes |= dict.fromkeys(_encode(temporary, _noted(pages, notes), content.format))
        _keep_times(job, temporary, settings)
        sha256 = content_hash(temporary)
        if not clean:
            announce(sha256)
    return _restored(level, clean=clean, notes=(*notes, *([] if scale is None else [scale])), sha256=sha256)


def content_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stays(first: ImageContent, content: ImageContent, settings: RestoreSettings) -> bool:
    """Returns whether a file that is clean would be what is asked for, byte for byte."""
    return first.format == content.format and settings.quality is None and content.pixels is first.pixels


def _refuse_losses(job: RestoreJob, first: ImageContent, content: ImageContent, count: int) -> None:
    """Refuses what the format cannot store, and what would be lost where the source is replaced."""
    lost = [*first.left_out, *([FURTHER_IMAGES] if len(first.pages) > count else [])]
    if job.in_place and lost:
        raise ImageError(
            f"{job.source} also holds {', '.join(lost)}, which would be lost; restore it into a folder"
        )
    check_storable(content)


def _pages_are_clean(
    job: RestoreJob,
    first: ImageContent,
    count: int,
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    settings: RestoreSettings,
) -> bool:
    """Returns whether all pages of a TIFF but the first, which is known, are clean."""
    return all(
        noise_level_of(array_to_tensor(page.pixels), restorer).clean
        for page in _pages(job.source, first.pages[1:count], settings)
    )


def _unchanged(images: Tensor, progress: ProgressCallback) -> Tensor:
    progress(1, 1)
    return images


def _left(
    job: RestoreJob, content: ImageContent, level: NoiseLevel, settings: RestoreSettings
) -> RestoredFile:
    """Copies a file that is clean, or leaves it alone if it would replace itself."""
    notes = [] if job.view is None else [_write_view(job.view, content.pixels, content.pixels, "")]
    if not job.in_place:
        with _view_removed_if_it_fails(job), replacing(job.target) as temporary:
            shutil.copyfile(job.source, temporary)
            _keep_times(job, temporary, settings)
    return _restored(level, clean=True, notes=tuple(notes), sha256=content_hash(job.target))


def _restored(level: NoiseLevel, *, clean: bool, notes: tuple[str, ...], sha256: str) -> RestoredFile:
    return RestoredFile(
        clean=clean,
        notes=notes,
        noise_grey=level.grey,
        coarse_noise_grey=level.coarse_grey,
        coarse_noise=level.coarse,
        sha256=sha256,
    )


@contextmanager
def _view_removed_if_it_fails(job: RestoreJob) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if job.view is not None:
            job.view.unlink(missing_ok=True)  # it would lie beside a file that was not restored
        raise


def _keep_times(job: RestoreJob, path: Path, settings: RestoreSettings) -> None:
    if settings.keep_times:
        times = job.source.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _as_wanted(content: ImageContent, settings: RestoreSettings) -> ImageContent:
    """Returns the content in the format and with the background that are asked for."""
    content = replace(content, format=settings.format or content.format, quality=settings.quality)
    channels = content.pixels.shape[-1]
    if settings.background is None or channels in (1, 3):
        return content
    pixels, metadata = flattened(content.pixels, settings.background), content.metadata
    if channels == 2 and pixels.shape[-1] == 3:
        metadata = replace(metadata, icc_profile=b"")  # a profile for grey
    notes = (*content.notes, "what is transparent was put on the background")
    return replace(content, pixels=pixels, metadata=metadata, notes=notes, relaid=True)


def _encode(path: Path, pages: Iterator[ImageContent], name: str) -> tuple[str, ...]:
    return encode_pages(path, pages) if name == "TIFF" else encode_image(path, next(pages))


def _of_page(number: int, count: int, progress: ProgressCallback) -> ProgressCallback:
    """Returns what counts the tiles of a page as those of a file of `count` pages."""
    return lambda done, total: progress(number * total + done, count * total)


def _further_pages(
    source: Path,
    places: Sequence[PagePlace],
    restorer: Callable[[Tensor, ProgressCallback], Tensor],
    settings: RestoreSettings,
    progress: ProgressCallback,
) -> Iterator[ImageContent]:
    """Yields the restored pages of a TIFF but the first, one at a time."""
    for number, page in enumerate(_pages(source, places, settings), start=1):
        pixels = restore_array(page.pixels, restorer, _of_page(number, len(places) + 1, progress))
        yield replace(page, pixels=pixels)


def _pages(source: Path, places: Sequence[PagePlace], settings: RestoreSettings) -> Iterator[ImageContent]:
    """Yields the pages of a TIFF but the first, one at a time."""
    for number, place in enumerate(places, start=2):
        try:
            page = read_image_file(source, most_pixels=settings.most_pixels, page=place)
        except ImageError as error:
            raise type(error)(f"page {number} of {len(places) + 1}: {error}") from error
        yield _as_wanted(page, settings)


def _noted(pages: Iterable[ImageContent], notes: dict[str, None]) -> Iterator[ImageContent]:
    """Yields pages and gathers their notes."""
    for page in pages:
        notes.update(dict.fromkeys(each for each in page.notes if each != FIRST_OF_SEVERAL))
        yield page


def _write_view(path: Path, before: Pixels, after: Pixels, part: str) -> str:
    view, scale = residual_image(before, after)
    write_image_file(path, ImageContent(pixels=view, format="PNG", lossless=True, metadata=Metadata()))
    return (
        f"{path.name} shows what was removed{part}: nothing at 128, {scale:.3g} grey levels at 255, minus "
        "that at 1"
    )
