"""Exports a trained net for other runtimes, compared with the evaluated net before the file appears.

Each file format knows how it is written, read and run. A model repository for Triton Inference Server is
made of an ONNX export.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.export import ExportedProgram

from steadylens.errors import (
    CheckpointError,
    ExportError,
    MissingExtraError,
    SettingError,
    SteadylensError,
    lacks_memory,
    reason_of,
)
from steadylens.files import check_place, replacing
from steadylens.inference.engines import (
    NAME,
    OPSET,
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    ProgramEngine,
    onnxruntime_module,
    openvino_core,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.parity import Parity, check_parity, noisy_images
from steadylens.inference.signature import INPUT, Signature, Size, signature_of
from steadylens.nets.architecture import describe
from steadylens.nets.classification import read_program
from steadylens.nets.facts import facts_of

if TYPE_CHECKING:
    import onnx


Files = Sequence[Path]
"""The files of one exported net; the first is the one that is opened."""


class Format(Protocol):
    """How an exported net is kept in a file."""

    @property
    def suffix(self) -> str:
        """The ending of the file's name."""

    @property
    def opset(self) -> int | None:
        """The version of the operators, or None if the format has none."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns all the files that belong to `path`, itself first."""

    def convert(self, program: ExportedProgram, form: Signature) -> Any:
        """Returns the program in the form that this format writes."""

    def write(self, converted: Any, files: Files, metadata: str) -> None:
        """Writes what `convert` returned, with the data about the net as JSON."""

    def metadata(self, files: Files) -> str | None:
        """Returns the JSON that the file holds, or None if another program wrote it."""

    def open(self, files: Files, form: Signature) -> Engine:
        """Returns the file's net in the runtime that it is made for."""


class TorchFormat:
    """A program of torch.export, .pt2; PyTorch runs it, without this package.

    Reading such a file may run what it holds: open only those that you trust.
    """

    suffix, opset = ".pt2", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file alone."""
        return (path,)

    def convert(self, program: ExportedProgram, form: Signature) -> ExportedProgram:
        """Returns the program itself."""
        del form
        return program

    def write(self, converted: ExportedProgram, files: Files, metadata: str) -> None:
        """Writes the program; the data about the net are an extra file within."""
        torch.export.save(converted, files[0], extra_files={NAME: metadata})

    def metadata(self, files: Files) -> str | None:
        """Returns the extra file within."""
        with zipfile.ZipFile(files[0]) as archive:
            found = [name for name in archive.namelist() if name.endswith(f"/extra/{NAME}")]
            return archive.read(found[0]).decode() if found else None

    def open(self, files: Files, form: Signature) -> Engine:
        """Returns the program in PyTorch."""
        return ProgramEngine(read_program(files[0]), form)


class OnnxFormat:
    """An ONNX model in one file, .onnx; ONNX Runtime runs it."""

    suffix, opset = ".onnx", OPSET

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file alone."""
        return (path,)

    def convert(self, program: ExportedProgram, form: Signature) -> "onnx.ModelProto":
        """Returns the model."""
        onnxruntime_module()  # tells that it is missing before the long work
        return to_onnx(program, form)

    def write(self, converted: "onnx.ModelProto", files: Files, metadata: str) -> None:
        """Writes the model; the data about the net are one of its properties."""
        import onnx  # noqa: PLC0415

        onnx.helper.set_model_props(converted, {NAME: metadata})
        files[0].write_bytes(converted.SerializeToString())

    def metadata(self, files: Files) -> str | None:
        """Returns the property, read by the runtime: onnx itself need not be installed."""
        content = files[0].read_bytes()
        session = onnxruntime_module().InferenceSession(content, providers=["CPUExecutionProvider"])
        found: str | None = session.get_modelmeta().custom_metadata_map.get(NAME)
        return found

    def open(self, files: Files, form: Signature) -> Engine:
        """Returns the model in ONNX Runtime."""
        return OnnxEngine(files[0].read_bytes(), form)


