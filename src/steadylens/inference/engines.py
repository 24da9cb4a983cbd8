"""What a net runs in: PyTorch, ONNX Runtime or OpenVINO, behind one small interface.

A net is first converted in memory, to torch.export, ONNX or OpenVINO. All engines use as many threads as
PyTorch does, so `torch.set_num_threads` and OMP_NUM_THREADS count for each.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from steadylens.errors import ExportError, MissingExtraError
from steadylens.images.tensors import check_images
from steadylens.inference.signature import INPUT, Signature, example_images, signature_of

if TYPE_CHECKING:
    import onnx
    import openvino  # type: ignore[import-untyped]


OPSET = 20
"""Version of the ONNX operators: that of PyTorch's exporter, which every runtime since 2024 reads."""

NAME = "steadylens"
"""Under this name, a file holds the data about the net as JSON."""


def to_program(net: nn.Module, form: Signature) -> ExportedProgram:
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


def to_onnx(program: ExportedProgram, form: Signature, *, metadata: str = "") -> "onnx.ModelProto":
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


def to_openvino(model: "onnx.ModelProto", form: Signature, *, metadata: str = "") -> "openvino.Model":
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


def _name_dimensions(model: "onnx.ModelProto", form: Signature) -> None:
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


class Engine(Protocol):
    """Something that a net runs in."""

    @property
    def name(self) -> str:
        """The engine's name, for people."""

    @property
    def streams(self) -> int:
        """Calls that run at the same time, each on its share of the threads; more have to wait."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images (N, C, H, W) or logits (N, classes) for images (N, C, H, W) in [0, 1].

        Args:
            images: Float images; their size and number fit the net's interface.

        Returns:
            A float32 tensor of its own on the device of the images, without gradients.

        Raises:
            ImageError: If the net cannot read the images.
        """


class TorchEngine:
    """PyTorch, in the memory layout in which convolutions run fastest.

    Args:
        net: The net; the engine has a copy of its own, in eval mode.
        dtype: float32, or what convolutions compute in.
    """

    name, streams = "PyTorch", 1

    def __init__(self, net: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        copied = copy.deepcopy(net).eval().requires_grad_(False)
        # On a CPU without AVX512, too: a tenth faster than the other layout.
        self._net = copied.to(memory_format=torch.channels_last)
        self._dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        check_images(images)
        given = images.float().contiguous(memory_format=torch.channels_last)
        lower = self._dtype != torch.float32
        with torch.no_grad(), torch.autocast(images.device.type, self._dtype, enabled=lower):
            result: Tensor = self._net(given)
        return result.float().contiguous()


class ProgramEngine:
    """PyTorch, running a program of torch.export.

    Args:
        program: The program.
        form: What it reads and writes.
    """

    name, streams = "PyTorch", 1

    def __init__(self, program: ExportedProgram, form: Signature) -> None:
        self._module, self._form = program.module(), form

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._form.check(images)
        with torch.no_grad():
            result: Tensor = self._module(images.float())
        return result


class OnnxEngine:
    """ONNX Runtime on the CPU, float32.

    Args:
        model: A model, or the content of a .onnx file.
        form: What its net reads and writes.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """

    name, streams = "ONNX Runtime", 1

    def __init__(self, model: "onnx.ModelProto | bytes", form: Signature) -> None:
        onnxruntime = onnxruntime_module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        content = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._form = form

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._form.check(images)
        (result,) = self._session.run(None, {INPUT: _content(images)})
        return torch.from_numpy(result).to(images.device)


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        model: A model of OpenVINO.
        form: What its net reads and writes.
        dtype: float32, or bfloat16 where that is faster; OpenVINO would choose it unasked.
        streams: Calls that run at the same time, for work in many pieces: threads that do not wait for each
            other get more done, but one call takes longer.

    Raises:
        MissingExtraError: If openvino is not installed.
    """

    def __init__(
        self,
        model: "openvino.Model",
        form: Signature,
        *,
        dtype: torch.dtype = torch.float32,
        streams: int = 1,
    ) -> None:
        core = openvino_core()
        self.name, self.streams = openvino_name(streams), streams
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
            },
        )
        self._form = form
        self._idle: SimpleQueue[Any] = SimpleQueue()  # each request has buffers of its own
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._form.check(images)
        if len(images) == 0:  # which OpenVINO refuses
            return images.new_zeros(self._form.result_shape(images), dtype=torch.float32)
        content = _content(images)
        request = self._idle.get()
        try:
            result = request.infer(content, share_inputs=True)[0]
        finally:
            self._idle.put(request)
        return torch.from_numpy(result).to(images.device)


def _content(images: Tensor) -> NDArray[np.float32]:
    """Returns the values of images, one after another; NumPy copies them, as `tiles` says why."""
    return np.ascontiguousarray(images.detach().float().cpu().numpy())


def openvino_name(streams: int) -> str:
    """Returns what OpenVINO's engine with so many streams is called."""
    return "OpenVINO" if streams == 1 else f"OpenVINO, {streams} tiles at a time"


def onnxruntime_module() -> Any:
    """Returns ONNX Runtime.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime


def openvino_core() -> "openvino.Core":
    """Returns OpenVINO's entry.

    Raises:
        MissingExtraError: If openvino is not installed.
    """
    try:
        import openvino  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino.Core()


def onnx_engine(net: nn.Module, *, form: Signature | None = None) -> OnnxEngine:
    """Returns a net, in eval mode on the CPU, in ONNX Runtime.

    Args:
        net: A restorer or a classifier.
        form: What it reads and writes, or None to find out.

    Raises:
        MissingExtraError: If onnx, onnxscript or onnxruntime is not installed.
        SettingError: If the net is neither restorer nor classifier.
        ExportError: If it cannot be converted.
    """
    onnxruntime_module()  # tells that it is missing before the long work
    found = form or signature_of(net)
    return OnnxEngine(to_onnx(to_program(net, found), found), found)


def openvino_engine(
    net: nn.Module, *, form: Signature | None = None, dtype: torch.dtype = torch.float32
) -> OpenVinoEngine:
    """Returns a net, in eval mode on the CPU, in OpenVINO; it is converted by way of ONNX.

    Args:
        net: A restorer or a classifier.
        form: What it reads and writes, or None to find out.
        dtype: float32, or bfloat16 where that is faster.

    Raises:
        MissingExtraError: If openvino, onnx or onnxscript is not installed.
        SettingError: If the net is neither restorer nor classifier.
        ExportError: If it cannot be converted.
    """
    openvino_core()  # tells that it is missing before the long work
    found = form or signature_of(net)
    model = to_openvino(to_onnx(to_program(net, found), found), found)
    return OpenVinoEngine(model, found, dtype=dtype)
