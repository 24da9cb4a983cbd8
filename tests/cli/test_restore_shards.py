"""Several processes share the files of a folder, as of themselves in a SLURM array."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steadylens.images.reading import read_image_file
from steadylens.inference.restorer import restore
from steadylens.nets.restoration import GaussianSmoothing
from tests.cli.calling import Outcome, run, steadylens


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Returns a folder of twelve images."""
    folder = tmp_path / "many"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 30, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return folder


def merged(log: Path) -> Outcome:
    return steadylens("merge-logs", log)


def logged(path: Path) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, path.read_text().splitlines()) if "file" in row]


def test_two_processes_share_a_folder_at_the_same_time(many: Path, tmp_path: Path, smoothing: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    call = [sys.executable, "-m", "steadylens", "restore", str(many), "--out", str(out)]
    call += ["--net", str(smoothing), "--log", str(log)]
    processes = [
        subprocess.Popen([*call, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for more in (("--shard", "1/2"), ("--shard", "2/2", "--jobs", "2"))
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (logged(tmp_path / f"log-{number}-of-2.jsonl") for number in (1, 2))
    for rows, (text, _), number in ((first, said[0], 1), (second, said[1], 2)):
        assert f"shard {number}/2: {len(rows)} of 12 images" in text
        assert f"restored {len(rows)} of {len(rows)} images" in text
        assert {row["state"] for row in rows} == {"restored"}
    assert not {row["file"] for row in first} & {row["file"] for row in second}
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in many.iterdir())
    for path in many.iterdir():
        expected = restore(read_image_file(path).pixels, GaussianSmoothing(sigma_pixels=1.0))
        assert np.array_equal(read_image_file(out / path.name).pixels, expected)
    assert merged(log).out == (
        f"merged the logs of all 2 shards into {log}: 12 images, 12 restored, 0 skipped, 0 failed\n"
    )
    assert len(logged(log)) == 12


def test_a_share_that_ended_too_early_goes_on_and_until_then_is_not_merged(
    many: Path, tmp_path: Path, identity: Path
) -> None:
    out, log, share = tmp_path / "out", tmp_path / "log.jsonl", tmp_path / "log-1-of-2.jsonl"
    call = (many, "--out", out, "--net", identity, "--log", log, "--shard")
    for shard in ("1/2", "2/2"):
        assert run(*call, shard).code == 0
    lines = share.read_bytes().splitlines(keepends=True)
    share.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # as a kill leaves it
    lost = Path(json.loads(lines[-1])["target"])
    lost.unlink()
    outcome = merged(log)
    assert outcome.code == 2
    assert f"{len(lines) - 2} of the {len(lines) - 1} files of shard 1/2" in " ".join(outcome.err.split())
    outcome = run(*call, "1/2")
    assert outcome.code == 0
    assert f"restored 1 of {len(lines) - 1} images" in outcome.out
    assert lost.exists()
    assert "12 images, 12 restored, 0 skipped, 0 failed" in merged(log).out


def test_a_share_may_be_empty(many: Path, tmp_path: Path, identity: Path) -> None:
    log = tmp_path / "log.jsonl"
    call = (many / "1.png", "--out", tmp_path / "out", "--net", identity, "--log", log, "--shard")
    outcomes = [run(*call, shard) for shard in ("1/2", "2/2")]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert sorted(outcome.out.splitlines()[0][10:] for outcome in outcomes) == [
        " 0 of 1 images", " 1 of 1 images"
    ]  # fmt: skip
    assert merged(log).code == 0


def test_shares_restored_in_place_are_not_restored_again(many: Path, identity: Path) -> None:
    call = (many, "--in-place", "--net", identity)
    assert [run(*call, "--shard", shard).code for shard in ("1/2", "2/2")] == [0, 0]
    assert "skipped 12 that were restored in place before" in run(*call).out


def test_the_log_keeps_the_noise_of_what_was_restored_before(
    many: Path, tmp_path: Path, identity: Path
) -> None:
    log = tmp_path / "log.jsonl"
    for _ in range(2):
        assert run(many, "--out", tmp_path / "out", "--net", identity, "--log", log).code == 0
    rows = logged(log)
    assert [row["state"] for row in rows] == ["restored"] * 12 + ["skipped"] * 12
    for before, after in zip(rows[:12], rows[12:], strict=True):
        assert after["noise_grey"] == before["noise_grey"] is not None
        assert after["sha256"] == before["sha256"]


@pytest.fixture
def array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this the second task of an array of three."""
    for name, value in {"ID": 5, "COUNT": 3, "MIN": 4, "MAX": 6, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


@pytest.mark.usefixtures("array")
def test_a_task_of_a_slurm_array_takes_its_share_and_says_so(
    many: Path, tmp_path: Path, identity: Path
) -> None:
    outcome = run(many, "--out", tmp_path / "out", "--net", identity, "--log", tmp_path / "log.jsonl")
    count = len([*(tmp_path / "out").iterdir()])
    assert 0 < count < 12
    said = f"shard 2/3 (this task of a SLURM array; --shard 1/1 restores all): {count} of 12 images"
    assert said in " ".join(outcome.out.split())
    assert len(logged(tmp_path / "log-2-of-3.jsonl")) == count
    outcome = run(many, "--out", tmp_path / "out", "--net", identity, "--shard", "1/1")
    assert "shard" not in outcome.out
    assert len([*(tmp_path / "out").iterdir()]) == 12


@pytest.mark.usefixtures("array")
@pytest.mark.parametrize("name", ["new.png", "new"])
def test_one_file_is_restored_whole_in_an_array_too(
    many: Path, tmp_path: Path, identity: Path, name: str
) -> None:
    outcome = run(many / "0.png", "--out", tmp_path / name, "--net", identity)
    assert outcome.code == 0
    assert "restored 1 of 1 images" in outcome.out
    assert "shard" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("many", "--out", "out", "--shard", "3/2"), "shard 3/2 does not exist"),
        (("many", "--out", "out", "--shard", "half"), "it must be a number and a count, such as 2/8"),
        (("many/0.png", "--out", "new.png", "--shard", "1/2"), "new.png is one file"),
        (("many/0.png", "--out", "-", "--shard", "1/2"), "without --pattern or --shard"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


def test_logs_that_cannot_be_merged_are_told(tmp_path: Path) -> None:
    outcome = merged(tmp_path / "log.jsonl")
    assert outcome.code == 2
    assert "are no logs of shards" in " ".join(outcome.err.split())
