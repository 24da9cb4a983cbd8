"""The commands compare a user's classifier with and without restorers, and fuse it with a restorer."""

import importlib
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.checkpoints.packaged import RESTORERS
from steadylens.cli.main import app
from steadylens.evaluation import experiments
from steadylens.evaluation.stress import attacks, corruptions
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
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

SIZE = 32
"""Height and width in pixels of the classifier's images."""

RESNET = ("timm:test_resnet", "--weights", "net.pth", "--size", str(SIZE))


def write_images(folder: Path) -> None:
    """Writes random images of the classes a, b and c."""
    random = np.random.default_rng(1)
    for label in "abc":
        (folder / label).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def write_weights(path: Path, *, classes: int = 3) -> None:
    """Writes the weights of the timm model."""
    torch.save(timm.create_model("test_resnet", num_classes=classes).state_dict(), path)


# Comparing.


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Path:
    """Makes a working folder with images of three classes, nets and weights; the cost is timed only once."""
    monkeypatch.setattr(experiments, "REPEATS", 1)
    monkeypatch.chdir(tmp_path)
    write_images(Path("images"))
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


SIGN_NOTE = "l3-gtsrb learned from traffic signs of 48 pixels, and these images are of 32"


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


# Fusing.


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with images of three classes, a restorer and the weights of a timm model."""
    folder = tmp_path_factory.mktemp("parts")
    write_images(folder / "images")
    write_weights(folder / "net.pth")
    save_model(folder / "front.safetensors", RestorationNet(depth=3), about={"seconds": 2.0})
    return folder


def fuse(parts: Path, out: Path, *arguments: str | Path, front: str | Path = "") -> tuple[int, str, str]:
    """Calls the command and returns its exit code and what it said."""
    call: list[str | Path] = ["fuse", front or parts / "front.safetensors", *arguments, "--out", out]
    call += ["--recipe", "smoke", "--device", "cpu", "--cache", parts / "cache"]
    if "--data" not in call:
        call += ["--data", f"folder:{parts / 'images'}"]
    result = CliRunner().invoke(app, [str(argument) for argument in call])
    return result.exit_code, result.stdout, result.stderr


def resnet(parts: Path, *, size: int = SIZE) -> list[str | Path]:
    return ["timm:test_resnet", "--weights", parts / "net.pth", "--size", str(size)]


def program(parts: Path) -> Path:
    """Returns the file of an exported program, which is written once."""
    if (parts / "net.pt2").exists():
        return parts / "net.pt2"
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    exported = torch.export.export(
        net, (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(exported, parts / "net.pt2")
    return parts / "net.pt2"


@pytest.fixture
def parts_here(parts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the folder of the parts the working folder, with an exported program in it."""
    program(parts)
    monkeypatch.chdir(parts)
    return parts


