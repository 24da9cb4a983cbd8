"""Runs a service on a port, from its first connection until it has stopped in an orderly way.

One process serves one net on one device; `workers` runs several at one port. There is neither encryption nor
a login.
"""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from steadylens.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from steadylens.serving.service import Service


KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and proxies keep theirs (5 to 60 s), so that
none is closed just when a client sends its next request."""

DISCARDED_BYTES = 2**26
"""How many bytes of a request's body are read and discarded after its response."""

HIGHEST_PORT = 65535

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client learns where processes keep the metrics that they share."""

_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_TRIES = 8

_Found = tuple[socket.AddressFamily, tuple[Any, ...]]


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Binds a socket to each address of a host, and closes them when the block ends.

    Clients cannot connect until the sockets listen. A name such as localhost may have an IPv4 and an IPv6
    address, and clients may use either. All sockets have the same port. An address that this machine does not
    have is skipped, unless it is the only one.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 takes a free one.

    Raises:
        SettingError: If there is no such port or address, or it is in use.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise SettingError(f"there is no port {port}; choose another --port, from 0 to {HIGHEST_PORT}")
    with ExitStack() as stack:
        try:
            listeners = _bound(host, port)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingError(
                f"cannot listen on {host}:{port} ({reason}); choose another --host or --port"
            ) from error
        for listener in listeners:
            stack.enter_context(listener)
        yield listeners


def _bound(host: str, port: int) -> list[socket.socket]:
    listed = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[_Found] = list(dict.fromkeys((entry[0], entry[4]) for entry in listed))
    for left in reversed(range(_TRIES)):
        try:
            return _bound_alike(found, port)
        except OSError as error:  # a port that is free at one address may be in use at the next
            if port or error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError


def _bound_alike(found: Sequence[_Found], port: int) -> list[socket.socket]:
    """Returns sockets for all addresses that this machine has, with one port."""
    bound: list[socket.socket] = []
    unavailable: OSError | None = None
    with ExitStack() as failing:
        for family, (host, _, *rest) in found:
            try:
                listener = _bound_one(family, (host, port, *rest), alone=len(found) == 1)
            except OSError as error:
                if error.errno not in _UNAVAILABLE:
                    raise
                unavailable = error
            else:
                bound.append(failing.enter_context(listener))
                port = listener.getsockname()[1]
        if unavailable is not None and not bound:
            raise unavailable
        failing.pop_all()
    return bound


def _bound_one(family: socket.AddressFamily, address: tuple[Any, ...], *, alone: bool) -> socket.socket:
    # asyncio turns off Nagle's algorithm only if the protocol is given; with it, a reply may wait for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:  # or it would take the port at the IPv4 address, too
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Returns the URL of a bound socket, for example http://127.0.0.1:8000."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: "Service", listeners: Sequence[socket.socket], *, stop_seconds: int, ready: Callable[[], None]
) -> None:
    """Serves until SIGTERM or SIGINT; then accepts no more requests, and answers those it has accepted.

    Args:
        service: The service.
        listeners: Bound sockets, from `listening`.
        stop_seconds: How long it may take to answer accepted requests after the signal.
        ready: Called as soon as clients can connect.

    Raises:
        MissingExtraError: If uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    application = service.application()
    config = uvicorn.Config(application, **options(stop_seconds=stop_seconds))
    server = uvicorn.Server(config)
    # Set afterwards, because it needs the server, which needs the config.
    config.app = WholeResponses(application, lambda: server.should_exit, body_seconds=service.limits.seconds)
    run_until_stopped(server, listeners, ready=ready)


def options(*, stop_seconds: int) -> dict[str, Any]:
    """Returns how uvicorn serves a service, as arguments of `uvicorn.Config`."""
    return {
        "http": "h11",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": stop_seconds,
    }


def run_until_stopped(
    server: "uvicorn.Server", listeners: Sequence[socket.socket], *, ready: Callable[[], None]
) -> None:
    """Runs a server until SIGTERM or SIGINT, even if the signal comes as soon as `ready` is called.

    Args:
        server: The server.
        listeners: Bound sockets, from `listening`.
        ready: Called as soon as clients can connect.
    """
    for listener in listeners:
        listener.listen(server.config.backlog)
    with _stopped_by_signals(server):
        ready()
        server.run(sockets=list(listeners))


class WholeResponses:
    """Sees to it that clients get every response whole, even if they are still sending their request.

    A connection that is closed while bytes of the client are unread is reset, and the client loses the
    response. So if a response comes before the end of the request's body, as a refusal does, it is sent at
    once, and the rest of the body is read and discarded, up to `DISCARDED_BYTES` and for as long as a body
    may take, before the connection is closed.

    Once the service is stopping, clients are told that their connections are closed after the response.
    Otherwise a client might send its next request just then, and could not know whether it was handled.

    Args:
        app: The application.
        stopping: Returns whether the service is stopping.
        body_seconds: The longest time for the body of a request to arrive.
    """

    def __init__(self, app: "ASGIApp", stopping: Callable[[], bool], *, body_seconds: float) -> None:
        self._app, self._stopping, self._body_seconds = app, stopping, body_seconds

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Handles a request as ASGI prescribes."""
        unread = scope["type"] == "http" and _has_body(scope)

        async def receive_body() -> "Message":
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def send_whole(message: "Message") -> None:
            if message["type"] == "http.response.start" and (unread or self._stopping()):
                others = [each for each in message.get("headers", ()) if each[0].lower() != b"connection"]
                message = {**message, "headers": [*others, (b"connection", b"close")]}
            elif message["type"] == "http.response.body" and unread and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard(receive_body, self._body_seconds)
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, receive_body, send_whole)


def _has_body(scope: "Scope") -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")) > 0


async def _discard(receive: "Receive", seconds: float) -> None:
    """Reads the rest of a body, unless it is too long or the client is too slow."""
    left = DISCARDED_BYTES
    try:
        async with asyncio.timeout(seconds):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except (TimeoutError, asyncio.CancelledError):  # cancelled if the time allowed for stopping is over
        return


@contextmanager
def _stopped_by_signals(server: "uvicorn.Server") -> Iterator[None]:
    """Makes signals stop the server, but not the process; uvicorn raises them again when it has stopped."""

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
