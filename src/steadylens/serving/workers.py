"""Runs several processes that serve one net each behind one port, and count their requests together.

uvicorn starts the processes and hears the signals. What it leaves to us: one that dies or hangs is replaced,
and no signal has to wait for that; a net that cannot be loaded ends all of them, with the reason; the port is
closed as soon as they are told to stop; and none of them outlives the process that started it.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
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
    from prometheus_client import Gauge, multiprocess
    from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process
except ImportError as error:
    raise MissingExtraError((error.name or "uvicorn").partition(".")[0], "serve") from error

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from steadylens.serving.service import Service


LOG = logging.getLogger(__name__)

HUNG_SECONDS = 60
"""How long a worker may not react at all, not even to load a library, before it is replaced."""

MOST_DEATHS = 10
"""How many workers may die in a row, each before it can answer, until the service gives up."""

START_FAILED = 3
"""The exit code by which uvicorn knows that a worker would fail again."""

WORKERS_METRIC = ("steadylens_workers", "Workers that can answer.")
"""The name and the description of a metric that only several workers have."""

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


class _Process(Process):
    """A worker as its supervisor sees it. Nothing here waits for the worker."""

    ready = False
    """Whether it can answer requests."""

    _asked: float | None = None

    def hangs(self, seconds: float) -> bool:
        """Asks whether it reacts, looks for the reply to the last question, and tells if that is overdue."""
        try:
            if self._asked is None:
                self._asked = time.monotonic()
                self.parent_conn.send(b"ping")
            elif self.parent_conn.poll(0):
                self.ready, self._asked = self.parent_conn.recv(), None
        except (OSError, EOFError):  # it is dead, or has been killed
            return False
        return self._asked is not None and time.monotonic() - self._asked > seconds


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also hears what the workers tell, and never waits for one while they serve.

    Twice a second it sees to the signals and to all workers. uvicorn's own waits up to a minute for the reply
    of one worker, even if that is dead, and meanwhile heeds neither the other workers nor a signal.
    """

    processes: list[_Process]  # type: ignore[assignment]

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
        self._outdated: list[_Process] = []
        self._leaving: list[_Process] = []
        self._deaths = 0

    def init_processes(self) -> None:
        """Starts as many workers as are missing."""
        while len(self.processes) < self.processes_num:
            process = _Process(self.config, self.sockets)
            process.start()
            self.processes.append(process)

    def keep_subprocess_alive(self) -> None:
        """Replaces workers that died, unless one died while the service was starting, and those that hang."""
        self._hear()
        dead = [process for process in self.processes if not process.process.is_alive()]
        if self.should_exit.is_set() or not set(_STOPS).isdisjoint(self.signal_queue):
            return
        if not self._serving:
            self._start(dead)
            return
        for process in dead:
            self._bury(process)
        for process in self.processes:
            if process.hangs(self.config.timeout_worker_healthcheck):
                process.kill()
        if not self.should_exit.is_set():
            self.init_processes()
            self._renew()
            self._forget_the_dead()

    def restart_all(self) -> None:
        """Notes that all workers are to be replaced, one by one, each when its replacement can answer."""
        self._outdated = list(self.processes)

    def handle_ttin(self) -> None:
        """Notes that there is to be one worker more."""
        self.processes_num += 1

    def handle_ttou(self) -> None:
        """Notes that there is to be one worker fewer, but for the last."""
        self.processes_num = max(1, self.processes_num - 1)

    def terminate_all(self) -> None:
        """Closes the port, and tells all workers to stop."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Waits until all workers have ended, and kills those that do not."""
        limit = time.monotonic() + (self.config.timeout_graceful_shutdown or 0) + HUNG_SECONDS
        for process in (*self.processes, *self._leaving):
            process.process.join(max(0, limit - time.monotonic()))
            if process.process.is_alive():
                process.kill()
                process.join()

    def outcome(self) -> Stopped:
        """Returns how the service ended.

        Raises:
            SteadylensError: If a worker could not start.
        """
        self._hear()
        for failure in self._failures:
            raise failure
        ended = (*self.processes, *self._leaving)
        killed = [each for each in ended if each.exitcode not in (0, *(-stop for stop in _STOPS))]
        return Stopped(abandoned=self._abandoned, killed=len(killed))

    def _start(self, dead: Sequence[_Process]) -> None:
        if dead and not self._failures:
            self._failures.append(_death(dead[0], "a worker"))
        if self._failures:
            self.should_exit.set()
        elif len(self._started) >= len(self.processes):
            self._serving = True
            for process in self.processes:
                process.ready = True
            self._forget_the_dead()
            for listener in self.sockets:  # they may not have come to it yet
                listener.listen(self.config.backlog)
            self._ready(self._started[0])

    def _bury(self, process: _Process) -> None:
        """Takes a dead worker from the list, and ends the service if there is no hope for another one."""
        LOG.warning("worker %s has ended with code %s", process.pid, process.exitcode)
        process.kill()  # closes its pipe
        self.processes.remove(process)
        if process in self._outdated:
            self._outdated.remove(process)
        if process.ready:
            return
        self._hear()  # it tells why before it ends
        self._deaths += 1
        if process.exitcode == START_FAILED and self._outdated:
            LOG.error("the workers stay as they are: %s", *self._failures or [_death(process, "a new one")])
            self._outdated.clear()
            self._failures.clear()
        elif process.exitcode == START_FAILED or self._deaths >= MOST_DEATHS:
            who = (
                "a worker"
                if process.exitcode == START_FAILED
                else f"{self._deaths} workers in a row, the last one"
            )
            self._failures = self._failures or [_death(process, who)]
            self.should_exit.set()

    def _renew(self) -> None:
        """Starts a worker in place of an outdated one, or tells one that is not needed any more to stop."""
        if not all(process.ready for process in self.processes):
            return
        if len(self.processes) > self.processes_num:
            process = self._outdated.pop(0) if self._outdated else self.processes[-1]
            self.processes.remove(process)
            self._leaving.append(process)
            process.terminate()
        elif self._outdated:
            process = _Process(self.config, self.sockets)
            process.start()
            self.processes.append(process)

    def _hear(self) -> None:
        while self._hearing.poll():
            told = self._hearing.recv()
            if isinstance(told, Started):
                self._started.append(told)
                self._deaths = 0
            elif isinstance(told, SteadylensError):
                self._failures.append(told)
            else:
                self._abandoned += told

    def _forget_the_dead(self) -> None:
        """Takes the requests in flight of workers that are gone out of the metrics."""
        self._leaving = [process for process in self._leaving if process.process.is_alive()]
        present = {process.pid for process in (*self.processes, *self._leaving)}
        for pid in self._known - present:
            multiprocess.mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
        self._known = present


def _death(process: Process, who: str) -> SteadylensError:
    """Returns the error that workers end before they can answer."""
    advice = (
        "memory may be short: give fewer --workers" if process.exitcode == -signal.SIGKILL else "see its log"
    )
    return SteadylensError(f"{who} ended with code {process.exitcode} before it could answer; {advice}")


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
            with _handlers_kept():
                for stop in _STOPS:  # there is no request to answer yet
                    signal.signal(stop, signal.SIG_DFL)
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
                Gauge(*WORKERS_METRIC, multiprocess_mode="livesum", registry=None).set(1)
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
