"""A net behind HTTP: images in, classes or restored images out, in batches, with metrics for Prometheus.

Starlette with a batcher of ours; docs/serving.md says why no larger framework. Whatever a client may send is
answered with a status and a reason, as JSON; no request reaches the file system. An image may come as it is
or in a form (multipart/form-data, RFC 7578), which python-multipart reads in memory. Its parser is a loop in
Python: quick on ordinary forms, but some forms would keep it busy for seconds. Those are refused before.
"""

import asyncio
import dataclasses
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from torch import Tensor

from steadylens.checkpoints.card import Card
from steadylens.errors import ImageError, MissingExtraError
from steadylens.serving.batching import Batcher, Batching, QueueFullError
from steadylens.serving.payloads import (
    FORM_TYPE,
    FORMATS,
    MEDIA_TYPES,
    HttpError,
    Predictor,
    Reply,
    UploadLimits,
    checked_type,
    decode_image,
)

try:
    from python_multipart import MultipartParser
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import parse_options_header
except ImportError as error:
    raise MissingExtraError("python-multipart", "serve") from error

MOST_PARTS = 32
"""How many parts a form may have: the image, and fields that are ignored."""

_BOUNDARY = re.compile(rb"[ -~]{1,70}")

_DAMAGED = "the form is cut off or does not fit its boundary; send it again"

# The parser logs a warning for each damaged form; without this handler, Python would print them all.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


def file_of_form(body: bytes, declared: str) -> bytes:
    """Returns the content of the only file in a form.

    Args:
        body: The body of the request.
        declared: The content type of the request, which names the boundary between the parts.

    Raises:
        HttpError: 400 if the form is cut off or damaged, has too many parts, or has no file or several.
    """
    boundary = parse_options_header(declared.encode())[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(400, "the form has no boundary of 1 to 70 ASCII characters; send an ordinary form")
    _check_delimiters(body, b"\r\n--" + boundary)
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_begin": form.begin_header,
            "on_header_field": form.add_to_name,
            "on_header_value": form.add_to_value,
            "on_header_end": form.end_header,
            "on_headers_finished": form.end_headers,
            "on_part_data": form.add_content,
            "on_end": form.end,
        },
    )
    try:
        parser.write(body)
    except MultipartParseError as error:
        raise HttpError(400, _DAMAGED) from error
    if not form.ended:
        raise HttpError(400, _DAMAGED)
    if form.files != 1:
        raise HttpError(400, f"the form holds {form.files} files; send exactly one image")
    return b"".join(form.content)


def _check_delimiters(body: bytes, delimiter: bytes) -> None:
    """Refuses a form with many lines that begin like a boundary: the parser is slow at each of them."""
    count = body.count(delimiter)
    if count > MOST_PARTS:
        raise HttpError(400, f"the form has more than {MOST_PARTS} parts; send the image alone")
    if count != body.count(delimiter + b"\r\n") + body.count(delimiter + b"--"):
        raise HttpError(400, _DAMAGED)


class _Form:
    """What the parser reports about a form. Of the files, only the first one's content is kept."""

    def __init__(self) -> None:
        self.files = 0
        self.content: list[bytes] = []
        self.ended = False
        self._is_file = False
        self._name = self._value = b""

    def begin_part(self) -> None:
        self._is_file = False

    def begin_header(self) -> None:
        self._name = self._value = b""

    def add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            # Old clients write a name beyond ASCII as filename*=, which the parser ignores as RFC 7578 says.
            options = parse_options_header(self._value.replace(b"filename*=", b"filename="))[1]
            self._is_file = b"filename" in options

    def end_headers(self) -> None:
        self.files += self._is_file

    def add_content(self, data: bytes, start: int, end: int) -> None:
        if self._is_file and self.files == 1:
            self.content.append(data[start:end])

    def end(self) -> None:
        self.ended = True


try:
    from prometheus_client import (
        CONTENT_TYPE_PLAIN_0_0_4,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        Metric,
        generate_latest,
    )
    from prometheus_client.registry import Collector
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtraError((error.name or "starlette").partition(".")[0], "serve") from error


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram buckets for times."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of the histogram buckets for batch sizes."""


class Monitor:
    """The Prometheus metrics of one service, in a registry of their own.

    Args:
        in_flight: Returns the number of requests in flight.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "steadylens_requests",
            "Answered requests for a prediction, by HTTP status.",
            ["status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "steadylens_request_seconds",
            "Time from a request's headers to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "steadylens_batch_images", "Images in a batch.", buckets=SIZES, registry=registry
        )
        queue = Gauge(
            "steadylens_queue_requests", "Requests being read, waiting or in the net.", registry=registry
        )
        queue.set_function(in_flight)

    def answered(self, status: int, seconds: float) -> None:
        """Counts an answer to a request for a prediction, and the time from its headers to its answer."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def batched(self, images: int) -> None:
        """Counts a batch that goes to the net."""
        self._batches.observe(images)

    def text(self) -> bytes:
        """Returns all metrics in the Prometheus text format."""
        return generate_latest(_WithoutCreated(self._registry))


