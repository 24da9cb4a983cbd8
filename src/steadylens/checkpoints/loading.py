"""Loads nets: those that ship with the package, files, and classifiers of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadylens.checkpoints.checkpoint import SUFFIX, load_model, sources_of
from steadylens.errors import SettingError, SteadylensError
from steadylens.images.preprocessing import Fit
from steadylens.images.tensors import SQUASHED
from steadylens.nets.classification import (
    SIGN_SIZE,
    FusedClassifier,
    PreparedClassifier,
    classifier_of,
    exported_classifier,
)
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.third_party import timm_classifier, torchvision_classifier, transformers_classifier

LICENCE = "MIT"
"""The licence of the package and of the weights that come with it."""

PRETRAINED = (
    "l11-gtsrb", "l9-gtsrb", "l7-gtsrb", "l5-gtsrb", "l3-gtsrb", "dong-gtsrb", "sign-gtsrb", "fused-gtsrb"
)  # fmt: skip
"""The nets that ship with the package: the restorers of Table 1, the sign net, and L11 fused with it."""


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
    return read_net(name)[0]


def read_net(name: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a net and the data about it, by its packaged name or its file; see `load`."""
    if str(name).endswith(SUFFIX):
        return load_model(Path(name))
    if str(name) not in PRETRAINED:
        raise SettingError(
            f"there is no trained net {str(name)!r}; choose one of {', '.join(PRETRAINED)}, "
            f"or give the path of a {SUFFIX} file"
        )
    with as_file(files("steadylens") / "weights" / f"{name}{SUFFIX}") as path:
        module, about = load_model(path)
    return module, {"licence": LICENCE, **about}


_LIBRARIES = ", or timm:NAME, torchvision:NAME, transformers:DIR, or a file that ends in .pt2"

RESTORERS = (RestorationNet, DongNet, GaussianSmoothing, nn.Identity)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedNet:
    """A net that is ready for use.

    Attributes:
        name: What to call it in tables.
        module: The net, in eval mode on the CPU.
        size: Height and width in pixels of the images that it reads; a restorer reads any.
        fit: How photographs become squares before a classifier reads them.
        class_names: Names of a classifier's classes by number, if they are known.
        seconds: Time that training it took, as far as its file tells.
        origin: Its name, and the data and licence that its file states.
    """

    name: str
    module: nn.Module
    size: int = SIGN_SIZE
    fit: Fit = SQUASHED
    class_names: tuple[str, ...] = ()
    seconds: float = 0.0
    origin: Mapping[str, str] = field(default_factory=dict)

    def before(self, classifier: "LoadedNet") -> "LoadedNet":
        """Returns the pair of this restorer and the classifier, as they are."""
        return replace(
            classifier,
            name=f"behind {self.name}",
            module=FusedClassifier(self.module, classifier.module).eval(),
            seconds=self.seconds + classifier.seconds,
        )

    def fused(self) -> FusedClassifier:
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


def load_restorer(source: str | Path) -> LoadedNet:
    """Opens a restorer: a packaged one by name, such as l11-gtsrb, or one from a file.

    Raises:
        SettingError: If there is no such net, or it is no restorer.
        CheckpointError: If the file cannot be read.
    """
    opened = load_net(source)
    if not isinstance(opened.module, RESTORERS):
        raise SettingError(
            f"{source} holds a {type(opened.module).__name__}, where a restorer is needed; name one as "
            "l11-gtsrb or a file"
        )
    return opened


def load_net(source: str | Path, *, further: str = "") -> LoadedNet:
    """Opens any net that this package wrote: a packaged one by name, or one from a file.

    Args:
        source: The name or the file.
        further: What else may be given where it is asked for, for the error.

    Raises:
        SettingError: If there is no such net.
        CheckpointError: If the file cannot be read.
    """
    path = Path(source)
    if str(source) in PRETRAINED:
        return _opened(str(source), *read_net(source))
    if not path.is_file() and path.suffix != SUFFIX:
        raise SettingError(
            f"there is no net {str(source)!r}; give a file or one of {', '.join(PRETRAINED)}{further}"
        )
    return _opened(path.stem, *load_model(path))


