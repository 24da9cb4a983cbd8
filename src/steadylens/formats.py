"""The file formats of exported nets: how each is written, read and run."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.export import ExportedProgram

from steadylens.conversion import NAME, OPSET, to_onnx, to_openvino
from steadylens.engines import (
    Engine,
    OnnxEngine,
    OpenVinoEngine,
    ProgramEngine,
    onnxruntime_module,
    openvino_core,
)
from steadylens.errors import CheckpointError, MissingExtraError, SettingError, lacks_memory, reason_of
from steadylens.interface import Interface
from steadylens.programs import read_program

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

    def convert(self, program: ExportedProgram, form: Interface) -> Any:
        """Returns the program in the form that this format writes."""

    def write(self, converted: Any, files: Files, metadata: str) -> None:
        """Writes what `convert` returned, with the data about the net as JSON."""

    def metadata(self, files: Files) -> str | None:
        """Returns the JSON that the file holds, or None if another program wrote it."""

    def open(self, files: Files, form: Interface) -> Engine:
        """Returns the file's net in the runtime that it is made for."""


class TorchFormat:
    """A program of torch.export, .pt2; PyTorch runs it, without this package.

    Reading such a file may run what it holds: open only those that you trust.
    """

    suffix, opset = ".pt2", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file alone."""
        return (path,)

    def convert(self, program: ExportedProgram, form: Interface) -> ExportedProgram:
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

    def open(self, files: Files, form: Interface) -> Engine:
        """Returns the program in PyTorch."""
        return ProgramEngine(read_program(files[0]), form)


class OnnxFormat:
    """An ONNX model in one file, .onnx; ONNX Runtime runs it."""

    suffix, opset = ".onnx", OPSET

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file alone."""
        return (path,)

    def convert(self, program: ExportedProgram, form: Interface) -> "onnx.ModelProto":
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

    def open(self, files: Files, form: Interface) -> Engine:
        """Returns the model in ONNX Runtime."""
        return OnnxEngine(files[0].read_bytes(), form)


class OpenVinoFormat:
    """A model of OpenVINO, .xml with its weights in a .bin beside it; OpenVINO runs it."""

    suffix, opset = ".xml", None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Returns the file and that of the weights."""
        return (path, path.with_suffix(".bin"))

    def convert(self, program: ExportedProgram, form: Interface) -> Any:
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

    def open(self, files: Files, form: Interface) -> Engine:
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
    form = Interface.of_description(read_metadata(path)["interface"])
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
