"""Calls the command line, for tests."""

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from steadylens.cli.main import app

MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from steadylens.cli.main import main"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a call left."""

    code: int
    out: str
    err: str
    exception: BaseException | None


def steadylens(*arguments: str | Path) -> Outcome:
    """Runs the command line within this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Outcome(code=result.exit_code, out=result.stdout, err=result.stderr, exception=result.exception)


def run(*arguments: str | Path) -> Outcome:
    """Runs `steadylens restore` within this process."""
    return steadylens("restore", *arguments)
