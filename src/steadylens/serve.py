"""A service on a port, from the first connection to an orderly stop.

One process, one net, one thread that runs it: start more behind a proxy for more. There is neither
encryption nor a login.
"""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steadylens.errors import MissingExtraError, SettingError
from steadylens.service import Service

if TYPE_CHECKING:
    import uvicorn

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and proxies keep theirs (5 to 60 s), so that
none is closed while a request is on its way."""

HIGHEST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address; nobody can connect before `serve`.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 takes a free one.

    Raises:
        SettingError: If the address cannot be had.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise SettingError(f"there is no port {port}; choose another --port, from 0 to {HIGHEST_PORT}")
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"cannot listen on {host}:{port} ({reason}); choose another --port") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Returns the address of a socket's service, for a client on this machine or for people."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, listener: socket.socket, *, stop_seconds: int) -> None:
    """Answers until SIGTERM or SIGINT; then accepts no more, and answers what it has accepted.

    Args:
        service: What to serve.
        listener: The socket that `listen` returned. From here on, clients can connect.
        stop_seconds: How long accepted requests may take when it stops; then they are given up.

    Raises:
        MissingExtraError: If uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    config = uvicorn.Config(
        service.application(),
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
    listener.listen(config.backlog)
    with _stopping(server):
        server.run(sockets=[listener])


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