class OpenVinoFormat:
    """A model of OpenVINO, .xml with its weights in a .bin beside it; OpenVINO runs it."""

    suffix, opset = ".xml", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file and that of the weights."""
        return (path, path.with_suffix(".bin"))

    def convert(self, program: ExportedProgram, form: Signature) -> Any:
        """Returns the model, made by way of ONNX."""
        openvino_core()  # tells that it is missing before the long work
        return to_openvino(to_onnx(program, form), form)

    def write(self, converted: Any, files: Files, metadata: str) -> None:
        """Writes the model; the data about the net are part of its runtime information."""
        import openvino  # type: ignore[import-untyped]  # noqa: PLC0415

        converted.set_rt_info(metadata, [NAME])
        openvino.serialize(converted, *files)

    def metadata(self, files: Files) -> str | None:
        """Returns the data from the runtime information."""
        model = openvino_core().read_model(*files)
        return str(model.get_rt_info([NAME]).value) if model.has_rt_info([NAME]) else None

    def open(self, files: Files, form: Signature) -> Engine:
        """Returns the model in OpenVINO."""
        return OpenVinoEngine(openvino_core().read_model(*files), form)


TORCH, ONNX, OPENVINO = TorchFormat(), OnnxFormat(), OpenVinoFormat()


def format_of(path: Path) -> Format:
    """Returns the format that a path ends with.

    Raises:
        SettingError: If it ends with none.
    """
    formats: tuple[Format, ...] = (TORCH, ONNX, OPENVINO)
    for one in formats:
        if path.suffix == one.suffix:
            return one
    endings = ", ".join(one.suffix for one in formats)
    raise SettingError(f"{path} does not end as an exported net, with one of {endings}")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Returns the data about a net that an exported file holds.

    Raises:
        SettingError: If the path does not end as an exported net.
        CheckpointError: If the file is missing or damaged, or this package did not export it.
        MissingExtraError: If the library that reads the file is not installed.
    """
    path = Path(path)
    one = format_of(path)
    for needed in one.files(path):
        if not needed.is_file():
            raise CheckpointError(f"there is no file {needed}; export the net again")
    with _damage_told(path):
        found = one.metadata(one.files(path))
        plain = None if found is None else json.loads(found)
    if not isinstance(plain, dict) or not isinstance(plain.get("interface"), dict):
        raise CheckpointError(f"{path} was not exported by steadylens; export the net with it")
    return plain


def open_engine(path: str | Path) -> Engine:
    """Returns an exported net in the runtime that its file is made for.

    Reading a .pt2 file may run what it holds: open only those that you trust.

    Raises:
        SettingError: If the path does not end as an exported net.
        CheckpointError: If the file is missing or damaged, or this package did not export it.
        MissingExtraError: If its runtime is not installed.
    """
    path = Path(path)
    form = Signature.of_description(read_metadata(path)["interface"])
    one = format_of(path)
    with _damage_told(path):
        return one.open(one.files(path), form)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turns whatever a runtime raises at a damaged file into one sentence."""
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:  # each runtime raises its own
        if lacks_memory(error):
            raise
        raise CheckpointError(f"{path} is damaged ({reason_of(error)}); export the net again") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported net.

    Attributes:
        path: The file that is opened; one of OpenVINO has its weights beside it.
        form: What it reads and writes.
        parity: How it compares with the net that was evaluated.
    """

    path: Path
    form: Signature
    parity: Parity


def export_net(
    net: nn.Module,
    path: str | Path,
    *,
    name: str = "",
    about: Mapping[str, Any] | None = None,
    size: Size | None = None,
    batch: int | None = None,
) -> Exported:
    """Writes a net for another runtime, if it answers there as here; else no file appears.

    The file is run in its own runtime, on noisy images of several sizes and batch sizes, before it gets its
    name. It holds, as JSON, what it expects and gives, where the net comes from, and how it compared.

    Args:
        net: A restorer or a classifier, in eval mode on the CPU.
        path: The file: .pt2 for torch.export, .onnx for ONNX, .xml for OpenVINO (its .bin appears, too).
        name: The net's name; by default that of its class.
        about: Plain data about where the net comes from, as `load_model` returns them.
        size: Height and width in pixels to fix; by default a restorer reads any.
        batch: Images in a batch to fix; by default any.

    Raises:
        SettingError: If the path has no such ending, or the net cannot read that size.
        MissingExtraError: If a library that the format needs is not installed.
        ExportError: If the net cannot be converted, or answers otherwise in the other runtime.
        StorageError: If a file cannot be written.
    """
    path = Path(path)
    target = format_of(path)
    for file in target.files(path):
        check_place(file)
    if any(parameter.device.type != "cpu" for parameter in net.parameters()):
        raise SettingError("the net is not on the CPU, where it is compared; move it with net.cpu()")
    form = signature_of(net, size=size, batch=batch)
    converted = target.convert(to_program(net, form), form)
    metadata = _metadata(net, form, name=name, about=about or {}, target=target)
    with ExitStack() as stack:
        # The last one entered is renamed first: the file that is opened appears when its companion is there.
        files = [stack.enter_context(replacing(file)) for file in target.files(path)]
        target.write(converted, files, json.dumps(metadata))
        parity = _compare(net, target, files, form)
        metadata["parity"] = parity.described()
        target.write(converted, files, json.dumps(metadata))
        _read_again(target, files, metadata)
    return Exported(path=path, form=form, parity=parity)


