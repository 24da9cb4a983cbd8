"""The command line: brings the commands of the other modules together."""

import io
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from steadylens.cli.classifiers import certify, compare
from steadylens.cli.deploy import export, serve, serve_page
from steadylens.cli.display import complain, say, several
from steadylens.cli.fusing import fuse
from steadylens.cli.paper import evaluate, report, reproduce, train_one_classifier, train_one_restorer
from steadylens.cli.restore import merge_logs, restore

app = typer.Typer(
    name="steadylens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

train = typer.Typer(help="Train a restoration net or a classifier.", no_args_is_help=True)
train.command("restorer")(train_one_restorer)
train.command("classifier")(train_one_classifier)

for command in (restore, merge_logs, compare, certify, fuse, export, serve):
    app.command()(command)
app.command("app")(serve_page)
app.add_typer(train, name="train")
for command in (evaluate, reproduce, report):
    app.command()(command)


def main() -> None:
    """Runs the command line. A call that cannot be parsed gets a one-line message and exit code 2.

    If whoever reads the output stops reading, as `head` does, the command ends quietly with exit code 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain bytes that are no text
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        code = 1
    except typer.TyperException as error:
        _refuse(error)
        code = error.exit_code
    sys.exit(code)


def _drop_output() -> None:
    """Sends what is still to be written nowhere, or Python would complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _refuse(error: typer.TyperException) -> None:
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text.replace(": Value error, ", ": ", 1)  # a prefix of the library that checks values
    if not text:  # a call without a command has printed the help
        return
    complain(f"{text}; --help lists what there is")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"steadylens {version('steadylens')}")
        raise typer.Exit


SHARED = ("compare", "certify", "fuse", "train", "evaluate", "reproduce")
"""The commands whose work several workers share."""


@app.callback()
def steadylens(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Restore noisy images with a small neural net, alone or in front of an image classifier."""
    command = context.invoked_subcommand
    if several() and command not in (None, *SHARED):
        advice = "; to share images among jobs, give each a part with --shard" if command == "restore" else ""
        raise typer.BadParameter(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, so torchrun has started several workers, but "
            f"{command} runs in a single process; start it without torchrun, or unset WORLD_SIZE{advice}"
        )
