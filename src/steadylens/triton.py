"""A model repository for Triton Inference Server, made of an ONNX export."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.errors import SettingError
from steadylens.export import Exported, export_net
from steadylens.files import replacing
from steadylens.formats import read_metadata
from steadylens.interface import INPUT, Interface, Size

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


def triton_config(name: str, form: Interface, *, classes: Sequence[str] = ()) -> str:
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
