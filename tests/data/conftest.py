"""The data set that several test modules load."""

from pathlib import Path

import pytest

from tests.data.fruit import COUNTS, paint


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    """Returns a folder of three classes without parts, of images of several sizes and formats."""
    root = tmp_path / "fruit"
    for label, (name, count) in enumerate(COUNTS.items()):
        for number in range(count):
            suffix = ("png", "bmp")[number % 2]
            paint(root / name / f"{number:02}.{suffix}", 50 * label, number, side=5 + number)
    return root
