"""Classifiers: the sign net of [21], any other model with its normalisation, and a restorer in front of one.

A restorer works on images in [0, 1], at the classifier's input size and before its normalisation. So a
classifier behind a restorer must normalise by itself: `PreparedClassifier` adds that to any module.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from steadylens.devices import evaluating
from steadylens.errors import ImageError, SettingError
from steadylens.images.preprocessing import Fit, Preprocessing, PreprocessingOptions, check_normalization
from steadylens.images.tensors import GREY_LEVELS, SQUASHED, accepting_any_range, check_images
from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of


class FusedClassifier(nn.Module):
    """A restorer followed by a classifier, as one module (Sec. 4.2).

    Every row of Table 4 is this class with another restorer: `nn.Identity()`, `GaussianSmoothing()` or a
    trained `RestorationNet`. The classifier normalises its input by itself, in its first layer.

    A frozen restorer is not trained: its parameters get no gradient, and it runs in eval mode even while the
    pair is in train mode. The two modules are not changed: their `requires_grad` and their mode stay as they
    were.

    Args:
        restorer: Any module from images (N, C, H, W) in [0, 1] to restored images of the same shape.
        classifier: Any module from such images to logits (N, classes), or to an object with such an
            attribute `logits`.
        frozen: Whether the restorer keeps its weights and its BatchNorm statistics while the pair is trained.
            The attribute `frozen` can be changed later.

    Raises:
        SettingError: If one of the two is no module, or has the other's `task`.

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
        for part, wrong, place in (
            (restorer, CLASSIFYING, "restorer"),
            (classifier, RESTORING, "classifier"),
        ):
            if getattr(part, "task", None) == wrong:  # Identity has none: it may stand for either
                is_one, name = "classifier" if wrong == CLASSIFYING else "restorer", type(part).__name__
                raise SettingError(
                    f"{name} is a {is_one} and was given as the {place}; give "
                    "FusedClassifier(restorer, classifier)"
                )
        self.restorer, self.classifier, self.frozen = restorer, classifier, frozen

    @property
    def channels(self) -> int:
        """Number of channels of the restorer's input."""
        return facts_of(self.restorer).channels

    @property
    def minimum_size(self) -> int:
        """The smallest height and width that the restorer accepts."""
        return facts_of(self.restorer).minimum_size

    @property
    def input_size(self) -> int | None:
        """Height and width in pixels of the classifier's input, or None if any size will do."""
        return facts_of(self.classifier).input_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classifier's classes, in the order of its logits; empty if they are not known."""
        return facts_of(self.classifier).class_names or transformers_class_names(self.classifier)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Size, mean, std and fit of the classifier, or None if they are not known."""
        return facts_of(self.classifier).preprocessing

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: the two nets, and `frozen` unless it is the usual one."""
        thawed = {} if self.frozen else {"frozen": False}
        return {"restorer": self.restorer, "classifier": self.classifier, **thawed}

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of both nets; a frozen restorer is put into eval mode."""
        self.training = mode
        self.classifier.train(mode)
        self.restorer.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, C, H, W) in [0, 1].

        The classifier gets the restored images whatever their range: on odd images a restorer may leave
        [0, 1] by much, and its answer to them is what the pair is measured by.

        Raises:
            ImageError: If the images are no float batch (N, C, H, W), or lie far outside [0, 1].
            SettingError: If the classifier does not return logits of at least two classes.
        """
        if torch.compiler.is_compiling():  # ranges are not looked at there
            return check_logits(self.classifier(self.restored(images)))
        check_images(images)  # not every restorer does
        restored = self.restored(images)
        with accepting_any_range():
            return check_logits(self.classifier(restored))

    def restored(self, images: Tensor) -> Tensor:
        """Returns the restored images, (N, C, H, W), that the classifier reads."""
        if not self.frozen or torch.compiler.is_exporting():
            return self.restorer(images)  # type: ignore[no-any-return]
        with evaluating(self.restorer):
            if not images.requires_grad:  # the usual case: threads can share the restorer
                with torch.no_grad():
                    return self.restorer(images)  # type: ignore[no-any-return]
            # The gradient with respect to the images is still computed: adversarial attacks need it.
            detached = {name: weight.detach() for name, weight in self.restorer.named_parameters()}
            return functional_call(self.restorer, detached, (images,))  # type: ignore[no-any-return]


def as_pair(net: nn.Module) -> FusedClassifier:
    """Returns a pair of a restorer and a classifier; an `nn.Sequential` of the two becomes one.

    Raises:
        SettingError: If the net is no pair.
    """
    if isinstance(net, FusedClassifier):
        return net
    if isinstance(net, nn.Sequential) and len(net) == 2:
        front, behind = net
        if facts_of(front).task != CLASSIFYING and facts_of(behind).task != RESTORING:
            return FusedClassifier(front, behind)
    raise SettingError(
        f"a {type(net).__name__} is no pair of a restorer and a classifier; give "
        "FusedClassifier(restorer, classifier)"
    )


