"""The first page is short, and all that it promises exists and runs."""

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import steadylens
from tests.docs.shown_commands import parse

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
MAP = TEXT.partition("## Contributing")[2]
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_page_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_the_first_screen_tells_how_much_it_helps_how_to_install_it_and_how_to_use_it() -> None:
    screen = "\n".join(TEXT.splitlines()[:45])
    places = [
        screen.index(text)
        for text in ("baseline: classifier tuned on the same noise", "pip install", "```python")
    ]
    assert places == sorted(places)
    assert len(BLOCKS[0].strip().splitlines()) <= 6


def test_the_two_commands_come_next() -> None:
    assert [line.split()[1] for line in TEXT.splitlines()[:60] if line.startswith("make ")] == [
        "demo",
        "test",
    ]


def test_the_first_lines_of_code_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    steadylens.write_image("photo.jpg", images[0])
    names: dict[str, Any] = {"images": images, "your_classifier": steadylens.load("sign-gtsrb")}
    exec(BLOCKS[0], names)  # noqa: S102 - our own page
    assert names["restored"].shape == (3, 48, 48)
    assert names["answers"].shape == (2,)
    assert names["pair"](images).shape == (2, 43)


def test_the_map_names_every_package_once_and_no_other() -> None:
    packages = [path.parent.name for path in (ROOT / "src" / "steadylens").glob("*/__init__.py")]
    assert sorted(re.findall(r"^\| `(\w+)` \| \w+", MAP, re.MULTILINE)) == sorted(packages)


def test_the_session_runs_as_it_is_printed() -> None:
    (block,) = (block for block in BLOCKS if block.startswith(">>>"))
    session = doctest.DocTestParser().get_doctest(block, {}, "README.md", None, 0)
    assert len(session.examples) == 10
    report: list[str] = []
    assert doctest.DocTestRunner().run(session, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith(("make ", "pip "))])
def test_a_command_can_be_parsed(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    assert program == "steadylens"
    parse(words)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("report", "records"),
        ("train restorer L12 --out x", "L12"),
        ("evaluate x --recpie fast", "No such option"),
        ("train", "no whole command"),
    ],
)
def test_a_command_that_is_wrong_would_be_found(words: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        parse(words.split())


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_a_make_target_exists(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_single_step_is_shown() -> None:
    steps = {"train restorer", "train classifier", "fuse", "evaluate", "report", "reproduce"}
    assert all(any(line.startswith(f"steadylens {step}") for line in LINES) for step in steps)


def test_the_picture_has_a_description() -> None:
    (description,) = re.findall(r"!\[(.*?)\]\(docs/images/overview\.png\)", TEXT)
    assert len(description) > 40


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"(?<!!)\[[^]]*\]\(([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
