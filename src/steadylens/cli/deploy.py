"""The commands that deploy a net: export it, serve it over HTTP, show it on a page."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.checkpoints.packaged import DEFAULT_RESTORER, RESTORERS_HELP
from steadylens.cli.console import Debug, Device, Weights, device_named, explaining
from steadylens.cli.display import say
from steadylens.errors import SettingError

if TYPE_CHECKING:
    import socket

    import torch

    from steadylens.checkpoints.card import Card
    from steadylens.checkpoints.loading import LoadedNet
    from steadylens.inference.export import Exported
    from steadylens.serving.payloads import Predictor
    from steadylens.serving.service import Service


Host = Annotated[
    str,
    typer.Option(
        help="Address or host name to listen on; there is no login, so keep it local or behind a proxy."
    ),
]

Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")]


def serve_page(
    net: Annotated[
        str, typer.Option(help=f"Restorer whose output is shown: {RESTORERS_HELP}.")
    ] = DEFAULT_RESTORER,
    fused: Annotated[
        str, typer.Option(help="Fused classifier: a packaged net or a .safetensors file.")
    ] = "fused-gtsrb",
    classifier: Annotated[
        str,
        typer.Option(help="Classifier alone: named as for compare, such as sign-gtsrb, timm:NAME or a file."),
    ] = "sign-gtsrb",
    weights: Weights = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Serve a page that restores photographs, and one that shows what noise does to classifiers."""
    with explaining(debug):
        from steadylens.serving.pages.demo import DemoNets
        from steadylens.serving.pages.site import application, serve
        from steadylens.serving.server import address_of, listening

        with listening(host, port) as listeners:
            place = device_named(device)
            page = application(DemoNets.named(net, classifier, fused, device=place, weights=weights))
            message = f"open {address_of(listeners[0])} in a browser; Ctrl+C stops"
            serve(page, listeners, ready=partial(say, message))
    say("stopped")


class ExportFormatName(StrEnum):
    """The export formats, by name."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


SUFFIXES = {
    ExportFormatName.onnx: ".onnx",
    ExportFormatName.openvino: ".xml",
    ExportFormatName.torch: ".pt2",
}


class PrecisionName(StrEnum):
    """The precisions of exported nets, by name."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


