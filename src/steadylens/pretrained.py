"""The trained nets that ship with the package: restorers and sign classifiers, trained on GTSRB."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.cards import LICENCE, Card, card_of
from steadylens.checkpoint import SUFFIX, load_model
from steadylens.errors import SettingError

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
    return _read(name)[0]


def card(name: str | Path) -> Card:
    """Returns what is known of a trained net: its data, recipe, measured figures, limits and licence.

    Args:
        name: One of `PRETRAINED`, or the path of a .safetensors file that `save_model` wrote.

    Raises:
        SettingError: If there is no net of that name.
        CheckpointError: If the file is missing or damaged, or its weights do not fit their checksum.
    """
    return load_with_card(name)[1]


def load_with_card(name: str | Path) -> tuple[nn.Module, Card]:
    """Returns what `load` and `card` return, from one reading of the file; their errors are its errors."""
    module, about = _read(name)
    return module, card_of(module, about, name=Path(name).name.removesuffix(SUFFIX))


def _read(name: str | Path) -> tuple[nn.Module, dict[str, Any]]:
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
