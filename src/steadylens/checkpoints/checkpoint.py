"""Architecture, weights and provenance in one safetensors file; states of unfinished trainings in another.

Nothing is pickled: a file is tensors and JSON, so that reading one from a stranger runs none of its code.
Each net has a fingerprint: a short key by which results of one net are told from those of another.
"""

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import GraphModule

from steadylens.errors import CheckpointError, SettingError, reason_of
from steadylens.files import replacing
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.third_party import rebuild
from steadylens.nets.weights import check_header, give_weights, raw_bytes, saved_by_torch


def sources_of(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the sources of all images that a net learned from, in the end and before, as far as known."""
    origins = about.get("origins")
    before = list(origins.values()) if isinstance(origins, dict) else []
    known = [str(each.get("data", "")) for each in (about, *before) if isinstance(each, Mapping)]
    return tuple(dict.fromkeys(source for text in known for source in text.split(", ") if source))


_OURS = frozenset({"steadylens", "torch"})

_DEEPEST = 8


def fingerprint(net: nn.Module) -> str:
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


def fingerprints(nets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Returns the names of some nets, each with the key of its net."""
    return [(name, fingerprint(net)) for name, net in nets.items()]


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


FORMAT = 1

SUFFIX = ".safetensors"
"""What the name of a file of weights ends in; by it a file is told from a packaged net and from an export."""

DEEPEST_NESTING = 16
"""How deep a `FusedClassifier` may hold others: building one takes time that grows with the depth squared."""

MOST_PARTS = 64
"""How many parts an architecture may name: each takes time to build, before any weight is looked at."""

_NAMELESS = (
    "does not tell which net its weights are of; those of a library's classifier go with its name, as in "
    "timm:NAME --weights {}"
)


def save_model(
    path: str | Path, module: nn.Module, *, about: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Writes a net so that `load_model` can build it again; the file appears whole or not at all.

    Args:
        path: The file, conventionally ending in .safetensors.
        module: A net of this package, a `PreparedClassifier` of a library, or a `FusedClassifier` of such.
        about: Plain data about where the weights come from.
        dtype: What the weights are stored as; float16 halves the file and rounds them. They are float32
            again when they are loaded.

    Raises:
        SettingError: If the net is of a kind that cannot be described.
        StorageError: If the file cannot be written.
    """
    plain = {"architecture": describe(module), "about": about}
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    _write(Path(path), tensors, kind="model", plain=plain)


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a net that `save_model` wrote.

    Returns:
        The net on the CPU, in eval mode, and the data about it.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind, does not fit its architecture or
            its checksum, or holds weights that are not finite.
        MissingExtraError: If the net is of a library that is not installed.
    """
    path = Path(path)
    tensors, plain = _read(path, kind="model")
    architecture, about = plain.get("architecture"), plain.get("about")
    if not isinstance(architecture, dict) or not isinstance(about, dict):
        raise CheckpointError(f"{path} lacks the architecture or the data about the net; save it again")
    try:
        _check_fit(tensors, architecture)
        module = build(architecture)
        give_weights(module, tensors)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = reason_of(error)  # below it, PyTorch lists the calls that led there
        raise CheckpointError(
            f"{path}: the weights do not fit the architecture: {reason}; save it again"
        ) from error
    for name, value in module.state_dict().items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train the net again")
    return module.eval(), about


def save_state(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Writes the state of an unfinished training; the file appears whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    _write(path, tensors, kind="training", plain=plain)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind or does not fit its checksum.
    """
    return _read(path, kind="training")


def describe(module: nn.Module) -> dict[str, Any]:  # noqa: PLR0911 - one for each kind of net
    """Returns the plain data that `build` needs to make a net of the same architecture.

    Raises:
        SettingError: If the net is of a kind that cannot be described.
    """
    match module:
        case FusedClassifier():
            parts = {"restorer": describe(module.restorer), "classifier": describe(module.classifier)}
            return {"kind": "FusedClassifier", **parts}
        case RestorationNet():
            settings = {"depth": module.depth, "channels": module.channels, "padding": module.padding}
            return {"kind": "RestorationNet", **settings}
        case DongNet():
            return {"kind": "DongNet", "channels": module.channels, "padding": module.padding}
        case GaussianSmoothing():
            return {"kind": "GaussianSmoothing", "sigma_pixels": module.sigma_pixels}
        case SignNet():
            return {"kind": "SignNet", "classes": module.classes, "standardize": module.standardize}
        case PreparedClassifier():
            return module.described()
        case nn.Identity():
            return {"kind": "Identity"}
    raise SettingError(f"a {type(module).__name__} cannot be saved; save its state_dict yourself")


def build(architecture: dict[str, Any]) -> nn.Module:  # noqa: PLR0911 - one for each kind of net
    """Returns a net of the architecture that `describe` returned, with fresh weights.

    Raises:
        MissingExtraError: If the net is of a library that is not installed.
        SettingError: If the kind is unknown or its settings are refused.
    """
    settings = {name: value for name, value in architecture.items() if name != "kind"}
    match architecture["kind"]:
        case "FusedClassifier":
            return FusedClassifier(build(settings["restorer"]), build(settings["classifier"]))
        case "RestorationNet":
            return RestorationNet(**settings)
        case "DongNet":
            return DongNet(**settings)
        case "GaussianSmoothing":
            return GaussianSmoothing(**settings)
        case "SignNet":
            return SignNet(**settings)
        case "Identity":
            return nn.Identity()
    return rebuild(architecture)


def _write(path: Path, tensors: dict[str, Tensor], *, kind: str, plain: dict[str, Any]) -> None:
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # A part that stands in two places shares its memory with itself, which the format does not know.
    shared = Counter(value.untyped_storage().data_ptr() for value in found.values())
    apart = {
        name: value.clone() if shared[value.untyped_storage().data_ptr()] > 1 else value
        for name, value in found.items()
    }
    content = {"format": FORMAT, "kind": kind, "sha256": _checksum(apart), **plain}
    header = {"steadylens": json.dumps(content)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(apart, metadata=header))


def _read(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    if saved_by_torch(path):
        if path.suffix == ".pt2":
            raise CheckpointError(f"{path} is an exported program; give it where a classifier is asked for")
        raise CheckpointError(f"{path} was written by torch.save and {_NAMELESS.format(path)}")
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["steadylens"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except KeyError as error:
        raise CheckpointError(f"{path} was not written by steadylens and {_NAMELESS.format(path)}") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}; write it again") from error
    if not isinstance(plain, dict) or (plain.get("format"), plain.get("kind")) != (FORMAT, kind):
        raise CheckpointError(
            f"{path} is no {kind} file of format {FORMAT}; it holds another kind or version"
        )
    # The first files had no checksum.
    if plain.get("sha256") not in (None, _checksum(tensors)):
        raise CheckpointError(f"{path} is damaged: its weights do not fit their checksum; write it again")
    return tensors, plain


def _check_nesting(architecture: dict[str, Any]) -> None:
    parts, count = [architecture], 1
    for _ in range(DEEPEST_NESTING):
        parts = [value for part in parts for value in part.values() if isinstance(value, dict)]
        if not parts:
            return
        count += len(parts)
        if count > MOST_PARTS:
            raise ValueError(f"nets are made of more than {MOST_PARTS} parts")
    raise ValueError(f"nets stand within nets more than {DEEPEST_NESTING} deep")


def _check_fit(tensors: dict[str, Tensor], architecture: dict[str, Any]) -> None:
    """Refuses tensors that are not those of the architecture in name, shape or kind of number.

    An absurd architecture is refused here, before it takes any memory.
    """
    try:
        _check_nesting(architecture)
        with torch.device("meta"):
            needed = build(architecture).state_dict()
    except (RuntimeError, SettingError) as error:
        if "meta tensor" in str(error):  # some libraries compute with the weights while they build a net
            return
        raise
    if odd := tensors.keys() ^ needed.keys():
        raise ValueError(f"{min(odd)} is {'missing' if min(odd) in needed else 'too much'}")
    for name, value in tensors.items():
        found, wanted = ((part.is_floating_point(), tuple(part.shape)) for part in (value, needed[name]))
        if found != wanted:
            raise ValueError(
                f"{name} is {value.dtype} {found[1]} where {needed[name].dtype} {wanted[1]} is needed"
            )


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Returns the SHA-256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(raw_bytes(value))
    return digest.hexdigest()
