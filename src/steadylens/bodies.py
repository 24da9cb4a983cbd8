"""Nets of other libraries, built from plain data: timm, torchvision, transformers. Nothing is downloaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from steadylens.errors import CheckpointError, MissingExtraError, SettingError, SteadylensError


def body_of(architecture: Mapping[str, Any]) -> nn.Module:
    """Returns a net of timm, torchvision or transformers with fresh weights.

    Args:
        architecture: Plain data: the library as `kind`, and what that library needs to know.

    Raises:
        MissingExtraError: If the library is not installed.
        SettingError: If the kind is unknown, or the library refuses the settings.
    """
    try:
        match architecture["kind"]:
            case "timm":
                return _timm_body(architecture["name"], architecture["classes"], architecture["size"])
            case "torchvision":
                return _torchvision_body(architecture["name"], architecture["classes"], architecture["size"])
            case "transformers":
                return _transformers_body(architecture["config"])
    except SteadylensError:
        raise
    except Exception as error:  # at settings that are not theirs the libraries raise whatever they do
        reason = " ".join(str(error).split())
        what = ", ".join(f"{name} {value}" for name, value in architecture.items() if name != "config")
        raise SettingError(
            f"there is no classifier of {what}: {reason}; leave out what is not its own"
        ) from error
    raise SettingError(
        f"the architecture {architecture['kind']!r} is unknown to this version; update steadylens"
    )


# timm.


def timm_with(name: str) -> ModuleType:
    """Returns timm, if it is installed and has a model of that name."""
    try:
        import timm  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("timm", "timm") from error
    if not timm.is_model(name):  # it would look for some other names in the network
        raise SettingError(f"timm has no model {name!r}; timm.list_models() lists those that it has")
    return timm


def _timm_body(name: str, classes: int, size: int) -> nn.Module:
    timm = timm_with(name)
    usual = timm.get_pretrained_cfg(name)
    settings = {"img_size": size} if usual.fixed_input_size and size != usual.input_size[-1] else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **settings)
    return model


# torchvision.


def torchvision_models_with(name: str) -> Any:
    """Returns torchvision.models, if it is installed and has a classifier of that name."""
    try:
        from torchvision import models  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("torchvision", "torchvision") from error
    if name not in models.list_models(module=models):  # others would fetch weights
        raise SettingError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models() lists what it has"
        )
    return models


def _torchvision_body(name: str, classes: int, size: int) -> nn.Module:
    settings = {"image_size": size} if name.startswith("vit_") else {}
    models = torchvision_models_with(name)
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **settings)
    return model


# transformers.


def _transformers() -> ModuleType:
    try:
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    return transformers


def _transformers_body(config: dict[str, Any]) -> nn.Module:
    if config.get("model_type") == "timm_wrapper":  # it may ask a hub for the settings of its model
        raise SettingError("a model of timm within transformers is not read; prepare it as timm:NAME instead")
    transformers = _transformers()
    settings = transformers.AutoConfig.for_model(**config)
    # A file of weights may name foreign code: without the last argument, the user would be asked to run it.
    kind = transformers.AutoModelForImageClassification
    model: nn.Module = kind.from_config(settings, trust_remote_code=False)
    return model


def read_transformers(folder: Path) -> Any:
    """Returns the image classifier that `save_pretrained` wrote into a folder.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If the folder is incomplete or damaged, or holds no image classifier.
    """
    transformers = _transformers()
    try:
        with _without_progress():
            body, loading = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,  # or the user would be asked to run the folder's own code
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder} cannot be read as an image classifier of transformers ({reason}); save it again with "
            "save_pretrained"
        ) from error
    if lacking := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        raise CheckpointError(
            f"{folder} lacks weights of the classifier, {lacking[0]} for one; save it whole, with its head"
        )
    return body


@contextmanager
def _without_progress() -> Iterator[None]:
    logging = _transformers().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
