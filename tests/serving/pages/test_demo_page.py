"""The page shows the result of a run, or the reason why there is none.

In a real browser, every input has its effect, nothing overflows, and nothing is loaded from elsewhere.
"""

import io
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from steadylens.serving.pages.demo import DemoNets, run_demo
from steadylens.serving.pages.demo_page import Choice, answer
from tests.serving.pages.sites import Site


@pytest.fixture(scope="module")
def nets() -> DemoNets:
    return DemoNets.named("l3-gtsrb", "sign-gtsrb", "fused-gtsrb", device=torch.device("cpu"))


def saved(path: Path, width: int, height: int) -> str:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_the_page_holds_the_images_and_figures_of_the_result(nets: DemoNets) -> None:
    choice = Choice(sign=14, strength_grey=25)
    html = answer(choice, nets)
    result = run_demo(choice.image(), choice.noise(), nets)
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    images = (result.clean, result.noisy, result.pattern, result.restored)
    for source, image in zip(sources, images, strict=True):
        found = np.array(Image.open(io.BytesIO(b64decode(source))))
        assert torch.from_numpy(found).permute(2, 0, 1).equal(image)
    assert f"PSNR {result.noisy_db:.1f} dB" in html
    assert f"PSNR {result.restored_db:.1f} dB" in html
    for listed in (result.classifier.noisy, result.fused.noisy):
        for each in listed:
            assert re.search(rf">{re.escape(each.label)}.*>{100 * each.probability:.1f} %<", html)
    assert html.count("<em>true class</em>") == 2


def test_the_page_starts_with_an_answer_that_restoring_keeps(nets: DemoNets) -> None:
    html = answer(Choice(), nets)
    assert "The noise changed the answer of the classifier alone, but not of the fused classifier." in html
    assert html.count("Changed by the noise") == html.count("Unchanged by the noise") == 1
    assert "This example was selected because the noise changes an answer" in html
    assert "misreads about one synthetic sign in four" in html
    own = replace(nets, classifier=replace(nets.classifier, packaged=""))  # a file, whatever its name
    assert not re.search("example was selected|misreads", answer(Choice(), own)), "what is known of ours"
    assert "example was selected" not in answer(Choice(seed=1), nets)


def test_without_noise_the_page_says_so(nets: DemoNets) -> None:
    html = answer(Choice(strength_grey=0), nets)
    assert "identical to the clean image" in html
    assert "The noise changed neither answer." in html


def test_a_file_is_resized_for_the_classifier_or_keeps_its_size(nets: DemoNets, tmp_path: Path) -> None:
    small = Choice(file=saved(tmp_path / "small.png", 90, 60))
    assert "small.png, 48x48" in answer(small, nets)
    whole = answer(small._replace(own_size=True), nets)
    assert "small.png, 90x60" in whole
    assert "averages much of the noise away" in whole
    assert "synthetic sign" not in whole.lower()


def test_a_large_file_is_made_smaller_and_the_page_says_so(nets: DemoNets, tmp_path: Path) -> None:
    html = answer(Choice(file=saved(tmp_path / "large.png", 1200, 100), own_size=True), nets)
    assert "large.png, 384x32" in html
    assert "The image has 1,200x100 pixels" in html


def test_an_error_is_told_in_a_sentence(nets: DemoNets, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    html = answer(Choice(file=str(broken)), nets)
    assert 'role="alert"' in html
    assert "broken.jpg is damaged or cut off" in html
    assert "<img" not in html
    assert str(tmp_path) not in html
    for wrong, told in (
        ({"strength_grey": None}, "the strength is empty"),
        ({"percent": None}, "the share is empty"),
        ({"seed": None}, "a seed is None"),
        ({"drawing": -1}, "a seed is -1"),
    ):
        assert told in answer(Choice()._replace(**wrong), nets)


def test_the_name_of_a_file_is_escaped(nets: DemoNets, tmp_path: Path) -> None:
    html = answer(Choice(file=saved(tmp_path / "<b onload=x>.png", 20, 20)), nets)
    assert "<b onload" not in html
    assert "&lt;b onload=x&gt;.png" in html


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Site):
    """The page for classifiers in a browser."""

    def open(self, width: int = 1280, height: int = 900, *, mobile: bool = False) -> None:
        self.visit("/classifiers/", width, height, mobile=mobile)
        self.wait_for(lambda: len(self.images()) == 4)

    def images(self) -> list[str]:
        found: list[str] = self.browser.execute_script(
            "return [...document.querySelectorAll('#result img')].map(image => image.src)"
        )
        return found

    def renewed(self, act: Callable[[], Any]) -> tuple[list[str], list[str]]:
        """Does something, and returns the images before it and those after it."""
        before = self.images()
        act()
        self.wait_for(lambda: self.images() != before and self.images())
        return before, self.images()

    def choose(self, selector: str, name: str) -> None:
        self.find(f"{selector} input").click()
        self.wait_for(lambda: self.shown("[role=option]"))
        options = self.browser.find_elements(By.CSS_SELECTOR, "[role=option]")
        next(option for option in options if option.text.strip().removeprefix("✓").strip() == name).click()

    def upload(self, path: Path) -> None:
        if self.browser.find_elements(By.CSS_SELECTOR, "#file [aria-label='Clear']"):
            self.find("#file [aria-label='Clear']").click()
            self.wait_for(lambda: self.browser.find_elements(By.CSS_SELECTOR, "#file input[type=file]"))
        self.find("#file input[type=file]").send_keys(str(path))


