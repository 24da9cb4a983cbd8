"""The pages of the documentation site agree with the package and with the records."""

import re
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

import steadylens
from tests.browsers import chromium

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PACKAGES = sorted(path.parent.name for path in Path(steadylens.__file__).parent.glob("*/__init__.pyi"))


def test_every_package_with_public_names_has_its_page_of_reference() -> None:
    pages = {path.stem for path in REFERENCE.glob("*.md")}
    assert pages == {"index", *PACKAGES}
    index = (REFERENCE / "index.md").read_text(encoding="utf-8")
    assert (
        re.findall(r"^   steadylens\.(\w+)$", index, re.MULTILINE)
        == index.split("hidden:\n\n")[1].split()[:-1]
    )
    for name in PACKAGES:
        assert f".. face:: steadylens.{name}\n" in (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def test_every_example_has_its_place_in_the_gallery() -> None:
    settings = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(\w+\.py)"', settings)) == {
        path.name for path in (ROOT / "examples").glob("*.py")
    }


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_no_line_is_taken_for_a_comment(page: Path) -> None:
    """A line that starts with a per cent sign is one, and splits its paragraph."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^%.*", text, re.MULTILINE)


def test_no_page_is_wider_than_the_window(tmp_path: Path) -> None:
    """Wide tables scroll by themselves, beside menus of any width."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text(
        'extensions = ["myst_parser"]\nhtml_theme = "furo"\n'
        f'html_static_path = [{str(DOCS / "static")!r}]\nhtml_css_files = ["site.css"]\n',
        encoding="utf-8",
    )
    cells = " | ".join(f"column {number}" for number in range(30))
    table = f"| {cells} |\n|{30 * ' --- |'}\n| {cells} |\n"
    text = f"# Page\n\n## First\n\n{60 * 'word '}\n\n{table}\n## Second\n\n{60 * 'word '}\n"
    (source / "index.md").write_text(text, encoding="utf-8")
    assert build_main(["-q", str(source), str(tmp_path / "site")]) == 0
    with chromium(tmp_path) as browser:
        for width in (400, 800, 1050, 1200, 1400, 2000):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get((tmp_path / "site" / "index.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
