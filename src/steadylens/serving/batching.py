"""Concurrent requests -> batches for the net, and each result back to whoever asked.

The number of requests in the house is bounded. A batch holds images of one shape, the oldest first; it is
put together while the net works on the one before, and waits a moment only if somebody is on the way.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from steadylens.errors import SettingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How requests are gathered.

    Attributes:
        places: Requests in the house at a time: being read, waiting, or in the net.
        images: Images in a batch.
        pixels: Pixels in a batch (width times height, summed); an image above it has a batch of its own.
        wait_seconds: How long an image waits for others that are being read, at most.

    Raises:
        SettingError: If a number is below 1, or the time is below 0 or without end.
    """

    places: int = 128
    images: int = 32
    pixels: int = 2**18
    wait_seconds: float = 0.002

    def __post_init__(self) -> None:
        for name in ("places", "images", "pixels"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.wait_seconds < math.inf:
            raise SettingError(f"wait_seconds is {self.wait_seconds}, it must be at least 0 and finite")


class QueueFullError(Exception):
    """All places are taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Waiting:
    image: Tensor
    result: asyncio.Future[Tensor]
    since: float


class Batcher:
    """Calls a net on batches of the images that concurrent tasks bring.

    Args:
        call: Maps a batch (N, C, H, W) to one result for each image, (N, ...). It runs in a thread of its
            own, never twice at a time.
        batching: How requests are gathered.
        observe: Told the size of each batch.
    """

    def __init__(
        self, call: Callable[[Tensor], Tensor], batching: Batching, *, observe: Callable[[int], None]
    ) -> None:
        self._call, self._batching, self._observe = call, batching, observe
        self._waiting: deque[_Waiting] = deque()
        self._places = self._on_the_way = 0
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="net")

    @property
    def places(self) -> int:
        """Places that are taken."""
        return self._places

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Lends a place, which is free again when the block ends.

        Raises:
            QueueFullError: If all places are taken.
        """
        if self._places >= self._batching.places:
            raise QueueFullError
        self._places += 1
        place = Place(self)
        self._arriving(1)
        try:
            yield place
        finally:
            self._places -= 1
            if not place.used:
                self._arriving(-1)

    async def run(self) -> None:
        """Makes batches and has them answered, until it is cancelled."""
        try:
            while True:
                await self._gather()
                if batch := self._next_batch():
                    self._observe(len(batch))
                    await self._answer(batch)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def enqueue(self, image: Tensor) -> Tensor:
        """Returns the net's result for an image; `Place.answer` is the way to it."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(image=image, result=loop.create_future(), since=loop.time())
        self._waiting.append(waiting)
        self._arriving(-1)
        return await waiting.result

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        images = [waiting.image for waiting in batch]
        try:
            results = await loop.run_in_executor(self._thread, self._called, images)
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # it belongs to those who asked
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            return
        for waiting, result in answers:
            if not waiting.result.done():  # a client may have left
                waiting.result.set_result(result)

    def _called(self, images: list[Tensor]) -> Tensor:
        return self._call(torch.stack(images))

    def _arriving(self, change: int) -> None:
        self._on_the_way += change
        self._changed.set()

    async def _gather(self) -> None:
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._waiting[0].since + self._batching.wait_seconds):
                while self._on_the_way and len(self._waiting) < self._batching.images:
                    self._changed.clear()
                    await self._changed.wait()

    def _next_batch(self) -> list[_Waiting]:
        """Takes out the oldest image and those of its shape, as many as fit a batch."""
        present = [waiting for waiting in self._waiting if not waiting.result.done()]
        if not present:
            self._waiting.clear()
            return []
        shape = present[0].image.shape
        most = max(1, min(self._batching.images, self._batching.pixels // shape[-2:].numel()))
        batch = [waiting for waiting in present if waiting.image.shape == shape][:most]
        taken = set(map(id, batch))
        self._waiting = deque(waiting for waiting in present if id(waiting) not in taken)
        return batch


class Place:
    """A place in the house of a `Batcher`; it can be used once."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.used = False

    async def answer(self, image: Tensor) -> Tensor:
        """Returns the net's result for an image (C, H, W); if the caller is cancelled, it leaves the queue.

        Raises:
            Exception: Whatever the net raised on the batch.
        """
        self.used = True
        return await self._batcher.enqueue(image)