@pytest.fixture(scope="module")
def page(site: Site) -> Page:
    return Page(browser=site.browser, address=site.address, folder=site.folder)


def photograph(path: Path, width: int, height: int) -> Path:
    coarse = np.random.default_rng(2).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def test_a_synthetic_sign_is_shown_restored_and_classified(page: Page) -> None:
    page.open()
    assert page.text("#result .card h3") == "Classifier alone sign-gtsrb|Fused classifier fused-gtsrb"
    before, after = page.renewed(lambda: page.choose("#sign", "Yield"))
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert "Yield\ntrue class" in page.text("#result .card").replace(" true class", "\ntrue class")
    page.renewed(page.find("#redraw").click)


def test_the_slider_changes_noise_restored_image_and_answers(page: Page) -> None:
    page.open()
    assert "Changed by the noise" in page.text("#result .card:first-child")
    slider = page.find("#strength input[type=range]")
    before, after = page.renewed(lambda: slider.send_keys(Keys.HOME))
    assert before[0] == after[0]
    assert before[3] != after[3]
    page.wait_for(lambda: "identical to the clean image" in page.text("#result"))
    assert page.text("#result .verdict") == "Unchanged by the noise|Unchanged by the noise"
    page.renewed(lambda: slider.send_keys(Keys.ARROW_RIGHT * 10))
    page.wait_for(lambda: "28." in page.text("#result figure:nth-child(2)"))


def test_a_noise_type_shows_the_settings_that_it_has(page: Page) -> None:
    page.open()
    assert page.shown("#strength")
    assert not page.shown("#percent")
    page.renewed(lambda: page.choose("#noise-type", "salt and pepper"))
    page.wait_for(lambda: page.shown("#percent") and not page.shown("#strength"))
    page.renewed(lambda: page.choose("#noise-type", "sparse uniform"))
    page.wait_for(lambda: page.shown("#percent") and page.shown("#strength"))


def test_noise_is_drawn_again_with_the_next_seed(page: Page) -> None:
    page.open()
    before, after = page.renewed(page.find("#again").click)
    assert before[0] == after[0]
    assert before[1] != after[1]
    page.find("#more button").click()
    page.wait_for(lambda: page.shown("#seed input"))
    assert page.find("#seed input").get_attribute("value") == "1"
    _, again = page.renewed(lambda: page.find("#seed input").send_keys(Keys.BACKSPACE, "0"))
    page.wait_for(lambda: page.images() == before)
    assert again


def test_a_file_is_taken_and_a_broken_one_explained(page: Page, tmp_path: Path) -> None:
    page.open()
    page.renewed(lambda: page.upload(photograph(tmp_path / "street.png", 120, 80)))
    page.wait_for(lambda: "street.png, 48x48" in page.text("#result"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page.upload(tmp_path / "broken.png")
    page.wait_for(lambda: "broken.png is damaged or cut off" in page.text("#result [role=alert]"))
    assert "Traceback" not in page.text("body")
    assert not page.images()
    page.choose("#sign", "Stop")
    page.wait_for(lambda: len(page.images()) == 4 and "synthetic sign" in page.text("#result"))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(width: int, page: Page, tmp_path: Path) -> None:
    page.open(width, mobile=width < 800)
    assert page.overflow() <= 0
    page.find("#more button").click()
    name = "a_very_long_name_of_a_file_that_somebody_has_dropped_on_the_page_to_see_what_it_does.png"
    page.renewed(lambda: page.upload(photograph(tmp_path / name, 700, 500)))
    page.renewed(page.find("#size label:last-child input").click)
    page.wait_for(lambda: "The image has 700x500 pixels" in page.text("#result"))
    assert page.overflow() <= 0
    stacked = page.browser.execute_script(
        "const [a, b] = document.querySelectorAll('#result .card'); return a.offsetTop < b.offsetTop"
    )
    assert stacked == (width < 800)
