"""Weights that other libraries wrote are read whole, or refused in one sentence."""

import argparse
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import timm.utils
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models  # type: ignore[import-untyped]

from steadylens.errors import CheckpointError
from steadylens.nets.third_party import timm_classifier, torchvision_classifier
from steadylens.nets.weights import load_weights, other_kind, read_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[n], v) for n, v in expected.items())


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin", "net.safetensors"])
def test_weights_are_read_from_either_kind_of_file(name: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    write: Any = save_file if name.endswith("safetensors") else torch.save
    write(weights, tmp_path / name)
    assert same(read_weights(tmp_path / name), weights)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "module"])
def test_weights_are_found_within_the_state_of_a_training(key: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    torch.save({key: weights, "epoch": 3, "loss": 0.5}, tmp_path / "net.pth")
    assert same(read_weights(tmp_path / "net.pth"), weights)


def changed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns other weights for the same net, as an average over several steps is."""
    return {name: value * 0.5 if value.is_floating_point() else value for name, value in weights.items()}


def test_the_file_of_timms_own_saver_is_read_with_the_average(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = timm.create_model("test_resnet", num_classes=4)
    utils: Any = timm.utils  # it is not typed
    average = utils.ModelEmaV2(model)
    average.module.load_state_dict(changed(model.state_dict()))
    saver = utils.CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        args=argparse.Namespace(model="test_resnet", mean=None, lr=0.1, betas=[0.9, 0.99]),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, 50.0)
    path = tmp_path / "last.pth.tar"
    trained, averaged = model.state_dict(), average.module.state_dict()
    taken = timm_classifier("test_resnet", weights=path).body.state_dict()
    assert same(taken, averaged)
    assert "state_dict_ema, the averaged ones, is taken; for state_dict, give ema=False or" in caplog.text
    caplog.clear()
    for ema, wanted in ((True, averaged), (False, trained)):
        assert same(timm_classifier("test_resnet", weights=path, ema=ema).body.state_dict(), wanted)
    assert not caplog.text


def test_the_file_of_torchvisions_reference_is_read_with_the_average(tmp_path: Path) -> None:
    model = models.resnet18(num_classes=4)
    average = AveragedModel(model)
    average.module.load_state_dict(changed(model.state_dict()))
    held = {
        "model": model.state_dict(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(data_path="/data", model="resnet18", lr=0.1, test_only=False),
        "model_ema": average.state_dict(),
    }
    torch.save(held, tmp_path / "checkpoint.pth")
    for ema, wanted in ((None, average.module), (False, model)):
        found = torchvision_classifier("resnet18", weights=tmp_path / "checkpoint.pth", ema=ema)
        assert same(found.body.state_dict(), wanted.state_dict())


@pytest.mark.parametrize("prefix", ["model.", "net.", "model._orig_mod.", "module.", "_orig_mod.module."])
def test_what_wrappers_put_before_each_name_is_removed(prefix: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    torch.save({prefix + name: value for name, value in weights.items()}, tmp_path / "net.pth")
    assert same(read_weights(tmp_path / "net.pth"), weights)


def test_a_lightning_file_is_read_without_the_weights_of_its_losses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = net().state_dict()
    named = {f"model.{name}": value for name, value in weights.items()} | {"loss.weight": torch.ones(3)}
    held = {"state_dict": named, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    torch.save(held, tmp_path / "last.ckpt")
    assert same(read_weights(tmp_path / "last.ckpt"), weights)
    assert "the weights of model.* are taken, loss.weight left out" in caplog.text


@pytest.mark.parametrize(
    ("held", "ema", "message"),
    [
        ({"state_dict": net().state_dict()}, True, "holds state_dict alone"),
        ({"state_dict_ema": net().state_dict()}, False, "holds state_dict_ema alone"),
        (net().state_dict(), True, "holds one state dict, not an averaged one"),
        ({"model": net().state_dict(), "net": net().state_dict()}, None, "as model and as net; save a file"),
    ],
)
def test_weights_that_cannot_be_chosen_are_refused(
    held: object, ema: bool | None, message: str, tmp_path: Path
) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "net.pth", ema=ema)


def test_a_dict_that_contains_itself_is_refused(tmp_path: Path) -> None:
    held: dict[str, object] = {"epoch": 3}
    held["model"] = {"net": held}
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_weights(tmp_path / "net.pth")


def scripted(path: Path) -> None:
    jit: Any = torch.jit
    jit.save(jit.trace(net().eval(), torch.rand(2, 2)), path)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(net().eval(), (torch.rand(2, 2),)), path)


def as_onnx(path: Path) -> None:
    one = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
    two = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["images"], ["logits"])], "net", [one], [two]
    )
    onnx.save(onnx.helper.make_model(graph), path)


@pytest.mark.parametrize(
    ("write", "name", "kind"),
    [
        (scripted, "net.pt", "a TorchScript program"),
        (exported, "net.pt2", "an exported program"),
        (as_onnx, "net.onnx", "an ONNX model"),
        (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(40)), "net.gguf", "a GGUF file"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "net.h5", "an HDF5 file"),
    ],
)
def test_a_file_of_a_whole_net_is_named_as_what_it_is(
    write: Callable[[Path], None], name: str, kind: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        write(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=rf"net\.pth is {kind}.*, no file of weights; save the net's"):
        read_weights(tmp_path / "net.pth")


def test_a_state_dict_is_no_other_kind_of_file(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "net.pth")
    torch.save(net().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(net().state_dict(), tmp_path / "net.safetensors")
    assert {other_kind(path) for path in tmp_path.iterdir()} == {None}


@pytest.mark.parametrize("cut", [1, 60, 200])
def test_a_program_that_is_cut_off_is_said_to_be_damaged(cut: int, tmp_path: Path) -> None:
    exported(tmp_path / "net.pt2")
    content = (tmp_path / "net.pt2").read_bytes()
    for damaged in (content[:-cut], content[: -cut - 1] + b"\xff" * cut + content[-1:]):
        (tmp_path / "net.pth").write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            read_weights(tmp_path / "net.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_quantised_weights_are_named_as_such(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves quantisation to a library of its own
        quantization: Any = torch.ao.quantization
        dynamic = quantization.quantize_dynamic(net(), {nn.Linear})
    torch.save({"model": dynamic.state_dict()}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds quantised weights; give the float weights"):
        read_weights(tmp_path / "net.pth")
    whole = {name: (value * 9).to(torch.int8) for name, value in net().state_dict().items()}
    with pytest.raises(CheckpointError, match="holds quantised weights"):
        load_weights(net(), whole, "net.pth")


def test_the_size_of_a_vision_transformer_of_another_size_is_told(tmp_path: Path) -> None:
    larger = timm.create_model("test_vit", img_size=96, num_classes=4)
    torch.save(larger.state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="belong to images of 96 pixels: give size=96 or --size 96"):
        timm_classifier("test_vit", weights=tmp_path / "net.pth")
    assert timm_classifier("test_vit", weights=tmp_path / "net.pth", size=96).input_size == 96


class Harmful:
    """Runs a command when it is unpickled as it likes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


TEXTS = (b"<html>an error</html>", b"", b"weights, as it were", b"some text", b"\x80\x02c", b"0", b"a")
CONTENTS = (*TEXTS, pickle.dumps(Harmful(), 2), pickle.dumps([], 2))


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_holds_no_weights_is_refused_and_does_not_run(content: bytes, tmp_path: Path) -> None:
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(content)
        kind = "no safetensors file" if name.endswith("safetensors") else "was not written by torch.save"
        message = f"{name} is damaged or {kind}"
        with pytest.raises(CheckpointError, match=message) as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "named"),
    [(Harmful(), "exec"), (net(), "torch.nn.modules.container.Sequential")],
    ids=["harmful", "net"],
)
def test_a_whole_module_is_refused_and_does_not_run(held: object, named: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "net.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'net.pth'} holds more than weights ({named}), and reading it could run code; save "
        "only the net's state_dict()"
    )


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_file_that_is_cut_off_is_said_to_be_damaged(name: str, tmp_path: Path) -> None:
    write: Any = save_file if name.endswith("safetensors") else torch.save
    write(net().state_dict(), tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged or .*; copy or (write|save) it again"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [torch.ones(2)], {"model": {}}, torch.ones(3)], ids=repr)
def test_a_sound_file_without_weights_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds no state dict; save the net's state_dict"):
        read_weights(tmp_path / "net.pth")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.pth"):
        read_weights(tmp_path / "absent.pth")


def test_a_net_takes_the_weights_of_a_file() -> None:
    one, other = net(), net()
    load_weights(one, other.state_dict(), Path("net.pth"))
    assert same(one.state_dict(), other.state_dict())


def test_what_does_not_fit_is_named() -> None:
    weights = net().state_dict()
    weights["0.weight"] = torch.rand(3, 5)
    weights["2.bias"] = weights.pop("0.bias")
    expected = (
        r"net\.pth do not fit the net: it lacks 0\.bias; it has the unexpected 2\.bias; "
        r"it has another shape for 0\.w"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_weights(net(), weights, Path("net.pth"))


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = net().state_dict()
    weights["0.bias"] = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(CheckpointError, match=r"0\.bias holds values that are not finite"):
        load_weights(net(), weights, Path("net.pth"))
