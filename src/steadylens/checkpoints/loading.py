"""Loading of nets: packaged ones by name, files, and classifiers of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import PRETRAINED, SUFFIX, TrainingInfo, load_model, packaged_name
from steadylens.devices import evaluating
from steadylens.errors import SettingError, SteadylensError
from steadylens.images.preprocessing import Fit, PreprocessingOptions
from steadylens.nets.classification import (
    SIGN_SIZE,
    FusedClassifier,
    PreparedClassifier,
    check_logits,
    set_fit,
)
from steadylens.nets.exported import exported_classifier, onnx_classifier
from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of
from steadylens.nets.third_party import timm_classifier, torchvision_classifier, transformers_classifier

_LIBRARIES = ", or timm:NAME, torchvision:NAME, transformers:DIR, or a file that ends in .pt2 or .onnx"

_WANTED = {
    RESTORING: "restorer is needed; give one such as l11-gtsrb",
    CLASSIFYING: "classifier is needed; give one such as sign-gtsrb",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedNet:
    """A net that is ready for use, with the information about its training.

    Attributes:
        name: Its name in tables and messages.
        module: The net, in eval mode.
        info: How it was trained, as far as its file says.
        known_as: Its name in the files of nets that are made from it; by default `name`.
        packaged: Its name in `PRETRAINED`; empty if it is none of those.
    """

    name: str
    module: nn.Module
    info: TrainingInfo = field(default_factory=TrainingInfo)
    known_as: str = ""
    packaged: str = ""

    @property
    def task(self) -> str | None:
        """`RESTORING`, `CLASSIFYING`, or None if it is not known."""
        return facts_of(self.module).task

    @property
    def size(self) -> int:
        """Height and width in pixels of its input images; 48, the size of signs, if it accepts any size."""
        return facts_of(self.module).input_size or SIGN_SIZE

    @property
    def fit(self) -> Fit:
        """How photographs become squares of that size."""
        preprocessing = facts_of(self.module).preprocessing
        return self.info.fit if preprocessing is None else preprocessing.fit

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits: those in its file, or else those in its config."""
        return self.info.classes or facts_of(self.module).class_names

    @property
    def seconds(self) -> float:
        """Time that training took, for this net and those that it was made from, as far as it is known."""
        return (self.info.seconds or 0.0) + self.info.seconds_before

    @property
    def origin(self) -> Mapping[str, str]:
        """Name, data, licence and attribution, for the files of nets that are made from this one."""
        if not self.name:
            return {}
        origin = {
            "name": self.known_as or self.name,
            "data": ", ".join(self.info.sources),
            "licence": self.info.licence,
            "attribution": " ".join(self.info.attributions),
        }
        return {key: text for key, text in origin.items() if text}

    def in_front_of(self, classifier: "LoadedNet") -> "LoadedNet":
        """Returns this restorer followed by a classifier, without any training."""
        before = classifier.info.seconds_before + self.seconds
        pair = FusedClassifier(self.module, classifier.module)
        pair.training = False  # not by eval(), which would set the mode of both nets
        return replace(
            classifier,
            name=f"behind {self.name}",
            module=pair,
            info=replace(classifier.info, seconds_before=before),
            packaged="",
        )

    def pair(self) -> FusedClassifier:
        """Returns `module` as a `FusedClassifier`.

        Raises:
            SettingError: If it is another kind of net.
        """
        if not isinstance(self.module, FusedClassifier):
            raise SettingError(
                f"{self.name} holds a {type(self.module).__name__}, no fused classifier; make one with "
                "steadylens fuse"
            )
        return self.module


def load(name: str | Path) -> nn.Module:
    """Loads a trained net; nothing is downloaded.

    Args:
        name: One of `PRETRAINED`, or the path of a .safetensors file that `save_model` wrote.

    Returns:
        The net in eval mode, float32, on the CPU. A restorer maps images to images, a classifier maps images
        to logits, whose class names are `card(name).classes`.

    Raises:
        SettingError: If there is no net of that name.
        CheckpointError: If the file is missing or damaged, or its checksum does not match.

    Example:
        >>> import torch
        >>> import steadylens
        >>> steadylens.load("l5-gtsrb")(torch.rand(1, 3, 60, 80)).shape
        torch.Size([1, 3, 60, 80])
    """
    _, module, _ = _read(name)
    return module


def load_net(source: str | Path, *, task: str | None = None, alternatives: str = "") -> LoadedNet:
    """Loads a trained net together with the information about its training.

    Args:
        source: One of `PRETRAINED`, or the path of a file that `save_model` wrote.
        task: The task that the net must have, `RESTORING` or `CLASSIFYING`; None for any.
        alternatives: What else the caller accepts, as an ending of the error messages.

    Raises:
        SettingError: If there is no such net, or it has another task.
        CheckpointError: If the file cannot be read.
    """
    name, module, about = _read(source, alternatives)
    found = facts_of(module).task
    if task is not None and found != task:
        raise SettingError(
            f"{source} holds a {type(module).__name__}, where a {_WANTED[task]} or a file{alternatives}"
        )
    info = TrainingInfo.of_plain(about, name=name)
    return LoadedNet(name=name, module=module, info=info, packaged=packaged_name(source))


