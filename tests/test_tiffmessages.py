"""libtiff says nothing of its own while images are read, whoever reads them, and speaks again afterwards."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from PIL import Image

SOUND = """
import io, sys, threading
from pathlib import Path
from PIL import Image
from steadylens.errors import ImageError
from steadylens.decoding import opened
from steadylens.tiffmessages import without_messages

path = Path(sys.argv[1])

def fails():
    try:
        with opened(path) as image:
            image.load()
    except ImageError:
        return
    raise SystemExit("it was read")

def loud():
    try:
        Image.open(path).load()
    except OSError:
        return
    raise SystemExit("it was read")
"""


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "TIFF", compression="tiff_lzw")
    content = bytearray(buffer.getvalue())
    content[200:900] = b"\xff" * 700
    (tmp_path / "a.tif").write_bytes(content)
    return tmp_path / "a.tif"


def said(code: str, path: Path) -> str:
    """Returns what a process that runs the code writes to its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SOUND + code, str(path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow holds libtiff out of reach there")
def test_a_damaged_file_is_refused_without_a_word_and_others_hear_libtiff_as_before(damaged: Path) -> None:
    loud = said("loud()", damaged)
    assert loud.startswith("tempfile.tif: ")  # as Pillow names what it gives to libtiff
    assert said("fails()", damaged) == ""
    assert said("fails(); loud()", damaged) == loud


def test_what_pillow_logs_goes_where_the_program_wants_and_not_to_the_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "b.tif"
    Image.new("RGB", (9, 9)).save(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[277].overwrite(240)  # samples a pixel
    assert said("fails()", path) == ""
    assert "PIL.TiffImagePlugin" in said("import logging; logging.basicConfig(); fails()", path)


@pytest.mark.skipif(sys.platform == "win32", reason="Pillow holds libtiff out of reach there")
def test_of_many_threads_none_lets_libtiff_speak_before_the_last_is_done(damaged: Path) -> None:
    code = """
threads = [threading.Thread(target=lambda: [fails() for _ in range(30)]) for _ in range(8)]
with without_messages():
    for thread in threads:
        thread.start()
    loud()
for thread in threads:
    thread.join()
"""
    assert said(code, damaged) == ""
    assert said(code + "loud()", damaged) == said("loud()", damaged)
