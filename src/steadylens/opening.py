"""What a command line calls a net -> the net: packaged names, files, and classifiers of other libraries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from steadylens.checkpoint import SUFFIX, load_model
from steadylens.classification import SIGN_SIZE
from steadylens.classifiers import timm_classifier, torchvision_classifier, transformers_classifier
from steadylens.errors import SettingError, SteadylensError
from steadylens.fitting import Fit
from steadylens.fusion import FusedClassifier
from steadylens.images import SQUASHED
from steadylens.preparation import PreparedClassifier, classifier_of, exported_classifier
from steadylens.pretrained import PRETRAINED, load_with_card
from steadylens.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.suitability import sources_of

_LIBRARIES = ", or timm:NAME, torchvision:NAME, transformers:DIR, or a file that ends in .pt2"

RESTORERS = (RestorationNet, DongNet, GaussianSmoothing, nn.Identity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
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

    def before(self, classifier: "Opened") -> "Opened":
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


def open_restorer(source: str | Path) -> Opened:
    """Opens a restorer: a packaged one by name, such as l11-gtsrb, or one from a file.

    Raises:
        SettingError: If there is no such net, or it is no restorer.
        CheckpointError: If the file cannot be read.
    """
    opened = open_net(source)
    if not isinstance(opened.module, RESTORERS):
        raise SettingError(
            f"{source} holds a {type(opened.module).__name__}, where a restorer is needed; name one as "
            "l11-gtsrb or a file"
        )
    return opened


def open_net(source: str | Path, *, further: str = "") -> Opened:
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
        module, known = load_with_card(str(source))
        return _opened(str(source), module, known.about)
    if not path.is_file() and path.suffix != SUFFIX:
        raise SettingError(
            f"there is no net {str(source)!r}; give a file or one of {', '.join(PRETRAINED)}{further}"
        )
    return _opened(path.stem, *load_model(path))


def open_classifier(
    source: str | Path,
    *,
    weights: Path | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fit: Fit | None = None,
) -> Opened:
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
        Opened(
            name=str(source),
            module=module,
            size=module.size,
            fit=module.fit,
            class_names=module.class_names,
            origin={"name": f"{scheme}:{Path(place).name}" if place else Path(source).name},
        )
    )


def count_classes(opened: Opened) -> int:
    """Returns how many classes a classifier tells apart."""
    tensors = [*opened.module.parameters(), *opened.module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    with torch.inference_mode():
        return int(opened.module(torch.zeros(1, 3, opened.size, opened.size, device=device)).shape[1])


def check_classes(opened: Opened, class_names: Sequence[str], data: str) -> None:
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


def check_order(opened: Opened, class_names: Sequence[str], data: str) -> None:
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


def _own_classifier(source: str | Path, *, changed: bool, fit: Fit | None) -> Opened:
    opened = open_net(source, further=_LIBRARIES)
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


def _opened(name: str, module: nn.Module, about: dict[str, object]) -> Opened:
    names = known if isinstance(known := about.get("classes"), list) else []
    seconds = [about.get(name, 0.0) for name in ("seconds", "seconds_before")]
    behind = classifier_of(module)
    prepared = behind if isinstance(behind, PreparedClassifier) else None
    stated = {"name": name, "data": ", ".join(sources_of(about)), "licence": str(about.get("licence", ""))}
    return Opened(
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


def _checked(opened: Opened) -> Opened:
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
