"""Runs several processes that serve one net each behind one port, and count their requests together.

uvicorn starts the processes, hands the signals on to them, and replaces one that has died. What it leaves to
us: a net that cannot be loaded ends all of them, with the reason; the port is closed as soon as they are told
to stop; and none of them outlives the process that started it.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from steadylens.errors import (
    MissingExtraError,
    SettingError,
    SteadylensError,
    StorageError,
    lacks_memory,
    reason_of,
)
from steadylens.serving.server import METRICS_FOLDER, WholeResponses, options

try:
    import uvicorn
    from prometheus_client import multiprocess
    from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess
except ImportError as error:
    raise MissingExtraError((error.name or "uvicorn").partition(".")[0], "serve") from error

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from steadylens.serving.service import Service


LOG = logging.getLogger(__name__)

HUNG_SECONDS = 60
"""How long a worker may not react at all, not even to load a library, before it is replaced."""

START_FAILED = 3
"""The exit code by which uvicorn knows that a worker would fail again."""

_STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What a worker tells when it can answer.

    Attributes:
        model: The name of its net.
        threads: How many threads its net may use.
    """

    model: str
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """How the service ended.

    Attributes:
        abandoned: The number of accepted requests that were not answered in the time allowed for stopping.
        killed: The number of workers that were killed while they answered their last requests.
    """

    abandoned: int
    killed: int


def serve_by_workers(
    make: Callable[[], "Service"],
    listeners: Sequence[socket.socket],
    *,
    workers: int,
    stop_seconds: int,
    ready: Callable[[Started], None],
) -> Stopped:
    """Serves by several processes until SIGTERM or SIGINT, each as `server.serve` does.

    Each process calls `make` and thus has a net of its own. The threads that PyTorch would use (one a core,
    or OMP_NUM_THREADS) are shared out among them.

    Args:
        make: Makes the service: a function at the top level of a module, or a `functools.partial` of one.
        listeners: Bound sockets, from `listening`.
        workers: The number of processes.
        stop_seconds: How long it may take to answer accepted requests after the signal.
        ready: Called as soon as all workers can answer.

    Raises:
        SettingError: If the number is below 1, or whatever `make` raises.
        StorageError: If there is no temporary folder, where the workers count requests together.
        SteadylensError: If a worker ends before it can answer.
    """
    if workers < 1:
        raise SettingError(f"workers is {workers}, it must be at least 1")
    hearing, telling = multiprocessing.get_context("spawn").Pipe(duplex=False)
    worker = _Worker(make, telling, workers=workers)
    config = uvicorn.Config(
        worker,
        factory=True,
        workers=workers,
        timeout_worker_healthcheck=HUNG_SECONDS,
        **options(stop_seconds=stop_seconds),
    )
    with hearing, telling, _metrics_folder() as folder, _handlers_kept():
        supervisor = _Supervisor(config, listeners, hearing, folder=folder, ready=ready)
        supervisor.run()
        return supervisor.outcome()


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also hears what the workers tell."""

    def __init__(
        self,
        config: uvicorn.Config,
        listeners: Sequence[socket.socket],
        hearing: Connection,
        *,
        folder: str,
        ready: Callable[[Started], None],
    ) -> None:
        super().__init__(config, list(listeners))
        self._hearing, self._folder, self._ready = hearing, folder, ready
        self._started: list[Started] = []
        self._failures: list[SteadylensError] = []
        self._abandoned = 0
        self._serving = False
        self._known: set[int | None] = set()

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that died, unless one died while the service was starting."""
        self._hear()
        if not self._serving:
            self._start()
            return
        super().keep_subprocess_alive()
        self._forget_the_dead()

    def terminate_all(self) -> None:
        """Closes the port, and tells all workers to stop."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def outcome(self) -> Stopped:
        """Returns how the service ended.

        Raises:
            SteadylensError: If a worker could not start.
        """
        self._hear()
        for failure in self._failures:
            raise failure
        killed = [each for each in self.processes if each.exitcode not in (0, *(-stop for stop in _STOPS))]
        return Stopped(abandoned=self._abandoned, killed=len(killed))

    def _start(self) -> None:
        dead = [process for process in self.processes if not process.process.is_alive()]
        if dead and not self._failures:
            ended = f"a worker ended with code {dead[0].exitcode} before it could answer"
            advice = "memory may be short: give fewer --workers" if dead[0].exitcode == -9 else "see its log"
            self._failures.append(SteadylensError(f"{ended}; {advice}"))
        if self._failures:
            self.should_exit.set()
        elif len(self._started) >= len(self.processes):
            self._serving = True
            self._forget_the_dead()
            for listener in self.sockets:  # they may not have come to it yet
                listener.listen(self.config.backlog)
            self._ready(self._started[0])

    def _hear(self) -> None:
        while self._hearing.poll():
            told = self._hearing.recv()
            if isinstance(told, Started):
                self._started.append(told)
            elif isinstance(told, SteadylensError):
                self._failures.append(told)
            else:
                self._abandoned += told

    def _forget_the_dead(self) -> None:
        """Takes the requests in flight of workers that are gone out of the metrics."""
        present = {process.pid for process in self.processes}
        for pid in self._known - present:
            multiprocess.mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
            LOG.warning("worker %s has ended, another one takes its place", pid)
        self._known = present


class _Worker:
    """Makes the application of one worker, in the worker's own process.

    Args:
        make: Makes the service.
        telling: A pipe to the supervisor, for `Started`, an error, or a number of abandoned requests. Each is
            written at once, so those of several workers do not mix.
        workers: The number of workers.
    """

    def __init__(self, make: Callable[[], "Service"], telling: Connection, *, workers: int) -> None:
        self._make, self._telling, self._workers = make, telling, workers

    def __call__(self) -> "ASGIApp":
        """Returns the application, or ends the process so that uvicorn does not try again."""
        _stop_with_parent()
        try:
            import torch  # noqa: PLC0415 - only workers need it

            threads = max(1, torch.get_num_threads() // self._workers)
            torch.set_num_threads(threads)
            service = self._make()
        except SteadylensError as error:
            self._telling.send(error)
        except Exception as error:
            if not lacks_memory(error):
                LOG.exception("a worker could not start")
            self._telling.send(SteadylensError(f"a worker could not start ({reason_of(error)})"))
        else:
            return _Telling(service, self._telling, threads=threads)
        sys.exit(START_FAILED)


class _Telling:
    """A service that tells when it can answer, and which requests it could not."""

    def __init__(self, service: "Service", telling: Connection, *, threads: int) -> None:
        self._service, self._telling = service, telling
        self._begun = Started(model=service.name, threads=threads)
        self._told = 0
        self._app = WholeResponses(
            service.application(), _stop_noticed(), body_seconds=service.limits.seconds
        )

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Handles a request as ASGI prescribes."""

        async def send_and_tell(message: "Message") -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._telling.send(self._begun)

        try:
            await self._app(scope, receive, send_and_tell)
        finally:
            if abandoned := self._service.abandoned - self._told:
                self._told += abandoned
                self._telling.send(abandoned)


