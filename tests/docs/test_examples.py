"""The examples ran when the site was built, and show what they say.

`make docs` runs each example once, and then these tests; before it they have nothing to read and are skipped.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_RUN = {"imagenet_classifier", "restore_on_ray"}  # they need images, and have tests of their own
EXAMPLES = sorted({path.stem for path in (ROOT / "examples").glob("*.py")} - NOT_RUN)
GALLERY = ROOT / "docs" / "gallery"


def page_of(name: str) -> str:
    """Returns the page that the run of an example wrote: its text, its code and what it printed."""
    page = GALLERY / f"{name}.rst"
    if not (GALLERY / f"{name}.py.md5").exists():  # written when an example has run to its end
        pytest.skip("the examples have not run; make docs runs them")
    return page.read_text(encoding="utf-8")


def printed_by(name: str) -> str:
    """Returns what an example printed."""
    blocks = re.findall(r"\.\. code-block:: none\n\n((?:    .*\n|\n)+)", page_of(name))
    return "".join(blocks)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_draws_a_picture_and_warns_of_nothing(name: str) -> None:
    assert f"images/sphx_glr_{name}_001.png" in page_of(name)
    assert (GALLERY / "images" / f"sphx_glr_{name}_001.png").stat().st_size > 10_000
    assert "Warning" not in printed_by(name)


def test_a_photograph_is_restored() -> None:
    ((noisy, restored),) = re.findall(
        r"([\d.]+) dB noisy, ([\d.]+) dB restored", printed_by("restore_photograph")
    )
    assert float(restored) > float(noisy) + 6


def test_noisy_signs_are_restored_and_what_was_trained_is_fused() -> None:
    printed = printed_by("train_on_folder")
    ((noisy, restored),) = re.findall(r"([\d.]+) dB noisy, ([\d.]+) dB restored", printed)
    ((count, alone, fused),) = re.findall(r"right of (\d+) noisy images: (\d+) alone, (\d+) behind", printed)
    assert float(restored) > float(noisy) + 3
    assert min(int(alone), int(fused)) > int(count) / 2, "of 6 classes"


def test_a_resnet_of_another_library_is_fused_in_three_ways_and_compared() -> None:
    printed = printed_by("your_classifier")
    shares = dict(re.findall(r"(\S.*): ([\d.]+)% of the answers stay right under noise", printed))
    assert list(shares) == ["alone", "restorer as it is", "classifier tuned", "restorer tuned"]
    assert all(float(share) >= float(shares["alone"]) for share in shares.values())
    assert "wrote report.html" in printed


def test_a_restorer_keeps_answers_under_the_strongest_noise_of_most_types() -> None:
    lines = re.findall(r"(\S.*), (alone|behind l5-gtsrb): .* (\d+)%\n", printed_by("stress_classifier"))
    kept = {(noise, network): int(share) for noise, network, share in lines}
    noises = {noise for noise, _ in kept}
    assert len(noises) == 5
    better = [noise for noise in noises if kept[noise, "behind l5-gtsrb"] > kept[noise, "alone"]]
    assert len(better) >= 3


def test_a_degradation_of_two_types_draws_both() -> None:
    printed = printed_by("noise_types")
    assert {"Gaussian", "sparse uniform"} == set(re.findall(r"(\w[\w ]*): [\d.]+ grey levels", printed))


def test_signs_are_certified_damaged_and_attacked() -> None:
    printed = printed_by("steadiness")
    radii = re.findall(r"(\S.*), certified radii: (.*)", printed)
    assert [name for name, _ in radii] == ["alone", "behind unet-gtsrb"]
    assert all(0 < max(map(float, found.split())) < 1 for _, found in radii)
    damaged = re.findall(r"right of (\d+): (\d+) alone, (\d+) behind unet-gtsrb", printed)
    assert len(damaged) == 4
    attacked = re.findall(r"attacked, .*: (\d+) of (\d+) stay right", printed)
    assert all(int(right) < int(signs) for right, signs in attacked), "the restorer is no defence"
