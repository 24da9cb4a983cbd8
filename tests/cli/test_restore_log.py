"""A run that is interrupted or repeated goes on where it was, and the log tells of every file."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steadylens.images.reading import read_image_file
from steadylens.inference.restorer import restore
from steadylens.nets.restoration import GaussianSmoothing
from tests.cli.calling import run
from tests.cli.conftest import PIXELS

MAIN = (
    "import signal; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a parent in the background ignores it
    "from steadylens.cli.main import main; main()"
)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Returns a folder with a bad file and 14 images that take a while."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "00.bmp").write_bytes(b"no image")
    pixels = np.random.default_rng(0).integers(0, 256, (800, 900, 3), dtype=np.uint8)
    for number in range(1, 15):
        pixels[0, 0] = number  # no two files are alike
        Image.fromarray(pixels).save(folder / f"{number:02}.bmp")
    return folder


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", MAIN, "restore", *arguments]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def logged(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def interrupted(process: subprocess.Popen[str], log: Path, how: signal.Signals) -> tuple[str, str]:
    """Interrupts a run after its first results; returns what it has written."""
    while process.poll() is None and len(logged(log)) < 3:
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    return out, err


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_an_interrupt_leaves_whole_files_only_and_loses_no_failure(
    tmp_path: Path, smoothing: Path, large: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    process = started(large, "--out", out, "--net", smoothing, "--log", log)
    _, err = interrupted(process, log, signal.SIGINT)
    assert "00.bmp is not an image of a known format" in err
    files = sorted(out.iterdir())
    assert 0 < len(files) < 14
    assert f"interrupted; {len(files)} restored, 1 failed, {14 - len(files)} unchanged; the same" in err
    assert all(read_image_file(path).pixels.shape == (800, 900, 3) for path in files)
    states = Counter(each["state"] for each in logged(log))
    assert states == {"failed": 1, "restored": len(files)}


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_what_several_processes_restored_in_place_is_not_restored_again_after_their_end(
    tmp_path: Path, smoothing: Path, large: Path
) -> None:
    before = {path: read_image_file(path).pixels for path in sorted(large.iterdir())[1:]}
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    call = (large, "--in-place", "--net", smoothing, "--log")
    interrupted(started(*call, first, "--jobs", "2"), first, signal.SIGTERM)
    assert sorted(large.iterdir())[1:] == list(before), "no file is half written"
    outcome = run(*call, second)
    assert outcome.code == 1
    assert "in place before; --overwrite restores them once more" in outcome.out
    once, again = (
        [Path(each["file"]) for each in logged(log) if each["state"] == "restored"] for log in (first, second)
    )
    assert not {*once} & {*again}
    assert len(again) < 14
    for path in (once[0], again[-1]):
        expected = restore(before[path], GaussianSmoothing(sigma_pixels=1.0))
        assert np.array_equal(read_image_file(path).pixels, expected)


def test_a_file_is_known_by_its_content_wherever_it_lies(
    folder: Path, tmp_path: Path, smoothing: Path
) -> None:
    log = tmp_path / "log.jsonl"
    assert run(folder, "--in-place", "--net", smoothing, "--log", log).code == 0
    (folder / "a.png").rename(folder / "deep" / "renamed.png")
    contents = {path: path.read_bytes() for path in folder.rglob("*.*")}
    shutil.rmtree(tmp_path / "state")  # as on another machine, where the log still tells
    for call in (("--log", log), ()):
        outcome = run(folder, "--in-place", "--net", smoothing, *call)
        assert ("restored 0 of 4 images" in outcome.out) is bool(call)
        if call:
            assert "skipped 4 that were restored in place before" in outcome.out
            assert contents == {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert [each["state"] for each in logged(log)] == ["restored"] * 4 + ["skipped"] * 4


def test_overwrite_restores_in_place_once_more(folder: Path, smoothing: Path) -> None:
    once = restore(PIXELS[..., :3], GaussianSmoothing(sigma_pixels=1.0))
    call = (folder, "--in-place", "--net", smoothing)
    assert "restored 4 of 4" in run(*call).out
    assert "restored 0 of 4" in run(*call).out
    assert "restored 4 of 4" in run(*call, "--overwrite").out
    twice = restore(once, GaussianSmoothing(sigma_pixels=1.0))
    assert np.array_equal(read_image_file(folder / "a.png").pixels, twice)


def test_the_log_tells_of_every_file(folder: Path, tmp_path: Path, identity: Path) -> None:
    noise = np.random.default_rng(0).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no image")
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    call = (folder, "--out", out, "--net", identity, "--log", log, "--format", "jpeg")
    assert run(*call).code == 1
    rows = {Path(row["file"]).name: row for row in logged(log)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a.png": "restored", "bad.png": "failed", "b.webp": "failed", "c.tif": "restored",
        "d.bmp": "restored",
    }  # fmt: skip
    assert rows["a.png"]["noise_grey"] == pytest.approx(20, rel=0.1)
    assert rows["a.png"]["seconds"] > 0
    assert rows["a.png"]["target"] == str(out / "a.jpg")
    assert rows["a.png"]["sha256"] == hashlib.sha256((out / "a.jpg").read_bytes()).hexdigest()
    assert rows["c.tif"]["notes"] == ["JPEG holds 8 bits, so 16 bits were rounded"]
    assert "is not an image of a known format" in rows["bad.png"]["reason"]
    assert run(*call).code == 1
    again = logged(log)[5:]
    assert [row["state"] for row in again].count("skipped") == 3
    assert all("--overwrite" in row["reason"] for row in again if row["state"] == "skipped")


def test_a_file_that_lacks_the_wanted_pattern_is_not_counted_as_done(
    folder: Path, tmp_path: Path, smoothing: Path
) -> None:
    call = (folder, "--out", tmp_path / "out", "--net", smoothing)
    assert run(*call).code == 0
    log = tmp_path / "log.jsonl"
    outcome = run(*call, "--pattern", "--log", log)
    assert outcome.code == 1
    assert "skipped 4 whose output or pattern exists without the other; --overwrite makes both" in outcome.err
    assert "already exists" not in outcome.out
    assert all("--overwrite makes both" in row["reason"] for row in logged(log))
    assert run(*call, "--pattern", "--overwrite").code == 0
    assert len([*(tmp_path / "out").rglob("*.pattern.png")]) == 4
    assert run(*call, "--pattern").code == 0


def test_a_log_may_lie_in_the_new_folder_of_the_results(folder: Path, tmp_path: Path, identity: Path) -> None:
    out = tmp_path / "out"
    assert run(folder, "--out", out, "--net", identity, "--log", out / "logs" / "log.jsonl").code == 0
    assert len(logged(out / "logs" / "log.jsonl")) == 4


@pytest.mark.skipif(os.name != "posix", reason="a pipe that nobody reads")
@pytest.mark.parametrize("arguments", [("--out", "-"), ("--out", "out")])
def test_it_ends_quietly_if_nobody_reads_its_output(
    folder: Path, tmp_path: Path, identity: Path, arguments: tuple[str, str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-c", MAIN, "restore", str(folder / "a.png"), *arguments, "--net", str(identity)]
    ended = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    os.close(writing)
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if not line.startswith("  ")]
    assert said == (["restored 1 of 1 images"] if "-" in arguments else [])
