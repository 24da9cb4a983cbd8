"""The command that serves a net over HTTP."""

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.console import Debug, Device, device_named, explaining, say

if TYPE_CHECKING:
    import torch

    from steadylens.cards import Card
    from steadylens.predictors import Predictor


def serve(
    model: Annotated[str, typer.Argument(help="A packaged net, as fused-gtsrb, or a .safetensors file.")],
    host: Annotated[
        str,
        typer.Option(help="Address, or name of some, to listen on; beyond this machine nothing protects it."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(help="Images in a batch.")] = 32,
    max_wait_ms: Annotated[float, typer.Option(help="Time that an image waits for others.")] = 2.0,
    max_queue: Annotated[int, typer.Option(help="Requests at a time; one more is told to come back.")] = 128,
    max_bytes: Annotated[int, typer.Option(help="Size of a request.")] = 2**23,
    max_pixels: Annotated[int, typer.Option(help="Width times height of an image.")] = 2**21,
    upload_seconds: Annotated[float, typer.Option(help="Time that the body of a request may take.")] = 10.0,
    stop_seconds: Annotated[
        int, typer.Option(min=1, help="Time to answer what was accepted, once told to stop.")
    ] = 30,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Answer images over HTTP: their classes, or the images restored."""
    with explaining(debug):
        from steadylens.batching import Batching
        from steadylens.serve import address_of, listening
        from steadylens.serve import serve as serve_over_http
        from steadylens.service import Service
        from steadylens.uploads import UploadLimits

        limits = UploadLimits(bytes=max_bytes, pixels=max_pixels, seconds=upload_seconds)
        batching = Batching(places=max_queue, images=max_batch, wait_seconds=max_wait_ms / 1000)
        with listening(host, port) as listeners:
            predictor, card = _loaded(model, device_named(device))
            service = Service(predictor, card, limits=limits, batching=batching)
            places = [address_of(listener) for listener in listeners]
            way = f"POST an image to {places[0]}/predict; Ctrl+C stops"
            told = f"serving {card.name} at {' and '.join(places)} - {way}"
            serve_over_http(service, listeners, stop_seconds=stop_seconds, ready=partial(say, told))
    if service.abandoned:
        say(f"stopped; {service.abandoned} requests were not answered within {stop_seconds} s")
        os._exit(1)  # the net may still be busy with them, and an orderly exit would wait for it
    say("stopped; every accepted request was answered")


def _loaded(model: str, device: "torch.device") -> tuple["Predictor", "Card"]:
    import torch

    from steadylens.classification import SIGN_SIZE
    from steadylens.inference import restorer_of
    from steadylens.predictors import Classifying, Restoring
    from steadylens.pretrained import load_with_card
    from steadylens.restoration import RestorationNet
    from steadylens.suitability import CLASSIFYING

    net, known = load_with_card(model)
    net.to(device)
    for part in net.modules():
        if isinstance(part, RestorationNet):  # it costs most by far
            part.to(memory_format=torch.channels_last)
    size = known.size or SIGN_SIZE
    predictor: Predictor
    if known.task == CLASSIFYING:
        predictor = Classifying(net, device, size=size, classes=known.classes, fit=known.fit)
    else:
        predictor = Restoring(restorer_of(net, device=device))
    predictor(torch.zeros(1, 3, size, size, dtype=torch.uint8))  # the first call is slow
    return predictor, known