def export(
    model: Annotated[
        str, typer.Argument(help="The net: a .safetensors file or a packaged net, such as l11-gtsrb.")
    ],
    kind: Annotated[
        ExportFormatName | None,
        typer.Option("--format", help="Export format; by default, chosen by the suffix of --out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (PyTorch)."),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Fix a restorer's image height and width; by default, any size."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fix the number of images in a batch; by default, any number.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Instead of --out: write to this model repository of a Triton server.")
    ] = None,
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="Numbers of the exported net: float32; float16, half the size, for .onnx and .xml; int8, a "
            "quarter of the size, for .onnx."
        ),
    ] = PrecisionName.float32,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images such as the net will see, noise included: int8 is chosen and checked on "
            "them."
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(min=1, help="Version of the ONNX operator set; by default, 20.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Export a net to ONNX, OpenVINO or torch.export, and check that it gives the same results there."""
    with explaining(debug):
        size = None if static is None else _size(static)
        if out is not None and triton is not None:
            raise SettingError("--out and --triton both say where to write; give one of them")
        if triton is not None and kind not in (None, ExportFormatName.onnx):
            raise SettingError(f"a Triton repository is made of ONNX, not of {kind}; leave out --format")
        if out is not None and kind is not None and out.suffix != SUFFIXES[kind]:
            raise SettingError(f"{out} does not end in {SUFFIXES[kind]}, the suffix of {kind}; rename it")
        place = out or triton
        if place is None:
            raise SettingError("nothing says where to write: give --out FILE or --triton DIR")
        from steadylens.checkpoints.loading import load_net
        from steadylens.inference.export import export_net, export_triton
        from steadylens.inference.signature import ExportOptions

        net = load_net(model)
        exported = (export_net if place is out else export_triton)(
            net.module,
            place,
            name=net.name,
            about={**net.info.plain, "classes": list(net.class_names)},
            size=size,
            batch=batch,
            options=ExportOptions(
                precision=precision.value,
                opset=opset,
                images=None if images is None else _images(images, net, size),
            ),
        )
    for line in _summary(exported):
        say(line)


MOST_IMAGES = 200
"""How many images of a folder int8 is chosen and checked on, at most."""

SIDE = 128
"""Height and width in pixels of the part of an image that a restorer of any size is shown."""


def _images(folder: Path, net: "LoadedNet", size: tuple[int, int] | None) -> "torch.Tensor":
    """Returns images of a folder: fitted for a classifier, for a restorer the centres, which keep noise."""
    import torch

    from steadylens.images.tensors import IMAGE_SUFFIXES, read_image, to_float
    from steadylens.nets.facts import CLASSIFYING

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SettingError(f"{folder} holds no images; give a folder of some 100")
    chosen = paths[:: -(-len(paths) // MOST_IMAGES)]
    if net.task == CLASSIFYING:
        read = [read_image(path, size=net.size, fit=net.fit) for path in chosen]
        return to_float(torch.stack(read))
    height, width = size or (SIDE, SIDE)
    read = [read_image(path) for path in chosen]
    large = [image for image in read if image.shape[1] >= height and image.shape[2] >= width]
    if not large:
        raise SettingError(f"no image in {folder} is at least {height}x{width} pixels; give larger ones")
    starts = [((image.shape[1] - height) // 2, (image.shape[2] - width) // 2) for image in large]
    parts = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(large, starts, strict=True)
    ]
    return to_float(torch.stack(parts))


def _summary(exported: "Exported") -> list[str]:
    signature, parity = exported.signature, exported.parity
    reads, writes = (" x ".join(map(str, shape)) for shape in (signature.input_shape, signature.output_shape))
    smallest = "" if signature.size else f", at least {signature.minimum_size} pixels high and wide"
    answers = "" if parity.equal_answers is None else f", {parity.equal_answers} in the same class"
    return [
        f"exported: {exported.path.resolve()}",
        f"reads {reads}{smallest}; writes {writes}",
        f"compared with the original net on {parity.images} noisy images: largest difference "
        f"{parity.maximum_difference:.2g}, {parity.rms_difference:.2g} on average{answers}",
    ]


def _size(text: str) -> tuple[int, int]:
    """Reads height and width from a text such as 480x640."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and int(side) >= 1 for side in sides):
        raise SettingError(f"--static is {text!r}, it must be height and width in pixels, such as 480x640")
    return int(sides[0]), int(sides[1])


def serve(
    model: Annotated[
        str, typer.Argument(help="A packaged net, such as fused-gtsrb, or a .safetensors file.")
    ],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_batch: Annotated[int, typer.Option(help="Most images in a batch.")] = 32,
    max_wait_ms: Annotated[float, typer.Option(help="Longest time that an image waits for others.")] = 2.0,
    max_queue: Annotated[int, typer.Option(help="Most requests in flight; further ones get 503.")] = 128,
    max_bytes: Annotated[int, typer.Option(help="Largest size of a request's body.")] = 2**23,
    max_pixels: Annotated[int, typer.Option(help="Largest width times height that is decoded.")] = 2**21,
    upload_seconds: Annotated[
        float, typer.Option(help="Longest time for the body of a request to arrive.")
    ] = 10.0,
    stop_seconds: Annotated[
        int, typer.Option(min=1, help="Longest time to answer accepted requests after Ctrl+C or SIGTERM.")
    ] = 30,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web site whose scripts may read responses, such as https://example.org, or * for any; "
            "may be repeated."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that answer at the port; each has its own net and limits."),
    ] = 1,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Serve a net over HTTP: post an image, get its classes or the restored image."""
    make = partial(
        _service,
        model,
        device,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        upload_seconds=upload_seconds,
        origins=tuple(cors_origin or ()),
    )
    with explaining(debug):
        from steadylens.serving.server import listening

        with listening(host, port) as listeners:
            if workers == 1:
                abandoned, killed = _served_alone(make, listeners, stop_seconds), 0
            else:
                abandoned, killed = _served_by_workers(make, listeners, workers, stop_seconds)
    if killed:
        say(f"stopped; {killed} of the workers were killed before their last requests were answered")
    if abandoned:
        say(f"stopped; {abandoned} requests were not answered within {stop_seconds} s")
    if killed or abandoned:
        sys.stdout.flush()
        os._exit(1)  # a normal exit would wait for the net, which may still be busy
    say("stopped; every accepted request was answered")


def _served_alone(
    make: Callable[[], "Service"], listeners: "Sequence[socket.socket]", stop_seconds: int
) -> int:
    """Serves in this process; returns how many requests were not answered at the end."""
    from steadylens.serving.server import METRICS_FOLDER
    from steadylens.serving.server import serve as serve_over_http

    os.environ.pop(METRICS_FOLDER, None)  # there is nobody to count together with
    service = make()
    message = f"serving {service.name} at {_usage(listeners)}"
    serve_over_http(service, listeners, stop_seconds=stop_seconds, ready=partial(say, message))
    return service.abandoned


def _served_by_workers(
    make: Callable[[], "Service"], listeners: "Sequence[socket.socket]", workers: int, stop_seconds: int
) -> tuple[int, int]:
    """Serves by several processes; returns how many requests were not answered, and how many were killed."""
    from steadylens.serving.workers import Started, serve_by_workers

    usage = _usage(listeners)

    def ready(started: Started) -> None:
        threads = "1 thread" if started.threads == 1 else f"{started.threads} threads"
        say(f"serving {started.model} by {workers} workers of {threads} each at {usage}")

    stopped = serve_by_workers(make, listeners, workers=workers, stop_seconds=stop_seconds, ready=ready)
    return stopped.abandoned, stopped.killed


def _usage(listeners: "Sequence[socket.socket]") -> str:
    from steadylens.serving.server import address_of

    urls = [address_of(listener) for listener in listeners]
    return f"{' and '.join(urls)} - POST an image to {urls[0]}/predict, see {urls[0]}/docs; Ctrl+C stops"


def _service(
    model: str,
    device: str,
    *,
    max_batch: int,
    max_wait_ms: float,
    max_queue: int,
    max_bytes: int,
    max_pixels: int,
    upload_seconds: float,
    origins: Sequence[str],
) -> "Service":
    """Makes the service in the process that runs it; a worker finds this function by its name."""
    from steadylens.serving.batching import Batching
    from steadylens.serving.payloads import UploadLimits
    from steadylens.serving.service import Service

    limits = UploadLimits(bytes=max_bytes, pixels=max_pixels, seconds=upload_seconds)
    batching = Batching(slots=max_queue, images=max_batch, wait_seconds=max_wait_ms / 1000)
    predictor, card = _loaded(model, device_named(device))
    return Service(predictor, card, limits=limits, batching=batching, origins=origins)


def _loaded(model: str, device: "torch.device") -> tuple["Predictor", "Card"]:
    import torch

    from steadylens.checkpoints.card import card_of
    from steadylens.checkpoints.loading import load_net
    from steadylens.inference.restorer import restorer_of
    from steadylens.inference.signature import signature_of
    from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of
    from steadylens.serving.payloads import Classifying, Restoring

    net = load_net(model)
    signature = signature_of(net.module)
    net.module.to(device)
    for part in net.module.modules():
        if facts_of(part).task == RESTORING:  # it costs most by far
            part.to(memory_format=torch.channels_last)
    predictor: Predictor
    if net.task == CLASSIFYING:
        predictor = Classifying(net.module, device, signature=signature, classes=net.class_names, fit=net.fit)
    else:
        # Small images are mirrored at their borders.
        signature = replace(signature, minimum_size=1)
        predictor = Restoring(restorer_of(net.module, device=device), signature)
    predictor(torch.zeros(1, 3, net.size, net.size, dtype=torch.uint8))  # the first call is slow
    return predictor, card_of(net)
