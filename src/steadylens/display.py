"""Shows how far a run is: a live bar with the time left on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

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

SECONDS_BETWEEN_LINES = 15.0


class News(Protocol):
    """What a stage tells, as `steadylens.run.Update` has it."""

    @property
    def stage(self) -> str:
        """The stage's name."""

    @property
    def state(self) -> str:
        """started, resumed, advanced, skipped or finished."""

    @property
    def done(self) -> int:
        """How much is done."""

    @property
    def total(self) -> int:
        """How much there is."""

    @property
    def note(self) -> str:
        """What there is to tell."""


class Display:
    """Shows the news of stages, one after another; use it as a context.

    Args:
        console: Where to show them.
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
        """Begins to show bars."""
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bars away."""
        self.bars.stop()

    def show(self, news: News) -> None:
        """Shows what a stage tells."""
        match news.state:
            case "started":
                self._begin(news)
            case "resumed":
                self._begin(news)
                self._say(news.stage, f"goes on from step {news.done:,} of {news.total:,}")
            case "advanced":
                self._advance(news)
            case "skipped":
                self._say(news.stage, f"skipped: {news.note}")
            case "finished":
                self._say(news.stage, ", ".join(filter(None, [self._end(), news.note])))

    def _begin(self, news: News) -> TaskID:
        self._started = self._told = time.monotonic()
        self._first_done = news.done
        self._task = self.bars.add_task(news.stage, total=news.total or None, completed=news.done)
        return self._task

    def _advance(self, news: News) -> None:
        task = self._task if self._task is not None else self._begin(news)
        self.bars.update(task, completed=news.done, total=news.total)
        now = time.monotonic()
        done = news.done - self._first_done
        if not self.console.is_terminal and now - self._told >= SECONDS_BETWEEN_LINES and done > 0:
            left = (now - self._started) / done * (news.total - news.done)
            self._say(news.stage, f"{news.done / news.total:.0%}, {_clock(left)} left")
            self._told = now

    def _end(self) -> str:
        """Takes the bar away and returns how long it stood; nothing for a stage that has not begun."""
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
