"""Nets as plain data and back: the one list of kinds of nets, by the names that files hold.

A net that can be saved has two attributes: `kind`, its name in this list, and `config()`, the arguments that
make a net like it. To add one, write its class and register it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from steadylens.errors import SettingError
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.facts import facts_of
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.third_party import rebuild

Net = TypeVar("Net", bound=type[nn.Module])

KINDS: dict[str, Callable[..., nn.Module]] = {
    "RestorationNet": RestorationNet,
    "DongNet": DongNet,
    "GaussianSmoothing": GaussianSmoothing,
    "Identity": nn.Identity,
    "SignNet": SignNet,
    "FusedClassifier": FusedClassifier,
    **{kind: partial(rebuild, kind) for kind in ("timm", "torchvision", "transformers")},
}
"""What makes a net of each kind from the arguments that its `config()` returns."""


def register_net(kind: Net) -> Net:
    """Adds a class of nets to the kinds that can be saved and loaded; use it as a decorator.

    Args:
        kind: The class. Its attribute `kind` is the name in files, its method `config` returns the arguments
            of its constructor: plain data, or other nets.

    Raises:
        SettingError: If it lacks one of them, or another class has that name.
    """
    name = getattr(kind, "kind", None)
    if not isinstance(name, str) or not callable(getattr(kind, "config", None)):
        raise SettingError(f"{kind.__name__} needs an attribute kind, a text, and a method config()")
    if KINDS.setdefault(name, kind) is not kind:
        raise SettingError(f"there are nets of the kind {name!r} already; give {kind.__name__} another name")
    return kind


def describe(net: nn.Module) -> dict[str, Any]:
    """Returns the plain data that `build` needs to make a net of the same architecture.

    Raises:
        SettingError: If the net is of a kind that cannot be described.
    """
    kind, config = facts_of(net).kind, getattr(net, "config", dict)
    if kind is None:
        raise SettingError(f"a {type(net).__name__} cannot be saved; save its state_dict yourself")
    parts = {
        name: describe(value) if isinstance(value, nn.Module) else value for name, value in config().items()
    }
    if kind not in KINDS:
        raise SettingError(
            f"a {type(net).__name__} cannot be saved: its kind {kind!r} is unknown; use register_net"
        )
    return {"kind": kind, **parts}


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """Returns a net of the architecture that `describe` returned, with fresh weights.

    Raises:
        MissingExtraError: If the net is of a library that is not installed.
        SettingError: If the kind is unknown or its settings are refused.
    """
    kind = architecture["kind"]
    if kind not in KINDS:
        raise SettingError(
            f"the architecture {kind!r} is unknown to this version; update steadylens, or import the "
            "module that registers it"
        )
    settings = {
        name: build(value) if _is_architecture(value) else value
        for name, value in architecture.items()
        if name != "kind"
    }
    return KINDS[kind](**settings)


def _is_architecture(value: object) -> bool:
    return isinstance(value, Mapping) and "kind" in value
