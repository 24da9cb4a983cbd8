"""What a net computes, as a short key: so that nothing which another net made is taken for its own."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from steadylens.preparation import PreparedClassifier
from steadylens.weightfiles import raw_bytes

_OURS = frozenset({"steadylens", "torch"})
_DEEPEST = 8


def net_key(net: nn.Module) -> str:
    """Returns a short key of a net: of its architecture, weights, buffers and settings.

    Of parts that are neither PyTorch's nor this package's, it depends on the source of their classes and on
    their plain attributes, of an exported program on its code; what functions beyond do does not show. It is
    the same in every process.
    """
    digest = hashlib.sha256(repr(net).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(raw_bytes(value) if isinstance(value, Tensor) else _told(value).encode())
    for part in net.modules():
        for text in _untold(part):
            digest.update(text.encode())
    return digest.hexdigest()[:16]


def net_keys(nets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Returns the names of some nets, each with the key of its net."""
    return [(name, net_key(net)) for name, net in nets.items()]


def _untold(part: nn.Module) -> Iterator[str]:
    """Yields what neither the printed form of a part nor its weights tell."""
    if isinstance(part, PreparedClassifier):
        yield _told(part.architecture)
    if isinstance(part, GraphModule):
        held = vars(part) | dict(part.named_buffers(recurse=False))
        yield part.code + _told({name: value for name, value in held.items() if isinstance(value, Tensor)})
    elif foreign := [kind for kind in type(part).__mro__ if not _is_known(kind)]:
        yield from map(_source, foreign)
        held = {name: value for name, value in vars(part).items() if name != "training" and name[0] != "_"}
        yield _told(held | dict(part.named_buffers(recurse=False)))


def _is_known(kind: type) -> bool:
    return kind is object or kind.__module__.partition(".")[0] in _OURS


@cache
def _source(kind: type) -> str:
    """Returns the source of a class or, if it is in no file, what its members are compiled to."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        unnamed = {"__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__"}
        return _told({name: value for name, value in vars(kind).items() if name not in unnamed})


def _told(value: Any, depth: int = 0) -> str:  # noqa: PLR0911 - one for each kind of value
    """Returns a text of a value without addresses, and in an order that no process chooses."""
    if depth > _DEEPEST:
        return "..."
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case Tensor():
            return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(raw_bytes(value)).hexdigest()}"
        case dict():
            return str(sorted((_told(k, depth + 1), _told(v, depth + 1)) for k, v in value.items()))
        case list() | tuple():
            return str([_told(each, depth + 1) for each in value])
        case set() | frozenset():
            return str(sorted(_told(each, depth + 1) for each in value))
        case CodeType():
            return _told((value.co_code, value.co_names, value.co_consts), depth + 1)
        case FunctionType():
            held = [cell.cell_contents for cell in value.__closure__ or ()]
            return _told((value.__code__, value.__defaults__, value.__kwdefaults__, held), depth + 1)
        case staticmethod() | classmethod():
            return _told(value.__func__, depth + 1)
        case property():
            return _told(value.fget, depth + 1)
    return getattr(value, "__qualname__", type(value).__qualname__)
