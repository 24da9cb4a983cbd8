"""What commands print: progress, and text just as it is."""

import os
import sys
import time
import unicodedata
from types import TracebackType
from typing import Self

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

from steadylens.progress import Update

SECONDS_BETWEEN_LINES = 15.0
"""How often progress is printed where there is no terminal."""


class Display:
    """Shows the progress of stages that run one after another; use it as a context manager.

    A terminal gets a progress bar; elsewhere, a line is printed from time to time. Of several workers, only
    worker 0 shows anything.
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
            disable=not console.is_terminal or not speaks(),
            # What is printed elsewhere meanwhile goes above the bar, but only to where it belongs.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
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
                unit = update.note or "step"
                self._say(update.stage, f"continues after {unit} {update.done:,} of {update.total:,}")
            case "advanced":
                self._advance(update)
            case "skipped":
                self._say(update.stage, f"skipped: {update.note}")
            case "noted":
                self._say(update.stage, f"note: {update.note}")
            case "finished":
                self._say(update.stage, ", ".join(filter(None, [self._end(), update.note])))

    def _begin(self, update: Update) -> TaskID:
        self._started = self._told = time.monotonic()
        self._first_done = update.done
        self._task = self.bars.add_task(
            printable(update.stage), total=update.total or None, completed=update.done
        )
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
        say(f"  {stage}: {text}", self.console)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def several() -> bool:
    """Whether this process is one of several workers that `torchrun` started."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")  # without an import of PyTorch


def speaks() -> bool:
    """Whether this process prints: of several workers, worker 0 does."""
    return not several() or os.environ.get("RANK", "0") == "0"


def say(text: str, console: Console | None = None) -> None:
    r"""Prints text as it is: without markup, emoji or colours, and unwrapped. Only worker 0 does.

    Control characters, which a file's name may hold, are printed as escapes such as \x1b.

    Args:
        text: A line, or several.
        console: Where to print it; None means standard output.
    """
    if speaks():
        _print(text, console or Console())


def complain(text: str, *, worker: int = 0) -> None:
    """Prints an error message to standard error; see `say`.

    Args:
        text: The message.
        worker: The worker whose own error it is, which must then print it.
    """
    if worker:
        _print(f"steadylens: worker {worker}: {text}", Console(stderr=True))
    else:
        say(f"steadylens: {text}", Console(stderr=True))


def _print(text: str, console: Console) -> None:
    console.print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Returns text with escapes in the place of control characters and of bytes that are no text."""
    return "".join(
        repr(char)[1:-1] if char != "\n" and unicodedata.category(char) in ("Cc", "Cs") else char
        for char in text
    )
