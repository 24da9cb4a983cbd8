"""What a net reads and writes, as plain data: shapes that are fixed or free, and the smallest size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from steadylens.errors import CheckpointError, ImageError, SettingError, reason_of
from steadylens.images.tensors import check_images
from steadylens.nets.facts import facts_of

INPUT = "images"
"""Name of the input of every exported net."""

RESTORED, LOGITS = "restored", "logits"
"""Names of the output: of a restorer, of a classifier."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a net reads, float32 (N, C, H, W) RGB in [0, 1], and what it writes.

    Attributes:
        channels: Channels of the images.
        batch: Images in a batch, or None for any number.
        size: Height and width of the images in pixels, or None for any from `minimum_size` on.
        minimum_size: The smallest height and width in pixels. A net that reflects its border needs one pixel
            more than its margin: 7 for L11.
        classes: Number of classes of a classifier, None for a restorer.
        lost: Pixels that a restorer's output lacks on each side: none, or the margin of a `UnpaddedNet`.
    """

    channels: int = 3
    batch: int | None = None
    size: Size | None = None
    minimum_size: int = 1
    classes: int | None = None
    lost: int = 0

    @property
    def output(self) -> str:
        """Name of the output: `RESTORED` or `LOGITS`."""
        return RESTORED if self.classes is None else LOGITS

    @property
    def input_shape(self) -> tuple[int | str, ...]:
        """Shape of the input: a number for what is fixed, a name for what is free."""
        height, width = self.size or ("height", "width")
        return (self.batch or "batch", self.channels, height, width)

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """Shape of the output: a number for what is fixed, a name for what is free."""
        if self.classes is not None:
            return (self.batch or "batch", self.classes)
        if not self.lost:
            return self.input_shape
        if self.size is None:
            return (self.batch or "batch", self.channels, "centre_height", "centre_width")
        return (self.batch or "batch", self.channels, *(side - 2 * self.lost for side in self.size))

    def check(self, images: Tensor) -> None:
        """Refuses a batch that the net cannot read.

        Raises:
            ImageError: If the batch breaks the image contract, or is of another batch size or size.
        """
        check_images(images, channels=self.channels, minimum_size=self.minimum_size)
        if self.batch not in (None, len(images)):
            raise ImageError(
                f"{len(images)} images were given where this exported net reads {self.batch} at a time; "
                "export it for a free batch, or pad the batch"
            )
        if self.size not in (None, tuple(images.shape[-2:])):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels where this net reads "
                f"{self.size[0]}x{self.size[1]}; resize them, or export it for that size"
            )

    def result_shape(self, images: Tensor) -> tuple[int, ...]:
        """Returns the shape of what the net writes for images that it can read."""
        if self.classes is not None:
            return (len(images), self.classes)
        return (*images.shape[:2], *(side - 2 * self.lost for side in images.shape[2:]))

    def described(self) -> dict[str, Any]:
        """Returns the interface as plain data, for the metadata of a file."""
        return asdict(self)

    @classmethod
    def of_description(cls, plain: Mapping[str, Any]) -> Self:
        """Returns the interface that `described` returned, through JSON or not.

        Raises:
            CheckpointError: If the data are of another form.
        """
        try:
            size = plain["size"]
            return cls(**{**plain, "size": None if size is None else (int(size[0]), int(size[1]))})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"the description of input and output is damaged: {error}") from error


def signature_of(net: nn.Module, *, size: Size | None = None, batch: int | None = None) -> Signature:
    """Returns what a net reads and writes; a restorer reads any size, a classifier its own.

    Args:
        net: A restorer or a classifier, in eval mode, on the CPU.
        size: Height and width in pixels to fix, or None to leave free what the net leaves free. A classifier
            of another kind than this package's needs it.
        batch: Images in a batch to fix, or None for any number.

    Raises:
        SettingError: If the net is in training mode, cannot read that size, or writes neither images nor
            logits.
    """
    if net.training:
        raise SettingError("the net is in training mode, where dropout and others act; call eval() first")
    if batch is not None and batch < 1:
        raise SettingError(f"the batch is {batch}, it must be at least 1")
    facts = facts_of(net)
    own = None if facts.input_size is None else (facts.input_size, facts.input_size)
    minimum = facts.minimum_size
    if size is not None and own not in (None, size):
        raise SettingError(f"size is {_times(size)}, this classifier reads {_times(own)}; leave the size out")
    chosen = size or own
    if chosen is not None and min(chosen) < minimum:
        raise SettingError(f"size is {_times(chosen)}, this net reads at least {minimum}x{minimum} pixels")
    form = Signature(channels=facts.channels, batch=batch, size=chosen, minimum_size=minimum)
    return _with_output(net, form)


def example_images(form: Signature) -> Tensor:
    """Returns images (N, C, H, W) that fit, two where their number is free: one would be taken for fixed."""
    return torch.full(_example_shape(form), 0.5)


def _example_shape(form: Signature) -> tuple[int, int, int, int]:
    height, width = form.size or (form.minimum_size + 15, form.minimum_size + 22)
    return form.batch or 2, form.channels, height, width


def _with_output(net: nn.Module, form: Signature) -> Signature:
    """Returns the interface with what the net writes, found by trying."""
    try:
        images = example_images(form)
        with torch.inference_mode():
            written = net(images)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise SettingError(
            f"the net cannot read images {_example_shape(form)} ({reason}); give the size that it reads"
        ) from error
    shape = tuple(written.shape) if isinstance(written, Tensor) else ()
    if shape == tuple(images.shape):
        return form
    if lost := facts_of(net).lost:
        return replace(form, lost=lost)
    if len(shape) != 2 or shape[0] != len(images):
        raise SettingError(
            f"the net makes {shape or type(written).__name__} of images {tuple(images.shape)}; what can be "
            "exported are restorers, images to images, and classifiers, images to logits (N, classes)"
        )
    if form.size is None:
        raise SettingError("this classifier does not tell what size it reads; give the size")
    return replace(form, classes=shape[1])


def _times(size: Size | None) -> str:
    return "any size" if size is None else f"{size[0]}x{size[1]}"
