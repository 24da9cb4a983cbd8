"""What docs/steadiness.md shows runs as it is printed, and its tables name what there is."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import steadylens
from steadylens.evaluation import experiments
from steadylens.noise.named import NAMED
from tests.docs.shown_commands import parse

TEXT = (Path(__file__).parents[2] / "docs" / "steadiness.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("steadylens")]
(SESSION,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

SMALLER = {
    'recipe_named("quick")': 'recipe_named("smoke")',
    'load_dataset("signs")': 'load_dataset("signs:2")',
    "versions=1000, images=100": "first_versions=2, versions=20, images=1",
    "Corruptions(images=100)": 'Corruptions(images=2, kinds=("fog",), severities=(1,))',
    "Attacks(images=100)": "Attacks(images=2, steps=2, restarts=0, l2=(0.5,), linf=())",
}
"""What the session asks for, and what is enough to see that it runs."""


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_can_be_parsed(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "steadylens"
    parse(words)


def test_one_command_measures_all_for_a_shipped_net_and_for_one_of_yours() -> None:
    whole = [line for line in COMMANDS if "--certify --corruptions --attacks" in line]
    assert [line.split()[2].split(":")[0] for line in whole[:2]] == ["sign-gtsrb", "timm"]


def test_every_kind_of_noise_has_its_row_and_its_class() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| `(\w+)` \|$", TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [*NAMED]
    for name, family in rows:
        assert type(NAMED[name](10)) is getattr(steadylens, family)


@pytest.mark.usefixtures("undrawn")
def test_the_session_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = SESSION
    for wanted, enough in SMALLER.items():
        assert session.count(wanted) == 1, wanted
        session = session.replace(wanted, enough)
    with torch.random.fork_rng():
        exec(session, {})  # noqa: S102
    summary = (tmp_path / "runs" / "steadiness" / "tables.md").read_text(encoding="utf-8")
    assert "Proven answers within 0.25" in summary
    assert "Not measured" not in summary
