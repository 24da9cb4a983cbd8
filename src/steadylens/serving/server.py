"""A service on a port, from the first connection to an orderly stop.

One process, one net, one thread that runs it: start more behind a proxy for more. There is neither
encryption nor a login.
"""

import errno
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from steadylens.errors import MissingExtraError, SettingError
from steadylens.serving.service import Service

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and proxies keep theirs (5 to 60 s), so that
none is closed while a request is on its way."""

HIGHEST_PORT = 65535

_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_TRIES = 8

_Found = tuple[socket.AddressFamily, tuple[Any, ...]]


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Lends a socket for each address that a name stands for; nobody can connect before they listen.

    A name as localhost may stand for one address of IPv4 and one of IPv6, and clients choose either. All
    sockets have the same port. An address that this machine lacks is left out where another one is left.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 takes a free one.

    Raises:
        SettingError: If an address cannot be had.
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
        except OSError as error:  # what was free at one address need not be free at the next
            if port or error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError


def _bound_alike(found: Sequence[_Found], port: int) -> list[socket.socket]:
    """Returns sockets at all addresses that there are, with one port."""
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
    # asyncio lets a reply leave at once only through a socket whose protocol is named; else it waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:  # else it might take the place of IPv4's
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Returns the address of a socket's service, for a client on this machine or for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: Service, listeners: Sequence[socket.socket], *, stop_seconds: int, ready: Callable[[], None]
) -> None:
    """Answers until SIGTERM or SIGINT; then accepts no more, and answers what it has accepted.

    Args:
        service: What to serve.
        listeners: The sockets that `listening` lent.
        stop_seconds: How long accepted requests may take when it stops; then they are given up.
        ready: Called as soon as clients can connect.

    Raises:
        MissingExtraError: If uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    application = service.application()
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=stop_seconds,
    )
    server = uvicorn.Server(config)
    config.app = _Parting(application, lambda: server.should_exit)  # it knows the server, made of the config
    run_until_stopped(server, listeners, ready=ready)


def run_until_stopped(
    server: "uvicorn.Server", listeners: Sequence[socket.socket], *, ready: Callable[[], None]
) -> None:
    """Runs a server until SIGTERM or SIGINT, which stop it from the moment on that it is said to be ready.

    Args:
        server: The server.
        listeners: The sockets that `listening` lent.
        ready: Called as soon as clients can connect.
    """
    for listener in listeners:
        listener.listen(server.config.backlog)
    with _stopping(server):
        ready()
        server.run(sockets=list(listeners))


class _Parting:
    """Tells clients, once the service is to stop, that their connections end with the answer.

    Otherwise they would send their next request just when it is closed, and could not know what became of it.
    """

    def __init__(self, app: "ASGIApp", stops: Callable[[], bool]) -> None:
        self._app, self._stops = app, stops

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers a request."""

        async def parting(message: "Message") -> None:
            if message["type"] == "http.response.start" and self._stops():
                others = [each for each in message.get("headers", ()) if each[0].lower() != b"connection"]
                message = {**message, "headers": [*others, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, parting)


@contextmanager
def _stopping(server: "uvicorn.Server") -> Iterator[None]:
    """Lets signals stop the server; uvicorn raises them again afterwards, which must not end the process."""

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
