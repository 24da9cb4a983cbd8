"""Groups of options become single options of a command, and the command gets them back as groups.

Options are checked before images are decoded.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from steadylens.cli.console import (
    NoiseName,
    RecipeName,
    RunOptions,
    SamplingOptions,
    open_run,
    with_option_groups,
)
from steadylens.cli.main import app
from steadylens.data import datasets
from steadylens.training.recipes import recipe_named
from tests.cli.class_folders import write_images


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


@pytest.fixture
def run_options(tmp_path: Path) -> RunOptions:
    source = f"folder:{write_images(tmp_path / 'images')}"
    return RunOptions(data=source, recipe=RecipeName.smoke, device="cpu", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "versions", "half_width"),
    [
        (SamplingOptions(half_width=0.01), 150, 0.01),
        (SamplingOptions(versions=7), 7, None),
        (SamplingOptions(versions=7, half_width=0.01), 7, 0.01),
    ],
)
def test_a_precision_replaces_the_number_of_versions(
    run_options: RunOptions,
    tmp_path: Path,
    options: SamplingOptions,
    versions: int,
    half_width: float | None,
) -> None:
    usual = recipe_named("smoke")
    with open_run(run_options, tmp_path, sampling=options) as run:
        sampling = run.recipe.evaluation.sampling
        assert (sampling.versions, sampling.half_width) == (versions, half_width)
        assert replace(run.recipe, evaluation=usual.evaluation) == usual
    with open_run(run_options, tmp_path, sampling=SamplingOptions()) as run:
        assert run.recipe == usual


def test_kinds_of_noise_replace_the_recipes(run_options: RunOptions, tmp_path: Path) -> None:
    usual = recipe_named("smoke")
    assert usual.evaluation.noises == ("gaussian",)
    options = SamplingOptions(noise=[NoiseName.poisson, NoiseName.salt_and_pepper])
    with open_run(run_options, tmp_path, sampling=options) as run:
        assert run.recipe.evaluation.noises == ("poisson", "salt-and-pepper")
        assert run.recipe != usual
        assert repr(run.recipe) == repr(usual), "keys of earlier runs depend on it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--noise", "jpeg", "--noise", "jpeg"),
            r"noises are \('jpeg', 'jpeg'\); name at least one, and each",
        ),
        (("--versions", "0"), "versions is 0, at least 1 noisy version"),
        (("--half-width", "5"), "half_width is 5.0, it must lie between 0 and 0.5"),
        (("--device", "abacus"), "there is no device 'abacus'"),
        (("--out", "file/out"), "cannot write into file/out: .*file is no folder; choose another place"),
    ],
)
@pytest.mark.parametrize(
    "command", [("reproduce",), ("evaluate", "l3-gtsrb"), ("compare", "sign-gtsrb")], ids=lambda each: each[0]
)
def test_options_are_checked_before_images_are_decoded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: tuple[str, ...],
    message: str,
) -> None:
    def decode(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("images were decoded")

    monkeypatch.setattr(datasets, "load_dataset", decode)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [*command, "--data", "signs", "--out", "out", *options])
    assert result.exit_code in (1, 2)
    assert re.search(message, result.stderr)
