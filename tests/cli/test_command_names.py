"""The names of commands and options, which users have in their scripts, and what the help says of them."""

import subprocess
import sys
from typing import Any

import pytest
import typer.main

from steadylens import __version__
from steadylens.cli.console import RecipeName
from steadylens.cli.main import app
from steadylens.cli.paper import NetName
from steadylens.nets.architecture import restorer_named
from steadylens.training.recipes import recipe_named
from tests.cli.calling import MAIN, steadylens

COMMON = {"--data", "--recipe", "--seed", "--device", "--cache", "--memory", "--debug"} | {
    "--class-names",
    "--skip-damaged",
}
CLASSIFIER = {"classifier", "--weights", "--size", "--mean", "--std", "--fit", "--ema"}
COMMANDS = {
    "reproduce": COMMON | {"--out", "--half-width", "--noise", "--versions"},
    "train restorer": COMMON | {"net", "--out", "--start"},
    "train classifier": COMMON | {"--out", "--noisy", "--fit"},
    "fuse": COMMON | CLASSIFIER | {"restorer", "--out", "--tune", "--restorer-only", "--teacher"},
    "compare": COMMON
    | CLASSIFIER
    | {"--restorer", "--fused", "--out", "--half-width", "--noise", "--versions"}
    | {"--certify", "--certify-sigma", "--certify-n", "--certify-images", "--certify-precision"}
    | {"--corruptions", "--attacks", "--autoattack", "--stress-images"},
    "certify": COMMON
    | CLASSIFIER
    | {"--restorer", "--fused", "--out", "--sigma", "--n0", "--n", "--alpha", "--images", "--batch"}
    | {"--precision"},
    "evaluate": COMMON | {"models", "--out", "--half-width", "--noise", "--versions"},
    "report": {"records", "--out", "--debug"},
    "restore": {"paths", "--out", "--net", "--pattern", "--format", "--overwrite", "--in-place"}
    | {"--max-megapixels", "--tile", "--engine", "--device", "--debug", "--quality", "--flatten"}
    | {"--keep-times", "--log", "--jobs", "--shard", "--strength"}
    | {"--always", "--preview"},
    "merge-logs": {"log", "--debug"},
    "export": {"model", "--format", "--out", "--static", "--batch", "--triton", "--debug"}
    | {"--precision", "--images", "--opset"},
    "app": {"--net", "--fused", "--classifier", "--weights", "--host", "--port", "--device", "--debug"},
    "serve": {"model", "--host", "--port", "--device", "--debug", "--stop-seconds", "--upload-seconds"}
    | {"--cors-origin", "--workers"}
    | {f"--max-{bound}" for bound in ("batch", "wait-ms", "queue", "bytes", "pixels")},
}
"""What users may have in their scripts: a name may be added, none may go."""


def commands(group: Any, prefix: str = "") -> dict[str, set[str]]:
    """Returns the options and arguments of each command below a group."""
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = {option for each in command.params for option in each.opts} - {"--help"}
    return found


def test_commands_and_options_are_the_frozen_ones() -> None:
    assert commands(typer.main.get_command(app)) == COMMANDS


def test_every_recipe_and_net_can_be_chosen_by_its_name() -> None:
    assert [recipe_named(name.value).name for name in RecipeName] == [name.value for name in RecipeName]
    assert {name.value for name in NetName} == {*recipe_named("paper").nets, "UNet"}
    assert all(restorer_named(name.value) is not None for name in NetName)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str) -> None:
    outcome = steadylens(*command.split(), "--help")
    assert outcome.code == 0
    assert all(option in outcome.out for option in COMMANDS[command] if option.startswith("--"))


def test_the_version_is_that_of_the_package() -> None:
    outcome = steadylens("--version")
    assert (outcome.code, outcome.out) == (0, f"steadylens {__version__}\n")


@pytest.fixture(scope="module")
def loaded_for_the_help() -> list[str]:
    """Returns the modules that are loaded once the help is shown."""
    code = (
        f"import sys; sys.argv = ['steadylens', '--help']; {MAIN}\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("heavy", ["torch", "numpy", "matplotlib", "PIL", "jinja2"])
def test_help_and_version_need_no_heavy_library(heavy: str, loaded_for_the_help: list[str]) -> None:
    assert "steadylens.cli.main" in loaded_for_the_help
    assert heavy not in loaded_for_the_help
