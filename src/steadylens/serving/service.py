"""A net behind HTTP: images in, classes or restored images out, in batches, with metrics for Prometheus.

Starlette with a batcher of ours; docs/serving.md says why no larger framework. Whatever a client may send is
answered with a status and a reason, as JSON; no request reaches the file system.
"""

import asyncio
import dataclasses
import time
from bisect import bisect_left
from collections import Counter
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
    file_of_form,
)

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtraError("starlette", "serve") from error


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets for times."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of the buckets for numbers of images."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the text format."""


class Histogram:
    """Counts values in buckets.

    Args:
        bounds: Upper bounds of the buckets, inclusive, rising; one without a bound is added.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def lines(self, name: str) -> Iterator[str]:
        """Yields the samples: how many values are at most each bound, their sum and their number."""
        count = 0
        for bound, inside in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            count += inside
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {self._total}"
        yield f"{name}_count {count}"


class Monitor:
    """The figures of a service; not to be shared by threads.

    Args:
        requests: Returns how many requests are in the house.
    """

    def __init__(self, requests: Callable[[], int]) -> None:
        self._requests = requests
        self._answers: Counter[int] = Counter()
        self._seconds = Histogram(SECONDS)
        self._batches = Histogram(SIZES)

    def answered(self, status: int, seconds: float) -> None:
        """Counts an answer to a request for a prediction, and the time from its headers to its answer."""
        self._answers[status] += 1
        self._seconds.observe(seconds)

    def batched(self, images: int) -> None:
        """Counts a batch that goes to the net."""
        self._batches.observe(images)

    def text(self) -> str:
        """Returns all figures in the text format."""
        answers = [
            f'steadylens_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self._answers.items())
        ]
        lines = (
            "# HELP steadylens_requests_total Answered requests for a prediction, by HTTP status.",
            "# TYPE steadylens_requests_total counter",
            *answers,
            "# HELP steadylens_request_seconds Time from a request's headers to its answer.",
            "# TYPE steadylens_request_seconds histogram",
            *self._seconds.lines("steadylens_request_seconds"),
            "# HELP steadylens_batch_images Images in a batch.",
            "# TYPE steadylens_batch_images histogram",
            *self._batches.lines("steadylens_batch_images"),
            "# HELP steadylens_queue_requests Requests being read, waiting or in the net.",
            "# TYPE steadylens_queue_requests gauge",
            f"steadylens_queue_requests {self._requests()}",
        )
        return "\n".join(lines) + "\n"


T = TypeVar("T")

CLIENT_LEFT = 499
"""What is counted as the status where the client left before its answer; nobody receives it."""

CODERS = 2
"""Threads that decode and encode images."""


class Service:
    """A net behind the paths /predict, /health, /metrics and /info.

    Args:
        predictor: The net, and what it answers with.
        card: What is known of the net.
        limits: How large an upload may be, and how slow.
        batching: How requests are gathered.

    Attributes:
        abandoned: Requests that were accepted and, because the time to stop ran out, not answered.
    """

    def __init__(self, predictor: Predictor, card: Card, *, limits: UploadLimits, batching: Batching) -> None:
        self._predictor, self._card, self._limits, self._batching = predictor, card, limits, batching
        self._monitor = Monitor(lambda: self._batcher.places)
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
        except HttpError as refusal:
            return _error(refusal.status, refusal.reason, closing=refusal.closing)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except asyncio.CancelledError:  # the time to stop has run out
            self.abandoned += 1
            return _error(503, "the service stops; try again later", closing=True)
        return Response(content, media_type=media_type)

    async def _predicted(self, request: Request) -> Reply:
        declared = checked_type(request.headers)
        encode = self._predictor.encoder(request.query_params)
        if int(request.headers.get("content-length", "0")) > self._limits.bytes:
            raise self._too_large()
        try:
            with self._batcher.place() as place:
                body = await self._body(request)
                image = await self._coded(partial(self._image, body, declared))
                del body  # it would stay for as long as the request waits
                result = await _unless_left(request, place.answer(image))
                del image
                return await self._coded(partial(encode, result))
        except QueueFullError:
            reason = f"{self._batching.places} requests are being answered; try again in a second"
            raise HttpError(503, reason, closing=True) from None
        except ImageError as error:  # the net itself refuses the image
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

    async def _coded(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._coders, function)

    async def _health(self, _: Request) -> Response:
        if self._running is None or self._running.done():
            return _error(503, "the net is not running; start the service again")
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        return Response(self._monitor.text(), headers={"content-type": CONTENT_TYPE})

    async def _info(self, _: Request) -> Response:
        return JSONResponse(self.description())

    def description(self) -> dict[str, Any]:
        """Returns what the net is, what it reads and what it answers, as plain data."""
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


async def _unless_left(request: Request, answer: Awaitable[T]) -> T:
    """Returns the answer; gives it up if the client leaves before."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(left())
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
    reason = f"{error.detail}; there are POST /predict, GET /health, /metrics and /info"
    response = _error(error.status_code, reason)
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "an error of the service, not of the request; its log says more")