SIGN_SIZE = 48
"""Height and width in pixels of the sign net's input."""

LEAKY_SLOPE = 0.01

VARIANCE_EPSILON = 1e-4
"""Added to an image's variance, so that an image of one colour causes no division by zero."""


class ChannelNormalization(nn.Module):
    """Subtracts a mean from each channel and divides by a standard deviation.

    As the first layer of a classifier it lets the classifier read images in [0, 1], the range of every
    restorer's output.

    Args:
        mean: Mean of each channel, for images in [0, 1].
        std: Standard deviation of each channel, positive.

    Raises:
        SettingError: If the two differ in length, a number is not finite, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check_normalization(mean, std)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the normalised images, (N, C, H, W)."""
        check_images(images, channels=self.mean.shape[1])
        return (images - self.mean) / self.std


class SignNet(nn.Module):
    """The traffic-sign classifier of [21]: 1,123,449 parameters for 43 classes.

    It normalises its input by itself, in one of two ways. The published way subtracts the mean image of the
    training set, which is mid-grey until `fit_mean` is called, and divides grey levels by 256. The other way
    standardizes each image to mean 0 and standard deviation 1, so that brightness and contrast do not matter.

    Args:
        classes: Number of classes, at least 2.
        standardize: Whether to standardize each image instead of subtracting the mean image.
        width: Factor on the number of feature maps, for a larger net of the same form.

    Raises:
        SettingError: If `classes` is below 2, or `width` is too small or not finite.

    Example:
        >>> import torch
        >>> SignNet(classes=43).eval()(torch.rand(2, 3, 48, 48)).shape
        torch.Size([2, 43])
    """

    kind = "SignNet"
    task = CLASSIFYING
    input_size = SIGN_SIZE
    mean: Tensor

    def __init__(self, classes: int = 43, *, standardize: bool = False, width: float = 1.0) -> None:
        super().__init__()
        if classes < 2:
            raise SettingError(f"classes is {classes}, a classifier needs at least 2")
        if not 0.05 <= width < math.inf:
            raise SettingError(f"width is {width}, a factor on the number of maps; it must be at least 0.05")
        self.classes, self.standardize, self.width = classes, standardize, width
        # Even numbers, as two groups share them.
        first, second, third, hidden = (2 * round(maps * width / 2) for maps in (100, 150, 250, 300))
        self.register_buffer("mean", torch.full((3, SIGN_SIZE, SIGN_SIZE), 0.5))
        self.features = nn.Sequential(
            nn.Conv2d(3, 3, 1, groups=3),
            *_block(3, first, kernel=7, groups=1),  # 48 -> 42 -> 21
            *_block(first, second, kernel=4, groups=2),  # 21 -> 18 -> 9
            *_block(second, third, kernel=4, groups=2),  # 9 -> 6 -> 3
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(third * 3 * 3, hidden),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )
        # Grouped convolutions run three times faster on a CPU in this memory format.
        self.to(memory_format=torch.channels_last)

    @property
    def purpose(self) -> str:
        """One sentence for model cards, with the number of classes."""
        return f"A classifier of {self.classes} traffic signs on images of {SIGN_SIZE}x{SIGN_SIZE} pixels."

    def config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from which the net is built again when it is loaded."""
        wider = {} if self.width == 1 else {"width": self.width}
        return {"classes": self.classes, "standardize": self.standardize, **wider}

    def extra_repr(self) -> str:
        """Settings in the repr of the net."""
        return ", ".join(f"{name}={value}" for name, value in self.config().items())

    def fit_mean(self, images: Tensor) -> None:
        """Sets the mean image, the mean of each pixel over the training images.

        Args:
            images: Training images, uint8 (N, 3, 48, 48).

        Raises:
            ImageError: If the images have another dtype or size.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != self.mean.shape:
            raise ImageError(
                f"the mean image is computed from uint8 images (N, 3, 48, 48), these are {images.dtype} "
                f"{tuple(images.shape)}; load the data at size 48"
            )
        # Sums in int64 are exact; in parts, they need no copy of the whole training set.
        sums = [some.sum(dim=0, dtype=torch.int64) for some in torch.split(images, 1000)]
        self.mean.copy_(torch.stack(sums).sum(dim=0).double() / len(images) / GREY_LEVELS)

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
            return F.layer_norm(images, images.shape[1:], eps=VARIANCE_EPSILON)
        return (images - self.mean) * (GREY_LEVELS / 256)

    def _first_weights(self) -> tuple[Tensor, Tensor]:
        """Merges the first two convolutions into one; returns its weights and biases.

        The first is 1x1 and depthwise, and no activation follows, so it only scales the second's weights and
        shifts its biases. Training the merged form needs no gradient with respect to the images, which would
        be the most expensive one.
        """
        scale, shift, weight, bias = (
            self.get_parameter(f"features.{layer}.{name}") for layer in (0, 1) for name in ("weight", "bias")
        )
        return weight * scale.view(1, -1, 1, 1), bias + weight.sum(dim=(2, 3)) @ shift


