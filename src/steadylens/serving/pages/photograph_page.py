"""The page for photographs: a photograph goes in, the restored one comes out at full size.

A browser sends the file and gets lines of JSON while the net works, then two views to compare. It blends them
itself, so the strength follows the finger. The file to download is made by the server, with all of its bits
and metadata.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from threading import Event
from typing import Any, TypeVar
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from steadylens.checkpoints.packaged import CAMERA_RESTORER
from steadylens.errors import MissingExtraError, SteadylensError
from steadylens.progress import ProgressCallback
from steadylens.serving.pages.photographs import (
    Encoded,
    GoneError,
    Photograph,
    PhotographStore,
    StoppedError,
    restored_photograph,
)
from steadylens.serving.payloads import HttpError, UploadLimits, read_body

try:
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError((error.name or "starlette").partition(".")[0], "app") from error

T = TypeVar("T")

LIMITS = UploadLimits(bytes=2**27, pixels=64_000_000, seconds=300)
"""The largest and the slowest photograph that is accepted, unless others are asked for."""

PATH = "/photographs"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What browsers may load for the page: only what comes from this server."""

BODY_TYPE = "application/octet-stream"
"""The content type of an upload. Pages of other sites cannot send it without asking first."""

EXPIRY_SECONDS = 30
"""How often it is looked for photographs that nobody asks for."""

_LOG = logging.getLogger(__name__)

_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldingLimits:
    """How much the page holds in memory, and for how long.

    Attributes:
        bytes: The most bytes of pixels of photographs that are held, the one in the net included.
        idle_seconds: How long a photograph is held after it was last asked for.
        slots: The most photographs that are being sent, waiting or restored.
    """

    bytes: int = 2**30
    idle_seconds: float = 900
    slots: int = 4


class PhotographPage:
    """The page, and what it asks its server for.

    Args:
        restorer: A `Restorer`.
        net: The name of its net.
        learned_photographs: Whether the net learned from photographs; if not, the page says so.
        limits: The largest and the slowest upload.
        holding: How much is held in memory.
    """

    def __init__(
        self,
        restorer: Callable[[Tensor, ProgressCallback], Tensor],
        *,
        net: str,
        learned_photographs: bool,
        limits: UploadLimits = LIMITS,
        holding: HoldingLimits = HoldingLimits(),
    ) -> None:
        self._restorer, self._net, self._learned = restorer, net, learned_photographs
        self.limits, self.holding = limits, holding
        self.held = PhotographStore(most_bytes=holding.bytes, idle_seconds=holding.idle_seconds)
        # One thread each, so that memory holds one photograph in the net and one that is being written.
        self._restoring = ThreadPoolExecutor(1, thread_name_prefix="restoring")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="writing")
        self._closing = Event()
        self._in_flight = 0

    def routes(self) -> list[Route]:
        """Returns the paths that the page answers at."""
        return [
            Route(PATH, self._page),
            *(Route(f"{PATH}/{name}", partial(_static, name=name)) for name in _STATIC),
            Route(f"{PATH}/restored", _Uploading(self), methods=["POST"]),
            Route(f"{PATH}/{{key}}/before", _refusing(partial(self._view, restored=False))),
            Route(f"{PATH}/{{key}}/after", _refusing(partial(self._view, restored=True))),
            Route(f"{PATH}/{{key}}/file", _refusing(self._file)),
            Route(f"{PATH}/{{key}}/forget", self._forget, methods=["POST"]),
        ]

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Drops photographs that nobody asks for, for as long as the server runs; then stops the net."""

        async def expire() -> None:
            while True:
                await asyncio.sleep(EXPIRY_SECONDS)
                self.held.expire()

        expiring = asyncio.create_task(expire())
        try:
            yield
        finally:
            self._closing.set()
            expiring.cancel()
            with suppress(asyncio.CancelledError):
                await expiring
            for pool in (self._restoring, self._writing):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _page(self, _: Request) -> Response:
        html = _environment().get_template("photographs.html")
        content = html.render(
            net=self._net,
            camera_net=CAMERA_RESTORER,
            learned_photographs=self._learned,
            most_bytes=self.limits.bytes,
            most_megapixels=f"{self.limits.pixels / 1e6:g}",
            minutes=f"{self.holding.idle_seconds / 60:g}",
        )
        return HTMLResponse(content, headers={"content-security-policy": POLICY})

    async def answer_upload(self, request: Request) -> Response:
        """Reads an upload and returns the lines that tell how it goes on.

        Raises:
            HttpError: 408, 413 or 415 if the upload is not accepted.
        """
        if request.headers.get("content-type") != BODY_TYPE:
            raise HttpError(415, f"send the content of the file as {BODY_TYPE}")
        if int(request.headers.get("content-length", "0")) > self.limits.bytes:
            raise self._too_large()
        body = await read_body(
            request.stream(),
            most_bytes=self.limits.bytes,
            seconds=self.limits.seconds,
            too_large=self._too_large(),
            late=HttpError(408, f"the file did not arrive within {self.limits.seconds:g} s"),
        )
        name = request.query_params.get("name", "")
        return StreamingResponse(self._lines(body, name), media_type="application/x-ndjson")

    async def _lines(self, content: bytes, name: str) -> AsyncIterator[bytes]:
        """Yields lines of JSON: how far the net is, and at last the result or what is wrong."""
        loop, told, left = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]](), Event()

        def tell(line: dict[str, Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(told.put_nowait, line)

        def progress(done: int, total: int) -> None:
            if left.is_set() or self._closing.is_set():
                raise StoppedError("nobody waits for the photograph any more")
            tell({"state": "restoring", "done": done, "total": total})

        def work() -> None:
            try:
                tell(self._restored(content, name, progress))
            except SteadylensError as error:
                tell({"state": "failed", "error": str(error)})
            except Exception:
                _LOG.exception("a photograph could not be restored")
                tell({"state": "failed", "error": "the page failed, through no fault of yours; see its log"})

        yield _line({"state": "waiting", "ahead": self._in_flight - 1})
        working = loop.run_in_executor(self._restoring, work)
        try:
            while True:
                line = await told.get()
                yield _line(line)
                if line["state"] in ("restored", "failed"):
                    break
            await working
        finally:
            left.set()
            working.cancel()  # if it has not begun

    def _restored(self, content: bytes, name: str, progress: ProgressCallback) -> dict[str, Any]:
        photograph = restored_photograph(
            content,
            name,
            self._restorer,
            most_pixels=self.limits.pixels,
            progress=progress,
            admit=self.held.make_room,
        )
        key = self.held.add(photograph)
        return {"state": "restored", "key": key, **_described(photograph)}

    async def _view(self, request: Request, *, restored: bool) -> Response:
        photograph = self._asked(request)
        encoded = await self._written(partial(photograph.view, restored=restored))
        return _sent(encoded, disposition="inline")

    async def _file(self, request: Request) -> Response:
        photograph, query = self._asked(request), request.query_params
        try:
            strength = float(query.get("strength", "1"))
        except ValueError:
            raise HttpError(422, "the strength is no number; choose from 0 to 1") from None
        name = query.get("format", photograph.source.format)
        encoded = await self._written(partial(photograph.encoded, strength=strength, format_name=name))
        return _sent(encoded, disposition="attachment")

    async def _forget(self, request: Request) -> Response:
        self.held.forget(request.path_params["key"])
        return Response(status_code=204)

    def _asked(self, request: Request) -> Photograph:
        try:
            return self.held.get(request.path_params["key"])
        except GoneError as error:
            raise HttpError(404, str(error)) from error

    async def _written(self, encode: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writing, encode)
        except SteadylensError as error:
            raise HttpError(422, str(error)) from error

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Counts a photograph as one in flight until the block ends.

        Raises:
            HttpError: 503 if there are too many.
        """
        if self._in_flight >= self.holding.slots:
            raise HttpError(503, f"{self._in_flight} photographs are being restored; try again in a minute")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _too_large(self) -> HttpError:
        return HttpError(
            413, f"the file is larger than {self.limits.bytes / 2**20:g} MiB; choose a smaller one"
        )


