"""What a net computes, as a short key: so that nothing which another net made is taken for its own."""

import hashlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from steadylens.preparation import PreparedClassifier

_OURS = frozenset({"steadylens", "torch"})
_PLAIN = (bool, int, float, str, tuple, list, type(None))


def net_key(net: nn.Module) -> str:
    """Returns a short key of a net: of its architecture, weights, buffers and settings.

    Of parts that are neither PyTorch's nor this package's, it depends on the source of their classes and on
    their plain attributes, of an exported program on its code; what functions beyond do does not show.
    """
    digest = hashlib.sha256(repr(net).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(_content(value))
    for part in net.modules():
        for told in _untold(part):
            digest.update(told)
    return digest.hexdigest()[:16]


def _untold(part: nn.Module) -> Iterator[bytes]:
    """Yields what neither the printed form of a part nor its weights tell."""
    if isinstance(part, PreparedClassifier) and part.architecture is not None:
        yield json.dumps(part.architecture, sort_keys=True, default=str).encode()
    kind, is_program = type(part), isinstance(part, GraphModule)
    if not is_program and kind.__module__.partition(".")[0] in _OURS:
        return
    yield (part.code if isinstance(part, GraphModule) else _source(kind)).encode()
    held = {**vars(part), **dict(part.named_buffers(recurse=False))}
    for name in sorted(held):
        if isinstance(value := held[name], Tensor):
            yield name.encode() + _content(value)
        elif isinstance(value, _PLAIN) and not is_program and name != "training" and name[0] != "_":
            yield f"{name}={value!r}".encode()


def _content(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _source(kind: type[nn.Module]) -> str:
    """Returns the source of a class or, if it is in no file, what its methods are compiled to."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        codes = (method.__code__ for method in vars(kind).values() if inspect.isfunction(method))
        return repr([(code.co_code, code.co_names, _constants(code.co_consts)) for code in codes])


def _constants(values: tuple[Any, ...]) -> list[str]:
    return [repr(value) for value in values if not inspect.iscode(value)]
