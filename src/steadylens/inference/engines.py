"""Runs a net in PyTorch, ONNX Runtime or OpenVINO, through one small interface, and finds the fastest.

A net is first converted in memory to a torch.export program, an ONNX model or an OpenVINO model. All engines
use as many threads as PyTorch does, so `torch.set_num_threads` and OMP_NUM_THREADS set the number for each.
"""

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from steadylens.devices import evaluating
from steadylens.errors import ExportError, MissingExtraError, reason_of
from steadylens.images.tensors import check_images
from steadylens.inference.signature import (
    INPUT,
    TOLERANCES,
    Signature,
    Size,
    check_parity,
    example_images,
    signature_of,
)
from steadylens.nets.facts import facts_of

if TYPE_CHECKING:
    import onnx
    import openvino  # type: ignore[import-untyped]

OPSET = 20
"""Version of the ONNX operator set: the default of PyTorch's exporter, which runtimes since 2024 read."""

METADATA_KEY = "steadylens"
"""The key under which an exported file holds its metadata, as JSON."""


def to_program(net: nn.Module, signature: Signature) -> ExportedProgram:
    """Converts a net on the CPU, as it is in eval mode, to a torch.export program.

    Raises:
        ExportError: If PyTorch cannot trace the net with the free dimensions of the signature.
    """
    free: dict[int, Any] = {}
    if signature.batch is None:
        free[0] = Dim("batch", min=1)
    if signature.size is None:
        least = signature.minimum_size + bool(signature.lost)  # PyTorch handles size 1 separately
        free |= {2: Dim("height", min=least), 3: Dim("width", min=least)}
        if facts_of(net).alignment > 1:  # PyTorch cannot derive bounds through remainders of a division
            free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    # PyTorch warns when it saves weights in another memory layout.
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    try:
        with torch.no_grad(), evaluating(plain):
            return torch.export.export(plain, (example_images(signature),), dynamic_shapes=(free,))
    except Exception as error:  # tracing runs the net's own code, which may raise anything
        raise ExportError(
            f"PyTorch cannot trace the net for the shape {signature.input_shape}: {reason_of(error)}; "
            "fix the size and the batch, or remove control flow that depends on values from the net"
        ) from error


def to_onnx(program: ExportedProgram, signature: Signature, *, opset: int = OPSET) -> "onnx.ModelProto":
    """Converts a program to an ONNX model with named inputs, outputs and free dimensions.

    Args:
        program: The result of `to_program`.
        signature: The signature that the program was made for.
        opset: Version of the ONNX operator set.

    Raises:
        MissingExtraError: If onnx or onnxscript is not installed.
        ExportError: If ONNX has no counterpart for an operator of the net, or not in that version.
    """
    try:
        import onnx  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("onnx or onnxscript", "onnx") from error
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                (),
                input_names=[INPUT],
                output_names=[signature.output],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter may raise anything
        raise ExportError(f"PyTorch cannot write the net as ONNX: {reason_of(error)}") from error
    if exported is None:
        raise ExportError("PyTorch returned no ONNX model; update torch")
    model = exported.model_proto
    if (found := model.opset_import[0].version) != opset:
        raise ExportError(f"PyTorch writes this net in opset {found}, not in {opset}; ask for {found}")
    _name_dimensions(model, signature)
    model.producer_name = METADATA_KEY
    return model


def to_float16(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Converts the weights and operators of a float32 model to float16; input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of numbers that become zero
        converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return converted


def to_int8(model: "onnx.ModelProto", batches: Iterator[Tensor]) -> "onnx.ModelProto":
    """Quantises the convolutions and matrix products of a float32 model, each output channel by itself.

    Args:
        model: The result of `to_onnx`.
        batches: Images from which the scales of the values between layers are chosen.
    """
    import onnx  # noqa: PLC0415
    from onnxruntime import quantization  # type: ignore[import-untyped]  # noqa: PLC0415

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            images = next(batches, None)
            return None if images is None else {INPUT: _as_array(images)}

    with TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("net.onnx", "net-1.onnx", "net-2.onnx"))
        onnx.save(model, source)
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
            per_channel=True,
        )
        return onnx.load(target)


def to_openvino(model: "onnx.ModelProto", signature: Signature) -> "openvino.Model":
    """Converts an ONNX model to an OpenVINO model.

    Args:
        model: The result of `to_onnx`.
        signature: The signature that the model was made for.

    Raises:
        MissingExtraError: If openvino is not installed.
        ExportError: If OpenVINO cannot read the model.
    """
    core = openvino_core()
    import openvino  # noqa: PLC0415

    try:
        converted = core.read_model(model.SerializeToString())
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read the net: {reason_of(error)}") from error
    size = signature.size or [(signature.minimum_size, -1)] * 2
    free = (signature.batch or (1, -1), signature.channels, *size)
    dimensions = [openvino.Dimension(*(side if isinstance(side, tuple) else (side,))) for side in free]
    converted.reshape(openvino.PartialShape(dimensions))
    return converted


