"""Every kind of net gives the same results in PyTorch, ONNX Runtime and OpenVINO, through one interface."""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from steadylens.errors import ExportError, ImageError, MissingExtraError
from steadylens.inference.engines import (
    OPSET,
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    ProgramEngine,
    TorchEngine,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.signature import Signature, check_parity, noisy_images, signature_of
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet, initialize_xavier
from steadylens.nets.third_party import timm_classifier

Net = TypeVar("Net", bound=nn.Module)


def initialized(net: Net) -> Net:
    """Returns the net in eval mode, with random weights that are the same in every run."""
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    return net.eval()


def residual_classifier() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return timm_classifier("test_resnet", classes=7, size=32)


NETS: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "zeros": (initialized(RestorationNet(3)), {}),
    "reflected": (initialized(RestorationNet(5, padding="reflect")), {}),
    "grey, fixed": (initialized(RestorationNet(3, channels=1)), {"batch": 1, "size": (9, 14)}),
    "Dong": (initialized(DongNet(padding="reflect")), {"batch": 3}),
    "Gaussian": (GaussianSmoothing(sigma_pixels=0.8).eval(), {}),
    "sign net": (initialized(SignNet(5)), {}),
    "standardizing sign net": (initialized(SignNet(5, standardize=True)), {}),
    "fused": (
        FusedClassifier(initialized(RestorationNet(3, padding="reflect")), initialized(SignNet(5))).eval(),
        {},
    ),
    "fused with timm": (FusedClassifier(initialized(RestorationNet(3)), residual_classifier()).eval(), {}),
}


@cache
def converted(name: str) -> tuple[Signature, ExportedProgram, onnx.ModelProto]:
    """Returns the signature of a net and what it is converted to, which takes long; do not change it."""
    net, fixed = NETS[name]
    signature = signature_of(net, **fixed)
    program = to_program(net, signature)
    return signature, program, to_onnx(program, signature)


@pytest.mark.parametrize("name", NETS)
def test_a_net_answers_alike_in_every_runtime(name: str) -> None:
    signature, program, model = converted(name)
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [signature.input_shape, signature.output_shape]
    engines = (
        ProgramEngine(program, signature),
        OnnxEngine(model, signature),
        OpenVinoEngine(to_openvino(model, signature), signature),
    )
    for engine in engines:
        images = noisy_images(signature, generator=torch.Generator().manual_seed(0))
        parity = check_parity(NETS[name][0], engine, images)
        assert parity.equal_answers in (None, parity.images)


def test_an_onnx_model_tells_its_names_and_its_opset() -> None:
    signature, _, model = converted("Gaussian")
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "restored"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    readable = to_openvino(model, signature)
    assert (readable.input(0).any_name, readable.output(0).any_name) == ("images", "restored")
    assert str(readable.input(0).partial_shape) == "[1..,3,4..,4..]"


def test_a_net_stays_as_it_was() -> None:
    net = initialized(SignNet(5))
    to_program(net, signature_of(net))
    weight = net.get_parameter("features.1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.requires_grad


class Branching(nn.Module):
    """Takes one of two ways, depending on a value."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.mean() > 0.3 else 1 - images


def test_what_cannot_be_traced_is_told_in_one_line() -> None:
    net = Branching().eval()
    with pytest.raises(ExportError, match="cannot trace") as caught:
        to_program(net, Signature())
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return NETS["reflected"][0]


def torch_engine() -> Engine:
    return TorchEngine(NETS["reflected"][0])


def onnx_engine() -> Engine:
    signature, _, model = converted("reflected")
    return OnnxEngine(model, signature)


def openvino_engine(streams: int = 1) -> Engine:
    signature, _, model = converted("reflected")
    return OpenVinoEngine(to_openvino(model, signature), signature, streams=streams)


def two_streams() -> Engine:
    return openvino_engine(streams=2)


@pytest.fixture(scope="module", params=[torch_engine, onnx_engine, openvino_engine, two_streams])
def engine(request: pytest.FixtureRequest) -> Engine:
    made: Engine = request.param()
    return made


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_an_engine_has_a_name_that_people_know(engine: Engine) -> None:
    assert engine.name in ("PyTorch", "ONNX Runtime", "OpenVINO", "OpenVINO, 2 tiles at a time")
    assert engine.streams == (2 if "2" in engine.name else 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_any_float_images_in_any_layout_are_taken_and_float32_is_given(
    engine: Engine, net: nn.Module, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    given = images(2, 3, 9, 14).to(dtype).contiguous(memory_format=layout)
    restored = engine(given)
    assert restored.dtype == torch.float32
    assert restored.is_contiguous()
    assert not restored.requires_grad
    torch.testing.assert_close(restored, net(given.float()).detach(), rtol=0, atol=1e-5)


def test_images_stay_as_they_are_and_so_do_earlier_results(engine: Engine) -> None:
    given, other = images(1, 3, 9, 14), images(1, 3, 9, 14) / 2
    kept = given.clone()
    restored = engine(given)
    earlier = restored.clone()
    engine(other)
    assert torch.equal(given, kept)
    assert torch.equal(restored, earlier)
    restored.add_(1)  # the result is the caller's own
    assert torch.equal(engine(given), earlier)


def test_images_that_need_a_gradient_are_taken(engine: Engine) -> None:
    assert engine(images(1, 3, 9, 14).requires_grad_()).shape == (1, 3, 9, 14)


def test_no_images_make_no_results(engine: Engine) -> None:
    restored = engine(images(0, 3, 9, 14))
    assert (restored.shape, restored.dtype) == ((0, 3, 9, 14), torch.float32)


@pytest.mark.parametrize("shape", [(1, 3, 2, 20), (1, 4, 9, 9), (3, 9, 9)])
def test_images_that_the_net_cannot_read_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError):
        engine(images(*shape))


def test_many_threads_get_each_their_own_result(engine: Engine) -> None:
    given = [images(1, 3, 20 + number, 30) * (number / 16) for number in range(16)]
    wanted = [engine(one) for one in given]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine, given * 2))
    for one, other in zip(wanted * 2, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_pytorch_runs_a_copy_and_leaves_the_net_alone() -> None:
    net = initialized(RestorationNet(3, padding="reflect")).train()
    engine = TorchEngine(net)
    given = images(1, 3, 9, 14)
    before = engine(given)
    with torch.no_grad():
        nn.init.zeros_(net.get_parameter("layers.0.weight"))
    assert torch.equal(engine(given), before)
    assert net.training
    assert net.get_parameter("layers.0.weight").requires_grad


def onnx_again() -> object:
    signature, program, _ = converted("reflected")
    return to_onnx(program, signature)


@pytest.mark.parametrize(
    ("library", "extra", "make"),
    [
        ("onnx", "onnx", onnx_again),
        ("onnxscript", "onnx", onnx_again),
        ("onnxruntime", "onnx", onnx_engine),
        ("openvino", "openvino", openvino_engine),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, library: str, extra: str, make: Callable[[], object]
) -> None:
    converted("reflected")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*steadylens\[{extra}\]"):
        make()