def load_classifier(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    options: PreprocessingOptions = PreprocessingOptions(),  # noqa: B008 - frozen
    ema: bool | None = None,
) -> LoadedNet:
    """Loads a classifier of this package or of another library.

    Args:
        source: `timm:NAME`, `torchvision:NAME`, `transformers:DIR`, a .pt2 file that `torch.export.save`
            wrote, an .onnx file, a packaged name such as sign-gtsrb, or the file of a net that this package
            wrote.
        weights: Local file of the weights, for timm and torchvision, because nothing is downloaded.
        options: Input size, mean, std or fit, to replace those of the classifier's own preprocessing.
        ema: Whether to take averaged weights from the file of weights; None for those if there are any.

    Raises:
        MissingExtraError: If the library is not installed.
        SettingError: If there is no such classifier, or an option or the weights do not apply to it.
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
        module = makers[scheme](place, weights=weights, size=size, fit=fit, ema=ema)
    elif place and scheme == "transformers":
        _refuse_weights(source, weights)
        module = transformers_classifier(Path(place).expanduser(), fit=fit)
    elif str(source).endswith(".pt2"):
        _refuse_weights(source, weights)
        module = exported_classifier(Path(source), PreprocessingOptions(size=size, fit=fit))
    elif str(source).endswith(".onnx"):
        _refuse_weights(source, weights)
        module = onnx_classifier(Path(source), PreprocessingOptions(size=size, fit=fit))
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


def count_classes(classifier: LoadedNet, images: Tensor | None = None) -> int:
    """Returns the number of a classifier's logits, by running it on one image.

    Args:
        classifier: The classifier.
        images: The image, (1, C, H, W); None for a black one of the size that it reads.

    Raises:
        SettingError: If it does not return logits of at least two classes.
    """
    tensors = [*classifier.module.parameters(), *classifier.module.buffers()]
    shown = torch.zeros(1, 3, classifier.size, classifier.size) if images is None else images
    with torch.inference_mode(), evaluating(classifier.module):
        found = classifier.module(shown.to(tensors[0].device) if tensors else shown)
    try:
        return check_logits(found).shape[1]
    except SettingError as error:
        raise SettingError(f"{classifier.name} is no classifier: {error}") from error


def check_classes(
    classifier: LoadedNet, class_names: Sequence[str], data: str, *, images: Tensor | None = None
) -> None:
    """Refuses a classifier whose number of classes differs from that of the data.

    Args:
        classifier: The classifier.
        class_names: Names of the data's classes.
        data: Name of the data for the error message.
        images: One image of the data, (1, C, H, W); None for a black one of the size that it reads.

    Raises:
        SettingError: If the numbers differ.
    """
    if (classes := count_classes(classifier, images)) != len(class_names):
        raise SettingError(
            f"{classifier.name} tells {classes} classes apart, {data} has {len(class_names)}; use it with "
            "the data that it was trained for"
        )


def check_order(classifier: LoadedNet, class_names: Sequence[str], data: str) -> str:
    """Refuses a classifier whose classes have another order than those of the data.

    Only names that both have are compared, because a library may have other names for the same classes.

    Returns:
        A sentence if the classifier names its classes, but none as the data do; otherwise an empty text.

    Raises:
        SettingError: If a class has another number in the data than in the classifier.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    known = classifier.class_names
    moved = [number for number, name in enumerate(known) if numbers.get(name, number) != number]
    if moved and (first := moved[0]) < len(class_names):
        raise SettingError(
            f"class {first} is {known[first]!r} for {classifier.name} and {class_names[first]!r} in {data}; "
            "give the names in the classifier's order with --class-names FILE, in Python "
            "Selection(class_names=...)"
        )
    if not known or numbers.keys() & set(known):
        return ""
    return (
        f"{classifier.name} and {data} have no class name in common ({known[0]!r}, {class_names[0]!r}), so "
        "it is not known whether their classes have the same order"
    )


def _read(source: str | Path, alternatives: str = "") -> tuple[str, nn.Module, dict[str, Any]]:
    """Returns the name of a net, the net, and the information in its file, which may be of any form."""
    path = Path(source)
    if packaged_name(source) or path.is_file() or path.suffix == SUFFIX:
        module, about = load_model(source)
        return path.stem, module, about
    raise SettingError(
        f"there is no net {str(source)!r}; give a {SUFFIX} file or one of "
        f"{', '.join(PRETRAINED)}{alternatives}"
    )


def _refuse_weights(source: str | Path, weights: str | Path | None) -> None:
    if weights is not None:
        raise SettingError(f"{source} has its own weights; leave out {weights}")


def _own_classifier(source: str | Path, options: PreprocessingOptions) -> LoadedNet:
    loaded = load_net(source, task=CLASSIFYING, alternatives=_LIBRARIES)
    if (options.size, options.mean, options.std) != (None, None, None):
        raise SettingError(f"{source} has its own size, mean and std; leave them out")
    if (fit := options.fit) is None:
        return loaded
    fit.check_size(loaded.size)
    fit = fit.simplest(loaded.size)
    set_fit(loaded.module, fit)
    return replace(loaded, info=replace(loaded.info, fit=fit), packaged="")


def _checked(classifier: LoadedNet) -> LoadedNet:
    """Runs the classifier on one image, so that an unusable one is refused early."""
    try:
        with torch.inference_mode():
            classifier.module(torch.zeros(1, 3, classifier.size, classifier.size))
    except SteadylensError:
        raise
    except Exception as error:  # another library's model can raise any kind of error
        reason = " ".join(str(error).split())
        raise SettingError(
            f"{classifier.name} does not classify images of {classifier.size}x{classifier.size} pixels: "
            f"{reason}; give another size"
        ) from error
    return classifier
