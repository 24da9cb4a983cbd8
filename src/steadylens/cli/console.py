"""What commands share besides options: error messages, progress display, and the run that they work on."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

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

from steadylens.cli.options import RunOptions, SamplingOptions
from steadylens.errors import MissingExtraError, SettingError, SteadylensError, lacks_memory, reason_of
from steadylens.progress import Update

if TYPE_CHECKING:
    import torch

    from steadylens.images.preprocessing import Fit
    from steadylens.training.run import Run


SECONDS_BETWEEN_LINES = 15.0
"""How often progress is printed where there is no terminal."""

MOST_VERSIONS = 150
"""How many noisy versions of an image are tried at most to reach a precision."""


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
                self._say(update.stage, f"continues from step {update.done:,} of {update.total:,}")
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


@contextmanager
def explaining(debug: bool, *, resumable: bool = False) -> Iterator[None]:
    """Turns an error that the user can fix into one line of text and an exit code.

    Args:
        debug: Whether to raise the error unchanged instead.
        resumable: Whether the same command continues from saved results after an interrupt.
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
            reason = f"{error.filename}: {error.strerror}"
        else:
            reason = reason_of(error)
        text = f"{reason}; --debug shows where"
        Console(stderr=True).print(f"steadylens: {text}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if debug:
            raise
        console = Console(stderr=True)
        if console.is_terminal:
            console.line()  # the terminal has shown ^C
        advice = "run the same command again to continue" if resumable else "no unfinished file was left"
        console.print(f"steadylens: interrupted; {advice}", soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def open_run(options: RunOptions, *, size: int = 48, fit: "Fit | None" = None) -> Iterator["Run"]:
    """Loads the images, squashed or fitted to `size` pixels, and yields a run whose progress is shown."""
    from steadylens.data.datasets import load_dataset
    from steadylens.images.preprocessing import Fit
    from steadylens.training.recipes import recipe_named
    from steadylens.training.run import Run

    device, stage = device_named(options.device), f"images of {options.data}"
    with Display(Console()) as display:

        def loading(done: int, total: int) -> None:
            display.show(Update(stage=stage, state="advanced", done=done, total=total))

        display.show(Update(stage=stage, state="started"))
        images = load_dataset(
            options.data,
            size=size,
            fit=fit or Fit(),
            seed=options.seed,
            cache=options.cache,
            progress=loading,
        )
        sizes = f"{len(images.train):,} for training, {len(images.validation):,} for validation, "
        note = f"{sizes}{len(images.test):,} for testing"
        display.show(Update(stage=stage, state="finished", note=note))
        for line in images.notes:
            display.console.print(f"  note: {line}", markup=False, highlight=False, soft_wrap=True)
        parts = {name: getattr(images, name).to(device) for name in ("train", "validation", "test")}
        yield Run(
            data=dataclasses.replace(images, **parts),
            recipe=recipe_named(options.recipe.value),
            seed=options.seed,
            device=device,
            observe=display.show,
        )


def sampled(run: "Run", options: SamplingOptions) -> "Run":
    """Returns the run with the number of noisy versions, or the precision, that the options ask for."""
    from steadylens.training.settings import Sampling

    usual, half_width = run.recipe.evaluation.sampling, options.half_width
    most = options.versions
    if most is None:
        most = usual.versions if half_width is None else MOST_VERSIONS
    sampling = Sampling(versions=most, half_width=usual.half_width if half_width is None else half_width)
    evaluation = dataclasses.replace(run.recipe.evaluation, sampling=sampling)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, evaluation=evaluation))


def device_named(name: str) -> "torch.device":
    """Returns the device with that name, or for auto a GPU if there is one, else the CPU.

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
        torch.zeros(1, device=device).item()  # fails on a device without storage, such as meta
    except (RuntimeError, AssertionError) as error:
        reason = reason_of(error)
        raise SettingError(f"the device {name!r} cannot be used here ({reason}); try cpu or auto") from error
    return device


def say(text: str) -> None:
    """Prints a line of text, without any markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
