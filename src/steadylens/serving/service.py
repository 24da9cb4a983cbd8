"""A net behind HTTP: images in, classes or restored images out, in batches, with metrics for Prometheus.

Starlette with a batcher of ours; docs/serving.md says why no larger framework. Whatever a client may send is
answered with a status and a reason, as JSON; no request reaches the file system. An image may come as it is
or in a form; tensors come by the Open Inference Protocol.
"""

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from jinja2 import Environment, PackageLoader
from torch import Tensor

from steadylens.checkpoints.card import Card
from steadylens.errors import ImageError, MissingExtraError, SettingError
from steadylens.nets.facts import CLASSIFYING, RESTORING
from steadylens.serving import openinference
from steadylens.serving.batching import Batcher, Batching, QueueFullError
from steadylens.serving.forms import files_of_form
from steadylens.serving.payloads import (
    FORM_TYPE,
    FORMATS,
    MEDIA_TYPES,
    NOTES,
    Encoder,
    HttpError,
    Predictor,
    UploadLimits,
    check_encoding,
    checked_type,
    read_body,
)

try:
    from prometheus_client import (
        CONTENT_TYPE_PLAIN_0_0_4,
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        Metric,
        generate_latest,
        values,
    )
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ImportError as error:
    raise MissingExtraError((error.name or "starlette").partition(".")[0], "serve") from error


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram buckets for times."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of the histogram buckets for batch sizes."""