def load_classifier(
    source: str | Path,
    *,
    weights: Path | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fit: Fit | None = None,
) -> LoadedNet:
    """Opens a classifier, of whatever library.

    Args:
        source: `timm:NAME`, `torchvision:NAME`, `transformers:DIR`, the file of an exported program that ends
            in .pt2, a packaged name such as sign-gtsrb, or the file of a net that this package wrote.
        weights: Local file of the weights, for timm and torchvision, which have none of their own here.
        size: Height and width of the images in pixels, or None for those that the classifier tells.
        mean: What it subtracts from each channel, for images in [0, 1], or None for what it tells.
        std: What it then divides each channel by, or None for what it tells.
        fit: How photographs become squares before it reads them, or None for what it tells.

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
        module = exported_classifier(Path(source), size=size, fit=fit or SQUASHED)
    else:
        own = _own_classifier(source, changed=(size, mean, std) != (None, None, None), fit=fit)
        _refuse_weights(source, weights)
        return own
    if size not in (None, module.size):
        raise SettingError(f"{source} reads images of {module.size} pixels; leave out the size of {size}")
    module = _with_normalization(module, mean=mean, std=std)
    return _checked(
        LoadedNet(
            name=str(source),
            module=module,
            size=module.size,
            fit=module.fit,
            class_names=module.class_names,
            origin={"name": f"{scheme}:{Path(place).name}" if place else Path(source).name},
        )
    )


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


def _refuse_weights(source: str | Path, weights: Path | None) -> None:
    if weights is not None:
        raise SettingError(f"{source} brings its own weights; leave out {weights}")


def _own_classifier(source: str | Path, *, changed: bool, fit: Fit | None) -> LoadedNet:
    opened = load_net(source, further=_LIBRARIES)
    if isinstance(opened.module, RESTORERS):
        raise SettingError(
            f"{source} holds a {type(opened.module).__name__}, where a classifier is needed; name one as "
            "sign-gtsrb, timm:NAME or a file"
        )
    if changed:
        raise SettingError(f"{source} brings its own size, mean and deviation; leave them out")
    if fit is None:
        return opened
    fit.check_size(opened.size)
    fit = fit.simplest(opened.size)
    for part in opened.module.modules():
        if isinstance(part, PreparedClassifier):
            part.fit = fit  # it is written with the pair
    return replace(opened, fit=fit)


def _opened(name: str, module: nn.Module, about: dict[str, object]) -> LoadedNet:
    names = known if isinstance(known := about.get("classes"), list) else []
    seconds = [about.get(name, 0.0) for name in ("seconds", "seconds_before")]
    behind = classifier_of(module)
    prepared = behind if isinstance(behind, PreparedClassifier) else None
    stated = {"name": name, "data": ", ".join(sources_of(about)), "licence": str(about.get("licence", ""))}
    return LoadedNet(
        name=name,
        module=module,
        size=SIGN_SIZE if prepared is None else prepared.size,
        fit=Fit.parse(str(about.get("fit", SQUASHED))) if prepared is None else prepared.fit,
        class_names=tuple(map(str, names)) or (() if prepared is None else prepared.class_names),
        seconds=sum(float(each) for each in seconds if isinstance(each, int | float)),
        origin={key: text for key, text in stated.items() if text},
    )


def _with_normalization(
    module: PreparedClassifier, *, mean: Sequence[float] | None, std: Sequence[float] | None
) -> PreparedClassifier:
    if mean is None and std is None:
        return module
    if mean is None or std is None:
        raise SettingError("give both a mean and a deviation, or neither")
    return PreparedClassifier(
        module.body,
        size=module.size,
        mean=mean,
        std=std,
        fit=module.fit,
        class_names=module.class_names,
        architecture=module.architecture,
    ).eval()


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
