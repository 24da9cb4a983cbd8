"""The command that restores image files."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from steadylens.checkpoints.packaged import CAMERA_RESTORER, DEFAULT_RESTORER, RESTORERS_HELP
from steadylens.cli.console import Debug, Device, device_named, explaining, terminated_as_interrupted
from steadylens.cli.display import Display, complain, say
from steadylens.cli.previews import chosen_for_preview, coarse_noise_said, write_previews
from steadylens.errors import SettingError
from steadylens.files import describe_suffixes
from steadylens.progress import Update

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from steadylens.inference.batch import BatchSettings
    from steadylens.inference.jobs import RestoreJob, RestorePlan, Shard
    from steadylens.inference.restorer import Restorer
    from steadylens.inference.results import FileResult, ResultLog


STAGE = "restoring"
"""What the progress bar calls the work."""

STANDARD_OUTPUT = Path("-")

MOST_LINKS = 5
"""How many links to folders are named."""


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
    bfloat16 = "bfloat16"
    fastest = "fastest"


def restore(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, or folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write: a folder, in which subfolders are made as they are in an input folder; for "
            "a single input file also a file, such as new.png, or - for standard output."
        ),
    ] = None,
    net: Annotated[str, typer.Option(help=f"The restorer: {RESTORERS_HELP}.")] = DEFAULT_RESTORER,
    strength: Annotated[
        float,
        typer.Option(
            help="How much of the net's change is made, from 0 (the image stays) to 1 (all of it); for "
            "example 0.7 leaves some grain."
        ),
    ] = 1.0,
    always: Annotated[
        bool,
        typer.Option(
            "--always", help="Also restore images that are judged clean. By default, they stay as they are."
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Only write a picture of a part before and after, as NAME.preview.png where the output "
            "would be, and tell the estimated noise; of several files, for up to four.",
        ),
    ] = False,
    pattern: Annotated[
        bool,
        typer.Option("--pattern", help="Also write an image of what was removed, as NAME.pattern.png."),
    ] = False,
    format_name: Annotated[
        ImageFormatName | None,
        typer.Option("--format", help="Format to write; by default, the format of each input file."),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Quality of JPEG and WebP, 1 to 100; WebP is then lossy. By default 95, and WebP lossless "
            "where the input is lossless."
        ),
    ] = None,
    flatten: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR",
            help="Put this colour behind what is transparent, such as white or #ff8800; the output has no "
            "alpha channel then. By default, alpha is kept.",
        ),
    ] = None,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Give each output file the times of its input file.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files that already exist in --out; with --in-place, also restore once more what "
            "was restored in place before.",
        ),
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the input files instead of writing to --out.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Add a line of JSON for each file to this file: its state, the reason, the seconds, the "
            "estimated noise. With --shard 2/8, NAME-2-of-8.jsonl is written instead of NAME.jsonl; see "
            "merge-logs."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Restore only the I-th of N shares of the files, I from 1 to N, so that N processes or "
            "machines share them. By default, the tasks of a SLURM job array do so; 1/1 restores all files.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="How many files are restored at a time, by as many processes; each holds an image."
        ),
    ] = 1,
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
            help="torch: PyTorch. bfloat16: PyTorch in bfloat16, several times as fast where the processor "
            "has instructions for it; it costs 0.01 dB. fastest: time PyTorch, ONNX Runtime and OpenVINO "
            "for some seconds, then use the fastest."
        ),
    ] = EngineName.torch,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Restore image files of any size, keeping their bit depth, alpha channel and metadata."""
    with explaining(debug), terminated_as_interrupted():
        if (out is None) is not in_place and not (preview and out is None):
            raise SettingError("give either --out with a folder or a file, or --in-place")
        if preview and out == STANDARD_OUTPUT:
            raise SettingError("--preview writes a file, not to standard output; name a folder by --out")
        if in_place and format_name is not None:
            raise SettingError("--format writes new files, but --in-place replaces the old ones; use --out")
        if not 0 < max_megapixels < float("inf"):
            raise SettingError(f"--max-megapixels is {max_megapixels}, it must be positive and finite")
        if log is not None:
            _check_log(log, out)
        from steadylens.inference.batch import BatchSettings
        from steadylens.inference.image_files import RestoreSettings
        from steadylens.inference.results import InPlaceHistory, ResultLog

        share, origin = _share(shard, paths)
        files = RestoreSettings(
            format=_format(format_name, out),
            quality=quality,
            background=None if flatten is None else _colour(flatten),
            keep_times=keep_times,
            most_pixels=int(max_megapixels * 1e6),
            always=always,
        )
        settings = BatchSettings(files=files, processes=jobs, overwrite=overwrite)
        with _planned(paths, out, files.format, pattern=pattern, shard=share) as (plan, console):
            if share.count > 1 or origin:
                say(f"shard {share}{origin}: {len(plan.jobs):,} of {plan.found:,} images", console)
            opening = partial(_opened, net, tile, device_named(device), strength, engine)
            if preview:
                chosen = chosen_for_preview(plan, overwrite=overwrite)
                write_previews(plan, chosen, opening(tell=partial(say, console=console)), files, console)
                return
            restorer = opening(tell=partial(say, console=console))
            if in_place:
                history = InPlaceHistory.opened(log=log, forget=overwrite, shard=share)
                settings = replace(settings, history=history)
            with nullcontext() if log is None else ResultLog(log, share) as results:
                task = _Task(settings=settings, console=console, log=results)
                task.run(plan, opening if jobs > 1 else lambda: restorer)
                task.conclude(plan)


