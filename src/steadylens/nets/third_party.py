"""Classifiers of timm, torchvision and transformers, together with their normalisation.

Nothing is ever downloaded: weights come from a local file or folder. Each classifier keeps plain data from
which `rebuild` makes the same architecture again, so that it can be saved together with a restorer.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from steadylens.errors import CheckpointError, MissingExtraError, SettingError, SteadylensError
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import GREY_LEVELS, array_to_tensor, pil_to_tensor, tensor_to_array, to_float
from steadylens.nets.classification import ChannelNormalization, PreparedClassifier
from steadylens.nets.weights import load_weights, read_weights


def untrained_model(architecture: Mapping[str, Any]) -> nn.Module:
    """Returns a model of timm, torchvision or transformers with random weights.

    Args:
        architecture: The library as `kind`, and the arguments for it: `name`, `classes` and `size` for timm
            and torchvision, `config` for transformers.

    Raises:
        MissingExtraError: If the library is not installed.
        SettingError: If the kind is unknown, or the library rejects the arguments.
    """
    try:
        match architecture["kind"]:
            case "timm":
                return _timm_model(architecture["name"], architecture["classes"], architecture["size"])
            case "torchvision":
                return _torchvision_model(architecture["name"], architecture["classes"], architecture["size"])
            case "transformers":
                return _transformers_model(architecture["config"])
    except SteadylensError:
        raise
    except Exception as error:  # for invalid arguments the libraries raise many kinds of errors
        reason = " ".join(str(error).split())
        what = ", ".join(f"{name} {value}" for name, value in architecture.items() if name != "config")
        raise SettingError(
            f"there is no classifier of {what}: {reason}; leave out the settings that it does not have"
        ) from error
    raise SettingError(
        f"the architecture {architecture['kind']!r} is unknown to this version; update steadylens"
    )


def import_timm(name: str) -> ModuleType:
    """Imports timm and checks that it has a model of that name."""
    try:
        import timm  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
    if not timm.is_model(name):  # timm would look up some other names on the internet
        raise SettingError(f"timm has no model {name!r}; timm.list_models() lists its models")
    return timm


def _timm_model(name: str, classes: int, size: int) -> nn.Module:
    timm = import_timm(name)
    usual = timm.get_pretrained_cfg(name)
    settings = {"img_size": size} if usual.fixed_input_size and size != usual.input_size[-1] else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **settings)
    return model


def import_torchvision(name: str) -> Any:
    """Imports torchvision.models and checks that it has a classifier of that name."""
    try:
        from torchvision import models  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("torchvision", "torchvision") from error
    if name not in models.list_models(module=models):  # models for other tasks would download weights
        raise SettingError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models() lists its models"
        )
    return models


def _torchvision_model(name: str, classes: int, size: int) -> nn.Module:
    settings = {"image_size": size} if name.startswith("vit_") else {}
    models = import_torchvision(name)
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
    return model


def _import_transformers() -> ModuleType:
    try:
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    return transformers


def _transformers_model(config: dict[str, Any]) -> nn.Module:
    if config.get("model_type") == "timm_wrapper":  # it may look up the model's settings on a hub
        raise SettingError(
            "a timm model within transformers is not supported; prepare it as timm:NAME instead"
        )
    transformers = _import_transformers()
    settings = transformers.AutoConfig.for_model(**config)
    # A config may name code on a hub: without the last argument the user would be asked to run it.
    auto_model = transformers.AutoModelForImageClassification
    model: nn.Module = auto_model.from_config(settings, trust_remote_code=False)
    return model


def read_transformers(folder: Path) -> Any:
    """Reads an image classifier that transformers' `save_pretrained` wrote into a folder.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If the folder is incomplete or damaged, or holds no image classifier.
    """
    transformers = _import_transformers()
    try:
        with _without_progress():
            body, loading = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,  # else the user may be asked to run code of the folder
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder} cannot be read as an image classifier of transformers ({reason}); save it again with "
            "save_pretrained"
        ) from error
    if lacking := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        raise CheckpointError(
            f"{folder} lacks weights of the classifier, for example {lacking[0]}; save it with its head"
        )
    return body


@contextmanager
def _without_progress() -> Iterator[None]:
    logging = _import_transformers().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_SMALL_EDGE = 384
"""Processors with a `crop_pct` (ConvNeXT's) crop only if the edge is shorter, in pixels; else they squash."""


def image_processing(folder: Path, *, fit: Fit | None = None) -> Preprocessing:
    """Finds out how a transformers image processor prepares photographs, by running it on test images.

    Args:
        folder: Folder with its preprocessor_config.json, written by `save_pretrained`.
        fit: How photographs become squares, or None to do it as the processor does.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If there is no image processor.
        SettingError: If it does anything but resize, crop, scale and normalise.
    """
    try:
        from transformers import AutoImageProcessor  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    try:
        read: Any = AutoImageProcessor.from_pretrained  # it is not typed
        # Without the last argument the user may be asked to run code of the folder.
        processor = read(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no image processor; save that of the classifier there with save_pretrained"
        ) from error

    try:
        return _probe(folder, processor, fit)
    except SteadylensError:
        raise
    except Exception as error:  # a processor can raise any kind of error
        reason = " ".join(str(error).split())
        raise SettingError(
            f"the image processor of {folder} cannot be understood ({reason}); wrap the classifier in a "
            "PreparedClassifier with its mean and std"
        ) from error


def _probe(folder: Path, processor: Any, fit: Fit | None) -> Preprocessing:
    """Derives size, mean, std and fit of a processor from its outputs for a few images."""

    def process(image: Tensor, **settings: bool) -> Tensor:
        return processor(tensor_to_array(image), return_tensors="pt", **settings)["pixel_values"][0]  # type: ignore[no-any-return]

    pixels = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    kept = {"do_resize": False, "do_center_crop": False}
    black, white, some = (process(image, **kept) for image in (pixels * 0, pixels * 0 + 255, pixels))
    std = 1 / (white - black).double().mean(dim=(1, 2))
    mean = -black.double().mean(dim=(1, 2)) * std
    normalization = ChannelNormalization(mean.tolist(), std.tolist())
    height, width = process(pixels).shape[-2:]
    if height != width or not torch.allclose(normalization(to_float(pixels)[None])[0], some, atol=1e-4):
        raise SettingError(
            f"the image processor of {folder} does more than make images square, scale and normalise them; "
            "wrap the classifier in a PreparedClassifier with its mean and std"
        )
    found = fit or _fit_of(processor)
    if fit is None and not _agrees(process, normalization, found, height):
        raise SettingError(
            f"the image processor of {folder} makes photographs square in a way that is not supported, "
            f"unlike {found}; give a fit that comes near to it, such as crop:SIDE"
        )
    return Preprocessing(size=height, mean=tuple(mean.tolist()), std=tuple(std.tolist()), fit=found)


def _fit_of(processor: Any) -> Fit:
    size, share = dict(processor.size), getattr(processor, "crop_pct", None)
    edge = size.get("shortest_edge") or 0
    keeps_shape = edge > 0 and (share is None or edge < _SMALL_EDGE)
    side = int(edge / share) if keeps_shape and share else edge
    return Fit(
        keeps_shape=keeps_shape,
        side=side or size.get("height"),
        interpolation=Image.Resampling(processor.resample),
        floors=True,
    )


def _agrees(
    process: Callable[[Tensor], Tensor], normalization: ChannelNormalization, fit: Fit, size: int
) -> bool:
    """Whether a fit and a processor give the same for images that are not square, but for rounding."""
    random = np.random.default_rng(0)
    for shape in ((90, 131, 3), (127, 90, 3)):
        levels = random.integers(0, 256, shape, dtype=np.uint8)
        mine = fit.fitted(Image.fromarray(levels), size)
        theirs = process(array_to_tensor(levels)) * normalization.std + normalization.mean
        apart = theirs[0] - to_float(pil_to_tensor(mine))
        if apart.abs().mean() > 1 / GREY_LEVELS:
            return False
    return True


def timm_classifier(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    ema: bool | None = None,
) -> PreparedClassifier:
    """Returns a timm model with the normalisation, input size and fit of its pretrained configuration.

    Args:
        name: The model's name in timm, with or without the tag of its weights.
        weights: Local file of its weights, .safetensors or of `torch.save`; None for random weights.
        classes: Number of classes, or None for as many as the weights have, without weights timm's default.
        size: Height and width of its input in pixels, or None for those of its configuration.
        fit: How photographs become squares, or None to do it as timm's evaluation does.
        ema: Whether to take averaged weights from the file; None for those if there are any.

    Raises:
        MissingExtraError: If timm is not installed.
        SettingError: If timm has no such model, or its input is not a square RGB image.
        CheckpointError: If the weights cannot be read or belong to another model.
    """
    try:
        settings = import_timm(name).get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise SettingError(f"timm knows no weights {name!r} ({error}); leave the tag out") from error
    channels, *sides = settings.input_size
    if channels != 3 or (size is None and sides[0] != sides[1]):
        raise SettingError(
            f"{name} reads {settings.input_size}; only square RGB images are supported, set a size"
        )
    found = {} if weights is None else read_weights(weights, ema=ema)
    if not settings.classifier:
        raise SettingError(f"{name} of timm has no classes; choose a model that has")
    head = settings.classifier if isinstance(settings.classifier, str) else settings.classifier[0]
    architecture = {
        "kind": "timm",
        "name": name,
        "classes": classes or _class_count(found, re.escape(head)) or settings.num_classes,
        "size": size or sides[0],
    }
    side = size or sides[0]
    fit = fit or _timm_fit(name, settings, side)
    published = Preprocessing(size=side, mean=tuple(settings.mean), std=tuple(settings.std), fit=fit)
    return _prepared(architecture, found, weights, published)


def torchvision_classifier(
    name: str,
    *,
    weights: str | Path | None = None,
    classes: int | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    ema: bool | None = None,
) -> PreparedClassifier:
    """Returns a torchvision model with the normalisation, input size and fit of its published weights.

    Args:
        name: The model's name in torchvision.models.
        weights: Local file of its weights, .safetensors or of `torch.save`; None for random weights.
        classes: Number of classes, or None for as many as the weights have, without weights 1000.
        size: Height and width of its input in pixels, or None for those of the published weights.
        fit: How photographs become squares, or None to do it as the transforms of the published weights do,
            in proportion to the size.
        ema: Whether to take averaged weights from the file; None for those if there are any.

    Raises:
        MissingExtraError: If torchvision is not installed.
        SettingError: If torchvision has no such model, or the model normalises its input by itself.
        CheckpointError: If the weights cannot be read or belong to another model.
    """
    models = import_torchvision(name)
    if name in ("googlenet", "inception_v3"):
        raise SettingError(
            f"{name} of torchvision normalises images in two ways, depending on where its weights come from; "
            "build it yourself and wrap it in a PreparedClassifier"
        )
    published = models.get_model_weights(name).DEFAULT.transforms()
    found = {} if weights is None else read_weights(weights, ema=ema)
    architecture = {
        "kind": "torchvision",
        "name": name,
        "classes": classes or _class_count(found, r"fc|head|heads\.head|classifier(\.\d+)?") or 1000,
        "size": (side := size or published.crop_size[0]),
    }
    fit = fit or Fit(
        keeps_shape=True,
        side=round(published.resize_size[0] * side / published.crop_size[0]),
        interpolation=Image.Resampling[published.interpolation.name],
    )
    preprocessing = Preprocessing(size=side, mean=tuple(published.mean), std=tuple(published.std), fit=fit)
    return _prepared(architecture, found, weights, preprocessing)


def transformers_classifier(folder: str | Path, *, fit: Fit | None = None) -> PreparedClassifier:
    """Reads a transformers image classifier and its image processor from a local folder.

    Args:
        folder: Folder that `save_pretrained` wrote: config.json, the weights and preprocessor_config.json.
        fit: How photographs become squares, or None to do it as the image processor does.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If the folder is missing, incomplete or damaged, or holds no image classifier.
        SettingError: If its image processor does anything but resize, crop, scale and normalise.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder that save_pretrained wrote")
    body = read_transformers(folder)
    preprocessing = image_processing(folder, fit=fit)
    config = json.loads(body.config.to_json_string())
    architecture = {"kind": "transformers", "config": config, "size": preprocessing.size}
    return PreparedClassifier(body, preprocessing, architecture=architecture).eval()


def rebuild(kind: str, *, size: int, fit: str = "squash", **settings: Any) -> PreparedClassifier:
    """Returns a classifier with random weights, from what `PreparedClassifier.config` returned.

    Args:
        kind: The library: timm, torchvision or transformers.
        size: Height and width of its input in pixels.
        fit: How photographs become squares, as text; files of the first versions lack it.
        settings: The other entries of the `architecture` that the classifier was made with.

    Raises:
        MissingExtraError: If the library is not installed.
        SettingError: If the kind is unknown, or the library rejects the settings.
    """
    architecture = {"kind": kind, **settings, "size": size}
    preprocessing = Preprocessing(size=size, fit=Fit.parse(fit))
    return PreparedClassifier(untrained_model(architecture), preprocessing, architecture=architecture)


def _prepared(
    architecture: dict[str, Any],
    weights: dict[str, Tensor],
    path: str | Path | None,
    preprocessing: Preprocessing,
) -> PreparedClassifier:
    body = untrained_model(architecture)
    if path is not None:
        load_weights(body, weights, path, size=preprocessing.size)
    return PreparedClassifier(body, preprocessing, architecture=architecture).eval()


def _class_count(weights: Mapping[str, Tensor], head: str) -> int:
    """Returns the number of rows of the last layer whose name matches `head`: its classes; 0 without one."""
    found = [name for name in weights if re.fullmatch(rf"(?:{head})\.(?:weight|bias)", name)]
    numbers = [[int(number) for number in re.findall(r"\d+", name)] for name in found]
    return len(weights[found[numbers.index(max(numbers))]]) if found else 0


def _timm_fit(name: str, settings: Any, size: int) -> Fit:
    if settings.crop_mode not in ("center", "squash"):
        raise SettingError(
            f"{name} wants images with a border around them, which is not supported; give a fit"
        )
    return Fit(
        keeps_shape=settings.crop_mode == "center",
        side=math.floor(size / settings.crop_pct),
        interpolation=Image.Resampling[settings.interpolation.upper()],
    )
