"""The export command writes what is asked for, tells what it wrote, and explains what it cannot do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from steadylens.checkpoints.card import card
from steadylens.checkpoints.checkpoint import save_model
from steadylens.checkpoints.loading import load
from steadylens.cli.deploy import SUFFIXES, ExportFormatName
from steadylens.cli.main import app
from steadylens.inference.export import format_of, open_engine, read_metadata
from steadylens.nets.restoration import RestorationNet, initialize_xavier


def export(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = RestorationNet(3, padding="reflect")
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / "small.safetensors", net, about={"recipe": "smoke"})
    return tmp_path / "small.safetensors"


def test_a_packaged_classifier_is_exported_with_its_classes(tmp_path: Path) -> None:
    out = tmp_path / "sign.pt2"
    code, told, _ = export("sign-gtsrb", "--out", out)
    assert code == 0
    assert "reads batch x 3 x 48 x 48; writes batch x 43" in told
    assert "on 32 noisy images" in told
    assert "32 in the same class" in told
    found = read_metadata(out)
    assert (found["name"], found["classes"]) == ("sign-gtsrb", list(card("sign-gtsrb").classes))
    assert found["about"]["recipe"] == card("sign-gtsrb").info.recipe
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        open_engine(out)(images), load("sign-gtsrb")(images).detach(), rtol=0, atol=1e-4
    )


def test_a_size_and_a_batch_are_fixed(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    code, told, _ = export(model, "--format", "onnx", "--out", out, "--static", "12x16", "--batch", "2")
    assert code == 0
    assert "reads 2 x 3 x 12 x 16" in told
    assert read_metadata(out)["input"]["shape"] == [2, 3, 12, 16]
    assert (read_metadata(out)["name"], read_metadata(out)["about"]) == ("small", {"recipe": "smoke"})


def test_openvino_is_written_in_two_files(model: Path, tmp_path: Path) -> None:
    code, told, _ = export(model, "--format", "openvino", "--out", tmp_path / "net.xml")
    assert code == 0
    assert "at least 3 pixels" in told
    assert (tmp_path / "net.bin").is_file()


def test_a_triton_repository_is_written(model: Path, tmp_path: Path) -> None:
    code, told, _ = export(model, "--triton", tmp_path / "models")
    assert code == 0
    assert "model.onnx" in told
    assert (tmp_path / "models" / "small" / "config.pbtxt").is_file()


def test_every_format_has_the_ending_of_its_files() -> None:
    assert SUFFIXES.keys() == set(ExportFormatName)
    assert all(format_of(Path(f"net{suffix}")).suffix == suffix for suffix in SUFFIXES.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--out FILE or --triton DIR"),
        (("--out", "a.onnx", "--triton", "b"), "give one of them"),
        (("--out", "a.onnx", "--format", "torch"), ".pt2"),
        (("--triton", "b", "--format", "openvino"), "made of ONNX"),
        (("--out", "a.tflite"), ".pt2, .onnx, .xml"),
        (("--out", "a.pt2", "--static", "48"), "480x640"),
        (("--out", "a.pt2", "--static", "0x7"), "480x640"),
        (("--out", "a.pt2", "--static", "2x7"), "at least 3x3"),
    ],
)
def test_wrong_usage_gets_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, told = export(model, *arguments)
    assert code == 2
    assert words in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_a_missing_model_gets_one_line(tmp_path: Path) -> None:
    code, _, told = export(tmp_path / "none.safetensors", "--out", tmp_path / "a.pt2")
    assert (code, told.count("\n")) == (1, 1)


def write_noise(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes noisy gradients as PNG files into a folder, and one file that is no image."""
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(count):
        slope = np.linspace(random.uniform(0, 128), random.uniform(128, 255), size[0])
        pixels = slope[:, None, None] + random.normal(0, 15, (*size, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def test_int8_is_chosen_on_the_images_of_a_folder(model: Path, tmp_path: Path) -> None:
    images, out = write_noise(tmp_path / "images", 24, (40, 52)), tmp_path / "net.onnx"
    options = ("--out", out, "--precision", "int8", "--images", images)
    code, told, _ = export(model, *options, "--static", "32x48")
    assert code == 0
    assert "on 12 noisy images" in told
    assert (read_metadata(out)["precision"], read_metadata(out)["opset"]) == ("int8", 20)
    code, _, told = export(model, *options)
    assert code == 2
    assert "no image in" in told
    assert "at least 128x128 pixels; give larger ones" in " ".join(told.split())
    (tmp_path / "empty").mkdir()
    code, _, told = export(model, *options[:4], "--images", tmp_path / "empty")
    assert code == 2
    assert "holds no images" in " ".join(told.split())
