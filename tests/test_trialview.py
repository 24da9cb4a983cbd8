"""The page shows the trial, in words that fit, and a sentence where there can be none."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from steadylens.trial import Nets, try_out
from steadylens.trialview import Choice, answer


@pytest.fixture(scope="module")
def nets() -> Nets:
    return Nets.named("l3-gtsrb", "sign-gtsrb", "fused-gtsrb", device=torch.device("cpu"))


def saved(path: Path, width: int, height: int) -> str:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_the_page_holds_the_pictures_and_figures_of_the_trial(nets: Nets) -> None:
    choice = Choice(sign=14, strength_grey=25)
    html = answer(choice, nets)
    trial = try_out(choice.image(), choice.noise(), nets)
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    pictures = (trial.clean, trial.noisy, trial.pattern, trial.restored)
    for source, picture in zip(sources, pictures, strict=True):
        found = np.array(Image.open(io.BytesIO(b64decode(source))))
        assert torch.from_numpy(found).permute(2, 0, 1).equal(picture)
    assert f"PSNR {trial.noisy_db:.1f} dB" in html
    assert f"PSNR {trial.restored_db:.1f} dB" in html
    for listed in (trial.classifier.noisy, trial.fused.noisy):
        for each in listed:
            assert re.search(rf">{re.escape(each.label)}.*>{100 * each.probability:.1f} %<", html)
    assert html.count("<em>drawn</em>") == 2


def test_the_page_starts_with_an_answer_that_restoring_saves(nets: Nets) -> None:
    html = answer(Choice(), nets)
    assert "The noise changed the answer of the classifier alone, not of the fused one." in html
    assert html.count("Changed by the noise") == html.count("Unchanged by the noise") == 1
    assert "This example was chosen for its change" in html
    assert "about one drawn sign in four is misread" in html
    own = replace(nets, classifier=replace(nets.classifier, name="mine"))
    assert not re.search("chosen for its change|is misread", answer(Choice(), own)), "what is known of ours"
    assert "chosen for its change" not in answer(Choice(seed=1), nets)


def test_without_noise_the_page_says_so(nets: Nets) -> None:
    html = answer(Choice(strength_grey=0), nets)
    assert "identical to the clean image" in html
    assert "The noise changed neither answer." in html


def test_a_file_is_worked_on_at_the_size_of_the_classifier_or_at_its_own(nets: Nets, tmp_path: Path) -> None:
    small = Choice(file=saved(tmp_path / "small.png", 90, 60))
    assert "small.png, 48x48" in answer(small, nets)
    whole = answer(small._replace(own_size=True), nets)
    assert "small.png, 90x60" in whole
    assert "averages much of the noise away" in whole
    assert "drawn sign" not in whole.lower()


def test_a_large_file_is_made_smaller_and_the_page_says_so(nets: Nets, tmp_path: Path) -> None:
    html = answer(Choice(file=saved(tmp_path / "large.png", 1200, 100), own_size=True), nets)
    assert "large.png, 384x32" in html
    assert "The image has 1,200x100 pixels" in html


def test_a_problem_is_told_in_a_sentence(nets: Nets, tmp_path: Path) -> None:
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


def test_the_name_of_a_file_cannot_smuggle_in_markup(nets: Nets, tmp_path: Path) -> None:
    html = answer(Choice(file=saved(tmp_path / "<b onload=x>.png", 20, 20)), nets)
    assert "<b onload" not in html
    assert "&lt;b onload=x&gt;.png" in html
