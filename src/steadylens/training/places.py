"""Places in the batch of a step: what is drawn for an image depends on its place, not on who computes it.

A step's batch can be computed in parts, and its parts by several workers. So the images of a batch are drawn
in blocks, each with a generator of its own, and a worker draws only the blocks that it has a part of.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steadylens import workers
from steadylens.devices import cache_batch
from steadylens.randomness import derived_generator
from steadylens.training.random_layers import PlacedDraws, may_draw

BLOCK = 64
"""Clean images that are drawn together, with one generator."""

Objective = Callable[[torch.Generator], Iterator[Tensor]]
"""Draws a batch and yields its loss in parts that add up to it, one part for each forward pass."""


@dataclass(frozen=True, slots=True)
class DividedObjective:
    """An objective that yields only this worker's share of the loss, so that several workers can train.

    The losses of all workers must add up to that of the whole batch: a part is divided by the size of the
    whole batch, and what does not belong to an image, such as a penalty on weights, is yielded by one worker.
    `own_places` draws what is needed. With one worker that is everything.

    Args:
        objective: Yields the share of the loss.
    """

    objective: Objective

    def __call__(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Draws a batch and yields this worker's share of its loss in parts."""
        return self.objective(generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some images of a batch, which go through the nets at once.

    Attributes:
        tensors: What was drawn for them, each (N, ...).
        first: The place of the first in the whole batch.
        total: Number of images in the whole batch.
        seed: Seed of all that nets draw in this step.
    """

    tensors: tuple[Tensor, ...]
    first: int
    total: int
    seed: int

    def placed(self, *nets: nn.Module) -> AbstractContextManager[object]:
        """Returns a context for the forward pass of nets: what they draw depends on the places alone."""
        if not any(map(may_draw, nets)):
            return nullcontext()
        return PlacedDraws(seed=self.seed, first=self.first, count=len(self.tensors[0]), total=self.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnPlaces:
    """This worker's places in the batch of a step, and what was drawn for them.

    Attributes:
        places: Which clean images of the batch are this worker's; perhaps none.
        batch: Number of clean images in the batch.
        drawn: What was drawn for them, each (N, ...) with a row for each clean image, or M rows; empty
            without places.
        seed: Seed of all that nets draw in this step.
    """

    places: slice
    batch: int
    drawn: tuple[Tensor, ...]
    seed: int

    def parts(self, *tensors: Tensor) -> Iterator[Part]:
        """Yields this worker's images in parts that fit into the cache, of nearly equal size.

        Args:
            tensors: What goes through the nets, each (N, ...) with M rows for each clean image.
        """
        count = self.places.stop - self.places.start
        if count == 0:
            return
        rows = len(tensors[0])
        versions = rows // count
        number = -(-rows // cache_batch(tensors[0].device))
        first = self.places.start * versions
        for some in zip(*(torch.tensor_split(tensor, number) for tensor in tensors), strict=True):
            yield Part(tensors=some, first=first, total=self.batch * versions, seed=self.seed)
            first += len(some[0])


def own_places(
    batch: int, draw: Callable[[int, torch.Generator], tuple[Tensor, ...]], *, generator: torch.Generator
) -> OwnPlaces:
    """Draws a batch, block by block, and returns what belongs to this worker.

    Args:
        batch: Number of clean images in the batch.
        draw: From a number of clean images and a generator to tensors, each with a row for each clean image
            or with M adjacent rows.
        generator: In the same state on every worker; one seed is drawn from it.
    """
    seed = step_seed(generator)
    places = workers.share(batch)
    first = places.start - places.start % BLOCK
    blocks = []
    for start in range(first, places.stop, BLOCK) if places.start < places.stop else ():
        count = min(BLOCK, batch - start)
        begin, end = max(places.start - start, 0), min(places.stop - start, count)
        found = draw(count, block_generator(seed, start // BLOCK, device=generator.device))
        blocks.append(
            tuple(tensor[begin * (len(tensor) // count) : end * (len(tensor) // count)] for tensor in found)
        )
    drawn = tuple(each[0] if len(each) == 1 else torch.cat(each) for each in zip(*blocks, strict=True))
    return OwnPlaces(places=places, batch=batch, drawn=drawn, seed=seed)


def step_seed(generator: torch.Generator) -> int:
    """Draws the seed from which all random numbers of a step are derived."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def block_generator(seed: int, number: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns the generator of a block of clean images; the first has number 0."""
    return derived_generator(seed, "block", number, device=device)
