"""The pages agree with the records under results/, and what they name exists."""

import pkgutil
import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steadylens.records import Accuracy, Measurement, Stability, read_records
from steadylens.report.paper import ORIGINAL, RESTORED, TOGETHER, WIDER
from steadylens.report.paper_tables import stability_tables
from tests.sample_records import sample_records

ROOT = Path(__file__).parents[2]
FILLER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "tables.py"), run_name="tables")
PAGES = {
    "README.md": False,
    "docs/index.md": False,
    "docs/results.md": True,
    "docs/steadiness.md": True,
    "docs/photographs.md": True,
}
STEADINESS = ("summary", "certificates", "corruptions", "attacks")
"""The tables of docs/steadiness.md, in its order."""
NAMES = sorted(FILLER["tables_named"]([]))


def with_a_pair_trained_together() -> list[Measurement]:
    """Returns the sample records, with those of the pair once more for each network that they lack."""
    rows = sample_records()
    return rows + [
        replace(row, network=network)
        for network in (TOGETHER, WIDER)
        for row in rows
        if isinstance(row, Accuracy | Stability) and row.network == RESTORED
    ]


RECORDS = [
    *with_a_pair_trained_together(),
    *(
        replace(row, provenance=replace(row.provenance, seed=99))
        for row in sample_records()
        if isinstance(row, Accuracy)
    ),
]
"""A run in which the networks' accuracy was measured with two seeds."""
MAPPED = re.findall(r"`([^`]+)`", (ROOT / "docs" / "equations.md").read_text().split("|---|", 1)[1])


def filled(text: str, runs: dict[str, Sequence[Measurement]], *, notes: bool = True) -> str:
    return str(FILLER["filled"](text, runs, notes=notes))


def page_of(*names: str) -> str:
    return "".join(f"before\n<!-- table: {name} -->\n<!-- end -->\nafter\n" for name in names)


def markers(text: str) -> list[str]:
    return re.findall(r"<!-- table: (\S+) -->\n(?:(?!<!-- ).*\n)*<!-- end -->", text)


@pytest.mark.parametrize(("page", "notes"), PAGES.items())
def test_a_page_holds_the_tables_of_the_records_and_nothing_else(page: str, notes: bool) -> None:
    runs = FILLER["recorded_runs"]()
    assert list(runs)[:2] == ["gtsrb-restorers", "gtsrb-unet"]  # those of the packaged nets
    text, shown = (ROOT / page).read_text(encoding="utf-8"), FILLER["runs_of_page"](runs, ROOT / page)
    assert text == filled(text, shown, notes=notes), "run .venv/bin/python docs/tables.py"


def test_the_first_page_shows_the_baseline_beside_the_restorer() -> None:
    (table,) = FILLER["glance_tables"](read_records(ROOT / "results" / f"{FILLER['FIRST_PAGE_RUN']}.jsonl"))
    alone, restored, baseline, larger = ([cell.text for cell in row.cells] for row in table.rows)
    assert baseline[0].startswith("baseline")
    assert larger[0].startswith("baseline")
    assert table.header[-1].endswith("40")
    assert alone[-1] < min(restored[-1], baseline[-1], larger[-1]), (
        "the page says in words that all gain at strong noise"
    )
    shares = [float(row[-1].rstrip("%")) for row in (restored, larger)]
    assert abs(shares[0] - shares[1]) < 0.3, "and that a larger classifier gains as much as the pair"
    assert baseline[1] < restored[1] <= alone[1], "and that the restorer costs fewer answers on clean images"


def test_the_numbers_of_the_first_page_are_shares_of_the_rows() -> None:
    rows = with_a_pair_trained_together()
    (table,) = FILLER["glance_tables"](rows)
    (cell,) = (
        row
        for row in rows
        if isinstance(row, Stability)
        and (row.network, row.sigma_grey, row.population, row.noise)
        == (ORIGINAL, 40, "all", "clipped, 8-bit")
    )
    assert table.rows[0].cells[-1].text == f"{100 * cell.correct / cell.samples:.1f}%"


def test_the_pages_have_the_markers_of_their_tables() -> None:
    assert markers((ROOT / "README.md").read_text(encoding="utf-8")) == ["glance"]
    assert sorted(markers((ROOT / "docs/results.md").read_text(encoding="utf-8"))) == sorted(
        {*NAMES} - {"glance", *STEADINESS}
    )
    assert markers((ROOT / "docs/steadiness.md").read_text(encoding="utf-8")) == [*STEADINESS]


