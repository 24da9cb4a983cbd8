"""Groups of options become single options of a command, and the command gets them back as groups."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from steadylens.cli.options import with_option_groups


@dataclass(frozen=True, kw_only=True)
class Fruit:
    apples: Annotated[int, typer.Option(help="How many apples.")]
    ripe: Annotated[bool, typer.Option("--ripe", help="Only ripe ones.")] = False


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()

    @app.command()
    @with_option_groups
    def buy(
        shop: Annotated[str, typer.Argument()],
        fruit: Fruit,
        bags: Annotated[int, typer.Option(help="How many bags.")] = 1,
    ) -> None:
        """Buy fruit."""
        print(shop, fruit.apples, fruit.ripe, bags)  # noqa: T201

    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_each_field_of_a_group_is_an_option_with_its_default() -> None:
    assert run("market", "--apples", "3") == (0, "market 3 False 1\n")
    assert run("market", "--apples", "3", "--ripe", "--bags", "2") == (0, "market 3 True 2\n")


def test_a_field_without_a_default_is_required() -> None:
    code, output = run("market")
    assert code == 2
    assert "--apples" in output


def test_the_help_shows_the_options_in_the_place_of_the_group() -> None:
    code, output = run("--help")
    assert code == 0
    assert "Buy fruit." in output
    places = [output.index(option) for option in ("--apples", "--ripe", "--bags")]
    assert places == sorted(places)
