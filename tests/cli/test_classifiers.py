"""The commands compare and certify a user's classifier, with and without restorers."""

import importlib
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import save_model
from steadylens.checkpoints.packaged import RESTORERS
from steadylens.cli.main import app
from steadylens.evaluation import experiments
from steadylens.evaluation.stress import attacks, corruptions
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing
from steadylens.nets.third_party import timm_classifier
from steadylens.records import (
    Accuracy,
    Attacked,
    Certificate,
    Corrupted,
    Cost,
    Stability,
    read_records,
)
from tests.cli.class_folders import SIGN_NOTE, SIZE, write_images, write_weights

RESNET = ("timm:test_resnet", "--weights", "net.pth", "--size", str(SIZE))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    """Makes a working folder with images of three classes, nets and weights; the cost is timed only once."""
    monkeypatch.setattr(experiments, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    write_images(Path("images"), names="abc")
    write_weights(Path("net.pth"))
    alone = timm_classifier("test_resnet", weights=Path("net.pth"), size=SIZE)
    save_model(Path("smooth.safetensors"), GaussianSmoothing(), about={})
    save_model(Path("pair.safetensors"), FusedClassifier(GaussianSmoothing(), alone), about={"seconds": 3.0})
    save_model(Path("signs.safetensors"), FusedClassifier(GaussianSmoothing(), SignNet(classes=3)), about={})
    return tmp_path


def compare(*arguments: str) -> tuple[int, str, str]:
    call = ["compare", *arguments, "--data", "folder:images", "--recipe", "smoke", "--device", "cpu"]
    result = CliRunner().invoke(app, [*call, "--cache", "cache", "--out", "out"])
    return result.exit_code, result.stdout, result.stderr


def test_a_classifier_alone_stands_beside_every_pair(workplace: Path) -> None:
    code, said, error = compare(
        *RESNET, "--restorer", "smooth.safetensors", "--fused", "pair.safetensors", "--versions", "2"
    )
    assert (code, error) == (0, "")
    assert said.endswith(f"report: {workplace / 'out' / 'report.html'}\n")
    rows = read_records(workplace / "out" / "records.jsonl")
    names = ["alone", "behind smooth", "pair"]
    assert [row.network for row in rows if isinstance(row, Accuracy) and row.k == 1] == names
    for kind in (Stability, Cost):
        assert list(dict.fromkeys(row.network for row in rows if isinstance(row, kind))) == names
    assert {row.size for row in rows if isinstance(row, Cost)} == {SIZE}
    assert {
        row.samples // row.images for row in rows if isinstance(row, Stability) and row.population == "all"
    } == {2}


def test_damage_and_attacks_are_measured_on_as_many_images_as_is_said(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("steadylens.evaluation.workflows")  # its types are the classes replaced here
    few = partial(corruptions.Corruptions, kinds=("fog", "contrast"), severities=(1, 5))
    monkeypatch.setattr(corruptions, "Corruptions", few)
    monkeypatch.setattr(attacks, "Attacks", partial(attacks.Attacks, l2=(0.5,), linf=(), steps=2))
    stress = ["--corruptions", "--attacks", "--stress-images", "2"]
    code, said, error = compare(*RESNET, "--restorer", "smooth.safetensors", *stress)
    assert (code, error) == (0, "")
    assert "corruptions: note: about" in said
    assert "attacks: note: at most" in said
    rows = read_records(workplace / "out" / "records.jsonl")
    damaged = [row for row in rows if isinstance(row, Corrupted)]
    attacked = [row for row in rows if isinstance(row, Attacked)]
    assert {row.samples for row in (*damaged, *attacked)} == {2}
    assert {row.network for row in damaged} == {row.network for row in attacked} == {"alone", "behind smooth"}
    assert {(row.corruption, row.severity) for row in damaged} == {
        ("none", 0), ("fog", 1), ("fog", 5), ("contrast", 1), ("contrast", 5)
    }  # fmt: skip
    assert {row.epsilon for row in attacked} == {0, 0.5}
    page = (workplace / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="corruptions"' in page
    assert "A restorer is no defence against someone who knows it" in page
    tables = (workplace / "out" / "tables.md").read_text(encoding="utf-8")
    assert "### Damage by kind: behind smooth" in tables
    assert "### Accuracy under attack" in tables


def test_a_missing_library_is_told_before_anything_is_loaded(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    corruptions._library.cache_clear()
    code, said, error = compare("absent.safetensors", "--corruptions")
    assert (code, said) == (2, "")
    assert error.startswith(
        "steadylens: imagecorruptions-imaug is not installed; install it with: pip install"
    )


def test_a_classifier_without_gradients_is_not_attacked(workplace: Path) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()
    torch.onnx.export(net, (torch.rand(1, 3, SIZE, SIZE),), "net.onnx", dynamo=True, verbose=False)
    code, _, error = compare("net.onnx", "--restorer", "smooth.safetensors", "--attacks")
    assert code == 2
    assert (
        "alone cannot be attacked (--attacks): the attacks follow its gradient, which does not exist" in error
    )


def test_photographs_are_fitted_as_the_classifier_tells_or_as_is_said(workplace: Path) -> None:
    for fit in ([], ["--fit", "squash"], ["--fit", "crop"]):
        assert compare(*RESNET, *fit, "--restorer", "smooth.safetensors")[0] == 0
        Path("out/records.jsonl").unlink()
    assert len(list((workplace / "cache").iterdir())) == 3, "each has images of its own"


def test_a_folder_of_test_images_is_compared_whole(workplace: Path) -> None:
    preparation = (
        "timm:test_resnet reads images of 32x32 pixels, fit crop:33, normalised with mean 0.5 0.5 0.5"
    )
    code, said, _ = compare(*RESNET, "--restorer", "smooth.safetensors")
    assert code == 0
    assert preparation in said
    assert "note: 3 of 15 images are for testing, chosen at random" in " ".join(said.split())
    (workplace / "out" / "records.jsonl").unlink()
    (workplace / "images").rename(workplace / "test")
    (workplace / "images").mkdir()
    (workplace / "test").rename(workplace / "images" / "test")
    code, said, error = compare(*RESNET, "--restorer", "smooth.safetensors")
    assert (code, error) == (0, "")
    assert "0 a 0/0/5, 1 b 0/0/5, 2 c 0/0/5" in said
    assert "chosen at random" not in said
    assert "15 for testing" in said


def test_the_packaged_restorer_of_such_images_is_tried_when_none_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESTORERS, "traffic signs", "dong-gtsrb")
    monkeypatch.setitem(RESTORERS, "photographs", "l3-gtsrb")
    code, said, _ = compare(*RESNET)
    assert code == 0
    assert "note: no --restorer is given, so l3-gtsrb is compared" in said
    rows = read_records(workplace / "out" / "records.jsonl")
    assert {row.network for row in rows if isinstance(row, Cost)} == {"alone", "behind l3-gtsrb"}


def test_a_restorer_of_signs_before_a_classifier_of_photographs_is_noted(workplace: Path) -> None:
    code, said, _ = compare(*RESNET, "--restorer", "l3-gtsrb", "--restorer", "smooth.safetensors")
    assert code == 0
    assert " ".join(said.split()).count(SIGN_NOTE) == 1


def certify(*arguments: str) -> tuple[int, str, str]:
    call = ["certify", *arguments, "--data", "folder:images", "--recipe", "smoke", "--device", "cpu"]
    result = CliRunner().invoke(app, [*call, "--cache", "cache", "--out", "out"])
    return result.exit_code, result.stdout, result.stderr


CERTIFYING = ("--sigma", "0.12", "--sigma", "0.5", "--n0", "3", "--n", "20", "--alpha", "0.01")


def test_a_classifier_is_certified_alone_and_behind_restorers(workplace: Path) -> None:
    arguments = (*RESNET, "--restorer", "smooth.safetensors", "--fused", "pair.safetensors", *CERTIFYING)
    code, said, error = certify(*arguments, "--images", "2", "--batch", "4", "--precision", "bfloat16")
    assert (code, error) == (0, "")
    assert said.endswith(f"report: {workplace / 'out' / 'report.html'}\n")
    assert re.search(r"certificates: note: about .* s in all: 12 times an image of a network, with 23", said)
    rows = read_records(workplace / "out" / "records.jsonl")
    assert [(row.sigma, row.network) for row in rows if isinstance(row, Certificate)] == [
        (sigma, name) for sigma in (0.12, 0.5) for name in ("alone", "behind smooth", "pair")
    ]
    for row in rows:
        assert isinstance(row, Certificate)
        assert (row.samples, row.first_versions, row.versions, row.alpha) == (2, 3, 20, 0.01)
        assert row.precision == "bfloat16"
    assert "### Certified accuracy" in (workplace / "out" / "tables.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("workplace")
def test_a_classifier_without_restorers_is_certified_too() -> None:
    few = ("--n", "12", "--n0", "1", "--images", "1")
    assert certify(*RESNET, *few)[0] == 0
    (row,) = read_records(Path("out/records.jsonl"))
    assert isinstance(row, Certificate)
    assert (row.network, row.sigma, row.precision) == ("alone", 0.25, "float32")
    assert certify(*RESNET, *few)[1].count("skipped: measured before") == 1


@pytest.mark.usefixtures("workplace")
def test_a_comparison_certifies_if_it_is_asked_to() -> None:
    arguments = ("--certify", "--certify-n", "15", "--certify-images", "1", "--certify-sigma", "0.3")
    assert compare(*RESNET, "--restorer", "smooth.safetensors", *arguments)[0] == 0
    rows = read_records(Path("out/records.jsonl"))
    found = [(row.network, row.sigma, row.versions) for row in rows if isinstance(row, Certificate)]
    assert found == [("alone", 0.3, 15), ("behind smooth", 0.3, 15)]
    assert any(isinstance(row, Stability) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigma", "64"], "sigma is 64.0, .* divide grey levels by 255"),
        (["--n", "5"], r"versions \(--n, --certify-n\) is 5, too few"),
        (["--alpha", "1"], r"alpha \(--alpha\) is 1\.0"),
        (["--n0", "0"], r"first_versions \(--n0\) is 0"),
        (["--images", "0"], r"images \(--images, --certify-images\) is 0"),
        (["--batch", "0"], r"batch \(--batch\) is 0"),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_options_that_certify_nothing_are_refused_before_images_are_read(
    arguments: list[str], message: str
) -> None:
    code, said, error = certify(*RESNET, *arguments)
    assert (code, said) == (2, "")
    assert re.search(message, " ".join(error.split()))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*RESNET, "--restorer", "l12-gtsrb"], 2, "there is no net 'l12-gtsrb'"),
        ([*RESNET, "--certify-n", "500"], 2, "--certify-precision need --certify"),
        ([*RESNET, "--certify-sigma", "0.5"], 2, "--certify-precision need --certify"),
        ([*RESNET, "--fused", "absent.safetensors"], 1, r"there is no file absent\.safetensors"),
        ([*RESNET, "--fused", "smooth.safetensors"], 2, "smooth.safetensors holds a GaussianSmoothing"),
        (
            [*RESNET, "--fused", "signs.safetensors"],
            2,
            "signs reads images of 48 pixels and timm:test_resnet of 32",
        ),
        (
            [*RESNET, *2 * ["--fused", "pair.safetensors"]],
            2,
            "the pairs are called pair, pair; give each file a different name",
        ),
        ([*RESNET, "--autoattack"], 2, "--autoattack needs --attacks"),
        ([*RESNET, "--stress-images", "5"], 2, "--stress-images needs --corruptions or --attacks"),
        ([*RESNET, "--attacks", "--stress-images", "0"], 2, "images is 0, at least 1 must be attacked"),
        ([*RESNET, "--fit", "pad"], 2, "a fit is 'pad'; it must be squash or crop"),
        (
            [*RESNET, "--fit", "squash", "--fused", "pair.safetensors"],
            2,
            "pair reads .* by crop:33 and timm:test_resnet by squash; give --fit crop:33",
        ),
        (["sign-gtsrb"], 2, "sign-gtsrb tells 43 classes apart, folder:images has 3"),
        (["timm:test_resnet"], 2, "has random weights; give its own by --weights FILE"),
    ],
)
@pytest.mark.usefixtures("workplace")
def test_what_cannot_be_compared_is_told_in_one_line(arguments: list[str], code: int, message: str) -> None:
    found, said, error = compare(*arguments)
    assert found == code
    assert re.fullmatch(f"steadylens: .*{message}.*\n", error)
    assert "Traceback" not in said + error
    assert not Path("out").exists()
