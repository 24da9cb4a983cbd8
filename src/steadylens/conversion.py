"""A net as a program for others: torch.export, ONNX, OpenVINO, made in memory of the module itself."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from steadylens.errors import ExportError, MissingExtraError
from steadylens.interface import INPUT, Interface, example_images

if TYPE_CHECKING:
    import onnx
    import openvino  # type: ignore[import-untyped]

OPSET = 20
"""Version of the ONNX operators: that of PyTorch's exporter, which every runtime since 2024 reads."""

NAME = "steadylens"
"""Under this name, a file holds the data about the net as JSON."""


def to_program(net: nn.Module, form: Interface) -> ExportedProgram:
    """Returns a net, as it stands in eval mode on the CPU, as a program of torch.export.

    Raises:
        ExportError: If PyTorch cannot trace the net for the shapes that the interface leaves free.
    """
    free: dict[int, Any] = {}
    if form.batch is None:
        free[0] = Dim("batch", min=1)
    if form.size is None:
        least = form.minimum_size + bool(form.lost)  # PyTorch takes an axis of one pixel for another case
        free |= {2: Dim("height", min=least), 3: Dim("width", min=least)}
    # PyTorch's archive keeps weights of another layout only with a warning.
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    try:
        with torch.no_grad():
            return torch.export.export(plain, (example_images(form),), dynamic_shapes=(free,))
    except Exception as error:  # tracing runs the net's own code, which raises whatever it likes
        raise ExportError(
            f"PyTorch cannot trace the net for the shape {form.input_shape}: {_first(error)}; "
            "fix the size and the batch, or take what depends on values out of the net"
        ) from error


def to_onnx(program: ExportedProgram, form: Interface, *, metadata: str = "") -> "onnx.ModelProto":
    """Returns a program as an ONNX model with named inputs, outputs and free dimensions.

    Args:
        program: What `to_program` returned.
        form: The interface that it was made for.
        metadata: JSON that the file shall hold.

    Raises:
        MissingExtraError: If onnx or onnxscript is not installed.
        ExportError: If an operator of the net has no counterpart in ONNX.
    """
    try:
        import onnx  # noqa: PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("onnx or onnxscript", "onnx") from error
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                (),
                input_names=[INPUT],
                output_names=[form.output],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever its parts raise
        raise ExportError(f"PyTorch cannot write the net as ONNX: {_first(error)}") from error
    if exported is None:
        raise ExportError("PyTorch wrote no ONNX model; update torch")
    model = exported.model_proto
    _name_dimensions(model, form)
    model.producer_name = NAME
    if metadata:
        onnx.helper.set_model_props(model, {NAME: metadata})
    return model


def to_openvino(model: "onnx.ModelProto", form: Interface, *, metadata: str = "") -> "openvino.Model":
    """Returns an ONNX model as one of OpenVINO.

    Args:
        model: What `to_onnx` returned.
        form: The interface that it was made for.
        metadata: JSON that the file shall hold.

    Raises:
        MissingExtraError: If openvino is not installed.
        ExportError: If OpenVINO cannot read the model.
    """
    try:
        import openvino  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    try:
        converted = openvino.Core().read_model(model.SerializeToString())
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read the net: {_first(error)}") from error
    free = (form.batch or (1, -1), form.channels, *(form.size or [(form.minimum_size, -1)] * 2))
    dimensions = [openvino.Dimension(*(side if isinstance(side, tuple) else (side,))) for side in free]
    converted.reshape(openvino.PartialShape(dimensions))
    if metadata:
        converted.set_rt_info(metadata, [NAME])
    return converted


def _name_dimensions(model: "onnx.ModelProto", form: Interface) -> None:
    """Calls the free dimensions of input and output by their names; runtimes infer those between again."""
    graph = model.graph
    del graph.value_info[:]
    for value, shape in ((graph.input[0], form.input_shape), (graph.output[0], form.output_shape)):
        for dimension, side in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(side, str):
                dimension.dim_param = side
            else:
                dimension.dim_value = side


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says to its own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
