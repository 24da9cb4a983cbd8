"""Collects concurrent requests into batches for the net, and hands each result back to its request.

The number of requests in flight is limited. A batch holds images of one shape and type, the oldest first. It
is put together while the net works on the previous batch, and waits a moment only if another request is being
read.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from steadylens.errors import SettingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How requests are collected into batches.

    Attributes:
        slots: The most requests in flight: being read, waiting, or in the net.
        images: The most images in a batch.
        pixels: The most pixels in a batch (width times height, summed); a larger image is a batch by itself.
        wait_seconds: The longest time that an image waits for requests that are still being read.

    Raises:
        SettingError: If a number is below 1, or the time is negative or not finite.
    """

    slots: int = 128
    images: int = 32
    pixels: int = 2**18
    wait_seconds: float = 0.002

    def __post_init__(self) -> None:
        for name in ("slots", "images", "pixels"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.wait_seconds < math.inf:
            raise SettingError(f"wait_seconds is {self.wait_seconds}, it must be at least 0 and finite")


class QueueFullError(Exception):
    """All slots are taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Waiting:
    image: Tensor
    result: asyncio.Future[Tensor]
    since: float


class Batcher:
    """Runs a net on batches of the images that concurrent tasks bring.

    Args:
        call: The net: maps a batch (N, C, H, W) to one result for each image, (N, ...). It runs in its own
            thread, one call at a time.
        batching: How requests are collected.
        observe: Called with the size of each batch.
    """

    def __init__(
        self, call: Callable[[Tensor], Tensor], batching: Batching, *, observe: Callable[[int], None]
    ) -> None:
        self._call, self._batching, self._observe = call, batching, observe
        self._waiting: deque[_Waiting] = deque()
        self._in_flight = self._being_read = 0
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="net")

    @property
    def in_flight(self) -> int:
        """The number of requests in flight, which is that of the slots taken."""
        return self._in_flight

    @contextmanager
    def slot(self) -> Iterator["Slot"]:
        """Takes a slot for one request, and frees it when the block ends.

        Raises:
            QueueFullError: If all slots are taken.
        """
        if self._in_flight >= self._batching.slots:
            raise QueueFullError
        self._in_flight += 1
        slot = Slot(self)
        self._count_reading(1)
        try:
            yield slot
        finally:
            self._in_flight -= 1
            if not slot.used:
                self._count_reading(-1)

    async def run(self) -> None:
        """Puts batches together and runs the net on them, until it is cancelled."""
        try:
            while True:
                await self._gather()
                if batch := self._next_batch():
                    self._observe(len(batch))
                    await self._answer(batch)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def enqueue(self, images: Iterable[Tensor]) -> list[Tensor]:
        """Returns the net's results for images. Call `Slot.answer` instead, which keeps count."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(image=image, result=loop.create_future(), since=loop.time()) for image in images]
        self._waiting.extend(waiting)
        self._count_reading(-1)
        return await asyncio.gather(*(each.result for each in waiting))

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        images = [waiting.image for waiting in batch]
        try:
            results = await loop.run_in_executor(self._thread, self._called, images)
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # every request in the batch gets it
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            return
        for waiting, result in answers:
            if not waiting.result.done():  # a client may have disconnected
                waiting.result.set_result(result)

    def _called(self, images: list[Tensor]) -> Tensor:
        return self._call(torch.stack(images))

    def _count_reading(self, change: int) -> None:
        self._being_read += change
        self._changed.set()

    async def _gather(self) -> None:
        """Waits for an image, and then for the requests that are being read, as long as is allowed."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._waiting[0].since + self._batching.wait_seconds):
                while self._being_read and len(self._waiting) < self._batching.images:
                    self._changed.clear()
                    await self._changed.wait()

    def _next_batch(self) -> list[_Waiting]:
        """Removes the oldest image and others of its shape from the queue, as many as fit a batch."""
        present = [waiting for waiting in self._waiting if not waiting.result.done()]
        if not present:
            self._waiting.clear()
            return []
        first = present[0].image
        most = max(1, min(self._batching.images, self._batching.pixels // first.shape[-2:].numel()))
        alike = (each for each in present if each.image.shape == first.shape)
        batch = list(islice((each for each in alike if each.image.dtype == first.dtype), most))
        taken = set(map(id, batch))
        self._waiting = deque(waiting for waiting in present if id(waiting) not in taken)
        return batch


class Slot:
    """One request's place among the requests in flight of a `Batcher`; it can be used once."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.used = False

    async def answer(self, images: Iterable[Tensor]) -> list[Tensor]:
        """Returns the net's results for images (C, H, W); if the caller is cancelled, the images are dropped.

        Raises:
            Exception: Whatever the net raised on the batch.
        """
        self.used = True
        return await self._batcher.enqueue(images)
