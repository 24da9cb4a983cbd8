"""The command that restores image files."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from steadylens.cli.console import Debug, Device, Display, device_named, explaining, say
from steadylens.errors import ImageError, SettingError, StorageError, lacks_memory
from steadylens.files import describe_suffixes
from steadylens.progress import Update

if TYPE_CHECKING:
    from steadylens.inference.image_files import RestoreJob, RestorePlan
    from steadylens.inference.restorer import Restorer


STAGE = "restoring"
"""What the progress bar calls the work."""

STEPS_PER_FILE = 1000
"""How finely the progress bar divides one file."""


class ImageFormatName(StrEnum):
    """The image formats that can be written, by name."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"
    ppm = "ppm"


class EngineName(StrEnum):
    """The engines that can be chosen, by name."""

    torch = "torch"
    fastest = "fastest"


def restore(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Subfolders of an input folder are created in it, too.")
    ] = None,
    net: Annotated[
        str,
        typer.Option(
            help="The restorer: a packaged net (l11-gtsrb, l5-gtsrb, l3-gtsrb) or a .safetensors file."
        ),
    ] = "l11-gtsrb",
    pattern: Annotated[
        bool,
        typer.Option("--pattern", help="Also write an image of what was removed, as NAME.pattern.png."),
    ] = False,
    format_name: Annotated[
        ImageFormatName | None,
        typer.Option("--format", help="Format to write; by default, the format of each input file."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that already exist in --out.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the input files instead of writing to --out.")
    ] = False,
    max_megapixels: Annotated[
        float,
        typer.Option(help="Refuse images with more megapixels. Raise this only for files that you trust."),
    ] = 200,
    tile: Annotated[
        int | None,
        typer.Option(help="Height and width in pixels of the tiles that images are processed in."),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="torch: PyTorch. fastest: time PyTorch, ONNX Runtime and OpenVINO for some seconds, then "
            "use the fastest."
        ),
    ] = EngineName.torch,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Restore image files of any size, keeping their bit depth, alpha channel and metadata."""
    with explaining(debug):
        if (out is None) is not in_place:
            raise SettingError("give either --out with a folder, or --in-place")
        if in_place and format_name is not None:
            raise SettingError("--format writes new files, but --in-place replaces the old ones; use --out")
        if not 0 < max_megapixels < math.inf:
            raise SettingError(f"--max-megapixels is {max_megapixels}, it must be positive and finite")
        from steadylens.images.writing import WRITABLE_FORMATS
        from steadylens.inference.image_files import plan_jobs, restore_file
        from steadylens.inference.restorer import restorer_of

        wanted = None if format_name is None else format_name.value.upper()
        suffix = None if wanted is None else WRITABLE_FORMATS[wanted].suffix
        plan = plan_jobs(paths, out, suffix=suffix, view=pattern)
        restorer = restorer_of(net, tile=tile, device=device_named(device))
        if engine is EngineName.fastest:
            restorer = _in_fastest_engine(restorer)
        free = [each for each in plan.jobs if overwrite or not _is_taken(each, in_place=in_place)]
        run = partial(restore_file, restorer=restorer, format=wanted, most_pixels=int(max_megapixels * 1e6))
        failures = _restore_all(free, run)
        _conclude(plan, len(plan.jobs) - len(free), failures)


def _in_fastest_engine(restorer: "Restorer") -> "Restorer":
    """Returns the restorer with its net in the fastest engine, and prints which one that is."""
    from steadylens.inference.engines import fastest_engine

    timing = fastest_engine(restorer.engine)  # type: ignore[arg-type]  # a net, since it was loaded by name
    say(f"engine: {timing}")
    return replace(restorer, engine=timing.engine)


def _is_taken(job: "RestoreJob", *, in_place: bool) -> bool:
    return any(path.exists() for path in job.written if not (in_place and path == job.target))


def _restore_all(jobs: "Sequence[RestoreJob]", run: "partial[tuple[str, ...]]") -> list[str]:
    """Restores the files one after another and returns an error message for each that failed."""
    failures: list[str] = []
    total = STEPS_PER_FILE * len(jobs)
    with _progress_bar(total) as display:
        for number, job in enumerate(jobs):

            def advance(done: int, tiles: int, first: int = STEPS_PER_FILE * number) -> None:
                done = first + STEPS_PER_FILE * done // tiles
                display.show(Update(stage=STAGE, state="advanced", done=done, total=total))

            try:
                notes = run(job, progress=advance)
            except (ImageError, StorageError) as error:
                failures.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
            except (MemoryError, RuntimeError) as error:
                if not lacks_memory(error):
                    raise
                failures.append(f"{job.source}: memory ran out; give a smaller --tile")
            except KeyboardInterrupt:
                done = number - len(failures)
                display.console.print(
                    f"steadylens: interrupted; {done} restored, the other files are unchanged"
                )
                raise typer.Exit(1) from None
            else:
                for note in notes:
                    display.console.print(
                        f"  {job.source}: {note}", markup=False, highlight=False, soft_wrap=True
                    )
    return failures


@contextmanager
def _progress_bar(total: int) -> Iterator[Display]:
    with Display(Console()) as display:
        if total:
            display.show(Update(stage=STAGE, state="started", total=total))
        yield display
        if total:
            display.show(Update(stage=STAGE, state="finished"))


def _conclude(plan: "RestorePlan", taken: int, failures: Sequence[str]) -> None:
    count = len(plan.jobs)
    say(f"restored {count - taken - len(failures)} of {count} images")
    if taken:
        say(f"skipped {taken} whose output already exists; --overwrite replaces it")
    if plan.others:
        left_out = describe_suffixes(Counter(path.suffix.lower() for path in plan.others))
        say(f"ignored files of other formats: {left_out}")
    if problems := [*plan.unread, *failures]:
        error = Console(stderr=True)
        error.print(f"steadylens: {len(problems)} could not be restored:", highlight=False)
        for line in problems:
            error.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