def _compare(net: nn.Module, target: Format, files: Files, form: Signature) -> Parity:
    """Runs the files in their runtime beside the net."""
    try:
        engine = target.open(files, form)
        images = noisy_images(form, generator=torch.Generator().manual_seed(0))
        return check_parity(net, engine, images)
    except SteadylensError:
        raise
    except Exception as error:  # each runtime raises its own
        why = f"{reason_of(error)}; fix the size and the batch"
        if lacks_memory(error):
            why = "memory ran out; fix a smaller size or batch"
        raise ExportError(f"the exported net does not run: {why}") from error


def _read_again(target: Format, files: Files, metadata: dict[str, Any]) -> None:
    """Makes sure that the file tells what it should; weights and graph are those that were compared."""
    found = target.metadata(files)
    if found is None or json.loads(found) != json.loads(json.dumps(metadata)):
        raise ExportError("the file does not hold the data about the net; use another format")


def _metadata(
    net: nn.Module, form: Signature, *, name: str, about: Mapping[str, Any], target: Format
) -> dict[str, Any]:
    """Returns what the file tells about itself, but for the comparison."""
    return {
        "name": name or type(net).__name__,
        "architecture": _architecture(net),
        "interface": form.described(),
        "input": {
            "name": INPUT,
            "type": "float32",
            "layout": "NCHW",
            "colours": "RGB",
            "range": [0, 1],
            "shape": form.input_shape,
            "minimum_size": form.minimum_size,
        },
        "output": {"name": form.output, "type": "float32", "shape": form.output_shape},
        "classes": []
        if form.classes is None
        else [*map(str, about.get("classes") or facts_of(net).class_names)],
        "about": {key: value for key, value in about.items() if key not in ("classes", "figures")},
        "steadylens": version("steadylens"),
        "torch": torch.__version__,
        "opset": target.opset,
    }


def _architecture(net: nn.Module) -> dict[str, Any]:
    try:
        return describe(net)
    except SettingError:  # a net that cannot be saved can be exported
        return {"kind": type(net).__name__}


LABELS = "labels.txt"

MAX_BATCH = 32
"""Images that the server gathers at most into one batch."""

QUEUE_MICROSECONDS = 2000
"""How long an image waits for others."""


def export_triton(
    net: nn.Module,
    repository: str | Path,
    *,
    name: str,
    about: Mapping[str, Any] | None = None,
    size: Size | None = None,
    batch: int | None = None,
) -> Exported:
    """Writes REPOSITORY/NAME/1/model.onnx, and what the server must know of it beside.

    Args:
        net: A restorer or a classifier, in eval mode on the CPU.
        repository: The model repository; other models in it stay as they are.
        name: The model's name, by which clients ask for it.
        about: Plain data about where the net comes from, as `load_model` returns them.
        size: Height and width in pixels to fix; by default a restorer reads any.
        batch: Images in a batch to fix; by default the server gathers them itself.

    Raises:
        SettingError: If the name is no folder's name, or the net cannot read that size.
        MissingExtraError: If a library that ONNX needs is not installed.
        ExportError: If the net cannot be converted, or answers otherwise in ONNX Runtime.
        StorageError: If a file cannot be written.
    """
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise SettingError(f"the name {name!r} is no folder's name; use letters, digits, - and _")
    folder = Path(repository) / name
    exported = export_net(net, folder / "1" / "model.onnx", name=name, about=about, size=size, batch=batch)
    classes = read_metadata(exported.path)["classes"]
    if classes:
        _write(folder / LABELS, "".join(f"{' '.join(label.split())}\n" for label in classes))
    _write(folder / "config.pbtxt", triton_config(name, exported.form, classes=classes))
    return exported


def triton_config(name: str, form: Signature, *, classes: Sequence[str] = ()) -> str:
    """Returns the config.pbtxt of a model whose file is an ONNX export.

    Args:
        name: The model's name.
        form: What it reads and writes. With a free batch, the server gathers images of one size itself.
        classes: Names of a classifier's classes; they are looked up in labels.txt.
    """
    # The server puts the batch before the other dimensions by itself, unless the model fixes it.
    gathers = form.batch is None
    labels = f"\n    label_filename: {json.dumps(LABELS)}" if classes else ""
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if gathers else 0}",
        _tensor("input", INPUT, form.input_shape[gathers:]),
        _tensor("output", form.output, form.output_shape[gathers:], labels),
    ]
    if gathers:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, shape: Sequence[int | str], more: str = "") -> str:
    dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in shape)
    fields = f"    name: {json.dumps(name)}\n    data_type: TYPE_FP32\n    dims: [ {dims} ]{more}\n"
    return f"{kind} [\n  {{\n{fields}  }}\n]"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
