"""The commands tell classes and their order, and whether a net seems to number them otherwise."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.cli.main import app
from steadylens.evaluation import experiments
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.records import Accuracy, Confusion, read_records

CLASSES, SIDE = 12, 16


class ByLevel(nn.Module):
    """Tells twelve grey levels apart, numbered from dark to bright: a classifier that is always right."""

    def forward(self, images: Tensor) -> Tensor:
        levels = (torch.arange(CLASSES, device=images.device) + 0.5) / CLASSES
        return -(images.mean(dim=(1, 2, 3))[:, None] - levels).abs()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with images in the folders 0 to 11, and the classifier as an exported program."""
    folder = tmp_path_factory.mktemp("shelf")
    for label in range(CLASSES):
        (folder / "images" / str(label)).mkdir(parents=True)
        for number in range(25):
            level = round(255 * (label + 0.3 + 0.016 * number) / CLASSES)
            colour = (level, level, level + number % 5)
            Image.new("RGB", (SIDE, SIDE), colour).save(folder / "images" / str(label) / f"{number}.png")
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(ByLevel(), (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=dynamic)
    torch.export.save(program, folder / "levels.pt2")
    (folder / "names.txt").write_text("\n".join(map(str, range(CLASSES))))
    save_model(folder / "smooth.safetensors", GaussianSmoothing(sigma_pixels=0.1), about={})
    return folder


@pytest.fixture(autouse=True)
def in_the_shelf(shelf: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    monkeypatch.chdir(shelf)


def command(name: str, *arguments: str, out: str) -> tuple[int, str, str]:
    usual = {"--recipe": "smoke", "--device": "cpu", "--cache": "cache", "--data": "folder:images"}
    added = [text for option, value in usual.items() if option not in arguments for text in (option, value)]
    result = CliRunner().invoke(app, [*name.split(), *arguments, *added, "--out", out])
    return result.exit_code, " ".join(result.stdout.split()), result.stderr


def compare(*arguments: str, out: str) -> tuple[int, str, str]:
    return command("compare", "levels.pt2", "--restorer", "smooth.safetensors", *arguments, out=out)


def accuracy(out: str) -> dict[str, float]:
    rows = read_records(Path(out, "records.jsonl"))
    return {
        row.network: row.correct / row.samples for row in rows if isinstance(row, Accuracy) and row.k == 1
    }


def test_a_net_of_another_order_is_doubted_and_right_with_a_list_of_its_classes() -> None:
    code, said, error = compare("--recipe", "quick", "--versions", "1", out="as-found")
    assert (code, error) == (0, "")
    assert (
        "12 classes, with images for training/validation/testing: 0 0 18/2/5, 1 1 18/2/5, 2 10 18/2/5" in said
    )
    assert "note: class folders are numbered in the order of their names as text" in said
    assert accuracy("as-found")["alone"] < 0.25
    assert re.search(r"alone is right on .*, and on 100.0% .* class 2 seems to be '2', not '10'\)", said)
    page = Path("as-found", "report.html").read_text(encoding="utf-8")
    assert "Doubtful:" in page
    assert "Confusion matrices" in page
    code, said, error = compare("--class-names", "names.txt", out="as-listed")
    assert (code, error) == (0, "")
    assert "note: class folders" not in said
    assert accuracy("as-listed") == {"alone": 1.0, "behind smooth": 1.0}
    assert "Doubtful:" not in Path("as-listed", "report.html").read_text(encoding="utf-8")
    rows = [row for row in read_records(Path("as-listed", "records.jsonl")) if isinstance(row, Confusion)]
    assert rows[0].class_names == tuple(map(str, range(CLASSES)))


def test_evaluate_tells_what_it_cannot_check_and_keeps_a_report_of_another_seed() -> None:
    save_model(Path("named.safetensors"), SignNet(classes=CLASSES), about={"classes": [*"abcdefghijkl"]})
    call = ("named.safetensors", "--class-names", "names.txt")
    code, said, _ = command("evaluate", *call, out="measured")
    assert code == 0
    assert "named: note: named and folder:images have no class name in common ('a', '0')" in said
    before = Path("measured", "records.jsonl").read_bytes()
    code, _, error = command("evaluate", *call, "--seed", "1", out="measured")
    assert code == 2
    assert "measured/records.jsonl was made with other data, settings or seed (recipe smoke, seed 0," in error
    assert Path("measured", "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n1\n", "the list of class names lacks 10, 11, 2, 3"),
        ("0\n0\n", r"names.txt has 1 names in 2 lines; each line needs a different name"),
    ],
)
def test_a_list_that_is_not_of_the_data_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(text)
    code, _, error = compare("--class-names", str(tmp_path / "names.txt"), out="refused")
    assert code in (1, 2)
    assert message in error
    assert not Path("refused").exists()


def test_a_list_may_name_more_classes_than_there_are_folders() -> None:
    few = Path("few")
    for label in ("3", "10"):
        (few / label).parent.mkdir(exist_ok=True)
        (few / label).symlink_to(Path("images", label).resolve())
    code, said, error = compare("--data", "folder:few", "--class-names", "names.txt", out="of-few")
    assert (code, error) == (0, "")
    assert "note: classes without images: 10, 0, 1, 2, 4" in said
    assert accuracy("of-few")["alone"] == 1


def test_damaged_images_are_named_together_and_may_be_skipped(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(6):
            Image.new("RGB", (9, 9), (20 * number, ord(label), 0)).save(tmp_path / label / f"{number}.png")
    for name in ("a/1.png", "b/5.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    call = ("L3", "--data", f"folder:{tmp_path}")
    code, _, error = command("train restorer", *call, out="net.safetensors")
    assert code == 1
    assert all(text in error for text in ("2 images cannot be used", "--skip-damaged", "a/1.png", "b/5.png"))
    code, said, error = command("train restorer", *call, "--skip-damaged", out="net.safetensors")
    assert (code, error) == (0, "")
    assert "note: images left out because they cannot be read: 2, a/1.png, b/5.png" in said


def test_the_name_of_the_file_is_no_part_of_the_seed(tmp_path: Path) -> None:
    save_model(Path("front.safetensors"), RestorationNet(depth=3), about={})
    save_model(Path("behind.safetensors"), SignNet(classes=CLASSES), about={})
    for tune in ("classifier", "restorer"):
        outs = [tmp_path / f"{tune}-{name}.safetensors" for name in ("a", "b")]
        for out in outs:
            call = ("front.safetensors", "behind.safetensors", "--tune", tune)
            assert command("fuse", *call, out=str(out))[0] == 0
        first, second = (load_model(out)[0].state_dict() for out in outs)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