def merge_logs(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="The log to write, as it was given to restore with --log.")
    ],
    debug: Debug = False,
) -> None:
    """Merge the logs of all shards of restore into one, and check that they are complete."""
    with explaining(debug):
        from steadylens.inference.results import merge_logs as merged_logs

        merged = merged_logs(log)
        states = Counter(result.state for result in merged.results)
        names = ("restored", *(("clean",) if states["clean"] else ()), "skipped", "failed")
        counts = ", ".join(f"{states[state]:,} {state}" for state in names)
        number = f"{len(merged.results):,} images"
        say(f"merged the logs of all {len(merged.logs)} shards into {log}: {number}, {counts}")


def _share(text: str | None, paths: list[Path]) -> tuple["Shard", str]:
    """Returns the share of the files that is wanted, and a phrase that says so if nobody asked for it."""
    from steadylens.inference.jobs import Shard

    if text is not None:
        return Shard.parse(text), ""
    of_task = Shard.of_slurm(os.environ)
    if of_task is None or (len(paths) == 1 and not paths[0].is_dir()):  # one file is not shared
        return Shard(), ""
    return of_task, " (this task of a SLURM array; --shard 1/1 restores all)"


def _format(name: ImageFormatName | None, out: Path | None) -> str | None:
    """Returns the format to write, as --format or the ending of the output file says."""
    from steadylens.inference.jobs import format_named

    wanted = None if name is None else name.value.upper()
    named = None if out in (None, STANDARD_OUTPUT) else format_named(out)
    if wanted is not None and named is not None and wanted != named:
        raise SettingError(
            f"--out {out} ends like {named}, and --format is {name}; leave out --format, or rename"
        )
    return wanted or named


def _check_log(log: Path, out: Path | None) -> None:
    """Refuses a log that would be a file called "-", or lie in a folder that a slip of the pen would make."""
    if log == STANDARD_OUTPUT:
        raise SettingError("--log - is no file; name one, such as log.jsonl")
    if not log.parent.is_dir() and (out is None or out not in log.parents):
        raise SettingError(f"--log {log}: there is no folder {log.parent}; make it first, or name another")