def _block(maps_in: int, maps_out: int, *, kernel: int, groups: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(maps_in, maps_out, kernel, groups=groups),
        # The activation is increasing, so max pooling first gives the same result with a quarter of the work.
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.LeakyReLU(LEAKY_SLOPE),
    )


GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey, of Rec. 601, as in Pillow's mode L."""


class PreparedClassifier(nn.Module):
    """Any classifier together with its normalisation: images in [0, 1] -> logits.

    Args:
        body: The classifier, from normalised images (N, C, size, size) to logits (N, classes) or to an object
            with such an attribute `logits`. C is the length of the mean, 3 for RGB or 1 for grey.
        preprocessing: How photographs are prepared for it: input size, mean and std, and how a photograph
            becomes a square.
        class_names: Names of its classes, in the order of the logits. By default those in the config of a
            transformers model.
        architecture: Plain data from which `rebuild` makes the classifier again, with its library as `kind`;
            None for a classifier that cannot be saved.

    Example:
        >>> import torch
        >>> from steadylens import Preprocessing
        >>> body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> preprocessing = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> PreparedClassifier(body, preprocessing)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """

    task = CLASSIFYING
    purpose = "A classifier of another library, with its normalisation as the first layer."

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
        self.class_names = tuple(class_names) or transformers_class_names(body)
        self.architecture = None if architecture is None else dict(architecture)
        self.normalization = ChannelNormalization(preprocessing.mean, preprocessing.std)
        self.body = body

    @property
    def kind(self) -> str:
        """The name of its library in files, or "none" if it cannot be saved."""
        return "none" if self.architecture is None else str(self.architecture["kind"])

    @property
    def preprocessing(self) -> Preprocessing:
        """Input size, fit, and the mean and std that the normalisation layer holds."""
        mean, std = self.normalization.mean.flatten(), self.normalization.std.flatten()
        return Preprocessing(
            size=self.input_size, mean=tuple(mean.tolist()), std=tuple(std.tolist()), fit=self.fit
        )

    def prepared_for(self, options: PreprocessingOptions) -> "PreparedClassifier":
        """Returns a classifier with some settings of its preprocessing replaced, which shares `body`."""
        preprocessing = options.over(self.preprocessing)
        if preprocessing == self.preprocessing:
            return self
        prepared = PreparedClassifier(
            self.body, preprocessing, class_names=self.class_names, architecture=self.architecture
        )
        prepared.training = self.training  # not by train(), which would set the mode of the shared body
        return prepared

    def config(self) -> dict[str, Any]:
        """Returns the arguments from which `rebuild` makes the classifier again.

        Raises:
            SettingError: If it was made without an `architecture`.
        """
        if self.architecture is None:
            raise SettingError(
                "an exported program, or a module of your own, cannot be saved in a pair; save the restorer "
                "alone and put it in front of the classifier again"
            )
        fitted = {} if self.fit == SQUASHED else {"fit": str(self.fit)}
        return {name: value for name, value in self.architecture.items() if name != "kind"} | fitted

    def extra_repr(self) -> str:
        """Settings in the repr of the net."""
        return f"size={self.input_size}" + ("" if self.fit == SQUASHED else f", fit={self.fit}")

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) for images (N, 3, size, size) in [0, 1].

        A classifier of grey images reads them too, and turns RGB into grey as Pillow does.

        Raises:
            ImageError: If the batch breaks the image contract or has another size.
            SettingError: If the classifier does not return logits of at least two classes.
        """
        check_images(images)
        if images.shape[1] == 3 and self.normalization.mean.shape[1] == 1:
            images = (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        normalized = self.normalization(images)
        if images.shape[-2:] != (self.input_size, self.input_size):
            raise ImageError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, this classifier reads "
                f"{self.input_size}x{self.input_size}; load or resize them at that size"
            )
        return check_logits(self.body(normalized))


def check_logits(output: object) -> Tensor:
    """Returns the logits that a classifier returned, either themselves or as an attribute `logits`.

    Raises:
        SettingError: If there are none, or those of fewer than two classes.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise SettingError(
            f"the classifier returns {type(output).__name__}, not logits (N, classes); wrap it in a "
            "module that returns them"
        )
    if logits.shape[1] < 2:
        raise SettingError(
            f"the classifier returns {logits.shape[1]} logits for an image, at least two classes are needed; "
            "for the one logit z of a yes or no, wrap it in a module that gives torch.cat([0 * z, z], dim=1)"
        )
    return logits


def set_fit(net: nn.Module, fit: Fit) -> None:
    """Sets the fit of every `PreparedClassifier` in a net; a file that is saved afterwards contains it."""
    for part in net.modules():
        if isinstance(part, PreparedClassifier):
            part.fit = fit


def transformers_class_names(body: nn.Module) -> tuple[str, ...]:
    """Returns the class names in the config of a transformers model; empty for any other module."""
    labels = getattr(getattr(body, "config", None), "id2label", None) or {}
    names = tuple(str(labels[number]) for number in sorted(labels))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
