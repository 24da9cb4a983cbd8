"""The display shows every stage on a terminal and elsewhere, and what it says of the time is honest.

Text is printed as it is.
"""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from steadylens.cli import display as display_module
from steadylens.cli.display import Display, printable, say
from steadylens.progress import Update

DAYS = 93_000.0
"""What the clock shows at the start: it may run since long."""


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = DAYS

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def shown(tell: Callable[[Display], None], *, terminal: bool = False) -> str:
    """Returns what is written while `tell` tells the display what happens."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with Display(console) as some:
        tell(some)
    return file.getvalue()


def test_a_skipped_stage_says_why() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="restorer L5", state="skipped", note="trained before"))

    assert shown(tell) == "  restorer L5: skipped: trained before\n"


def test_a_note_on_a_stage_is_shown_as_one() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="accuracy", state="noted", note="no better than a guess"))

    assert shown(tell) == "  accuracy: note: no better than a guess\n"


def test_a_finished_stage_says_how_long_it_took_and_what_came_out(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="restorer L5", state="started", total=10))
        clock.now += 3_723
        some.show(Update(stage="restorer L5", state="finished", note="30 dB"))

    assert shown(tell) == "  restorer L5: 1:02:03, 30 dB\n"


def test_a_stage_without_a_note_says_its_time_alone(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="cost", state="started"))
        clock.now += 65
        some.show(Update(stage="cost", state="finished"))

    assert shown(tell) == "  cost: 1:05\n"


def test_a_stage_that_never_began_is_given_no_time(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="images", state="finished", note="10 images"))
        clock.now += 60
        some.show(Update(stage="others", state="finished", note="20 images"))

    assert shown(tell) == "  images: 10 images\n  others: 20 images\n"


def test_a_resumed_stage_says_where_it_continues() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="classifier", state="resumed", done=1_500, total=2_000))

    assert shown(tell) == "  classifier: continues after step 1,500 of 2,000\n"


def test_the_time_left_rests_on_what_was_done_since_the_start(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="classifier", state="started", total=100))
        clock.now += 20
        some.show(Update(stage="classifier", state="advanced", done=25, total=100))

    assert shown(tell) == "  classifier: 25%, 1:00 left\n"


def test_the_time_left_after_a_resume_does_not_count_the_steps_before_it(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="classifier", state="resumed", done=50, total=100))
        clock.now += 20
        some.show(Update(stage="classifier", state="advanced", done=60, total=100))

    assert shown(tell).splitlines()[1] == "  classifier: 60%, 1:20 left"


def test_lines_come_no_faster_than_they_can_be_read(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="classifier", state="started", total=100))
        for done in range(1, 101):
            clock.now += 1
            some.show(Update(stage="classifier", state="advanced", done=done, total=100))

    lines = shown(tell).splitlines()
    assert len(lines) == 6
    assert lines[0] == "  classifier: 15%, 1:25 left"


def test_a_stage_may_advance_without_having_started(clock: Clock) -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="images", state="advanced", done=10, total=100))
        clock.now += 15
        some.show(Update(stage="images", state="advanced", done=40, total=100))
        some.show(Update(stage="images", state="finished"))

    assert shown(tell) == "  images: 40%, 0:30 left\n  images: 0:15\n"


def test_a_terminal_shows_a_bar_and_no_lines_in_between() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="classifier", state="started", total=4))
        some.show(Update(stage="classifier", state="advanced", done=1, total=4))
        time.sleep(0.01)
        some.bars.refresh()
        some.show(Update(stage="classifier", state="finished", note="done"))

    text = shown(tell, terminal=True)
    assert "classifier" in text
    assert "━" in text
    assert "25%" in text
    assert "25%, " not in text


def test_a_terminal_keeps_the_lines_of_what_is_finished_and_no_bar() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="one", state="started", total=4))
        some.show(Update(stage="one", state="finished", note="good"))
        assert not some.bars.tasks

    assert "one: 0:00, good" in shown(tell, terminal=True)


def test_brackets_in_names_are_shown_as_they_are() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage="images of folder:/data/[bold]", state="skipped", note="[red]"))

    assert shown(tell) == "  images of folder:/data/[bold]: skipped: [red]\n"


NAMES = ":cat: [red]x[/red] \x1b[31m \udcff \r é 猫 \u202f \N{CAT}"
SHOWN = r":cat: [red]x[/red] \x1b[31m \udcff \r é 猫 " + "\u202f \N{CAT}"


@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_shown_as_it_is_and_controls_nothing(terminal: bool) -> None:
    assert printable(NAMES) == SHOWN
    assert printable("two\nlines") == "two\nlines"
    assert f"{SHOWN}\n" in shown(lambda some: say(NAMES, some.console), terminal=terminal)


def test_the_name_of_a_stage_is_shown_as_it_is() -> None:
    def tell(some: Display) -> None:
        some.show(Update(stage=NAMES, state="started", total=4))
        some.bars.refresh()
        some.show(Update(stage=NAMES, state="skipped", note=":dog:"))

    text = shown(tell, terminal=True)
    assert text.count(":cat:") >= 2
    assert ":dog:" in text
    assert "\x1b[31m \\udcff" not in text


def test_all_commands_print_by_the_function_that_escapes() -> None:
    package = Path(display_module.__file__).parent
    printing = {
        path.name: len(re.findall(r"\.print\(|\bprint\(|typer\.echo", path.read_text()))
        for path in package.glob("*.py")
    }
    assert {name: count for name, count in printing.items() if count} == {"display.py": 1}
