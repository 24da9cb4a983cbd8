"""Commands that torchrun has started several times do one work, say everything once, and end together."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from steadylens.cli.main import app
from steadylens.evaluation import experiments
from tests.worker_processes import ended, start_workers

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""PyTorch's own launcher, `torchrun`."""

COMMAND = ["-m", "tests.cli.launched"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with images of four colours for training and testing."""
    place = tmp_path_factory.mktemp("several")
    random = np.random.default_rng(0)
    colours = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (180, 180, 60))
    for part, count in (("train", 4), ("test", 3)):
        for label, colour in enumerate(colours):
            folder = place / "images" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.array(colour) + random.integers(-50, 51, (48, 48, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return place


def common(place: Path) -> list[str]:
    data, cache = f"folder:{place / 'images'}", str(place / "cache")
    return ["--recipe", "smoke", "--data", data, "--cache", cache, "--device", "cpu"]


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Iterator[None]:
    """Computes as the workers do: with one thread each, nets are timed on single images, nothing is drawn."""
    assert experiments.cost.__kwdefaults__ is not None
    monkeypatch.setitem(experiments.cost.__kwdefaults__, "batches", (1,))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_one_process(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def run_two(*arguments: str | Path) -> list[tuple[int, str]]:
    """Runs two workers; returns exit code and output of each, without the line of `launched`."""
    results = ended(start_workers(2, [*COMMAND, *arguments]))
    return [(code, output.partition("\n")[2]) for code, output in results]


def stages(printed: list[str]) -> list[str]:
    """Returns what each line is about, without lines on how far a stage is: a slow machine prints more."""
    return [line.partition(":")[0] for line in printed if not line.endswith(" left")]


NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def untimed(tables: Path) -> str:
    """Returns the tables without the costs, and without the time of each training."""
    text = re.sub(r"### Cost .*?(?=\n###|\Z)", "", tables.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"\| Time for an image .*", "", text)
    text = re.sub(r"; commit \S+", "", text)  # others may work on the source meanwhile
    return re.sub(r"\| [\d.]+ s \|", "|", text)


def test_the_paper_is_reproduced_together_as_by_one_process(place: Path, one_thread: None) -> None:
    launched = subprocess.run(
        [*LAUNCHER, *COMMAND, "reproduce", "--out", place / "together", *common(place)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    printed = launched.stdout.splitlines()
    alone = in_one_process("reproduce", "--out", place / "alone", *common(place)).splitlines()
    assert printed[0] == "  2 workers, each on cpu"
    assert stages(printed[1:]) == stages(alone)
    together, single = (untimed(place / name / "tables.md") for name in ("together", "alone"))
    assert NUMBER.sub("0", together) == NUMBER.sub("0", single)
    numbers = [[float(each.replace(",", "")) for each in NUMBER.findall(text)] for text in (together, single)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=0.011)  # sums are made in another order


def test_an_error_that_all_workers_have_is_told_once(place: Path) -> None:
    (code, output), (other_code, other_output) = run_two(
        "evaluate", place / "absent.safetensors", "--out", place / "error", *common(place)
    )
    assert (code, other_code) == (1, 1)
    assert output == f"steadylens: there is no file {place / 'absent.safetensors'}\n"
    assert other_output == ""


def test_an_error_of_one_worker_is_told_with_its_number(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("CHANGE_TO_0", str(place))
    monkeypatch.setenv("CHANGE_TO_1", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    (code, output), (other_code, other_output) = run_two(
        "evaluate", "l3-gtsrb", "--data", "folder:images", "--cache", "cache", "--out", tmp_path / "out"
    )
    assert (code, other_code) == (1, 1)
    assert output.endswith("steadylens: worker 1 has failed, so this one ends too; see its message\n")
    assert re.fullmatch(r"steadylens: worker 1: images: No such file or directory; give .*\n", other_output)


def test_a_training_whose_worker_is_killed_ends_and_is_finished_by_one_process(
    place: Path, one_thread: None
) -> None:
    out = place / "killed.safetensors"
    arguments = ["train", "restorer", "L3", *common(place), "--recipe", "quick", "--out", str(out)]
    launcher = subprocess.Popen(
        [*LAUNCHER, *COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert launcher.stderr is not None
        started = (re.match(r"worker 1 is process (\d+)", line) for line in launcher.stderr)
        process = int(next(match[1] for match in started if match))
        unfinished = out.with_name("killed.safetensors.training")
        while not unfinished.exists() and launcher.poll() is None:
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        printed, errors = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    assert "report" not in printed
    assert len(re.findall(r"^steadylens: ", errors, flags=re.MULTILINE)) == 1
    assert "run the same command again to continue" in errors
    assert not out.exists()
    assert re.search(r"restorer L3: continues after step \d+ of 100\n", in_one_process(*arguments))
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["restore", "a.png"], "give each a part with --shard"),
        (["serve", "unet-gtsrb"], "start it without torchrun, or unset WORLD_SIZE"),
        (["report", "records.jsonl"], "start it without torchrun, or unset WORLD_SIZE"),
    ],
)
def test_a_command_of_a_single_process_is_refused(
    arguments: list[str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = CliRunner().invoke(app, arguments, standalone_mode=False).exception
    assert f"WORLD_SIZE is 2, so torchrun has started several workers, but {arguments[0]} runs" in str(error)
    assert advice in str(error)
