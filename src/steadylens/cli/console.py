"""What the commands share: options, error messages, progress, and the run that a command works on."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from steadylens.errors import MissingExtraError, SettingError, SteadylensError, lacks_memory, reason_of
from steadylens.progress import Update

if TYPE_CHECKING:
    import torch

    from steadylens.images.preprocessing import Fit, PreprocessingOptions
    from steadylens.training.run import Run


SECONDS_BETWEEN_LINES = 15.0


class Display:
    """Shows the progress of stages that run one after another; use it as a context manager.

    A terminal gets a progress bar; elsewhere, a line is printed from time to time.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._started = self._told = 0.0
        self._first_done = 0

    def __enter__(self) -> Self:
        """Starts to show progress bars."""
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the progress bars."""
        self.bars.stop()

    def show(self, update: Update) -> None:
        """Shows a progress message."""
        match update.state:
            case "started":
                self._begin(update)
            case "resumed":
                self._begin(update)
                self._say(update.stage, f"goes on from step {update.done:,} of {update.total:,}")
            case "advanced":
                self._advance(update)
            case "skipped":
                self._say(update.stage, f"skipped: {update.note}")
            case "finished":
                self._say(update.stage, ", ".join(filter(None, [self._end(), update.note])))

    def _begin(self, update: Update) -> TaskID:
        self._started = self._told = time.monotonic()
        self._first_done = update.done
        self._task = self.bars.add_task(update.stage, total=update.total or None, completed=update.done)
        return self._task

    def _advance(self, update: Update) -> None:
        task = self._task if self._task is not None else self._begin(update)
        self.bars.update(task, completed=update.done, total=update.total)
        now = time.monotonic()
        done = update.done - self._first_done
        if not self.console.is_terminal and now - self._told >= SECONDS_BETWEEN_LINES and done > 0:
            left = (now - self._started) / done * (update.total - update.done)
            self._say(update.stage, f"{update.done / update.total:.0%}, {_clock(left)} left")
            self._told = now

    def _end(self) -> str:
        """Removes the bar and returns how long the stage took, or an empty text if it never started."""
        if self._task is None:
            return ""
        self.bars.remove_task(self._task)
        self._task = None
        return _clock(time.monotonic() - self._started)

    def _say(self, stage: str, text: str) -> None:
        self.console.print(f"  {stage}: {text}", highlight=False, soft_wrap=True, markup=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RecipeName(StrEnum):
    """The recipes, by name."""

    paper = "paper"
    paper_quarter = "paper-quarter"
    long = "long"
    thorough = "thorough"
    fast = "fast"
    quick = "quick"
    smoke = "smoke"


Data = Annotated[
    str,
    typer.Option(
        help="Where the images come from: signs (drawn, 43 classes), gtsrb:DIR (official archives or the "
        "CSV repackaging) or folder:DIR (one folder a class).",
    ),
]

RecipeOption = Annotated[
    RecipeName,
    typer.Option(
        "--recipe",
        help="long, paper-quarter, paper: for a GPU. thorough: hours on 2 cores. fast: half an hour. "
        "quick: minutes. smoke: seconds.",
    ),
]

Seed = Annotated[int, typer.Option(help="Seed that all randomness is derived from.")]

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")]

Cache = Annotated[
    Path | None, typer.Option(help="Folder for decoded images; by default the user's cache folder.")
]

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Out = Annotated[Path, typer.Option(help="Folder of the run; what it holds already is not made again.")]

File = Annotated[
    Path, typer.Option("--out", help="File to write; if it is there already, nothing is trained.")
]

Versions = Annotated[int | None, typer.Option(help="Noisy versions of each image in Table 4.")]

HalfWidth = Annotated[
    float | None,
    typer.Option(help="Sample each cell of Table 4 until its interval is within +- this share, say 0.001."),
]

ClassifierName = Annotated[
    str,
    typer.Argument(
        help="The classifier: timm:NAME or torchvision:NAME (with --weights), transformers:DIR, the file of "
        "an exported program (.pt2), the file of a net, or the name of a packaged one (sign-gtsrb)."
    ),
]

Weights = Annotated[
    Path | None,
    typer.Option(
        help="Local file of the classifier's weights, for timm and torchvision; nothing is downloaded."
    ),
]

Size = Annotated[
    int | None, typer.Option(help="Pixels of the images' side; by default what the classifier tells.")
]

Mean = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="What the classifier subtracts from R, G and B in [0, 1]; by default what it tells."),
]

Std = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="What it then divides R, G and B by; by default what it tells."),
]

FitOption = Annotated[
    str | None,
    typer.Option(
        "--fit",
        help="How photographs become squares: squash, crop (the centre) or crop:SIDE (of the shorter side "
        "resized to SIDE pixels); by default what the classifier tells.",
    ),
]


@contextmanager
def explaining(debug: bool, *, goes_on: bool = False) -> Iterator[None]:
    """Turns an error that the user can mend into one line and an exit code.

    Args:
        debug: Whether to let it pass as it is.
        goes_on: Whether the command keeps what is done, and goes on from there if it is interrupted.
    """
    try:
        yield
    except SteadylensError as error:
        if debug:
            raise
        Console(stderr=True).print(f"steadylens: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, SettingError | MissingExtraError) else 1) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if debug or (isinstance(error, RuntimeError) and not lacks_memory(error)):
            raise
        if isinstance(error, OSError) and error.filename:
            told = f"{error.filename}: {error.strerror}"
        else:
            told = reason_of(error)
        text = f"{told}; --debug shows where"
        Console(stderr=True).print(f"steadylens: {text}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if debug:
            raise
        console = Console(stderr=True)
        if console.is_terminal:
            console.line()  # the terminal has shown ^C
        further = "the same command goes on from what is saved" if goes_on else "nothing was left half-done"
        console.print(f"steadylens: interrupted; {further}", soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def lent_run(
    data: str,
    recipe: RecipeName,
    seed: int,
    device: str,
    cache: Path | None,
    *,
    size: int = 48,
    fit: "Fit | None" = None,
) -> Iterator["Run"]:
    """Loads the images, squashed or fitted into `size` pixels, and lends a run whose news are shown."""
    from steadylens.data.datasets import load_dataset
    from steadylens.images.preprocessing import Fit
    from steadylens.training.recipes import recipe_named
    from steadylens.training.run import Run

    place, stage = device_named(device), f"images of {data}"
    with Display(Console()) as display:

        def loading(done: int, total: int) -> None:
            display.show(Update(stage=stage, state="advanced", done=done, total=total))

        display.show(Update(stage=stage, state="started"))
        images = load_dataset(data, size=size, fit=fit or Fit(), seed=seed, cache=cache, progress=loading)
        sizes = f"{len(images.train):,} for training, {len(images.validation):,} for validation, "
        note = f"{sizes}{len(images.test):,} for testing"
        display.show(Update(stage=stage, state="finished", note=note))
        for line in images.notes:
            display.console.print(f"  note: {line}", markup=False, highlight=False, soft_wrap=True)
        parts = {name: getattr(images, name).to(place) for name in ("train", "validation", "test")}
        moved = dataclasses.replace(images, **parts)
        yield Run(
            data=moved, recipe=recipe_named(recipe.value), seed=seed, device=place, observe=display.show
        )


def sampled(run: "Run", versions: int | None, half_width: float | None) -> "Run":
    """Returns the run with another number of noisy versions, or another precision, in Table 4."""
    from steadylens.training.settings import Sampling

    usual = run.recipe.evaluation.sampling
    most = versions if versions is not None else (usual.versions if half_width is None else 150)
    sampling = Sampling(versions=most, half_width=half_width if half_width is not None else usual.half_width)
    evaluation = dataclasses.replace(run.recipe.evaluation, sampling=sampling)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, evaluation=evaluation))


def preprocessing_options(
    size: int | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    fit: str | None,
) -> "PreprocessingOptions":
    """Returns what the options of a command say of a classifier's preprocessing."""
    from steadylens.images.preprocessing import Fit, PreprocessingOptions

    return PreprocessingOptions(size=size, mean=mean, std=std, fit=None if fit is None else Fit.parse(fit))


def device_named(name: str) -> "torch.device":
    """Returns the device of that name, or the best one here for auto.

    Raises:
        SettingError: If the device cannot be used.
    """
    import torch

    from steadylens.devices import default_device

    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"there is no device {name!r}; give cpu, cuda, cuda:1 or auto") from error
    try:
        torch.zeros(1, device=device).item()  # a device without storage, as meta, fails here
    except (RuntimeError, AssertionError) as error:
        reason = reason_of(error)
        raise SettingError(f"the device {name!r} cannot be used here ({reason}); try cpu or auto") from error
    return device


def say(text: str) -> None:
    """Prints a line as it is."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
