"""A classifier made ready for plain images: its own normalisation is its first layer, and its size is known.

An image is restored in [0, 1], at the resolution that the classifier reads and before its normalisation, so
whatever stands behind a restorer must read such images. Any module can be prepared, an exported program too.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from steadylens.classification import ChannelNormalization
from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.fitting import Fit
from steadylens.fusion import FusedClassifier
from steadylens.images import SQUASHED
from steadylens.programs import read_program

Channels = Sequence[float]
"""A number for each of red, green and blue."""

NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""The normalisation of a classifier that reads images in [0, 1] as they are."""


class PreparedClassifier(nn.Module):
    """A classifier behind its own normalisation: images in [0, 1] -> logits.

    Args:
        body: The classifier proper, from normalised images (N, 3, size, size) to logits (N, classes) or to an
            object with such `logits`.
        size: Height and width in pixels of the images that it reads.
        mean: What it subtracts from each channel, for images in [0, 1].
        std: What it then divides each channel by.
        fit: How photographs become squares of that size before it reads them.
        class_names: Names of its classes by number; if none are given, those that a classifier of
            transformers bears.
        architecture: Plain data from which `rebuild` makes the classifier again; None if it cannot be
            described, and then it cannot be saved.

    Raises:
        SettingError: If the size is below 1 or beyond the fit, or mean and deviation are not three numbers
            each.

    Example:
        >>> import torch
        >>> body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> classifier = PreparedClassifier(body, size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> classifier(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        size: int,
        mean: Channels = NO_MEAN,
        std: Channels = NO_STD,
        fit: Fit = SQUASHED,
        class_names: Sequence[str] = (),
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or len(mean) != 3 or len(std) != 3:
            raise SettingError(
                f"size {size}, mean {tuple(mean)} and std {tuple(std)}: a classifier reads RGB images of at "
                "least 1 pixel, with three numbers for its mean and three for its deviation"
            )
        fit.check_size(size)
        self.size, self.fit = size, fit.simplest(size)
        self.class_names = tuple(class_names) or names_of(body)
        self.architecture = None if architecture is None else dict(architecture)
        self.normalization = ChannelNormalization(mean, std)
        self.body = body

    def described(self) -> dict[str, Any]:
        """Returns the plain data from which the classifier can be made again.

        Raises:
            SettingError: If there are none.
        """
        if self.architecture is None:
            raise SettingError(
                "an exported program, or a module of your own, cannot be described and so not be saved in a "
                "pair; save the restorer alone and put it in front of the classifier again"
            )
        fitted = {} if self.fit == SQUASHED else {"fit": str(self.fit)}
        return self.architecture | fitted

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"size={self.size}" + ("" if self.fit == SQUASHED else f", fit={self.fit}")

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, size, size) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract or is of another size.
            SettingError: If the classifier returns no logits.
        """
        normalized = self.normalization(images)
        if images.shape[-2:] != (self.size, self.size):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, this classifier reads "
                f"{self.size}x{self.size}; load or resize them at that size"
            )
        output = self.body(normalized)
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise SettingError(
                f"the classifier returns {type(output).__name__}, not logits (N, classes); wrap it in a "
                "module that returns them"
            )
        return logits


def exported_classifier(
    path: str | Path,
    *,
    size: int | None = None,
    mean: Channels = NO_MEAN,
    std: Channels = NO_STD,
    fit: Fit = SQUASHED,
) -> PreparedClassifier:
    """Returns a program that `torch.export.save` wrote; it can be fused, but not be saved again.

    Reading such a file may run what it holds: open only those that you trust.

    Args:
        path: The file, conventionally .pt2. It reads one batch of images, of any number of images.
        size: Height and width of the images in pixels, or None for those that it was exported with.
        mean: What is to be subtracted from each channel; nothing if the program does so itself.
        std: What each channel is then to be divided by.
        fit: How photographs become squares before it reads them.

    Raises:
        CheckpointError: If the file is missing or damaged.
        SettingError: If the program reads anything but batches of square RGB images of the size.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        state = "is damaged or no exported program" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {state}; write it with torch.export.save")
    try:
        program = read_program(path)
    except Exception as error:  # the reader of the library raises whatever its parts do
        raise CheckpointError(
            f"{path} is damaged or no exported program; write it with torch.export.save"
        ) from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shape = tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()
    fixed = [side if isinstance(side, int) else None for side in shape]  # None: of any length
    side = size or (fixed[-1] if fixed else None)
    if len(fixed) != 4 or fixed[0] is not None or side is None or {*fixed[2:]} - {None, side}:
        raise SettingError(
            f"{path} reads inputs of shape {shape}; export it for one input (N, 3, S, S) with a dynamic N, "
            "and give a size that it reads"
        )
    body = _ExportedBody(program.module())
    return PreparedClassifier(body, size=side, mean=mean, std=std, fit=fit).eval()


def classifier_of(module: nn.Module) -> nn.Module:
    """Returns the classifier of a pair, whatever it stands behind; of anything else, the module itself."""
    while isinstance(module, FusedClassifier):
        module = module.classifier
    return module


def names_of(body: nn.Module) -> tuple[str, ...]:
    """Returns the names of the classes by number that a net of transformers was given, if it is one."""
    labels = getattr(getattr(body, "config", None), "id2label", None) or {}
    names = tuple(str(labels[number]) for number in sorted(labels))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


class _ExportedBody(nn.Module):
    """An exported program as a module: it has but one mode, and refuses to be told."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Any:
        return self.program(images)
