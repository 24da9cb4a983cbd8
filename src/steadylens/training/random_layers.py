"""Random layers of nets, such as dropout: what they draw for an image depends on its place in the batch.

PyTorch's layers draw for all images of a forward pass at once, from a global generator. So a mask depends on
the images before it in the same pass. Here each random operation inside a pass is replaced by one that draws
for places of the whole batch.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from steadylens import workers
from steadylens.devices import cache_batch
from steadylens.errors import SettingError
from steadylens.randomness import derived_generator

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
