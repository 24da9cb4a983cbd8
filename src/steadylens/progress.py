"""How long work reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ProgressCallback = Callable[[int, int], None]
"""Called with how much of a piece of work is done and how much there is in total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """A progress message about one stage of a piece of work.

    Attributes:
        stage: The stage's name.
        state: What happened to the stage.
        done: How much of the stage is done, in any unit.
        total: How much there is in total, in the same unit; 0 if unknown.
        note: A few words for the user: why the stage was skipped, what it achieved, what to know about its
            result, or, where it is resumed, what it counts if not steps.
    """

    stage: str
    state: Literal["started", "resumed", "advanced", "skipped", "noted", "finished"]
    done: int = 0
    total: int = 0
    note: str = ""


Observer = Callable[[Update], None]
"""Receives every progress message of a piece of work, for example to display it."""


def ignore_progress(update: Update) -> None:
    """Ignores a progress message."""
