"""What docs/classifiers.md shows runs as it is printed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadylens.evaluation import experiments
from tests.docs.shown_commands import parse

TEXT = (Path(__file__).parents[2] / "docs" / "classifiers.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
SESSION = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("line", LINES)
def test_a_command_can_be_parsed(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "steadylens"
    parse(words)


def test_each_way_to_fuse_and_each_library_is_shown() -> None:
    assert all(
        any(f"--tune {part}" in line for line in LINES) for part in ("nothing", "classifier", "restorer")
    )
    assert all(
        any(kind in line for line in LINES) for kind in ("timm:", "torchvision:", "transformers:", ".pt2")
    )


@pytest.mark.usefixtures("undrawn")
def test_the_session_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(3)
    for label in ("cat", "dog", "horse"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            levels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(levels).save(tmp_path / "photos" / label / f"{number}.png")
    assert SESSION.count('recipe_named("quick")') == 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(SESSION.replace('recipe_named("quick")', 'recipe_named("smoke")'), {})  # noqa: S102
    reports = {path.parent.name for path in (tmp_path / "runs").glob("*/report.html")}
    assert reports == {"mine", "mine-tuned"}
    assert (tmp_path / "runs" / "tuned-restorer.safetensors").exists()
    assert set(torch.load(tmp_path / "runs" / "tuned-net.pth")) >= {"0.weight", "3.bias"}
