"""Places in the batch of a step: what is drawn for an image depends on its place, not on who computes it.

A step's batch can be computed in parts, and its parts by several workers. So the images of a batch are drawn
in blocks, each with a generator of its own, and a worker draws only the blocks that it has a part of.

Random layers of nets, such as dropout, draw for all images of a forward pass at once, from a global
generator. So each random operation inside a pass is replaced by one that draws for places of the whole batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from steadylens import workers
from steadylens.devices import cache_batch
from steadylens.errors import SettingError
from steadylens.randomness import derived_generator

BLOCK = 64
"""Clean images that are drawn together, with one generator."""

_aten = torch.ops.aten

_MADE_BY: dict[object, Callable[..., Tensor]] = {
    _aten.rand.default: Tensor.uniform_,
    _aten.rand_like.default: Tensor.uniform_,
    _aten.randn.default: Tensor.normal_,
    _aten.randn_like.default: Tensor.normal_,
}
"""How a new tensor of random numbers is filled."""

_MOST_AT_ONCE = 64
"""Most images of a GPU for which random numbers are drawn by one kernel."""

_RANDOM_LAYERS = (
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.modules.dropout._DropoutNd,
)

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


def may_draw(net: nn.Module) -> bool:
    """Whether a forward pass of the net may draw random numbers: unless it has only layers that never do."""
    return any(
        part.training
        if isinstance(part, _RANDOM_LAYERS)
        else not type(part).__module__.startswith(("torch.nn.modules.", "steadylens.nets."))
        for part in net.modules()
    )


class PlacedDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which nets draw random numbers by place, for images that lie side by side in a batch.

    A draw whose first dimension is the number of images, or a multiple, has rows of its own for each image. A
    draw with a first dimension of 1, or none, is the same for the whole batch.

    Args:
        seed: Seed of the step.
        first: The place of the first image in the whole batch.
        count: Number of images in the pass.
        total: Number of images in the whole batch.
    """

    def __init__(self, *, seed: int, first: int, count: int, total: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed, self.first, self.count, self.total = seed, first, count, total
        self.draws = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replaces a random operation; any other one is done as it is.

        Raises:
            SettingError: If several workers train, and the operation cannot be done by place.
        """
        kwargs = dict(kwargs or {})
        if not _is_random(func) or _draws_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        self.draws += 1
        placed = self._placed(func, args, dict(kwargs))
        return self._unplaced(func, args, kwargs) if placed is None else placed

    def _placed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Returns the result of a random operation by place, or None if that is not possible."""
        made: Any = None
        in_place = func._schema.name.endswith("_") and not any(isinstance(each, Tensor) for each in args[1:])
        if kwargs.pop("generator", None) is not None:
            return None
        if func in _MADE_BY:
            empty = torch.empty_like if isinstance(args[0], Tensor) else torch.empty
            made = self._filled(empty(*args, **kwargs), _MADE_BY[func])
        elif func is _aten.native_dropout.default:
            made = self._dropped(args[0], args[1])
        elif func is _aten.bernoulli.default:
            made = (self._filled(torch.empty_like(args[0]), Tensor.uniform_) < args[0]).to(args[0].dtype)
        elif in_place:
            made = self._filled(
                args[0], lambda some, generator: func(some, *args[1:], **kwargs, generator=generator)
            )
        return made

    def _unplaced(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if workers.count() > 1:
            raise SettingError(
                f"the net draws random numbers by {func._schema.name.removeprefix('aten::')}, in a way that "
                "several workers cannot do as one would; train it with one worker, or leave this layer out"
            )
        return func(*args, **kwargs)

    def _dropped(self, images: Tensor, probability: float) -> tuple[Tensor, Tensor]:
        """Returns what the dropout of a GPU returns: the result, and the mask for the backward pass."""
        kept = 1 - probability
        mask = self._filled(
            torch.empty_like(images, dtype=torch.bool),
            lambda some, generator: some.bernoulli_(kept, generator=generator),
        )
        return images * mask * (1 / kept if kept else 0.0), mask

    def _filled(self, wanted: Tensor, fill: Callable[..., Tensor]) -> Tensor:
        """Fills a tensor by `fill(tensor, generator=...)`, as rows of what is drawn for the whole batch."""
        shape = tuple(wanted.shape)
        if workers.count() > 1 and shape and self.count == 1 < self.total:
            raise SettingError(
                f"the net draws random numbers of shape {shape} for a single image: whether they are the "
                "image's own is not known; use a larger batch or fewer workers, so that each has two images"
            )
        rows, left = divmod(shape[0] if shape else 0, self.count)
        if rows == 0 or left:
            return self._filled_for_all(wanted, fill)
        group = cache_batch(wanted.device) if wanted.device.type == "cpu" else _MOST_AT_ONCE
        stop = self.first + self.count
        for start in range(self.first - self.first % group, stop, group):
            end = min(start + group, self.total)
            fresh = torch.empty(((end - start) * rows, *shape[1:]), dtype=wanted.dtype, device=wanted.device)
            fill(fresh, generator=self._generator(wanted.device, start // group))
            own = slice(max(start, self.first), min(end, stop))
            wanted[(own.start - self.first) * rows : (own.stop - self.first) * rows] = fresh[
                (own.start - start) * rows : (own.stop - start) * rows
            ]
        return wanted

    def _filled_for_all(self, wanted: Tensor, fill: Callable[..., Tensor]) -> Tensor:
        """Fills a tensor with what is the same in each pass of the step, on every worker."""
        shape = tuple(wanted.shape)
        if workers.count() > 1 and shape and shape[0] != 1:
            raise SettingError(
                f"the net draws random numbers of shape {shape} for {self.count} images: which are of which "
                "image is not known, so several workers cannot draw as one would; train it with one worker"
            )
        fresh = torch.empty(shape, dtype=wanted.dtype, device=wanted.device)
        fill(fresh, generator=self._generator(wanted.device, "all"))
        return wanted.copy_(fresh)

    def _generator(self, device: torch.device, group: int | str) -> torch.Generator:
        return derived_generator(self.seed, "nets", self.draws, group, device=device)


@cache
def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _draws_nothing(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation that can be random is told not to be: attention without dropout, for example."""
    names = [argument.name for argument in func._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    given = defaults | dict(zip(names, args, strict=False)) | dict(kwargs)
    return given.get("dropout_p", 1) == 0 or given.get("train", given.get("training", True)) is False
