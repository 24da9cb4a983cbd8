"""Programs that `torch.export.save` wrote, and ONNX models, as classifiers."""

import hashlib
import math
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from steadylens.errors import CheckpointError, MissingExtraError, SettingError, reason_of
from steadylens.images.preprocessing import Preprocessing, PreprocessingOptions
from steadylens.nets.classification import PreparedClassifier

if TYPE_CHECKING:
    import onnx


def read_program(path: Path) -> ExportedProgram:
    """Reads a program that `torch.export.save` wrote. Reading it may run code from the file.

    Not thread-safe: Python's warning filters are changed meanwhile.

    Raises:
        Exception: Whatever PyTorch raises if the file is no such program.
    """
    with warnings.catch_warnings():
        # PyTorch 2.11 warns about tensors that share memory with read-only bytes; it copies them afterwards.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(path)


def exported_classifier(
    path: str | Path,
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
) -> PreparedClassifier:
    """Reads a classifier that `torch.export.save` wrote. It works behind a restorer, but cannot be saved.

    Reading such a file may run code from it: open only files that you trust.

    Args:
        path: The file, conventionally .pt2. The program has one input, images with a dynamic batch dimension.
        options: The input size, by default the one that it was exported with; mean and std, by default 0 and
            1, for a program that normalises by itself; and the fit, by default squashing.

    Raises:
        CheckpointError: If the file is missing or damaged.
        SettingError: If the program's input is not a batch of square RGB images of that size.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        state = "is damaged or no exported program" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {state}; write it with torch.export.save")
    try:
        program = read_program(path)
    except Exception as error:  # torch.export.load raises many kinds of errors
        raise CheckpointError(
            f"{path} is damaged or no exported program; write it with torch.export.save"
        ) from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shape = tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()
    fixed = [side if isinstance(side, int) else None for side in shape]  # None: a dynamic dimension
    side = options.size or (fixed[-1] if fixed else None)
    if len(fixed) != 4 or fixed[0] is not None or side is None or {*fixed[2:]} - {None, side}:
        raise SettingError(
            f"{path} reads inputs of shape {shape}; export it for one input (N, 3, S, S) with a dynamic N, "
            "and give a size that fits"
        )
    body = _ExportedBody(program.module())
    return PreparedClassifier(body, options.over(Preprocessing(size=side))).eval()


class _ExportedBody(nn.Module):
    """An exported program as a module. `train` only sets the flag, as the program raises an error there."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        return self.program(images)


def onnx_classifier(
    path: str | Path,
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
) -> PreparedClassifier:
    """Reads a classifier from an ONNX model, which ONNX Runtime runs on the CPU.

    It works behind a restorer, but cannot be saved, and has no gradients: nothing can be tuned for it.

    Args:
        path: The .onnx file. Its only input is images (N, C, S, S), float32, where N is free or 1.
        options: The input size, by default that of the model; mean and std, by default 0 and 1, for a model
            that normalises by itself; and the fit, by default squashing.

    Raises:
        MissingExtraError: If onnx or onnxruntime is not installed.
        CheckpointError: If the file is missing or damaged.
        SettingError: If the model's input is not a batch of square images of that size.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        import onnx  # noqa: PLC0415
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("onnx or onnxruntime", "onnx") from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3  # errors only
    try:
        model = onnx.load(path)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # the two libraries have their own errors
        raise CheckpointError(f"{path} cannot be read as an ONNX model ({reason_of(error)})") from error
    inputs = session.get_inputs()
    shape = tuple(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else ()
    fixed = [side if isinstance(side, int) else None for side in shape]  # None: a free dimension
    side = options.size or (fixed[-1] if fixed else None)
    if len(fixed) != 4 or fixed[0] not in (None, 1) or side is None or {*fixed[2:]} - {None, side}:
        raise SettingError(
            f"{path} reads {[(each.shape, each.type) for each in inputs]}; export it for one input of "
            "float32 images (N, C, S, S) with a free N, and give a size that fits"
        )
    return PreparedClassifier(_OnnxBody(model, session), options.over(Preprocessing(size=side))).eval()


class _OnnxBody(nn.Module):
    """An ONNX model as a module, with its weights as parameters that are only counted and compared."""

    def __init__(self, model: "onnx.ModelProto", session: Any) -> None:
        super().__init__()
        from onnx.numpy_helper import to_array  # noqa: PLC0415

        self.session, self.name = session, session.get_inputs()[0].name
        self.one_by_one = session.get_inputs()[0].shape[0] == 1
        self.digest = hashlib.sha256(model.SerializeToString()).hexdigest()
        arrays = [to_array(each) for each in model.graph.initializer]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)
            for array in arrays
            if array.dtype == np.float32
        )
        self.multiplications = _multiplications(model)
        """Multiply-adds for one image, which PyTorch cannot count."""

    def extra_repr(self) -> str:
        return f"sha256={self.digest}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing in it can change

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            raise SettingError(
                "an ONNX model has no gradients, so no restorer can be tuned for it; tune it for the PyTorch "
                "net, or put the restorer in front as it is"
            )
        array = np.ascontiguousarray(images.detach().float().cpu().numpy())
        parts = np.split(array, len(array)) if self.one_by_one and len(array) else [array]
        found = np.concatenate([self.session.run(None, {self.name: part})[0] for part in parts])
        return torch.from_numpy(found).to(images.device)


def _multiplications(model: "onnx.ModelProto") -> int:
    """Counts the multiply-adds of convolutions and matrix products for one image."""
    from onnx import shape_inference  # noqa: PLC0415

    graph = shape_inference.infer_shapes(model).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(value.name, tuple(side.dim_value or 1 for side in dims))
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and {*node.input[:2], node.output[0]} <= shapes.keys():
            weight, made = shapes[node.input[1]], shapes[node.output[0]]
            if node.op_type == "Conv":
                inner = math.prod(weight[1:])
            else:
                inner = math.prod(shapes[node.input[0]]) // max(1, math.prod(made[:-1]))
            total += math.prod(made) * inner
    return total
