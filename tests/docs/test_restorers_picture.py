"""The picture of the results shows the nets that Table 2 compares, and no other."""

import runpy
from pathlib import Path
from typing import Any

from PIL import Image

from steadylens.records import Hits, Scatter, read_records
from steadylens.report.tables import select

ROOT = Path(__file__).parents[2]

SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "restorers_picture.py"), run_name="script")

KEPT = ROOT / "results" / "gtsrb-restorers.jsonl"


def test_four_panels_show_the_nets_of_table_2_each_named_once() -> None:
    records = read_records(KEPT)
    compared = [record.network for record in select(records, Hits)]
    assert len(select(records, Scatter)) > len(compared), "one net was measured by itself"
    figure = SCRIPT["drawn"](records)
    assert len(figure.axes) == 4
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(compared)


def test_the_picture_is_written(tmp_path: Path) -> None:
    SCRIPT["main"](KEPT, tmp_path / "restorers.png")
    with Image.open(tmp_path / "restorers.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 800