class _Uploading:
    """Answers uploads. A slot is taken until the last line is sent, or the browser leaves."""

    def __init__(self, page: PhotographPage) -> None:
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request as ASGI prescribes."""
        try:
            with self._page.slot():
                response = await self._page.answer_upload(Request(scope, receive))
                await response(scope, receive, send)
        except HttpError as error:
            await _refusal(error)(scope, receive, send)
        except ClientDisconnect:
            return


def _refusing(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HttpError as error:
            return _refusal(error)

    return answer


def _refusal(error: HttpError) -> Response:
    return JSONResponse({"error": error.reason}, error.status, headers={"cache-control": "no-store"})


def _described(photograph: Photograph) -> dict[str, Any]:
    """Returns what the page says of a photograph, as plain data."""
    pixels = photograph.source.pixels
    height, width, channels = pixels.shape
    return {
        "name": photograph.name,
        "width": width,
        "height": height,
        "bits": 8 * pixels.itemsize,
        "grey": channels < 3,
        "noise": photograph.noise.grey,
        "estimate": str(photograph.noise),
        "clean": photograph.noise.clean,
        "coarse": photograph.noise.coarse,
        "notes": list(photograph.source.notes),
        "formats": [{"format": name, "name": photograph.file_name(name)} for name in photograph.formats],
    }


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _sent(encoded: Encoded, *, disposition: str) -> Response:
    headers = {
        "content-disposition": f"{disposition}; filename*=UTF-8''{quote(encoded.name, safe='')}",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(encoded.content, media_type=encoded.media_type, headers=headers)


async def _static(_: Request, *, name: str) -> Response:
    content = files("steadylens.serving").joinpath("templates", f"photographs.{name.rpartition('.')[2]}")
    return Response(content.read_bytes(), media_type=_STATIC[name], headers={"cache-control": "no-cache"})


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("steadylens.serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
