"""Restores many image files, in one process or in several.

A run that was interrupted goes on where it was. Written into a folder, a file that is done is known by its
result. Restored in place, it is known by its content: the SHA-256 of every result is noted before it replaces
the source, so that nothing is restored twice, whenever the run ends.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.context import SpawnContext
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any, Self

import torch

from steadylens.errors import ImageError, SettingError, StorageError, lacks_memory
from steadylens.images.decoding import pixel_count
from steadylens.inference.image_files import RestoreSettings, restore_file
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import Restorer
from steadylens.inference.results import FileResult, InPlaceHistory
from steadylens.progress import ProgressCallback

DONE_BEFORE = "it was restored in place before; --overwrite restores it once more"

OUTPUT_EXISTS = "its output exists; --overwrite replaces it"

CLEAN = "it is clean, so it was not restored; --always restores it"

PROCESS_DIED = "the process that restored it died, most likely since memory ran out; give a smaller --tile"

SECONDS_BETWEEN_LOOKS = 0.25
"""How often the progress of other processes is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """How many files are restored.

    Attributes:
        files: What the results are like.
        history: What was restored in place before, or None if nothing is restored in place.
        overwrite: Whether outputs that exist are replaced. What is restored in place depends on `history`.
        processes: How many files are restored at a time, each by a process of its own.
    """

    files: RestoreSettings = field(default_factory=RestoreSettings)
    history: InPlaceHistory | None = None
    overwrite: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        """Refuses less than one process."""
        if self.processes < 1:
            raise SettingError(f"there are {self.processes} processes, at least 1 is needed")


def restore_files(
    jobs: Sequence[RestoreJob],
    open_restorer: Callable[[], Restorer],
    *,
    settings: BatchSettings = BatchSettings(),
    progress: ProgressCallback = lambda done, total: None,
) -> Generator[FileResult]:
    """Restores files and yields what became of each, as soon as it is done.

    A file that cannot be restored stops no other. One whose output exists is skipped, also if another process
    wrote it since the work began. If the iteration is stopped, also by an exception such as
    `KeyboardInterrupt`, the file at work is left as it was.

    Args:
        jobs: What to read and where to write it.
        open_restorer: Returns the restorer. With several processes, each calls it, so it must be possible to
            pickle it.
        settings: How they are restored.
        progress: Called with the number of pixels that are done and that of all files that can be restored;
            for the first time when the work begins, after the nets are loaded.
    """
    sized = [(job, pixel_count(job.source)) for job in jobs]
    if settings.processes == 1 or len(jobs) < 2:
        return _one_by_one(sized, open_restorer, settings, progress)
    processes = _Processes(open_restorer, settings, _Pixels(sized, progress))
    return processes.restore(deque(sized), min(settings.processes, len(sized)))


_SizedJob = tuple[RestoreJob, int]
"""A job and the number of its pixels."""


