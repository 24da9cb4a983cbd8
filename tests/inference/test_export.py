"""An exported file gives the same results as the net and describes itself, or it does not appear."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import openvino  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn

from steadylens import __version__
from steadylens.checkpoints.loading import load
from steadylens.data.signs.synthetic_signs import draw_track
from steadylens.errors import (
    CheckpointError,
    ExportError,
    ImageError,
    MissingExtraError,
    SettingError,
    SteadylensError,
    StorageError,
)
from steadylens.images.preprocessing import Preprocessing
from steadylens.inference import export
from steadylens.inference.export import (
    Exported,
    export_net,
    open_engine,
    read_metadata,
)
from steadylens.inference.signature import ExportOptions
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet, initialize_xavier

SUFFIXES = (".pt2", ".onnx", ".xml")


ABOUT: dict[str, Any] = {
    "classes": ["stop", "yield", "30"],
    "recipe": "smoke",
    "commit": "0123abc",
    "figures": [{"much": 1}],
}


def initialized(net: nn.Module) -> nn.Module:
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    return net.eval()


@pytest.fixture(scope="module")
def fused() -> nn.Module:
    return FusedClassifier(initialized(RestorationNet(3, padding="reflect")), initialized(SignNet(3))).eval()


@pytest.fixture(scope="module", params=SUFFIXES)
def exported(request: pytest.FixtureRequest, fused: nn.Module, tmp_path_factory: Any) -> Exported:
    path = tmp_path_factory.mktemp("exported") / f"net{request.param}"
    return export_net(fused, path, name="fused-signs", about=ABOUT)


def signs(count: int) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(2))


def run(path: Path, images: Tensor) -> Tensor:
    """Runs a file in its runtime as somebody would who knows nothing of this package."""
    given = images.numpy()
    match path.suffix:
        case ".pt2":
            with torch.no_grad():
                answer: Tensor = torch.export.load(path).module()(images)
            return answer
        case ".onnx":
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            return torch.from_numpy(session.run(["logits"], {"images": given})[0])
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(np.array(compiled({"images": given})["logits"]))


def test_a_file_answers_in_its_runtime_as_the_net_did(exported: Exported, fused: nn.Module) -> None:
    for count in (1, 3):
        found = run(exported.path, signs(count))
        torch.testing.assert_close(found, fused(signs(count)).detach(), rtol=0, atol=1e-5)


def test_a_file_is_all_that_is_left(exported: Exported) -> None:
    weights = {exported.path.with_suffix(".bin").name} if exported.path.suffix == ".xml" else set()
    assert {path.name for path in exported.path.parent.iterdir()} == {exported.path.name} | weights


def test_a_file_tells_what_it_expects_what_it_gives_and_where_it_comes_from(exported: Exported) -> None:
    found = read_metadata(exported.path)
    assert found["name"] == "fused-signs"
    assert found["input"] == {
        "name": "images",
        "type": "float32",
        "layout": "NCHW",
        "colours": "RGB",
        "range": [0, 1],
        "shape": ["batch", 3, 48, 48],
        "minimum_size": 3,
    }
    assert found["output"] == {"name": "logits", "type": "float32", "shape": ["batch", 3]}
    assert found["classes"] == ["stop", "yield", "30"]
    assert found["about"] == {"recipe": "smoke", "commit": "0123abc"}
    assert found["architecture"]["restorer"] == {
        "kind": "RestorationNet",
        "depth": 3,
        "channels": 3,
        "padding": "reflect",
    }
    assert (found["steadylens"], found["torch"]) == (__version__, torch.__version__)
    assert found["opset"] == (20 if exported.path.suffix == ".onnx" else None)


def test_a_file_tells_how_it_compared(exported: Exported) -> None:
    assert exported.parity.equal_answers == exported.parity.images == 32
    assert exported.parity.maximum_difference <= exported.parity.allowed_difference
    assert read_metadata(exported.path)["parity"] == json.loads(json.dumps(exported.parity.to_dict()))


def test_a_file_is_opened_again_as_an_engine_that_refuses_other_images(
    exported: Exported, fused: nn.Module
) -> None:
    engine = open_engine(exported.path)
    torch.testing.assert_close(engine(signs(2)), fused(signs(2)).detach(), rtol=0, atol=1e-5)
    with pytest.raises(ImageError, match="reads 48x48"):
        engine(signs(1)[..., :40])


def test_a_damaged_file_is_refused_in_one_line(exported: Exported, tmp_path: Path) -> None:
    content = exported.path.read_bytes()
    damaged = tmp_path / exported.path.name
    damaged.with_suffix(".bin").write_bytes(b"")
    for kept in (0, 10, len(content) // 2, len(content)):
        if kept == len(content) and damaged.suffix != ".xml":
            continue  # of OpenVINO's, the weights are damaged at last
        damaged.write_bytes(content[:kept])
        with pytest.raises(CheckpointError) as caught:
            open_engine(damaged)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        open_engine(tmp_path / exported.path.name)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["images"], ["restored"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("images", "restored")]
    graph = onnx.helper.make_graph([node], "foreign", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="not exported by steadylens"):
        open_engine(tmp_path / "foreign.onnx")


class Deceiving(nn.Module):
    """Answers otherwise once it is exported."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.01 if torch.compiler.is_exporting() else images


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_net_that_answers_otherwise_leaves_nothing_and_spares_what_was_there(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_text("earlier", encoding="utf-8")
    with pytest.raises(ExportError, match=r"differs from the evaluated one by 0\.01"):
        export_net(Deceiving().eval(), path)
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [
        (path.name, "earlier")
    ]


def test_size_and_batch_can_be_fixed(tmp_path: Path) -> None:
    net = GaussianSmoothing(sigma_pixels=0.8).eval()
    exported = export_net(net, tmp_path / "net.onnx", size=(20, 30), batch=2)
    (given,) = onnxruntime.InferenceSession(exported.path).get_inputs()
    assert given.shape == [2, 3, 20, 30]
    images = torch.rand(2, 3, 20, 30)
    torch.testing.assert_close(open_engine(exported.path)(images), net(images), rtol=0, atol=1e-5)
    assert exported.parity.images >= 32


def test_a_restorer_reads_any_size_and_names_what_is_free(tmp_path: Path) -> None:
    exported = export_net(initialized(RestorationNet(3)), tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(exported.path)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]
    assert read_metadata(exported.path)["name"] == "RestorationNet"
    assert len({shape[2:] for shape in exported.parity.shapes}) > 3


def test_a_net_that_cannot_be_saved_can_be_exported_with_its_class_names(tmp_path: Path) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    classifier = PreparedClassifier(body, Preprocessing(size=8), class_names=("cat", "dog"))
    net = FusedClassifier(initialized(RestorationNet(3)), classifier).eval()
    found = read_metadata(export_net(net, tmp_path / "net.pt2").path)
    assert found["classes"] == ["cat", "dog"]
    assert found["architecture"] == {"kind": "FusedClassifier"}


@pytest.mark.parametrize("name", ["net.pt", "net", "net.ONNX", "net.bin"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"\.pt2, \.onnx, \.xml"):
        export_net(GaussianSmoothing().eval(), tmp_path / name)


def test_a_net_elsewhere_than_on_the_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"net\.cpu\(\)"):
        export_net(RestorationNet(3).eval().to("meta"), tmp_path / "net.onnx")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot write .*file is no folder"):
        export_net(nn.Identity().eval(), tmp_path / "file" / "net.pt2")
    (tmp_path / "net.bin").mkdir()  # where OpenVINO's weights would go
    with pytest.raises(StorageError, match=r"cannot write .*net\.bin: it is a folder; choose another place"):
        export_net(nn.Identity().eval(), tmp_path / "net.xml")


def test_a_lack_of_memory_is_not_called_a_fault_of_the_net(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def exhausted(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] you can't allocate memory: 4 GB")

    monkeypatch.setattr(export, "check_parity", exhausted)
    with pytest.raises(ExportError, match="does not run: memory ran out; fix a smaller size or batch"):
        export_net(nn.Identity().eval(), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "library", "extra"),
    [(".onnx", "onnxscript", "onnx"), (".onnx", "onnxruntime", "onnx"), (".xml", "openvino", "openvino")],
)
def test_a_missing_library_is_named_with_its_extra_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*steadylens\[{extra}\]"):
        export_net(nn.Identity().eval(), tmp_path / f"net{suffix}")
    assert not list(tmp_path.iterdir())


def noisy_signs(count: int) -> Tensor:
    """Returns synthetic signs with noise of 15 grey levels."""
    random = np.random.default_rng(5)
    drawn = [draw_track(label % 43, frames=1, rng=random)[0] for label in range(count)]
    pixels = np.stack(drawn) / 255 + random.normal(0, 15 / 255, (count, 3, 48, 48))
    return torch.from_numpy(pixels.clip(0, 1)).float()


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_half_precision_halves_a_file_and_is_compared(suffix: str, tmp_path: Path) -> None:
    net, images, path = load("sign-gtsrb"), noisy_signs(4), tmp_path / f"net{suffix}"
    exported = export_net(net, path, options=ExportOptions(precision="float16"))
    assert read_metadata(path)["precision"] == "float16"
    whole = 4 * sum(parameter.numel() for parameter in net.parameters())
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 0.6 * whole
    with torch.no_grad():
        wanted = net(images)
    found = open_engine(path)(images)
    assert (found - wanted).abs().max() < 1e-2 * wanted.abs().max()
    assert torch.equal(found.argmax(dim=1), wanted.argmax(dim=1))
    assert exported.parity.rms_difference < exported.parity.allowed_difference
    if suffix == ".onnx":  # OpenVINO computes in float32, with weights that fit into float16 as they are
        assert exported.parity.rms_difference > 1e-6


def test_int8_is_chosen_on_half_of_the_images_and_compared_on_the_other_half(tmp_path: Path) -> None:
    images = noisy_signs(40)
    for name in ("l3-gtsrb", "sign-gtsrb"):
        net, path = load(name), tmp_path / f"{name}.onnx"
        exported = export_net(net, path, name=name, options=ExportOptions(precision="int8", images=images))
        model = onnx.load(path)
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
        assert exported.parity.images == 20
        assert exported.parity.rms_difference > 0
        assert read_metadata(path)["precision"] == "int8"
        with torch.no_grad():
            wanted, found = net(images[1::2]), open_engine(path)(images[1::2])
        if name == "l3-gtsrb":
            assert (wanted - found).square().mean().sqrt() < 0.01
        else:
            assert (wanted.argmax(dim=1) == found.argmax(dim=1)).float().mean() >= 0.95
            assert exported.parity.equal_answers is not None


class Steep(nn.Module):
    """Answers with a number that int8 cannot tell apart from others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(self.layer(images) * 1000)


def test_a_net_that_is_worse_in_int8_leaves_no_file(tmp_path: Path) -> None:
    options = ExportOptions(precision="int8", images=noisy_signs(20))
    with pytest.raises(ExportError, match=r"on average, 0\.01 is allowed; no file was written, use a higher"):
        export_net(Steep(), tmp_path / "net.onnx", options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("net.pt2", {"precision": "float16"}, r"\.pt2 files are not written in float16; use \.onnx"),
        ("net.xml", {"precision": "int8", "images": torch.rand(20, 3, 9, 9)}, "not written in int8; use"),
        ("net.pt2", {"opset": 20}, r"an opset is a version of ONNX; leave it out for \.pt2"),
        ("net.onnx", {"precision": "int4"}, "'int4'; choose one of float32, float16, int8"),
        ("net.onnx", {"precision": "int8"}, "int8 needs images, .* give --images FOLDER"),
        ("net.onnx", {"images": torch.rand(20, 3, 9, 9)}, "which float32 does not use; leave them out"),
        ("net.onnx", {"precision": "int8", "images": torch.rand(9, 3, 9, 9)}, "9 images .* at least 20"),
        ("net.onnx", {"precision": "int8", "images": torch.rand(20, 1, 9, 9)}, "1 channels where 3"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SteadylensError, match=message):
        export_net(RestorationNet(3), tmp_path / name, options=ExportOptions(**settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [18, 21])
def test_an_onnx_file_has_the_opset_that_is_asked_for(opset: int, tmp_path: Path) -> None:
    export_net(GaussianSmoothing(), tmp_path / "net.onnx", options=ExportOptions(opset=opset))
    assert [entry.version for entry in onnx.load(tmp_path / "net.onnx").opset_import] == [opset]
    assert read_metadata(tmp_path / "net.onnx")["opset"] == opset


def test_an_opset_that_cannot_be_written_is_refused_without_reports_of_other_libraries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExportError, match="writes this net in opset 18, not in 99; ask for 18"):
        export_net(GaussianSmoothing(), tmp_path / "net.onnx", options=ExportOptions(opset=99))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not list(tmp_path.iterdir())
