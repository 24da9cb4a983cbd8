"""The command fuse puts a restorer in front of a user's classifier, and tunes what it is told to."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.cli.main import app
from steadylens.nets.classification import FusedClassifier, PreparedClassifier
from steadylens.nets.restoration import RestorationNet
from tests.cli.class_folders import SIGN_NOTE, SIZE, write_images, write_weights


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with images of three classes, a restorer and the weights of a timm model."""
    folder = tmp_path_factory.mktemp("parts")
    write_images(folder / "images", names="abc")
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


def untuned(parts: Path) -> nn.Module:
    """Returns the timm model as it was before any tuning."""
    net = timm.create_model("test_resnet", num_classes=3)
    net.load_state_dict(torch.load(parts / "net.pth"))
    return net


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
    assert isinstance(pair, FusedClassifier)
    assert isinstance(pair.classifier, PreparedClassifier)
    assert pair.classifier.input_size == SIZE
    assert moved(pair.restorer, front) == restorer_moves
    assert moved(pair.classifier.body, untuned(parts)) == classifier_moves
    # Without labels, what the folders are called says nothing about the classes.
    assert about["classes"] == ([] if tune == "restorer" else ["a", "b", "c"])
    assert about["origins"] == {"restorer": {"name": "front"}, "classifier": {"name": "timm:test_resnet"}}


def test_without_a_restorer_the_classifier_alone_is_tuned_on_noise(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "noisy.safetensors"
    code, said, error = fuse(parts, out, *resnet(parts), front="none")
    assert (code, error) == (0, "")
    assert said.splitlines()[-1] == f"classifier without a restorer: {out.resolve()}"
    tuned, about = load_model(out)
    assert isinstance(tuned, FusedClassifier)
    assert isinstance(tuned.restorer, nn.Identity)
    assert isinstance(tuned.classifier, PreparedClassifier)
    assert moved(tuned.classifier.body, untuned(parts))
    assert about["origins"] == {"classifier": {"name": "timm:test_resnet"}}
    code, _, error = fuse(
        parts, tmp_path / "both.safetensors", *resnet(parts), "--tune", "both", front="none"
    )
    assert (code, (tmp_path / "both.safetensors").exists()) == (2, False)
    assert "without a restorer (none) only the classifier can be tuned, but --tune is both" in error
    code, _, error = fuse(parts, tmp_path / "other.safetensors", *resnet(parts), front="None")
    assert (code, (tmp_path / "other.safetensors").exists()) == (2, False)
    assert error.endswith(", or none for no restorer\n")


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
