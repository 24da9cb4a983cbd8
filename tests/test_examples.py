"""The examples run, and show what they say."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "examples"


def test_there_is_no_example_without_a_test() -> None:
    assert [path.name for path in FOLDER.glob("*.py")] == ["restore_and_classify.py"]


def test_the_example_restores_noisy_signs_and_fuses_what_it_trained() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "restore_and_classify.py"],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    noisy, restored = map(float, re.findall(r"([\d.]+) dB", done.stdout))
    alone, fused = map(int, re.findall(r"(\d+) (?:alone|fused)", done.stdout))
    assert restored > noisy + 3
    assert min(alone, fused) > 96, "of 192 signs of 6 classes"
