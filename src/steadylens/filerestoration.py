"""Restores one image file into another: all of its bits, its metadata, and what was removed beside it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from steadylens.acceleration import ProgressCallback
from steadylens.errors import ImageError
from steadylens.imagefiles import ImageContent, read_image_file
from steadylens.imagewriting import write_image_file
from steadylens.inference import restore_array
from steadylens.levels import Levels
from steadylens.metadata import Metadata
from steadylens.removal import removal_view


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


def _write_view(path: Path, before: Levels, after: Levels) -> str:
    view, scale = removal_view(before, after)
    write_image_file(path, ImageContent(levels=view, format="PNG", lossless=True, metadata=Metadata()))
    return (
        f"{path.name} shows what was removed: nothing at 128, {scale:.3g} grey levels at 255, minus that at 1"
    )
