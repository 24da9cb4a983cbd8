"""Files of trained nets and of unfinished trainings, and the fingerprints of nets.

A net's file has its architecture, its weights and information about its training. Nothing is pickled: a file
has only tensors and JSON, so that reading an untrusted one runs no code. A fingerprint is a short hash of a
net, by which its measured results are found again.
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
    """Returns a short hash of a net's architecture, settings, weights and buffers, the same in every process.

    A net of a class that cannot be saved, from another library or your own code, gets a new random key each
    time: nothing describes what it computes, so earlier results cannot be reused. Register the class with
    `steadylens.nets.register_net` to change that.
    """
    try:
        text = json.dumps(describe(net), sort_keys=True, default=str)
    except SettingError:
        if any(type(part).__module__.partition(".")[0] not in _DESCRIBED_BY_REPR for part in net.modules()):
            return uuid4().hex[:16]
        text = repr(net)
    digest = hashlib.sha256(text.encode())
    for part in net.modules():
        if isinstance(part, GraphModule):  # an exported program: its generated code and its constants
            digest.update(part.code.encode())
            constants = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
            _digest(digest, constants | dict(part.named_buffers(recurse=False)))
    _digest(digest, net.state_dict())
    return digest.hexdigest()[:16]


def fingerprints(nets: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Returns pairs of name and fingerprint."""
    return [(name, fingerprint(net)) for name, net in nets.items()]


FORMAT = 1

SUFFIX = ".safetensors"
"""Suffix of weight files. It distinguishes them from the names of packaged nets and from exported files."""

MAX_NESTING = 16
"""How deep nets in a file may be nested: the time to build them grows with the square of the depth."""

MAX_PARTS = 64
"""How many nets a file may consist of: each takes time to build, before the weights are checked."""

_DESCRIBED_BY_REPR = frozenset({"steadylens", "torch"})
"""Libraries whose modules have all of their settings in their repr."""

_NO_ARCHITECTURE = (
    "does not say which architecture its weights belong to; name the library's model along with them, as in "
    "timm:NAME --weights {}"
)


def save_model(
    path: str | Path, module: nn.Module, *, about: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Saves a net with its architecture, so that `load_model` can build it again. The write is atomic.

    Args:
        path: The file, conventionally ending in .safetensors.
        module: A net of this package, a `PreparedClassifier` of one of the three libraries, a net of a class
            that was registered with `register_net`, or a `FusedClassifier` of such nets.
        about: Information about the training; anything that JSON can hold.
        dtype: Number format in the file; float16 halves its size and rounds the weights. Loaded weights are
            always float32.

    Raises:
        SettingError: If nets of this class cannot be saved.
        StorageError: If the file cannot be written.
    """
    plain = {"architecture": describe(module), "about": about}
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    _write(Path(path), tensors, kind="model", plain=plain)


def load_model(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Loads a net that `save_model` wrote.

    Returns:
        The net on the CPU, in eval mode, and the `about` that it was saved with.

    Raises:
        CheckpointError: If the file is missing, damaged or no file of a net, if its weights do not match the
            architecture or the checksum, or if they are not finite.
        MissingExtraError: If the net needs a library that is not installed.
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
        reason = reason_of(error)  # the first line; in the next ones PyTorch lists calls
        raise CheckpointError(
            f"{path}: the weights do not fit the architecture: {reason}; save it again"
        ) from error
    for name, value in module.state_dict().items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; train the net again")
    return module.eval(), about


def save_state(path: Path, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Saves the state of an unfinished training. The write is atomic.

    Raises:
        StorageError: If the file cannot be written.
    """
    _write(path, tensors, kind="training", plain=plain)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads the tensors and the plain data that `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or no state of a training, or its checksum does not
            match.
    """
    return _read(path, kind="training")


def _write(path: Path, tensors: dict[str, Tensor], *, kind: str, plain: dict[str, Any]) -> None:
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # A module that occurs twice in a net has the same memory twice, which safetensors refuses.
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
        raise CheckpointError(f"{path} was written by torch.save and {_NO_ARCHITECTURE.format(path)}")
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["steadylens"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except KeyError as error:
        raise CheckpointError(
            f"{path} was not written by steadylens and {_NO_ARCHITECTURE.format(path)}"
        ) from error
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
    for _ in range(MAX_NESTING):
        parts = [value for part in parts for value in part.values() if isinstance(value, dict)]
        if not parts:
            return
        count += len(parts)
        if count > MAX_PARTS:
            raise ValueError(f"nets are made of more than {MAX_PARTS} parts")
    raise ValueError(f"nets stand within nets more than {MAX_NESTING} deep")


def _check_fit(tensors: dict[str, Tensor], architecture: dict[str, Any]) -> None:
    """Refuses tensors whose names, shapes or number types differ from those of the architecture.

    The net is built on the meta device first, so that an absurdly large architecture takes no memory.
    """
    try:
        _check_nesting(architecture)
        with torch.device("meta"):
            needed = build(architecture).state_dict()
    except (RuntimeError, SettingError) as error:
        if "meta tensor" in str(error):  # some models compute with their weights in the constructor
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
    """Returns the SHA-256 of names, dtypes, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    _digest(digest, tensors)
    return digest.hexdigest()


def _digest(digest: "hashlib._Hash", values: Mapping[str, Any]) -> None:
    for name in sorted(values):
        value = values[name]
        if not isinstance(value, Tensor):  # what a module's `get_extra_state` returned
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(raw_bytes(value))
