"""Loads nets: those that ship with the package, files, and classifiers of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import nn

from steadylens.checkpoints.checkpoint import SUFFIX, load_model
from steadylens.checkpoints.info import TrainingInfo
from steadylens.errors import SettingError, SteadylensError
from steadylens.images.preprocessing import Fit, PreprocessingOptions
from steadylens.nets.classification import (
    SIGN_SIZE,
    FusedClassifier,
    PreparedClassifier,
    exported_classifier,
)
from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of
from steadylens.nets.third_party import timm_classifier, torchvision_classifier, transformers_classifier

LICENCE = "MIT"
"""The licence of the package and of the weights that come with it."""

PRETRAINED = (
    "l11-gtsrb", "l9-gtsrb", "l7-gtsrb", "l5-gtsrb", "l3-gtsrb", "dong-gtsrb", "sign-gtsrb", "fused-gtsrb"
)  # fmt: skip
"""The nets that ship with the package: the restorers of Table 1, the sign net, and L11 fused with it."""

_LIBRARIES = ", or timm:NAME, torchvision:NAME, transformers:DIR, or a file that ends in .pt2"

_WANTED = {
    RESTORING: "restorer is needed; name one as l11-gtsrb",
    CLASSIFYING: "classifier is needed; name one as sign-gtsrb",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedNet:
    """A net that is ready for use, with what is known of it.

    Attributes:
        name: What to call it in tables.
        module: The net, in eval mode on the CPU.
        info: How it came about, as its file tells.
        known_as: What files of nets that are made from it call it; by default its name.
    """

    name: str
    module: nn.Module
    info: TrainingInfo = field(default_factory=TrainingInfo)
    known_as: str = ""

    @property
    def task(self) -> str | None:
        """`RESTORING`, `CLASSIFYING`, or None if the net does not tell."""
        return facts_of(self.module).task

    @property
    def size(self) -> int:
        """Height and width in pixels of the images that it reads; those of signs where any will do."""
        return facts_of(self.module).input_size or SIGN_SIZE

    @property
    def fit(self) -> Fit:
        """How photographs become squares before a classifier reads them."""
        preprocessing = facts_of(self.module).preprocessing
        return self.info.fit if preprocessing is None else preprocessing.fit

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by number: of those that it was trained on, else of those that it knows."""
        return self.info.classes or facts_of(self.module).class_names

    @property
    def seconds(self) -> float:
        """Time that training it and what it was made from took, as far as its file tells."""
        return (self.info.seconds or 0.0) + self.info.seconds_before

    @property
    def origin(self) -> Mapping[str, str]:
        """What a file of a net that is made from it says of it: name, data and licence."""
        if not self.name:
            return {}
        told = {
            "name": self.known_as or self.name,
            "data": ", ".join(self.info.sources),
            "licence": self.info.licence,
        }
        return {key: text for key, text in told.items() if text}

    def before(self, classifier: "LoadedNet") -> "LoadedNet":
        """Returns the pair of this restorer and the classifier, as they are."""
        before = classifier.info.seconds_before + self.seconds
        return replace(
            classifier,
            name=f"behind {self.name}",
            module=FusedClassifier(self.module, classifier.module).eval(),
            info=replace(classifier.info, seconds_before=before),
        )

    def pair(self) -> FusedClassifier:
        """Returns the net as the pair that it is.

        Raises:
            SettingError: If it is none.
        """
        if not isinstance(self.module, FusedClassifier):
            raise SettingError(
                f"{self.name} holds a {type(self.module).__name__}, no fused classifier; write one with "
                "steadylens fuse"
            )
        return self.module


def load(name: str | Path) -> nn.Module:
    """Returns a trained net that is ready for use; nothing is downloaded.

    Args:
        name: One of `PRETRAINED`, or the path of a .safetensors file that `save_model` wrote.

    Returns:
        The net in eval mode, float32, on the CPU. A restorer maps images to images, a classifier images
        to logits; `card(name).classes` names a classifier's classes.

    Raises:
        SettingError: If there is no net of that name.
        CheckpointError: If the file is missing or damaged, or its weights do not fit their checksum.

    Example:
        >>> import torch
        >>> import steadylens
        >>> steadylens.load("l5-gtsrb")(torch.rand(1, 3, 60, 80)).shape
        torch.Size([1, 3, 60, 80])
    """
    return load_net(name).module


def load_net(source: str | Path, *, task: str | None = None, further: str = "") -> LoadedNet:
    """Loads a net that this package wrote: a packaged one by name, or one from a file.

    Args:
        source: One of `PRETRAINED`, or a file, as `save_model` writes it.
        task: `RESTORING` or `CLASSIFYING` if no other net will do.
        further: What else may be given where the net is asked for, for the error.

    Raises:
        SettingError: If there is no such net, or it has another task.
        CheckpointError: If the file cannot be read.
    """
    path = Path(source)
    if str(source) in PRETRAINED:
        name = str(source)
        with as_file(files("steadylens") / "weights" / f"{name}{SUFFIX}") as packaged:
            module, about = load_model(packaged)
        about = {"licence": LICENCE, **about}
    elif path.is_file() or path.suffix == SUFFIX:
        name = path.stem
        module, about = load_model(path)
    else:
        raise SettingError(
            f"there is no net {str(source)!r}; give a {SUFFIX} file or one of "
            f"{', '.join(PRETRAINED)}{further}"
        )
    found = facts_of(module).task
    if task is not None and found != task:
        raise SettingError(
            f"{source} holds a {type(module).__name__}, where a {_WANTED[task]}{further} or a file"
        )
    return LoadedNet(name=name, module=module, info=TrainingInfo.of_plain(about, name=name))