def _stop_noticed() -> Callable[[], bool]:
    """Returns a function that tells whether this process has been told to stop."""
    noticed = threading.Event()

    def stop(before: Any, number: int, frame: Any) -> None:
        noticed.set()
        before(number, frame)

    for number in _STOPS:  # uvicorn has set its handlers before it makes the application
        before = signal.getsignal(number)
        if callable(before):
            signal.signal(number, partial(stop, before))
    return noticed.is_set


def _stop_with_parent() -> None:
    """Sees to it that this process stops in an orderly way if the one that started it is no more."""

    def stop(parent: "BaseProcess") -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=stop, args=(parent,), name="parent", daemon=True).start()


@contextmanager
def _metrics_folder() -> Iterator[str]:
    """Lets the processes that are started within the block keep their metrics in one folder."""
    before = os.environ.get(METRICS_FOLDER)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="steadylens-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        reason = f"workers need a temporary folder to count requests together ({error.strerror})"
        raise StorageError(f"{reason}; name one by TMPDIR, or give --workers 1") from error
    with temporary as folder:
        os.environ[METRICS_FOLDER] = folder
        try:
            yield folder
        finally:
            os.environ.pop(METRICS_FOLDER)
            if before is not None:
                os.environ[METRICS_FOLDER] = before


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Sets the handlers of signals back to what they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set by Python
                signal.signal(number, handler)
