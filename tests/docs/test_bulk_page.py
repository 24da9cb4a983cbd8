"""What docs/bulk.md shows runs as it is printed."""

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from PIL import Image

from steadylens.inference.jobs import Shard
from tests.docs.shown_commands import parse

TEXT = (Path(__file__).parents[2] / "docs" / "bulk.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"steadylens (?:restore|merge-logs) (?!--shard)[^#\n\"`|]+", TEXT.replace("\n              --", " --")
)
(SESSION,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(JOB,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
INDEX = "$((JOB_COMPLETION_INDEX + 1))"


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_can_be_parsed(line: str) -> None:
    for shown in ("$((SLURM_ARRAY_TASK_ID + 1))", INDEX, "{}"):
        line = line.replace(f"{shown}/", "1/")
    parse(shlex.split(line.split(" ::: ")[0])[1:])


def test_there_are_commands_for_every_engine() -> None:
    assert len(COMMANDS) >= 8


def test_the_job_is_valid_and_its_pods_are_as_many_as_the_shards() -> None:
    manifest = yaml.safe_load(JOB)
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    job = manifest["spec"]
    (command,) = job["template"]["spec"]["containers"][0]["args"]
    _, _, share = command.rpartition("--shard ")
    assert Shard.parse(share.strip().replace(INDEX, "1")).count == job["completions"]


def test_the_session_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8)).save(f"photos/{number}.png")
    exec(SESSION, (known := dict[str, Any]()))  # noqa: S102 - our own page
    said = capsys.readouterr().out.splitlines()
    assert 0 < len(said) == len([*Path("restored").iterdir()]) < 20
    assert all(line.endswith(" restored") for line in said)
    assert known["plan"].found == 20