def test_the_filler_knows_the_pages() -> None:
    assert FILLER["PAGES"] == {ROOT / page: notes for page, notes in PAGES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_table_is_filled_from_records_once_between_its_markers(name: str) -> None:
    text = filled(page_of(name), {"run": RECORDS})
    assert text.startswith(f"before\n<!-- table: {name} -->\n\n### ")
    assert text.endswith("<!-- end -->\nafter\n")
    assert FILLER["UNMEASURED"] not in text
    assert text == filled(text, {"run": RECORDS})


def test_the_two_tables_of_stability_count_over_own_and_over_all_images() -> None:
    own, everything = stability_tables(sample_records())
    assert own.markdown() in filled(page_of("stability"), {"run": sample_records()})
    assert everything.markdown() in filled(page_of("stability-all"), {"run": sample_records()})


def test_runs_have_tables_of_their_own_and_several_are_told_apart_by_their_names() -> None:
    records = sample_records()
    once = filled(page_of("accuracy"), {"gtsrb-long": records})
    twice = filled(page_of("accuracy"), {"gtsrb-long": records, "gtsrb-restorers": records})
    assert re.findall(r"### (Table 3.*)", once) == ["Table 3. Accuracy on clean images"]
    assert re.findall(r"### Table 3.*: (\S+)", twice) == ["long", "restorers"]


def test_runs_of_stress_and_of_photographs_are_shown_on_their_own_pages_only() -> None:
    runs: dict[str, list[Measurement]] = {"gtsrb-unet": [], "gtsrb-stress": [], "photographs": []}
    shown = {page: [*FILLER["runs_of_page"](runs, ROOT / page)] for page in PAGES}
    assert shown == {
        "README.md": ["gtsrb-unet"],
        "docs/index.md": ["gtsrb-unet"],
        "docs/results.md": ["gtsrb-unet"],
        "docs/steadiness.md": ["gtsrb-unet", "gtsrb-stress"],
        "docs/photographs.md": ["photographs"],
    }  # fmt: skip


def test_a_run_without_stress_has_no_summary() -> None:
    records = [row for row in sample_records() if isinstance(row, Accuracy | Stability)]
    assert FILLER["UNMEASURED"] in filled(page_of("summary"), {"run": records})


def test_without_records_a_page_says_so() -> None:
    text = filled(page_of(*NAMES), {"run": RECORDS})
    assert filled(text, {}).count(FILLER["UNMEASURED"]) == len(NAMES)
    assert "###" not in filled(text, {})


def test_notes_can_be_left_out() -> None:
    with_notes, without = (
        filled(page_of("accuracy"), {"run": sample_records()}, notes=notes) for notes in (True, False)
    )
    assert len(without) < len(with_notes)


def test_a_marker_that_names_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no table 'speed'; choose one of restoration, hits"):
        filled(page_of("speed"), {})


@pytest.mark.parametrize("name", sorted({name for name in MAPPED if "::" not in name}))
def test_a_function_in_the_map_exists(name: str) -> None:
    found = pkgutil.resolve_name(f"steadylens.{name}")
    assert callable(found) or isinstance(found, Mapping)


@pytest.mark.parametrize("name", sorted({name for name in MAPPED if "::" in name}))
def test_a_test_in_the_map_exists(name: str) -> None:
    module, test = name.split("::")
    assert f"def {test}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")


def test_every_row_of_the_map_names_a_function_and_a_test() -> None:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    rows = text.split("|---|---|---|---|\n")[1].splitlines()
    assert len(rows) > 30
    for row in rows:
        _, _, functions, tests = row.strip("| ").split(" | ")
        assert functions.startswith("`")
        assert "::" in tests


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


# Benchmarks.


def test_the_pages_hold_what_each_benchmark_wrote_and_nothing_else() -> None:
    filler = runpy.run_path(str(ROOT / "docs" / "benchmark_tables.py"), run_name="benchmark_tables")
    texts = [page.read_text(encoding="utf-8") for page in filler["PAGES"]]
    assert texts == [filler["filled"](text) for text in texts], (
        "run .venv/bin/python docs/benchmark_tables.py"
    )
    measured = {path.stem for path in (ROOT / "results" / "benchmarks").glob("*.json")}
    shown = re.findall(r"<!-- benchmark: ([\w-]+) -->", "".join(texts))
    assert len(shown) == len({*shown})
    assert {*shown} >= measured
    scripts = {path.stem for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")}
    assert {name.partition("-")[0] for name in shown} <= scripts  # a script may have run on several machines


def test_a_benchmark_that_has_written_nothing_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    filler = runpy.run_path(str(ROOT / "docs" / "benchmark_tables.py"), run_name="benchmark_tables")
    text = "before\n<!-- benchmark: speed -->\n<!-- end -->\nafter"
    unmeasured = filler["filled"](text, tmp_path)
    assert unmeasured == f"before\n<!-- benchmark: speed -->\n\n{filler['UNMEASURED']}\n\n<!-- end -->\nafter"
    (tmp_path / "speed.json").write_text('{"threads": 2}', encoding="utf-8")
    assert "| threads | 2 |" in filler["filled"](unmeasured, tmp_path)
    assert filler["UNMEASURED"] not in filler["filled"](unmeasured, tmp_path)


def test_what_a_benchmark_wrote_becomes_tables_with_the_columns_that_it_has() -> None:
    filler = runpy.run_path(str(ROOT / "docs" / "benchmark_tables.py"), run_name="benchmark_tables")
    found = {
        "threads": 2,
        "is_fast": True,
        "matrix_rate": {"float32": 1.0, "bfloat16": 12345.6},
        "psnr": [{"method": "ours", "sigma_5": 0.12345}, {"method": "theirs", "sigma_5": 31.0}],
        "batches": [
            {"samples": 50, "milli_seconds": {"a": 1.0, "b": 2.0}, "ratio": {"a": 1, "b": 2}},
            {"samples": 60, "side": 4},
        ],
    }
    assert list(filler["tables"](found)) == [
        "| what | value |\n| --- | ---: |\n| threads | 2 |\n| is fast | yes |\n"
        "| matrix rate, float32 | 1 |\n| matrix rate, bfloat16 | 12,346 |",
        "**psnr**",
        "| method | sigma 5 |\n| --- | ---: |\n| ours | 0.123 |\n| theirs | 31 |",
        "**samples 50**",
        "|  | milli seconds | ratio |\n| --- | ---: | ---: |\n| a | 1 | 1 |\n| b | 2 | 2 |",
        "**samples 60**",
        "| what | value |\n| --- | ---: |\n| side | 4 |",
    ]
