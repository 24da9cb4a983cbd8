"""Classifiers: the sign net of [21], any net behind its own normalisation, and fused classifiers.

An image is restored in [0, 1], at the resolution that the classifier reads and before its normalisation, so
whatever stands behind a restorer must read such images. Any module can be prepared so, an exported program
too.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.nn import functional as F

from steadylens.errors import CheckpointError, ImageError, SettingError
from steadylens.images.preprocessing import Preprocessing, PreprocessingOptions
from steadylens.images.tensors import GREY_LEVELS, SQUASHED, check_images
from steadylens.nets.facts import CLASSIFYING, facts_of


class FusedClassifier(nn.Module):
    """A restorer whose output is the input of a classifier, as one module (Sec. 4.2).

    Every row of Table 4 is this class with another restorer: `nn.Identity()`, `GaussianSmoothing()` or a
    trained `RestorationNet`. The classifier's own normalisation comes behind the restorer, as the
    classifier's first layer.

    A frozen restorer is not trained: its parameters get no gradient, and it runs in eval mode even while the
    pair is in train mode. The modules themselves stay as they are given: neither `requires_grad` nor the mode
    is changed here.

    Args:
        restorer: Any module from images (N, C, H, W) in [0, 1] to such images.
        classifier: Any module from such images to logits (N, classes).
        frozen: Whether the restorer stays as it is while the pair is trained; can be changed later by the
            attribute of that name.

    Raises:
        SettingError: If one of the two is no module.

    Example:
        >>> import torch
        >>> from steadylens import GaussianSmoothing, SignNet
        >>> fused = FusedClassifier(GaussianSmoothing(), SignNet(classes=43)).eval()
        >>> fused(torch.rand(1, 3, 48, 48)).shape
        torch.Size([1, 43])
    """

    kind = "FusedClassifier"
    task = CLASSIFYING
    purpose = "A restorer in front of a classifier."

    def __init__(self, restorer: nn.Module, classifier: nn.Module, *, frozen: bool = True) -> None:
        super().__init__()
        parts: tuple[object, ...] = (restorer, classifier)
        for part in parts:  # a damaged file may give anything
            if not isinstance(part, nn.Module):
                raise SettingError(f"a {type(part).__name__} is no part of a pair; wrap it in an nn.Module")
        self.restorer, self.classifier, self.frozen = restorer, classifier, frozen

    @property
    def channels(self) -> int:
        """Channels of the images: those of the restorer."""
        return facts_of(self.restorer).channels

    @property
    def minimum_size(self) -> int:
        """The smallest height and width that the restorer reads."""
        return facts_of(self.restorer).minimum_size

    @property
    def input_size(self) -> int | None:
        """Height and width of the images that the classifier reads, if it tells."""
        return facts_of(self.classifier).input_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classifier's classes by number, if it knows them."""
        return facts_of(self.classifier).class_names or names_of(self.classifier)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the classifier wants to be done to photographs, if it tells."""
        return facts_of(self.classifier).preprocessing

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a pair like this one: its two nets."""
        return {"restorer": self.restorer, "classifier": self.classifier}

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of both; a frozen restorer stays in eval mode."""
        self.training = mode
        self.classifier.train(mode)
        self.restorer.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, C, H, W) in [0, 1]."""
        return self.classifier(self._restored(images))  # type: ignore[no-any-return]

    def _restored(self, images: Tensor) -> Tensor:
        if not self.frozen or torch.compiler.is_compiling():
            return self.restorer(images)  # type: ignore[no-any-return]
        weights = dict(self.restorer.named_parameters())
        learning = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights.values())
        with evaluating(self.restorer):
            if not learning:
                return self.restorer(images)  # type: ignore[no-any-return]
            # The gradient with respect to the images still passes, which attacks on the pair need.
            detached = {name: weight.detach() for name, weight in weights.items()}
            return functional_call(self.restorer, detached, (images,))  # type: ignore[no-any-return]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode while it is measured; each of its parts gets its own mode back."""
    modes = {part: part.training for part in module.modules() if part.training}
    if not modes:  # as nearly always: then nothing is touched, and threads may share the module
        yield
        return
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def read_program(path: Path) -> ExportedProgram:
    """Returns a program that `torch.export.save` wrote; reading it may run what it holds.

    It changes Python's warning filters while it runs.

    Raises:
        Exception: Whatever PyTorch raises on a file that is none.
    """
    with warnings.catch_warnings():
        # Older PyTorch (2.11) makes tensors of bytes, which it then copies.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return torch.export.load(path)


SIGN_SIZE = 48
"""Height and width in pixels of the images that the sign net reads."""

LEAKY_SLOPE = 0.01