def _colour(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue, *opacity = ImageColor.getrgb(text)
    except ValueError:
        opacity = [0]
    if opacity:
        raise SettingError(f"--flatten is {text!r}, it must be an opaque colour, such as white or #ff8800")
    return red, green, blue


@contextmanager
def _planned(
    paths: list[Path], out: Path | None, format_name: str | None, *, pattern: bool, shard: "Shard"
) -> Iterator[tuple["RestorePlan", Console]]:
    """Yields what to restore and where messages go, then copies a result that is for standard output."""
    from steadylens.images.writing import WRITABLE_FORMATS
    from steadylens.inference.jobs import format_named, plan_jobs

    if out != STANDARD_OUTPUT:
        one_file = out is not None and format_named(out) is not None
        suffix = None if format_name is None or one_file else WRITABLE_FORMATS[format_name].suffix
        yield plan_jobs(paths, out, suffix=suffix, view=pattern, shard=shard), Console()
        return
    if pattern or len(paths) > 1 or paths[0].is_dir() or shard.count > 1:
        raise SettingError("--out - writes one image; name one input file, without --pattern or --shard")
    if sys.stdout.isatty():
        raise SettingError("--out - would write an image to the terminal; send it to a file or a program")
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_jobs(paths, Path(folder))
        yield plan, Console(stderr=True)
        with plan.jobs[0].target.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _opened(
    net: str,
    tile: int | None,
    device: "torch.device",
    strength: float,
    engine: EngineName,
    tell: "Callable[[str], None]" = lambda line: None,
) -> "Restorer":
    """Returns the restorer in that engine, and tells which one is the fastest if asked for it."""
    import torch

    from steadylens.inference.engines import fastest_engine
    from steadylens.inference.restorer import restorer_of

    dtype = torch.bfloat16 if engine is EngineName.bfloat16 else torch.float32
    restorer = restorer_of(net, tile=tile, device=device, strength=strength, dtype=dtype)
    if engine is not EngineName.fastest:
        return restorer
    timing = fastest_engine(restorer.engine)  # type: ignore[arg-type]  # a net, since it was loaded by name
    tell(f"engine: {timing}")
    return replace(restorer, engine=timing.engine)


@dataclass(kw_only=True)
class _Task:
    """Restores files and tells what becomes of them.

    Attributes:
        settings: How they are restored.
        console: Where messages go that are no errors.
        log: The log of results, or None.
        states: How many files were restored, were clean, failed, were skipped, had an output that exists
            ("taken"), or had one that lacks its pattern, or the other way round ("half").
        coarse: How many of the restored files have coarse noise, for which there is another net.
    """

    settings: "BatchSettings"
    console: Console
    log: "ResultLog | None"
    states: Counter[str] = field(default_factory=Counter)
    coarse: int = 0

    def run(self, plan: "RestorePlan", opening: "Callable[[], Restorer]") -> None:
        """Restores all files whose output is not there yet."""
        from steadylens.inference.batch import restore_files, skipped_for_output

        if self.log is not None:
            self.log.start(len(plan.jobs))
        free: list[RestoreJob] = []
        for job in plan.jobs:
            if (skipped := skipped_for_output(job, self.settings)) is None:
                free.append(job)
            else:
                self._tell(skipped)
        if not free:
            return
        with Display(self.console) as display:
            begun = False

            def advance(done: int, total: int) -> None:
                nonlocal begun
                state: Literal["started", "advanced"] = "advanced" if begun else "started"
                display.show(Update(stage=STAGE, state=state, done=done, total=total))
                begun = True

            try:
                with closing(
                    restore_files(free, opening, settings=self.settings, progress=advance)
                ) as results:
                    for result in results:
                        self._tell(result)
            except KeyboardInterrupt:
                self._interrupted(len(plan.jobs))
                raise typer.Exit(1) from None
            if begun:
                display.show(Update(stage=STAGE, state="finished"))

    def _tell(self, result: "FileResult") -> None:
        from steadylens.inference.batch import DONE_BEFORE, OUTPUT_EXISTS
        from steadylens.inference.inspecting.noise_level import NoiseLevel

        kinds = {"": result.state, DONE_BEFORE: "skipped", OUTPUT_EXISTS: "taken"}
        self.states[kinds.get(result.reason if result.state == "skipped" else "", "half")] += 1
        self.coarse += result.state == "restored" and result.coarse_noise
        self._write(result)
        if result.state in ("restored", "clean") and result.noise_grey is not None:
            level = NoiseLevel(
                grey=result.noise_grey,
                coarse_grey=result.coarse_noise_grey,
                # A result has no number of its own for it; this one is as large as coarse noise must be.
                camera_grey=result.coarse_noise_grey if result.coarse_noise else None,
            )
            said = f"clean ({level}), not restored" if result.state == "clean" else f"{level}"
            say(f"  {result.file}: {said}", self.console)
        for note in result.notes:
            say(f"  {result.file}: {note}", self.console)
        if result.state == "failed":
            named = result.file in result.reason
            complain(result.reason if named else f"{result.file}: {result.reason}")

    def _write(self, result: "FileResult") -> None:
        if self.log is not None:
            self.log.write(replace(result, target="-") if self.console.stderr else result)

    def _interrupted(self, count: int) -> None:
        left = count - self.states.total()
        clean = f"{self.states['clean']} clean, " if self.states["clean"] else ""
        again = self.settings.overwrite
        same = "the same command without --overwrite" if again else "the same command"
        complain(
            f"interrupted; {self.states['restored']} restored, {clean}{self.states['failed']} failed, {left} "
            f"unchanged; {same} goes on with those that are left"
        )

    def _better_for_coarse_noise(self) -> str:
        if self.console.stderr:  # standard output gets no file
            return f"--net {CAMERA_RESTORER} is for such files"
        if self.settings.history is not None:
            return f"restore the originals of these with --net {CAMERA_RESTORER}"
        return f"restore these once more with --net {CAMERA_RESTORER} --overwrite"

    def conclude(self, plan: "RestorePlan") -> None:
        """Tells how many files were restored, and what was passed over.

        Raises:
            typer.Exit: If something could not be restored.
        """
        tell = partial(say, console=self.console)
        tell(f"restored {self.states['restored']} of {len(plan.jobs)} images")
        if self.coarse:
            tell(f"{coarse_noise_said(self.coarse)}; {self._better_for_coarse_noise()}")
        if clean := self.states["clean"]:
            options = "--always" if self.settings.history is not None else "--always with --overwrite"
            tell(f"left {clean} as they are, judged clean; {options} restores them")
        if taken := self.states["taken"]:
            tell(f"skipped {taken} whose output already exists; --overwrite replaces it")
        if half := self.states["half"]:
            complain(
                f"skipped {half} whose output or pattern exists without the other; --overwrite makes both"
            )
        if done := self.states["skipped"]:
            tell(f"skipped {done} that were restored in place before; --overwrite restores them once more")
        if plan.others:
            left_out = describe_suffixes(Counter(path.suffix.lower() for path in plan.others))
            tell(f"ignored files of other formats: {left_out}")
        if plan.linked:
            names = ", ".join(map(str, plan.linked[:MOST_LINKS]))
            more = " and others" if len(plan.linked) > MOST_LINKS else ""
            tell(f"links to folders are not followed: {names}{more}; name a folder to restore what it holds")
        for line in plan.unread:
            complain(line)
        if problems := self.states["failed"] + self.states["half"] + len(plan.unread):
            complain(f"{problems} could not be restored, as said above")
            raise typer.Exit(1)
