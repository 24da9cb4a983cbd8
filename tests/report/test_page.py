"""The page and the Markdown file are complete, self-contained, well-formed and the same every time."""

import base64
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from steadylens.errors import RecordError
from steadylens.records import (
    Accuracy,
    Attacked,
    Confusion,
    Curve,
    Hits,
    Measurement,
    Picture,
    Provenance,
    Restoring,
    Stability,
    write_records,
)
from steadylens.report.page import facts, write_report, write_tables
from steadylens.report.tables import select
from tests.browsers import chromium
from tests.sample_records import PROVENANCE, pictures, sample_records

RECORDS = sample_records()


def test_facts_are_accuracy_stability_and_restoration() -> None:
    found = [(fact.name, fact.before, fact.after, fact.unit) for fact in facts(RECORDS)]
    assert found == [
        ("Accuracy on clean images", "98.93", "99.40", "%"),
        ("Stability under noise", "93.33", "98.00", "%"),
        ("Restoration", "27.9", "31.1", "dB"),
    ]


def test_facts_quote_the_papers_numbers() -> None:
    accuracy, stability, _ = facts(RECORDS)
    assert "paper 99.05 and 99.52" in accuracy.note
    assert "paper 93.2 and 98.5" in stability.note


def test_restoration_names_the_best_net_and_where_it_helps_least() -> None:
    note = facts(RECORDS)[2].note
    assert "after L11" in note
    assert "the least gain is +0.19 dB, at \N{GREEK SMALL LETTER SIGMA} = 1" in note


def test_harm_at_weak_noise_is_shown() -> None:
    rows = [replace(row, restored_db=30.8) for row in select(RECORDS, Restoring) if row.sigma_grey > 0]
    assert "the least gain is -17.63 dB" in facts(rows)[0].note


def test_without_the_fused_network_there_is_nothing_to_compare() -> None:
    rows = [
        row
        for row in RECORDS
        if isinstance(row, Accuracy | Stability) and row.network != "restoration + original"
    ]
    assert facts(rows) == []


def test_each_noise_mode_has_a_fact_of_its_own() -> None:
    rows = select(RECORDS, Stability)
    found = facts([*rows, *(replace(row, noise="unclipped") for row in rows)])
    assert [fact.name for fact in found] == ["Stability under noise"] * 2
    assert "noise unclipped" in found[1].note


def test_each_kind_of_noise_has_a_fact_and_a_name_of_its_own() -> None:
    rows = select(RECORDS, Stability)
    found = facts([*rows, *(replace(row, noise="poisson, clipped, 8-bit") for row in rows)])
    names = ["Stability under Gaussian noise", "Stability under Poisson-Gaussian noise"]
    assert [fact.name for fact in found] == names
    assert "noise clipped, 8-bit" in found[1].note
    assert "paper" in found[0].note
    assert "paper" not in found[1].note


FEW = [record for record in RECORDS if isinstance(record, Stability | Hits | Picture)]
"""Records of a few types, whose page is drawn quickly."""


VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Collects the elements of a page, and fails where they are not closed in the right order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.targets += [value for name, value in attrs if name in {"href", "src"} and value]
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"h2", "h3", "h4"}:
            self.headings.append(data)


