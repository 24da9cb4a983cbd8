"""Nets as plain data (for JSON) and back, with the registry of all classes that can be saved.

A net that can be saved has an attribute `kind`, the name of its class in files, and a method `config()` that
returns the arguments of its constructor. To add a net, write its class and decorate it with `register_net`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.facts import CLASSIFYING, RESTORING, facts_of
from steadylens.nets.restoration import (
    HIDDEN_MAPS,
    DongNet,
    GaussianSmoothing,
    Padding,
    RestorationNet,
)
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.nets.third_party import rebuild

Net = TypeVar("Net", bound=type[nn.Module])

PLAIN = "plain data"
"""The kind under which a mapping is written that has a key "kind" itself, so that it is taken for no net."""

KINDS: dict[str, Callable[..., nn.Module]] = {
    "RestorationNet": RestorationNet,
    "DongNet": DongNet,
    "GaussianSmoothing": GaussianSmoothing,
    "RestorationUNet": RestorationUNet,
    "Identity": nn.Identity,
    "SignNet": SignNet,
    "FusedClassifier": FusedClassifier,
    **{kind: partial(rebuild, kind) for kind in ("timm", "torchvision", "transformers")},
}
"""Builds a net of each kind from the arguments that its `config()` returned."""


def register_net(kind: Net) -> Net:
    """Registers a class of nets, so that they can be saved and loaded; use it as a decorator.

    Args:
        kind: The class. Its attribute `kind` is its name in files; its `task` is `RESTORING` or
            `CLASSIFYING`. Its method `config` returns the arguments of its constructor, each plain data or
            another net.

    Raises:
        SettingError: If the class lacks one of the three, or another class has the same name. A class that
            was defined again, for example by running a notebook's cell twice, takes its own place.
    """
    name, task = getattr(kind, "kind", None), getattr(kind, "task", None)
    if not isinstance(name, str) or not callable(getattr(kind, "config", None)):
        raise SettingError(f"{kind.__name__} needs an attribute kind, a string, and a method config()")
    if name == PLAIN:
        raise SettingError(f"{kind.__name__} has the kind {name!r}, which is taken; give it another one")
    if not isinstance(task, property) and task not in (RESTORING, CLASSIFYING):
        raise SettingError(f"{kind.__name__} has the task {task!r}; give it {RESTORING!r} or {CLASSIFYING!r}")
    known = KINDS.get(name, kind)
    if _place_of(known) != _place_of(kind):
        raise SettingError(f"another class has the kind {name!r} already; give {kind.__name__} another one")
    KINDS[name] = kind
    return kind


def describe(net: nn.Module) -> dict[str, Any]:
    """Returns plain data from which `build` makes a net of the same architecture.

    Raises:
        SettingError: If the net's class is not registered, or has no such data.
    """
    kind, config = facts_of(net).kind, getattr(net, "config", dict)
    if kind is None:
        raise SettingError(f"a {type(net).__name__} cannot be saved; save its state_dict yourself")
    settings: object = config()
    if not isinstance(settings, Mapping) or "kind" in settings:
        raise SettingError(
            f"config() of a {type(net).__name__} gives {settings!r:.80}; it must give a dict of the "
            "constructor's arguments, of which none may be called kind"
        )
    parts = {str(name): _described(value) for name, value in settings.items()}
    if kind not in KINDS:
        raise SettingError(
            f"a {type(net).__name__} cannot be saved: its kind {kind!r} is unknown; use register_net"
        )
    return {"kind": kind, **parts}


def _described(value: object) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    return {"kind": PLAIN, "held": value} if _is_architecture(value) else value


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Returns a net with random weights, of an architecture that `describe` returned.

    Raises:
        MissingExtraError: If the net needs a library that is not installed.
        SettingError: If the kind is unknown or a setting is invalid.
    """
    kind = architecture["kind"]
    if kind not in KINDS:
        raise SettingError(
            f"the architecture {kind!r} is unknown to this version; update steadylens, or import the "
            "module that registers it"
        )
    return KINDS[kind](**{name: _built(value) for name, value in architecture.items() if name != "kind"})


def _built(value: Any) -> Any:
    if not _is_architecture(value):
        return value
    return value["held"] if value["kind"] == PLAIN else build(value)


def restorer_named(name: str, *, padding: Padding = "zeros") -> RestorationNet | DongNet | RestorationUNet:
    """Returns a restorer by its short name, with random weights.

    Args:
        name: L11, L9, L7, L5, L3 or Dong, the nets of Table 1, or UNet.
        padding: How `forward` of a net of Table 1 pads an image: "zeros" or "reflect". The U-Net always
            reflects.

    Raises:
        SettingError: If there is no net of that name.
    """
    depths = {f"L{depth}": depth for depth in HIDDEN_MAPS}
    if name == "UNet":
        return RestorationUNet()
    if name == "Dong":
        return DongNet(padding=padding)
    if name not in depths:
        raise SettingError(f"there is no net {name!r}; choose one of {', '.join(depths)}, Dong or UNet")
    return RestorationNet(depth=depths[name], padding=padding)


def _place_of(kind: object) -> tuple[object, object]:
    """Returns the module and the name of a class, by which a class that was defined again is recognised."""
    return getattr(kind, "__module__", None), getattr(kind, "__qualname__", None)


def _is_architecture(value: object) -> bool:
    return isinstance(value, Mapping) and "kind" in value
