"""What docs/restoring.md shows runs as it is printed."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.docs.shown_commands import parse

TEXT = (Path(__file__).parents[2] / "docs" / "restoring.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
SESSION = "".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))


@pytest.mark.parametrize("line", LINES)
def test_a_command_can_be_parsed(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "steadylens"
    parse(words)


def test_the_session_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    known: dict[str, Any] = {}
    exec(SESSION, known)  # noqa: S102 - our own page
    assert (known["restored"].mode, known["restored"].size) == ("RGB", (30, 20))
    assert (known["array"].shape, known["array"].dtype) == ((20, 30, 3), np.uint8)
    assert known["tensor"].shape == (3, 20, 30)
    assert [image.shape for image in known["images"]] == [(3, 20, 30)] * 2
    assert not known["level"].clean
    assert known["kept"].shape == (3, 20, 30)
