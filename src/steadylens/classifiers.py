"""Classifiers of other libraries, prepared for plain images: timm, torchvision, transformers.

Nothing is ever downloaded: weights come from a local file or folder. A prepared classifier bears plain data
from which `rebuild` makes it again, so that a fused pair can be saved whole.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from steadylens.bodies import body_of, read_transformers, timm_with, torchvision_models_with
from steadylens.errors import CheckpointError, SettingError
from steadylens.fitting import Fit
from steadylens.preparation import Channels, PreparedClassifier
from steadylens.processors import image_processing
from steadylens.weightfiles import fit_weights, read_weights


def timm_classifier(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    fit: Fit | None = None,
) -> PreparedClassifier:
    """Returns a timm model with the normalisation, input size and fit of its own configuration.

    Args:
        name: The model's name in timm, with or without the tag of its weights.
        weights: Local file of its weights, .safetensors or of `torch.save`; None for random ones.
        classes: Number of classes, or None for that of the weights, else timm's.
        size: Height and width of the images in pixels, or None for those of its configuration.
        fit: How photographs become squares, or None for how timm's own evaluation does it.

    Raises:
        MissingExtraError: If timm is not installed.
        SettingError: If timm has no such model, or it does not read square RGB images.
        CheckpointError: If the weights cannot be read or are of another net.
    """
    try:
        settings = timm_with(name).get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise SettingError(f"timm knows no weights {name!r} ({error}); leave the tag out") from error
    channels, *sides = settings.input_size
    if channels != 3 or (size is None and sides[0] != sides[1]):
        raise SettingError(
            f"{name} reads {settings.input_size}; only square RGB images can be given, set a size"
        )
    found = {} if weights is None else read_weights(weights)
    if not settings.classifier:
        raise SettingError(f"{name} of timm has no classes; choose a model that has")
    head = settings.classifier if isinstance(settings.classifier, str) else settings.classifier[0]
    architecture = {
        "kind": "timm",
        "name": name,
        "classes": classes or _rows(found, re.escape(head)) or settings.num_classes,
        "size": size or sides[0],
    }
    fit = fit or _timm_fit(name, settings, size or sides[0])
    return _prepared(architecture, found, weights, mean=settings.mean, std=settings.std, fit=fit)


def torchvision_classifier(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    fit: Fit | None = None,
) -> PreparedClassifier:
    """Returns a torchvision model with the normalisation, size and fit of its published weights.

    Args:
        name: The model's name in torchvision.models.
        weights: Local file of its weights, .safetensors or of `torch.save`; None for random ones.
        classes: Number of classes, or None for that of the weights, else 1000.
        size: Height and width of the images in pixels, or None for those of the published weights.
        fit: How photographs become squares, or None for how the published weights read them, in proportion
            to the size.

    Raises:
        MissingExtraError: If torchvision is not installed.
        SettingError: If torchvision has no such model, or it changes images by itself.
        CheckpointError: If the weights cannot be read or are of another net.
    """
    models = torchvision_models_with(name)
    if name in ("googlenet", "inception_v3"):
        raise SettingError(
            f"{name} of torchvision normalises images in two ways, depending on where its weights come from; "
            "build it yourself and give it to PreparedClassifier"
        )
    published = models.get_model_weights(name).DEFAULT.transforms()
    found = {} if weights is None else read_weights(weights)
    architecture = {
        "kind": "torchvision",
        "name": name,
        "classes": classes or _rows(found, r"fc|head|heads\.head|classifier(\.\d+)?") or 1000,
        "size": (side := size or published.crop_size[0]),
    }
    fit = fit or Fit(
        keeps_shape=True,
        side=round(published.resize_size[0] * side / published.crop_size[0]),
        interpolation=Image.Resampling[published.interpolation.name],
    )
    return _prepared(architecture, found, weights, mean=published.mean, std=published.std, fit=fit)


def transformers_classifier(folder: str | Path, *, fit: Fit | None = None) -> PreparedClassifier:
    """Returns an image classifier that `save_pretrained` wrote into a local folder, with its image processor.

    Args:
        folder: Holds config.json, the weights and preprocessor_config.json.
        fit: How photographs become squares, or None for how its image processor does it.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If the folder is missing, incomplete or damaged, or holds no image classifier.
        SettingError: If its image processor does more than to resize, crop, scale and normalise.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder that save_pretrained wrote")
    body = read_transformers(folder)
    found = image_processing(folder, fit=fit)
    config = json.loads(body.config.to_json_string())
    architecture = {"kind": "transformers", "config": config, "size": found.size}
    return PreparedClassifier(
        body, size=found.size, mean=found.mean, std=found.std, fit=found.fit, architecture=architecture
    ).eval()


def rebuild(architecture: Mapping[str, Any]) -> PreparedClassifier:
    """Returns a classifier of the architecture that a `PreparedClassifier` bears, with fresh weights.

    Raises:
        MissingExtraError: If the library that it is of is not installed.
        SettingError: If the kind is unknown, or the library refuses the settings.
    """
    plain = {name: value for name, value in architecture.items() if name != "fit"}
    fit = Fit.parse(architecture.get("fit", "squash"))  # the first files had none
    return PreparedClassifier(body_of(plain), size=plain["size"], fit=fit, architecture=plain)


def _prepared(
    architecture: dict[str, Any],
    weights: dict[str, Tensor],
    path: str | Path | None,
    *,
    mean: Channels,
    std: Channels,
    fit: Fit,
) -> PreparedClassifier:
    body = body_of(architecture)
    if path is not None:
        fit_weights(body, weights, path)
    size = architecture["size"]
    return PreparedClassifier(body, size=size, mean=mean, std=std, fit=fit, architecture=architecture).eval()


def _rows(weights: Mapping[str, Tensor], head: str) -> int:
    """Returns how many classes the last layer of that name tells apart, 0 if there is none."""
    found = [name for name in weights if re.fullmatch(rf"(?:{head})\.(?:weight|bias)", name)]
    numbers = [[int(number) for number in re.findall(r"\d+", name)] for name in found]
    return len(weights[found[numbers.index(max(numbers))]]) if found else 0


def _timm_fit(name: str, settings: Any, size: int) -> Fit:
    if settings.crop_mode not in ("center", "squash"):
        raise SettingError(
            f"{name} wants images with a border around them, which are not made here; give a fit"
        )
    return Fit(
        keeps_shape=settings.crop_mode == "center",
        side=math.floor(size / settings.crop_pct),
        interpolation=Image.Resampling[settings.interpolation.upper()],
    )