def load_classifier(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
) -> LoadedNet:
    """Loads a classifier, of whatever library.

    Args:
        source: `timm:NAME`, `torchvision:NAME`, `transformers:DIR`, the file of an exported program that ends
            in .pt2, a packaged name such as sign-gtsrb, or the file of a net that this package wrote.
        weights: Local file of the weights, for timm and torchvision, which have none of their own here.
        options: What is to be done to images otherwise than the classifier tells.

    Raises:
        MissingExtraError: If the library is not installed.
        SettingError: If there is no such classifier, or it cannot be used as it is asked for.
        CheckpointError: If a file or folder cannot be read.
    """
    scheme, _, place = str(source).partition(":")
    makers: dict[str, Callable[..., PreparedClassifier]] = {
        "timm": timm_classifier,
        "torchvision": torchvision_classifier,
    }
    size, fit = options.size, options.fit
    if place and scheme in makers:
        if weights is None:
            raise SettingError(
                f"{source} has random weights; give its own by --weights FILE, nothing is downloaded"
            )
        module = makers[scheme](place, weights=weights, size=size, fit=fit)
    elif place and scheme == "transformers":
        _refuse_weights(source, weights)
        module = transformers_classifier(Path(place).expanduser(), fit=fit)
    elif str(source).endswith(".pt2"):
        _refuse_weights(source, weights)
        module = exported_classifier(Path(source), PreprocessingOptions(size=size, fit=fit))
    else:
        own = _own_classifier(source, options)
        _refuse_weights(source, weights)
        return own
    if size not in (None, module.input_size):
        raise SettingError(
            f"{source} reads images of {module.input_size} pixels; leave out the size of {size}"
        )
    known_as = f"{scheme}:{Path(place).name}" if place else Path(source).name
    return _checked(LoadedNet(name=str(source), module=module.prepared_for(options), known_as=known_as))


def count_classes(opened: LoadedNet) -> int:
    """Returns how many classes a classifier tells apart."""
    tensors = [*opened.module.parameters(), *opened.module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    with torch.inference_mode():
        return int(opened.module(torch.zeros(1, 3, opened.size, opened.size, device=device)).shape[1])


def check_classes(opened: LoadedNet, class_names: Sequence[str], data: str) -> None:
    """Refuses a classifier that tells another number of classes apart than the data has.

    Args:
        opened: The classifier.
        class_names: The classes of the data.
        data: What to call the data.

    Raises:
        SettingError: If the numbers differ.
    """
    if (classes := count_classes(opened)) != len(class_names):
        raise SettingError(
            f"{opened.name} tells {classes} classes apart, {data} has {len(class_names)}; use it with the "
            "data that it was trained for"
        )


def check_order(opened: LoadedNet, class_names: Sequence[str], data: str) -> None:
    """Refuses a classifier that numbers classes otherwise than the data does.

    Names that only one of the two knows say nothing: a library may call a class otherwise than a folder.

    Raises:
        SettingError: If a name that both know has two numbers.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    moved = [n for n, name in enumerate(opened.class_names) if numbers.get(name, n) != n]
    if moved and (first := moved[0]) < len(class_names):
        raise SettingError(
            f"class {first} is {opened.class_names[first]!r} for {opened.name} and {class_names[first]!r} in "
            f"{data}, which sorts folders by name; rename them so that they sort as the classifier counts"
        )


def _refuse_weights(source: str | Path, weights: str | Path | None) -> None:
    if weights is not None:
        raise SettingError(f"{source} brings its own weights; leave out {weights}")


def _own_classifier(source: str | Path, options: PreprocessingOptions) -> LoadedNet:
    loaded = load_net(source, task=CLASSIFYING, further=_LIBRARIES)
    if (options.size, options.mean, options.std) != (None, None, None):
        raise SettingError(f"{source} brings its own size, mean and deviation; leave them out")
    if (fit := options.fit) is None:
        return loaded
    fit.check_size(loaded.size)
    fit = fit.simplest(loaded.size)
    for part in loaded.module.modules():
        if isinstance(part, PreparedClassifier):
            part.fit = fit  # it is written with the pair
    return replace(loaded, info=replace(loaded.info, fit=fit))


def _checked(opened: LoadedNet) -> LoadedNet:
    """Tries the classifier on one image, so that what it cannot do is told before anything else is done."""
    try:
        with torch.inference_mode():
            opened.module(torch.zeros(1, 3, opened.size, opened.size))
    except SteadylensError:
        raise
    except Exception as error:  # whatever a foreign net raises
        reason = " ".join(str(error).split())
        raise SettingError(
            f"{opened.name} does not classify images of {opened.size}x{opened.size} pixels: {reason}; give "
            "another size"
        ) from error
    return opened
