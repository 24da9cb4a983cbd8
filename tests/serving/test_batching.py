"""Each request gets the result of its own image, in batches of one shape, within the limits."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steadylens.errors import SettingError
from steadylens.serving.batching import Batcher, Batching, QueueFullError

T = TypeVar("T")


def image(number: int, side: int = 2) -> Tensor:
    return torch.full((3, side, side), float(number))


@dataclass
class Doubling:
    """A net that doubles; it can be made to wait, and notes the shapes that it was called with."""

    go: threading.Event = field(default_factory=threading.Event)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        assert self.go.wait(10)
        self.shapes.append(tuple(images.shape))
        if images.max() > 1000:
            raise ValueError("too bright")
        return images.mean(dim=(1, 2, 3)) * 2


async def asked(batcher: Batcher, what: Tensor) -> float:
    with batcher.slot() as slot:
        return float((await slot.answer([what]))[0])


def running(net: Doubling, batching: Batching, scene: Callable[[Batcher], Awaitable[T]]) -> T:
    """Runs a scene while a batcher works."""

    async def play() -> T:
        batcher = Batcher(net, batching, observe=lambda _: None)
        work = asyncio.create_task(batcher.run())
        try:
            async with asyncio.timeout(20):
                return await scene(batcher)
        finally:
            net.go.set()
            work.cancel()

    return asyncio.run(play())


@given(
    sides=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    images=st.integers(1, 8),
    pixels=st.integers(1, 40),
    wait=st.sampled_from([0.0, 0.001]),
)
def test_each_request_gets_its_own_result_whatever_the_sizes_and_the_limits(
    sides: list[int], images: int, pixels: int, wait: float
) -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> list[float]:
        asking = (asked(batcher, image(number, side)) for number, side in enumerate(sides))
        return await asyncio.gather(*asking)

    limits = Batching(images=images, pixels=pixels, wait_seconds=wait)
    assert running(net, limits, scene) == [2.0 * number for number in range(len(sides))]
    assert sum(shape[0] for shape in net.shapes) == len(sides)
    for count, _, height, width in net.shapes:
        assert count <= images
        assert count == 1 or count * height * width <= pixels


def test_requests_that_come_while_the_net_works_share_the_next_batch() -> None:
    net = Doubling()

    async def scene(batcher: Batcher) -> list[float]:
        first = asyncio.create_task(asked(batcher, image(0)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(asked(batcher, image(number))) for number in range(1, 6)]
        await asyncio.sleep(0.05)
        net.go.set()
        return await asyncio.gather(first, *others)

    assert running(net, Batching(images=4), scene) == [0, 2, 4, 6, 8, 10]
    assert [shape[0] for shape in net.shapes] == [1, 4, 1]


def test_an_image_waits_for_a_request_that_is_being_read_and_for_no_other() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        with batcher.slot() as late:
            early = asyncio.create_task(asked(batcher, image(1)))
            await asyncio.sleep(0.05)
            assert not early.done()
            assert await late.answer([image(2)]) == [4]
            assert await early == 2
        assert await asked(batcher, image(3)) == 6

    # If it waited for anything but requests that are being read, this would last an hour.
    running(net, Batching(wait_seconds=3600), scene)
    assert [shape[0] for shape in net.shapes] == [2, 1]


def test_a_request_that_frees_its_slot_is_waited_for_no_longer() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        with batcher.slot():
            early = asyncio.create_task(asked(batcher, image(1)))
            await asyncio.sleep(0.02)
        assert await early == 2

    running(net, Batching(wait_seconds=3600), scene)


def test_an_image_waits_no_longer_than_it_is_told() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        with batcher.slot():
            assert await asked(batcher, image(1)) == 2

    running(net, Batching(wait_seconds=0.01), scene)


def test_one_request_too_many_is_refused_and_the_slot_is_free_again_afterwards() -> None:
    net = Doubling()

    async def scene(batcher: Batcher) -> None:
        both = [asyncio.create_task(asked(batcher, image(number))) for number in range(2)]
        await asyncio.sleep(0.02)
        assert batcher.in_flight == 2
        with pytest.raises(QueueFullError):
            await asked(batcher, image(2))
        net.go.set()
        assert await asyncio.gather(*both) == [0, 2]
        assert batcher.in_flight == 0
        assert await asked(batcher, image(3)) == 6

    running(net, Batching(slots=2), scene)


def test_an_error_of_the_net_reaches_the_requests_in_the_batch_and_no_other() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        pair = asyncio.gather(
            asked(batcher, image(2000, side=3)), asked(batcher, image(1)), return_exceptions=True
        )
        error, fine = await pair
        assert isinstance(error, ValueError)
        assert fine == 2
        assert await asked(batcher, image(4)) == 8

    running(net, Batching(), scene)


def test_a_net_that_loses_a_result_fails_on_that_batch_and_goes_on() -> None:
    class Losing(Doubling):
        def __call__(self, images: Tensor) -> Tensor:
            return super().__call__(images)[len(images) // 2 :]

    net = Losing()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        pair = asyncio.gather(*(asked(batcher, image(number)) for number in (1, 2)), return_exceptions=True)
        assert all(isinstance(error, ValueError) for error in await pair)
        assert await asked(batcher, image(4)) == 8

    running(net, Batching(), scene)


def test_an_image_whose_request_was_cancelled_is_not_given_to_the_net() -> None:
    net = Doubling()

    async def scene(batcher: Batcher) -> None:
        first = asyncio.create_task(asked(batcher, image(1)))
        await asyncio.sleep(0.02)
        leaving = asyncio.create_task(asked(batcher, image(2)))
        staying = asyncio.create_task(asked(batcher, image(3)))
        await asyncio.sleep(0.02)
        leaving.cancel()
        net.go.set()
        assert list(await asyncio.gather(first, staying)) == [2, 6]

    running(net, Batching(), scene)
    assert [shape[0] for shape in net.shapes] == [1, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"images": 0}, {"pixels": 0}, {"wait_seconds": -1.0}, {"wait_seconds": float("inf")}],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Batching(**wrong)  # type: ignore[arg-type]


def test_the_images_of_a_request_are_answered_in_their_order_and_take_one_slot() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        with batcher.slot() as slot:
            images = [image(number, side=2 + number % 2) for number in range(7)]
            assert batcher.in_flight == 1
            assert await slot.answer(images) == [2.0 * number for number in range(7)]
        with batcher.slot() as slot:
            assert await slot.answer([]) == []
        with batcher.slot() as slot, pytest.raises(ValueError, match="too bright"):
            await slot.answer([image(1), image(2000), image(3, side=3)])
        assert await asked(batcher, image(4)) == 8

    running(net, Batching(slots=1, images=2), scene)
    assert max(shape[0] for shape in net.shapes) == 2


def test_images_of_one_shape_and_different_types_are_not_mixed() -> None:
    net = Doubling()
    net.go.set()

    async def scene(batcher: Batcher) -> None:
        with batcher.slot() as slot:
            images = [image(number).to(torch.float64 if number % 2 else torch.float32) for number in range(6)]
            results = await slot.answer(images)
            assert [each.dtype for each in results] == [each.dtype for each in images]

    running(net, Batching(), scene)
    assert [shape[0] for shape in net.shapes] == [3, 3]
