"""One command tells what restorers do for a classifier of one's own."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from steadylens import compare_command, cost
from steadylens.checkpoint import save_model
from steadylens.classification import SignNet
from steadylens.classifiers import timm_classifier
from steadylens.cli import app
from steadylens.fusion import FusedClassifier
from steadylens.recordfiles import read_records
from steadylens.records import Accuracy, Cost, Stability
from steadylens.restoration import GaussianSmoothing

SIZE = 32
NET = ("timm:test_resnet", "--weights", "net.pth", "--size", str(SIZE))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working folder, with images of three classes, nets and weights; times are not looked at."""
    monkeypatch.setattr(cost, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    for label in "abc":
        Path("images", label).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("images", label, f"{number}.png"))
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), "net.pth")
    alone = timm_classifier("test_resnet", weights=Path("net.pth"), size=SIZE)
    save_model(Path("smooth.safetensors"), GaussianSmoothing(), about={})
    save_model(Path("pair.safetensors"), FusedClassifier(GaussianSmoothing(), alone), about={"seconds": 3.0})
    save_model(Path("signs.safetensors"), FusedClassifier(GaussianSmoothing(), SignNet(classes=3)), about={})
    return tmp_path


def compare(*arguments: str) -> tuple[int, str, str]:
    call = ["compare", *arguments, "--data", "folder:images", "--recipe", "smoke", "--device", "cpu"]
    result = CliRunner().invoke(app, [*call, "--cache", "cache", "--out", "out"])
    return result.exit_code, result.stdout, result.stderr


def test_a_classifier_alone_stands_beside_every_pair(place: Path) -> None:
    code, said, error = compare(
        *NET, "--restorer", "smooth.safetensors", "--fused", "pair.safetensors", "--versions", "2"
    )
    assert (code, error) == (0, "")
    assert said.endswith(f"report: {place / 'out' / 'report.html'}\n")
    rows = read_records(place / "out" / "records.jsonl")
    names = ["alone", "behind smooth", "pair"]
    assert [row.network for row in rows if isinstance(row, Accuracy) and row.k == 1] == names
    for kind in (Stability, Cost):
        assert list(dict.fromkeys(row.network for row in rows if isinstance(row, kind))) == names
    assert {row.size for row in rows if isinstance(row, Cost)} == {SIZE}
    assert {
        row.samples // row.images for row in rows if isinstance(row, Stability) and row.population == "all"
    } == {2}


def test_photographs_are_fitted_as_the_classifier_tells_or_as_is_said(place: Path) -> None:
    for fit in ([], ["--fit", "squash"], ["--fit", "crop"]):
        assert compare(*NET, *fit, "--restorer", "smooth.safetensors")[0] == 0
    assert len(list((place / "cache").iterdir())) == 3, "each has images of its own"


def test_a_packaged_restorer_is_tried_when_none_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare_command.PACKAGED == "l11-gtsrb"
    monkeypatch.setattr(compare_command, "PACKAGED", "l3-gtsrb")  # it is quicker
    assert compare(*NET)[0] == 0
    rows = read_records(place / "out" / "records.jsonl")
    assert {row.network for row in rows if isinstance(row, Cost)} == {"alone", "behind l3-gtsrb"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*NET, "--restorer", "l12-gtsrb"], 2, "there is no net 'l12-gtsrb'"),
        ([*NET, "--fused", "absent.safetensors"], 1, r"there is no file absent\.safetensors"),
        ([*NET, "--fused", "smooth.safetensors"], 2, "smooth.safetensors holds a GaussianSmoothing"),
        (
            [*NET, "--fused", "signs.safetensors"],
            2,
            "signs reads images of 48 pixels and timm:test_resnet of 32",
        ),
        (
            [*NET, *2 * ["--fused", "pair.safetensors"]],
            2,
            "the pairs are called pair, pair; give each file a name",
        ),
        ([*NET, "--fit", "pad"], 2, "a fit is 'pad'; it must be squash or crop"),
        (
            [*NET, "--fit", "squash", "--fused", "pair.safetensors"],
            2,
            "pair reads .* by crop:33 and timm:test_resnet by squash; give --fit crop:33",
        ),
        (["sign-gtsrb"], 2, "sign-gtsrb tells 43 classes apart, folder:images has 3"),
        (["timm:test_resnet"], 2, "has random weights; give its own by --weights FILE"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_cannot_be_compared_is_told_in_one_line(arguments: list[str], code: int, message: str) -> None:
    found, said, error = compare(*arguments)
    assert found == code
    assert re.fullmatch(f"steadylens: .*{message}.*\n", error)
    assert "Traceback" not in said + error
    assert not Path("out").exists()
