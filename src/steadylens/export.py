"""A trained net as a file for other runtimes, compared with the evaluated net before it appears."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadylens import __version__
from steadylens.checkpoint import describe
from steadylens.conversion import to_program
from steadylens.errors import ExportError, SettingError, SteadylensError, lacks_memory, reason_of
from steadylens.files import check_place, replacing
from steadylens.formats import Files, Format, format_of
from steadylens.fusion import FusedClassifier
from steadylens.interface import INPUT, Interface, Size, interface_of
from steadylens.parity import Parity, check_parity, noisy_images
from steadylens.preparation import PreparedClassifier


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported net.

    Attributes:
        path: The file that is opened; one of OpenVINO has its weights beside it.
        form: What it reads and writes.
        parity: How it compares with the net that was evaluated.
    """

    path: Path
    form: Interface
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
    form = interface_of(net, size=size, batch=batch)
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


def _compare(net: nn.Module, target: Format, files: Files, form: Interface) -> Parity:
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
    net: nn.Module, form: Interface, *, name: str, about: Mapping[str, Any], target: Format
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
        "classes": [] if form.classes is None else list(_class_names(net, about)),
        "about": {key: value for key, value in about.items() if key not in ("classes", "figures")},
        "steadylens": __version__,
        "torch": torch.__version__,
        "opset": target.opset,
    }


def _architecture(net: nn.Module) -> dict[str, Any]:
    try:
        return describe(net)
    except SettingError:  # a net that cannot be saved can be exported
        return {"kind": type(net).__name__}


def _class_names(net: nn.Module, about: Mapping[str, Any]) -> tuple[str, ...]:
    if names := about.get("classes"):
        return tuple(map(str, names))
    classifier = net.classifier if isinstance(net, FusedClassifier) else net
    return classifier.class_names if isinstance(classifier, PreparedClassifier) else ()
