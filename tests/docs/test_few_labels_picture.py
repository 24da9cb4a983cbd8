"""The picture of few labels shows the means and every seed of the file."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "few_labels_picture.py"), run_name="script")

WAYS: tuple[str, ...] = tuple(SCRIPT["DRAWN_AS"])

KEPT = ROOT / "results" / "benchmarks" / "few_labels-seeds.jsonl"


@pytest.fixture
def entries() -> list[dict[str, Any]]:
    return [
        {
            "tracks": count,
            "seed": seed,
            "accuracies": {way: [90 + seed + index for index in range(4)] for way in WAYS},
        }
        for count in (1, 10)
        for seed in (0, 2)
    ]


def test_a_panel_shows_means_and_seeds_of_its_strength(entries: list[dict[str, Any]]) -> None:
    entries[0]["accuracies"]["noisy images"] = [50, 60, 70, 80]
    panels = SCRIPT["drawn"](entries).axes
    assert [panel.get_title(loc="left") for panel in panels] == [f"sigma {each}" for each in SCRIPT["SIGMAS"]]
    lines = {line.get_label(): line for line in panels[3].lines}
    assert [*lines["noisy images"].get_xdata()] == [1, 10]
    assert [*lines["noisy images"].get_ydata()] == [(80 + 95) / 2, (93 + 95) / 2]
    dots = panels[3].lines[panels[3].lines.index(lines["noisy images"]) + 1]
    assert [*dots.get_ydata()] == [80, 95, 93, 95]


def test_all_ways_of_the_benchmark_are_drawn() -> None:
    for line in KEPT.read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["accuracies"].keys() == {*WAYS}


def test_the_legend_names_each_way_once(entries: list[dict[str, Any]]) -> None:
    (legend,) = SCRIPT["drawn"](entries).legends
    assert [text.get_text() for text in legend.get_texts()] == [*WAYS]


def test_an_unfinished_seed_is_left_out(entries: list[dict[str, Any]]) -> None:
    assert SCRIPT["whole_seeds"](entries) == entries
    assert SCRIPT["whole_seeds"](entries[:3]) == [entries[0], entries[2]]


def test_the_picture_is_written_as_svg(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    kept, out = tmp_path / "kept.jsonl", tmp_path / "few.svg"
    kept.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    SCRIPT["main"](kept, out)
    assert "<svg" in out.read_text(encoding="utf-8")
