"""Exports a trained net for other runtimes, and opens exported files again.

An exported file appears only after its results were compared with those of the net itself. The formats are
torch.export, ONNX and OpenVINO; a model repository for Triton Inference Server is made from an ONNX export.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
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
    METADATA_KEY,
    OPSET,
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    ProgramEngine,
    onnxruntime_module,
    openvino_core,
    to_float16,
    to_int8,
    to_onnx,
    to_openvino,
    to_program,
)
from steadylens.inference.signature import (
    INPUT,
    TOLERANCES,
    ExportOptions,
    Parity,
    Precision,
    Signature,
    Size,
    check_parity,
    noisy_images,
    signature_of,
)
from steadylens.nets.architecture import describe
from steadylens.nets.exported import read_program
from steadylens.nets.facts import facts_of

if TYPE_CHECKING:
    import onnx


Files = Sequence[Path]
"""The files of one exported net; the first is the one that users open."""


class ExportFormat(Protocol):
    """A file format for exported nets."""

    @property
    def suffix(self) -> str:
        """The suffix of the file that users open."""

    @property
    def opset(self) -> int | None:
        """The usual version of the ONNX operator set, or None for other formats."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns all files that belong to `path`, starting with `path` itself."""

    def convert(self, program: ExportedProgram, signature: Signature, options: ExportOptions) -> Any:
        """Converts a program to the object that `write` takes; refuses options that the format lacks."""

    def write(self, converted: Any, files: Files, metadata: str) -> None:
        """Writes a converted net with its metadata, which is JSON."""

    def metadata(self, files: Files) -> str | None:
        """Returns the metadata of a file, or None if another program wrote it."""

    def open(self, files: Files, signature: Signature) -> Engine:
        """Loads a file into the runtime that the format is made for."""


class TorchFormat:
    """A torch.export program in a .pt2 file. PyTorch runs it, without this package.

    Reading such a file may run code that it contains, so open only files that you trust.
    """

    suffix, opset = ".pt2", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns `path` alone."""
        return (path,)

    def convert(
        self, program: ExportedProgram, signature: Signature, options: ExportOptions
    ) -> ExportedProgram:
        """Returns the program itself, which stays in float32."""
        del signature
        _refuse(options, self.suffix, "float16", "int8")
        return program

    def write(self, converted: ExportedProgram, files: Files, metadata: str) -> None:
        """Writes the program; the metadata becomes an extra file in the archive."""
        torch.export.save(converted, files[0], extra_files={METADATA_KEY: metadata})

    def metadata(self, files: Files) -> str | None:
        """Returns the extra file in the archive."""
        with zipfile.ZipFile(files[0]) as archive:
            found = [name for name in archive.namelist() if name.endswith(f"/extra/{METADATA_KEY}")]
            return archive.read(found[0]).decode() if found else None

    def open(self, files: Files, signature: Signature) -> Engine:
        """Loads the program into PyTorch."""
        return ProgramEngine(read_program(files[0]), signature)


class OnnxFormat:
    """An ONNX model in an .onnx file. ONNX Runtime runs it."""

    suffix, opset = ".onnx", OPSET

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns `path` alone."""
        return (path,)

    def convert(
        self, program: ExportedProgram, signature: Signature, options: ExportOptions
    ) -> "onnx.ModelProto":
        """Converts the program to an ONNX model, of lower precision by the tools of ONNX Runtime."""
        onnxruntime_module()  # fails early if it is not installed
        model = to_onnx(program, signature, opset=options.opset or OPSET)
        if options.precision == "int8":
            return to_int8(model, options.batches(signature, second_half=False))
        return to_float16(model) if options.precision == "float16" else model

    def write(self, converted: "onnx.ModelProto", files: Files, metadata: str) -> None:
        """Writes the model; the metadata becomes one of its properties."""
        import onnx  # noqa: PLC0415

        onnx.helper.set_model_props(converted, {METADATA_KEY: metadata})
        files[0].write_bytes(converted.SerializeToString())

    def metadata(self, files: Files) -> str | None:
        """Returns the property, which the runtime reads: onnx itself need not be installed."""
        content = files[0].read_bytes()
        session = onnxruntime_module().InferenceSession(content, providers=["CPUExecutionProvider"])
        found: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return found

    def open(self, files: Files, signature: Signature) -> Engine:
        """Loads the model into ONNX Runtime."""
        return OnnxEngine(files[0].read_bytes(), signature)


