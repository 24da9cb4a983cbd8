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

STEPS_A_FILE = 1000


class FormatName(StrEnum):
    """The formats that can be written, by name."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"
    ppm = "ppm"


class EngineName(StrEnum):
    """What the net may run in."""

    torch = "torch"
    fastest = "fastest"


def restore(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; folders are mirrored below it.")
    ] = None,
    net: Annotated[
        str, typer.Option(help="A packaged restorer, as l11-gtsrb or l3-gtsrb, or a .safetensors file.")
    ] = "l11-gtsrb",
    pattern: Annotated[
        bool, typer.Option("--pattern", help="Write what was removed beside NAME, as NAME.pattern.png.")
    ] = False,
    format_name: Annotated[
        FormatName | None, typer.Option("--format", help="Format to write; by default that of each file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are in --out already.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the files themselves, instead of --out.")
    ] = False,
    max_megapixels: Annotated[
        float, typer.Option(help="Refuse an image of more; raise it for files that you trust.")
    ] = 200,
    tile: Annotated[
        int | None, typer.Option(help="Side of the tiles that the net sees; by default what runs fast.")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="fastest tries PyTorch, ONNX Runtime and OpenVINO for some seconds and says which it takes."
        ),
    ] = EngineName.torch,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Restore image files of any size, with all of their bits, their alpha and their metadata."""
    with explaining(debug):
        if (out is None) is not in_place:
            raise SettingError("give either --out with a folder, or --in-place")
        if in_place and format_name is not None:
            raise SettingError("--format makes new files, which --in-place does not; use --out")
        if not 0 < max_megapixels < math.inf:
            raise SettingError(f"--max-megapixels is {max_megapixels}, it must be positive and finite")
        from steadylens.images.writing import WRITABLE_FORMATS
        from steadylens.inference.image_files import plan_jobs, restore_file
        from steadylens.inference.restorer import restorer_of

        kind = None if format_name is None else format_name.value.upper()
        suffix = None if kind is None else WRITABLE_FORMATS[kind].suffix
        plan = plan_jobs(paths, out, suffix=suffix, view=pattern)
        restorer = restorer_of(net, tile=tile, device=device_named(device))
        if engine is EngineName.fastest:
            restorer = _raced(restorer)
        free = [each for each in plan.jobs if overwrite or not _is_taken(each, in_place=in_place)]
        run = partial(restore_file, restorer=restorer, format=kind, most_pixels=int(max_megapixels * 1e6))
        failures = _restore_all(free, run)
        _conclude(plan, len(plan.jobs) - len(free), failures)


def _raced(restorer: "Restorer") -> "Restorer":
    """Returns the restorer with its net in the fastest engine that is there, and names it."""
    from steadylens.inference.autotune import fastest_engine

    race = fastest_engine(restorer.engine)  # type: ignore[arg-type]  # a net, for it came by its name
    say(f"engine: {race}")
    return replace(restorer, engine=race.engine)


def _is_taken(job: "RestoreJob", *, in_place: bool) -> bool:
    return any(path.exists() for path in job.written if not (in_place and path == job.target))


def _restore_all(jobs: "Sequence[RestoreJob]", run: "partial[tuple[str, ...]]") -> list[str]:
    """Restores files one after another and returns why some could not be."""
    failures: list[str] = []
    total = STEPS_A_FILE * len(jobs)
    with _shown(total) as display:
        for number, job in enumerate(jobs):

            def advance(done: int, tiles: int, first: int = STEPS_A_FILE * number) -> None:
                done = first + STEPS_A_FILE * done // tiles
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
                    f"steadylens: interrupted; {done} restored, the others are as they were"
                )
                raise typer.Exit(1) from None
            else:
                for note in notes:
                    display.console.print(
                        f"  {job.source}: {note}", markup=False, highlight=False, soft_wrap=True
                    )
    return failures


@contextmanager
def _shown(total: int) -> Iterator[Display]:
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
        say(f"{taken} were there already and stay as they are; --overwrite makes them again")
    if plan.others:
        kinds = describe_suffixes(Counter(path.suffix.lower() for path in plan.others))
        say(f"left out, as of no format that is read here: {kinds}")
    if problems := [*plan.unread, *failures]:
        error = Console(stderr=True)
        error.print(f"steadylens: {len(problems)} could not be restored:", highlight=False)
        for line in problems:
            error.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
