"""Engines take and give tensors alike, whatever runs behind them."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from steadylens.conversion import to_onnx, to_openvino, to_program
from steadylens.engines import Engine, OpenVinoEngine, TorchEngine, onnx_engine, openvino_engine
from steadylens.errors import ImageError, MissingExtraError
from steadylens.initialization import initialize_xavier
from steadylens.interface import interface_of
from steadylens.restoration import RestorationNet


def drawn() -> RestorationNet:
    net = RestorationNet(3, padding="reflect").eval()
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    return net


@pytest.fixture(scope="module")
def net() -> RestorationNet:
    return drawn()


def side_by_side(net: RestorationNet) -> Engine:
    form = interface_of(net)
    return OpenVinoEngine(to_openvino(to_onnx(to_program(net, form), form), form), form, streams=2)


@pytest.fixture(scope="module", params=[TorchEngine, onnx_engine, openvino_engine, side_by_side])
def engine(request: pytest.FixtureRequest, net: RestorationNet) -> Engine:
    made: Engine = request.param(net)
    return made


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_an_engine_has_a_name_that_people_know(engine: Engine) -> None:
    assert engine.name in ("PyTorch", "ONNX Runtime", "OpenVINO", "OpenVINO, 2 tiles at a time")
    assert engine.streams == (2 if "2" in engine.name else 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_any_float_images_in_any_layout_are_taken_and_float32_is_given(
    engine: Engine, net: RestorationNet, layout: torch.memory_format, dtype: torch.dtype
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
    net = drawn().train()
    engine = TorchEngine(net)
    given = images(1, 3, 9, 14)
    before = engine(given)
    with torch.no_grad():
        nn.init.zeros_(net.get_parameter("layers.0.weight"))
    assert torch.equal(engine(given), before)
    assert net.training
    assert net.get_parameter("layers.0.weight").requires_grad


@pytest.mark.parametrize(
    ("library", "extra", "make"),
    [
        ("onnx", "onnx", onnx_engine),
        ("onnxscript", "onnx", onnx_engine),
        ("onnxruntime", "onnx", onnx_engine),
        ("openvino", "openvino", openvino_engine),
        ("onnx", "onnx", openvino_engine),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
    net: RestorationNet,
    library: str,
    extra: str,
    make: Callable[[RestorationNet], Engine],
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*steadylens\[{extra}\]"):
        make(net)
