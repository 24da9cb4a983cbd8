"""One command tells what restorers do for a classifier of one's own.

A restorer and any classifier are fused from the command line, in each of the three ways.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.cli import classifiers
from steadylens.cli.main import app
from steadylens.evaluation import experiments
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.nets.third_party import timm_classifier
from steadylens.records import Accuracy, Cost, Stability, read_records

SIZE = 32


NET = ("timm:test_resnet", "--weights", "net.pth", "--size", str(SIZE))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working folder, with images of three classes, nets and weights; times are not looked at."""
    monkeypatch.setattr(experiments, "REPEATS", 1)
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
    assert classifiers.PACKAGED == "l11-gtsrb"
    monkeypatch.setattr(classifiers, "PACKAGED", "l3-gtsrb")  # it is quicker
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


FUSED_SIZE = 40


@pytest.fixture(scope="module")
def fuse_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with images of three classes, a restorer and the weights of a timm model."""
    folder, random = tmp_path_factory.mktemp("fuse"), np.random.default_rng(1)
    for label in "abc":
        (folder / "images" / label).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (12, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    save_model(folder / "front.safetensors", RestorationNet(depth=3), about={"seconds": 2.0})
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), folder / "net.pth")
    return folder


def fuse(fuse_place: Path, out: Path, *arguments: str | Path, front: str | Path = "") -> tuple[int, str, str]:
    """Calls the command and returns its exit code and what it said."""
    call: list[str | Path] = ["fuse", front or fuse_place / "front.safetensors", *arguments, "--out", out]
    call += ["--recipe", "smoke", "--device", "cpu", "--cache", fuse_place / "cache"]
    if "--data" not in call:
        call += ["--data", f"folder:{fuse_place / 'images'}"]
    result = CliRunner().invoke(app, [str(part) for part in call])
    return result.exit_code, result.stdout, result.stderr


def resnet(fuse_place: Path) -> list[str | Path]:
    return ["timm:test_resnet", "--weights", fuse_place / "net.pth", "--size", str(FUSED_SIZE)]


def program(fuse_place: Path) -> Path:
    """Returns the file of an exported program, which is written once."""
    if (fuse_place / "net.pt2").exists():
        return fuse_place / "net.pt2"
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    exported = torch.export.export(
        net, (torch.rand(2, 3, FUSED_SIZE, FUSED_SIZE),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(exported, fuse_place / "net.pt2")
    return fuse_place / "net.pt2"


@pytest.fixture
def here(fuse_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder as the working one, with an exported program too."""
    program(fuse_place)
    monkeypatch.chdir(fuse_place)
    return fuse_place


