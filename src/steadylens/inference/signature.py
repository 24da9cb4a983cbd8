"""What a net reads and writes, as plain data, and the check that an engine computes the same as the net."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steadylens.devices import evaluating
from steadylens.errors import CheckpointError, ExportError, ImageError, SettingError, reason_of
from steadylens.images.tensors import GREY_LEVELS, check_images
from steadylens.nets.classification import check_logits
from steadylens.nets.facts import facts_of

INPUT = "images"
"""Name of the input of every exported net."""

RESTORED, LOGITS = "restored", "logits"
"""Names of the output of a restorer and of a classifier."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a net reads, float32 images (N, C, H, W) in [0, 1], and what it returns.

    Attributes:
        channels: Channels of the images.
        batch: Fixed number of images in a batch, or None for any number.
        size: Fixed height and width of the images in pixels, or None for any size from `minimum_size` on.
        minimum_size: The smallest height and width in pixels. A net that pads by reflection needs one pixel
            more than its margin: 7 for L11.
        classes: Number of classes of a classifier, or None for a restorer.
        lost: How many pixels the output of a restorer is smaller on each side: the margin of an
            `UnpaddedNet`, otherwise 0.
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
        """Shape of the input: numbers for fixed dimensions, names for free ones."""
        height, width = self.size or ("height", "width")
        return (self.batch or "batch", self.channels, height, width)

    @property
    def output_shape(self) -> tuple[int | str, ...]:
        """Shape of the output: numbers for fixed dimensions, names for free ones."""
        if self.classes is not None:
            return (self.batch or "batch", self.classes)
        if not self.lost:
            return self.input_shape
        if self.size is None:
            return (self.batch or "batch", self.channels, "centre_height", "centre_width")
        return (self.batch or "batch", self.channels, *(side - 2 * self.lost for side in self.size))

    def check(self, images: Tensor) -> None:
        """Raises an error for a batch that the net cannot read.

        Raises:
            ImageError: If the batch is not float (N, C, H, W), or its batch size or image size does not fit.
        """
        check_images(images, channels=self.channels, minimum_size=self.minimum_size)
        if self.batch not in (None, len(images)):
            raise ImageError(
                f"the batch has {len(images)} images, this exported net reads {self.batch} at a time; "
                "export it for a free batch, or pad the batch"
            )
        if self.size not in (None, tuple(images.shape[-2:])):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, this exported net reads "
                f"{self.size[0]}x{self.size[1]}; resize them, or export it for that size"
            )

    def result_shape(self, images: Tensor) -> tuple[int, ...]:
        """Returns the shape of the net's output for a batch that it can read."""
        if self.classes is not None:
            return (len(images), self.classes)
        return (*images.shape[:2], *(side - 2 * self.lost for side in images.shape[2:]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the signature as plain data, for the metadata of a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Returns the signature that `to_dict` turned into plain data, which may have passed through JSON.

        Raises:
            CheckpointError: If the data does not describe a signature.
        """
        try:
            size = plain["size"]
            return cls(**{**plain, "size": None if size is None else (int(size[0]), int(size[1]))})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"the description of input and output is damaged: {error}") from error


def signature_of(net: nn.Module, *, size: Size | None = None, batch: int | None = None) -> Signature:
    """Returns the signature of a net: a restorer reads images of any size, a classifier of one size.

    Args:
        net: A restorer or a classifier, on the CPU.
        size: Fixed height and width in pixels, or None to take what the net states. A classifier that is no
            class of this package needs it.
        batch: Fixed number of images in a batch, or None for any number.

    Raises:
        SettingError: If the net cannot read that size, or returns neither images nor logits.
    """
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
    signature = Signature(channels=facts.channels, batch=batch, size=chosen, minimum_size=minimum)
    return _with_output(net, signature)


def example_images(signature: Signature) -> Tensor:
    """Returns images (N, C, H, W) that fit a signature, two if the batch is free: PyTorch would fix a one."""
    return torch.full(_example_shape(signature), 0.5)


def _example_shape(signature: Signature) -> tuple[int, int, int, int]:
    height, width = signature.size or (signature.minimum_size + 15, signature.minimum_size + 22)
    return signature.batch or 2, signature.channels, height, width


def _with_output(net: nn.Module, signature: Signature) -> Signature:
    """Returns the signature completed by the net's output, which is found by running the net."""
    try:
        images = example_images(signature)
        with torch.inference_mode(), evaluating(net):
            written = net(images)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise SettingError(
            f"the net cannot read images {_example_shape(signature)} ({reason}); give the size that it reads"
        ) from error
    shape = tuple(written.shape) if isinstance(written, Tensor) else ()
    if shape == tuple(images.shape):
        return signature
    if lost := facts_of(net).lost:
        return replace(signature, lost=lost)
    if len(shape) != 2 or shape[0] != len(images):
        raise SettingError(
            f"the net makes {shape or type(written).__name__} of images {tuple(images.shape)}; what can be "
            "exported are restorers, images to images, and classifiers, images to logits (N, classes)"
        )
    classes = check_logits(written).shape[1]
    if signature.size is None:
        raise SettingError("this classifier does not tell what size it reads; give the size")
    return replace(signature, classes=classes)


def _times(size: Size | None) -> str:
    return "any size" if size is None else f"{size[0]}x{size[1]}"


Precision = Literal["float32", "float16", "int8"]
"""The number format of a converted net's weights, in int8 also of the values between its layers."""

TOLERANCE = 1e-4
"""Largest difference that rounding to float32 may cause, relative to the largest output value of the net or
to 1, whichever is larger. In a restored image it is a fortieth of a grey level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far a converted net may differ from the original.

    Attributes:
        largest: Largest difference of any value, relative to the largest output value or to 1.
        rms: Root of the mean squared difference of all values of restored images, in units of [0, 1].
        same_class: Smallest share of the images that a classifier must put into the same class.
    """

    largest: float = math.inf
    rms: float = math.inf
    same_class: float = 1.0


TOLERANCES: Mapping[Precision, Tolerance] = {
    "float32": Tolerance(largest=TOLERANCE),
    "float16": Tolerance(largest=1e-2, rms=1e-3, same_class=0.95),
    "int8": Tolerance(rms=1e-2, same_class=0.95),
}
"""What a precision may cost. 0.01 in a restored image is noise of 2.6 grey levels, a PSNR of 40 dB."""

LEAST_IMAGES = 20
"""How many images int8 needs at least: half of them to choose the scales, half to compare on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExportOptions:
    """In which numbers an exported net computes, and in which version of a format it is written.

    Attributes:
        precision: float32; float16, half the size, for .onnx and .xml; or int8, a quarter of the size, for
            .onnx. What the net reads and writes stays float32.
        opset: Version of the ONNX operator set; None for the usual one.
        images: For int8, float images (N, C, H, W) in [0, 1] such as the net will see, noise included.

    Raises:
        SettingError: If the precision is unknown, or images are lacking or not used.
        ImageError: If the images break the image contract.
    """

    precision: Precision = "float32"
    opset: int | None = None
    images: Tensor | None = None

    def __post_init__(self) -> None:
        if self.precision not in TOLERANCES:
            raise SettingError(f"precision is {self.precision!r}; choose one of {', '.join(TOLERANCES)}")
        if self.images is None and self.precision == "int8":
            raise SettingError(
                "int8 needs images, by which its scales are chosen; give --images FOLDER, in Python "
                "ExportOptions(images=...)"
            )
        if self.images is not None and self.precision != "int8":
            raise SettingError(f"images are given, which {self.precision} does not use; leave them out")
        if self.images is not None:
            check_images(self.images)
            if len(self.images) < LEAST_IMAGES:
                raise SettingError(f"{len(self.images)} images are given, int8 needs at least {LEAST_IMAGES}")

    def batches(self, signature: Signature, *, second_half: bool) -> Iterator[Tensor]:
        """Yields the images, or one half of them, in batches that the signature allows."""
        images = torch.empty(0) if self.images is None else self.images[int(second_half) :: 2]
        for some in torch.split(images, signature.batch or 4):
            if signature.batch in (None, len(some)):
                yield some


IMAGES = 32
"""How many images a net of a fixed size is compared on, unless they are large."""

MOST_PIXELS_AT_ONCE, MOST_PIXELS = 2**20, 2**23
"""Limits for nets of a fixed size, on the pixels of one batch and of all images together. A net keeps
hundreds of values for each pixel. Two batches are compared in any case."""

STRENGTHS_GREY = (25.0, 5.0, 40.0, 15.0, 0.0)
"""Standard deviations of the noise in grey levels, one for each batch. A strong and a weak one come first,
since large images are compared in only two batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How well a net and its converted version agree on the same noisy images.

    Attributes:
        images: How many images were compared.
        shapes: Shapes (N, C, H, W) of the batches.
        maximum_difference: Largest absolute difference between two output values.
        allowed_difference: The largest difference that would have passed.
        equal_answers: How many images both put into the same class; None for restorers.
        rms_difference: Root of the mean squared difference of all output values.
    """

    images: int
    shapes: tuple[tuple[int, ...], ...]
    maximum_difference: float
    allowed_difference: float
    equal_answers: int | None
    rms_difference: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain data, for the metadata of a file."""
        return asdict(self)


def check_parity(
    net: Callable[[Tensor], Tensor],
    converted: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    tolerance: Tolerance = TOLERANCES["float32"],
) -> Parity:
    """Compares a converted net with the original.

    Args:
        net: The net that was evaluated, on the CPU.
        converted: The converted net.
        batches: Batches of images that both can read, for example from `noisy_images`.
        tolerance: How far the two may differ.

    Raises:
        ExportError: If they differ by more, or too many images get another class.
    """
    shapes: list[tuple[int, ...]] = []
    difference, scale, equal, classifies = 0.0, 1.0, 0, False
    squares, values = 0.0, 0
    for images in batches:
        with torch.no_grad(), evaluating(net):
            wanted, found = net(images), converted(images)
        if wanted.shape != found.shape:
            raise ExportError(
                f"for images {tuple(images.shape)} the net returns {tuple(wanted.shape)}, the converted net "
                f"{tuple(found.shape)}; fix the size and the batch"
            )
        largest = float((wanted - found).abs().max())
        squares, values = squares + float((wanted - found).square().sum()), values + wanted.numel()
        difference = largest if math.isnan(largest) else max(difference, largest)
        scale = max(scale, float(wanted.abs().max()))
        shapes.append(tuple(images.shape))
        if wanted.ndim == 2:
            classifies, equal = True, equal + int((wanted.argmax(dim=1) == found.argmax(dim=1)).sum())
    parity = Parity(
        images=sum(shape[0] for shape in shapes),
        shapes=tuple(shapes),
        maximum_difference=difference,
        allowed_difference=tolerance.largest * scale,
        equal_answers=equal if classifies else None,
        rms_difference=math.sqrt(squares / max(1, values)),
    )
    _check(parity, tolerance)
    return parity


def noisy_images(signature: Signature, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields batches of noisy colour gradients in [0, 1], in the shapes that the signature allows."""
    for number, (batch, height, width) in enumerate(_shapes(signature)):
        coarse = torch.rand(batch, signature.channels, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        sigma_grey = STRENGTHS_GREY[number % len(STRENGTHS_GREY)]
        noise = torch.randn(smooth.shape, generator=generator) * (sigma_grey / GREY_LEVELS)
        yield (smooth + noise).clamp(0, 1)


def _shapes(signature: Signature) -> list[tuple[int, int, int]]:
    """Returns (N, H, W) of the batches: one image and several, the smallest size, odd and even sizes."""
    least = signature.minimum_size
    if signature.size is None:
        sizes = ((least, least), (least, least + 13), (least + 31, least + 2), (48, 48), (67, 90))
        batches = (1, 3, 2, 5, 1)
        return [
            (signature.batch or batch, max(height, least), max(width, least))
            for batch, (height, width) in zip(batches, sizes, strict=True)
        ]
    area = math.prod(signature.size)
    if signature.batch is None:
        counts = [count for count in (1, 2, 5, 8, 16) if count < 3 or count * area <= MOST_PIXELS_AT_ONCE]
        return [(count, *signature.size) for count in counts]
    count = max(len(STRENGTHS_GREY), math.ceil(IMAGES / signature.batch))
    return [(signature.batch, *signature.size)] * max(2, min(count, MOST_PIXELS // (signature.batch * area)))


def _check(parity: Parity, tolerance: Tolerance) -> None:
    """Raises an error if the converted net differs by more than the tolerance."""
    if not parity.maximum_difference <= parity.allowed_difference:  # true for NaN, too
        raise ExportError(
            f"the exported net differs from the evaluated one by {parity.maximum_difference:.3g} where "
            f"{parity.allowed_difference:.3g} is allowed; no file was written, use another format"
        )
    if parity.equal_answers is None and not parity.rms_difference <= tolerance.rms:
        raise ExportError(
            f"the exported net differs from the evaluated one by {parity.rms_difference:.3g} on average, "
            f"{tolerance.rms:.3g} is allowed; no file was written, use a higher precision"
        )
    if parity.equal_answers is not None and parity.equal_answers < tolerance.same_class * parity.images:
        raise ExportError(
            f"the exported net puts {parity.images - parity.equal_answers} of {parity.images} noisy images "
            "into other classes than the evaluated one; no file was written, use another format"
        )
