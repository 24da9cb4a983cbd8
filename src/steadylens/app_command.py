"""The command that serves a page to try the nets."""

from functools import partial
from typing import Annotated

import typer

from steadylens.console import Debug, Device, Weights, device_named, explaining, say


def serve_page(
    net: Annotated[
        str, typer.Option(help="Restorer to show, a packaged one or a .safetensors file.")
    ] = "l11-gtsrb",
    fused: Annotated[str, typer.Option(help="Fused classifier, packaged or a file.")] = "fused-gtsrb",
    classifier: Annotated[
        str, typer.Option(help="Classifier alone: as for compare, such as sign-gtsrb, timm:NAME or a file.")
    ] = "sign-gtsrb",
    weights: Weights = None,
    host: Annotated[
        str,
        typer.Option(help="Address, or name of some, to listen on; beyond this machine nothing protects it."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 7860,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Try the nets in a browser: put noise on an image, see it restored, and compare answers."""
    with explaining(debug):
        from steadylens.app import application, serve
        from steadylens.serve import address_of, listening
        from steadylens.trial import Nets

        with listening(host, port) as listeners:
            place = device_named(device)
            page = application(Nets.named(net, classifier, fused, device=place, weights=weights))
            told = f"open {address_of(listeners[0])} in a browser; Ctrl+C stops"
            serve(page, listeners, ready=partial(say, told))
    say("stopped")
