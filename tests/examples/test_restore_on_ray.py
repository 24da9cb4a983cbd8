"""The example for Ray restores folders, and a worker that is killed loses nothing and does nothing twice."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from steadylens.images.reading import read_image_file
from steadylens.inference.restorer import restore

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "restore_on_ray.py"
NAMES = [f"{number}.png" for number in range(6)]


class Session(NamedTuple):
    folder: Path
    environment: dict[str, str]
    out: str
    err: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Runs the example in one session of Ray, which keeps to this machine and leaves no files."""
    folder = tmp_path_factory.mktemp("ray")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 24, 20, 3), dtype=np.uint8)
    for name, each in zip(NAMES, pixels, strict=True):
        for place in ("first/deep", "second"):
            (folder / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(each).save(folder / place / name)
    (folder / "first" / "bad.png").write_bytes(b"no image")
    (folder / "first" / ".hidden.png").write_bytes(b"")
    sockets = tempfile.mkdtemp(prefix="ray")  # the names of sockets must be short
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(EXAMPLE.parent)]),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": sockets,
    }
    call = [sys.executable, str(ROOT / "tests" / "examples" / "ray_session.py"), str(folder)]
    try:
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=500, check=False)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return Session(folder, environment, done.stdout, done.stderr)


def assert_restored(before: Path, after: Path) -> None:
    assert sorted(path.name for path in after.iterdir()) == NAMES
    for name in NAMES:
        expected = restore(read_image_file(before / name).pixels, "l3-gtsrb")
        assert np.array_equal(read_image_file(after / name).pixels, expected)


def test_a_folder_is_restored_and_a_bad_image_stops_no_other(session: Session) -> None:
    assert "0 of 7 images are restored already\n1 failed, 6 restored\n" in session.out
    assert "error: bad.png: bad.png is not an image of a known format" in session.err
    assert_restored(session.folder / "first" / "deep", session.folder / "restored" / "deep")
    assert sorted(path.name for path in (session.folder / "restored").iterdir()) == ["deep"]


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(session: Session) -> None:
    killed = session.folder / "killed"
    assert_restored(session.folder / "second", killed / "out")
    assert Counter((killed / "written").read_text().split()) == Counter(NAMES), "each is written once"
    states = json.loads((killed / "rows").read_text())
    assert states == dict.fromkeys(NAMES[:3], "there already") | dict.fromkeys(NAMES[3:], "restored")


def test_images_may_lie_in_a_store(session: Session) -> None:
    assert_restored(session.folder / "second", session.folder / "from-store")


def test_a_restart_does_nothing_twice(session: Session) -> None:
    (session.folder / "first" / "bad.png").unlink()
    out = session.folder / "restored"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    call = [sys.executable, str(EXAMPLE), str(session.folder / "first"), str(out)]
    done = subprocess.run(
        call, env=session.environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout) == (0, "6 of 6 images are restored already\n"), done.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
