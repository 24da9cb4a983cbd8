"""Every kind of net answers in PyTorch's, ONNX's and OpenVINO's runtime as it does itself."""

import warnings
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from steadylens.classification import SignNet
from steadylens.classifiers import timm_classifier
from steadylens.conversion import NAME, OPSET, to_onnx, to_openvino, to_program
from steadylens.engines import OnnxEngine, OpenVinoEngine, ProgramEngine
from steadylens.errors import ExportError
from steadylens.fusion import FusedClassifier
from steadylens.initialization import initialize_xavier
from steadylens.interface import Interface, interface_of
from steadylens.parity import check_parity, noisy_images
from steadylens.restoration import DongNet, GaussianSmoothing, RestorationNet


def drawn(net: nn.Module) -> nn.Module:
    """Returns the net in eval mode with weights that are drawn again in every run."""
    initialize_xavier(net, generator=torch.Generator().manual_seed(0))
    return net.eval()


def residual_classifier() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return timm_classifier("resnet10t", classes=7, size=32)


NETS: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    "zeros": (drawn(RestorationNet(3)), {}),
    "reflected": (drawn(RestorationNet(5, padding="reflect")), {}),
    "grey, fixed": (drawn(RestorationNet(3, channels=1)), {"batch": 1, "size": (9, 14)}),
    "Dong": (drawn(DongNet(padding="reflect")), {"batch": 3}),
    "Gaussian": (GaussianSmoothing(sigma_pixels=0.8).eval(), {}),
    "sign net": (drawn(SignNet(5)), {}),
    "standardizing sign net": (drawn(SignNet(5, standardize=True)), {}),
    "fused": (FusedClassifier(drawn(RestorationNet(3, padding="reflect")), drawn(SignNet(5))).eval(), {}),
    "fused with timm": (FusedClassifier(drawn(RestorationNet(3)), residual_classifier()).eval(), {}),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_answers_alike_in_every_runtime(name: str) -> None:
    net, fixed = NETS[name]
    form = interface_of(net, **fixed)
    program = to_program(net, form)
    model = to_onnx(program, form)
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [form.input_shape, form.output_shape]
    engines = (
        ProgramEngine(program, form),
        OnnxEngine(model, form),
        OpenVinoEngine(to_openvino(model, form), form),
    )
    for engine in engines:
        images = noisy_images(form, generator=torch.Generator().manual_seed(0))
        parity = check_parity(net, engine, images)
        assert parity.equal_answers in (None, parity.images)


def test_an_onnx_model_tells_its_names_its_opset_and_its_metadata() -> None:
    net = NETS["Gaussian"][0]
    form = interface_of(net)
    model = to_onnx(to_program(net, form), form, metadata='{"a": 1}')
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "restored"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert {entry.key: entry.value for entry in model.metadata_props}[NAME] == '{"a": 1}'
    converted = to_openvino(model, form, metadata='{"a": 1}')
    assert (converted.input(0).any_name, converted.output(0).any_name) == ("images", "restored")
    assert str(converted.input(0).partial_shape) == "[1..,3,4..,4..]"
    assert converted.get_rt_info([NAME]).value == '{"a": 1}'


def test_a_net_stays_as_it_was() -> None:
    net = drawn(SignNet(5))
    to_program(net, interface_of(net))
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
        to_program(net, Interface())
    assert "\n" not in str(caught.value)