class OpenVinoFormat:
    """An OpenVINO model in an .xml file, with its weights in a .bin file beside it."""

    suffix, opset = ".xml", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the .xml file and the .bin file."""
        return (path, path.with_suffix(".bin"))

    def convert(self, program: ExportedProgram, signature: Signature, options: ExportOptions) -> Any:
        """Converts the program to an OpenVINO model, by way of ONNX, and marks it for float16 if asked."""
        openvino_core()  # fails early if it is not installed
        _refuse(options, self.suffix, "int8")
        converted = to_openvino(to_onnx(program, signature), signature)
        if options.precision == "float16":
            converted.set_rt_info("float16", [METADATA_KEY + "_weights"])
        return converted

    def write(self, converted: Any, files: Files, metadata: str) -> None:
        """Writes the model; the metadata becomes part of its runtime information."""
        import openvino  # type: ignore[import-untyped]  # noqa: PLC0415

        converted.set_rt_info(metadata, [METADATA_KEY])
        if not converted.has_rt_info([METADATA_KEY + "_weights"]):
            openvino.serialize(converted, *files)
            return
        with TemporaryDirectory() as folder:  # the second file is written beside the first
            openvino.save_model(converted, path := Path(folder) / "net.xml", compress_to_fp16=True)
            for source, target in zip(self.files(path), files, strict=True):
                target.write_bytes(source.read_bytes())

    def metadata(self, files: Files) -> str | None:
        """Returns the metadata from the runtime information."""
        model = openvino_core().read_model(*files)
        return str(model.get_rt_info([METADATA_KEY]).value) if model.has_rt_info([METADATA_KEY]) else None

    def open(self, files: Files, signature: Signature) -> Engine:
        """Loads the model into OpenVINO."""
        return OpenVinoEngine(openvino_core().read_model(*files), signature)


EXPORT_FORMATS: tuple[ExportFormat, ...] = (TorchFormat(), OnnxFormat(), OpenVinoFormat())
"""All formats that a net can be exported to."""


def _refuse(options: ExportOptions, suffix: str, *precisions: Precision) -> None:
    """Refuses options that a format does not have."""
    if options.precision in precisions:
        raise SettingError(f"{suffix} files are not written in {options.precision}; use .onnx")
    if options.opset is not None:
        raise SettingError(f"an opset is a version of ONNX; leave it out for {suffix} files")


def format_of(path: Path) -> ExportFormat:
    """Returns the export format that the suffix of a path stands for.

    Raises:
        SettingError: If it is the suffix of no export format.
    """
    for one in EXPORT_FORMATS:
        if path.suffix == one.suffix:
            return one
    suffixes = ", ".join(one.suffix for one in EXPORT_FORMATS)
    raise SettingError(f"{path} does not end like an exported net: give it one of {suffixes}")


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Returns the metadata of an exported net.

    Raises:
        SettingError: If the path has no suffix of an export format.
        CheckpointError: If the file is missing or damaged, or this package did not export it.
        MissingExtraError: If the library that reads the file is not installed.
    """
    path = Path(path)
    source = format_of(path)
    for file in source.files(path):
        if not file.is_file():
            raise CheckpointError(f"there is no file {file}; export the net again")
    with _explaining_damage(path):
        found = source.metadata(source.files(path))
        plain = None if found is None else json.loads(found)
    if not isinstance(plain, dict) or not isinstance(plain.get("interface"), dict):
        raise CheckpointError(f"{path} was not exported by steadylens; export the net with it")
    return plain


def open_engine(path: str | Path) -> Engine:
    """Loads an exported net into the runtime that its file is made for.

    Reading a .pt2 file may run code that it contains, so open only files that you trust.

    Raises:
        SettingError: If the path has no suffix of an export format.
        CheckpointError: If the file is missing or damaged, or this package did not export it.
        MissingExtraError: If the runtime is not installed.
    """
    path = Path(path)
    signature = Signature.from_dict(read_metadata(path)["interface"])
    source = format_of(path)
    with _explaining_damage(path):
        return source.open(source.files(path), signature)


