"""The command line: the commands of the other modules under one name."""

import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from steadylens.cli.classifiers import compare, fuse
from steadylens.cli.deploy import export, serve, serve_page
from steadylens.cli.paper import evaluate, report, reproduce, train_one_classifier, train_one_restorer
from steadylens.cli.restore import restore

app = typer.Typer(
    name="steadylens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

train = typer.Typer(help="Train one net.", no_args_is_help=True)


train.command("restorer")(train_one_restorer)


train.command("classifier")(train_one_classifier)


app.command()(reproduce)


app.add_typer(train, name="train")


for command in (fuse, compare, evaluate, report):
    app.command()(command)


app.command()(restore)


app.command()(serve)


app.command()(export)


app.command("app")(serve_page)


def main() -> None:
    """Runs the command line; a call that it cannot parse gets one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        _refuse(error)
        code = error.exit_code
    sys.exit(code)


def _refuse(error: typer.TyperException) -> None:
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text.replace(": Value error, ", ": ", 1)  # how the library that checks values begins
    if not text:  # the help itself was asked for, by giving nothing
        return
    Console(stderr=True).print(
        f"steadylens: {text}; --help lists what there is", markup=False, highlight=False, soft_wrap=True
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"steadylens {version('steadylens')}", highlight=False)
        raise typer.Exit


@app.callback()
def steadylens(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Put a restoration ConvNet in front of an image classifier, and measure how much steadier it is."""