class Monitor:
    """The Prometheus metrics of one service, or of all services that share `PROMETHEUS_MULTIPROC_DIR`.

    The library keeps metrics in that folder if the variable was set when it was imported.
    """

    def __init__(self) -> None:
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
        self._queue = Gauge(
            "steadylens_queue_requests",
            "Requests being read, waiting or in the net.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        if values.ValueClass is not values.MutexValue:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

    def in_flight(self) -> AbstractContextManager[None]:
        """Counts a request as one in flight until the block ends."""
        return self._queue.track_inprogress()

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

PATHS = "POST /predict, GET /health, GET /info, GET /metrics or those under /v2; GET /docs describes them"

_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What browsers may load for /docs: nothing."""

_ORIGIN = re.compile(r"\*|https?://[^/\s?#@]+")


class Job(NamedTuple):
    """A request that has been read: what the net is to be run on, and what makes its results the response."""

    images: Sequence[Tensor]
    reply: Callable[[Sequence[Tensor]], Response]


Reader = Callable[[bytes], Job]
"""Reads the body of a request."""


class Service:
    """A net behind /predict, /health, /metrics, /info, /docs, and the paths of the Open Inference Protocol.

    Args:
        predictor: The net, and how its results become replies.
        card: The model card of the net, for /info.
        limits: The largest and the slowest upload.
        batching: How requests are collected into batches.
        origins: The web sites whose scripts may read responses (CORS), such as https://example.org; `*` is
            any.

    Attributes:
        name: The name of the net.
        limits: The largest and the slowest upload.
        abandoned: The number of accepted requests that were not answered in the time allowed for stopping.

    Raises:
        SettingError: If an origin is not one.
    """

    def __init__(
        self,
        predictor: Predictor,
        card: Card,
        *,
        limits: UploadLimits,
        batching: Batching,
        origins: Sequence[str] = (),
    ) -> None:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingError(
                    f"the origin {origin!r} is none; give the start of an address without a path, such as "
                    "https://example.org, or * for any"
                )
        self._predictor, self._card, self.limits, self._batching = predictor, card, limits, batching
        self.name, self._origins = card.name, tuple(origins)
        self._monitor = Monitor()
        self._batcher = Batcher(predictor, batching, observe=self._monitor.batched)
        self._coders = ThreadPoolExecutor(CODERS, thread_name_prefix="coder")
        self._running: asyncio.Task[None] | None = None
        self.abandoned = 0

    def application(self) -> ASGIApp:
        """Returns the service as an ASGI application."""
        routes = [
            Route("/predict", self._predict, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/info", self._info),
            Route("/openapi.json", self._openapi),
            Route("/docs", self._docs),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(model, self._model),
                Route(f"{model}/ready", self._model_ready),
                Route(f"{model}/infer", self._infer, methods=["POST"]),
            ]
        handlers: Mapping[Any, Any] = {HttpError: _refused, HTTPException: _unrouted, Exception: _failed}
        application = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        if not self._origins:
            return application
        return CORSMiddleware(
            application,
            allow_origins=self._origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", openinference.HEADER_LENGTH],
            expose_headers=["retry-after", NOTES, openinference.HEADER_LENGTH],
        )

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
        return await self._answer(request, self._upload_reader)

    def _upload_reader(self, request: Request) -> Reader:
        declared = checked_type(request.headers)
        encode = self._predictor.encoder(request.query_params)
        return partial(self._uploads, declared=declared, encode=encode)

    def _uploads(self, body: bytes, *, declared: str, encode: Encoder) -> Job:
        """Reads the body of a request that holds image files."""
        contents = files_of_form(body, declared) if declared.startswith(FORM_TYPE) else [body]
        uploads, left = [], self.limits.pixels
        for number, content in enumerate(contents, start=1):
            try:
                upload = self._predictor.decode(content, most_pixels=left)
            except HttpError as error:
                of_several = f"image {number} of {len(contents)}: " if len(contents) > 1 else ""
                raise HttpError(error.status, f"{of_several}{error.reason}") from error
            if self._predictor.size is None:
                left = max(1, left - upload.pixels.shape[-2:].numel())
            uploads.append(upload)
        kept = [upload.file for upload in uploads]

        def reply(results: Sequence[Tensor]) -> Response:
            answer = encode(results, kept)
            return Response(answer.content, media_type=answer.media_type, headers=answer.headers)

        return Job([upload.pixels for upload in uploads], reply)

    async def _infer(self, request: Request) -> Response:
        return await self._answer(request, self._tensor_reader)

    def _tensor_reader(self, request: Request) -> Reader:
        self._check_model(request)
        check_encoding(request.headers)
        length = request.headers.get(openinference.HEADER_LENGTH)
        return partial(self._tensors, header_length=length)

    def _tensors(self, body: bytes, *, header_length: str | None) -> Job:
        """Reads the body of a request of the Open Inference Protocol."""
        signature = self._predictor.signature
        asked = openinference.read_request(body, header_length, signature, most_pixels=self.limits.pixels)

        def reply(results: Sequence[Tensor]) -> Response:
            content, headers = openinference.write_response(
                self._card.name, asked, results, signature, self._predictor.classes
            )
            return Response(content, headers=headers)

        return Job(list(asked.images), reply)

    async def _answer(self, request: Request, reader: Callable[[Request], Reader]) -> Response:
        """Answers a request for a prediction, and counts it."""
        began = time.perf_counter()
        status = 500
        try:
            response = await self._response(request, reader)
            status = response.status_code
        finally:
            self._monitor.answered(status, time.perf_counter() - began)
        return response

    async def _response(self, request: Request, reader: Callable[[Request], Reader]) -> Response:
        try:
            return await self._predicted(request, reader(request))
        except HttpError as error:
            return _error(error.status, error.reason)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except asyncio.CancelledError:  # the time allowed for stopping is over
            self.abandoned += 1
            return _error(503, "the service is stopping; try again later")

    async def _predicted(self, request: Request, read: Reader) -> Response:
        if int(request.headers.get("content-length", "0")) > self.limits.bytes:
            raise self._too_large()
        try:
            with self._batcher.slot() as slot, self._monitor.in_flight():
                body = await self._body(request)
                images, reply = await self._in_thread(partial(read, body))
                del body  # or it would take memory for as long as the request waits
                results = await _unless_disconnected(request, slot.answer(images))
                del images
                return await self._in_thread(partial(reply, results))
        except QueueFullError:
            reason = f"{self._batching.slots} requests are being answered; try again in a second"
            raise HttpError(503, reason) from None
        except ImageError as error:  # the net refuses the image
            raise HttpError(422, str(error)) from error

    async def _body(self, request: Request) -> bytes:
        late = HttpError(408, f"the body did not end within {self.limits.seconds:g} s; send less")
        return await read_body(
            request.stream(),
            most_bytes=self.limits.bytes,
            seconds=self.limits.seconds,
            too_large=self._too_large(),
            late=late,
        )

    def _too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {self.limits.bytes} bytes; send less")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._coders, function)

    async def _health(self, _: Request) -> Response:
        return self._if_running({"status": "ok"})

    async def _live(self, _: Request) -> Response:
        return self._if_running({"live": True})

    async def _ready(self, _: Request) -> Response:
        return self._if_running({"ready": True})

    def _if_running(self, content: dict[str, Any]) -> Response:
        if self._running is None or self._running.done():
            return _error(503, "the net is not running; restart the service")
        return JSONResponse(content)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._monitor.text(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _info(self, _: Request) -> Response:
        return JSONResponse(self.description())

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(self.schema())

    async def _docs(self, request: Request) -> Response:
        environment = Environment(
            loader=PackageLoader("steadylens.serving"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        address = str(request.base_url).rstrip("/")
        page = environment.get_template("api.html").render(schema=self.schema(), address=address)
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})

    async def _server(self, _: Request) -> Response:
        return JSONResponse(
            {
                "name": "steadylens",
                "version": version("steadylens"),
                "extensions": list(openinference.EXTENSIONS),
            }
        )

    async def _model(self, request: Request) -> Response:
        self._check_model(request)
        return JSONResponse(openinference.model_metadata(self._card.name, self._predictor.signature))

    async def _model_ready(self, request: Request) -> Response:
        self._check_model(request)
        return self._if_running({"name": self._card.name, "ready": True})

    def _check_model(self, request: Request) -> None:
        name, number = request.path_params["name"], request.path_params.get("version", openinference.VERSION)
        if (name, number) != (self._card.name, openinference.VERSION):
            wrong = (
                f"no model {name[:80]}" if name != self._card.name else f"no version {number[:40]} of {name}"
            )
            raise HttpError(
                404,
                f"there is {wrong}; this service has {self._card.name}, version {openinference.VERSION}",
            )

    def schema(self) -> dict[str, Any]:
        """Returns the content of /openapi.json: every path with its requests and responses, for this net."""
        template = files("steadylens.serving").joinpath("templates", "openapi.json")
        schema: dict[str, Any] = json.loads(template.read_text(encoding="utf-8"))
        schema["info"] |= {
            "title": f"{self._card.name}, served by steadylens",
            "version": version("steadylens"),
        }
        schema["info"]["description"] = self._card.purpose
        parameters, paths = schema["components"]["parameters"], schema["paths"]
        parameters["model"]["schema"]["enum"] = [self._card.name]
        predict, responses = paths["/predict"]["post"], schema["components"]["responses"]
        found = {task: responses.pop(task) for task in (CLASSIFYING, RESTORING)}
        predict["responses"] = {"200": found[self._card.task], **predict["responses"]}
        option = "strength" if self._card.task == RESTORING else "top"
        predict["parameters"] = [each for each in predict["parameters"] if each["name"] == option]
        if self._card.task == RESTORING:
            del schema["components"]["schemas"]["Predictions"]
        return schema

    def description(self) -> dict[str, Any]:
        """Returns the content of /info: the net, its input and its output, as plain data."""
        card, size = self._card, self._predictor.size
        classes = {"classes": list(card.classes)} if card.task == CLASSIFYING else {}
        return {
            "model": card.name,
            "task": card.task,
            "purpose": card.purpose,
            "parameters": card.parameters,
            **classes,
            "trained_on": card.info.data,
            "limits": list(card.limits),
            "licence": card.info.licence or "not stated",
            "input": {
                "media_types": [*MEDIA_TYPES, FORM_TYPE],
                "formats": list(FORMATS),
                "resized_to": None if size is None else [size, size],
                "fit": None if size is None else str(self._predictor.fit),
                **dataclasses.asdict(self.limits),
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


def _error(status: int, reason: str) -> Response:
    headers = {"retry-after": "1"} if status == 503 else {}
    return JSONResponse({"error": reason}, status, headers)


async def _refused(_: Request, error: Any) -> Response:
    return _error(error.status, error.reason)


async def _unrouted(_: Request, error: Any) -> Response:
    response = _error(error.status_code, f"{error.detail}; use {PATHS}")
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> Response:
    return _error(500, "the service failed, through no fault of the request; see its log")