def _name_dimensions(model: "onnx.ModelProto", signature: Signature) -> None:
    """Names the free dimensions of input and output; runtimes infer the shapes in between again."""
    graph = model.graph
    del graph.value_info[:]
    for value, shape in ((graph.input[0], signature.input_shape), (graph.output[0], signature.output_shape)):
        for dimension, side in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(side, str):
                dimension.dim_param = side
            else:
                dimension.dim_value = side


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings and tracebacks that the exporter means for its own developers."""
    loggers = {each: each.level for each in map(logging.getLogger, ("onnxscript", "torch.onnx"))}
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


class Engine(Protocol):
    """A net loaded into a runtime, ready to be called."""

    @property
    def name(self) -> str:
        """The engine's name as shown to users."""

    @property
    def streams(self) -> int:
        """How many calls run at the same time, each on its share of the threads; further calls wait."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images (N, C, H, W) or logits (N, classes) for images (N, C, H, W) in [0, 1].

        Args:
            images: Float images of a size and number that the net's signature allows.

        Returns:
            A new float32 tensor on the device of the images, without gradients.

        Raises:
            ImageError: If the net cannot read the images.
        """


class TorchEngine:
    """Runs a net in PyTorch, in the memory layout in which convolutions run fastest.

    Args:
        net: The net; the engine keeps a copy of its own, in eval mode.
        dtype: Number format of the convolutions: float32, or a lower precision for autocast.
    """

    name, streams = "PyTorch", 1

    def __init__(self, net: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        copied = copy.deepcopy(net).requires_grad_(False)
        for part in copied.modules():  # not by eval(), which an exported program does not have
            part.training = False
        # Also on a CPU without AVX512, where it is a tenth faster than the default layout.
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
    """Runs a torch.export program in PyTorch.

    Args:
        program: The program.
        signature: What the program reads and writes.
    """

    name, streams = "PyTorch", 1

    def __init__(self, program: ExportedProgram, signature: Signature) -> None:
        self._module, self._signature = program.module(), signature

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._signature.check(images)
        with torch.no_grad():
            result: Tensor = self._module(images.float())
        return result


class OnnxEngine:
    """Runs an ONNX model in ONNX Runtime on the CPU, in float32.

    Args:
        model: A model, or the content of an .onnx file.
        signature: What the model reads and writes.

    Raises:
        MissingExtraError: If onnxruntime is not installed.
    """

    name, streams = "ONNX Runtime", 1

    def __init__(self, model: "onnx.ModelProto | bytes", signature: Signature) -> None:
        onnxruntime = onnxruntime_module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        model = model if isinstance(model, bytes) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._signature = signature

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._signature.check(images)
        (result,) = self._session.run(None, {INPUT: _as_array(images)})
        return torch.from_numpy(result).to(images.device)


class OpenVinoEngine:
    """Runs a model in OpenVINO on the CPU.

    Args:
        model: An OpenVINO model.
        signature: What the model reads and writes.
        dtype: float32 or bfloat16. Without this, OpenVINO would choose bfloat16 wherever it is faster.
        streams: How many calls run at a time: many of them are done sooner with more, one of them later.

    Raises:
        MissingExtraError: If openvino is not installed.
    """

    def __init__(
        self,
        model: "openvino.Model",
        signature: Signature,
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
        self._signature = signature
        self._idle: SimpleQueue[Any] = SimpleQueue()  # every request has its own buffers
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images or logits; see `Engine`."""
        self._signature.check(images)
        if len(images) == 0:  # OpenVINO refuses an empty batch
            return images.new_zeros(self._signature.result_shape(images), dtype=torch.float32)
        request = self._idle.get()
        try:
            result = request.infer(_as_array(images), share_inputs=True)[0]
        finally:
            self._idle.put(request)
        return torch.from_numpy(result).to(images.device)


def _as_array(images: Tensor) -> NDArray[np.float32]:
    """Returns images as a contiguous array. NumPy does the copy, to keep PyTorch's threads out of the way."""
    return np.ascontiguousarray(images.detach().float().cpu().numpy())


def openvino_name(streams: int) -> str:
    """Returns the name of an OpenVINO engine with that many streams."""
    return "OpenVINO" if streams == 1 else f"OpenVINO, {streams} tiles at a time"


def onnxruntime_module() -> Any:
    """Imports ONNX Runtime, or raises a `MissingExtraError`."""
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime


def openvino_core() -> "openvino.Core":
    """Imports OpenVINO and returns its entry object, or raises a `MissingExtraError`."""
    try:
        import openvino  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino.Core()


TIMED_SIZE: Size = (160, 160)
"""Height and width in pixels of the image that a restorer is timed on: small, so that timing is short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineTiming:
    """How fast each engine runs a net on this machine.

    Attributes:
        engine: The fastest engine, ready to use.
        milliseconds: Time per image of each engine that was timed, by the engine's name.
        left_out: Why an engine was not timed, by the engine's name.
        size: Height and width in pixels of the image that was used.
    """

    engine: Engine
    milliseconds: Mapping[str, float]
    left_out: Mapping[str, str]
    size: Size

    def __str__(self) -> str:
        """Returns the result in one line."""
        ranked = sorted(self.milliseconds.items(), key=lambda pair: pair[1])
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in ranked)
        others = "".join(f"; without {name}: {reason}" for name, reason in self.left_out.items())
        return f"{self.engine.name} is the fastest on {self.size[0]}x{self.size[1]} pixels ({times}){others}"


def fastest_engine(
    net: nn.Module, *, seconds: float = 0.5, dtype: torch.dtype = torch.float32
) -> EngineTiming:
    """Returns the engine that runs a net fastest on this machine, with the times of all engines.

    The engines run the net on one image. They take turns, and the quickest turn of each counts.
    If PyTorch uses several threads, OpenVINO is also timed on as many images at a time, since `restore` can
    feed it that many tiles. An engine is left out if it is not installed, cannot run the net, or gives
    another result than the net itself. A net on a GPU stays in PyTorch, untimed. Converting the net takes
    some seconds, so keep the engine that you get.

    Args:
        net: A restorer or a classifier. It is run in eval mode, and keeps its own.
        seconds: How long each engine runs, about; every engine has at least three turns.
        dtype: Number format of the net's products, float32 or bfloat16. ONNX Runtime knows float32 alone.

    Raises:
        SettingError: If the net is neither a restorer nor a classifier.
    """
    if any(parameter.device.type != "cpu" for parameter in net.parameters()):
        left_out = dict.fromkeys((OnnxEngine.name, openvino_name(1)), "the net is not on the CPU")
        engine = TorchEngine(net, dtype=dtype)
        return EngineTiming(engine=engine, milliseconds={}, left_out=left_out, size=TIMED_SIZE)
    signature = signature_of(net)
    least = signature.minimum_size
    height, width = size = signature.size or (max(TIMED_SIZE[0], least), max(TIMED_SIZE[1], least))
    image = torch.rand(1, signature.channels, height, width, generator=torch.Generator().manual_seed(0))
    engines, left_out = _usable_engines(net, signature, image, dtype)
    milliseconds = _time_in_turns(engines, image, seconds)
    fastest = min(engines, key=lambda engine: milliseconds[engine.name])
    return EngineTiming(engine=fastest, milliseconds=milliseconds, left_out=left_out, size=size)


def _usable_engines(
    net: nn.Module, signature: Signature, image: Tensor, dtype: torch.dtype
) -> tuple[list[Engine], dict[str, str]]:
    """Returns the engines whose results agree with the net, and why each other engine is left out."""
    engines: list[Engine] = [TorchEngine(net, dtype=dtype)]
    left_out: dict[str, str] = {}
    others: dict[str, Callable[[onnx.ModelProto], Engine]] = {
        openvino_name(count): lambda model, count=count: OpenVinoEngine(  # type: ignore[misc]
            to_openvino(model, signature), signature, dtype=dtype, streams=count
        )
        for count in sorted({1, torch.get_num_threads() if signature.classes is None else 1})
    }
    if dtype == torch.float32:
        others = {OnnxEngine.name: lambda model: OnnxEngine(model, signature), **others}
    else:
        left_out[OnnxEngine.name] = "it computes in float32 alone"
    tolerance = TOLERANCES["float32" if dtype == torch.float32 else "int8"]  # bfloat16 has 8 bits, too
    try:
        model = to_onnx(to_program(net, signature), signature)
    except (ExportError, MissingExtraError) as error:
        return engines, left_out | dict.fromkeys(others, str(error))
    for name, make in others.items():
        try:
            engine = make(model)
            check_parity(net, engine, [image], tolerance)
        except Exception as error:  # a runtime may raise anything if it cannot run the net
            left_out[name] = reason_of(error)
        else:
            engines.append(engine)
    return engines, left_out


def _time_in_turns(engines: list[Engine], image: Tensor, seconds: float) -> dict[str, float]:
    """Returns the milliseconds per image of the quickest turn of each engine."""
    best = {engine.name: math.inf for engine in engines}
    spent, turns = 0.0, 0
    while turns < 3 or spent < seconds * len(engines):
        for engine in engines:
            begin = time.perf_counter()
            with ThreadPoolExecutor(engine.streams) as pool:
                list(pool.map(engine, [image] * engine.streams))
            taken = time.perf_counter() - begin
            spent += taken
            best[engine.name] = min(best[engine.name], 1000 * taken / engine.streams)
        turns += 1
    return best