class _WithoutCreated(Collector):
    """A registry without the `_created` series, which would only repeat when the process began.

    The library can switch them off only for all registries of a process at once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric


T = TypeVar("T")

CLIENT_LEFT = 499
"""The status that the metrics count if a client disconnects before its answer; it is never sent."""

CODERS = 2
"""How many threads decode and encode images."""


class Service:
    """A net behind the paths /predict, /health, /metrics and /info.

    Args:
        predictor: The net, and how its results become replies.
        card: The model card of the net, for /info.
        limits: The largest and the slowest upload.
        batching: How requests are collected into batches.

    Attributes:
        abandoned: The number of accepted requests that were not answered in the time allowed for stopping.
    """

    def __init__(self, predictor: Predictor, card: Card, *, limits: UploadLimits, batching: Batching) -> None:
        self._predictor, self._card, self._limits, self._batching = predictor, card, limits, batching
        self._monitor = Monitor(lambda: self._batcher.in_flight)
        self._batcher = Batcher(predictor, batching, observe=self._monitor.batched)
        self._coders = ThreadPoolExecutor(CODERS, thread_name_prefix="coder")
        self._running: asyncio.Task[None] | None = None
        self.abandoned = 0

    def application(self) -> Starlette:
        """Returns the service as an ASGI application."""
        routes = [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/info", self._info),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _refused, Exception: _failed}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._running = asyncio.create_task(self._batcher.run())
        try:
            yield
        finally:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
            self._coders.shutdown(wait=False, cancel_futures=True)

    async def _predict(self, request: Request) -> Response:
        began = time.perf_counter()
        status = 500
        try:
            response = await self._answer(request)
            status = response.status_code
        finally:
            self._monitor.answered(status, time.perf_counter() - began)
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            content, media_type = await self._predicted(request)
        except HttpError as error:
            return _error(error.status, error.reason, closing=error.closing)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except asyncio.CancelledError:  # the time allowed for stopping is over
            self.abandoned += 1
            return _error(503, "the service is stopping; try again later", closing=True)
        return Response(content, media_type=media_type)

    async def _predicted(self, request: Request) -> Reply:
        declared = checked_type(request.headers)
        encode = self._predictor.encoder(request.query_params)
        if int(request.headers.get("content-length", "0")) > self._limits.bytes:
            raise self._too_large()
        try:
            with self._batcher.slot() as slot:
                body = await self._body(request)
                image = await self._in_thread(partial(self._image, body, declared))
                del body  # or it would take memory for as long as the request waits
                result = await _unless_disconnected(request, slot.answer(image))
                del image
                return await self._in_thread(partial(encode, result))
        except QueueFullError:
            reason = f"{self._batching.slots} requests are being answered; try again in a second"
            raise HttpError(503, reason, closing=True) from None
        except ImageError as error:  # the net refuses the image
            raise HttpError(422, str(error)) from error

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.bytes:
                        raise self._too_large()
        except TimeoutError:
            reason = f"the body did not end within {self._limits.seconds:g} s; send a smaller image"
            raise HttpError(408, reason, closing=True) from None
        return bytes(body)

    def _too_large(self) -> HttpError:
        reason = f"the body is larger than {self._limits.bytes} bytes; send a smaller image"
        return HttpError(413, reason, closing=True)

    def _image(self, body: bytes, declared: str) -> Tensor:
        content = file_of_form(body, declared) if declared.startswith(FORM_TYPE) else body
        return decode_image(
            content,
            most_pixels=self._limits.pixels,
            size=self._predictor.size,
            fit=self._predictor.fit,
        )

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._coders, function)

    async def _health(self, _: Request) -> Response:
        if self._running is None or self._running.done():
            return _error(503, "the net is not running; restart the service")
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        return Response(self._monitor.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _info(self, _: Request) -> Response:
        return JSONResponse(self.description())

    def description(self) -> dict[str, Any]:
        """Returns the content of /info: the net, its input and its output, as plain data."""
        card, size = self._card, self._predictor.size
        return {
            "model": card.name,
            "task": card.task,
            "purpose": card.purpose,
            "parameters": card.parameters,
            "classes": list(card.classes),
            "trained_on": card.info.data,
            "limits": list(card.limits),
            "licence": card.info.licence or "not stated",
            "input": {
                "media_types": [*MEDIA_TYPES, FORM_TYPE],
                "formats": list(FORMATS),
                "resized_to": None if size is None else [size, size],
                "fit": None if size is None else str(self._predictor.fit),
                **dataclasses.asdict(self._limits),
            },
            "output": self._predictor.output,
            "batching": dataclasses.asdict(self._batching),
            "version": version("steadylens"),
        }


async def _unless_disconnected(request: Request, answer: Awaitable[T]) -> T:
    """Returns the answer, or cancels it if the client disconnects before."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return await answering
    finally:
        answering.cancel()
        leaving.cancel()


def _error(status: int, reason: str, *, closing: bool = False) -> Response:
    headers = {"connection": "close"} if closing else {}
    if status == 503:
        headers["retry-after"] = "1"
    return JSONResponse({"error": reason}, status, headers)


async def _refused(_: Request, error: Any) -> Response:
    reason = f"{error.detail}; use POST /predict, GET /health, GET /metrics or GET /info"
    response = _error(error.status_code, reason)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "the service failed, through no fault of the request; see its log")
