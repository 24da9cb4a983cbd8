"""The examples run, and show what they say."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"


def test_there_is_no_example_without_a_test() -> None:
    names = {path.name for path in FOLDER.glob("*.py")}
    assert names == {"any_classifier.py", "restore_and_classify.py"}


def test_the_example_restores_noisy_signs_and_fuses_what_it_trained() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "restore_and_classify.py"],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    noisy, restored = map(float, re.findall(r"([\d.]+) dB", done.stdout))
    alone, fused = map(int, re.findall(r"(\d+) (?:alone|fused)", done.stdout))
    assert restored > noisy + 3
    assert min(alone, fused) > 96, "of 192 signs of 6 classes"


def test_a_resnet_of_another_library_is_fused_in_three_ways_and_compared(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "any_classifier.py", "--tiny", "--out", tmp_path],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    shares = dict(re.findall(r"(.+): ([\d.]+)% of the answers stay right under noise", done.stdout))
    assert list(shares) == ["alone", "restorer as it is", "classifier tuned", "restorer tuned"]
    assert all(0 <= float(share) <= 100 for share in shares.values())
    assert {"tuned.safetensors", "label-free.safetensors", "report.html"} <= {
        p.name for p in tmp_path.iterdir()
    }
