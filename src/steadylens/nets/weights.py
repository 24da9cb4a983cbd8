"""Weights that other libraries saved: read without running their code, loaded only if all of them match."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from steadylens.errors import CheckpointError

MAX_HEADER_BYTES = 2**22
"""Longest header of a .safetensors file that is read, because its JSON is parsed at once. A net with 10,000
tensors needs about a million bytes; the format itself allows a hundred million."""

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""Prefixes that `DataParallel` and `torch.compile` put before every name."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from a .safetensors file or a file that `torch.save` wrote.

    A file of `torch.save` is read with `weights_only=True`, so that an untrusted one can run no code. It may
    hold the state dict itself or, as many training scripts write it, a dict with it under `state_dict` or
    `model`.

    Raises:
        CheckpointError: If the file is missing or damaged, has an absurdly large header, or holds no state
            dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_saved(path)
    for key in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not (isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())):
        raise CheckpointError(f"{path} holds no state dict; save the net's state_dict()")
    return {_WRAPPED.sub("", str(name)): value for name, value in held.items()}


def _read_safetensors(path: Path) -> Any:
    check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {error}; copy or write it again"
        ) from error


def _read_saved(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's reader raises nearly any error on a damaged file
        if isinstance(error, pickle.UnpicklingError) and saved_by_torch(path):
            raise CheckpointError(
                f"{path} holds more than weights, perhaps a pickled net, and reading it could run code; "
                "save only the net's state_dict()"
            ) from error
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged or was not written by torch.save ({reason}); copy or save it again"
        ) from error


def check_header(path: Path) -> None:
    """Refuses a .safetensors file whose header is longer than `MAX_HEADER_BYTES`, before the header is read.

    Raises:
        CheckpointError: If it is longer, or the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if claimed > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: it claims a header of {claimed:,} bytes, and at most "
            f"{MAX_HEADER_BYTES:,} are read; write it again"
        )


def saved_by_torch(path: Path) -> bool:
    """Whether a file starts with the magic bytes of `torch.save`, of its present or its old format."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"\x80\2\x8a\n")


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Loads weights into a net, after checking that their names and shapes match and all values are finite.

    Args:
        module: The net, changed in place.
        weights: The state dict that `read_weights` returned.
        path: The file that it was read from, for the error message.

    Raises:
        CheckpointError: If a weight is missing, unexpected, of another shape or not finite.
    """
    expected = module.state_dict()
    problems = (
        ("lacks", expected.keys() - weights.keys()),
        ("has the unexpected", weights.keys() - expected.keys()),
        (
            "has another shape for",
            [n for n in expected if n in weights and weights[n].shape != expected[n].shape],
        ),
    )
    if wrong := "; ".join(f"it {verb} {_some(names)}" for verb, names in problems if names):
        raise CheckpointError(
            f"the weights of {path} do not fit the net: {wrong}; name the net that they were saved from"
        )
    if broken := [name for name, value in weights.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"{path}: {_some(broken)} holds values that are not finite; train the net again"
        )
    copy_weights(module, weights)


def copy_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Loads a state dict that was read from a file, as `load_state_dict` does.

    Modules such as BatchNorm store a version number in the metadata of their state dict, which files do not
    hold. So the weights are put into the net's own state dict, which has it.

    Raises:
        RuntimeError: If names or shapes do not match.
    """
    state = module.state_dict()
    state.update(weights)
    if missing := state.keys() - weights.keys():
        raise RuntimeError(f"the weights lack {_some(missing)}")
    module.load_state_dict(state)


def raw_bytes(tensor: Tensor) -> bytes:
    """Returns the values of a tensor of any dtype as bytes, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