def run_python(code: str, folder: Path) -> str:
    """Runs code in a fresh interpreter and returns what it printed."""
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def page_of(records: Sequence[Measurement], folder: Path) -> str:
    write_report(records, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(RECORDS, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def test_the_page_is_well_formed_with_unique_ids(page: str, outline: Outline) -> None:
    assert page.startswith("<!DOCTYPE html>")
    assert {"html", "head", "body", "main", "header", "footer", "nav"} <= set(outline.tags)
    assert len(outline.ids) == len(set(outline.ids))


def test_the_page_loads_nothing_from_elsewhere(page: str, outline: Outline) -> None:
    assert "http" not in page
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert all(target.startswith(("data:image/", "#")) for target in outline.targets)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"url\(|@import", page)


def test_the_figures_are_svg_and_the_samples_png(outline: Outline) -> None:
    heads = {"data:image/svg+xml": b"<?xml", "data:image/png": b"\x89PNG"}
    for target in outline.targets:
        if target.startswith("data:"):
            kind, data = target.split(";base64,")
            assert base64.b64decode(data).startswith(heads[kind])


def test_every_image_has_an_alternative_text(outline: Outline) -> None:
    assert len(outline.images) > 40
    assert all(image["alt"] for image in outline.images)


def test_every_link_leads_to_a_section(outline: Outline) -> None:
    links = {target[1:] for target in outline.targets if target.startswith("#")}
    assert links == set(outline.ids)


def test_sections_tables_and_figures_are_in_the_papers_order(outline: Outline) -> None:
    wanted = [
        "Summary", "With and without the restorer",
        "Method", "Figure 1. The method", "Training", "Restoration", "Figure 3. Restoration net by net",
        "Table 2. Which net restores best", "Accuracy", "Table 3. Accuracy on clean images", "Stability",
        "Table 4. Accuracy under Gaussian noise (clipped, 8-bit), on all images",
        "Corruptions", "Damage by severity", "Attacks", "Accuracy under attack", "Cost", "Samples",
        "Figure 2. What the restoration net does", "Figure 4. Answers corrected by restoration", "Provenance",
    ]  # fmt: skip
    places = [outline.headings.index(heading) for heading in wanted]
    assert places == sorted(places)


def test_the_main_numbers_are_at_the_top(page: str) -> None:
    top = page[: page.index("<main>")]
    assert all(number in top for number in ("98.93", "99.40", "93.33", "98.00", "27.9", "31.1"))


def test_the_summary_is_the_first_table_and_warns_of_doubtful_classes(page: str, tmp_path: Path) -> None:
    assert page.index('<section id="summary">') == page.index("<section ")
    assert page.index('class="cards"') == page.index("<table") + len("<table ")
    muddled = [
        replace(row, cells=tuple((label, (answer + 1) % 6, count) for label, answer, count in row.cells))
        for row in select(RECORDS, Confusion)
    ]
    doubtful = page_of([*select(RECORDS, Accuracy), *muddled], tmp_path)
    summary = doubtful[doubtful.index('id="summary"') : doubtful.index('id="accuracy"')]
    assert "Doubtful:" in summary


def test_the_summary_is_a_table_where_there_is_room_and_cards_where_not(tmp_path: Path) -> None:
    write_report([*select(RECORDS, Accuracy), *select(RECORDS, Attacked)], tmp_path / "report.html")
    with chromium(tmp_path) as browser:
        for width in (390, 1280):
            metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get((tmp_path / "report.html").as_uri())
            check_summary(browser, stacked=width < 800)


def check_summary(browser: Chrome, *, stacked: bool) -> None:
    """Says that the cells of the summary stand one below the other, or else side by side, and fit."""
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    found = browser.execute_script(
        "const [a, b] = document.querySelectorAll('.cards tbody td'); return a.offsetTop < b.offsetTop"
    )
    assert found == stacked
    labels = browser.execute_script(
        "return [...document.querySelectorAll('.cards tbody tr:first-child td')]"
        ".map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert ('"original"' in labels) == stacked
    inside = browser.execute_script(
        "const box = document.querySelector('.scroll'); return box.scrollWidth - box.clientWidth"
    )
    assert inside <= 0, "the sentences can be read without scrolling sideways"


def test_the_page_says_where_it_comes_from(page: str) -> None:
    end = page[page.index('id="provenance"') :]
    facts = (PROVENANCE.recipe, PROVENANCE.data, PROVENANCE.commit, PROVENANCE.device)
    assert all(f"<dd>{fact}</dd>" in end for fact in facts)
    assert "torch 2.14.1" in end


def test_time_that_records_share_counts_once(page: str) -> None:
    end = page[page.index("What was measured") :]
    row = re.search(r'<th scope="row">Hits</th><td>6</td><td>189,450</td><td>(.*?)</td>', end)
    assert row is not None
    assert row[1] == "15 min 50 s"


def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    nasty = '"><script>alert(1)</script>'
    picture = replace(select(pictures(), Picture)[0], title=nasty)
    rows = [replace(row, network=nasty) for row in select(RECORDS, Stability)]
    page = page_of([picture, *rows], tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    Outline(page)


def test_sections_without_records_are_left_out(tmp_path: Path) -> None:
    outline = Outline(page_of(select(RECORDS, Curve), tmp_path))
    assert outline.ids == ["training", "provenance"]
    assert "dl" in outline.tags
    assert "Restoration" not in outline.headings


@pytest.mark.parametrize("kind", sorted({type(record).__name__ for record in RECORDS}))
def test_each_type_of_record_makes_a_page_by_itself(kind: str, tmp_path: Path) -> None:
    rows = [record for record in RECORDS if type(record).__name__ == kind]
    assert f'<th scope="row">{kind}</th>' in page_of(rows, tmp_path)


def test_restoration_of_clean_images_alone_has_a_table_and_no_curve(tmp_path: Path) -> None:
    rows = [row for row in select(RECORDS, Restoring) if row.sigma_grey == 0]
    outline = Outline(page_of(rows, tmp_path))
    assert "Restoration of Gaussian noise" in outline.headings
    assert not outline.images


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    assert page_of(FEW, tmp_path / "one") == page_of(FEW, tmp_path / "two")


def test_tables_are_written_as_markdown(tmp_path: Path) -> None:
    write_tables(RECORDS, tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert text.count("\n### ") + text.startswith("### ") == 23
    assert "| in the paper | 99.05 | 99.69 | 99.81 |" in text
    assert "Noise clipped, 8-bit" in text


@pytest.mark.parametrize("write", [write_report, write_tables])
def test_an_empty_list_of_records_is_refused_with_the_way_out(write: object, tmp_path: Path) -> None:
    assert callable(write)
    with pytest.raises(RecordError, match="measure first"):
        write([], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [replace(PROVENANCE, data="other"), replace(PROVENANCE, recipe="paper")])
def test_records_of_several_runs_are_refused(other: Provenance, tmp_path: Path) -> None:
    rows = [*RECORDS, replace(RECORDS[0], provenance=other)]
    with pytest.raises(RecordError, match="of 2 runs"):
        write_report(rows, tmp_path / "report.html")


def test_tables_show_the_first_seed_and_the_variation_over_all(tmp_path: Path) -> None:
    again = [
        replace(row, correct=row.correct - 50, provenance=replace(PROVENANCE, seed=4))
        for row in select(RECORDS, Accuracy)
    ]
    alone, both = tmp_path / "alone.md", tmp_path / "both.md"
    write_tables(RECORDS, alone)
    write_tables([*RECORDS, *again], both)
    first, variation = both.read_text(encoding="utf-8").split("### Variation over seeds")
    assert first.strip() == alone.read_text(encoding="utf-8").strip()
    assert "seeds 3, 4;" in variation


def test_records_of_one_run_may_come_from_several_commits_and_devices(tmp_path: Path) -> None:
    elsewhere = replace(PROVENANCE, commit="fedcba9", device="a CPU")
    page = page_of([RECORDS[0], replace(RECORDS[1], provenance=elsewhere)], tmp_path)
    assert "0123abc, fedcba9" in page
    assert "one GPU, a CPU" in page


def test_a_report_is_made_without_torch_and_pyplot(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", FEW)
    code = (
        "import sys; from pathlib import Path; from steadylens.records import read_records; "
        "from steadylens.report.page import write_report; folder = Path(sys.argv[1]); "
        "write_report(read_records(folder / 'records.jsonl'), folder / 'report.html'); "
        "print(sorted({'torch', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    assert run_python(code, tmp_path) == "[]"


def test_tables_are_written_without_matplotlib_and_the_page_says_what_is_missing(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", FEW)
    code = (
        "import sys; sys.modules['matplotlib'] = None; from pathlib import Path; "
        "from steadylens.errors import MissingExtraError; from steadylens.records import read_records; "
        "from steadylens.report.page import write_report, write_tables; folder = Path(sys.argv[1]); "
        "rows = read_records(folder / 'records.jsonl'); write_tables(rows, folder / 'tables.md')\n"
        "try: write_report(rows, folder / 'report.html')\n"
        "except MissingExtraError as error: print(error)"
    )
    assert run_python(code, tmp_path).startswith("matplotlib is not installed; install it with: pip")
    assert (tmp_path / "tables.md").exists()
    assert not (tmp_path / "report.html").exists()
