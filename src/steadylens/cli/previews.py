"""The previews of the command that restores image files."""

from typing import TYPE_CHECKING

import typer
from rich.console import Console

from steadylens.checkpoints.packaged import CAMERA_RESTORER, DEFAULT_RESTORER
from steadylens.cli.display import complain, say
from steadylens.errors import ImageError, SettingError

if TYPE_CHECKING:
    from steadylens.inference.image_files import RestoreSettings
    from steadylens.inference.jobs import RestoreJob, RestorePlan
    from steadylens.inference.restorer import Restorer

MOST_PREVIEWS = 4
"""How many of several files get a preview."""


def chosen_for_preview(plan: "RestorePlan", *, overwrite: bool) -> "list[RestoreJob]":
    """Returns the few files that get a preview, evenly spread over all.

    Raises:
        SettingError: If a preview would replace an input file, or exists and may not be replaced.
    """
    count = min(MOST_PREVIEWS, len(plan.jobs))
    chosen = [plan.jobs[number * len(plan.jobs) // count] for number in range(count)]
    sources = {job.source.resolve() for job in plan.jobs}
    for job in chosen:
        if job.preview.resolve() in sources:
            raise SettingError(
                f"{job.preview} would be written over an input file; rename that, or use --out"
            )
        if job.preview.exists() and not overwrite:
            raise SettingError(f"{job.preview} exists; --overwrite replaces it")
    return chosen


def write_previews(
    plan: "RestorePlan",
    chosen: "list[RestoreJob]",
    restorer: "Restorer",
    settings: "RestoreSettings",
    console: Console,
) -> None:
    """Writes previews and tells the noise of their files; no other file is written.

    Raises:
        typer.Exit: If a file cannot be read.
    """
    from steadylens.inference.inspecting.preview import WHITE, write_preview

    failed = coarse = 0
    for job in chosen:
        try:
            found = write_preview(
                job.source, job.preview, restorer,
                background=settings.background or WHITE, most_pixels=settings.most_pixels,
            )  # fmt: skip
        except ImageError as error:
            failed += 1
            complain(f"{error}" if str(job.source) in f"{error}" else f"{job.source}: {error}")
            continue
        coarse += found.level.coarse
        stays = found.level.clean and not settings.always
        judged = f"clean ({found.level}), it would stay as it is" if stays else f"{found.level}"
        say(f"{job.source}: {judged}", console)
        place = f"{found.width}x{found.height} pixels at left {found.left}, top {found.top}"
        say(f"  {job.preview} shows {place}, before and after", console)
    if coarse:
        say(f"{coarse_noise_said(coarse)}; --net {CAMERA_RESTORER} is for such files", console)
    others = len(plan.jobs) - len(chosen)
    more = f"; {others:,} other images are not shown, name some to see them" if others else ""
    say(f"wrote {len(chosen) - failed} previews, and no other file{more}", console)
    if failed:
        raise typer.Exit(1)


def coarse_noise_said(count: int) -> str:
    """Returns that so many files have noise that the usual net is not for, as the command says it."""
    files = "1 file has" if count == 1 else f"{count:,} files have"
    return f"{files} coarse noise, as those of cameras do, which {DEFAULT_RESTORER} hardly touches"
