"""The command that exports a net for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.console import Debug, explaining, say
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.export import Exported


class FormatName(StrEnum):
    """The formats, by name."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


SUFFIXES = {FormatName.onnx: ".onnx", FormatName.openvino: ".xml", FormatName.torch: ".pt2"}


def export(
    model: Annotated[str, typer.Argument(help="A packaged net, as l11-gtsrb, or a .safetensors file.")],
    kind: Annotated[
        FormatName | None, typer.Option("--format", help="By default, what the ending of --out says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .onnx, .xml (a .bin appears, too) or .pt2.")
    ] = None,
    static: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix height and width; a classifier's are fixed.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Fix the number of images in a batch.")] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Instead of --out: the model repository of a Triton server.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a net for another runtime, once it has answered there as here."""
    with explaining(debug):
        size = None if static is None else _size(static)
        if out is not None and triton is not None:
            raise SettingError("--out and --triton are two places; give one of them")
        if triton is not None and kind not in (None, FormatName.onnx):
            raise SettingError(f"a Triton repository is made of ONNX, not of {kind}; leave --format out")
        if out is not None and kind is not None and out.suffix != SUFFIXES[kind]:
            raise SettingError(f"{out} does not end in {SUFFIXES[kind]}, as a file of {kind} does; rename it")
        exported = _exported(model, out=out, triton=triton, size=size, batch=batch)
    for line in _told(exported):
        say(line)


def _exported(
    model: str, *, out: Path | None, triton: Path | None, size: tuple[int, int] | None, batch: int | None
) -> "Exported":
    from steadylens.export import export_net
    from steadylens.pretrained import load_with_card
    from steadylens.triton import export_triton

    place = out or triton
    if place is None:
        raise SettingError("it must be said where to write: give --out FILE or --triton DIR")
    net, known = load_with_card(model)
    about = {**known.about, "classes": list(known.classes)}
    write = export_net if place is out else export_triton
    return write(net, place, name=known.name, about=about, size=size, batch=batch)


def _told(exported: "Exported") -> list[str]:
    form, parity = exported.form, exported.parity
    reads, writes = (" x ".join(map(str, shape)) for shape in (form.input_shape, form.output_shape))
    smallest = "" if form.size else f", at least {form.minimum_size} pixels high and wide"
    answers = "" if parity.equal_answers is None else f", {parity.equal_answers} in the same class"
    return [
        f"exported: {exported.path.resolve()}",
        f"reads {reads}{smallest}; writes {writes}",
        f"compared with the evaluated net on {parity.images} noisy images: largest difference "
        f"{parity.maximum_difference:.2g}{answers}",
    ]


def _size(text: str) -> tuple[int, int]:
    """Returns height and width of a text such as 480x640."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and int(side) >= 1 for side in sides):
        raise SettingError(f"--static is {text!r}, it must be height and width in pixels, as 480x640")
    return int(sides[0]), int(sides[1])
