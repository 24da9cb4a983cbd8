"""Parses the commands that pages show."""

import typer

from steadylens.cli.main import app


def parse(words: list[str]) -> None:
    """Parses a command line with all its options and values, and runs nothing."""
    command = typer.main.get_command(app)
    while words and words[0] in (subcommands := getattr(command, "commands", {})):
        command, words = subcommands[words[0]], words[1:]
    assert not getattr(command, "commands", {}), f"{words} is no whole command"
    command.make_context(str(command.name), words)