@contextmanager
def _explaining_damage(path: Path) -> Iterator[None]:
    """Turns any error that a runtime raises for a damaged file into a `CheckpointError`."""
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:  # each runtime has its own errors
        if lacks_memory(error):
            raise
        raise CheckpointError(f"{path} is damaged ({reason_of(error)}); export the net again") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The file to open; OpenVINO keeps the weights in another file beside it.
        signature: What the net reads and writes.
        parity: How well the exported net agrees with the original.
    """

    path: Path
    signature: Signature
    parity: Parity


def export_net(
    net: nn.Module,
    path: str | Path,
    *,
    name: str = "",
    about: Mapping[str, Any] | None = None,
    size: Size | None = None,
    batch: int | None = None,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> Exported:
    """Exports a net for another runtime, if it gives the same results there.

    Before the file appears, it is run in its own runtime and compared with the net, on noisy images of
    several sizes and batch sizes, or in int8 on half of the given images. If the results differ by more than
    `TOLERANCES` says, no file is written. The file holds metadata as JSON:
    what the net reads and writes, where it comes from, and the result of the comparison.

    Args:
        net: A restorer or a classifier on the CPU. It is exported as it is in eval mode, and keeps its own.
        path: The file: .pt2 for torch.export, .onnx for ONNX, .xml for OpenVINO (a .bin appears beside it).
        name: The net's name; by default the name of its class.
        about: Plain data about where the net comes from, as `load_model` returns it.
        size: Fixed height and width in pixels; by default a restorer reads any size.
        batch: Fixed number of images in a batch; by default any number.
        options: The precision and the opset.

    Raises:
        SettingError: If the path has no suffix of an export format, or the net cannot read that size.
        MissingExtraError: If a library that the format needs is not installed.
        ExportError: If the net cannot be converted, or gives other results in the other runtime.
        StorageError: If a file cannot be written.
    """
    path = Path(path)
    target = format_of(path)
    for file in target.files(path):
        check_place(file)
    if any(parameter.device.type != "cpu" for parameter in net.parameters()):
        raise SettingError("the net is not on the CPU, where the export is checked; move it with net.cpu()")
    signature = signature_of(net, size=size, batch=batch)
    if options.images is not None:
        signature.check(options.images[: signature.batch or 1])
    converted = target.convert(to_program(net, signature), signature, options)
    metadata = _metadata(net, signature, name=name, about=about or {}, target=target)
    metadata |= {"precision": options.precision, "opset": options.opset or target.opset}
    with ExitStack() as stack:
        # The last context exits first: the file that users open appears after its companions.
        files = [stack.enter_context(replacing(file)) for file in target.files(path)]
        target.write(converted, files, json.dumps(metadata))
        parity = _compare(net, target, files, signature, options)
        metadata["parity"] = parity.to_dict()
        target.write(converted, files, json.dumps(metadata))
        _check_metadata(target, files, metadata)
    return Exported(path=path, signature=signature, parity=parity)


def _compare(
    net: nn.Module, target: ExportFormat, files: Files, signature: Signature, options: ExportOptions
) -> Parity:
    """Compares the net with the written files, run in their own runtime."""
    try:
        engine = target.open(files, signature)
        images = noisy_images(signature, generator=torch.Generator().manual_seed(0))
        if options.images is not None:
            images = options.batches(signature, second_half=True)
        return check_parity(net, engine, images, TOLERANCES[options.precision])
    except SteadylensError:
        raise
    except Exception as error:  # each runtime has its own errors
        why = f"{reason_of(error)}; fix the size and the batch"
        if lacks_memory(error):
            why = "memory ran out; fix a smaller size or batch"
        raise ExportError(f"the exported net does not run: {why}") from error


def _check_metadata(target: ExportFormat, files: Files, metadata: dict[str, Any]) -> None:
    """Checks the metadata of the final file; its weights and graph are those that were compared."""
    found = target.metadata(files)
    if found is None or json.loads(found) != json.loads(json.dumps(metadata)):
        raise ExportError("the file does not hold its metadata; use another format")


def _metadata(
    net: nn.Module, signature: Signature, *, name: str, about: Mapping[str, Any], target: ExportFormat
) -> dict[str, Any]:
    """Returns the metadata of a file, without the result of the comparison."""
    return {
        "name": name or type(net).__name__,
        "architecture": _architecture(net),
        "interface": signature.to_dict(),
        "input": {
            "name": INPUT,
            "type": "float32",
            "layout": "NCHW",
            "colours": "RGB",
            "range": [0, 1],
            "shape": signature.input_shape,
            "minimum_size": signature.minimum_size,
        },
        "output": {"name": signature.output, "type": "float32", "shape": signature.output_shape},
        "classes": []
        if signature.classes is None
        else [*map(str, about.get("classes") or facts_of(net).class_names)],
        "about": {key: value for key, value in about.items() if key not in ("classes", "figures")},
        "steadylens": version("steadylens"),
        "torch": torch.__version__,
    }


def _architecture(net: nn.Module) -> dict[str, Any]:
    try:
        return describe(net)
    except SettingError:  # a net that cannot be saved can still be exported
        return {"kind": type(net).__name__}


LABELS = "labels.txt"

MAX_BATCH = 32
"""How many images the server combines into one batch at most."""

QUEUE_MICROSECONDS = 2000
"""How long an image waits for others to join its batch."""


def export_triton(
    net: nn.Module,
    repository: str | Path,
    *,
    name: str,
    about: Mapping[str, Any] | None = None,
    size: Size | None = None,
    batch: int | None = None,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> Exported:
    """Exports a net as ONNX into a model repository for Triton: REPOSITORY/NAME/1/model.onnx.

    The server's configuration, and the class names of a classifier, are written beside it.

    Args:
        net: A restorer or a classifier on the CPU. It is exported as it is in eval mode, and keeps its own.
        repository: The model repository; other models in it stay unchanged.
        name: The name by which clients request the model.
        about: Plain data about where the net comes from, as `load_model` returns it.
        size: Fixed height and width in pixels; by default a restorer reads any size.
        batch: Fixed number of images in a batch; by default the server combines single images.
        options: The precision and the opset.

    Raises:
        SettingError: If the name cannot be a folder's name, or the net cannot read that size.
        MissingExtraError: If a library that ONNX needs is not installed.
        ExportError: If the net cannot be converted, or gives other results in ONNX Runtime.
        StorageError: If a file cannot be written.
    """
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name) or name.startswith("."):
        raise SettingError(f"the name {name!r} cannot be a folder's name; use letters, digits, - and _")
    folder = Path(repository) / name
    path = folder / "1" / "model.onnx"
    exported = export_net(net, path, name=name, about=about, size=size, batch=batch, options=options)
    classes = read_metadata(exported.path)["classes"]
    if classes:
        _write(folder / LABELS, "".join(f"{' '.join(label.split())}\n" for label in classes))
    _write(folder / "config.pbtxt", triton_config(name, exported.signature, classes=classes))
    return exported


def triton_config(name: str, signature: Signature, *, classes: Sequence[str] = ()) -> str:
    """Returns the config.pbtxt of a model whose file is an ONNX export.

    Args:
        name: The model's name.
        signature: What the model reads and writes. If the batch is free, the server combines images of the
            same size into batches.
        classes: Class names of a classifier; they stand in labels.txt.
    """
    # The server adds the batch dimension itself, unless the model fixes it.
    batches = signature.batch is None
    labels = f"\n    label_filename: {json.dumps(LABELS)}" if classes else ""
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batches else 0}",
        _tensor("input", INPUT, signature.input_shape[batches:]),
        _tensor("output", signature.output, signature.output_shape[batches:], labels),
    ]
    if batches:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}")
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, shape: Sequence[int | str], more: str = "") -> str:
    dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in shape)
    fields = f"    name: {json.dumps(name)}\n    data_type: TYPE_FP32\n    dims: [ {dims} ]{more}\n"
    return f"{kind} [\n  {{\n{fields}  }}\n]"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
