"""The site of `steadylens app`: the page for photographs and the page for classifiers, at one address.

It works offline. All that the pages need comes from their own server, and they tell browsers to load nothing
from elsewhere.
"""

import socket
from collections.abc import Callable, Sequence
from importlib.resources import files

import torch

from steadylens.checkpoints.loading import LoadedNet
from steadylens.devices import has_fast_bfloat16
from steadylens.errors import MissingExtraError
from steadylens.inference.restorer import restorer_of
from steadylens.serving.pages.demo import DemoNets
from steadylens.serving.pages.demo_page import page
from steadylens.serving.pages.photograph_page import LIMITS, PATH, PhotographPage
from steadylens.serving.server import WholeResponses, run_until_stopped

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.datastructures import MutableHeaders
    from starlette.requests import Request
    from starlette.responses import RedirectResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError((error.name or "gradio").partition(".")[0], "app") from error

CLASSIFIERS = "/classifiers"
"""The path of the page for classifiers."""

MOST_BYTES = 2**25
"""The largest image file that the page for classifiers accepts."""

POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
"""The content security policy of that page: browsers may load only what comes from this server."""

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")


def learned_photographs(net: LoadedNet) -> bool:
    """Says whether a net learned from photographs, as far as its file tells."""
    return net.info.learned_photographs


def application(nets: DemoNets) -> FastAPI:
    """Returns the site as an ASGI application.

    Its first page is the one for photographs if the restorer learned from photographs, else the one for
    classifiers.

    Args:
        nets: The nets.
    """
    learned = learned_photographs(nets.restorer)
    dtype = torch.bfloat16 if has_fast_bfloat16(nets.device) else torch.float32
    photographs = PhotographPage(
        restorer_of(nets.restorer, device=nets.device, dtype=dtype),
        net=nets.restorer.name,
        learned_photographs=learned,
    )
    application = FastAPI(openapi_url=None, lifespan=photographs.lifespan)
    application.add_middleware(_ContentPolicy)
    first = PATH if learned else f"{CLASSIFIERS}/"

    async def root(_: Request) -> Response:
        return RedirectResponse(first.removeprefix("/"))

    async def of_gradio(request: Request) -> Response:
        return RedirectResponse(f"{CLASSIFIERS}{request.url.path}".removeprefix("/"))

    application.router.routes.extend([Route("/", root), *photographs.routes()])
    # gradio's page asks for these at the root, wherever it is itself.
    application.router.routes.extend(Route(path, of_gradio) for path in ("/manifest.json", "/favicon.ico"))
    mounted: FastAPI = gr.mount_gradio_app(
        application,
        page(nets),
        path=CLASSIFIERS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MOST_BYTES,
        theme=gr.themes.Base(font=_FONTS, font_mono=("ui-monospace", "monospace"), radius_size="lg"),
        css=(files("steadylens.serving") / "templates" / "demo.css").read_text(encoding="utf-8"),
    )
    return mounted


def serve(application: ASGIApp, listeners: Sequence[socket.socket], *, ready: Callable[[], None]) -> None:
    """Serves the site until SIGINT or SIGTERM.

    Args:
        application: The site, from `application`.
        listeners: Bound sockets, from `listening`.
        ready: Called as soon as browsers can connect.
    """
    config = uvicorn.Config(application, log_config=None, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # Set afterwards, because it needs the server, which needs the config.
    config.app = WholeResponses(application, lambda: server.should_exit, body_seconds=LIMITS.seconds)
    run_until_stopped(server, listeners, ready=ready)


class _ContentPolicy:
    """Adds the content security policy to every response that has none of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request as ASGI prescribes."""

        async def send_confined(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("content-security-policy", POLICY)
            await send(message)

        await self._app(scope, receive, send_confined)
