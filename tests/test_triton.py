"""What a Triton server is told of a model agrees with the model's file."""

import re
from pathlib import Path
from typing import Any

import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import nn

from steadylens.classification import SignNet
from steadylens.errors import SettingError
from steadylens.formats import read_metadata
from steadylens.fusion import FusedClassifier
from steadylens.initialization import initialize_xavier
from steadylens.interface import Interface, interface_of
from steadylens.pretrained import load
from steadylens.restoration import GaussianSmoothing
from steadylens.triton import export_triton, triton_config


def classifier() -> nn.Module:
    net = FusedClassifier(GaussianSmoothing(), SignNet(2)).eval()
    initialize_xavier(net.classifier, generator=torch.Generator().manual_seed(0))
    return net


def tensors(config: str, kind: str) -> tuple[str, str, list[int]]:
    """Returns name, type and dimensions of the one input or output of a configuration."""
    found = re.search(kind + r' \[\s*\{\s*name: "(\w+)"\s*data_type: (\w+)\s*dims: \[ ([-\d, ]+) \]', config)
    assert found
    return found[1], found[2], [int(side) for side in found[3].split(",")]


@pytest.mark.parametrize(
    ("net", "fixed"),
    [
        (GaussianSmoothing().eval(), {}),
        (GaussianSmoothing().eval(), {"batch": 4, "size": (20, 30)}),
        (classifier(), {}),
    ],
    ids=["free", "fixed", "classifier"],
)
def test_the_configuration_agrees_with_the_file(
    net: nn.Module, fixed: dict[str, Any], tmp_path: Path
) -> None:
    export_triton(net, tmp_path, name="some-net", **fixed)
    config = (tmp_path / "some-net" / "config.pbtxt").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(tmp_path / "some-net" / "1" / "model.onnx")
    gathers = "batch" not in fixed
    assert 'name: "some-net"\nbackend: "onnxruntime"\n' in config
    assert f"max_batch_size: {32 if gathers else 0}\n" in config
    assert ("dynamic_batching" in config) == gathers
    for kind, (value,) in (("input", session.get_inputs()), ("output", session.get_outputs())):
        dims = [side if isinstance(side, int) else -1 for side in value.shape]
        assert gathers == (dims[0] == -1)
        assert tensors(config, kind) == (value.name, "TYPE_FP32", dims[1:] if gathers else dims)
        assert value.type == "tensor(float)"


def test_the_names_of_classes_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    export_triton(classifier(), tmp_path, name="signs", about={"classes": ["stop", "give\nway"]})
    folder = tmp_path / "signs"
    assert (folder / "labels.txt").read_text(encoding="utf-8") == "stop\ngive way\n"
    assert 'label_filename: "labels.txt"' in (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    }


def test_a_restorer_has_no_classes_whatever_it_was_trained_on(tmp_path: Path) -> None:
    export_triton(GaussianSmoothing().eval(), tmp_path, name="net", about={"classes": ["stop"]})
    assert not (tmp_path / "net" / "labels.txt").exists()
    assert "label" not in (tmp_path / "net" / "config.pbtxt").read_text(encoding="utf-8")
    assert read_metadata(tmp_path / "net" / "1" / "model.onnx")["classes"] == []


@pytest.mark.parametrize(
    "form", [Interface(), Interface(batch=2, size=(3, 4)), Interface(classes=3, size=(3, 3))]
)
def test_brackets_are_closed(form: Interface) -> None:
    config = triton_config("net", form, classes=("a", "b", "c"))
    assert config.count("[") == config.count("]")
    assert config.count("{") == config.count("}")


@pytest.mark.parametrize("name", ["", "../net", "a/b", ".", "a b"])
def test_a_name_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="folder"):
        export_triton(nn.Identity().eval(), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_the_configuration_that_is_written() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "deployment.md"
    config = triton_config("l11-gtsrb", interface_of(load("l11-gtsrb")))
    assert f"```\n{config}```\n" in page.read_text(encoding="utf-8")