def moved(one: nn.Module, other: nn.Module) -> bool:
    weights = other.state_dict()
    return any(not torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("tune", "restorer_moves", "classifier_moves"),
    [("nothing", False, False), ("restorer", True, False), ("classifier", False, True), (None, False, True)],
)
def test_what_is_tuned_moves_and_the_rest_stays(
    tune: str | None, restorer_moves: bool, classifier_moves: bool, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pair.safetensors"
    options = ["--tune", tune] if tune else []
    code, said, error = fuse(parts, out, *resnet(parts), *options)
    assert (code, error) == (0, "")
    files = [f"fused classifier: {out.resolve()}"]
    if tune == "restorer":
        files = [f"restorer: {(tmp_path / 'pair-restorer.safetensors').resolve()}", *files]
    assert said.splitlines()[-len(files) :] == files
    assert len([*tmp_path.glob("*.safetensors")]) == len(files)
    pair, about = load_model(out)
    front, _ = load_model(parts / "front.safetensors")
    net = timm.create_model("test_resnet", num_classes=3)
    net.load_state_dict(torch.load(parts / "net.pth"))
    assert isinstance(pair, FusedClassifier)
    assert isinstance(pair.classifier, PreparedClassifier)
    assert pair.classifier.input_size == SIZE
    assert moved(pair.restorer, front) == restorer_moves
    assert moved(pair.classifier.body, net) == classifier_moves
    # Without labels, what the folders are called says nothing about the classes.
    assert about["classes"] == ([] if tune == "restorer" else ["a", "b", "c"])
    assert about["origins"] == {"restorer": {"name": "front"}, "classifier": {"name": "timm:test_resnet"}}


def test_a_packaged_restorer_leaves_word_of_its_data_and_its_licence(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "pair.safetensors"
    assert fuse(parts, out, *resnet(parts), "--tune", "nothing", front="l3-gtsrb")[0] == 0
    origin = load_model(out)[1]["origins"]["restorer"]
    assert origin["name"] == "l3-gtsrb"
    assert origin["data"].startswith("gtsrb:")
    assert origin["licence"] == "MIT"


def test_without_labels_the_classes_are_named_by_the_user(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("apple\r\nred cabbage\r\nzebra\r\n\r\n", encoding="utf-8-sig")
    out, options = tmp_path / "pair.safetensors", ("--tune", "restorer", "--class-names")
    assert fuse(parts, out, *resnet(parts), *options, tmp_path / "names.txt")[0] == 0
    assert load_model(out)[1]["classes"] == ["apple", "red cabbage", "zebra"]
    (tmp_path / "names.txt").write_text("apple\nzebra\n", encoding="utf-8")
    code, _, error = fuse(parts, tmp_path / "b.safetensors", *resnet(parts), *options, tmp_path / "names.txt")
    assert code == 2
    assert re.fullmatch(r"steadylens: .*txt has 2 names; timm:test_resnet has 3 .*\n", error)


def test_the_pair_remembers_how_photographs_are_fitted(parts: Path, tmp_path: Path) -> None:
    for name, options, fit in (
        ("told.safetensors", (), "crop:42"),
        ("said.safetensors", ("--fit", "crop:44"), "crop:44"),
    ):
        call = (*resnet(parts, size=40), *options, "--tune", "nothing")
        assert fuse(parts, tmp_path / name, *call)[0] == 0
        classifier = load_model(tmp_path / name)[0].classifier
        assert isinstance(classifier, PreparedClassifier)
        assert str(classifier.fit) == fit


def test_a_pair_learns_the_answers_of_teachers(parts: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("plain", "taught", "refused", "wise")]
    assert fuse(parts, files[0], *resnet(parts), "--tune", "both")[0] == 0
    assert fuse(parts, files[3], *resnet(parts))[0] == 0
    teach: list[str | Path] = ["--teacher", files[0], "--teacher", files[3]]
    assert fuse(parts, files[1], *resnet(parts), "--tune", "both", *teach)[0] == 0
    assert moved(load_model(files[0])[0], load_model(files[1])[0])
    code, _, error = fuse(parts, files[2], *resnet(parts), *teach)
    assert (code, files[2].exists()) == (2, False)
    assert "teachers have no effect, since consistency of recipe smoke is 0" in error


@pytest.mark.parametrize("part", ["nothing", "classifier", "both", "restorer"])
def test_a_packaged_restorer_is_fused_by_its_name(part: str, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "pair.safetensors"
    code, said, _ = fuse(parts, out, *resnet(parts), "--tune", part, front="l3-gtsrb")
    assert code == 0
    assert " ".join(said.split()).count(SIGN_NOTE) == 1
    pair, about = load_model(out)
    assert isinstance(pair.restorer, RestorationNet)
    assert about["seconds"] > 0


def test_for_an_exported_program_the_restorer_alone_is_tuned_and_written(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    code, said, error = fuse(parts, out, program(parts), "--tune", "restorer", "--restorer-only")
    assert (code, error) == (0, "")
    assert said.endswith(f"restorer: {out.resolve()}\n")
    tuned, about = load_model(out)
    assert moved(tuned, load_model(parts / "front.safetensors")[0])
    assert about["stage"] == "label-free tuning pair"
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["timm:test_resnet"], 2, "timm:test_resnet has random weights; give its own by --weights FILE"),
        (["timm:resnet", "--weights", "net.pth"], 2, "timm has no model 'resnet'"),
        (["torchvision:resnet", "--weights", "net.pth"], 2, "torchvision has no classifier 'resnet'"),
        (["timm:test_resnet", "--weights", "absent.pth"], 1, r"there is no file .*absent\.pth"),
        (["timm:resnet10t", "--weights", "net.pth"], 1, "do not fit the net"),
        (["transformers:absent"], 1, r"absent holds no config\.json"),
        (["absent.pt2"], 1, r"absent\.pt2 does not exist"),
        (["net.pt2"], 2, "save the restorer alone"),
        (["net.pt2", "--tune", "nothing"], 2, "save the restorer alone"),
        (["sign-gtsrb"], 2, "sign-gtsrb tells 43 classes apart, folder:.* has 3"),
        (["sign-gtsrb", "--restorer-only"], 2, "--restorer-only needs --tune restorer"),
        (["sign-gtsrb", "--teacher", "nonsense"], 2, "there is no net 'nonsense'"),
        (
            ["sign-gtsrb", "--tune", "restorer", "--teacher", "sign-gtsrb"],
            2,
            "--teacher needs --tune classifier or both; --tune restorer learns no answers",
        ),
        (["sign-gtsrb", "--class-names", "net.pth"], 1, r"net\.pth cannot be read: "),
        (
            ["sign-gtsrb", "--tune", "restorer", "--class-names", "net.pth"],
            1,
            r"net\.pth cannot be read: ",
        ),
        (["front.safetensors"], 2, "holds a RestorationNet, where a classifier is needed"),
        (["nonsense"], 2, "there is no net 'nonsense'"),
    ],
)
def test_what_cannot_be_fused_is_told_in_one_line(
    arguments: list[str], code: int, message: str, parts_here: Path, tmp_path: Path
) -> None:
    found, said, error = fuse(parts_here, tmp_path / "pair.safetensors", *arguments)
    assert found == code
    assert re.fullmatch(f"steadylens: .*{message}.*\n", error)
    assert "Traceback" not in said + error
    assert list(tmp_path.iterdir()) == []


def test_without_labels_the_classes_of_the_data_do_not_matter(parts: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "five.pth", classes=5)
    five: list[str | Path] = [
        "timm:test_resnet",
        "--weights",
        tmp_path / "five.pth",
        "--size",
        str(SIZE),
    ]
    assert "tells 5 classes apart" in fuse(parts, tmp_path / "pair.safetensors", *five)[2]
    code, _, error = fuse(parts, tmp_path / "pair.safetensors", *five, "--tune", "restorer")
    assert (code, error) == (0, "")
    assert load_model(tmp_path / "pair.safetensors")[1]["classes"] == []