def moved(one: nn.Module, other: nn.Module) -> bool:
    weights = other.state_dict()
    return any(not torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("tune", "restorer_moves", "classifier_moves"),
    [("nothing", False, False), ("restorer", True, False), ("classifier", False, True), (None, False, True)],
)
def test_what_is_tuned_moves_and_the_rest_stays(
    tune: str | None, restorer_moves: bool, classifier_moves: bool, fuse_place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pair.safetensors"
    options = ["--tune", tune] if tune else []
    code, said, error = fuse(fuse_place, out, *resnet(fuse_place), *options)
    assert (code, error) == (0, "")
    assert said.endswith(f"fused classifier: {out.resolve()}\n")
    pair, about = load_model(out)
    front, _ = load_model(fuse_place / "front.safetensors")
    net = timm.create_model("test_resnet", num_classes=3)
    net.load_state_dict(torch.load(fuse_place / "net.pth"))
    assert isinstance(pair, FusedClassifier)
    assert isinstance(pair.classifier, PreparedClassifier)
    assert pair.classifier.input_size == FUSED_SIZE
    assert moved(pair.restorer, front) == restorer_moves
    assert moved(pair.classifier.body, net) == classifier_moves
    # Without labels, what the folders are called says nothing about the classes.
    assert about["classes"] == ([] if tune == "restorer" else ["a", "b", "c"])
    assert about["origins"] == {"restorer": {"name": "front"}, "classifier": {"name": "timm:test_resnet"}}


def test_a_packaged_restorer_leaves_word_of_its_data_and_its_licence(
    fuse_place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pair.safetensors"
    assert fuse(fuse_place, out, *resnet(fuse_place), "--tune", "nothing", front="l3-gtsrb")[0] == 0
    origin = load_model(out)[1]["origins"]["restorer"]
    assert origin["name"] == "l3-gtsrb"
    assert origin["data"].startswith("gtsrb:")
    assert origin["licence"] == "MIT"


def test_without_labels_the_classes_are_named_by_the_user(fuse_place: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("apple\r\nred cabbage\r\nzebra\r\n\r\n", encoding="utf-8-sig")
    out, options = tmp_path / "pair.safetensors", ("--tune", "restorer", "--class-names")
    assert fuse(fuse_place, out, *resnet(fuse_place), *options, tmp_path / "names.txt")[0] == 0
    assert load_model(out)[1]["classes"] == ["apple", "red cabbage", "zebra"]
    (tmp_path / "names.txt").write_text("apple\nzebra\n", encoding="utf-8")
    code, _, error = fuse(
        fuse_place, tmp_path / "b.safetensors", *resnet(fuse_place), *options, tmp_path / "names.txt"
    )
    assert code == 2
    assert re.fullmatch(r"steadylens: .*txt has 2 names in 2 lines; timm:test_resnet tells 3 .*\n", error)


def test_the_pair_remembers_how_photographs_are_fitted(fuse_place: Path, tmp_path: Path) -> None:
    for name, options, fit in (
        ("told.safetensors", (), "crop:42"),
        ("said.safetensors", ("--fit", "crop:44"), "crop:44"),
    ):
        assert fuse(fuse_place, tmp_path / name, *resnet(fuse_place), *options, "--tune", "nothing")[0] == 0
        classifier = load_model(tmp_path / name)[0].classifier
        assert isinstance(classifier, PreparedClassifier)
        assert str(classifier.fit) == fit


def test_a_packaged_restorer_is_fused_by_its_name(fuse_place: Path, tmp_path: Path) -> None:
    out = tmp_path / "pair.safetensors"
    assert fuse(fuse_place, out, *resnet(fuse_place), "--tune", "nothing", front="l3-gtsrb")[0] == 0
    pair, about = load_model(out)
    assert isinstance(pair.restorer, RestorationNet)
    assert about["seconds"] > 0


def test_for_an_exported_program_the_restorer_alone_is_tuned_and_written(
    fuse_place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned.safetensors"
    code, said, error = fuse(fuse_place, out, program(fuse_place), "--tune", "restorer", "--restorer-only")
    assert (code, error) == (0, "")
    assert said.endswith(f"restorer: {out.resolve()}\n")
    tuned, about = load_model(out)
    assert moved(tuned, load_model(fuse_place / "front.safetensors")[0])
    assert about["stage"] == "label-free tuning tuned"
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
        (["sign-gtsrb", "--restorer-only"], 2, "--restorer-only goes with --tune restorer"),
        (["sign-gtsrb", "--class-names", "net.pth"], 2, "--class-names goes with --tune restorer"),
        (
            ["sign-gtsrb", "--tune", "restorer", "--class-names", "net.pth"],
            2,
            r"net\.pth cannot be read: ",
        ),
        (["front.safetensors"], 2, "holds a RestorationNet, where a classifier is needed"),
        (["nonsense"], 2, "there is no net 'nonsense'"),
    ],
)
def test_what_cannot_be_fused_is_told_in_one_line(
    arguments: list[str], code: int, message: str, here: Path, tmp_path: Path
) -> None:
    found, said, error = fuse(here, tmp_path / "pair.safetensors", *arguments)
    assert found == code
    assert re.fullmatch(f"steadylens: .*{message}.*\n", error)
    assert "Traceback" not in said + error
    assert list(tmp_path.iterdir()) == []


def test_without_labels_the_classes_of_the_data_do_not_matter(fuse_place: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), tmp_path / "five.pth")
    five: list[str | Path] = [
        "timm:test_resnet",
        "--weights",
        tmp_path / "five.pth",
        "--size",
        str(FUSED_SIZE),
    ]
    assert "tells 5 classes apart" in fuse(fuse_place, tmp_path / "pair.safetensors", *five)[2]
    code, _, error = fuse(fuse_place, tmp_path / "pair.safetensors", *five, "--tune", "restorer")
    assert (code, error) == (0, "")
    assert load_model(tmp_path / "pair.safetensors")[1]["classes"] == []