LEAST_VARIANCE = 1e-4
"""What is added to an image's variance, so that one of a single colour is not divided by zero."""


class ChannelNormalization(nn.Module):
    """Subtracts a mean and divides by a deviation, channel by channel: the first layer of a classifier.

    A classifier that begins with it reads plain images in [0, 1], as every restorer writes them.

    Args:
        mean: Mean of each channel, for images in [0, 1].
        std: Standard deviation of each channel, positive.

    Raises:
        SettingError: If the two differ in length, a number is not finite, or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        finite = all(map(math.isfinite, (*mean, *std)))
        if len(mean) != len(std) or not finite or not all(deviation > 0 for deviation in std):
            raise SettingError(
                f"mean {tuple(mean)} and std {tuple(std)} must be as long and finite, and std positive"
            )
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the normalised images, (N, C, H, W)."""
        check_images(images, channels=self.mean.shape[1])
        return (images - self.mean) / self.std


class SignNet(nn.Module):
    """The traffic-sign classifier of [21]: 1,123,449 parameters for 43 classes.

    Its own normalisation is inside. The published one subtracts the per-pixel mean image of the training set,
    which is mid-grey until `fit_mean` is called, and scales grey levels by 1/256. The other brings each image
    to a mean of 0 and a deviation of 1, so that its light and its contrast no longer matter.

    Args:
        classes: Number of classes, at least 2.
        standardize: Whether to bring each image to mean 0 and deviation 1, not to subtract the mean image.

    Raises:
        SettingError: If `classes` is below 2.

    Example:
        >>> import torch
        >>> SignNet(classes=43).eval()(torch.rand(2, 3, 48, 48)).shape
        torch.Size([2, 43])
    """

    kind = "SignNet"
    task = CLASSIFYING
    input_size = SIGN_SIZE
    mean: Tensor

    def __init__(self, classes: int = 43, *, standardize: bool = False) -> None:
        super().__init__()
        if classes < 2:
            raise SettingError(f"classes is {classes}, a classifier needs at least 2")
        self.classes, self.standardize = classes, standardize
        self.register_buffer("mean", torch.full((3, SIGN_SIZE, SIGN_SIZE), 0.5))
        self.features = nn.Sequential(
            nn.Conv2d(3, 3, 1, groups=3),
            *_block(3, 100, kernel=7, groups=1),  # 48 -> 42 -> 21
            *_block(100, 150, kernel=4, groups=2),  # 21 -> 18 -> 9
            *_block(150, 250, kernel=4, groups=2),  # 9 -> 6 -> 3
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(250 * 3 * 3, 300),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Dropout(0.5),
            nn.Linear(300, classes),
        )
        # A CPU runs grouped convolutions three times faster in this layout.
        self.to(memory_format=torch.channels_last)

    @property
    def purpose(self) -> str:
        """What the net does, in one sentence."""
        return f"A classifier of {self.classes} traffic signs on images of {SIGN_SIZE}x{SIGN_SIZE} pixels."

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a net like this one."""
        return {"classes": self.classes, "standardize": self.standardize}

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"classes={self.classes}, standardize={self.standardize}"

    def fit_mean(self, images: Tensor) -> None:
        """Takes the per-pixel mean of stored training images, uint8 (N, 3, 48, 48), as its own.

        Raises:
            ImageError: If the images are of another type or size.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != self.mean.shape:
            raise ImageError(
                f"the mean image is taken of uint8 images (N, 3, 48, 48), these are {images.dtype} "
                f"{tuple(images.shape)}; load the data at size 48"
            )
        # Summing 8-bit values in int64 is exact and needs no float copy of the whole set.
        self.mean.copy_(images.sum(dim=0, dtype=torch.int64).double() / len(images) / GREY_LEVELS)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, 48, 48) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract or is not 48x48.
        """
        check_images(images, channels=3)
        if images.shape[-2:] != (SIGN_SIZE, SIGN_SIZE):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, the sign net reads "
                f"{SIGN_SIZE}x{SIGN_SIZE}; resize them"
            )
        maps = F.conv2d(self._normalized(images), *self._first_weights())
        return self.head(self.features[2:](maps))  # type: ignore[no-any-return]

    def _normalized(self, images: Tensor) -> Tensor:
        if self.standardize:
            return F.layer_norm(images, images.shape[1:], eps=LEAST_VARIANCE)
        return (images - self.mean) * (GREY_LEVELS / 256)

    def _first_weights(self) -> tuple[Tensor, Tensor]:
        """Returns the weights and biases of the one convolution that the first two amount to.

        Nothing stands between the two, so the first but scales the second's weights and adds to its biases. A
        training then needs no gradient with respect to the images, the dearest of all its gradients.
        """
        scale, shift, weight, bias = (
            self.get_parameter(f"features.{layer}.{name}") for layer in (0, 1) for name in ("weight", "bias")
        )
        return weight * scale.view(1, -1, 1, 1), bias + weight.sum(dim=(2, 3)) @ shift


def _block(maps_in: int, maps_out: int, *, kernel: int, groups: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(maps_in, maps_out, kernel, groups=groups),
        # The activation rises everywhere, so it may follow the pooling, which leaves a quarter of the values.
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.LeakyReLU(LEAKY_SLOPE),
    )


class PreparedClassifier(nn.Module):
    """A classifier behind its own normalisation: images in [0, 1] -> logits.

    Args:
        body: The classifier proper, from normalised images (N, 3, size, size) to logits (N, classes) or to an
            object with such `logits`.
        preprocessing: What it wants to be done to photographs: the size that it reads, its mean and
            deviation, and how a photograph becomes a square.
        class_names: Names of its classes by number; if none are given, those that a classifier of
            transformers bears.
        architecture: Plain data from which `rebuild` makes the classifier again, its library as `kind`; None
            if it cannot be described, and then it cannot be saved.

    Example:
        >>> import torch
        >>> from steadylens import Preprocessing
        >>> body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> preprocessing = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> PreparedClassifier(body, preprocessing)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """

    task = CLASSIFYING
    purpose = "A classifier of another library behind its own normalisation."

    def __init__(
        self,
        body: nn.Module,
        preprocessing: Preprocessing,
        *,
        class_names: Sequence[str] = (),
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.fit = preprocessing.size, preprocessing.fit
        self.class_names = tuple(class_names) or names_of(body)
        self.architecture = None if architecture is None else dict(architecture)
        self.normalization = ChannelNormalization(preprocessing.mean, preprocessing.std)
        self.body = body

    @property
    def kind(self) -> str:
        """The name of its library, as files have it."""
        return "none" if self.architecture is None else str(self.architecture["kind"])

    @property
    def preprocessing(self) -> Preprocessing:
        """What it wants to be done to photographs; mean and deviation are those that it computes with."""
        mean, std = self.normalization.mean.flatten(), self.normalization.std.flatten()
        return Preprocessing(
            size=self.input_size, mean=tuple(mean.tolist()), std=tuple(std.tolist()), fit=self.fit
        )

    def prepared_for(self, options: PreprocessingOptions) -> "PreparedClassifier":
        """Returns the classifier with what is said here of its preprocessing; its body stays shared."""
        preprocessing = options.over(self.preprocessing)
        if preprocessing == self.preprocessing:
            return self
        return PreparedClassifier(
            self.body, preprocessing, class_names=self.class_names, architecture=self.architecture
        ).train(self.training)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that make a classifier like this one.

        Raises:
            SettingError: If there are none.
        """
        if self.architecture is None:
            raise SettingError(
                "an exported program, or a module of your own, cannot be described and so not be saved in a "
                "pair; save the restorer alone and put it in front of the classifier again"
            )
        fitted = {} if self.fit == SQUASHED else {"fit": str(self.fit)}
        return {name: value for name, value in self.architecture.items() if name != "kind"} | fitted

    def extra_repr(self) -> str:
        """Returns the settings, for the printed form of the net."""
        return f"size={self.input_size}" + ("" if self.fit == SQUASHED else f", fit={self.fit}")

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, size, size) in [0, 1].

        Raises:
            ImageError: If the batch breaks the image contract or is of another size.
            SettingError: If the classifier returns no logits.
        """
        normalized = self.normalization(images)
        if images.shape[-2:] != (self.input_size, self.input_size):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, this classifier reads "
                f"{self.input_size}x{self.input_size}; load or resize them at that size"
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
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
) -> PreparedClassifier:
    """Returns a program that `torch.export.save` wrote; it can be fused, but not be saved again.

    Reading such a file may run what it holds: open only those that you trust.

    Args:
        path: The file, conventionally .pt2. It reads one batch of images, of any number of images.
        options: The size of the images, by default the one that it was exported with; mean and deviation,
            by default none, for a program that normalises by itself; and the fit, by default squashing.

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
    side = options.size or (fixed[-1] if fixed else None)
    if len(fixed) != 4 or fixed[0] is not None or side is None or {*fixed[2:]} - {None, side}:
        raise SettingError(
            f"{path} reads inputs of shape {shape}; export it for one input (N, 3, S, S) with a dynamic N, "
            "and give a size that it reads"
        )
    body = _ExportedBody(program.module())
    return PreparedClassifier(body, options.over(Preprocessing(size=side))).eval()


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
