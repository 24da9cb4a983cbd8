"""Architecture, weights and provenance in one safetensors file; states of unfinished trainings in another.

Nothing is pickled: a file is tensors and JSON, so that reading one from a stranger runs none of its code.
Each net has a fingerprint: a short key by which results of one net are told from those of another.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import GraphModule

from steadylens.errors import CheckpointError, SettingError, reason_of
from steadylens.files import replacing
from steadylens.nets.architecture import build, describe
from steadylens.nets.weights import check_header, copy_weights, raw_bytes, saved_by_torch


def fingerprint(net: nn.Module) -> str:
    """Returns a short key of what a net computes: of its architecture, settings, weights and buffers.

    It is the same in every process. Only a net with parts of other libraries or of yours that cannot be
    described has none: it gets a new key each time, so that nothing that was measured or tuned before is
    taken for its own. Register such a net, see `steadylens.nets.register_net`, to have it known again.
    """
    try:
        text = json.dumps(describe(net), sort_keys=True, default=str)
    except SettingError:
        if any(type(part).__module__.partition(".")[0] not in _DESCRIBED_BY_REPR for part in net.modules()):
            return uuid4().hex[:16]
        text = repr(net)
    digest = hashlib.sha256(text.encode())
    for part in net.modules():
        if isinstance(part, GraphModule):  # an exported program: its code and its constants
            digest.update(part.code.encode())
            constants = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
            _digest(digest, constants | dict(part.named_buffers(recurse=False)))
    _digest(digest, net.state_dict())
    return digest.hexdigest()[:16]


def fingerprints(nets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Returns the names of some nets, each with the key of its net."""
    return [(name, fingerprint(net)) for name, net in nets.items()]


FORMAT = 1

SUFFIX = ".safetensors"
"""What the name of a file of weights ends in; by it a file is told from a packaged net and from an export."""

DEEPEST_NESTING = 16
"""How deep a `FusedClassifier` may hold others: building one takes time that grows with the depth squared."""

MOST_PARTS = 64
"""How many parts an architecture may name: each takes time to build, before any weight is looked at."""

_DESCRIBED_BY_REPR = frozenset({"steadylens", "torch"})
"""Libraries whose modules print all of their settings."""

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
        copy_weights(module, tensors)
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
    _digest(digest, tensors)
    return digest.hexdigest()


def _digest(digest: "hashlib._Hash", values: Mapping[str, Any]) -> None:
    for name in sorted(values):
        value = values[name]
        if not isinstance(value, Tensor):  # extra state of a module
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(raw_bytes(value))