class _Pixels:
    """Counts the pixels that are done, and those of all files that can be restored."""

    def __init__(self, jobs: Sequence[_SizedJob], progress: ProgressCallback) -> None:
        self.progress = progress
        self.done, self.total = 0, sum(pixels for _, pixels in jobs)

    def of_file(self, pixels: int) -> ProgressCallback:
        """Returns what counts the tiles of a file."""
        before = self.done
        return lambda tiles, all_tiles: self.progress(before + pixels * tiles // all_tiles, self.total)

    def count(self, result: FileResult, pixels: int) -> None:
        """Counts a file that is done."""
        if result.state == "restored":
            self.done += pixels
        else:  # it took no time, so it says nothing of the time that is left
            self.total -= pixels


def _one_by_one(
    jobs: Sequence[_SizedJob],
    open_restorer: Callable[[], Restorer],
    settings: BatchSettings,
    progress: ProgressCallback,
) -> Generator[FileResult]:
    restorer, counted = open_restorer(), _Pixels(jobs, progress)
    progress(0, counted.total)
    for job, pixels in jobs:
        result = _skipped(job, settings) or _restored(job, restorer, settings, counted.of_file(pixels))
        counted.count(result, pixels)
        progress(counted.done, counted.total)
        yield result


def skipped_for_output(job: RestoreJob, settings: BatchSettings) -> FileResult | None:
    """Returns the result of a job that is not done since files that it would write exist, or None.

    The file that is restored in place is none of them.
    """
    others = [path for path in job.written if not (settings.history is not None and path == job.target)]
    found = [] if settings.overwrite else [path for path in others if path.exists()]
    if not found:
        return None
    lacking = [path for path in job.written if not path.exists()]
    reason = f"{found[0]} exists, but not {lacking[0]}; --overwrite makes both" if lacking else OUTPUT_EXISTS
    return FileResult.skipped(job, reason)


def _skipped(job: RestoreJob, settings: BatchSettings) -> FileResult | None:
    """Returns the result of a job that was done before, or None."""
    if settings.history is not None and settings.history.holds(job):
        return FileResult.skipped(job, DONE_BEFORE)
    return skipped_for_output(job, settings)


def _restored(
    job: RestoreJob, restorer: Restorer, settings: BatchSettings, progress: ProgressCallback
) -> FileResult:
    begin = time.perf_counter()
    result: Callable[..., FileResult] = partial(FileResult, file=str(job.source), target=str(job.target))
    history = settings.history
    announce = history.add if history is not None and job.in_place else lambda sha256: None
    try:
        restored = restore_file(job, restorer, settings=settings.files, progress=progress, announce=announce)
    except (ImageError, StorageError) as error:
        return result(state="failed", reason=str(error), seconds=_since(begin))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        fewer = " or fewer --jobs" if settings.processes > 1 else ""
        reason = f"memory ran out; give a smaller --tile{fewer}"
        return result(state="failed", reason=reason, seconds=_since(begin))
    found = asdict(restored)
    state = {"state": "clean", "reason": CLEAN} if found.pop("clean") else {"state": "restored"}
    return result(seconds=_since(begin), **state, **found)


def _since(begin: float) -> float:
    return round(time.perf_counter() - begin, 3)


# Several processes.


class _Stopped(BaseException):
    """Ends the work on a file, since the run was stopped."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all processes share: how many pixels are done, and whether to stop."""

    pixels: "Synchronized[int]"
    stop: Event

    @classmethod
    def among(cls, context: SpawnContext) -> Self:
        return cls(context.Value("q", 0), context.Event())

    def advance(self, pixels: int) -> None:
        with self.pixels.get_lock():
            self.pixels.value += pixels


class _Processes:
    """Restores files in several processes, and goes on if one of them dies."""

    def __init__(
        self, open_restorer: Callable[[], Restorer], settings: BatchSettings, counted: _Pixels
    ) -> None:
        self.open_restorer, self.settings, self.counted = open_restorer, settings, counted
        self.context = multiprocessing.get_context("spawn")
        self.shared = _Shared.among(self.context)
        self.threads = math.ceil(torch.get_num_threads() / settings.processes)

    def restore(self, waiting: deque[_SizedJob], count: int) -> Generator[FileResult]:
        """Yields what became of each file; `count` of them are restored at a time."""
        while waiting:
            at_work: dict[Future[FileResult], _SizedJob] = {}
            others = {*multiprocessing.active_children()}
            pool, died = self._pool(count), False
            try:
                yield from self._work(pool, waiting, at_work, count)
            except BrokenProcessPool:
                died = True
            except BaseException:
                self.shared.stop.set()
                for process in {*multiprocessing.active_children()} - others:
                    process.terminate()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
            if died and count == 1:
                for job, pixels in at_work.values():
                    failed = FileResult(
                        file=str(job.source), target=str(job.target), state="failed", reason=PROCESS_DIED
                    )
                    self.counted.count(failed, pixels)
                    self.counted.progress(self.counted.done, self.counted.total)
                    yield failed
            elif died:  # nobody knows which file was too much, so each is tried alone
                yield from self.restore(deque(at_work.values()), 1)

    def _pool(self, count: int) -> ProcessPoolExecutor:
        self.shared.stop.clear()
        self.shared.pixels.value = self.counted.done
        settings = self.settings
        if settings.history is not None:  # only this process asks it, and it may be long
            settings = replace(settings, history=replace(settings.history, hashes=frozenset()))
        arguments = (self.open_restorer, settings, self.shared, self.threads)
        return ProcessPoolExecutor(
            count, mp_context=self.context, initializer=_start_worker, initargs=arguments
        )

    def _work(
        self,
        pool: ProcessPoolExecutor,
        waiting: deque[_SizedJob],
        at_work: dict[Future[FileResult], _SizedJob],
        count: int,
    ) -> Generator[FileResult]:
        while waiting or at_work:
            while waiting and len(at_work) < count:
                job, pixels = waiting[0]
                if (skipped := _skipped(job, self.settings)) is None:
                    with _interrupts_held():  # processes start here, and begin with interrupts held
                        at_work[pool.submit(_in_worker, job, pixels)] = job, pixels
                else:
                    self.counted.count(skipped, pixels)
                    yield skipped
                waiting.popleft()
            finished, _ = wait(at_work, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            for future in finished:
                result = future.result()
                _, pixels = at_work.pop(future)
                self.counted.count(result, pixels)
                yield result
            if self.shared.pixels.value:
                self.counted.progress(self.shared.pixels.value, self.counted.total)


class _Worker:
    """Restores files in a process of its own."""

    def __init__(
        self, open_restorer: Callable[[], Restorer], settings: BatchSettings, shared: _Shared, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.restorer, self.settings, self.shared = open_restorer(), settings, shared
        self.at_work = self.is_ending = False

    def __call__(self, job: RestoreJob, pixels: int) -> FileResult:
        counted = 0

        def advance(tiles: int, all_tiles: int) -> None:
            nonlocal counted
            if self.shared.stop.is_set():
                raise _Stopped
            counted, before = pixels * tiles // all_tiles, counted
            self.shared.advance(counted - before)

        self.at_work = True
        try:
            result = _restored(job, self.restorer, self.settings, advance)
        finally:
            self.at_work = False
        self.shared.advance((pixels if result.state == "restored" else 0) - counted)
        return result


_worker: list[_Worker] = []
"""The worker of this process, if it is one of several."""


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Lets signals have their effect after the block; a process that starts within it hears no Ctrl+C."""
    if threading.current_thread() is not threading.main_thread():  # no other thread hears signals
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    masked = hasattr(signal, "pthread_sigmask")
    if masked:  # new processes inherit this
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for known, handler in before.items():
            signal.signal(known, handler or signal.SIG_DFL)
        for number in held:
            signal.raise_signal(number)


def _start_worker(*arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and stops the others
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.append(_Worker(*arguments))


def _in_worker(job: RestoreJob, pixels: int) -> FileResult:
    (worker,) = _worker
    try:
        return worker(job, pixels)
    except _Stopped:
        if worker.is_ending:
            os._exit(1)
        raise


def _terminate(*_: object) -> None:
    """Ends a process as soon as it has removed the file that it writes."""
    if not any(worker.at_work for worker in _worker):
        os._exit(1)
    _worker[0].is_ending = True
    raise _Stopped


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
